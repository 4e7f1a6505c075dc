//! `flashflood chat`: a conversation in a terminal.

mod commands;
mod complete;
mod conversation;
mod editor;
mod line;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use clap::Args;
use etcetera::BaseStrategy;
use flashflood::{Engine, Event, Finish, Generated, Language, Session, SessionFolder};

use super::asking::{AnswerArgs, Screen, SessionArgs, grey, say_that_it_is_a_toy, speed_line};
use super::model::ModelArgs;
use super::{AT_PROMPT, INTERRUPTED, Interrupted, interrupted};
use crate::cli::notes::note;
use commands::{COMMANDS, Command};
use conversation::Conversation;
use line::{Line, Lines};

/// Talk with the model
#[derive(Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Most tokens of an answer [default: what the context has room for]
    #[arg(short = 'n', long, value_name = "N", env = "FLASHFLOOD_MAX_TOKENS")]
    max_tokens: Option<usize>,
    #[command(flatten)]
    answer: AnswerArgs,
    #[command(flatten)]
    saved: SessionArgs,
    /// Conversations that /save and /load name, and the history of lines [default: the user's data folder]
    #[arg(long, value_name = "DIR", env = "FLASHFLOOD_CHAT_DIR")]
    chat_dir: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: ChatArgs) -> anyhow::Result<()> {
    let folder = match args.chat_dir {
        Some(folder) => folder,
        None => data_folder().context("no home folder (hint: --chat-dir DIR)")?.join("chats"),
    };
    flashflood_backends::new_files::private_folder(&folder).with_context(|| folder.display().to_string())?;
    // a session folder that cannot be made is better known before the first answer
    let keeps_sessions = args.saved.session_dir.is_some();
    let states = match args.saved.open()? {
        Some(states) => states,
        None => SessionFolder::open(&folder.join("states"), args.saved.session_space)?,
    };
    let mut engine = args.model.open()?;
    if interrupted() {
        return Err(Interrupted.into());
    }
    let language = engine.language()?;
    let device = engine.device();
    let model = args.model.name();
    let talk = Talk {
        conversation: Conversation::new(&args.answer, args.max_tokens),
        screen: Screen::new(&args.answer),
        lines: Lines::new(&folder),
        states,
        keeps_sessions,
        folder,
        language: &language,
        last: None,
        looks_for_state: true,
    };
    say_that_it_is_a_toy(args.model.model.as_deref());
    grey(&format!("{model} on {device}, context {}. /help lists commands, Ctrl-D ends.", language.context()));
    talk.go_on(&mut engine)
}

fn data_folder() -> Option<PathBuf> {
    Some(etcetera::choose_base_strategy().ok()?.data_dir().join("flashflood"))
}

/// A conversation and where it is shown and kept.
struct Talk<'a> {
    conversation: Conversation,
    screen: Screen,
    lines: Lines,
    /// State of sessions, so that what was read need not be read again.
    states: SessionFolder,
    /// Whether state is kept at the end as well, not with /save alone.
    keeps_sessions: bool,
    /// Saved conversations.
    folder: PathBuf,
    language: &'a std::sync::Arc<Language>,
    last: Option<Generated>,
    /// The conversation is another one than the session's: a file may have its state.
    looks_for_state: bool,
}

