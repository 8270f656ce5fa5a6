//! Tokens drawn on the device beside the definition: sort, cut, add up.

use outstation_cuda::{Draw, GpuDraws, GpuKernels, Outcome};
use outstation_kernels::isa;
use outstation_kernels::ops::certainty;

use crate::device;
use crate::kernels::{Noise, upload};

/// Rows that are drawn at once.
const ROWS: usize = 32;

fn draw(kernels: &GpuKernels, logits: &[f32], draws: &[Draw], forms: &[Vec<u32>]) -> Vec<Outcome> {
    let gpu = kernels.gpu();
    let rows = draws.len();
    let mut memory = GpuDraws::new(gpu, logits.len() / rows, rows).unwrap();
    for (row, form) in forms.iter().enumerate() {
        memory.put_form(row, form);
    }
    let (logits, draws) = (upload(gpu, logits), upload(gpu, draws));
    let all = (logits.all(), draws.all());
    kernels.draw(all.0, all.1, (&memory, 0)).unwrap();
    memory.outcomes().unwrap().to_vec()
}

fn greedy() -> Draw {
    Draw {
        top_p: 1.0,
        how: Draw::GREEDY,
        ..Draw::default()
    }
}

/// Logits as models make them: a normal bulk and some that stand out.
fn row(noise: &mut Noise, vocabulary: usize) -> Vec<f32> {
    let mut logits = noise.many(vocabulary);
    for _ in 0..12 {
        let at = noise.next().to_bits() as usize % vocabulary;
        logits[at] += 6.0 + 4.0 * noise.next();
    }
    logits
}

#[test]
fn how_sure_a_row_is() {
    if !device() {
        return;
    }
    let kernels = GpuKernels::open(0).unwrap();
    let mut noise = Noise(5);
    for vocabulary in [1, 31, 1000, 5003, 40_001] {
        let mut rows: Vec<_> = (0..5).map(|_| row(&mut noise, vocabulary)).collect();
        let last = vocabulary - 1;
        rows[1].fill(f32::NEG_INFINITY);
        rows[2][last] = f32::INFINITY;
        rows[3][0] = f32::NAN;
        // Two that are equal, in chunks of their own where there are several.
        (rows[4][last], rows[4][vocabulary / 3]) = (20.0, 20.0);
        let outcomes = draw(&kernels, &rows.concat(), &[Draw::default(); 5], &[]);
        for (logits, ours) in rows.iter().zip(&outcomes) {
            assert_eq!(ours.token, Outcome::NO_TOKEN);
            let (ours, theirs) = (&ours.certainty, certainty(isa::detect(), logits));
            assert_eq!(
                (ours.top, ours.max),
                (theirs.top, theirs.max),
                "{vocabulary}"
            );
            for (ours, theirs) in [
                (ours.log_sum, theirs.log_sum),
                (ours.entropy, theirs.entropy),
                (ours.top1, theirs.top1),
                (ours.top2, theirs.top2),
            ] {
                let bound = 4e-5 * (1.0 + theirs.abs());
                assert!(
                    (ours - theirs).abs() <= bound,
                    "{vocabulary}: {ours} {theirs}"
                );
            }
        }
    }
}

/// Tokens that may be drawn with their weights, by the definition in f64.
fn kept(logits: &[f32], draw: &Draw, form: Option<&[u32]>) -> Vec<(usize, f64)> {
    let allowed =
        |token: usize| form.is_none_or(|words| words[token / 32] >> (token % 32) & 1 == 1);
    let mut all: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
    all.retain(|&(token, logit)| allowed(token) && !logit.is_nan());
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if draw.top_k > 0 {
        all.truncate(draw.top_k as usize);
    }
    let greatest = f64::from(all[0].1);
    let weight = |logit: f32| ((f64::from(logit) - greatest) / f64::from(draw.temperature)).exp();
    let total: f64 = all.iter().map(|token| weight(token.1)).sum();
    let mut sum = 0.0;
    let mut kept = Vec::new();
    for (token, logit) in all {
        let own = weight(logit);
        if own < f64::from(draw.min_p) || sum >= f64::from(draw.top_p) * total {
            break;
        }
        sum += own;
        kept.push((token, own));
    }
    kept
}

