//! Parquet files from rows, and back.

use std::collections::BTreeSet;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, RecordBatch};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::{Partition, Row, Table, event, feedback, gap, inference};
use crate::commits::list_tenant;

/// A file, not yet stored.
#[derive(Debug)]
pub struct Written {
    /// Its bytes: the same from the same rows.
    pub bytes: Bytes,
    /// Its rows.
    pub rows: u64,
    /// Whose they are; `None` if they are too many to list.
    pub tenants: Option<BTreeSet<String>>,
}

/// Rows that are columns at the same time; the rest are records before, and compressed pages after.
const ROWS_AT_ONCE: usize = 1024;

/// Rows of a row group: what an engine skips or reads as one.
const ROW_GROUP_ROWS_MAX: usize = 64 << 10;
/// Bytes of a row group in memory, for rows that are long.
const ROW_GROUP_BYTES_MAX: usize = 32 << 20;

/// zstd's default: with it, compaction is as fast as decryption.
const ZSTD_LEVEL: i32 = 3;

/// A file of the rows of one partition.
///
/// Cost and memory: the compressed file, and one row group of at most 32 MiB.
pub fn write_rows(partition: &Partition, rows: &[Row]) -> Result<Written, ParquetError> {
    let batches = rows.chunks(ROWS_AT_ONCE).map(|rows| {
        Ok(match partition.table {
            Table::Inference => inference::rows(rows),
            Table::Feedback => feedback::rows(rows),
            Table::Gap => gap::rows(rows),
            Table::Event => event::rows(rows),
        })
    });
    write_batches(partition, batches)
}

/// A file of batches with the columns of the partition's table, or none if they have no rows.
pub fn write_batches(
    partition: &Partition,
    batches: impl Iterator<Item = Result<RecordBatch, ParquetError>>,
) -> Result<Written, ParquetError> {
    let mut writer = None;
    let mut rows = 0;
    let mut tenants = Some(BTreeSet::new());
    for batch in batches {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        rows += batch.num_rows() as u64;
        list_tenants(&batch, &mut tenants);
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(ArrowWriter::try_new(
                Vec::new(),
                batch.schema(),
                Some(properties(partition)?),
            )?),
        };
        writer.write(&batch)?;
    }
    let bytes = writer.map_or(Ok(Vec::new()), ArrowWriter::into_inner)?;
    Ok(Written {
        bytes: bytes.into(),
        rows,
        tenants,
    })
}

fn list_tenants(batch: &RecordBatch, tenants: &mut Option<BTreeSet<String>>) {
    match batch.column_by_name("tenant") {
        None => list_tenant(tenants, ""),
        Some(column) => {
            let column = column.as_string::<i32>();
            for n in 0..column.len() {
                let tenant = if column.is_null(n) {
                    ""
                } else {
                    column.value(n)
                };
                list_tenant(tenants, tenant);
            }
        }
    }
}

fn properties(partition: &Partition) -> Result<WriterProperties, ParquetError> {
    let about = |key: &str, value: String| KeyValue::new(format!("outstation.{key}"), value);
    let about = vec![
        about("table", partition.table.name().to_owned()),
        about("day", partition.day.to_string()),
        about("workload", partition.workload.clone()),
    ];
    Ok(WriterProperties::builder()
        .set_created_by("outstation-factory".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
        .set_key_value_metadata(Some(about))
        .build())
}

/// The rows of a file, in batches.
pub fn read_batches(
    bytes: Bytes,
) -> Result<impl Iterator<Item = Result<RecordBatch, ParquetError>>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?
        .with_batch_size(ROWS_AT_ONCE)
        .build()?;
    Ok(reader.map(|batch| batch.map_err(ParquetError::from)))
}

/// The rows of a file, in batches of these columns only.
pub fn read_columns(
    bytes: Bytes,
    names: &[&str],
) -> Result<impl Iterator<Item = Result<RecordBatch, ParquetError>> + use<>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let mask = ProjectionMask::columns(reader.parquet_schema(), names.iter().copied());
    let reader = reader
        .with_projection(mask)
        .with_batch_size(ROWS_AT_ONCE)
        .build()?;
    Ok(reader.map(|batch| batch.map_err(ParquetError::from)))
}
