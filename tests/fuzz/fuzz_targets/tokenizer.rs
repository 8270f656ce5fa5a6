//! Bytes of a model file to a tokenizer, and a text through it: an error or ids, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outstation::request::ChatMessage;
use outstation::template::ChatTemplate;
use outstation::tokenizer::{Bos, Special, Tokenizer, Vocabulary};
use outstation_wire::gguf::Gguf;

fuzz_target!(|file: &[u8]| {
    let Ok(gguf) = Gguf::parse(file) else { return };
    let Ok(vocabulary) = Vocabulary::from_gguf(&gguf) else { return };
    let Ok(tokenizer) = Tokenizer::new(&vocabulary) else { return };
    let text = String::from_utf8_lossy(&file[..file.len().min(512)]);
    for special in [Special::Parse, Special::Plain] {
        let ids = tokenizer.encode(&text, special, Bos::Add);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        let _ = tokenizer.decode(&ids);
    }
    let source = vocabulary.chat_template.unwrap_or_default();
    if let Ok(template) = ChatTemplate::new(&source, tokenizer.bos_eos_text()) {
        let message = ChatMessage { role: "user".to_owned(), content: text.into_owned() };
        let _ = template.prompt_ids(&tokenizer, &[message], 0);
    }
});