impl Talk<'_> {
    fn go_on(mut self, engine: &mut Engine) -> anyhow::Result<()> {
        let mut session = engine.session()?;
        loop {
            AT_PROMPT.store(true, Ordering::Relaxed);
            let line = self.lines.next();
            AT_PROMPT.store(false, Ordering::Relaxed);
            let text = match line? {
                Line::Text(text) => text,
                Line::Interrupted => continue,
                Line::End => break,
            };
            if text.trim().is_empty() {
                continue;
            }
            let done = match Command::of(&text) {
                None => self.say(&mut session, text),
                Some(Ok(Command::Quit)) => break,
                Some(Ok(command)) => self.command(&mut session, command),
                Some(Err(error)) => Err(error),
            };
            // a terminal's user tries again; a script is told
            if let Err(error) = done {
                if !io::stdin().is_terminal() || super::is_broken_pipe(&error) {
                    self.keep(&mut session);
                    return Err(error);
                }
                super::report(&error);
            }
        }
        self.keep(&mut session);
        Ok(())
    }

    /// Keeps the session's state, where all of it is to be kept.
    fn keep(&mut self, session: &mut Session<'_>) {
        if self.keeps_sessions && !self.looks_for_state {
            self.save_state(session);
        }
    }

    /// Without it the conversation is read again, no more.
    fn save_state(&mut self, session: &mut Session<'_>) {
        if let Err(error) = session.save(&mut self.states) {
            note!("warning: the state of this conversation is not kept: {error}");
        }
    }

    /// Answers what the user said.
    fn say(&mut self, session: &mut Session<'_>, text: String) -> anyhow::Result<()> {
        let prepared = self.language.prepare(self.conversation.request(&text))?;
        if std::mem::take(&mut self.looks_for_state) {
            for refused in session.restore(&self.states, prepared.prompt())?.refused {
                note!("warning: {refused}");
            }
        }
        session.reset_expert_stats();
        let (mut thoughts, mut answer) = (String::new(), String::new());
        // what came before was not meant for this answer
        INTERRUPTED.store(false, Ordering::Relaxed);
        let screen = &mut self.screen;
        screen.begin();
        let made = session.answer(&prepared, |event| {
            match &event {
                Event::Thinking(piece) => thoughts.push_str(piece),
                Event::Text(piece) => answer.push_str(piece),
                _ => {}
            }
            screen.show(event) && !interrupted()
        });
        self.screen.end().context("standard output")?;
        let made = made?;
        match made.finish {
            Finish::ContextFull => note!("note: the context is full (hint: /clear, or start with a larger --ctx)"),
            Finish::Length => note!("note: the answer was cut at {} tokens", made.tokens.len()),
            Finish::Interrupted => note!("note: stopped"),
            Finish::Stop => {}
        }
        // a prompt that was stopped before its answer was not said
        if made.finish != Finish::Interrupted || !(answer.is_empty() && thoughts.is_empty()) {
            self.conversation.answered(text, answer, thoughts);
        }
        grey(&speed_line(&made, &session.expert_stats()));
        let is_stopped = made.finish == Finish::Interrupted;
        self.last = Some(made);
        // what it stops is an answer; a script has nobody to go on
        if is_stopped && !io::stdin().is_terminal() {
            return Err(Interrupted.into());
        }
        INTERRUPTED.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn command(&mut self, session: &mut Session<'_>, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Help => COMMANDS.iter().for_each(|(usage, what)| note!("{usage:<24}{what}")),
            Command::Show => note!("{}", self.conversation.to_string().trim_end()),
            Command::Set(key, value) => {
                self.conversation.set(&key, &value)?;
                grey(&format!("{key} is {value} from the next answer on"));
            }
            Command::Think(thinks) => self.conversation.think(thinks),
            Command::System(text) => {
                let what = if text.is_empty() { "there is no system message now" } else { "the system message is set" };
                self.conversation.system(text);
                grey(what);
            }
            Command::Read(path) => {
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                return self.say(session, text);
            }
            Command::Save(name) => {
                let path = self.file(&name);
                self.conversation.save(&path)?;
                // the session may still be of the conversation before
                if !self.looks_for_state {
                    self.save_state(session);
                }
                grey(&format!("saved as {}", path.display()));
            }
            Command::Load(name) => {
                let path = self.file(&name);
                let loaded = Conversation::load(&path).map_err(|error| self.with_names(error))?;
                self.begin_another(session);
                self.conversation = loaded;
                grey(&format!("{} messages", self.conversation.messages().len()));
                for message in self.conversation.messages() {
                    note!("{message}");
                }
            }
            Command::Names => match self.names() {
                names if names.is_empty() => note!("no conversation was kept (hint: /save NAME keeps this one)"),
                names => names.iter().for_each(|name| note!("{name}")),
            },
            Command::Retry => return self.again(session, |text| Ok(text.to_owned())),
            Command::Edit => {
                let folder = self.folder.clone();
                return self.again(session, |text| editor::edited(text, &folder));
            }
            Command::Copy => return self.copy(),
            Command::Stats => match &self.last {
                Some(made) => note!("{}\n{}", speed_line(made, &session.expert_stats()), session.expert_stats()),
                None => note!("no answer yet"),
            },
            Command::Clear => {
                self.begin_another(session);
                self.conversation.clear();
                grey("a new conversation");
            }
            Command::Quit => {}
        }
        Ok(())
    }

    /// The session's state is not this conversation's any more.
    fn begin_another(&mut self, session: &mut Session<'_>) {
        self.keep(session);
        self.looks_for_state = true;
        self.states.begin_another();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    /// Conversations that were kept.
    fn names(&self) -> Vec<String> {
        complete::kept(&self.folder)
    }

    /// Answers the last question again, or what `change` makes of it. A question that gets no answer is as it was.
    fn again(
        &mut self,
        session: &mut Session<'_>,
        change: impl FnOnce(&str) -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        let Some(last) = self.conversation.take_last() else { bail!("nothing was asked yet") };
        let before = self.conversation.len();
        let asked = change(last.question().unwrap_or_default());
        let done = match asked {
            Ok(text) if text.trim().is_empty() => Err(anyhow!("the question is empty: it stays as it was")),
            Ok(text) => self.say(session, text),
            Err(error) => Err(error),
        };
        if self.conversation.len() == before {
            self.conversation.put_back(last);
        }
        done
    }

    /// Asks the terminal to put the last answer on the clipboard.
    fn copy(&self) -> anyhow::Result<()> {
        let Some(answer) = self.conversation.last_answer() else { bail!("there is no answer yet") };
        if !io::stderr().is_terminal() {
            bail!("/copy asks a terminal, and standard error is none");
        }
        let text = base64::engine::general_purpose::STANDARD.encode(answer);
        let _ = write!(io::stderr(), "\x1b]52;c;{text}\x07");
        grey(&format!("{} characters given to the terminal's clipboard", answer.chars().count()));
        Ok(())
    }

    /// An error of a name that is not there, with those that are.
    fn with_names(&self, error: anyhow::Error) -> anyhow::Error {
        let names = self.names();
        match names.is_empty() {
            true => error,
            false => anyhow!("{error:#} (hint: there are {})", names.join(", ")),
        }
    }
}
