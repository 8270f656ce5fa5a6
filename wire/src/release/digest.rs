//! What of a model file must be the same on box and factory, as digests.

use crate::gguf::Gguf;

/// Where keys of the tokenizer begin.
const TOKENIZER: &str = "tokenizer.ggml.";
/// Where the chat template is.
const TEMPLATE: &str = "tokenizer.chat_template";

/// BLAKE3 of the tokenizer's part of a file: of each key `tokenizer.ggml.…`, in the order of the keys' bytes, the key's
/// length as u64, the key, the id of its type as u32, and the value as it stands in the file. All numbers are
/// little-endian.
pub fn tokenizer_digest(gguf: &Gguf<'_>) -> [u8; 32] {
    let mut keys: Vec<_> = gguf
        .values()
        .filter(|(key, _)| key.starts_with(TOKENIZER))
        .collect();
    keys.sort_unstable_by_key(|&(key, _)| key);
    let mut hasher = blake3::Hasher::new();
    for (key, value) in keys {
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key.as_bytes());
        hasher.update(&value.kind().id().to_le_bytes());
        hasher.update(gguf.raw_value(key).expect("it was listed"));
    }
    *hasher.finalize().as_bytes()
}

/// BLAKE3 of the text of the chat template. `None`: the file has none.
pub fn template_digest(gguf: &Gguf<'_>) -> Option<[u8; 32]> {
    let template = gguf.str(TEMPLATE).ok().flatten()?;
    Some(*blake3::hash(template.as_bytes()).as_bytes())
}
