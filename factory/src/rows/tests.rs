use super::Table;

/// Other people's programs name these columns: they are only ever added.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test reads a document")]
fn every_column_is_documented() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/factory.md");
    let document = std::fs::read_to_string(document).unwrap();
    let missing: Vec<_> = Table::ALL
        .iter()
        .flat_map(|table| table.schema().fields().to_vec())
        .map(|field| field.name().clone())
        .filter(|name| !document.contains(&format!("`{name}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/factory.md does not name {missing:?}"
    );
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a snapshot of all columns reads better whole"
)]
fn columns_stay_what_they_are() {
    let shown = Table::ALL.map(|table| {
        let schema = table.schema();
        let fields = schema.fields().iter();
        let fields: Vec<_> = fields
            .map(|field| format!("{}: {}", field.name(), field.data_type()))
            .collect();
        format!("{}\n  {}\n", table.name(), fields.join("\n  "))
    });
    expect_test::expect![[r#"
        inference
          time: Timestamp(µs, "UTC")
          time_untrusted: Boolean
          boot: Int64
          since_boot_ms: Int64
          id: Utf8
          gen_ai_operation_name: Utf8
          gen_ai_response_id: Utf8
          gen_ai_request_model: Utf8
          gen_ai_response_model: Utf8
          model_digest: Utf8
          adapters: List(Utf8)
          tenant: Utf8
          gen_ai_conversation_id: Utf8
          transport: Utf8
          service_class: Utf8
          gen_ai_request_temperature: Float32
          gen_ai_request_top_k: Int64
          gen_ai_request_top_p: Float32
          min_p: Float32
          gen_ai_request_max_tokens: Int64
          gen_ai_request_seed: UInt64
          gen_ai_request_stream: Boolean
          repetition_penalty: Float32
          gen_ai_request_presence_penalty: Float32
          gen_ai_request_frequency_penalty: Float32
          gen_ai_usage_input_tokens: Int64
          gen_ai_usage_output_tokens: Int64
          gen_ai_usage_cache_read_input_tokens: Int64
          queue_us: Int64
          prefill_us: Int64
          decode_us: Int64
          time_to_first_chunk_us: Int64
          energy_mj: Int64
          gen_ai_response_finish_reason: Utf8
          error_type: Utf8
          mean_nll: Float32
          entropy_mean: Float32
          entropy_max: Float32
          window_confidence_min: Float32
          tail_confidence: Float32
          margin_p05: Float32
          repetition: Float32
          flags: List(Utf8)
          inclusion_probability: Float64
          messages: List(Struct("role": Utf8, "content": Utf8))
          output: Utf8
          redaction_version: Int64
          redactions: List(Struct("kind": Utf8, "count": UInt32))
          content_bytes_left_out: Int64
          content_withheld: Utf8
          appliance: Utf8
          epoch: Utf8
          class: Utf8
          record_seq: Int64
          segment: Utf8
        feedback
          time: Timestamp(µs, "UTC")
          time_untrusted: Boolean
          boot: Int64
          since_boot_ms: Int64
          id: Utf8
          gen_ai_response_id: Utf8
          gen_ai_evaluation_score_value: Float64
          gen_ai_evaluation_score_label: Utf8
          gen_ai_evaluation_explanation: Utf8
          correction: Utf8
          tenant: Utf8
          messages: List(Struct("role": Utf8, "content": Utf8))
          output: Utf8
          appliance: Utf8
          epoch: Utf8
          class: Utf8
          record_seq: Int64
          segment: Utf8
        gap
          time: Timestamp(µs, "UTC")
          time_untrusted: Boolean
          boot: Int64
          since_boot_ms: Int64
          id: Utf8
          gap_class: Int64
          record_seq_first: Int64
          record_seq_last: Int64
          records: Int64
          bytes: Int64
          reason: Utf8
          appliance: Utf8
          epoch: Utf8
          class: Utf8
          record_seq: Int64
          segment: Utf8
        event
          time: Timestamp(µs, "UTC")
          time_untrusted: Boolean
          boot: Int64
          since_boot_ms: Int64
          id: Utf8
          name: Utf8
          attributes: Utf8
          appliance: Utf8
          epoch: Utf8
          class: Utf8
          record_seq: Int64
          segment: Utf8
    "#]]
    .assert_eq(&shown.concat());
}
