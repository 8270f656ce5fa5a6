//! Chats as files of training and evaluation have them: one a line, `{"messages": [{"role", "content"}, …]}`.

use serde::{Deserialize, Serialize};

/// A message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// A chat that ends with the right answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// What was said; the last message is the assistant's.
    pub messages: Vec<Message>,
    /// What else is known of it: names and texts, by which an evaluation makes groups.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

impl Chat {
    /// A chat of one question.
    pub fn of(question: &str, answer: &str) -> Self {
        let message = |role: &str, content: &str| Message {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        Self {
            messages: vec![message("user", question), message("assistant", answer)],
            metadata: serde_json::Map::new(),
        }
    }

    /// What two chats have in common that ask the same, whatever was answered.
    pub fn digest(&self) -> [u8; 16] {
        let before = self.split().0.iter();
        asked_digest(before.map(|message| (&*message.role, &*message.content)))
    }

    /// What comes before the answer, and the answer.
    pub fn split(&self) -> (&[Message], &str) {
        let (answer, before) = self
            .messages
            .split_last()
            .expect("it was checked when it was read");
        (before, &answer.content)
    }
}

/// What is asked: BLAKE3 of roles and texts, in lower case, each run of white space as one space.
pub(crate) fn asked_digest<'m>(messages: impl Iterator<Item = (&'m str, &'m str)>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for (role, content) in messages {
        hasher.update(role.as_bytes());
        hasher.update(b"\0");
        for word in content.split_whitespace() {
            hasher.update(word.to_lowercase().as_bytes());
            hasher.update(b" ");
        }
        hasher.update(b"\0");
    }
    *hasher
        .finalize()
        .as_bytes()
        .first_chunk()
        .expect("it has 32 bytes")
}

/// The lines of a file.
pub fn write(chats: &[Chat]) -> String {
    let line = |chat| serde_json::to_string(chat).expect("it is plain data") + "\n";
    chats.iter().map(line).collect()
}

/// Reads the lines of a file.
///
/// # Errors
/// The number of the line that is no chat, and why.
pub fn read(text: &str) -> Result<Vec<Chat>, (usize, String)> {
    (1..)
        .zip(text.lines())
        .map(|(number, line)| {
            let chat: Chat = serde_json::from_str(line).map_err(|e| (number, e.to_string()))?;
            match chat.messages.last() {
                Some(message) if message.role == "assistant" => Ok(chat),
                _ => Err((
                    number,
                    "a chat ends with an answer of the assistant".to_owned(),
                )),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chats_or_named() {
        let line = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"x":1}"#;
        let chats = read(&format!("{line}\n{line}\n")).unwrap();
        assert_eq!(chats, [Chat::of("a", "b"), Chat::of("a", "b")]);
        assert_eq!(chats[0].split().1, "b");
        assert_eq!(read(""), Ok(Vec::new()));
        let asked = r#"{"messages":[{"role":"user","content":"a"}]}"#;
        assert_eq!(read(&format!("{line}\n{asked}")).unwrap_err().0, 2);
        assert_eq!(read("x").unwrap_err().0, 1);
    }
}
