//! A `tokenizer.json` beside the model file: how its authors cut text.

use tokenizers::Tokenizer as Cutter;

use super::{TokenKind, Vocabulary, VocabularyError};

/// Largest file that is read. Gemma's, the largest published, has 33 MB.
const JSON_BYTES_MAX: usize = 128 << 20;

/// Reads the file, and checks that its tokens are those of the model.
///
/// Ordinary tokens must have the same text under the same id. The model may have more of them: vocabularies are padded.
/// Control tokens are not looked for in text: that is the caller's work, who knows whose text it is.
pub(super) fn read(
    json: &str,
    vocabulary: &Vocabulary,
    kinds: &[TokenKind],
) -> Result<Cutter, VocabularyError> {
    if json.len() > JSON_BYTES_MAX {
        return Err(VocabularyError::Json {
            reason: format!(
                "it has {} bytes, at most {JSON_BYTES_MAX} are read",
                json.len()
            ),
        });
    }
    let mut cutter: Cutter =
        json.parse()
            .map_err(|error: tokenizers::Error| VocabularyError::Json {
                reason: error.to_string(),
            })?;
    cutter.set_encode_special_tokens(true);
    let known = cutter.get_vocab_size(true);
    if known > vocabulary.tokens.len() {
        return Err(VocabularyError::Json {
            reason: format!(
                "it has {known} tokens, the model {}",
                vocabulary.tokens.len()
            ),
        });
    }
    for ((id, token), kind) in (0u32..).zip(&vocabulary.tokens).zip(kinds) {
        let theirs = cutter.id_to_token(id);
        let same = theirs.as_ref() == Some(token);
        if *kind == TokenKind::Normal && !same && (theirs.is_some() || (id as usize) < known) {
            return Err(VocabularyError::JsonToken {
                id,
                json: theirs.unwrap_or_default(),
                model: token.clone(),
            });
        }
    }
    Ok(cutter)
}
