//! From a prompt to text: prefill, then one token after the other, as a stream of events.

mod healing;

use std::time::{Duration, Instant};

use healing::Healing;

use crate::engine::{Suspension, Wait};
pub use crate::request::GenerateOptions;
use crate::request::{Prepared, new_id};
use crate::session::{LogProbabilities, PrefillProgress, PromptScores, Session, SessionError};
use crate::text::{
    Grammar, GrammarError, ReplyParser, ReplyPart, Sampler, StopStrings, TextStream, TokenMask, Tokenizer, ToolCall,
};

/// What a caller sees while text is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Prompt tokens done, of how many: at the start, where tokens are reused, and after every step.
    Prefill {
        /// Tokens done.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The tokens of the prompt and how likely they were, if that was asked for: the first follows nothing, and has no
    /// probability.
    Prompt(Vec<(u32, Option<LogProbabilities>)>),
    /// Within a step of the prompt: a layer is done. A step may have thousands of tokens and take minutes.
    PrefillLayer(PrefillProgress),
    /// A token was chosen; what it adds to the answer, if that is certain, follows.
    Token {
        /// Its id.
        id: u32,
        /// Whether it is one of the model's thoughts.
        thinking: bool,
        /// How likely it was, if that was asked for.
        probabilities: Option<LogProbabilities>,
    },
    /// The token that ends the text, and is no part of it. Told where probabilities are asked for.
    StopToken {
        /// Its id.
        id: u32,
        /// How likely it was.
        probabilities: LogProbabilities,
    },
    /// More of what the model thinks before it answers; never a part of a character.
    Thinking(String),
    /// More text; never a part of a character.
    Text(String),
    /// A call of a tool begins, certainly: its arguments follow, and then the whole of it.
    ToolCallBegin {
        /// What a result of the call refers to.
        id: String,
        /// Name of the function.
        name: String,
    },
    /// More of the text of a call's arguments. All pieces together are the JSON object of the whole call.
    ToolCallArguments {
        /// Of the call that began.
        id: String,
        /// Never a part of a character.
        piece: String,
    },
    /// A call of a tool, whole. Where the answer was cut off within a call, it has what there was.
    ToolCall(ToolCall),
    /// Nothing is computed for now. Told every tenth of a second while it lasts, so that the caller can end it.
    Suspended(Suspension),
    /// It goes on.
    Resumed,
    /// A tenth of a second of rest went by, where less than all of the time is worked.
    Resting,
}

impl From<Wait> for Event {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Suspended(why) => Event::Suspended(why),
            Wait::Resumed => Event::Resumed,
            Wait::Resting => Event::Resting,
        }
    }
}

/// Why text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_tokens` are made.
    Length,
    /// The caller asked to stop.
    Interrupted,
    /// The context has no room for another token.
    ContextFull,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Token ids, the one that ended the text left out.
    pub tokens: Vec<u32>,
    /// How many of them were thoughts.
    pub thinking: usize,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt whose state was there already.
    pub reused: usize,
    /// Tokens of the prompt that were computed: fewer than the others, where the caller asked to stop before.
    pub computed: usize,
    /// Which stop string ended it, if one did.
    pub stop_string: Option<usize>,
    /// Time for the prompt, up to the first token.
    pub prefill: Duration,
    /// Time for the tokens after the first.
    pub decode: Duration,
}

impl Generated {
    /// Tokens that took [`decode`](Self::decode): all but the first, which the prompt gave.
    pub fn decoded(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }

    /// Tokens of the prompt that were computed in a second.
    pub fn prefill_rate(&self) -> f64 {
        self.computed as f64 / self.prefill.as_secs_f64().max(1e-9)
    }

    /// Tokens made in a second.
    pub fn decode_rate(&self) -> f64 {
        self.decoded() as f64 / self.decode.as_secs_f64().max(1e-9)
    }
}

