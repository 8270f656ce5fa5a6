//! A file is published, and any reader gets its bytes.

use std::collections::BTreeSet;

use outstation_factory::ota::peft::{Shape, convert};
use outstation_factory::ota::publish::{Base, Facts};
use outstation_wire::gguf::{Gguf, GgufWriter, OwnedValue, TensorType};
use outstation_wire::release::{CHUNK_BYTES_MAX, Kind, PACK_BYTES_MAX};

use crate::models::Model;
use crate::world::World;

/// 9 layers of 2.3 MB, which is none of MiB: cuts lie at tensors.
fn model() -> Model {
    Model::new(9, 18 * 128 * 1000, 1)
}

#[tokio::test]
async fn what_is_fetched_is_what_was_published() {
    let world = World::new().await;
    let first = model().bytes();
    world.file("first", &first);
    let done = world.publish("site", "first", &[]).await;
    assert_eq!(done.manifest, "manifest/site@1.json");
    let mut reader = world.a_box().await;
    let (file, fetched) = reader.assemble(&done.manifest, &[]).await;
    assert!(file == first);
    println!("full: {} bytes of file, {fetched} fetched", file.len());
    let manifest = reader.manifest(&done.manifest).await.unwrap();
    assert_eq!(manifest.kind, Kind::Model);
    assert_eq!(manifest.file.bytes, first.len() as u64);
    assert!(manifest.header_bytes > 2000 && manifest.header_bytes < 100_000);
    let index = reader.index(&manifest).await;
    assert!(index.packs.iter().all(|pack| pack.bytes <= PACK_BYTES_MAX));
    assert!(
        index
            .chunks
            .iter()
            .all(|chunk| chunk.bytes <= CHUNK_BYTES_MAX)
    );

    // The same again is nothing new.
    let before = world.repository().read().await.unwrap();
    let again = world.publish("site", "first", &[]).await;
    assert_eq!(
        (again.manifest.as_str(), again.went),
        ("manifest/site@1.json", None)
    );
    let after = world.repository().read().await.unwrap();
    assert_eq!(before.root.version, after.root.version);
    for (role, held) in &before.held {
        assert_eq!(held.version, after.held[role].version, "{role}");
    }
}

#[tokio::test]
async fn a_fine_tune_brings_only_what_changed() {
    let world = World::new().await;
    let first = model();
    world.file("first", &first.bytes());
    let full = world.publish("site", "first", &[]).await;
    let tuned = first.tuned([1, 4, 7], 0.05, 2).bytes();
    world.file("tuned", &tuned);
    let second = world.publish("site", "tuned", &[]).await;
    assert_eq!(second.manifest, "manifest/site@2.json");
    println!(
        "full {} bytes, a third of the layers changed: {}",
        full.written.bytes, second.written.bytes
    );
    let third = full.written.bytes / 3;
    assert!(
        second.written.bytes < third + third / 50,
        "{:?}",
        second.written
    );
    let mut reader = world.a_box().await;
    for (path, bytes) in [(&full.manifest, &first.bytes()), (&second.manifest, &tuned)] {
        assert!(reader.assemble(path, &[]).await.0 == *bytes);
    }
    // An earlier pack is named as it was.
    let manifests = [&full.manifest, &second.manifest];
    let mut packs = Vec::new();
    for path in manifests {
        let manifest = reader.manifest(path).await.unwrap();
        let index = reader.index(&manifest).await;
        packs.push(
            index
                .packs
                .iter()
                .map(|pack| pack.digest)
                .collect::<BTreeSet<_>>(),
        );
    }
    assert!(packs[0].is_subset(&packs[1]));

    // Words beside the weights changed: the head alone is new.
    let mut other = first.tuned([1, 4, 7], 0.05, 2);
    other.template = "{{ messages[0] }}";
    world.file("other", &other.bytes());
    let third = world.publish("site", "other", &[]).await;
    assert!(third.written.bytes < 100_000, "{:?}", third.written);
    let mut reader = world.a_box().await;
    assert!(reader.assemble(&third.manifest, &[]).await.0 == other.bytes());
}

#[tokio::test]
async fn patches_are_shorter_and_give_the_same_bytes() {
    let first = model();
    let old = first.bytes();
    for moves in [0.001, 0.01, 0.05] {
        let world = World::new().await;
        world.file("first", &old);
        let full = world.publish("site", "first", &[]).await;
        let tuned = first.tuned(0..9, moves, 3).bytes();
        world.file("tuned", &tuned);
        let changed = old.iter().zip(&tuned).filter(|(a, b)| a != b).count();
        let done = world.publish("site", "tuned", &["first"]).await;
        let mut reader = world.a_box().await;
        let (plain, plain_bytes) = reader.assemble(&done.manifest, &[]).await;
        let (patched, patched_bytes) = reader.assemble(&done.manifest, &[&old]).await;
        assert!(plain == tuned && patched == tuned);
        println!(
            "all weights move by {moves} σ: {} of {} bytes differ; full {}, fetched without base {plain_bytes}, with it \
             {patched_bytes}, {} patches",
            changed,
            tuned.len(),
            full.written.bytes,
            done.patches
        );
        assert_eq!(done.fetch.full, plain_bytes);
        if moves < 0.002 {
            assert!(done.patches > 0 && patched_bytes * 2 < plain_bytes);
            // What is the same in the old file is not counted: a box copies it.
            assert!(done.fetch.against <= patched_bytes);
        }
    }
}

