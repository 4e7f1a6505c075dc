//! What was said, and how the next answer is made. It is kept as JSON: messages as OpenAI's chat has them, and settings.

use std::fmt;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use flashflood::{Content, Message, Request, SamplerOptions};
use serde::{Deserialize, Serialize};

use crate::cli::asking::AnswerArgs;
use crate::cli::output::write_private;

/// What `/set` takes.
pub(super) const SETTINGS: [&str; 11] = [
    "temp",
    "top-p",
    "top-k",
    "min-p",
    "presence-penalty",
    "frequency-penalty",
    "repeat-penalty",
    "seed",
    "max-tokens",
    "think-budget",
    "stop",
];

/// A conversation with its settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Conversation {
    messages: Vec<Message>,
    #[serde(default)]
    system: Option<String>,
    #[serde(default)]
    think: Option<bool>,
    #[serde(default)]
    think_budget: Option<usize>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    stop: Vec<String>,
    #[serde(default)]
    sampling: SamplerOptions,
}

impl Conversation {
    /// A conversation in which nothing was said.
    pub(super) fn new(answer: &AnswerArgs, max_tokens: Option<usize>) -> Self {
        Conversation {
            messages: Vec::new(),
            system: answer.system.clone(),
            think: answer.think.as_ref().map(|think| think == "on"),
            think_budget: answer.think_budget,
            max_tokens,
            seed: answer.sampling.seed,
            stop: answer.stop.clone(),
            sampling: answer.sampling.options(),
        }
    }

    pub(super) fn messages(&self) -> Vec<String> {
        let text = |message: &Message| match &message.content {
            Content::Text(text) => format!("{}: {text}", message.role),
            _ => format!("{}: ", message.role),
        };
        self.messages.iter().map(text).collect()
    }

    /// Asks for the answer to `text`.
    pub(super) fn request(&self, text: &str) -> Request {
        let system = self.system.as_ref().map(|text| Message::new("system", text));
        let history = self.messages.iter().cloned();
        let mut request = Request::chat(system.into_iter().chain(history).chain([Message::new("user", text)]));
        if let Some(thinks) = self.think {
            request.set_thinking(thinks);
        }
        request.thinking_budget = self.think_budget;
        request.max_tokens = self.max_tokens;
        request.seed = self.seed;
        request.stop = self.stop.clone();
        request.sampling = self.sampling;
        request
    }

    /// Adds what was said and what was answered.
    pub(super) fn answered(&mut self, said: String, answer: String, thoughts: String) {
        self.messages.push(Message::new("user", said));
        let reasoning_content = (!thoughts.is_empty()).then_some(thoughts);
        self.messages.push(Message { reasoning_content, ..Message::new("assistant", answer) });
    }

    /// Takes the last question and its answer out; `None` where nothing was said.
    pub(super) fn take_last(&mut self) -> Option<Exchange> {
        let at = self.messages.iter().rposition(|message| message.role == "user")?;
        Some(Exchange(self.messages.split_off(at)))
    }

    /// Puts back what [`take_last`](Self::take_last) gave.
    pub(super) fn put_back(&mut self, Exchange(messages): Exchange) {
        self.messages.extend(messages);
    }

    /// How much was said.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The last answer, without its thoughts.
    pub(super) fn last_answer(&self) -> Option<&str> {
        let last = self.messages.last().filter(|message| message.role == "assistant")?;
        text_of(last)
    }

    /// Forgets what was said, not how answers are made.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
    }

    pub(super) fn think(&mut self, thinks: bool) {
        self.think = Some(thinks);
    }

    /// Another system message, or none.
    pub(super) fn system(&mut self, text: String) {
        self.system = (!text.is_empty()).then_some(text);
    }

    /// Sets how answers are made; `auto` takes what the model has.
    pub(super) fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let before = self.clone();
        let sampling = &mut self.sampling;
        match key {
            "temp" | "temperature" => {
                sampling.temperature = number(key, value)?;
                sampling.do_sample = sampling.temperature.map(|t| t != 0.0);
            }
            "top-p" => sampling.top_p = number(key, value)?,
            "top-k" => sampling.top_k = number(key, value)?,
            "min-p" => sampling.min_p = number(key, value)?,
            "presence-penalty" => sampling.presence_penalty = number(key, value)?,
            "frequency-penalty" => sampling.frequency_penalty = number(key, value)?,
            "repeat-penalty" => sampling.repetition_penalty = number(key, value)?,
            "seed" => self.seed = number(key, value)?,
            "max-tokens" => self.max_tokens = number(key, value)?,
            "think-budget" => self.think_budget = number(key, value)?,
            "stop" => self.stop = if value == "auto" { Vec::new() } else { vec![value.to_owned()] },
            _ => bail!("there is no setting '{key}' (hint: {})", SETTINGS.join(", ")),
        }
        // a value that cannot be meant changes nothing
        if let Err(error) = self.sampling.settings() {
            *self = before;
            return Err(error.into());
        }
        Ok(())
    }

    /// Writes it to a file, which is whole or as it was.
    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        write_private(path, |place| {
            let mut file = std::fs::File::create(place)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.flush()?;
            // a pipe or a device keeps nothing
            if file.metadata()?.is_file() {
                file.sync_all()?;
            }
            Ok(())
        })
    }

    /// Reads it from a file.
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let at = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(at)?;
        serde_json::from_str(&text)
            .map_err(|e| anyhow!("expected a conversation that /save wrote: {e}"))
            .with_context(at)
    }
}