/// Makes the session's timeline equal to `prompt`, reusing what they have in common, and makes text. `on_event` ends it
/// by returning `false`; it is asked after every token.
pub fn generate(
    session: &mut Session<'_>,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_event: impl FnMut(Event) -> bool,
) -> Result<Generated, SessionError> {
    let start = Instant::now();
    let mut go_on = true;
    let mut healing = options.heals.and_then(|at| Healing::new(tokenizer, prompt, at));
    // what it is for tokens that are counted, and what the model reads
    let (whole, prompt) = (prompt, healing.as_ref().map_or(prompt, Healing::prompt).to_vec());
    let prompt = prompt.as_slice();
    let pace = session.pace().clone();
    let mut worked_from = Instant::now();
    let mut scores = options
        .prompt_probabilities
        .then(|| PromptScores::new(options.probabilities.unwrap_or(0), tokenizer.vocab_size()));
    let on_progress = |progress: PrefillProgress| {
        let worked = worked_from.elapsed();
        go_on = on_event(match progress.step {
            0 => Event::Prefill { done: progress.done, total: progress.total },
            _ => Event::PrefillLayer(progress),
        });
        go_on = go_on && pace.turn(worked, |wait| on_event(wait.into()));
        worked_from = Instant::now();
        go_on
    };
    let synced = match &mut scores {
        Some(scores) => session.sync_and_score(prompt, &options.boundaries, scores, on_progress)?,
        None => session.sync(prompt, &options.boundaries, on_progress)?,
    };
    if let Some(scores) = scores.filter(|_| go_on) {
        let found = std::iter::once(None).chain(scores.found().into_iter().map(Some));
        go_on = on_event(Event::Prompt(prompt.iter().copied().zip(found).collect()));
    }
    let mut answer = Answer::new(tokenizer, options);
    let mut grammar = options.grammar.clone();
    let mut forced = ForcedEnd::new(tokenizer, options);
    let (mut tokens, mut thoughts) = (Vec::new(), 0);
    let mut prefill = start.elapsed();
    let mut decode_from = Instant::now();
    // what may come next, where the grammar says
    let mut mask = match &mut grammar {
        Some(grammar) if !answer.reply.is_thinking() => Some(grammar.mask()?),
        _ => None,
    };
    let finish = loop {
        if !go_on {
            break Finish::Interrupted;
        }
        if tokens.len() == options.max_tokens {
            break Finish::Length;
        }
        // a token that cannot be run is no use to anybody
        if whole.len() + tokens.len() >= session.context() {
            break Finish::ContextFull;
        }
        if let Some(healing) = healing.take() {
            let (token, _) =
                session.sample_among(sampler, tokenizer.vocab_size(), Some(healing.mask()), options.probabilities)?;
            let rest = healing.beyond(tokenizer, token);
            if !rest.is_empty() {
                prefill = start.elapsed();
                decode_from = Instant::now();
                tokens.push(token);
                go_on = on_event(Event::Token { id: token, thinking: false, probabilities: None });
                answer.push_bytes(rest).into_iter().for_each(|event| go_on = go_on && on_event(event));
            }
            if answer.stopped.is_some() {
                break Finish::Stop;
            }
            if go_on {
                session.decode(token)?;
            }
            continue;
        }
        let thinking = answer.reply.is_thinking();
        let (token, probabilities) = match forced.next(thinking, thoughts) {
            Some(token) => (token, None),
            None => session.sample_among(sampler, tokenizer.vocab_size(), mask.as_ref(), options.probabilities)?,
        };
        if tokens.is_empty() {
            prefill = start.elapsed();
            decode_from = Instant::now();
        }
        if options.stop_ids.contains(&token) {
            // an answer that must have a form cannot end among its thoughts: it begins instead
            if thinking && grammar.is_some() && forced.begin() {
                continue;
            }
            if let Some(probabilities) = probabilities {
                on_event(Event::StopToken { id: token, probabilities });
            }
            break Finish::Stop;
        }
        if let Some(grammar) = grammar.as_mut().filter(|_| !thinking) {
            grammar.accept(token)?;
        }
        tokens.push(token);
        thoughts += usize::from(thinking);
        go_on = on_event(Event::Token { id: token, thinking, probabilities });
        let mut called = false;
        let events = answer.push(token);
        // a call that ends the thoughts begins what the grammar knows
        if let Some(grammar) = grammar.as_mut().filter(|_| thinking && answer.reply.is_calling()) {
            grammar.accept(token)?;
        }
        for event in events {
            if !called {
                called = options.one_call && matches!(event, Event::ToolCall(_));
                go_on = go_on && on_event(event);
            }
        }
        if answer.stopped.is_some() || called {
            break Finish::Stop;
        }
        if tokens.len() < options.max_tokens && go_on {
            let masked = grammar.as_mut().filter(|_| !answer.reply.is_thinking());
            let since = Instant::now();
            let (result, next) = decode_and_mask(session, token, masked);
            result?;
            mask = next.transpose()?;
            go_on = pace.turn(since.elapsed(), |wait| on_event(wait.into()));
        }
    };
    let decode = decode_from.elapsed();
    if finish != Finish::Interrupted && !(options.one_call && answer.has_called) {
        for event in answer.finish() {
            on_event(event);
        }
    }
    Ok(Generated {
        prompt: whole.len(),
        tokens,
        thinking: thoughts,
        finish,
        reused: synced.reused,
        computed: synced.computed,
        stop_string: answer.stopped,
        prefill,
        decode,
    })
}

