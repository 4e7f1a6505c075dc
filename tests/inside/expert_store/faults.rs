//! Disks that fail, records that are damaged, layouts that contradict themselves.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::experts::{ExpertStore, FileReader, HostSlots, Reads, SlotMemory, StoreError};
use crate::inside::faulty_reader::Fault;
use crate::weights::{ExpertFile, ExpertLayout, Place};

use super::model::{HIDDEN, INTERMEDIATE, Model, Shape, slots_of, take};

fn error_of(change: impl Fn(&mut ExpertLayout)) -> String {
    let model = Model::new(2, 4, Shape::Snapshot);
    let mut layout = (*model.layout_of(2)).clone();
    change(&mut layout);
    let memory = Arc::new(HostSlots::new(8, layout.slot_bytes()).unwrap());
    let store = ExpertStore::new(Arc::new(layout), memory, model.reader(), 1);
    store.err().unwrap().to_string()
}

#[test]
fn contradictions_are_errors() {
    let missing = error_of(|l| drop(l.layers[1].parts.pop()));
    assert!(missing.starts_with("the experts of layer 1: no file holds the biases of down"), "{missing}");
    let overlap = error_of(|l| l.layers[0].parts[0].len += 1);
    assert!(overlap.contains("two parts overlap"), "{overlap}");
    let outside = error_of(|l| l.layers[0].parts[0].at = usize::MAX);
    assert!(outside.contains("expected parts within"), "{outside}");
    let file = error_of(|l| l.files.truncate(3));
    assert!(file.contains("expected one of 3 files, found file 3"), "{file}");
    let listed = error_of(|l| l.layers[0].parts[1].place = Place::Listed(vec![(0, 0)]));
    assert!(listed.contains("expected a place for each of 4 experts, found 1"), "{listed}");
    let checksums = error_of(|l| l.layers[0].checksums = Some(vec![0; 4]));
    assert!(checksums.contains("expected one part"), "{checksums}");
}

#[test]
fn a_file_too_short_or_missing_is_named_before_anything_is_read() {
    let model = Model::new(1, 4, Shape::Pack);
    let path = model.folder.path().join("layer-0-part-0.bin");
    let full = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(full - 7).unwrap();
    let error = FileReader::open(&model.layout).unwrap_err();
    let named = |path: &Path, error: &StoreError| error.to_string().starts_with(&path.display().to_string());
    assert!(named(&path, &error), "{error}");
    let StoreError::FileTooShort { expected, found, .. } = error else { panic!("{error}") };
    assert_eq!((expected, found), (full, full - 7));
    std::fs::remove_file(&path).unwrap();
    let error = FileReader::open(&model.layout).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }) && named(&path, &error), "{error}");
}

#[test]
fn offsets_beyond_64_bits_are_errors() {
    let model = Model::new(1, 4, Shape::Pack);
    let mut layout = (*model.layout).clone();
    layout.layers[0].parts[0].place = Place::Strided { file: 0, base: 0, stride: u64::MAX / 2 };
    let error = FileReader::open(&layout).unwrap_err();
    assert!(matches!(error, StoreError::Layout { layer: 0, .. }), "{error}");
}

/// The error of the first read of expert 5 of layer 1; afterwards the store must work as if nothing had been.
fn first_read_fails(shape: Shape, fault: Fault) -> StoreError {
    let model = Model::new(2, 8, shape);
    let reader = model.faulty(move |index| (index == 0).then_some(fault));
    let (mut store, memory) = model.store_with(8, 4, reader);
    let acquired = store.acquire(1, &[5]).unwrap();
    let error = store.wait(&slots_of(&acquired)).unwrap_err();
    assert_eq!(store.slot_of(1, 5), None);
    assert!(matches!(store.wait(&slots_of(&acquired)), Err(StoreError::EmptySlot { .. })));
    for experts in [[5, 1, 2, 3], [4, 5, 6, 7]] {
        let again = store.acquire(1, &experts).unwrap();
        store.wait(&slots_of(&again)).unwrap();
        for a in again {
            model.assert_holds(&memory, 1, a);
        }
    }
    error
}

#[test]
fn short_read() {
    let error = first_read_fails(Shape::Snapshot, Fault::ShortRead(3));
    let text = error.to_string();
    assert!(text.contains("layer-1-part-0.bin: short read"), "{text}");
    let StoreError::ShortRead { layer: 1, expert: 5, expected, found: 3, offset, .. } = error else { panic!("{text}") };
    assert_eq!(offset, 24 + 5 * expected as u64);
}