/// A question and what was answered.
pub(super) struct Exchange(Vec<Message>);

impl Exchange {
    /// The question.
    pub(super) fn question(&self) -> Option<&str> {
        text_of(self.0.first()?)
    }
}

fn text_of(message: &Message) -> Option<&str> {
    match &message.content {
        Content::Text(text) => Some(text),
        _ => None,
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> anyhow::Result<Option<T>> {
    if value == "auto" {
        return Ok(None);
    }
    let parsed = value.parse().map(Some);
    parsed.map_err(|_| anyhow!("/set {key}: expected a number, or auto for the model's, found '{value}'"))
}

impl fmt::Display for Conversation {
    /// What `/set` shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn line<T: fmt::Debug>(f: &mut fmt::Formatter<'_>, key: &str, value: &Option<T>) -> fmt::Result {
            match value {
                Some(value) => writeln!(f, "{key:<20}{value:?}"),
                None => writeln!(f, "{key:<20}auto"),
            }
        }
        let sampling = &self.sampling;
        line(f, "system", &self.system)?;
        line(f, "think", &self.think)?;
        line(f, "think-budget", &self.think_budget)?;
        line(f, "max-tokens", &self.max_tokens)?;
        line(f, "temp", &sampling.temperature)?;
        line(f, "top-p", &sampling.top_p)?;
        line(f, "top-k", &sampling.top_k)?;
        line(f, "min-p", &sampling.min_p)?;
        line(f, "presence-penalty", &sampling.presence_penalty)?;
        line(f, "frequency-penalty", &sampling.frequency_penalty)?;
        line(f, "repeat-penalty", &sampling.repetition_penalty)?;
        line(f, "seed", &self.seed)?;
        line(f, "stop", &self.stop.first())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn kept_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b.json");
        let mut talk = Conversation::default();
        talk.answered("Hello".into(), "Hi".into(), "hm".into());
        talk.system("Be brief.".into());
        talk.set("temp", "0").unwrap();
        talk.set("max-tokens", "7").unwrap();
        talk.save(&path).unwrap();
        assert_eq!(Conversation::load(&path).unwrap(), talk);
        #[cfg(unix)]
        {
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600);
        }
        std::fs::write(&path, "{").unwrap();
        let error = format!("{:#}", Conversation::load(&path).unwrap_err());
        assert!(error.contains("a b.json") && error.contains("expected a conversation"), "{error}");
    }

    #[test]
    fn the_last_exchange_is_taken_out_and_put_back() {
        let mut talk = Conversation::default();
        assert!(talk.take_last().is_none() && talk.last_answer().is_none());
        talk.answered("One?".into(), "1".into(), String::new());
        talk.answered("Two?".into(), "2".into(), "hm".into());
        let whole = talk.clone();
        assert_eq!(talk.last_answer(), Some("2"));
        let last = talk.take_last().unwrap();
        assert_eq!((last.question(), talk.len(), talk.last_answer()), (Some("Two?"), 2, Some("1")));
        talk.put_back(last);
        assert_eq!(talk, whole);
    }

    #[test]
    fn settings_that_cannot_be_meant_change_nothing() {
        let mut talk = Conversation::default();
        talk.set("top-p", "0.5").unwrap();
        for (key, value) in [("top-p", "2"), ("top-p", "much"), ("tmep", "1"), ("temp", "-1")] {
            let before = talk.clone();
            assert!(talk.set(key, value).is_err(), "{key} {value}");
            assert_eq!(talk, before);
        }
        talk.set("top-p", "auto").unwrap();
        assert_eq!(talk, Conversation::default());
    }
}
