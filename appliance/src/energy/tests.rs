use expect_test::{Expect, expect};

use super::*;
use crate::sampler::splitmix;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

/// Dice from a seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        splitmix(self.0) % sides
    }
}

fn carried(parts: &[(u64, u32)]) -> Vec<Carried> {
    let one = |&(id, columns): &(u64, u32)| Carried {
        id: RequestId(id),
        columns,
    };
    parts.iter().map(one).collect()
}

/// Runs steps of `(from, to, requests with columns)`, told one by one, beside readings of `(at, uJ)`.
/// From and to, and the columns of each request.
type Steps<'a> = [(u64, u64, &'a [(u64, u32)])];

fn ledger(steps: &Steps<'_>, readings: &[(u64, u64)]) -> Ledger {
    let mut ledger = Ledger::default();
    let mut shares = Shares::new(8);
    for &(from, to, parts) in steps {
        shares.handle_step(ms(from), ms(to), &carried(parts));
        shares.drain().for_each(|work| ledger.handle_work(work));
    }
    let end = readings.last().map_or(0, |last| last.0);
    ledger.handle_until(ms(end));
    for (index, &(at, uj)) in readings.iter().enumerate() {
        ledger.handle_reading(Reading {
            at: ms(at),
            uj,
            known: index > 0,
        });
    }
    ledger
}

fn check(steps: &Steps<'_>, readings: &[(u64, u64)], expected: Expect) {
    let mut ledger = ledger(steps, readings);
    let mut told: Vec<_> = (1..=3)
        .map(|id| format!("{id}: {:?}", ledger.take(RequestId(id), 1)))
        .collect();
    let Totals {
        measured_uj,
        idle_uj,
        ..
    } = ledger.totals();
    told.push(format!("idle {idle_uj} of {measured_uj}"));
    expected.assert_eq(&told.join(", "));
}

#[test]
fn a_step_is_divided_by_columns_and_the_rest_is_nobodys() {
    check(
        &[(20, 60, &[(1, 1), (2, 3)]), (60, 80, &[(2, 1)])],
        &[(0, 0), (100, 1000)],
        expect!["1: Known(100), 2: Known(500), 3: Nothing, idle 400 of 1000"],
    );
}

#[test]
fn each_interval_goes_to_who_ran_in_it() {
    check(
        &[(0, 100, &[(1, 1)]), (100, 200, &[(2, 1)])],
        &[(0, 0), (100, 300), (200, 2300)],
        expect!["1: Known(300), 2: Known(2000), 3: Nothing, idle 0 of 2300"],
    );
}

#[test]
fn a_step_longer_than_the_interval_has_all_of_its_intervals() {
    check(
        &[(50, 450, &[(1, 256), (2, 256)])],
        &[
            (0, 0),
            (100, 100),
            (200, 400),
            (300, 700),
            (400, 1000),
            (500, 1100),
        ],
        expect!["1: Known(500), 2: Known(500), 3: Nothing, idle 100 of 1100"],
    );
}

#[test]
fn what_is_not_yet_measured_is_waited_for() {
    check(
        &[(0, 40, &[(1, 1)]), (40, 140, &[(2, 1)])],
        &[(0, 0), (100, 1000)],
        expect!["1: Known(400), 2: Later, 3: Nothing, idle 0 of 400"],
    );
}

#[test]
fn what_ran_while_nothing_was_measured_is_not_guessed() {
    let mut ledger = ledger(
        &[
            (0, 40, &[(1, 1)]),
            (40, 140, &[(2, 1)]),
            (210, 240, &[(3, 1)]),
        ],
        &[(0, 0), (100, 1000)],
    );
    for (at, uj, known) in [(200, 1000, false), (300, 1500, true)] {
        let at = ms(at);
        ledger.handle_reading(Reading { at, uj, known });
    }
    let took = [1, 2, 3].map(|id| ledger.take(RequestId(id), 1));
    assert_eq!(took, [Due::Known(400), Due::Nothing, Due::Known(150)]);
    // Before the first reading nothing is known either.
    let mut early = self::ledger(&[(0, 60, &[(1, 1)])], &[(50, 0), (100, 9)]);
    assert_eq!(early.take(RequestId(1), 1), Due::Nothing);
}

