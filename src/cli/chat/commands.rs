//! The commands of a chat: lines that begin with `/`.

use std::path::PathBuf;

use anyhow::{anyhow, bail};

/// A line that is a command.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Help,
    Show,
    Set(String, String),
    Think(bool),
    System(String),
    Read(PathBuf),
    Save(String),
    Load(String),
    /// What there is to load.
    Names,
    /// The last question once more.
    Retry,
    /// The last question in an editor.
    Edit,
    /// The last answer to the clipboard.
    Copy,
    Stats,
    Clear,
    Quit,
}

/// Commands as `/help` lists them.
pub(super) const COMMANDS: [(&str, &str); 16] = [
    ("/help", "this list"),
    (
        "/set KEY VALUE",
        "how answers are made: temp 0.7, top-p, top-k, min-p, seed, max-tokens, think-budget, stop, ...",
    ),
    ("/set", "what is set"),
    ("/think on|off", "think before answering, or not"),
    ("/system TEXT", "the system message; without TEXT there is none"),
    ("/read FILE", "say what stands in a file"),
    ("/save NAME", "keep the conversation, and its state, so that it need not be read again"),
    ("/load NAME", "go on with a conversation that was kept"),
    ("/load", "which were kept"),
    ("/retry", "another answer to the last question"),
    ("/edit", "the last question in $VISUAL or $EDITOR, and an answer to what it becomes"),
    ("/copy", "the last answer to the clipboard, by terminals that can (OSC 52)"),
    ("/stats", "speed and experts of the last answer"),
    ("/clear", "a new conversation"),
    ("/quit", "end; so do exit, quit and Ctrl-D; Ctrl-C stops an answer"),
    ("\"\"\"", "begins and ends a text of several lines"),
];

impl Command {
    /// The command of a line; `None` where it is none. A path such as `/etc/hosts is what?` is no command.
    pub(super) fn of(line: &str) -> Option<anyhow::Result<Command>> {
        let line = line.trim();
        // what people type who want to leave, and not what anybody asks
        if line == "exit" || line == "quit" {
            return Some(Ok(Command::Quit));
        }
        let rest = line.strip_prefix('/')?;
        let (word, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if !word.chars().all(|c| c.is_ascii_alphabetic() || c == '?') {
            return None;
        }
        Some(Self::parse(word, argument.trim()))
    }

    fn parse(word: &str, argument: &str) -> anyhow::Result<Command> {
        let needs = |what: &str| match argument {
            "" => Err(anyhow!("/{word} needs {what} (hint: /help lists commands)")),
            argument => Ok(argument.to_owned()),
        };
        Ok(match word {
            "help" | "h" | "?" => Command::Help,
            "set" if argument.is_empty() => Command::Show,
            "set" => match argument.split_once(char::is_whitespace) {
                Some((key, value)) => Command::Set(key.to_owned(), value.trim().to_owned()),
                None => bail!("/set {argument} needs a value (hint: /set {argument} auto takes the model's)"),
            },
            "think" => match argument {
                "on" | "" => Command::Think(true),
                "off" => Command::Think(false),
                other => bail!("/think is on or off, found '{other}'"),
            },
            "system" => Command::System(argument.to_owned()),
            "read" => Command::Read(needs("the path of a file")?.into()),
            "save" => Command::Save(name(&needs("a name")?)?),
            "load" if argument.is_empty() => Command::Names,
            "load" => Command::Load(name(&needs("a name")?)?),
            "retry" => Command::Retry,
            "edit" => Command::Edit,
            "copy" => Command::Copy,
            "stats" => Command::Stats,
            "clear" | "new" => Command::Clear,
            "quit" | "exit" | "q" | "bye" => Command::Quit,
            _ => bail!("there is no command /{word} (hint: /help lists commands)"),
        })
    }
}

/// A name that is a file's on every system.
fn name(text: &str) -> anyhow::Result<String> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_. ".contains(c);
    match text.chars().all(is_plain) && !text.starts_with('.') && text.len() <= 100 {
        true => Ok(text.to_owned()),
        false => bail!("a name has letters, digits, blanks and - _ . (100 at most), found '{text}'"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn lines_that_are_commands() {
        let of = |line| Command::of(line).unwrap().unwrap();
        assert_eq!(of("/help"), Command::Help);
        assert_eq!(of(" /set  temp   0.5 "), Command::Set("temp".into(), "0.5".into()));
        assert_eq!(of("/set"), Command::Show);
        assert_eq!(of("/think off"), Command::Think(false));
        assert_eq!(of("/system Be brief."), Command::System("Be brief.".into()));
        assert_eq!((of("exit"), of(" quit "), of("/load")), (Command::Quit, Command::Quit, Command::Names));
        assert_eq!(of("/save my talk"), Command::Save("my talk".into()));
    }

    #[test]
    fn lines_that_are_none_and_commands_that_are_wrong() {
        for text in ["hello", "/etc/hosts", "/2", "a /help"] {
            assert!(Command::of(text).is_none(), "{text}");
        }
        for (wrong, why) in [
            ("/hepl", "no command /hepl"),
            ("/set temp", "needs a value"),
            ("/think maybe", "on or off"),
            ("/save", "needs a name"),
            ("/save ../x", "a name has"),
            ("/load .x", "a name has"),
            ("/read", "needs the path"),
        ] {
            let error = Command::of(wrong).unwrap().unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
