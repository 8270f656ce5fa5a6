//! Adapters on the device beside the processor's, and beside each other in one step.

use std::sync::Arc;

use outstation::adapter::{Adapter, AdapterPlaces, Base, PackedAdapter};
use outstation::engine::cpu::{self, CpuEngine, EngineSize};
use outstation::generate::{self, AdapterSpec, Mix, ModelSpec};
use outstation::model::Model;
use outstation_kernels::KvFormat;
use outstation_kernels::isa::Isa;
use outstation_kernels::team::Team;
use outstation_tests::adapted::{RANK, Run, logits, packed, run};
use outstation_tests::nmse;
use outstation_wire::gguf::Gguf;

use crate::{device, engine_of, size};

/// Fewer than there are adapters, so that one has to go for another.
const PLACES: AdapterPlaces = AdapterPlaces {
    count: 2,
    rank_max: RANK as u32,
};

/// What the weights' and the activations' rounding may cost; both engines have the same bytes of the adapters.
const NMSE_MAX: f64 = 1e-3;

fn adapter(targets: &Base, rank: u32, seed: u64) -> Arc<PackedAdapter> {
    let file = generate::adapter(targets, &AdapterSpec::new(rank, seed));
    let gguf = Gguf::parse(&file).unwrap();
    let adapter = Adapter::from_gguf(&gguf, targets).unwrap();
    packed(targets, &adapter, u8::try_from(seed).unwrap())
}

/// Exact arithmetic, on the processor.
fn exact(file: &[u8], size: EngineSize) -> CpuEngine {
    let model = Model::from_gguf(&Gguf::parse(file).unwrap()).unwrap();
    let mut team = Team::new(2);
    let mut weights = vec![0; model.packed_bytes];
    cpu::pack(&model, file, &mut team, &mut weights, |_| ());
    let cache = vec![0_u8; CpuEngine::cache_bytes(&model, size)];
    let (weights, cache) = (Box::new(weights), Box::new(cache));
    CpuEngine::new(model, weights, cache, Isa::Portable, team, size)
        .with_adapters(size.columns_max, RANK)
}

#[test]
fn adapters_add_what_they_add_on_the_processor() {
    if !device() {
        return;
    }
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (shape, mix) in [("tiny-llama", Mix::Q4KM), ("tiny-qwen3", Mix::Q8_0)] {
        let file = generate::bytes(&ModelSpec::new(shape.parse().unwrap(), mix, 3));
        let targets = Base::of(&Model::from_gguf(&Gguf::parse(&file).unwrap()).unwrap());
        let (one, two) = (adapter(&targets, 8, 1), adapter(&targets, 3, 2));
        let three = adapter(&targets, 5, 3);
        let size = size(64, 64, KvFormat::F16);
        let mut exact = exact(&file, size);
        let mut ours = engine_of(&file, size, PLACES);
        let base = logits(&mut ours, None);
        for adapter in [&one, &two, &three] {
            let (ours, exact) = (
                logits(&mut ours, Some(adapter)),
                logits(&mut exact, Some(adapter)),
            );
            let (off, effect) = (nmse(&ours, &exact), nmse(&base, &exact));
            println!("{shape}: {off:.1e} from exact, the base {effect:.1e}");
            assert!(off <= NMSE_MAX, "{shape}: {off:.2e}");
            assert!(effect > 1e-2, "{shape}: adds {effect:.2e}");
        }
        // In one step, with chunks of their own; then recorded steps of a column each.
        let wanted = [Some(&one), None, Some(&two), Some(&one), None, Some(&two)];
        for chunks in [[1, 3, 5, 2, 7, 1], [1; 6]] {
            let mut mixed: Vec<Run> = (0..)
                .zip(wanted)
                .zip(chunks)
                .map(|((sequence, adapter), chunk)| Run::new(sequence, adapter, chunk))
                .collect();
            run(&mut ours, &mut mixed, 6);
            for run in &mixed {
                let alone = logits(&mut ours, run.adapter.as_ref());
                let sequence = run.sequence;
                assert!(
                    bits(&run.logits) == bits(&alone),
                    "{shape}: sequence {sequence}"
                );
            }
            assert!(
                bits(&mixed[1].logits) == bits(&base),
                "{shape}: the base alone"
            );
        }
    }
}