#[test]
fn input_output_error() {
    let error = first_read_fails(Shape::Pack, Fault::InputOutput);
    let text = error.to_string();
    assert!(matches!(error, StoreError::Read { layer: 1, expert: 5, .. }), "{text}");
    assert!(text.contains("layer-1-part-0.bin") && text.contains("input/output error"), "{text}");
}

#[test]
fn damaged_record() {
    let error = first_read_fails(Shape::Pack, Fault::Corrupt(100));
    let text = error.to_string();
    let StoreError::Checksum { layer: 1, expert: 5, expected, found, .. } = error else { panic!("{text}") };
    assert_ne!(expected, found);
    assert!(text.contains("layer-1-part-0.bin: damaged record of layer 1, expert 5"), "{text}");
}

/// Reads past the page cache give the same experts, and say the same when a file is cut while it is read.
#[test]
fn direct_reads_hold_the_same_and_fail_the_same() {
    for shape in [Shape::Pack, Shape::Snapshot] {
        let model = Model::new(2, 8, shape);
        let path = model.folder.path().join("layer-1-part-0.bin");
        let errors = [Reads::Cached, Reads::Direct, Reads::Threads].map(|reads| {
            let full = std::fs::read(&path).unwrap();
            let mut reader = FileReader::open_for(&model.layout, reads != Reads::Cached).unwrap();
            if reads == Reads::Threads {
                reader = reader.without_queue().unwrap();
                assert!(!reader.is_queued());
            }
            let reader = Arc::new(reader);
            let (mut store, memory) = model.store_with(4, 4, reader);
            for experts in [[0, 7, 3, 5], [1, 2, 4, 6]] {
                let acquired = store.acquire(1, &experts).unwrap();
                store.wait(&slots_of(&acquired)).unwrap();
                for a in acquired {
                    model.assert_holds(&memory, 1, a);
                }
            }
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(full.len() as u64 - 7).unwrap();
            let acquired = store.acquire(1, &[7]).unwrap();
            let error = store.wait(&slots_of(&acquired)).unwrap_err();
            std::fs::write(&path, full).unwrap();
            let again = store.acquire(1, &[7]).unwrap();
            store.wait(&slots_of(&again)).unwrap();
            model.assert_holds(&memory, 1, again[0]);
            let StoreError::ShortRead { layer: 1, expert: 7, expected, found, .. } = error else { panic!("{error}") };
            assert_eq!(expected - found, 7);
            error.to_string()
        });
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
        assert!(errors[0].starts_with(&path.display().to_string()), "{}", errors[0]);
    }
}

#[test]
fn automatic_reads_are_direct_when_memory_holds_less_than_twice_the_experts() {
    let model = Model::new(2, 8, Shape::Snapshot);
    let bytes = model.layout.disk_bytes();
    let each: usize = model.layout.slices(0, 0).map(|(_, _, len, _)| len).sum();
    assert_eq!(bytes, 2 * 8 * each as u64);
    assert!(!Reads::Auto.is_direct(&model.layout, 2 * bytes));
    assert!(Reads::Auto.is_direct(&model.layout, 2 * bytes - 2));
    assert!(Reads::Direct.is_direct(&model.layout, u64::MAX) && !Reads::Cached.is_direct(&model.layout, 0));
    let memory = ExpertFile::Memory { name: "memory", bytes: bytes::Bytes::new() };
    let in_memory = ExpertLayout { files: vec![memory; model.layout.files.len()], ..(*model.layout).clone() };
    assert!(!Reads::Auto.is_direct(&in_memory, 0));
}

#[test]
fn panic_of_a_reader() {
    let error = first_read_fails(Shape::Pack, Fault::Panic);
    assert!(error.to_string().contains("expert 5 of layer 1 panicked: injected panic"), "{error}");
}

