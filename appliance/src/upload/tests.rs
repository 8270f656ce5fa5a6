use super::*;

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn sealed(class: Class, seq: u64) -> Sealed {
    Sealed {
        class,
        seq,
        bytes: 1000,
        epoch: [1; 16],
    }
}

fn order(queue: &mut Queue, permit: Permit) -> Vec<String> {
    let next = std::iter::from_fn(|| queue.next(at(0), permit));
    next.map(|sealed| format!("{}.{}", sealed.class.name(), sealed.seq))
        .collect()
}

fn list() -> Vec<Sealed> {
    use Class::{P0, P1, P2};
    vec![
        sealed(P2, 1),
        sealed(P1, 4),
        sealed(P0, 7),
        sealed(P2, 2),
        sealed(P0, 8),
        sealed(P1, 5),
    ]
}

#[test]
fn u30_the_most_valuable_first_then_the_oldest() {
    let mut queue = Queue::new(9);
    queue.update(&list());
    assert_eq!(
        order(&mut queue, Permit::All),
        ["p0.7", "p0.8", "p1.4", "p1.5", "p2.1", "p2.2"]
    );
    let mut queue = Queue::new(9);
    queue.update(&list());
    assert!(order(&mut queue, Permit::Nothing).is_empty());
    assert_eq!(order(&mut queue, Permit::Urgent), ["p0.7", "p0.8"]);
}

#[test]
fn u30_no_more_at_once_than_was_said() {
    let mut queue = Queue::new(2);
    queue.update(&list());
    assert_eq!(order(&mut queue, Permit::All), ["p0.7", "p0.8"]);
    assert_eq!(
        queue.end(at(0), &sealed(Class::P0, 7), Outcome::Stored),
        Verdict::Delete
    );
    // The spool has not deleted it yet.
    queue.update(&list());
    assert_eq!(order(&mut queue, Permit::All), ["p1.4"]);
}

#[test]
fn a_segment_that_the_spool_dropped_while_it_was_sent_ends_in_order() {
    let mut queue = Queue::new(1);
    queue.update(&[sealed(Class::P2, 1)]);
    let sent = queue.next(at(0), Permit::All).unwrap();
    queue.update(&[]);
    assert_eq!(queue.sending(), 1);
    assert_eq!(queue.end(at(0), &sent, Outcome::Broken), Verdict::Again);
    queue.update(&[]);
    assert!(!queue.wants(Permit::All));
}

#[test]
fn what_is_held_waits_and_lets_others_pass() {
    let mut queue = Queue::new(1);
    queue.update(&[sealed(Class::P0, 1), sealed(Class::P0, 2)]);
    let first = queue.next(at(0), Permit::All).unwrap();
    assert_eq!(
        queue.end(at(0), &first, Outcome::Later(at(5))),
        Verdict::Again
    );
    assert_eq!(queue.wake(at(0)), Some(at(5)));
    assert_eq!(queue.next(at(4), Permit::All).unwrap().seq, 2);
    queue.end(at(4), &sealed(Class::P0, 2), Outcome::Stored);
    assert_eq!(queue.next(at(4), Permit::All), None);
    assert_eq!(queue.next(at(5), Permit::All).unwrap().seq, 1);
}

#[test]
fn a_segment_that_nobody_can_send_does_not_stop_the_others() {
    let mut queue = Queue::new(1);
    queue.update(&[sealed(Class::P0, 1), sealed(Class::P0, 2)]);
    let mut now = at(0);
    for try_number in 1..=GARBLED_MAX {
        let sent = queue.next(now, Permit::All).unwrap();
        assert_eq!(sent.seq, 1);
        let verdict = queue.end(now, &sent, Outcome::Garbled);
        let last = try_number == GARBLED_MAX;
        assert_eq!(
            verdict,
            if last {
                Verdict::SetAside
            } else {
                Verdict::Again
            }
        );
        now += GARBLED_WAIT;
    }
    assert_eq!(queue.next(now, Permit::All).unwrap().seq, 2);
}

#[test]
fn u32_waits_double_to_ten_minutes_and_are_scattered() {
    let mut backoff = Backoff::default();
    let longest: Vec<_> = (0..12).map(|_| backoff.fail(u64::MAX).as_secs()).collect();
    assert_eq!(longest, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    assert_eq!(backoff.fail(0), at(300));
    backoff.succeed();
    assert_eq!(backoff.fail(0), Duration::from_millis(500));
}

#[test]
fn u33_a_window_may_span_midnight() {
    const HOUR: u64 = 3_600_000;
    let night: Window = "22:00-06:00".parse().unwrap();
    for (hour, open) in [
        (0, true),
        (5, true),
        (6, false),
        (21, false),
        (22, true),
        (23, true),
    ] {
        assert_eq!(night.is_open(100 * 24 * HOUR + hour * HOUR), open, "{hour}");
    }
    assert_eq!(night.changes_in(21 * HOUR + 1000), at(3599));
    assert_eq!(night.changes_in(23 * HOUR), at(7 * 3600));
    assert_eq!(night.changes_in(22 * HOUR - 1), Duration::from_millis(1));
    let noon: Window = "12:00-13:30".parse().unwrap();
    assert!(noon.is_open(13 * HOUR) && !noon.is_open(14 * HOUR));
    assert_eq!(noon.changes_in(14 * HOUR), at(22 * 3600));
    for wrong in ["", "22-06", "25:00-06:00", "22:00-22:00", "22:60-06:00"] {
        assert!(wrong.parse::<Window>().is_err(), "{wrong}");
    }
    assert_eq!(permit(Some(night), true, 12 * HOUR), Permit::Urgent);
    assert_eq!(permit(Some(night), false, 12 * HOUR), Permit::Nothing);
    assert_eq!(permit(None, false, 12 * HOUR), Permit::All);
}

#[test]
fn u31_the_lower_rate_counts_and_is_kept() {
    let mut pace = Pace::default();
    assert_eq!(pace.spend(1 << 40, at(3)), at(3));
    assert_eq!(pace.piece_bytes(9000), 9000);
    pace.limit(Some(10_000), 5000);
    assert_eq!(pace.piece_bytes(9000), 2500);
    assert_eq!(
        (pace.bytes_in(4, 9000), pace.bytes_in(1, 9000)),
        (9000, 5000)
    );
    assert_eq!(pace.spend(10_000, at(3)), at(3));
    assert_eq!(pace.spend(10_000, at(3)), at(5));
    assert_eq!(pace.spend(10_000, at(100)), at(100));
    pace.limit(Some(10_000), 0);
    assert_eq!(pace.spend(10_000, at(100)), at(102));
    assert_eq!(pace.spend(10_000, at(100)), at(103));
    pace.limit(None, 1);
    assert_eq!(pace.piece_bytes(9000), RATE_MIN / 2);
}
