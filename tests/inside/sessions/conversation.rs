//! Conversations of twenty turns over the small model in the program: every turn computes what is new, no more.

use crate::engine::ExpertBudget;
use crate::generate::{GenerateOptions, generate};
use crate::model::ModelSource;
use crate::state::chat_boundaries;
use crate::text::{ChatTemplate, Message, Sampler, SamplerOptions, Tokenizer};
use serde_json::Map;

use super::*;

const COUNTRIES: [&str; 20] = [
    "Peru", "France", "Japan", "Italy", "Spain", "Egypt", "Kenya", "Chile", "China", "India", "Cuba", "Greece",
    "Norway", "Poland", "Turkey", "Canada", "Brazil", "Mexico", "Austria", "Portugal",
];

pub(super) fn small_model(device: Device) -> Engine {
    let (context, experts) = (Some(1024), ExpertBudget::All);
    let options = EngineOptions { device, context, experts, ..EngineOptions::default() };
    Engine::from_source(ModelSource::embedded().unwrap(), &options).unwrap()
}

/// What one turn did.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    pub(super) total: usize,
    pub(super) reused: usize,
    /// Tokens of the prompt that the timeline before did not begin with.
    pub(super) new: usize,
    pub(super) answer: String,
}

pub(super) fn question(n: usize) -> Message {
    Message::new("user", format!("What is the capital of {}?", COUNTRIES[n % COUNTRIES.len()]))
}

pub(super) fn system() -> Message {
    Message::new("system", "Answer with the name of a city.")
}

/// Asks what `messages` end with.
pub(super) fn turn(
    session: &mut Session<'_>,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Turn {
    let none = Map::new();
    let prompt = tokenizer.encode(&template.render(messages, None, true, &none).unwrap()).unwrap();
    let boundaries = chat_boundaries(template, tokenizer, messages, None, &none, &prompt);
    let stop_ids = vec![tokenizer.token_to_id("<|im_end|>").unwrap()];
    let options = GenerateOptions { max_tokens: 12, stop_ids, boundaries, ..GenerateOptions::default() };
    let mut greedy = Sampler::new(SamplerOptions::default(), 0).unwrap();
    let common = session.tokens().iter().zip(&prompt).take_while(|(a, b)| a == b).count();
    let made = generate(session, tokenizer, &mut greedy, &prompt, &options, |_| true).unwrap();
    let (total, answer) = (prompt.len(), tokenizer.decode(&made.tokens, false));
    Turn { total, reused: made.reused, new: total - common, answer }
}

pub(super) fn print_table(name: &str, turns: &[Turn]) {
    println!("{name}\n| turn | prompt | reused | computed | answer |\n| ---: | ---: | ---: | ---: | --- |");
    for (n, Turn { total, reused, answer, .. }) in turns.iter().enumerate() {
        println!("| {} | {total} | {reused} | {} | {answer} |", n + 1, total - reused);
    }
}

fn check_conversation(device: Device, turns: usize) {
    let mut engine = small_model(device);
    let (template, tokenizer) = (engine.chat_template().unwrap(), engine.tokenizer().unwrap());
    let mut session = engine.session().unwrap();
    let mut messages = vec![system()];
    let mut done: Vec<Turn> = Vec::new();
    for n in 0..turns {
        messages.push(question(n));
        let turn = turn(&mut session, &template, &tokenizer, &messages);
        messages.push(Message::new("assistant", turn.answer.clone()));
        done.push(turn);
    }
    print_table(&format!("{device:?}"), &done);
    for turn in &done {
        assert_eq!(turn.total - turn.reused, turn.new, "computed more than what is new: {turn:?}");
    }
    assert!(done[1..].iter().all(|turn| turn.new < 40), "a turn adds a few tokens");
}

#[test]
fn twenty_turns() {
    check_conversation(Device::Cpu, 20);
}

#[test]
fn four_turns_on_the_gpu() {
    check_conversation(Device::Gpu, 4);
}

/// The family's templates drop thoughts from earlier turns, so a prompt parts from the timeline where the last answer
/// began: that answer, as it is rendered now, is computed with the new turn, and nothing before it.
#[test]
fn twenty_turns_whose_thoughts_are_dropped() {
    let source = "{%- for m in messages %}{{- '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{%- endfor %}\
                  {%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}";
    let template = ChatTemplate::new(Path::new("template"), source).unwrap();
    let mut engine = small_model(Device::Cpu);
    let tokenizer = engine.tokenizer().unwrap();
    let mut session = engine.session().unwrap();
    session.keep_checkpoints(CheckpointOptions { least_gap: 1, ..CheckpointOptions::on_this_machine() });
    let mut messages = vec![system()];
    let mut done: Vec<Turn> = Vec::new();
    // where the answer before began
    let mut last_answer = 0;
    for n in 0..20 {
        messages.push(question(n));
        let turn = turn(&mut session, &template, &tokenizer, &messages);
        assert_eq!(turn.reused, last_answer, "turn {n}: {turn:?}");
        let asked = template.render(&messages, None, false, &Map::new()).unwrap();
        last_answer = tokenizer.encode(&asked).unwrap().len();
        messages.push(Message::new("assistant", turn.answer.clone()));
        done.push(turn);
    }
    print_table("thoughts dropped", &done);
    assert!(done[1..].iter().all(|turn| turn.total - turn.reused < 60), "a turn computes an answer and a question");
}
