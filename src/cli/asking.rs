//! What `run` and `chat` have in common: how answers are made, where sessions are kept, and how an answer is shown.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use flashflood::{Event, ExpertBudget, Generated, Request, SamplerOptions, SessionFolder, StoreStats};

use super::notes::printable;
use super::prefill_bar::PrefillBar;

/// How answers are made.
#[derive(Args)]
pub(super) struct AnswerArgs {
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// Let the model think before it answers [default: the template's]
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
    pub(super) think: Option<String>,
    /// Most tokens of thoughts: then the answer begins
    #[arg(long, value_name = "N", env = "FLASHFLOOD_THINK_BUDGET")]
    pub(super) think_budget: Option<usize>,
    /// Do not show thoughts
    #[arg(long, env = "FLASHFLOOD_HIDE_THINKING", value_parser = FalseyValueParser::new())]
    pub(super) hide_thinking: bool,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    /// Stop at this text (may be given several times)
    #[arg(long, value_name = "TEXT")]
    pub(super) stop: Vec<String>,
    /// Show no bar while the prompt is read. There is none either where standard error is not a terminal
    #[arg(long, env = "FLASHFLOOD_NO_PROGRESS", value_parser = FalseyValueParser::new())]
    pub(super) no_progress: bool,
}

impl AnswerArgs {
    /// Puts what is wanted of every answer into a request.
    pub(super) fn fill(&self, request: &mut Request) {
        if let Some(think) = &self.think {
            request.set_thinking(think == "on");
        }
        request.thinking_budget = self.think_budget;
        request.sampling = self.sampling.options();
        request.seed = self.sampling.seed;
        request.stop = self.stop.clone();
    }
}

/// Where sessions are kept.
#[derive(Args)]
pub(super) struct SessionArgs {
    /// Keep the state of what was read and written in this folder, and go on from it where a later prompt begins with the
    /// same tokens [default: nothing is kept]
    #[arg(long, value_name = "DIR", env = "FLASHFLOOD_SESSION_DIR")]
    pub(super) session_dir: Option<PathBuf>,
    /// What the files in --session-dir may take together; those that were not used for the longest time go
    #[arg(long, value_name = "SIZE", default_value = "32GB", env = "FLASHFLOOD_SESSION_SPACE", value_parser = size)]
    pub(super) session_space: u64,
}

/// Bytes, from text such as 8GB.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(ExpertBudget::Bytes(bytes)) => Ok(bytes),
        _ => Err(format!("expected a size such as 8GB, found '{text}'")),
    }
}

impl SessionArgs {
    /// Opens the folder, if one is given.
    pub(super) fn open(&self) -> anyhow::Result<Option<SessionFolder>> {
        Ok(match &self.session_dir {
            Some(path) => Some(SessionFolder::open(path, self.session_space)?),
            None => None,
        })
    }
}

/// How tokens are chosen; what is not given comes from the model's generation_config.json.
#[derive(Args)]
pub(super) struct SamplingArgs {
    /// Temperature; 0 takes the most likely token
    #[arg(long, value_name = "T", env = "FLASHFLOOD_TEMP")]
    temp: Option<f32>,
    /// Choose among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", env = "FLASHFLOOD_TOP_K")]
    top_k: Option<u32>,
    /// Choose among the most likely tokens that have this probability together
    #[arg(long, value_name = "P", env = "FLASHFLOOD_TOP_P")]
    top_p: Option<f32>,
    /// Leave out tokens less likely than this share of the most likely one
    #[arg(long, value_name = "P", env = "FLASHFLOOD_MIN_P")]
    min_p: Option<f32>,
    /// Subtract from the logits of tokens that have occurred
    #[arg(long, value_name = "X")]
    presence_penalty: Option<f32>,
    /// Subtract from the logits of tokens, times how often they have occurred
    #[arg(long, value_name = "X")]
    frequency_penalty: Option<f32>,
    /// Divide the logits of tokens that have occurred
    #[arg(long, value_name = "X")]
    repeat_penalty: Option<f32>,
    /// Seed: the same seed gives the same text
    #[arg(short, long, value_name = "N", env = "FLASHFLOOD_SEED")]
    pub(super) seed: Option<u64>,
}

impl SamplingArgs {
    pub(super) fn options(&self) -> SamplerOptions {
        SamplerOptions {
            // not `> 0`: the sampler refuses what is no temperature
            do_sample: self.temp.map(|t| t != 0.0),
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repeat_penalty,
        }
    }
}