#[tokio::test]
async fn an_adapter_belongs_to_its_base() {
    let world = World::new().await;
    let base = model().bytes();
    world.file("base", &base);
    world.publish("site", "base", &[]).await;
    let mut writer = GgufWriter::new();
    writer
        .put("general.architecture", OwnedValue::str("llama"))
        .put("general.type", OwnedValue::str("adapter"))
        .put("adapter.type", OwnedValue::str("lora"))
        .tensor("blk.0.attn_q.weight.lora_a", &[256, 8], TensorType::F32)
        .tensor("blk.0.attn_q.weight.lora_b", &[8, 256], TensorType::F32);
    let header = writer.finish();
    let mut adapter = header.bytes;
    adapter.resize(usize::try_from(header.file_bytes).unwrap(), 1);
    world.file("adapter", &adapter);
    let mut facts = Facts {
        name: "site-valves".to_owned(),
        ..Facts::default()
    };
    let error = world
        .try_publish(&world.repository(), &facts, "adapter", &[])
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("say with --base which model it belongs to"),
        "{error}"
    );
    let mut reader = world.a_box().await;
    let model = reader.manifest("manifest/site@1.json").await.unwrap();
    facts.base = Some(Base {
        digest: model.file.blake3.clone(),
        tokenizer: model.tokenizer.clone(),
    });
    let done = world
        .try_publish(&world.repository(), &facts, "adapter", &[])
        .await
        .unwrap()
        .0;
    let mut reader = world.a_box().await;
    let manifest = reader.manifest(&done.manifest).await.unwrap();
    assert_eq!(manifest.base(), Some(model.digest()));
    assert_eq!(manifest.tokenizer, model.tokenizer);
    assert!(reader.assemble(&done.manifest, &[]).await.0 == adapter);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let world = World::new().await;
    world.file("first", &Model::new(1, 18 * 256, 1).bytes());
    world.file("other", &Model::new(1, 18 * 256, 2).bytes());
    world.file("none", b"GGUF is more than this");
    let count = || async {
        use futures_util::TryStreamExt as _;
        use object_store::ObjectStore as _;
        world
            .objects
            .list(None)
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .len()
    };
    let facts = |release| Facts {
        name: "site".to_owned(),
        release,
        ..Facts::default()
    };
    world
        .try_publish(&world.repository(), &facts(Some(5)), "first", &[])
        .await
        .unwrap();
    let before = count().await;
    let mut said = Vec::new();
    for (release, file) in [(Some(5), "other"), (Some(4), "other"), (None, "none")] {
        let done = world
            .try_publish(&world.repository(), &facts(release), file, &[])
            .await;
        let error = done.unwrap_err().to_string();
        said.push(error.replace(&format!("{}/", world.folder.path().display()), ""));
    }
    expect_test::expect![[r"
        manifest/site@5.json: this release is there, and is something else: a release is never changed, take the next number
        manifest/site@4.json: release 5 is there, and boxes never go back to a lower number by themselves
        none: GGUF version at byte 4 is 544434464: only 2 and 3 are known; convert the model with current tools"]]
    .assert_eq(&said.join("\n"));
    assert_eq!(count().await, before);
}

#[test]
fn a_folder_of_pefts_becomes_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        r#"{"peft_type":"LORA","r":2,"lora_alpha":4,"bias":"none","target_modules":["q_proj"]}"#;
    std::fs::write(folder.path().join("adapter_config.json"), config).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj";
    let header = serde_json::json!({
        format!("{name}.lora_A.weight"): { "dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32] },
        format!("{name}.lora_B.weight"): { "dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64] },
        "__metadata__": { "format": "pt" },
    });
    let header = header.to_string();
    let mut tensors = (header.len() as u64).to_le_bytes().to_vec();
    tensors.extend(header.as_bytes());
    tensors.extend((0..16_u8).flat_map(|n| f32::from(n).to_le_bytes()));
    let path = folder.path().join("adapter_model.safetensors");
    std::fs::write(&path, &tensors).unwrap();
    let base = Model::new(1, 18 * 256, 1).bytes();
    let shape = Shape::of(&Gguf::parse(&base).unwrap()).unwrap();
    let source = convert(folder.path(), &shape).unwrap();
    let file = source
        .read(0, usize::try_from(source.bytes()).unwrap())
        .unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.f32("adapter.lora.alpha").unwrap(), Some(4.0));
    let numbers = |name: &str| {
        let data = gguf.tensor(name).unwrap().data().chunks_exact(4);
        let numbers = data.map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        numbers.collect::<Vec<_>>()
    };
    assert_eq!(
        gguf.tensor("blk.0.attn_q.weight.lora_a").unwrap().dims(),
        [4, 2]
    );
    assert_eq!(
        numbers("blk.0.attn_q.weight.lora_a"),
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    );
    // Rows 0 1 2 3 of a head become 0 2 1 3.
    assert_eq!(
        numbers("blk.0.attn_q.weight.lora_b"),
        [8.0, 9.0, 12.0, 13.0, 10.0, 11.0, 14.0, 15.0]
    );
    std::fs::write(&path, &tensors[..tensors.len() - 1]).unwrap();
    assert!(convert(folder.path(), &shape).is_err());
}
