//! Any bytes as a GGUF: an error, or a file that can be read to the end and written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outstation_wire::gguf::{Gguf, GgufWriter, OwnedValue};

fuzz_target!(|bytes: &[u8]| {
    let file = match Gguf::parse(bytes) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.to_string().contains("at byte"), "{error}");
            return;
        }
    };
    let mut writer = GgufWriter::new();
    for (key, value) in file.values() {
        let _ = value.to_string();
        // Our writer takes the alignment as u32 only, the parser any integer that fits.
        let value = match key {
            "general.alignment" => OwnedValue::U32(file.alignment()),
            _ => OwnedValue::from(*value),
        };
        writer.put(key, value);
        let _ = (file.u64(key), file.f32(key), file.bool(key), file.str(key));
        let _ = file.strings(key).map(|strings| strings.map(|strings| strings.iter().count()));
        let _ = file.u32s(key).map(|numbers| numbers.map(|numbers| numbers.iter().count()));
        let _ = file.f32s(key).map(|numbers| numbers.map(|numbers| numbers.iter().count()));
    }
    for tensor in file.tensors() {
        writer.tensor(tensor.name(), tensor.dims(), tensor.kind());
        let start = usize::try_from(tensor.file_offset()).expect("inside the file");
        assert_eq!(tensor.data(), &bytes[start..start + tensor.data().len()]);
    }

    let header = writer.finish();
    // Tensors that share data take more room when written, so the copy has a bound of its own.
    if header.file_bytes > 1 << 20 {
        return;
    }
    let mut copy = header.bytes;
    copy.resize(usize::try_from(header.file_bytes).expect("below the bound"), 0);
    let again = Gguf::parse(&copy).expect("the writer's files parse");
    assert_eq!(again.values().count(), file.values().count());
    assert_eq!(again.tensors().len(), file.tensors().len());
    assert_eq!(again.alignment(), file.alignment());
    for (old, new) in file.tensors().iter().zip(again.tensors()) {
        assert_eq!((old.name(), old.dims(), old.kind()), (new.name(), new.dims(), new.kind()));
    }
});