#[test]
fn work_that_was_lost_makes_nobodys_energy_known_by_half() {
    let mut ledger = ledger(&[(0, 10, &[(1, 1)])], &[(0, 0), (100, 1000)]);
    ledger.handle_lost(1, RequestId(2));
    for id in [2, 3] {
        ledger.handle_work(Work {
            id: RequestId(id),
            from: ms(10 * id),
            to: ms(10 * id + 10),
            busy: ms(10),
        });
    }
    let took = [1, 2, 3].map(|id| ledger.take(RequestId(id), 1));
    assert_eq!(took, [Due::Nothing, Due::Nothing, Due::Known(100)]);
    assert_eq!(ledger.totals().lost, 1);
}

#[test]
fn watts_are_those_of_the_last_second() {
    let readings: Vec<_> = (0..40)
        .map(|n| (100 * n, if n < 20 { 0 } else { 1_500_000 * (n - 19) }))
        .collect();
    let ledger = ledger(&[], &readings);
    assert_eq!(ledger.totals().watts, Some(15.0));
}

/// A world from a seed: steps with gaps between them, and readings of a machine whose power changes at each.
fn world(seed: u64, flush: u64) {
    let mut dice = Dice(seed);
    let mut ledger = Ledger::default();
    let mut shares = Shares::new(6);
    let mut integrator = Integrator::new(Meter::Counters(Box::new([Some(1_000_000)])));
    // Truth: µJ of each request by its steps, in floating point.
    let mut truth = HashMap::<u64, f64>::new();
    let mut steps = Vec::new();
    let mut curve = Vec::<(u64, u64)>::new();
    let mut now = 0;
    let mut read_at = 0;
    let mut uj = dice.throw(1_000_000);
    let begin = uj;
    for step in 0..200 {
        now += dice.throw(3) * dice.throw(5_000);
        let from = now;
        now += 1 + dice.throw(if step % 50 == 0 { 400_000 } else { 20_000 });
        let parts: Vec<_> = (1..=6_u64)
            .filter(|_| dice.throw(3) == 0)
            .map(|place| (step / 40 * 10 + place, 1))
            .collect();
        let parts: Vec<_> = parts
            .into_iter()
            .map(|(id, one)| {
                (
                    id,
                    one + u32::try_from(dice.throw(200) / 190 * 64).expect("small"),
                )
            })
            .collect();
        if !parts.is_empty() {
            if !shares.has_room(parts.len()) {
                shares.drain().for_each(|work| ledger.handle_work(work));
            }
            shares.handle_step(us(from), us(now), &carried(&parts));
            steps.push((from, now, parts));
            if dice.throw(flush) == 0 {
                shares.drain().for_each(|work| ledger.handle_work(work));
            }
        }
        while read_at <= now {
            if let Some(reading) = integrator.handle_values(us(read_at), &[uj % 1_000_000]) {
                ledger.handle_reading(reading);
                curve.push((read_at, uj));
            }
            read_at += 50_000 + dice.throw(50_000);
            uj += 1 + dice.throw(400_000);
        }
    }
    shares.drain().for_each(|work| ledger.handle_work(work));
    ledger.handle_until(us(read_at));
    let reading = integrator
        .handle_values(us(read_at), &[uj % 1_000_000])
        .expect("it has grown");
    ledger.handle_reading(reading);
    curve.push((read_at, uj));

    let upto = |at: u64| {
        let next = curve
            .partition_point(|p| p.0 <= at)
            .clamp(1, curve.len() - 1);
        let ((t0, u0), (t1, u1)) = (curve[next - 1], curve[next]);
        u0 as f64 + (u1 - u0) as f64 * (at - t0) as f64 / (t1 - t0) as f64
    };
    for (from, to, parts) in &steps {
        let all: u32 = parts.iter().map(|p| p.1).sum();
        for (id, columns) in parts {
            let share = f64::from(*columns) / f64::from(all);
            *truth.entry(*id).or_default() += (upto(*to) - upto(*from)) * share;
        }
    }
    let mut sum = 0;
    for (id, truth) in truth {
        let Due::Known(uj) = ledger.take(RequestId(id), 1) else {
            panic!("SEED {seed}: all was measured");
        };
        sum += uj;
        // Told after each step, it is exact but for rounding.
        let off = (uj as f64 - truth).abs();
        assert!(
            flush > 1 || off < 500.0,
            "SEED {seed}: {id} has {uj} of {truth}"
        );
    }
    let totals = ledger.totals();
    assert_eq!(
        totals.measured_uj,
        uj - begin,
        "SEED {seed}: all is measured"
    );
    assert_eq!(
        sum + totals.idle_uj,
        totals.measured_uj,
        "SEED {seed}: it adds up"
    );
    assert_eq!((sum, totals.lost), (totals.attributed_uj, 0), "SEED {seed}");
}