#[test]
fn nan_scale_of_a_snapshot() {
    let model = Model::new(1, 4, Shape::Snapshot);
    let place = model.layout.layers[0].slot.gate;
    // up_proj is the second half of the rows; its scales are part 3
    let (file, offset, _, at) = model.layout.slices(0, 2).nth(3).unwrap();
    assert_eq!(at, place.streams[1] + INTERMEDIATE * place.format.stream_bytes(HIDDEN)[1]);
    let ExpertFile::Path(path) = &model.layout.files[file as usize] else { panic!("a file") };
    let mut bytes = std::fs::read(path).unwrap();
    let row_3_group_1 = offset as usize + (3 * 2 + 1) * 2;
    bytes[row_3_group_1..row_3_group_1 + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
    let (mut store, _memory) = model.store(4, 2);
    take(&mut store, 0, &[1]).unwrap();
    let text = take(&mut store, 0, &[2]).unwrap_err().to_string();
    assert!(text.contains("layer-0-part-3.bin: layer 0, expert 2: "), "{text}");
    assert!(text.contains("the scales of up_proj (row 3, group 1)"), "{text}");
}

#[test]
fn a_stall_ends() {
    let model = Model::new(1, 4, Shape::Pack);
    let stall = Duration::from_millis(100);
    let (mut store, memory) = model.store_with(4, 4, model.faulty(move |_| Some(Fault::Stall(stall))));
    let acquired = store.acquire(0, &[0, 1, 2, 3]).unwrap();
    assert!(acquired.iter().all(|a| !a.hit));
    store.wait(&slots_of(&acquired)).unwrap();
    for a in acquired {
        model.assert_holds(&memory, 0, a);
    }
    assert!(store.stats().stall_time >= stall && store.stats().read_time >= 4 * stall);
}

#[test]
fn the_first_failure_of_a_list_is_the_error_and_all_are_accounted_for() {
    let model = Model::new(1, 8, Shape::Pack);
    let reader = model.faulty(|index| (index < 4).then_some(Fault::InputOutput));
    let (mut store, _memory) = model.store_with(6, 6, reader);
    let acquired = store.acquire(0, &[6, 1, 2, 3, 4, 5]).unwrap();
    let mut failed = 0;
    let mut pending = slots_of(&acquired);
    while !pending.is_empty() {
        failed += store.wait_some(&mut pending).iter().filter(|(_, outcome)| outcome.is_err()).count();
    }
    assert_eq!(failed, 4);
    let (mut store, _memory) = model.store_with(6, 6, model.faulty(|_| Some(Fault::InputOutput)));
    let error = take(&mut store, 0, &[6, 1, 2]).unwrap_err();
    assert!(matches!(error, StoreError::Read { expert: 6, .. }), "{error}");
    assert_eq!(store.stats().bytes_read, 0);
}

#[test]
fn a_failure_that_nobody_waited_for_does_not_reach_the_next_request() {
    let model = Model::new(1, 8, Shape::Pack);
    let (mut store, memory) = model.store_with(2, 2, model.faulty(|index| (index < 2).then_some(Fault::InputOutput)));
    store.acquire(0, &[0, 1]).unwrap();
    let acquired = store.acquire(0, &[2, 3]).unwrap();
    store.wait(&slots_of(&acquired)).unwrap();
    for a in acquired {
        model.assert_holds(&memory, 0, a);
    }
}

#[test]
fn dropping_the_store_abandons_queued_reads() {
    let model = Model::new(1, 64, Shape::Pack);
    let reader = model.faulty(|_| Some(Fault::Stall(Duration::from_millis(100))));
    let (mut store, _memory) = model.store_with(64, 4, reader.clone());
    store.acquire(0, &(0..64).collect::<Vec<_>>()).unwrap();
    let start = Instant::now();
    drop(store);
    // 64 reads on 3 threads would take over two seconds
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(reader.reads() <= 6, "{}", reader.reads());
}

/// Slots that cannot be reached: what a lost GPU looks like to the store.
struct LostMemory(HostSlots);

impl SlotMemory for LostMemory {
    fn slots(&self) -> usize {
        self.0.slots()
    }

    fn slot_bytes(&self) -> usize {
        self.0.slot_bytes()
    }

    fn fill(&self, slot: usize, _read: &mut dyn FnMut(&mut [u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        Err(StoreError::Memory { slot, message: "the device is lost".to_owned() })
    }
}

#[test]
fn memory_that_is_lost_is_an_error() {
    let model = Model::new(1, 4, Shape::Pack);
    let memory = Arc::new(LostMemory(HostSlots::new(4, model.layout.slot_bytes()).unwrap()));
    let mut store = ExpertStore::new(model.layout_of(2), memory, model.reader(), 1).unwrap();
    let error = take(&mut store, 0, &[1]).unwrap_err();
    assert_eq!(error.to_string(), "expert slot 0: the device is lost");
}
