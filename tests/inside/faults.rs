//! Disks that fail while text is made: the error names the file, the layer and the expert, and the engine goes on with
//! its next session as if nothing had been.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::compute::gpu::GpuOptions;
use crate::engine::{Device, Engine, EngineOptions, ExpertBudget};
use crate::experts::{FileReader, Reads};
use crate::generate::{Event, Finish, GenerateOptions, Generated, generate};
use crate::inside::faulty_reader::{Fault, FaultyReader};
use crate::model::ModelSource;
use crate::session::SessionError;
use crate::text::{Sampler, SamplerOptions};
use crate::weights::ExpertFile;

const TOKENS: usize = 24;
const DEVICES: [Device; 2] = [Device::Cpu, Device::Gpu];
/// No read is to fail.
const NEVER: u64 = u64::MAX;

/// An engine of the small MoE with room for half of the experts, and the index of the read that is to fail.
struct Setup {
    engine: Engine,
    reader: Arc<FaultyReader>,
    failing: Arc<AtomicU64>,
}

impl Setup {
    fn new(device: Device, fault: Fault) -> Setup {
        let source = ModelSource::embedded().unwrap();
        let failing = Arc::new(AtomicU64::new(NEVER));
        let which = failing.clone();
        let files = Arc::new(FileReader::open(source.experts()).unwrap());
        let fault = move |index| (index == which.load(Ordering::SeqCst)).then_some(fault);
        let reader = Arc::new(FaultyReader::new(files, fault));
        let bytes = source.experts().slot_bytes() * source.experts().experts() / 2;
        let experts = ExpertBudget::Bytes(bytes as u64);
        let options = EngineOptions { device, context: Some(128), experts, ..EngineOptions::default() };
        let engine = Engine::with_parts(source, reader.clone(), &options, GpuOptions::default()).unwrap();
        Setup { engine, reader, failing }
    }

    /// The read that comes after `reads` more is to fail.
    fn fail_after(&self, reads: u64) {
        self.failing.store(self.reader.reads() + reads, Ordering::SeqCst);
    }

    fn text(&mut self) -> Result<Vec<u32>, SessionError> {
        let tokenizer = self.engine.tokenizer().unwrap();
        let mut greedy = Sampler::new(SamplerOptions::default(), 0).unwrap();
        let options = GenerateOptions { max_tokens: TOKENS, ..GenerateOptions::default() };
        let ids = tokenizer.encode("Once upon a time").unwrap();
        let mut session = self.engine.session().unwrap();
        let made: Generated = generate(&mut session, &tokenizer, &mut greedy, &ids, &options, |_| true)?;
        assert_eq!(made.tokens.len(), TOKENS);
        Ok(made.tokens)
    }
}

/// What the error says when `fault` hits the first read of a text, one in its middle, and one of its last; after each
/// the text must come out right.
fn errors_of(device: Device, fault: Fault) -> Vec<String> {
    let mut setup = Setup::new(device, fault);
    let expected = setup.text().unwrap();
    let reads = setup.reader.reads();
    assert!(reads > 100, "{device:?}: {reads} reads are too few to fail in the middle");
    // the slots hold what the end of the text needed: a new engine counts its reads as the first text did
    [0, reads / 2, reads - 2]
        .map(|index| {
            let mut setup = Setup::new(device, fault);
            setup.fail_after(index);
            let error = setup.text().unwrap_err();
            assert!(matches!(error, SessionError::Execute(_)), "{device:?}: {error}");
            for _ in 0..2 {
                assert!(setup.text().unwrap() == expected, "{device:?}: another text after {fault:?}");
            }
            error.to_string()
        })
        .to_vec()
}

fn check(fault: Fault, parts: &[&str]) {
    for device in DEVICES {
        for error in errors_of(device, fault) {
            for part in ["experts/layer-00", "layer ", "expert "].iter().chain(parts) {
                assert!(error.contains(part), "{device:?}: {part:?} is not in {error:?}");
            }
        }
    }
}

#[test]
fn short_read() {
    check(Fault::ShortRead(1000), &["short read at offset", "expected ", "found 1000"]);
}

#[test]
fn input_output_error() {
    check(Fault::InputOutput, &["cannot read", "at offset", "input/output error"]);
}

#[test]
fn damaged_record() {
    check(Fault::Corrupt(4321), &["damaged record", "expected checksum", "found"]);
}

#[test]
fn panic_on_a_reading_thread() {
    for device in DEVICES {
        for error in errors_of(device, Fault::Panic) {
            assert!(
                error.contains("expert ") && error.contains("layer ") && error.contains("injected panic"),
                "{error}"
            );
        }
    }
}

