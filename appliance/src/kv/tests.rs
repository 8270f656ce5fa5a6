use super::*;

#[test]
fn blocks_come_back_whole() {
    let mut pool = KvPool::new(8, 3, 128);
    assert!(pool.reserve(0, 65), "three blocks");
    assert!(pool.reserve(1, 128), "four blocks");
    assert!(
        !pool.reserve(2, 33),
        "one is left, two are needed: none is taken"
    );
    assert_eq!(pool.blocks_free(), 1);
    pool.assert_whole();
    pool.release(0);
    assert!(pool.reserve(2, 33));
    pool.release(1);
    pool.release(2);
    assert_eq!(pool.blocks_free(), 8);
    pool.assert_whole();
}

#[test]
fn a_position_is_found_through_the_table() {
    let mut pool = KvPool::new(4, 2, 64);
    assert!(pool.reserve(1, 1));
    assert!(pool.reserve(0, 64));
    assert_eq!(pool.tables().locate(1, 0), (0, 0));
    assert_eq!(pool.tables().locate(0, 31), (1, 31));
    assert_eq!(pool.tables().locate(0, 32), (2, 0));
}

#[test]
#[should_panic(expected = "inside the reservation")]
fn a_position_outside_of_the_reservation_is_our_bug() {
    let mut pool = KvPool::new(4, 1, 64);
    assert!(pool.reserve(0, 10));
    let _ = pool.tables().locate(0, 40);
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
    let mut live = [false; 16];
    for _ in 0..10_000 {
        let sequence = draw(16);
        let is_live = &mut live[sequence as usize];
        if *is_live {
            pool.release(sequence);
            *is_live = false;
        } else {
            *is_live = pool.reserve(sequence, 1 + draw(320));
        }
        pool.assert_whole();
    }
}
