//! `flashflood bench`: the pages to share, and measurements side by side. What it measures is no matter of tests.

use serde_json::Value;

use super::*;

fn bench(arguments: &[&str]) -> Outcome {
    let outcome = outcome(&[&["bench", "--device", "cpu"], arguments].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    outcome
}

/// The JSON in a page.
fn data_of(page: &str) -> Value {
    let data = page.split("const data = ").nth(1).unwrap().split(";\n").next().unwrap();
    serde_json::from_str(data).unwrap()
}

/// What a browser makes of a page: its elements, after scripts have run. `None` where there is no browser.
fn rendered(page: &Path) -> Option<String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let program =
        names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|p| p.exists());
    let Some(program) = program else {
        let wanted = std::env::var("FLASHFLOOD_CLIENT_TESTS").is_ok_and(|value| value == "require");
        assert!(!wanted, "no Chromium is installed");
        eprintln!("skipped: no Chromium is installed");
        return None;
    };
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_page_of_decode_holds_what_json_says() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("decode.html");
    let json = bench(&["-n", "4", "-r", "2", "--json", "--report", page.to_str().unwrap()]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let text = fs::read_to_string(&page).unwrap();
    let data = data_of(&text);
    assert_eq!(data["result"], json);
    assert_eq!((&data["what"], &data["model"]), (&"decode".into(), &"the small model in the program".into()));
    assert!(json["kernels"].as_array().unwrap().len() > 5, "{json}");
    if let Some(page) = rendered(&page) {
        for wanted in [
            "Tokens a second",
            "median of 2 runs",
            "A token, ms",
            "Roofline of the kernels",
            "Kernels, us a token",
            "<svg",
            "<table>",
        ] {
            assert!(page.contains(wanted), "{wanted} is not in {page}");
        }
        assert!(!page.contains("NaN") && !page.contains("undefined</"), "{page}");
    }
}

#[test]
fn pages_of_prompts_and_of_the_doctor() {
    let folder = tempfile::tempdir().unwrap();
    let (prompts, doctor) = (folder.path().join("prompts.html"), folder.path().join("doctor.html"));
    bench(&["-p", "16,64", "-r", "1", "--report", prompts.to_str().unwrap()]);
    let data = data_of(&fs::read_to_string(&prompts).unwrap());
    assert_eq!(data["result"]["runs"].as_array().unwrap().len(), 2);
    let arguments = ["doctor", "--device", "cpu", "--skip-disk", "--report", doctor.to_str().unwrap()];
    assert_eq!(outcome(&arguments).code, Some(0));
    assert!(data_of(&fs::read_to_string(&doctor).unwrap())["result"]["findings"].is_array());
    for (page, wanted) in [(&prompts, "Prompt tokens a second"), (&doctor, "Findings")] {
        if let Some(page) = rendered(page) {
            assert!(page.contains(wanted) && page.contains("<table>") && !page.contains("NaN"), "{page}");
        }
    }
}

#[test]
fn a_row_for_each_cache() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("caches.html");
    let asked = ["--caches", "1MB,3MB,all", "-n", "24", "-r", "2"];
    let json = bench(&[&asked[..], &["--json", "--report", page.to_str().unwrap()]].concat()).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let runs = json["runs"].as_array().unwrap();
    let of = |key: &str| runs.iter().map(|run| run[key].as_f64().unwrap()).collect::<Vec<_>>();
    let (slots, hits, read) = (of("slots"), of("hit_rate"), of("bytes_read_per_token"));
    assert_eq!(runs.len(), 6, "{json}");
    assert!(slots[0] == slots[1] && slots[1] < slots[2] && slots[3] < slots[4], "{json}");
    assert_eq!(slots[4], of("all_slots")[4]);
    // more is found in more memory
    assert!(hits[0] < hits[2] && hits[2] < hits[4], "{json}");
    assert!(read[0] > read[2] && read[2] > read[4], "{json}");
    if let Some(page) = rendered(&page) {
        for wanted in ["Tokens a second by the memory for experts", "Experts found in memory", "<svg"] {
            assert!(page.contains(wanted) && !page.contains("NaN"), "{wanted} is not in {page}");
        }
    }
    let text = bench(&["--caches", "1MB", "-n", "2", "-r", "1"]).stdout;
    assert!(
        text.contains("| cache | experts | of all % |") && text.lines().last().unwrap().starts_with("| "),
        "{text}"
    );
    outcome(&["bench", "--caches", "1MB", "--expert-cache", "2MB"]).misused(&["--caches", "--expert-cache"]);
    outcome(&["bench", "--caches", "1MB,much"]).misused(&["much"]);
}

#[test]
fn a_row_for_each_depth() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("depths.html");
    let asked = ["--depth", "0,48", "-p", "8,16", "-n", "2", "-r", "2"];
    let text = bench(&asked).stdout;
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| 0 |") || line.starts_with("| 48 |")).collect();
    assert_eq!(rows.len(), 4, "{text}");
    assert!(text.contains("| 8 more t/s | 16 more t/s |") && rows[0].starts_with("| 0 | 0 B |"), "{text}");
    let json = bench(&[&asked[..], &["--json", "--report", page.to_str().unwrap()]].concat()).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let runs = json["runs"].as_array().unwrap();
    let contexts: Vec<_> = runs.iter().map(|run| run["context"].as_u64().unwrap()).collect();
    assert_eq!(contexts, [0, 0, 48, 48]);
    for run in runs {
        for speed in ["decode_tokens_per_s", "prompt_8_tokens_per_s", "prompt_16_tokens_per_s"] {
            assert!(run[speed].as_f64().unwrap() > 0.0, "{run}");
        }
        assert!(run["state_bytes"].as_u64().unwrap() > 0);
    }
    // keys and values of the layers of attention
    assert!(runs[0]["kv_bytes"] == 0 && runs[2]["kv_bytes"].as_u64().unwrap() > 48 * 100, "{json}");
    if let Some(page) = rendered(&page) {
        for wanted in ["Decode, tokens a second", "Prompt of 16, tokens a second", "<svg"] {
            assert!(page.contains(wanted), "{wanted} is not in {page}");
        }
    }
    assert_eq!(data_of(&fs::read_to_string(&page).unwrap())["what"], "depths");
    outcome(&["bench", "--device", "cpu", "--depth", "40000"]).failed(&["--rope-scaling yarn:2 "]);
    outcome(&["bench", "--depth", "8", "--experts"]).misused(&["--depth", "--experts"]);
}

#[test]
fn two_measurements_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let a =
        file("a.json", r#"{"slots": 8, "runs": [{"tokens_per_s": 10}, {"tokens_per_s": 12}, {"tokens_per_s": 90}]}"#);
    let b = file("b.json", r#"{"slots": 8, "runs": [{"tokens_per_s": 18}]}"#);
    let text = outcome(&["bench", "--compare", &a, &b]).stdout;
    let line = text.lines().find(|line| line.starts_with("tokens_per_s")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["tokens_per_s", "12.00", "18.00", "+50.0", "%"]);
    let bad = file("bad.json", "speed: 3");
    outcome(&["bench", "--compare", &a, &bad]).failed(&["bad.json", "expected what flashflood bench --json prints"]);
    let empty = file("empty.json", "{}");
    outcome(&["bench", "--compare", &a, &empty]).failed(&["empty.json", "no figures", "bench --json"]);
    outcome(&["bench", "--compare", &a]).misused(&["--compare"]);
}
