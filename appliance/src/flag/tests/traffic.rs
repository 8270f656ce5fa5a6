//! Simulated traffic with planted hard cases: how many are found, how many alarms are false, and what floods can teach.
//!
//! A token's entropy is lognormal around the difficulty of its case, its log-probability exponential around the
//! entropy, its margin falls with it. That is a model of traffic, not traffic: `docs/flagging.md` says what follows
//! from it.

use super::*;
use crate::sampler::splitmix;

struct World(u64);

/// What the model has trouble with.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Trouble {
    None,
    /// With all of the answer.
    Everywhere,
    /// With a fifth of it.
    Somewhere,
}

impl World {
    fn unit(&mut self) -> f32 {
        self.0 = splitmix(self.0);
        ((self.0 >> 40) as f32 + 0.5) / (1 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    fn drawn(&mut self, difficulty: f32) -> Drawn {
        let entropy = (difficulty + self.normal() - 1.4).exp().min(9.0);
        self.0 = splitmix(self.0);
        Drawn {
            token: u32::try_from(self.0 % 50_000).unwrap(),
            logprob: entropy * self.unit().ln(),
            entropy,
            margin: (-1.5 * entropy).exp() * self.unit(),
        }
    }

    fn answer(&mut self, trouble: Trouble, shift: f32) -> Signals {
        let difficulty = 0.25 * self.normal() + shift;
        let len = 30.0 + 170.0 * self.unit();
        let mut signals = TokenSignals::new();
        for part in (0..200_u16)
            .map(|i| f32::from(i) / len)
            .take_while(|p| *p < 1.0)
        {
            let more = match trouble {
                Trouble::Everywhere => 1.0,
                Trouble::Somewhere if (0.4..0.6).contains(&part) => 2.0,
                _ => 0.0,
            };
            signals.push(self.drawn(difficulty + more));
        }
        signals.signals()
    }
}

/// Sends a case that nobody has sent before.
fn send(flagger: &mut Flagger, id: u64, now: Duration, model: ModelDigest, s: Signals) -> Verdict {
    let (prompt, answer) = (text(id, 20), text(1 << 30 | id, 20));
    let case = Case {
        model: &model,
        arrived: now,
        ended: now,
        signals: s,
        ..case(id, &prompt, &answer)
    };
    flagger.handle_case(now, &case)
}

#[derive(Default)]
struct Score {
    hard: u32,
    found: u32,
    flagged: u32,
}

impl Score {
    fn count(&mut self, hard: bool, flagged: bool) {
        self.hard += u32::from(hard);
        self.flagged += u32::from(flagged);
        self.found += u32::from(hard && flagged);
    }

    fn recall(&self) -> f64 {
        f64::from(self.found) / f64::from(self.hard)
    }

    fn precision(&self) -> f64 {
        f64::from(self.found) / f64::from(self.flagged)
    }
}

/// 2 % of the cases are hard, half of them all over. Asserted are floors with room for chance.
#[test]
fn planted_hard_cases_are_found() {
    let mut together = Score::default();
    let mut any = Score::default();
    let mut single: [Score; SIGNALS] = Default::default();
    let mut kinds = [Score::default(), Score::default()];
    let mut estimates = Score::default();
    for seed in 1..=8 {
        let mut world = World(seed);
        let mut flagger = Flagger::new(FlagConfig {
            random_share: 0.05,
            seed,
            ..config()
        });
        for id in 0..5000 {
            let trouble = match world.unit() {
                x if x < 0.01 => Trouble::Everywhere,
                x if x < 0.02 => Trouble::Somewhere,
                _ => Trouble::None,
            };
            let signals = world.answer(trouble, 0.0);
            let now = minutes(id);
            let verdict = send(&mut flagger, seed << 20 | id, now, MODEL, signals);
            if verdict.ranks.is_none() {
                assert!(id <= 200);
                continue;
            }
            let hard = trouble != Trouble::None;
            let flagged = verdict.flags.contains(Flag::HardCase);
            together.count(hard, flagged);
            let signal = |flag: &Flag| verdict.flags.contains(*flag);
            any.count(hard, Flag::SIGNALS.iter().any(signal));
            for (score, flag) in single.iter_mut().zip(Flag::SIGNALS) {
                score.count(hard, verdict.flags.contains(flag));
            }
            if verdict.flags.contains(Flag::Random) {
                estimates.count(hard, flagged);
            }
            if hard {
                kinds[usize::from(trouble == Trouble::Somewhere)].count(true, flagged);
            }
        }
    }
    let show = |name: &str, score: &Score| {
        println!(
            "{name:>18}: recall {:.2}, precision {:.2}, flagged {}",
            score.recall(),
            score.precision(),
            score.flagged
        );
    };
    for (score, flag) in single.iter().zip(Flag::SIGNALS) {
        show(flag.name(), score);
    }
    show("any signal", &any);
    show("hard_case", &together);
    show("hard_case by lots", &estimates);
    println!(
        "hard all over {:.2}, in a fifth {:.2}",
        kinds[0].recall(),
        kinds[1].recall()
    );
    assert!(together.recall() > 0.6, "{}", together.recall());
    assert!(together.precision() > 0.5, "{}", together.precision());
    assert!(any.recall() > together.recall());
    assert!(any.precision() < together.precision());
    // What the factory would estimate from the cases drawn by lot.
    assert!((estimates.recall() - together.recall()).abs() < 0.25);
}

/// Entropy of an answer of ordinary length, without drawing its tokens.
fn entropy(world: &mut World, scale: f32) -> Signals {
    Signals {
        entropy_mean: scale * (0.35 * world.normal() - 0.9).exp(),
        ..ordinary()
    }
}

/// 300 boxes with 2000 cases each, drift read after every case: how many ever cry for nothing, and how many see a
/// shift of entropy by 40 % within 600 cases.
#[test]
fn drift_is_seen_and_not_imagined() {
    let (boxes, mut false_alarms, mut seen, mut highest) = (300, 0, 0, 0.0_f32);
    let mut waits = Vec::new();
    for seed in 0..boxes {
        let mut world = World(seed);
        let mut flagger = Flagger::new(config());
        let mut alarm = false;
        for id in 0..2000 {
            let signals = entropy(&mut world, 1.0);
            let verdict = send(&mut flagger, id, minutes(id), MODEL, signals);
            alarm |= verdict.flags.contains(Flag::EntropyDrift);
            highest = highest.max(verdict.drift.unwrap_or(0.0));
            assert_eq!(verdict.drift.is_some(), id + 1 >= 500);
        }
        false_alarms += u32::from(alarm);
        let wait = (2000..2600).find(|id| {
            let signals = entropy(&mut world, 1.4);
            let verdict = send(&mut flagger, *id, minutes(*id), MODEL, signals);
            verdict.flags.contains(Flag::EntropyDrift)
        });
        seen += u32::from(wait.is_some());
        waits.extend(wait.map(|id| id - 2000));
    }
    waits.sort_unstable();
    println!(
        "{false_alarms} false alarms of {boxes}, highest PSI {highest:.3}, {seen} shifts seen"
    );
    println!("after {} cases in the middle", waits[waits.len() / 2]);
    assert_eq!(false_alarms, 0);
    assert_eq!(u64::from(seen), boxes);
}

/// A new model with half as much entropy again is no reason to flag everything: it is learned from zero, and drift says
/// how far it is from the committed one until it is that itself.
#[test]
fn a_new_model_is_learned_from_zero() {
    let (old, new) = (MODEL, [8; 32]);
    let mut world = World(3);
    let mut flagger = Flagger::new(config());
    let mut run = |flagger: &mut Flagger, ids: std::ops::Range<u64>, model, shift| {
        let (mut flagged, mut ranked) = (0, 0);
        for id in ids {
            let signals = world.answer(Trouble::None, shift);
            let verdict = send(flagger, id, minutes(id), model, signals);
            flagged += u32::from(verdict.flags.contains(Flag::HardCase));
            ranked += u32::from(verdict.ranks.is_some());
        }
        (flagged, ranked)
    };
    run(&mut flagger, 0..2000, old, 0.0);
    // Without a new digest it would flag ten times the usual four of 200.
    let mut fooled = Flagger::load(config(), &flagger.save()).unwrap();
    let (flagged, _) = run(&mut fooled, 2000..2200, old, 0.8);
    assert!(flagged > 40, "{flagged}");

    let (flagged, ranked) = run(&mut flagger, 2000..2200, new, 0.8);
    assert_eq!((flagged, ranked), (0, 0));
    // Of 200 cases, the second percentile is not known well.
    let (early, ranked) = run(&mut flagger, 2200..3200, new, 0.8);
    assert_eq!(ranked, 1000);
    assert!((2..90).contains(&early), "{early}");
    let (flagged, _) = run(&mut flagger, 3200..4200, new, 0.8);
    assert!((5..45).contains(&flagged), "{flagged}");
    let drift = flagger.drift(&new, "chat").unwrap();
    assert!(drift > 0.25, "{drift}");
    println!("{early}, then {flagged} of 1000 flagged under the new model, drift {drift:.2}");
    // Back again: what was known of the old one is still there.
    let (_, ranked) = run(&mut flagger, 4200..4210, old, 0.0);
    assert_eq!(ranked, 10);
    flagger.handle_commit(&new);
    run(&mut flagger, 4210..4600, new, 0.8);
    let drift = flagger.drift(&new, "chat").unwrap();
    assert!(drift < 0.25, "{drift}");
}

/// An hour in which 4000 weird cases come, and a change that stays.
#[test]
fn a_flood_does_not_teach_that_weird_is_normal_and_days_do() {
    let mut world = World(5);
    let mut flagger = Flagger::new(config());
    let mut share = |flagger: &mut Flagger, ids: std::ops::Range<u64>, millis: u64, shift| {
        let count = ids.end - ids.start;
        let mut flagged = 0;
        for id in ids {
            let signals = world.answer(Trouble::None, shift);
            let now = Duration::from_millis(id * millis);
            let verdict = send(flagger, id, now, MODEL, signals);
            flagged += u64::from(verdict.flags.contains(Flag::HardCase));
        }
        flagged as f64 / count as f64
    };
    // Four days with a case every minute.
    share(&mut flagger, 0..6000, 60_000, 0.0);
    let before = flagger.threshold(&MODEL, "chat", 0).unwrap();
    // Ids go on so that time does: one case every 0.9 s from hour 100 on.
    let first = share(&mut flagger, 400_000..400_500, 900, 1.0);
    share(&mut flagger, 400_500..403_000, 900, 1.0);
    let last = share(&mut flagger, 403_000..404_000, 900, 1.0);
    let after = flagger.threshold(&MODEL, "chat", 0).unwrap();
    let ordinary = share(&mut flagger, 7000..8000, 60_000, 0.0);
    println!(
        "threshold {before:.2} then {after:.2}; of the flood {first:.2} flagged at first, {last:.2} at last, {ordinary:.3} after it"
    );
    assert!(first > 0.8, "{first}");
    assert!(last > first - 0.15, "{last}");
    assert!(after < 1.35 * before);
    assert!(ordinary < 0.04, "{ordinary}");
    assert!(flagger.drift(&MODEL, "chat").is_some());
    // Ten days of it.
    share(&mut flagger, 8000..22_400, 60_000, 1.0);
    let then = share(&mut flagger, 22_400..23_400, 60_000, 1.0);
    println!("{then:.3} flagged after ten days");
    assert!(then < 0.06, "{then}");
}
