use super::*;

/// For a prompt that nobody shares.
fn reserve(pool: &mut KvPool, sequence: u32, positions: u32) -> Option<u32> {
    pool.reserve(sequence, positions, &[], 0)
}

#[test]
fn blocks_come_back_whole() {
    let mut pool = KvPool::new(8, 3, 128);
    assert_eq!(reserve(&mut pool, 0, 65), Some(0), "three blocks");
    assert_eq!(reserve(&mut pool, 1, 128), Some(0), "four blocks");
    assert_eq!(
        reserve(&mut pool, 2, 33),
        None,
        "one is left, two are needed: none is taken"
    );
    assert_eq!(pool.blocks_free(), 1);
    pool.assert_whole();
    pool.release(0);
    assert_eq!(reserve(&mut pool, 2, 33), Some(0));
    pool.release(1);
    pool.release(2);
    assert_eq!(pool.blocks_free(), 8);
    pool.assert_whole();
}

#[test]
fn a_position_is_found_through_the_table() {
    let mut pool = KvPool::new(4, 2, 64);
    assert_eq!(reserve(&mut pool, 1, 1), Some(0));
    assert_eq!(reserve(&mut pool, 0, 64), Some(0));
    assert_eq!(pool.tables().locate(1, 0), (0, 0));
    assert_eq!(pool.tables().locate(0, 31), (1, 31));
    assert_eq!(pool.tables().locate(0, 32), (2, 0));
}

#[test]
#[should_panic(expected = "inside the reservation")]
fn a_position_outside_of_the_reservation_is_our_bug() {
    let mut pool = KvPool::new(4, 1, 64);
    assert_eq!(reserve(&mut pool, 0, 10), Some(0));
    let _ = pool.tables().locate(0, 40);
}

/// Tokens of a prompt: `common` of a text that all share, then some of its own.
fn text(common: u32, own: u32, id: u32) -> Vec<u32> {
    let common = (0..common).map(|i| i * 7);
    common
        .chain((0..own).map(|i| 10_000 * (id + 1) + i))
        .collect()
}

#[test]
fn a_beginning_is_taken_as_it_is() {
    let mut pool = KvPool::new(12, 3, 320);
    let first = text(100, 30, 0);
    assert_eq!(pool.reserve(0, 160, &first, 0), Some(0));
    pool.tell(0, &first, 130);
    // Three whole blocks are common, while the first still runs; the fourth differs.
    let second = text(100, 60, 1);
    assert_eq!(pool.reserve(1, 160, &second, 0), Some(96));
    for block in 0..3 {
        assert_eq!(
            pool.tables().locate(0, block * 32),
            pool.tables().locate(1, block * 32)
        );
    }
    assert_ne!(pool.tables().locate(0, 96), pool.tables().locate(1, 96));
    pool.assert_whole();
    assert_eq!(pool.blocks_free(), 12 - 5 - 2);
    // Somebody else's salt shares nothing.
    assert_eq!(pool.reserve(2, 160, &second, 7), Some(0));
    for sequence in 0..3 {
        pool.release(sequence);
        pool.assert_whole();
    }
    assert_eq!(pool.blocks_free(), 12);
    // After all have ended, too.
    assert_eq!(pool.reserve(0, 160, &first, 0), Some(128));
    pool.assert_whole();
}

/// The last token of a prompt is computed in any case: its logits are what the answer begins with.
#[test]
fn a_whole_prompt_that_is_known_leaves_its_last_block_to_compute() {
    let mut pool = KvPool::new(8, 2, 128);
    let prompt = text(64, 0, 0);
    assert_eq!(pool.reserve(0, 96, &prompt, 0), Some(0));
    pool.tell(0, &prompt, 64);
    assert_eq!(pool.reserve(1, 96, &prompt, 0), Some(32));
    pool.assert_whole();
}

#[test]
fn what_was_not_computed_is_not_known() {
    let mut pool = KvPool::new(8, 2, 128);
    let prompt = text(100, 0, 0);
    assert_eq!(pool.reserve(0, 128, &prompt, 0), Some(0));
    pool.tell(0, &prompt, 63);
    assert_eq!(pool.reserve(1, 128, &prompt, 0), Some(32));
}

#[test]
fn the_oldest_ends_are_forgotten_first() {
    let mut pool = KvPool::new(4, 2, 128);
    let (old, new) = (text(0, 64, 1), text(0, 64, 2));
    for prompt in [&old, &new] {
        assert_eq!(pool.reserve(0, 65, prompt, 0), Some(0));
        pool.tell(0, prompt, 64);
        pool.release(0);
        pool.assert_whole();
    }
    // Of four blocks one is free, and of the idle what is left of the older prompt goes first.
    assert_eq!(reserve(&mut pool, 1, 64), Some(0));
    pool.assert_whole();
    pool.release(1);
    let longer = |prompt: &[u32]| [prompt, &[1][..]].concat();
    assert_eq!(
        pool.reserve(0, 65, &longer(&new), 0),
        Some(64),
        "the newer is whole"
    );
    pool.release(0);
    assert_ne!(pool.reserve(0, 65, &longer(&old), 0), Some(64));
    pool.assert_whole();
}

