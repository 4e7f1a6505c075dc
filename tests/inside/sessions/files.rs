//! What is saved comes back to the bit, and what there is no room for goes.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::compute::gpu::GpuOptions;
use crate::engine::ExpertBudget;
use crate::inside::open_on;
use crate::state::SessionFolder;

use super::*;

pub(super) const ROOM: u64 = 1 << 40;

pub(super) fn folder(path: &Path) -> SessionFolder {
    SessionFolder::open(path, ROOM).unwrap()
}

/// Names of the session files in a folder.
pub(super) fn names(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

pub(super) fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|n| (n * 37 + 11) % 100).collect()
}

fn check_restart(device: Device, kv: KvFormat) {
    let directory = tempfile::tempdir().unwrap();
    let decode = |session: &mut Session<'_>| {
        let logits = [5, 17, 80, 3].map(|token| {
            session.decode(token).unwrap();
            bits(&session.logits().unwrap())
        });
        logits.to_vec()
    };
    let tokens = prompt(40);
    let mut first = engine_with(&tiny(), device, 16, kv);
    let mut session = first.session().unwrap();
    session.keep_checkpoints(CheckpointOptions { every: 16, ..EVERYWHERE });
    sync(&mut session, &tokens, &[20]);
    let said = decode(&mut session);
    let timeline = session.tokens().to_vec();
    session.save(&mut folder(directory.path())).unwrap().unwrap();
    let expected = decode(&mut session);
    assert!(said != expected);

    let mut second = engine_with(&tiny(), device, 64, kv);
    let mut session = second.session().unwrap();
    session.keep_checkpoints(EVERYWHERE);
    let next = [&timeline[..], &[1, 2]].concat();
    let restored = session.restore(&folder(directory.path()), &next).unwrap();
    assert_eq!((restored.tokens, restored.refused.len()), (44, 0), "{restored:?}");
    assert_eq!((session.tokens(), session.checkpoints()), (&timeline[..], vec![16, 20, 32, 44]));
    assert!(decode(&mut session) == expected, "{device:?}: other bits after a restart");
    // the session has more than the file now
    assert_eq!(session.restore(&folder(directory.path()), &next).unwrap().tokens, 0);

    // a prompt that parts from the timeline starts at a checkpoint of the file
    let other = [&timeline[..30], &[1, 2, 3]].concat();
    let mut fresh = second.session().unwrap();
    sync(&mut fresh, &other, &[]);
    let expected = fresh.logits().unwrap();
    let mut session = second.session().unwrap();
    assert_eq!(session.restore(&folder(directory.path()), &other).unwrap().tokens, 20);
    assert_eq!((session.tokens(), session.checkpoints()), (&tokens[..20], vec![16, 20]));
    let synced = sync(&mut session, &other, &[]);
    assert_eq!((synced.reused, synced.computed), (20, 13));
    // what lies between two codes may get either where the delta rule goes by other chunks
    let codes = if device == Device::Gpu && kv != KvFormat::F32 { 0.5 } else { 0.0 };
    let found = session.logits().unwrap();
    assert!(
        agree(device, &found, &expected) || largest_difference(&found, &expected) < codes,
        "{device:?}, {kv:?}: other logits from a checkpoint of a file"
    );
}

#[test]
fn a_restart_on_each_device() {
    DEVICES.into_iter().for_each(|device| check_restart(device, KvFormat::F32));
}

#[test]
fn a_restart_with_each_format() {
    for kv in [KvFormat::F16, KvFormat::Q8, KvFormat::Tq4, KvFormat::K8v4] {
        check_restart(Device::Cpu, kv);
    }
    check_restart(Device::Gpu, KvFormat::K8v4);
}

/// A file of another format is refused with the option that reads it, and is there for an engine that has it.
#[test]
fn another_format_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = prompt(40);
    let mut first = engine_with(&tiny(), Device::Cpu, 16, KvFormat::K8v4);
    let mut session = first.session().unwrap();
    sync(&mut session, &tokens, &[]);
    session.save(&mut folder(directory.path())).unwrap();
    let next = [&tokens[..], &[1, 2]].concat();
    for kv in [KvFormat::F16, KvFormat::Q8] {
        let mut other = engine_with(&tiny(), Device::Cpu, 16, kv);
        let restored = other.session().unwrap().restore(&folder(directory.path()), &next).unwrap();
        let said = restored.refused[0].to_string();
        assert!(restored.tokens == 0 && said.ends_with("(hint: --kv k8v4)"), "{said}");
    }
    let mut same = engine_with(&tiny(), Device::Cpu, 64, KvFormat::K8v4);
    assert_eq!(same.session().unwrap().restore(&folder(directory.path()), &next).unwrap().tokens, 40);
}

/// Options that change no bits, or which device computes, do not make it another model.
#[test]
fn other_options_find_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = prompt(40);
    let mut first = engine(&tiny(), Device::Cpu, 16);
    let mut session = first.session().unwrap();
    sync(&mut session, &tokens, &[]);
    session.save(&mut folder(directory.path())).unwrap();
    for device in DEVICES {
        let (look_ahead, activations, context, kv) = (3, Activations::F32, Some(64), KvFormat::F32);
        let experts = ExpertBudget::Bytes(4_000_000);
        let options =
            EngineOptions { device, look_ahead, activations, experts, context, kv, ..EngineOptions::default() };
        let mut second = Engine::open(&tiny(), &options).unwrap();
        let mut session = second.session().unwrap();
        let restored = session.restore(&folder(directory.path()), &[&tokens[..], &[1]].concat()).unwrap();
        assert_eq!((restored.tokens, restored.refused.len()), (40, 0), "{device:?}");
    }
}

