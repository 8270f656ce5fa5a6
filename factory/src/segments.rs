//! Segments of boxes: what is in them, once they are decrypted, and what is wrong with them.

use std::sync::Arc;

use outstation_wire::record::Record;
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::{Footer, Found, Frames, Header};
use prost::Message as _;

use crate::store::hex;

/// A segment that was read.
#[derive(Debug)]
pub struct Segment {
    /// Its header.
    pub header: Header,
    /// Its records with their numbers, in the order of the file.
    pub records: Vec<(u64, Record)>,
    /// What is wrong with it, if anything is; what could be read is in `records` all the same.
    pub trouble: Option<String>,
}

impl Segment {
    /// Reads and checks a segment that was stored under a key like `seg/v1/…/<seq20>-<digest32>.seg`.
    ///
    /// Each record is authenticated by its own tag, so those that decrypt are as the box wrote them, whatever happened
    /// to the rest of the file. An error means that nothing can be read.
    ///
    /// Cost: one core does several hundred MB/s. Memory: the records, about as large as the file.
    pub fn open(key: &str, bytes: &[u8], keys: &[FactoryKey]) -> Result<Self, String> {
        let header = Header::decode(bytes).map_err(|error| error.to_string())?;
        let place = format!(
            "{}/{}/{}/{:020}-",
            hex(&header.appliance),
            hex(&header.epoch),
            header.class.name(),
            header.seq
        );
        let Some((_, digest)) = key.split_once(&place) else {
            return Err(format!("it is the segment {place}… under another's name"));
        };
        let ours = keys.iter().find(|key| key.is_recipient(&header.key));
        let ours = ours.ok_or_else(|| {
            format!(
                "it is encrypted to the key {}, which is not here: add that key and run compact --retry-bad",
                hex(&header.key.recipient)
            )
        })?;
        let key = ours
            .unwrap(&header.key, &header.appliance, &header.epoch)
            .map_err(|error| error.to_string())?;
        let mut trouble = Trouble::default();
        if hex(&blake3::hash(bytes).as_bytes()[..16]) != digest.trim_end_matches(".seg") {
            trouble.say("its bytes are not those that the box sent".to_owned());
        }
        let mut records = Vec::new();
        let mut footer = None;
        let mut buffer = Vec::new();
        for found in Frames::new(bytes, &header) {
            match found {
                Found::Frame {
                    head, ciphertext, ..
                } => {
                    buffer.clear();
                    buffer.extend_from_slice(ciphertext);
                    match key.open(&head, &mut buffer) {
                        Ok(record) => match Record::decode(record) {
                            Ok(record) => records.push((head.record_seq, record)),
                            Err(error) => {
                                trouble.say(format!("record {}: {error}", head.record_seq));
                            }
                        },
                        Err(error) => trouble.say(error.to_string()),
                    }
                }
                Found::Damage(range) => {
                    trouble.say(format!("{} bytes are no records", range.len()));
                }
                Found::Tail(range) => {
                    trouble.say(format!("{} bytes at its end are no records", range.len()));
                }
                Found::Footer(end) => footer = Some(end),
            }
        }
        trouble.check_footer(footer, bytes, records.len());
        Ok(Self {
            header,
            records,
            trouble: trouble.said,
        })
    }

    /// `<appliance>/<epoch>/<class>`: where the numbers of its records count.
    pub fn stream(&self) -> Arc<str> {
        let Header {
            appliance,
            epoch,
            class,
            ..
        } = &self.header;
        format!("{}/{}/{}", hex(appliance), hex(epoch), class.name()).into()
    }
}

/// The first thing that is wrong, and whether there are more.
#[derive(Default)]
struct Trouble {
    said: Option<String>,
}

impl Trouble {
    fn say(&mut self, what: String) {
        match &mut self.said {
            None => self.said = Some(what),
            Some(said) if said.ends_with(MORE) => {}
            Some(said) => said.push_str(MORE),
        }
    }

    fn check_footer(&mut self, footer: Option<Footer>, bytes: &[u8], records: usize) {
        let Some(footer) = footer else {
            return self.say("it has no end".to_owned());
        };
        let before = usize::try_from(footer.bytes)
            .ok()
            .and_then(|length| bytes.get(..length));
        let digest = before.map(|before| *blake3::hash(before).as_bytes());
        if digest != Some(footer.digest) {
            self.say("its digest is not that of its bytes".to_owned());
        }
        if footer.frames as usize != records {
            let frames = footer.frames;
            self.say(format!("it has {records} readable records of {frames}"));
        }
    }
}

const MORE: &str = ", and more";