impl Session<'_> {
    /// Answers a request: the timeline becomes its prompt, what they have in common is reused, and the answer follows.
    /// `on_event` ends it by returning `false`; it is asked after every token and after every layer of a prompt.
    ///
    /// # Errors
    /// Those of the device and of the disk. The session can be used again after them.
    pub fn answer(
        &mut self,
        prepared: &Prepared,
        mut on_event: impl FnMut(Event) -> bool,
    ) -> Result<Generated, SessionError> {
        let Prepared { language, prompt, sampler, options, .. } = prepared;
        let (mut calls, mut text) = (Vec::new(), String::new());
        let made = generate(self, language.tokenizer(), &mut sampler.clone(), prompt, options, |event| {
            match &event {
                Event::Text(piece) => text.push_str(piece),
                Event::ToolCall(call) => calls.push(call.clone()),
                _ => {}
            }
            on_event(event)
        })?;
        language.keep_turn(&calls, &text, &made.tokens, made.thinking > 0);
        Ok(made)
    }
}

/// Runs a token, and finds out meanwhile, on another thread, which may follow: a mask may take a millisecond, and the host
/// waits for device and disk anyway.
fn decode_and_mask(
    session: &mut Session<'_>,
    token: u32,
    grammar: Option<&mut Grammar>,
) -> (Result<(), SessionError>, Option<Result<TokenMask, GrammarError>>) {
    let Some(grammar) = grammar else { return (session.decode(token), None) };
    let beside = std::thread::scope(|scope| {
        let mask = std::thread::Builder::new().name("mask".to_owned()).spawn_scoped(scope, || grammar.mask());
        let result = session.decode(token);
        let mask = mask.map(|mask| mask.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (result, mask.ok())
    });
    match beside {
        // the system has no thread for it
        (result, None) => (result, Some(grammar.mask())),
        done => done,
    }
}

/// The tokens that end thoughts which are too long.
struct ForcedEnd {
    budget: Option<usize>,
    tokens: std::vec::IntoIter<u32>,
    /// Whether some of them have come.
    begun: bool,
}

impl ForcedEnd {
    fn new(tokenizer: &Tokenizer, options: &GenerateOptions) -> Self {
        let is_needed = options.thinking_budget.is_some() || options.grammar.is_some();
        // a text that cannot be encoded ends nothing
        let tokens =
            is_needed.then(|| tokenizer.encode(options.reply.dialect().forced_end).ok()).flatten().unwrap_or_default();
        ForcedEnd { budget: options.thinking_budget, tokens: tokens.into_iter(), begun: false }
    }

    /// Ends the thoughts now; `false` when that was done before, or cannot be done.
    fn begin(&mut self) -> bool {
        self.budget = Some(0);
        !self.begun && self.tokens.len() > 0
    }

    /// The token that must come now, if there is one.
    fn next(&mut self, thinking: bool, thoughts: usize) -> Option<u32> {
        let budget = self.budget?;
        if thinking && thoughts < budget {
            return None;
        }
        let token = if thinking || self.begun { self.tokens.next() } else { None };
        self.begun |= token.is_some();
        token
    }
}

/// From tokens to what they add to an answer.
struct Answer<'a> {
    tokenizer: &'a Tokenizer,
    stream: TextStream<'a>,
    /// Special tokens that are shown all the same, because answers are told apart by them.
    markers: Vec<u32>,
    reply: ReplyParser,
    stops: StopStrings,
    /// Which stop string came.
    stopped: Option<usize>,
    /// Whether a tool was called.
    has_called: bool,
    /// Of the call that began.
    call_id: String,
}