/// A slow read is waited for, and counted.
#[test]
fn stall() {
    const STALL: Duration = Duration::from_secs(2);
    for device in DEVICES {
        let expected = Setup::new(device, Fault::Stall(STALL)).text().unwrap();
        let mut setup = Setup::new(device, Fault::Stall(STALL));
        setup.fail_after(60);
        let start = Instant::now();
        assert!(setup.text().unwrap() == expected, "{device:?}: another text");
        assert!(start.elapsed() >= STALL);
        let stalled = setup.engine.session().unwrap().expert_stats().stall_time;
        assert!(stalled >= STALL / 2, "{device:?}: {stalled:?} stalled");
    }
}

/// Whoever asks for an end while the disk stalls gets it when the disk is back, and the engine goes on.
#[test]
fn an_interrupt_in_the_middle_of_reads() {
    const STALL: Duration = Duration::from_secs(1);
    for device in DEVICES {
        let expected = Setup::new(device, Fault::Stall(STALL)).text().unwrap();
        let mut setup = Setup::new(device, Fault::Stall(STALL));
        setup.fail_after(setup.reader.reads() + 150);
        let stop = Arc::new(AtomicBool::new(false));
        let (reader, stopping, failing) = (setup.reader.clone(), stop.clone(), setup.failing.clone());
        let watch = std::thread::spawn(move || {
            while reader.reads() <= failing.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            stopping.store(true, Ordering::SeqCst);
        });
        let tokenizer = setup.engine.tokenizer().unwrap();
        let mut greedy = Sampler::new(SamplerOptions::default(), 0).unwrap();
        let options = GenerateOptions { max_tokens: TOKENS, ..GenerateOptions::default() };
        let ids = tokenizer.encode("Once upon a time").unwrap();
        let start = Instant::now();
        let mut session = setup.engine.session().unwrap();
        let go_on = |_| !stop.load(Ordering::SeqCst);
        let made = generate(&mut session, &tokenizer, &mut greedy, &ids, &options, go_on).unwrap();
        assert_eq!(made.finish, Finish::Interrupted, "{device:?}");
        assert!(made.tokens.len() < TOKENS && expected.starts_with(&made.tokens), "{device:?}: {:?}", made.tokens);
        assert!(start.elapsed() < 20 * STALL);
        watch.join().unwrap();
        assert!(setup.text().unwrap() == expected, "{device:?}: another text after an interrupt");
    }
}

/// A slow disk makes a chunk of a prompt take many seconds: whoever asks for an end gets it within one, reads that nobody
/// wants do not begin, what was read of the prompt stays, and the same text comes afterwards.
#[test]
fn a_prompt_ends_within_a_second_on_a_slow_disk() {
    const STALL: Duration = Duration::from_millis(200);
    const CHUNK: usize = 64;
    // reads that threads make at a time
    const IN_FLIGHT: u64 = 16;
    for device in DEVICES {
        let source = ModelSource::embedded().unwrap();
        let is_slow = Arc::new(AtomicBool::new(false));
        let slow = is_slow.clone();
        let files = Arc::new(FileReader::open(source.experts()).unwrap());
        let fault = move |_| slow.load(Ordering::SeqCst).then_some(Fault::Stall(STALL));
        let reader = Arc::new(FaultyReader::new(files, fault));
        let bytes = source.experts().slot_bytes() * source.experts().experts() / 2;
        let experts = ExpertBudget::Bytes(bytes as u64);
        let options =
            EngineOptions { device, chunk: Some(CHUNK), context: Some(256), experts, ..EngineOptions::default() };
        let mut engine = Engine::with_parts(source, reader.clone(), &options, GpuOptions::default()).unwrap();
        let tokenizer = engine.tokenizer().unwrap();
        let story = "Once upon a time there was a little fox who lived in a wood by the sea. ";
        let ids = tokenizer.encode(&story.repeat(12)).unwrap()[..3 * CHUNK].to_vec();
        let options = GenerateOptions { max_tokens: 4, boundaries: vec![CHUNK], ..GenerateOptions::default() };
        let mut greedy = Sampler::new(SamplerOptions::default(), 0).unwrap();
        let mut session = engine.session().unwrap();
        let expected = generate(&mut session, &tokenizer, &mut greedy, &ids, &options, |_| true).unwrap();

        let mut session = engine.session().unwrap();
        let (mut second_chunk, mut asked, mut longest) = (None, Instant::now(), Duration::ZERO);
        let left_after = Duration::from_millis(700);
        let mut reads_when_left = None;
        let made = generate(&mut session, &tokenizer, &mut greedy, &ids, &options, |event| {
            if let Event::Prefill { done: CHUNK, .. } = event {
                is_slow.store(true, Ordering::SeqCst);
                second_chunk = Some(Instant::now());
                asked = Instant::now();
            }
            let Some(since) = second_chunk else { return true };
            longest = longest.max(asked.elapsed());
            asked = Instant::now();
            let goes_on = since.elapsed() < left_after;
            if !goes_on {
                reads_when_left.get_or_insert(reader.reads());
            }
            goes_on
        })
        .unwrap();
        let (left, reads) = (second_chunk.unwrap().elapsed() - left_after, reader.reads());
        let more = reads - reads_when_left.unwrap();
        println!("{device:?}: asked at least every {longest:?}, ended {left:?} after it should, {more} reads later");
        // a second, on a machine that does nothing else; whatever else it does, no more than was on its way
        assert!(left < Duration::from_secs(1) || more <= IN_FLIGHT, "{device:?}: {left:?} and {more} reads later");
        assert_eq!((made.finish, made.reused, made.computed), (Finish::Interrupted, 0, CHUNK), "{device:?}");
        std::thread::sleep(2 * STALL);
        assert_eq!(reader.reads(), reads, "{device:?}: experts are read that nobody wants");

        is_slow.store(false, Ordering::SeqCst);
        let again = generate(&mut session, &tokenizer, &mut greedy, &ids, &options, |_| true).unwrap();
        assert_eq!((&again.tokens, again.reused), (&expected.tokens, CHUNK), "{device:?}");
    }
}

