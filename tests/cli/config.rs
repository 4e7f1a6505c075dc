//! The configuration file and the environment: what comes before what, and what is wrong with a file.

use super::*;

/// A configuration file, in a folder that goes with it.
struct Config(TempDir);

impl Config {
    fn of(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.toml"), text).unwrap();
        Config(folder)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = flashflood(arguments);
        command.env("FLASHFLOOD_CONFIG", self.0.path().join("config.toml"));
        command
    }

    fn outcome(&self, arguments: &[&str]) -> Outcome {
        ended(self.command(arguments).spawn().unwrap())
    }
}

/// What `inspect` plans for a context.
fn context(mut command: Command) -> u64 {
    let outcome = ended(command.spawn().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let found: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    found["plan"]["context"].as_u64().unwrap()
}

#[test]
fn flag_before_environment_before_file_before_built_in() {
    let inspect = ["inspect", "--json"];
    let config = Config::of("device = 'cpu'\nctx = 100\n");
    let with_flag = [&inspect[..], &["-c", "300"]].concat();
    let environment = |mut command: Command| {
        command.env("FLASHFLOOD_CTX", "200");
        command
    };
    assert_eq!(context(environment(config.command(&with_flag))), 300);
    assert_eq!(context(environment(config.command(&inspect))), 200);
    assert_eq!(context(config.command(&inspect)), 100);
    assert_eq!(context(flashflood(&[&inspect[..], &["--device", "cpu"]].concat())), 32768);
    // a command's own section before the top, and no other command's
    let config = Config::of("ctx = 100\n[inspect]\nctx = 150\njson = true\n[run]\nctx = 50\n");
    assert_eq!(context(config.command(&["inspect", "--device", "cpu"])), 150);
    // the model's own
    let greedy = Config::of("[run]\ntemp = 0\nmax-tokens = 3\nraw = true\ndevice = 'cpu'\nstop = ['x', 'y']");
    let [one, two] = [1, 2].map(|seed: u32| greedy.outcome(&["run", "Once upon a time", "--seed", &seed.to_string()]));
    assert_eq!((one.code, &one.stdout), (Some(0), &two.stdout), "{one:#?}");
    assert!(one.stdout.starts_with("Once upon a time") && one.stdout.len() < 50, "{one:#?}");
}

/// Of two flags that exclude each other the one that is given holds, whatever the file says of the other.
#[test]
fn what_is_given_in_place_of_a_setting() {
    let ask = ["run", "--device", "cpu", "-n", "2", "Once upon a time"];
    let is_raw = |config: &str, more: &[&str]| {
        let outcome = Config::of(config).outcome(&[&ask[..], more].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        outcome.stdout.starts_with("Once upon a time")
    };
    assert!(is_raw("[run]\nraw = true", &[]));
    assert!(!is_raw("[run]\nraw = true", &["--system", "You are kind."]));
    assert!(is_raw("[run]\nsystem = 'You are kind.'", &["--raw"]));
    assert!(!is_raw("[run]\nsystem = 'You are kind.'", &[]));
}

#[test]
fn switches_and_required_flags() {
    let config = Config::of("[list]\njson = true\n[logits]\ntokens = '1,2'\nout = '/does/not/exist/x'\n");
    assert_eq!(config.outcome(&["list"]).stdout, "[]\n");
    let mut no = config.command(&["list"]);
    assert_eq!(ended(no.env("FLASHFLOOD_JSON", "0").spawn().unwrap()).stdout, "");
    let yes = flashflood(&["list"]).env("FLASHFLOOD_JSON", "yes").spawn().unwrap();
    assert_eq!(ended(yes).stdout, "[]\n");
    config
        .outcome(&["logits", "/does/not/exist"])
        .failed(&["/does/not/exist/x: expected a file in a folder that exists"]);
}

#[test]
fn what_is_wrong_with_a_file() {
    let wrong = |text: &str, parts: &[&str]| Config::of(text).outcome(&["list"]).misused(parts);
    wrong("\ncontext = 5", &["config.toml:2: unknown key 'context'", "hint: "]);
    wrong("[run]\nmax_tokens = 5", &["config.toml:2: unknown key 'max_tokens' in [run]", "did you mean 'max-tokens'?"]);
    wrong("[list]\ntemp = 1", &["config.toml:2: unknown key 'temp' in [list]"]);
    wrong("[walk]\nctx = 1", &["config.toml:1: unknown section [walk]", "sections are commands: run"]);
    wrong("ctx = 'many'", &["config.toml:1: 'ctx': invalid value 'many'", "hint: --ctx: Positions"]);
    wrong("ctx = [1, 2]", &["config.toml:1: 'ctx' takes one value, found a list"]);
    wrong("\n\ndevice = 'abacus'", &["config.toml:3: 'device': invalid value 'abacus'", "one of auto, gpu, cpu"]);
    wrong("verbose = 'yes'", &["config.toml:1: 'verbose': expected true or false, found yes"]);
    wrong("ctx = true", &["config.toml:1: 'ctx': expected a value, found true"]);
    wrong("ctx = 1979-05-27", &["config.toml:1: 'ctx': expected no date"]);
    wrong("ctx = ", &["config.toml:1: "]);
    wrong("ctx = 1\nctx = 2", &["config.toml:2: duplicate key"]);
    let missing = flashflood(&["list"]).env("FLASHFLOOD_CONFIG", "/does/not/exist").spawn().unwrap();
    ended(missing).misused(&["/does/not/exist: cannot be read", "FLASHFLOOD_CONFIG names this file"]);
    // help and misuse come first
    let broken = Config::of("context = 5");
    assert_eq!(broken.outcome(&["run", "--help"]).code, Some(0));
    assert_eq!(broken.outcome(&["completions", "bash"]).code, Some(0));
    broken.outcome(&["list", "--frobnicate"]).misused(&["--frobnicate"]);
}
