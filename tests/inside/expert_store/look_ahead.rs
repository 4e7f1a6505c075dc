//! Experts that are read before anybody asks for them.

use std::time::{Duration, Instant};

use crate::inside::faulty_reader::Fault;

use super::model::{Model, Shape, slots_of};

#[test]
fn what_was_read_ahead_is_a_hit() {
    let model = Model::new(2, 8, Shape::Pack);
    let (mut store, memory) = model.store(8, 2);
    store.prefetch(1, &[3, 5]).unwrap();
    let acquired = store.acquire(1, &[5, 6]).unwrap();
    store.wait(&slots_of(&acquired)).unwrap();
    for a in acquired {
        model.assert_holds(&memory, 1, a);
    }
    let stats = store.stats();
    assert_eq!((stats.hits, stats.misses, stats.ahead, stats.ahead_used), (1, 1, 2, 1));
    // asked for again it is an expert like any other
    store.acquire(1, &[5]).unwrap();
    assert_eq!(store.stats().ahead_used, 1);
}

#[test]
fn it_takes_no_slot_of_the_current_request() {
    let model = Model::new(2, 8, Shape::Pack);
    // one set of three slots for both layers
    let (mut store, memory) = model.store(3, 2);
    let acquired = store.acquire(0, &[0, 1]).unwrap();
    store.prefetch(1, &[4, 5, 6]).unwrap();
    store.wait(&slots_of(&acquired)).unwrap();
    for a in acquired {
        model.assert_holds(&memory, 0, a);
    }
    assert_eq!(store.stats().ahead, 1, "there was one slot to have");
    assert!(store.prefetch(2, &[0]).is_err() && store.prefetch(0, &[8]).is_err());
}

#[test]
fn what_nobody_asked_for_leaves_first() {
    let model = Model::new(1, 8, Shape::Pack);
    let (mut store, _memory) = model.store(4, 2);
    for experts in [[0, 1], [0, 2]] {
        let acquired = store.acquire(0, &experts).unwrap();
        store.wait(&slots_of(&acquired)).unwrap();
    }
    store.prefetch(0, &[7]).unwrap();
    // a slot that is being read into does not leave
    while store.slot_of(0, 7).is_none() {
        store.acquire(0, &[0]).unwrap();
    }
    let acquired = store.acquire(0, &[0, 3]).unwrap();
    store.wait(&slots_of(&acquired)).unwrap();
    for (expert, kept) in [(0, true), (1, true), (2, true), (3, true), (7, false)] {
        assert_eq!(store.slot_of(0, expert).is_some(), kept, "expert {expert}");
    }
    // neither does it push out what is predicted with it
    store.prefetch(0, &[1, 6]).unwrap();
    assert!(store.slot_of(0, 1).is_some());
}

/// Guesses that nobody waits for end in memory that the reads somebody waits for need.
#[test]
fn a_guess_that_lands_lets_the_caller_go_on() {
    let model = Model::new(1, 8, Shape::Pack);
    let stall = |index| (index == 1).then_some(Fault::Stall(Duration::from_millis(300)));
    // the guess is read first, the stalled expert second
    let (mut store, _memory) = model.store_with(4, 2, model.faulty(stall));
    store.prefetch(0, &[6]).unwrap();
    let acquired = store.acquire(0, &[2]).unwrap();
    let mut pending = slots_of(&acquired);
    let (mut calls, start) = (0, Instant::now());
    while !pending.is_empty() {
        let landed = store.wait_some(&mut pending);
        calls += 1;
        if calls == 1 && start.elapsed() < Duration::from_millis(150) {
            assert!(landed.is_empty(), "the guess alone has landed");
        }
    }
    assert!(calls <= 3, "{calls} calls: it waits rather than spins");
}

#[test]
fn a_failed_guess_is_nobodys_error() {
    let model = Model::new(1, 8, Shape::Pack);
    let reader = model.faulty(|index| (index == 0).then_some(Fault::InputOutput));
    let (mut store, memory) = model.store_with(4, 2, reader);
    store.prefetch(0, &[2]).unwrap();
    loop {
        // it fails at some time from now on; then the expert is read like any other
        let acquired = store.acquire(0, &[2]).unwrap();
        if store.wait(&slots_of(&acquired)).is_ok() {
            model.assert_holds(&memory, 0, acquired[0]);
            break;
        }
    }
}