/// More positions than one block of a file or one window of a GPU cache holds; a file of the GPU goes on on the CPU.
#[test]
fn a_long_timeline_in_windows() {
    let directory = tempfile::tempdir().unwrap();
    let open = |device, binding| {
        let gpu = GpuOptions { binding, ..GpuOptions::default() };
        let (context, activations) = (Some(1300), Activations::F32);
        open_on(&tiny(), &EngineOptions { device, context, activations, ..EngineOptions::default() }, gpu)
    };
    let tokens = prompt(1200);
    let mut windows = open(Device::Gpu, 1 << 16);
    let mut session = windows.session().unwrap();
    sync(&mut session, &tokens[..1150], &[]);
    session.save(&mut folder(directory.path())).unwrap();
    sync(&mut session, &tokens, &[]);
    let expected = session.logits().unwrap();

    let mut session = windows.session().unwrap();
    assert_eq!(session.restore(&folder(directory.path()), &tokens).unwrap().tokens, 1150);
    assert_eq!(sync(&mut session, &tokens, &[]).computed, 50);
    assert!(bits(&session.logits().unwrap()) == bits(&expected), "other bits in windows");

    for (device, binding) in [(Device::Gpu, u64::MAX), (Device::Cpu, 0)] {
        let mut other = open(device, binding);
        let mut session = other.session().unwrap();
        assert_eq!(session.restore(&folder(directory.path()), &tokens).unwrap().tokens, 1150);
        sync(&mut session, &tokens, &[]);
        let difference = largest_difference(&session.logits().unwrap(), &expected);
        assert!(difference <= 3e-4, "{device:?}: logits differ by {difference}");
    }
}

/// A model without recurrent state goes on from any position of a file.
#[test]
fn attention_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = engine(&tiny().with_file_name("mini_q3moe"), Device::Cpu, 16);
    let tokens: Vec<u32> = prompt(30).iter().map(|id| id % 64).collect();
    let mut session = engine.session().unwrap();
    sync(&mut session, &tokens, &[]);
    let expected = bits(&session.logits().unwrap());
    session.save(&mut folder(directory.path())).unwrap();
    let mut session = engine.session().unwrap();
    let restored = session.restore(&folder(directory.path()), &[&tokens[..13], &[63, 62]].concat()).unwrap();
    assert_eq!((restored.tokens, session.tokens()), (13, &tokens[..13]));
    sync(&mut session, &tokens, &[]);
    assert!(bits(&session.logits().unwrap()) == expected, "other bits");
}

/// A turn replaces the file of the turn before, in the same program and in the next; other conversations stay.
#[test]
fn a_conversation_has_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = engine(&tiny(), Device::Cpu, 64);
    let mut session = engine.session().unwrap();
    let mut sessions = folder(directory.path());
    let tokens = prompt(60);
    assert_eq!(session.save(&mut sessions).unwrap(), None);
    sync(&mut session, &[9, 8, 7], &[]);
    let other = session.save(&mut folder(directory.path())).unwrap().unwrap();
    sync(&mut session, &tokens[..20], &[10]);
    session.save(&mut sessions).unwrap();
    // the next turn drops some of the last one, as templates do with thoughts
    let next = [&tokens[..15], &[1, 2, 3, 4, 5, 6, 7, 8][..]].concat();
    sync(&mut session, &next, &[]);
    let second = session.save(&mut sessions).unwrap().unwrap();
    let mut expected = vec![other, second];
    expected.sort();
    let names_of = |paths: &[PathBuf]| -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(directory.path()), names_of(&expected));
    // a program that knows nothing of it goes on where the timeline ends
    sync(&mut session, &[&next[..], &[1]].concat(), &[]);
    let third = session.save(&mut folder(directory.path())).unwrap().unwrap();
    expected.retain(|path| path.exists());
    expected.push(third);
    expected.sort();
    assert_eq!((names(directory.path()), expected.len()), (names_of(&expected), 2));
}

/// Files beyond the space go, those first that were not used for the longest time.
#[test]
fn the_oldest_make_room() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = engine(&tiny(), Device::Cpu, 64);
    let mut session = engine.session().unwrap();
    session.keep_checkpoints(CheckpointOptions::none());
    let prompts: Vec<Vec<u32>> = (0..4).map(|n| vec![n, 1, 2, 3, 4]).collect();
    let mut save = |n: usize, space: u64, minutes: u64| {
        sync(&mut session, &prompts[n], &[]);
        let path = session.save(&mut SessionFolder::open(directory.path(), space).unwrap()).unwrap().unwrap();
        let time = SystemTime::now() - Duration::from_secs(60 * minutes);
        File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
        path
    };
    let first = save(0, ROOM, 50);
    let bytes = fs::metadata(&first).unwrap().len();
    let second = save(1, 2 * bytes, 40);
    let third = save(2, 3 * bytes, 30);
    assert!(first.exists() && second.exists() && third.exists());
    // the first is used again
    let mut session = engine.session().unwrap();
    let used = [&prompts[0][..], &[9]].concat();
    assert_eq!(session.restore(&folder(directory.path()), &used).unwrap().path, Some(first.clone()));
    session.keep_checkpoints(CheckpointOptions::none());
    sync(&mut session, &prompts[3], &[]);
    let fourth = session.save(&mut SessionFolder::open(directory.path(), 3 * bytes).unwrap()).unwrap().unwrap();
    assert_eq!([&first, &second, &third, &fourth].map(|path| path.exists()), [true, false, true, true]);
    // one that alone is too large is not written, and nothing goes for it
    let error = session.save(&mut SessionFolder::open(directory.path(), bytes - 1).unwrap()).unwrap_err().to_string();
    assert!(error.contains("its folder may hold") && error.contains("--session-space"), "{error}");
    assert_eq!(names(directory.path()).len(), 3);
}
