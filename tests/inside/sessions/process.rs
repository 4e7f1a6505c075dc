//! Programs that are killed: a conversation goes on where it was saved last, and a file is whole or not there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::text::Message;
use serde_json::{Value, json};

use super::conversation::{Turn, print_table, question, small_model, system, turn};
use super::files::{folder, prompt};
use super::*;

/// Where the processes below keep sessions; they do nothing when it is not set.
const FOLDER: &str = "SESSIONS_TEST_FOLDER";
/// Begins what they say, among the words of the test harness.
const SAYS: &str = "says ";

/// One of the ignored tests below in a process of its own.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(test: &str, folder: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "--test-threads=1",
                &format!("inside::sessions::process::{test}"),
            ])
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Process { child, input, output }
    }

    /// The next thing it says.
    fn says(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the process ended");
            if let Some((_, said)) = line.split_once(SAYS) {
                return serde_json::from_str(said).unwrap();
            }
        }
    }

    fn ask(&mut self, messages: &[Message]) -> Turn {
        writeln!(self.input, "{}", serde_json::to_string(messages).unwrap()).unwrap();
        let said = self.says();
        let number = |key: &str| said[key].as_u64().unwrap() as usize;
        let answer = said["answer"].as_str().unwrap().to_owned();
        Turn { total: number("total"), reused: number("reused"), new: number("new"), answer }
    }

    /// SIGKILL, or what the system has for it.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn folder_of_process() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Answers conversations, one a line, as a program with `--session-dir` would.
#[test]
#[ignore = "runs in processes that other tests start"]
fn conversation() {
    let Some(path) = folder_of_process() else { return };
    let mut engine = small_model(Device::Cpu);
    let (template, tokenizer) = (engine.chat_template().unwrap(), engine.tokenizer().unwrap());
    let mut session = engine.session().unwrap();
    let mut sessions = folder(&path);
    for line in std::io::stdin().lines() {
        let messages: Vec<Message> = serde_json::from_str(&line.unwrap()).unwrap();
        let text = template.render(&messages, None, true, &serde_json::Map::new()).unwrap();
        let restored = session.restore(&sessions, &tokenizer.encode(&text).unwrap()).unwrap();
        assert!(restored.refused.is_empty(), "{:?}", restored.refused);
        let Turn { total, reused, new, answer } = turn(&mut session, &template, &tokenizer, &messages);
        session.save(&mut sessions).unwrap();
        println!("\n{SAYS}{}", json!({"total": total, "reused": reused, "new": new, "answer": answer}));
    }
}

/// Twenty turns; the program is killed after some of them, and once in the middle of one. Every turn computes what it
/// would have computed anyway.
#[test]
fn a_conversation_survives_kills() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [quiet, killed] = [&[][..], &[2, 3, 9, 15][..]].map(|kills: &[usize]| {
        let directory = directories[usize::from(!kills.is_empty())].path();
        let mut process = Process::start("conversation", directory);
        let (mut messages, mut turns) = (vec![system()], Vec::new());
        for n in 0..20 {
            messages.push(question(n));
            if kills.contains(&n) {
                if n == 9 {
                    // it is asked, and does not get to answer
                    writeln!(process.input, "{}", serde_json::to_string(&messages).unwrap()).unwrap();
                }
                process.kill();
                process = Process::start("conversation", directory);
            }
            let turn = process.ask(&messages);
            messages.push(Message::new("assistant", turn.answer.clone()));
            turns.push(turn);
        }
        process.kill();
        turns
    });
    print_table("killed before turns 3, 4, 10 and 16", &killed);
    for (n, (killed, quiet)) in killed.iter().zip(&quiet).enumerate() {
        assert_eq!(killed, quiet, "turn {}", n + 1);
        assert_eq!(killed.total - killed.reused, killed.new, "turn {}: computed more than what is new", n + 1);
    }
}

/// Saves one timeline after the other, each with many states, as long as it lives.
#[test]
#[ignore = "runs in processes that other tests start"]
fn saves() {
    let Some(path) = folder_of_process() else { return };
    let mut engine = engine(&tiny(), Device::Cpu, 64);
    let mut session = engine.session().unwrap();
    session.keep_checkpoints(EVERYWHERE);
    let mut sessions = folder(&path);
    for length in (60..95).cycle() {
        sync(&mut session, &prompt(length), &[]);
        session.save(&mut sessions).unwrap();
        println!("\n{SAYS}{length}");
    }
}

#[test]
fn a_kill_while_writing_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = engine(&tiny(), Device::Cpu, 64);
    for round in 0..10 {
        let mut process = Process::start("saves", directory.path());
        process.says();
        std::thread::sleep(Duration::from_millis(7 * round));
        process.kill();
        let mut session = engine.session().unwrap();
        let restored = session.restore(&folder(directory.path()), &prompt(96)).unwrap();
        assert!(restored.refused.is_empty(), "round {round}: {:?}", restored.refused);
        assert!(restored.tokens >= 60, "round {round}: {restored:?}");
    }
}