/// Draws with evenly spaced numbers: each token comes as often as its share of the mass says, to one.
fn check(kernels: &GpuKernels, logits: &[f32], with: Draw, form: Option<&[u32]>) {
    const TIMES: usize = 128;
    let kept = kept(logits, &with, form);
    let total: f64 = kept.iter().map(|token| token.1).sum();
    let mut counts = vec![0; logits.len()];
    for start in (0..TIMES).step_by(ROWS) {
        let draws: Vec<_> = (start..start + ROWS)
            .map(|time| {
                let unit = ((time as u64) << 53) / TIMES as u64 + (1 << 53) / (2 * TIMES as u64);
                Draw {
                    unit: [unit as u32, (unit >> 32) as u32],
                    formed: u32::from(form.is_some()),
                    how: Draw::RANDOM,
                    ..with
                }
            })
            .collect();
        let forms = form.map_or(Vec::new(), |form| vec![form.to_vec(); ROWS]);
        for outcome in draw(kernels, &logits.repeat(ROWS), &draws, &forms) {
            assert_eq!(
                outcome.logit.to_bits(),
                logits[outcome.token as usize].to_bits()
            );
            counts[outcome.token as usize] += 1;
        }
    }
    for &(token, weight) in &kept {
        let expected = weight / total * TIMES as f64;
        let count = f64::from(std::mem::take(&mut counts[token]));
        // Each edge of a token's part of the line may fall on either side of a number.
        assert!(
            (count - expected).abs() <= 1.01,
            "{with:?}: token {token}, {count} for {expected}"
        );
    }
    let others: i32 = counts.iter().sum();
    assert_eq!(others, 0, "{with:?}: tokens that were cut");
}

#[test]
fn tokens_come_as_often_as_they_should() {
    if !device() {
        return;
    }
    let kernels = GpuKernels::open(0).unwrap();
    let mut noise = Noise(9);
    let base = Draw {
        temperature: 1.0,
        top_p: 1.0,
        ..Draw::default()
    };
    for vocabulary in [96, 5000, 40_000] {
        let mut logits = row(&mut noise, vocabulary);
        logits[7] = f32::NAN;
        logits[8] = f32::NEG_INFINITY;
        let form: Vec<u32> = (0..vocabulary.div_ceil(32) as u32)
            .map(|word| word.wrapping_mul(0x9e37_79b9) | 4)
            .collect();
        // A large one takes long on an emulator.
        let (from_all, cut_by_all) = ((1.0, 0, 1.0, 0.0), (0.8, 40, 0.95, 0.05));
        let cuts = [
            from_all,
            cut_by_all,
            (0.7, 5, 1.0, 0.0),
            (1.3, 0, 0.9, 0.0),
            (1.0, 50, 0.5, 0.0),
            (2.0, 0, 1.0, 0.1),
            (1.0, 1, 1.0, 0.0),
            (1e-30, 0, 1.0, 0.0),
            (1.0, 0, 1e-6, 0.0),
            (1.0, u32::MAX, 1.0, 0.0),
        ];
        let count = if vocabulary > 5000 { 2 } else { cuts.len() };
        for (temperature, top_k, top_p, min_p) in cuts.into_iter().take(count) {
            let with = Draw {
                temperature,
                top_k,
                top_p,
                min_p,
                ..base
            };
            check(&kernels, &logits, with, None);
            check(&kernels, &logits, with, Some(&form));
        }
    }
    // As many as top-k says, of equals.
    let logits = [1.0, 3.0, 3.0, 3.0, 3.0, 0.0];
    let draws: Vec<_> = (0..ROWS as u64)
        .map(|i| Draw {
            unit: [0, (i << 21 >> 5) as u32],
            top_k: 2,
            how: Draw::RANDOM,
            ..base
        })
        .collect();
    let outcomes = draw(&kernels, &logits.repeat(ROWS), &draws, &[]);
    let mut tokens: Vec<u32> = outcomes.iter().map(|outcome| outcome.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens, [1, 2]);
}

#[test]
fn the_likeliest_of_what_a_form_allows() {
    if !device() {
        return;
    }
    let kernels = GpuKernels::open(0).unwrap();
    let logits = row(&mut Noise(3), 3000);
    let order = |allowed: &dyn Fn(usize) -> bool| {
        let tokens = (0..logits.len()).filter(|token| allowed(*token));
        tokens.max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
    };
    let best = order(&|_| true).unwrap() as u32;
    let mut form = vec![u32::MAX; 94];
    form[best as usize / 32] &= !(1 << (best % 32));
    let second = order(&|token| token != best as usize).unwrap() as u32;
    let formed = Draw {
        formed: 1,
        ..greedy()
    };
    // Nothing is allowed by the third; words that are missing allow nothing either.
    let forms = [Vec::new(), form, Vec::new(), vec![1]];
    let outcomes = draw(
        &kernels,
        &logits.repeat(4),
        &[greedy(), formed, formed, formed],
        &forms,
    );
    let tokens: Vec<u32> = outcomes.iter().map(|outcome| outcome.token).collect();
    assert_eq!(tokens, [best, second, 0, 0]);
    // How sure the model is does not depend on the form.
    assert!(outcomes.iter().all(|outcome| outcome.certainty.top == best));
}