/// Shows an answer while it is made: its text on standard output, the rest on standard error.
pub(super) struct Screen {
    bar: PrefillBar,
    shows_bar: bool,
    hides_thinking: bool,
    /// Colours on standard error.
    dims: bool,
    is_dim: bool,
    /// Why nothing more can be shown.
    failed: Option<io::Error>,
    /// Standard output is a terminal, which would do what a text tells it to.
    is_terminal: bool,
    /// What comes before the text, once the bar is gone.
    before: Option<String>,
}

impl Screen {
    pub(super) fn new(answer: &AnswerArgs) -> Self {
        Screen {
            bar: PrefillBar::new(!answer.no_progress),
            shows_bar: !answer.no_progress,
            hides_thinking: answer.hide_thinking,
            dims: has_colours(),
            is_dim: false,
            failed: None,
            is_terminal: io::stdout().is_terminal(),
            before: None,
        }
    }

    /// Shows `text` before the answer: at once, but for a bar, which would be drawn over its last line.
    pub(super) fn before(&mut self, text: String) {
        if self.bar.is_visible() {
            self.before = Some(text);
        } else {
            self.write(&text);
        }
    }

    /// Begins another answer.
    pub(super) fn begin(&mut self) {
        self.bar = PrefillBar::new(self.shows_bar);
    }

    /// Takes an event; `false` when nobody reads any more.
    pub(super) fn show(&mut self, event: Event) -> bool {
        match event {
            Event::Prefill { done, total } => self.bar.show(done as f64, total),
            Event::PrefillLayer(progress) => self.bar.show(progress.tokens(), progress.total),
            Event::Text(text) => {
                self.end_thoughts();
                let text = self.before.take().unwrap_or_default() + &text;
                self.write(&text);
            }
            // thoughts are not the answer
            Event::Thinking(text) if !self.hides_thinking => {
                self.bar.erase();
                let dim = if self.dims && !self.is_dim { "\x1b[2m" } else { "" };
                self.is_dim = true;
                // nobody may be reading these
                let _ = write!(io::stderr(), "{dim}{}", printable(&text));
            }
            Event::Thinking(_) | Event::Token { .. } | Event::StopToken { .. } | Event::Prompt(_) => {}
            Event::ToolCallBegin { .. } | Event::ToolCallArguments { .. } | Event::ToolCall(_) => {}
            Event::Suspended(_) | Event::Resumed | Event::Resting => {}
        }
        self.failed.is_none()
    }

    /// Ends an answer. What could not be written is an error.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.end_thoughts();
        let text = self.before.take().unwrap_or_default() + "\n";
        self.write(&text);
        self.failed.take().map_or(Ok(()), Err)
    }

    fn end_thoughts(&mut self) {
        self.bar.erase();
        if self.is_dim {
            self.is_dim = false;
            let plain = if self.dims { "\x1b[0m" } else { "" };
            let _ = write!(io::stderr(), "{plain}\n\n");
        }
    }

    /// A closed pipe ends the answer.
    fn write(&mut self, text: &str) {
        let mut out = io::stdout();
        let text = if self.is_terminal { printable(text) } else { text.into() };
        if self.failed.is_none() {
            self.failed = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err();
        }
    }
}

/// Whether standard error is a terminal that may have colours.
pub(super) fn has_colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A grey line for people only: nothing where nobody looks.
pub(super) fn grey(text: &str) {
    if io::stderr().is_terminal() {
        let (dim, plain) = if has_colours() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(io::stderr(), "{dim}{}{plain}", printable(text));
    }
}

/// What whoever gave no model should know.
pub(super) fn say_that_it_is_a_toy(model: Option<&Path>) {
    if model.is_none() {
        grey(
            "this is the toy in the program, of 18 million weights; `flashflood models` tells which real ones fit this machine",
        );
    }
}

/// `prefill 173 tok (18,204 reused) 41.0 t/s · 212 tok 5.6 t/s · experts 71 % hit · 1.9 GB/s`
pub(super) fn speed_line(made: &Generated, experts: &StoreStats) -> String {
    let mut line = format!(
        "prefill {} tok ({} reused) {:.1} t/s · {} tok",
        made.computed,
        made.reused,
        made.prefill_rate(),
        made.tokens.len(),
    );
    if made.decoded() > 0 {
        line += &format!(" {:.1} t/s", made.decode_rate());
    }
    if experts.hits + experts.misses > 0 {
        line += &format!(" · experts {:.0} % hit", 100.0 * experts.hit_rate());
    }
    if experts.read_rate() > 0.0 {
        line += &format!(" · {:.1} GB/s", experts.read_rate() / 1e9);
    }
    line
}