impl<'a> Answer<'a> {
    fn new(tokenizer: &'a Tokenizer, options: &GenerateOptions) -> Self {
        let markers = match options.reply.is_plain() {
            true => Vec::new(),
            false => {
                let markers = options.reply.dialect().markers();
                markers.iter().filter_map(|marker| tokenizer.token_to_id(marker)).collect()
            }
        };
        let stops = StopStrings::new(options.stop_strings.iter().cloned());
        let stream = tokenizer.stream(false);
        let reply = options.reply.clone();
        Answer { tokenizer, stream, markers, reply, stops, stopped: None, has_called: false, call_id: String::new() }
    }

    fn push(&mut self, token: u32) -> Vec<Event> {
        if self.tokenizer.is_special(token) && !self.markers.contains(&token) {
            return Vec::new();
        }
        let parts = self.reply.push(&self.stream.push(token));
        self.events(parts)
    }

    /// As [`push`](Self::push), of a part of a token.
    fn push_bytes(&mut self, bytes: &[u8]) -> Vec<Event> {
        let parts = self.reply.push(&self.stream.push_bytes(bytes));
        self.events(parts)
    }

    /// What was held back: the start of a character, of a marker or of a stop string.
    fn finish(&mut self) -> Vec<Event> {
        let mut parts = self.reply.push(&self.stream.finish());
        parts.extend(self.reply.finish());
        let mut events = self.events(parts);
        if self.stopped.is_none() {
            events.extend(text(self.stops.finish()));
        }
        events
    }

    fn events(&mut self, parts: Vec<ReplyPart>) -> Vec<Event> {
        let mut events = Vec::new();
        for part in parts {
            if self.stopped.is_some() {
                break;
            }
            match part {
                ReplyPart::Thinking(piece) => events.push(Event::Thinking(piece)),
                ReplyPart::Text(piece) => {
                    let piece = self.stops.push(&piece);
                    self.stopped = piece.stop;
                    events.extend(text(piece.text));
                }
                ReplyPart::CallBegin(name) => {
                    // a stop string does not go on behind a call
                    events.extend(text(self.stops.finish()));
                    self.call_id = new_id("call_");
                    events.push(Event::ToolCallBegin { id: self.call_id.clone(), name });
                }
                ReplyPart::CallArguments(piece) => {
                    events.push(Event::ToolCallArguments { id: self.call_id.clone(), piece });
                }
                ReplyPart::ToolCall(call) => {
                    self.has_called = true;
                    events.push(Event::ToolCall(ToolCall { id: self.call_id.clone(), ..call }));
                }
            }
        }
        events
    }
}

fn text(piece: String) -> Option<Event> {
    (!piece.is_empty()).then_some(Event::Text(piece))
}

#[cfg(test)]
mod tests;