/// Hits wanted where the blocks left would not do: known ones that are idle count once, not as a hit and as free.
#[test]
fn an_idle_block_is_not_both_a_hit_and_free() {
    let mut pool = KvPool::new(4, 2, 128);
    let prompt = text(65, 0, 0);
    assert_eq!(pool.reserve(0, 65, &prompt, 0), Some(0));
    pool.tell(0, &prompt, 64);
    pool.release(0);
    assert_eq!(reserve(&mut pool, 1, 32), Some(0), "one of four");
    // Two are idle hits, one is free: three blocks can be had, four cannot.
    assert_eq!(pool.reserve(0, 128, &prompt, 0), None);
    assert_eq!(pool.reserve(0, 96, &prompt, 0), Some(64));
    pool.assert_whole();
}

#[test]
fn random_use_conserves_blocks() {
    let mut state = 9u64;
    let mut draw = |below: u32| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u32::try_from(state >> 33).unwrap() % below
    };
    let mut pool = KvPool::new(37, 16, 320);
    let mut live: [Option<(Vec<u32>, u32)>; 16] = std::array::from_fn(|_| None);
    let mut hits = 0;
    for id in 0..10_000 {
        let sequence = draw(16);
        if let Some((prompt, computed)) = live[sequence as usize].take() {
            pool.tell(sequence, &prompt, computed);
            pool.release(sequence);
            pool.assert_whole();
            continue;
        }
        let (common, own) = (draw(200), 1 + draw(100));
        let prompt = text(common, own, id);
        if let Some(cached) = pool.reserve(sequence, common + own + draw(20), &prompt, 0) {
            hits += u32::from(cached > 0);
            let computed = cached + draw(common + own - cached + 1);
            live[sequence as usize] = Some((prompt, computed));
        }
        pool.assert_whole();
    }
    assert!(hits > 500, "{hits} hits");
}

/// What is pinned is everybody's, stays when the pool needs blocks, and what tenants add to it is their own.
#[test]
fn what_is_pinned_is_for_all_and_stays() {
    let mut pool = KvPool::new(12, 3, 256);
    let system = text(64, 10, 0);
    assert_eq!(pool.reserve(0, 75, &system, UNSALTED), Some(0));
    pool.tell(0, &system, 74);
    pool.release(0);
    assert_eq!(pool.pin(&system), 64);
    assert_eq!((pool.blocks_pinned(), pool.blocks_free()), (2, 10));
    pool.assert_whole();

    let (one, other) = (text(128, 10, 1), text(128, 10, 2));
    assert_eq!(pool.reserve(0, 150, &one, 7), Some(64), "one tenant");
    pool.tell(0, &one, 138);
    assert_eq!(pool.known(&other, 7), 128, "has more in common with itself");
    assert_eq!(pool.known(&other, 8), 64, "than with another");
    pool.release(0);
    pool.assert_whole();

    // Texts that need every block that may go.
    assert_eq!(pool.reserve(1, 256, &[], 9), Some(0));
    assert_eq!(pool.reserve(2, 64, &[], 9), Some(0));
    assert_eq!(pool.known(&one, 7), 64, "what is pinned stays");
    pool.release(1);
    pool.release(2);
    pool.assert_whole();
}

#[test]
fn a_whole_context_fits_beside_what_is_pinned() {
    let mut pool = KvPool::new(5, 1, 128);
    let system = text(100, 0, 0);
    assert_eq!(pool.reserve(0, 101, &system, UNSALTED), Some(0));
    pool.tell(0, &system, 100);
    pool.release(0);
    assert_eq!(pool.pin(&system), 32, "one of three blocks");
    assert_eq!(pool.reserve(0, 128, &[], 0), Some(0));
}

/// An adapter computes other keys and values than the base does, and than other adapters do, pinned text included.
#[test]
fn an_adapter_shares_with_itself_alone() {
    let mut pool = KvPool::new(24, 3, 256);
    let prompt = text(100, 10, 0);
    assert_eq!(pool.reserve(0, 110, &prompt, UNSALTED), Some(0));
    pool.tell(0, &prompt, 110);
    pool.release(0);
    assert_eq!(pool.pin(&prompt), 96);
    let adapted = Salt::of_adapter(7, 1);
    assert_eq!(
        pool.reserve(0, 110, &prompt, adapted),
        Some(0),
        "not the base's"
    );
    pool.tell(0, &prompt, 110);
    pool.release(0);
    assert_eq!(pool.known(&prompt, adapted), 96, "its own");
    assert_eq!(
        pool.known(&prompt, Salt::of_adapter(7, 2)),
        0,
        "not another adapter's"
    );
    assert_eq!(
        pool.known(&prompt, Salt::of_adapter(8, 1)),
        0,
        "not another tenant's"
    );
    assert_eq!(pool.known(&prompt, 7), 96, "the base has what is pinned");
    pool.assert_whole();
}
