//! Our logits beside llama.cpp's and beside exact arithmetic, for every architecture and quant type.
//!
//! `../shared/golden` has 22 models; the three smallest files that cover most also live here, so that a stranger's run
//! checks something real. The table that `every_golden_model_agrees` prints stands in docs/kernels.md.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests read files, print tables, and fail by panicking"
)]

mod adapters;
mod quantizer;

use outstation::kv::{KvPool, blocks_for};
use outstation::scheduler::logits_rows_max;
use outstation_kernels::Isa;
use outstation_kernels::KvFormat;
use outstation_tests::golden::Golden;
use outstation_tests::{nmse, repository, shared};

/// Logits of every prompt token, run in chunks.
fn logits(golden: &Golden, on: (Isa, KvFormat), threads: usize, chunk: usize) -> Vec<f32> {
    golden.logits(&mut golden.cpu_engine(on, threads, (chunk, chunk)), chunk)
}

fn greedy(golden: &Golden, on: (Isa, KvFormat), tokens_max: u32) -> Vec<u32> {
    let engine = golden.cpu_engine(on, 2, (64, logits_rows_max(1)));
    golden.greedy(engine, tokens_max)
}

/// Checks one model on every instruction set of this machine, and prints its rows of the table.
fn check(golden: &Golden) {
    let theirs = golden.theirs();
    let exact = logits(golden, EXACT, 2, 128);
    assert_eq!(exact.len(), theirs.values.len());
    let theirs_from_exact = nmse(&theirs.values, &exact);
    let kind = golden.model.trim_end_matches(".gguf");
    for (isa, kv) in fast() {
        let ours = logits(golden, (isa, kv), 2, 128);
        let beside_theirs = nmse(&ours, &theirs.values);
        let ours_from_exact = nmse(&ours, &exact);
        let tokens = greedy(golden, (isa, kv), 32);
        let both = tokens.iter().zip(&golden.greedy_32);
        let same = both.take_while(|(ours, theirs)| ours == theirs).count();
        println!(
            "| {kind} | {isa} | {kv} | {beside_theirs:.1e} | {ours_from_exact:.1e} | {theirs_from_exact:.1e} | {same} |"
        );
        assert!(
            beside_theirs <= golden.bound(),
            "{kind} on {isa} {kv}: {beside_theirs:.2e} from llama.cpp"
        );
        assert!(
            ours_from_exact <= theirs_from_exact,
            "{kind} on {isa} {kv}: {ours_from_exact:.2e} from exact, llama.cpp {theirs_from_exact:.2e}"
        );
    }
}

/// Exact arithmetic, on keys and values as llama.cpp stores them.
const EXACT: (Isa, KvFormat) = (Isa::Portable, KvFormat::F16);

/// What this machine has beside the portable path, fastest last, with keys and values in f16 and as they are served.
fn fast() -> impl Iterator<Item = (Isa, KvFormat)> {
    let all = Isa::ALL.into_iter();
    let all = all.filter(|isa| *isa != Isa::Portable && isa.available());
    all.flat_map(|isa| {
        let served = KvFormat::of(isa, 64);
        let other = (served != KvFormat::F16).then_some((isa, served));
        std::iter::once((isa, KvFormat::F16)).chain(other)
    })
}

fn print_table(goldens: &[Golden]) {
    println!(
        "| model | on | keys and values | from llama.cpp | from exact | llama.cpp from exact | equal greedy tokens |"
    );
    println!("|---|---|---|---|---|---|---|");
    for golden in goldens {
        check(golden);
    }
}

#[test]
fn every_golden_model_agrees() {
    let Some(folder) = shared("golden") else {
        return;
    };
    let goldens = Golden::read_index(&folder);
    assert_eq!(goldens.len(), 22);
    print_table(&goldens);
}

#[test]
fn the_models_in_the_repository_agree() {
    let goldens = Golden::read_index(&repository().join("tests/golden"));
    assert_eq!(goldens.len(), 3);
    print_table(&goldens);
}

/// The same sequence in chunks of any width, on any number of threads: the same bits.
#[test]
fn logits_do_not_depend_on_batch_or_threads() {
    for golden in Golden::read_index(&repository().join("tests/golden")) {
        for (isa, kv) in fast() {
            let whole = logits(&golden, (isa, kv), 2, 128);
            for (threads, chunk) in [(1, 128), (2, 1), (1, 5), (2, 12), (2, 33)] {
                let cut = logits(&golden, (isa, kv), threads, chunk);
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert!(
                    bits(&whole) == bits(&cut),
                    "{} on {isa} {kv}: {threads} threads, chunks of {chunk}",
                    golden.model
                );
            }
        }
    }
}

/// A prompt that takes over the blocks of another with the same beginning, in a cache that both hold.
#[test]
fn a_known_beginning_changes_no_bit() {
    for golden in Golden::read_index(&repository().join("tests/golden")) {
        for (isa, kv) in fast() {
            let prompt = &golden.prompt_tokens;
            let positions = u32::try_from(prompt.len()).unwrap();
            let mut engine = golden.cpu_engine((isa, kv), 2, (64, 64));
            let mut pool = KvPool::new(2 * blocks_for(positions), 2, positions);
            assert_eq!(pool.reserve(0, positions, prompt, 0), Some(0));
            let whole = golden.run(&mut engine, &pool, (0, 0), 64);
            pool.tell(0, prompt, positions);
            let cached = pool.reserve(1, positions, prompt, 0).unwrap();
            assert!(cached >= 32, "{cached} of {positions}");
            let rest = golden.run(&mut engine, &pool, (1, cached), 7);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(
                bits(&whole[whole.len() - rest.len()..]) == bits(&rest),
                "{} on {isa} {kv}, {cached} positions taken over",
                golden.model
            );
        }
    }
}

/// On the portable path arithmetic is exact, so a first token that differs from llama.cpp's is a near-tie of its own.
#[test]
fn greedy_tokens_are_those_of_llama_cpp_or_a_near_tie() {
    for golden in Golden::read_index(&repository().join("tests/golden")) {
        let ours = greedy(&golden, EXACT, 8);
        let theirs = golden.theirs();
        let last = &theirs.values[(theirs.rows - 1) * theirs.cols..];
        let gap = last[golden.greedy_32[0] as usize] - last[ours[0] as usize];
        assert!(gap.abs() <= 0.5, "{}: {gap} nats", golden.model);
    }
}
