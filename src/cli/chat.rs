//! `flashflood chat`: a conversation in a terminal.

mod commands;
mod conversation;
mod line;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context, anyhow};
use clap::Args;
use etcetera::BaseStrategy;
use flashflood::{Engine, Event, Finish, Generated, Language, Session, SessionFolder};

use super::asking::{AnswerArgs, Screen, SessionArgs, has_colours, speed_line};
use super::model::ModelArgs;
use super::{AT_PROMPT, INTERRUPTED, Interrupted, interrupted};
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
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
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
        lines: Lines::new(folder.join("history.txt")),
        states,
        keeps_sessions,
        folder,
        language: &language,
        last: None,
        looks_for_state: true,
    };
    talk.note(&format!("{model} on {device}, context {}. /help lists commands, Ctrl-D ends.", language.context()));
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
            eprintln!("warning: the state of this conversation is not kept: {error}");
        }
    }

    /// Answers what the user said.
    fn say(&mut self, session: &mut Session<'_>, text: String) -> anyhow::Result<()> {
        let prepared = self.language.prepare(self.conversation.request(&text))?;
        if std::mem::take(&mut self.looks_for_state) {
            for refused in session.restore(&self.states, prepared.prompt())?.refused {
                eprintln!("warning: {refused}");
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
            Finish::ContextFull => eprintln!("note: the context is full (hint: /clear, or start with a larger --ctx)"),
            Finish::Length => eprintln!("note: the answer was cut at {} tokens", made.tokens.len()),
            Finish::Interrupted => eprintln!("note: stopped"),
            Finish::Stop => {}
        }
        // a prompt that was stopped before its answer was not said
        if made.finish != Finish::Interrupted || !(answer.is_empty() && thoughts.is_empty()) {
            self.conversation.answered(text, answer, thoughts);
        }
        self.note(&speed_line(&made, &session.expert_stats()));
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
            Command::Help => COMMANDS.iter().for_each(|(usage, what)| eprintln!("{usage:<24}{what}")),
            Command::Show => eprint!("{}", self.conversation),
            Command::Set(key, value) => self.conversation.set(&key, &value)?,
            Command::Think(thinks) => self.conversation.think(thinks),
            Command::System(text) => self.conversation.system(text),
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
                self.note(&format!("saved as {}", path.display()));
            }
            Command::Load(name) => {
                let path = self.file(&name);
                let loaded = Conversation::load(&path).map_err(|error| self.with_names(error))?;
                self.begin_another(session);
                self.conversation = loaded;
                self.note(&format!("{} messages", self.conversation.messages().len()));
                for message in self.conversation.messages() {
                    eprintln!("{message}");
                }
            }
            Command::Stats => match &self.last {
                Some(made) => eprintln!("{}\n{}", speed_line(made, &session.expert_stats()), session.expert_stats()),
                None => eprintln!("no answer yet"),
            },
            Command::Clear => {
                self.begin_another(session);
                self.conversation.clear();
                self.note("a new conversation");
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

    /// An error of a name that is not there, with those that are.
    fn with_names(&self, error: anyhow::Error) -> anyhow::Error {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        match names.is_empty() {
            true => error,
            false => anyhow!("{error:#} (hint: there are {})", names.join(", ")),
        }
    }

    /// A grey line, for people only.
    fn note(&self, text: &str) {
        if io::stderr().is_terminal() {
            let (dim, plain) = if has_colours() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
            let _ = writeln!(io::stderr(), "{dim}{text}{plain}");
        }
    }
}
