//! From a prompt to text: prefill, then one token after the other, as a stream of events.

use std::time::{Duration, Instant};

use crate::session::{PrefillProgress, Session, SessionError};
use crate::text::{Sampler, StopStrings, Tokenizer};

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
    /// Within a step of the prompt: a layer is done. A step may have thousands of tokens and take minutes.
    PrefillLayer(PrefillProgress),
    /// More text; never a part of a character.
    Text(String),
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

/// When text ends.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens to make.
    pub max_tokens: usize,
    /// Ids that end the text.
    pub stop_ids: Vec<u32>,
    /// Strings that end the text; they are not part of it.
    pub stop_strings: Vec<String>,
    /// Positions of the prompt at which the state is kept, because later prompts are likely to begin with the same
    /// tokens; [`chat_boundaries`](crate::state::chat_boundaries) finds those of a conversation.
    pub boundaries: Vec<usize>,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Token ids, the one that ended the text left out.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt whose state was there already.
    pub reused: usize,
    /// Time for the prompt, up to the first token.
    pub prefill: Duration,
    /// Time for the tokens after the first.
    pub decode: Duration,
}

/// Makes the session's timeline equal to `prompt`, reusing what they have in common, and makes text. `on_event` ends it
/// by returning `false`.
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
    let synced = session.sync(prompt, &options.boundaries, |progress| {
        go_on = on_event(match progress.step {
            0 => Event::Prefill { done: progress.done, total: progress.total },
            _ => Event::PrefillLayer(progress),
        });
        go_on
    })?;
    let mut stream = tokenizer.stream(true);
    let mut stops = StopStrings::new(options.stop_strings.iter().cloned());
    let mut tokens = Vec::new();
    let mut prefill = start.elapsed();
    let mut decode_from = Instant::now();
    let finish = loop {
        if !go_on {
            break Finish::Interrupted;
        }
        if tokens.len() == options.max_tokens {
            break Finish::Length;
        }
        let token = session.sample(sampler, tokenizer.vocab_size())?;
        if tokens.is_empty() {
            prefill = start.elapsed();
            decode_from = Instant::now();
        }
        if options.stop_ids.contains(&token) {
            break Finish::Stop;
        }
        tokens.push(token);
        let piece = stops.push(&stream.push(token));
        if !piece.text.is_empty() {
            go_on = on_event(Event::Text(piece.text));
        }
        if piece.stop.is_some() {
            break Finish::Stop;
        }
        if tokens.len() < options.max_tokens && go_on {
            match session.decode(token) {
                Err(SessionError::ContextFull { .. }) => break Finish::ContextFull,
                result => result?,
            }
        }
    };
    let decode = decode_from.elapsed();
    // what was held back: the start of a character or of a stop string
    let mut rest = stops.push(&stream.finish());
    if finish != Finish::Stop || rest.stop.is_none() {
        rest.text.push_str(&stops.finish());
    }
    if !rest.text.is_empty() && finish != Finish::Interrupted {
        on_event(Event::Text(rest.text));
    }
    Ok(Generated { tokens, finish, reused: synced.reused, prefill, decode })
}
