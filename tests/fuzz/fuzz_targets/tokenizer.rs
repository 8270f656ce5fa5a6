//! Bytes of a model file to a tokenizer, and a text through it: an error or ids, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outstation::template::{ChatTemplate, Message};
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
    let (bos, eos) = tokenizer.bos_eos_text();
    if let Ok(template) = ChatTemplate::new(vocabulary.chat_template.as_deref(), &bos, &eos) {
        let _ = template.prompt_ids(&tokenizer, &[Message { role: "user", content: &text }], 0);
    }
});
