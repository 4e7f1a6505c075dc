//! What an engine does when the machine is hot or short of memory: it works less, or with less, and the text stays the
//! same.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use flashflood::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget, Suspension};
use flashflood::generate::{Event, Finish, GenerateOptions, Generated, generate};
use flashflood::model::ModelSource;
use flashflood::text::{Sampler, SamplerOptions};
use flashflood_backends::conditions::{Conditions, MemoryPressure, ThermalState};

const PROMPT: &str = "One sunny morning Mia the panda walked to the tower.";

const WELL: Conditions =
    Conditions { available: 1 << 60, memory: MemoryPressure::Normal, thermal: ThermalState::Nominal };

/// The small MoE on the processor, with `power` and as many experts in memory as there are.
fn engine(power: u32) -> Engine {
    let options = EngineOptions {
        device: Device::Cpu,
        activations: Activations::F32,
        context: Some(256),
        experts: ExpertBudget::Auto,
        power,
        ..EngineOptions::default()
    };
    let mut engine = Engine::from_source(ModelSource::embedded().unwrap(), &options).unwrap();
    // whatever the machine is that runs the tests
    engine.watch_conditions(Box::new(|| WELL));
    engine
}

/// `tokens` tokens after the prompt.
fn made(engine: &mut Engine, tokens: usize, on_event: impl FnMut(Event) -> bool) -> Generated {
    let tokenizer = engine.tokenizer().unwrap();
    let prompt = tokenizer.encode(PROMPT).unwrap();
    let sampling = SamplerOptions { temperature: Some(0.0), ..SamplerOptions::default() };
    let mut sampler = Sampler::new(sampling, 7).unwrap();
    let until = GenerateOptions { max_tokens: tokens, ..GenerateOptions::default() };
    let mut session = engine.session().unwrap();
    generate(&mut session, &tokenizer, &mut sampler, &prompt, &until, on_event).unwrap()
}

/// Gives conditions by how often they were asked for.
fn by_look(of: impl Fn(usize) -> Conditions + Send + 'static) -> Box<dyn FnMut() -> Conditions + Send> {
    let mut looks = 0;
    Box::new(move || {
        looks += 1;
        of(looks)
    })
}

#[test]
fn pressure_takes_experts_from_the_cache_and_its_end_gives_them_back() {
    let mut engine = engine(100);
    let expected = made(&mut engine, 48, |_| true).tokens;
    let all = engine.expert_limit().unwrap();

    for memory in [MemoryPressure::Warning, MemoryPressure::Critical] {
        engine.watch_conditions(Box::new(move || Conditions { memory, ..WELL }));
        assert_eq!(made(&mut engine, 48, |_| true).tokens, expected, "{memory:?}");
        let left = engine.expert_limit().unwrap();
        match memory {
            MemoryPressure::Critical => assert!(left < all / 4, "{left} of {all}"),
            _ => assert!(left < all && left >= all / 2, "{left} of {all}"),
        }
    }
    engine.watch_conditions(Box::new(|| WELL));
    assert_eq!(made(&mut engine, 64, |_| true).tokens[..48], expected);
    assert_eq!(engine.expert_limit().unwrap(), all);
}

#[test]
fn little_free_memory_is_enough_without_a_warning() {
    let mut engine = engine(100);
    made(&mut engine, 8, |_| true);
    let all = engine.expert_limit().unwrap();
    engine.watch_conditions(Box::new(|| Conditions { available: 0, ..WELL }));
    made(&mut engine, 8, |_| true);
    assert!(engine.expert_limit().unwrap() < all);
}

#[test]
fn too_hot_a_machine_rests_until_it_is_cooler() {
    let mut engine = engine(100);
    let expected = made(&mut engine, 16, |_| true).tokens;
    engine.watch_conditions(by_look(|look| {
        let thermal = if (20..=23).contains(&look) { ThermalState::Critical } else { ThermalState::Nominal };
        Conditions { thermal, ..WELL }
    }));
    let (mut before, mut events) = (0, Vec::new());
    let made = made(&mut engine, 16, |event| {
        match event {
            Event::Token { .. } => before += usize::from(events.is_empty()),
            Event::Suspended(_) | Event::Resumed => events.push(event),
            _ => {}
        }
        true
    });
    assert_eq!(made.tokens, expected);
    assert!(before > 0 && before < 16, "{before} tokens before it got hot");
    let (end, suspended) = events.split_last().unwrap();
    assert_eq!(end, &Event::Resumed);
    assert!(!suspended.is_empty());
    assert!(suspended.iter().all(|event| event == &Event::Suspended(Suspension::Thermal)), "{suspended:?}");
}

#[test]
fn who_does_not_want_to_wait_gets_what_there_is() {
    let mut engine = engine(100);
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    engine.watch_conditions(Box::new(move || {
        let look = counted.fetch_add(1, Ordering::Relaxed);
        Conditions { thermal: if look < 20 { ThermalState::Nominal } else { ThermalState::Critical }, ..WELL }
    }));
    let made = made(&mut engine, 64, |event| !matches!(event, Event::Suspended(_)));
    assert_eq!(made.finish, Finish::Interrupted);
    assert!(!made.tokens.is_empty() && made.tokens.len() < 64);
    assert!(looks.load(Ordering::Relaxed) <= 22, "it looked on for nothing");
}

#[test]
fn less_power_takes_longer_for_the_same_text() {
    let timed = |power| {
        let mut engine = engine(power);
        made(&mut engine, 4, |_| true);
        let start = Instant::now();
        let tokens = made(&mut engine, 16, |_| true).tokens;
        (tokens, start.elapsed())
    };
    let (expected, whole) = timed(100);
    let (tokens, tenth) = timed(10);
    assert_eq!(tokens, expected);
    // ten times as long; other programs share the machine
    assert!(tenth > whole * 3, "{whole:?} with all, {tenth:?} with a tenth of the time");
}