#[test]
fn what_was_measured_is_what_requests_took_and_what_was_idle() {
    for seed in 0..500 {
        world(seed, 1);
        world(seed, 8);
    }
}

/// Values at times in milliseconds, as readings.
fn integrate(meter: Meter, values: &[(u64, &[u64])], expected: Expect) {
    let mut integrator = Integrator::new(meter);
    let told = values.iter().map(
        |&(at, values)| match integrator.handle_values(ms(at), values) {
            None => "-".to_owned(),
            Some(Reading { uj, known, .. }) => format!("{uj}{}", if known { "" } else { "?" }),
        },
    );
    expected.assert_eq(&told.collect::<Vec<_>>().join(" "));
}

fn counters(ranges: &[Option<u64>]) -> Meter {
    Meter::Counters(ranges.into())
}

#[test]
fn a_counter_starts_again_after_its_range() {
    integrate(
        counters(&[Some(262_143_328_850)]),
        &[
            (0, &[262_143_328_000]),
            (100, &[262_143_328_850]),
            (200, &[150]),
        ],
        expect!["0? 850 1000"],
    );
    // Packages of two sockets and their memory start again each on its own.
    integrate(
        counters(&[Some(1000), Some(500)]),
        &[(0, &[900, 10]), (100, &[100, 60]), (200, &[150, 60])],
        expect!["0? 250 300"],
    );
}

#[test]
fn a_counter_that_was_set_back_is_not_taken_for_a_large_number() {
    integrate(
        counters(&[Some(262_143_328_850)]),
        &[(0, &[9_000_000_000]), (100, &[5]), (200, &[25])],
        expect!["0? 0? 20"],
    );
    integrate(
        counters(&[None]),
        &[(0, &[900]), (100, &[5]), (200, &[25])],
        expect!["0? 0? 20"],
    );
}

#[test]
fn a_counter_that_stands_still_is_none() {
    integrate(
        counters(&[Some(1000)]),
        &[(0, &[7]), (100, &[7]), (200, &[7]), (300, &[37])],
        expect!["0? - - 30"],
    );
    integrate(
        counters(&[Some(1000)]),
        &[(0, &[7]), (61_000, &[37]), (61_100, &[47])],
        expect!["0? 0? 10"],
    );
}

#[test]
fn power_is_summed_over_time() {
    // 10 W for 100 ms, then up to 20 W: 1 J and 1.5 J.
    integrate(
        Meter::Power,
        &[
            (0, &[10_000_000]),
            (100, &[10_000_000]),
            (200, &[20_000_000]),
        ],
        expect!["0? 1000000 2500000"],
    );
    // Rails that feed the machine side by side. What is less than a µJ is not lost.
    integrate(
        Meter::Power,
        &[
            (0, &[3, 2]),
            (100, &[3, 2]),
            (200, &[3, 2]),
            (300, &[3, 2]),
            (400, &[3, 2]),
        ],
        expect!["0? 0 1 1 2"],
    );
    // A power of 0 is no measurement, and seconds without one are unknown.
    integrate(
        Meter::Power,
        &[
            (0, &[1_000_000]),
            (100, &[0]),
            (200, &[1_000_000]),
            (4000, &[1_000_000]),
            (4100, &[1_000_000]),
        ],
        expect!["0? - 200000 200000? 300000"],
    );
}