/// The file of the experts is cut while text is made, by whichever kind of read: the error says where it ends; once
/// the file is whole again, the same engine makes the text.
#[test]
fn a_file_cut_while_text_is_made() {
    let folder = tempfile::tempdir().unwrap();
    for device in DEVICES {
        for reads in [Reads::Cached, Reads::Direct, Reads::Threads] {
            let mut source = ModelSource::embedded().unwrap();
            let mut files = Vec::new();
            for (n, file) in source.weights.experts.files.iter_mut().enumerate() {
                let ExpertFile::Memory { bytes, .. } = file else { panic!("the model in the program is in memory") };
                let path = folder.path().join(format!("layer-{n}.bin"));
                std::fs::write(&path, &*bytes).unwrap();
                files.push((path.clone(), bytes.clone()));
                *file = ExpertFile::Path(path);
            }
            let bytes = source.experts().slot_bytes() * source.experts().experts() / 4;
            let experts = ExpertBudget::Bytes(bytes as u64);
            let options = EngineOptions { device, reads, context: Some(128), experts, ..EngineOptions::default() };
            let engine = Engine::from_source(source, &options).unwrap();
            let mut setup = Setup { engine, ..Setup::new(Device::Cpu, Fault::InputOutput) };
            let expected = setup.text().unwrap();
            for (path, bytes) in &files {
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(bytes.len() as u64 / 20).unwrap();
            }
            let error = setup.text().unwrap_err().to_string();
            for part in ["layer-", ".bin", "short read at offset", "expected ", "found "] {
                assert!(error.contains(part), "{device:?}, {reads:?}: {part:?} is not in {error:?}");
            }
            files.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
            assert!(setup.text().unwrap() == expected, "{device:?}, {reads:?}: another text");
        }
    }
}

/// Somebody else needs memory, and then no longer, in the middle of a text: the same text.
#[test]
fn memory_pressure() {
    for device in DEVICES {
        let mut setup = Setup::new(device, Fault::InputOutput);
        let expected = setup.text().unwrap();
        let slots = setup.engine.plan().slots;
        let tokenizer = setup.engine.tokenizer().unwrap();
        let mut greedy = Sampler::new(SamplerOptions::default(), 0).unwrap();
        let mut session = setup.engine.session().unwrap();
        let prompt = tokenizer.encode("Once upon a time").unwrap();
        session.extend(&prompt, crate::compute::LogitRows::Last, |_, _| true).unwrap();
        let mut made = Vec::new();
        for limit in [slots, 0, 0, slots / 2, slots, 1, slots].into_iter().cycle().take(TOKENS) {
            session.limit_experts(limit);
            let next = session.sample(&mut greedy, tokenizer.vocab_size()).unwrap();
            session.decode(next).unwrap();
            made.push(next);
        }
        assert!(made == expected, "{device:?}: another text");
        assert!(session.expert_stats().evictions > 0);
    }
}

/// A session whose step failed halfway does not go on: part of its layers have seen the token.
#[test]
fn a_broken_session_says_so() {
    use crate::compute::LogitRows;
    for device in DEVICES {
        let mut setup = Setup::new(device, Fault::InputOutput);
        setup.fail_after(3);
        let mut session = setup.engine.session().unwrap();
        assert!(session.extend(&[1, 2, 3], LogitRows::Last, |_, _| true).is_err());
        let again = session.extend(&[1], LogitRows::Last, |_, _| true).unwrap_err();
        assert!(matches!(again, SessionError::Broken), "{again}");
    }
}
