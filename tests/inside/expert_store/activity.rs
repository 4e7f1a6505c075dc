//! What the store tells those who look.

use std::time::Instant;

use super::*;
use crate::experts::ExpertState::{Left, Read, There, Used};

#[test]
fn who_looks_sees_what_is_in_memory_used_and_read() {
    let model = Model::new(2, 6, Shape::Pack);
    let (mut store, _memory) = model.store(8, 4);
    let activity = store.activity().clone();
    take(&mut store, 0, &[0, 1, 2, 3]).unwrap();
    // nobody looks yet: uses are not written down, what came into memory is
    take(&mut store, 0, &[1]).unwrap();
    let mut seen = 0;
    activity.watch(true);
    assert_eq!(activity.changes_since(&mut seen), [0, 1, 2, 3].map(|expert| (0, expert, There)));
    assert_eq!(activity.layers(), [6, 6]);
    take(&mut store, 0, &[1, 2, 3]).unwrap();
    assert_eq!(activity.changes_since(&mut seen), [1, 2, 3].map(|expert| (0, expert, Used)));
    // the one that was not used makes room
    take(&mut store, 0, &[5]).unwrap();
    take(&mut store, 1, &[2]).unwrap();
    let changes = activity.changes_since(&mut seen);
    for change in [(0, 0, Left), (0, 5, Read), (1, 2, Read)] {
        assert!(changes.contains(&change), "{changes:?}");
    }
    let stats = activity.stats();
    assert_eq!((stats.hits, stats.misses), (store.stats().hits, store.stats().misses));
    // the last request may be told twice, nothing else
    assert!(activity.changes_since(&mut seen).iter().all(|change| *change == (1, 2, Read)));
    activity.watch(false);
    take(&mut store, 0, &[1]).unwrap();
    assert!(!activity.changes_since(&mut seen).iter().any(|(_, expert, _)| *expert == 1));
}

/// What looking costs: `cargo test --release --lib -- --ignored --nocapture looking_costs`. A token of the 35B makes 40
/// requests for 8 experts each.
#[test]
#[ignore = "measures"]
fn what_looking_costs_a_token() {
    let model = Model::new(1, 16, Shape::Pack);
    let (mut store, _memory) = model.store(16, 4);
    let all: Vec<u32> = (0..16).collect();
    take(&mut store, 0, &all).unwrap();
    let activity = store.activity().clone();
    let mut time = |is_watched| {
        activity.watch(is_watched);
        let since = Instant::now();
        for _ in 0..1000 * 40 {
            store.acquire(0, &all[..8]).unwrap();
        }
        since.elapsed() / 1000
    };
    time(true);
    let (unwatched, watched) = (time(false), time(true));
    println!("requests of a token: {unwatched:?}, while somebody looks {watched:?}");
}
