//! `flashflood models` and `flashflood rm`: what fits this machine, and what is no longer wanted.

use serde_json::Value;

use super::list::{places, with_places};
use super::*;

fn models(arguments: &[&str]) -> Value {
    let arguments = [&["models", "--device", "cpu", "--json"], arguments].concat();
    let outcome = outcome(&arguments);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn of<'a>(all: &'a Value, name: &str) -> &'a Value {
    all["models"].as_array().unwrap().iter().find(|model| model["name"] == name).unwrap()
}

#[test]
fn a_shape_a_budget_and_what_a_token_reads() {
    // a tenth of the experts in memory
    let all = models(&["--disk-rate", "1", "--expert-cache", "2GB", "-c", "1024"]);
    let model = of(&all, "Qwen3.5-35B-A3B");
    if model["error"].is_string() {
        // a machine with little memory
        return assert!(model["error"].as_str().unwrap().contains("are free"), "{model}");
    }
    // 35 billion weights in 4 bits and scales
    let bytes = model["bytes"].as_u64().unwrap();
    assert!((18_000_000_000..22_000_000_000).contains(&bytes), "{bytes}");
    // 8 experts of 1.77 MB in each of 40 layers
    let (read, share) = (model["read_per_token"].as_f64().unwrap(), model["in_memory"].as_f64().unwrap());
    assert!((0.09..0.13).contains(&share), "{share}");
    assert!((read / (566_000_000.0 * (1.0 - share)) - 1.0).abs() < 0.01, "{read}");
    let speed = model["tokens_per_s"].as_f64().unwrap();
    assert!(speed > 0.0 && speed < 1e9 / read, "{model}");
}

#[test]
fn what_does_not_fit_says_so() {
    let all = models(&["--disk-rate", "3", "--expert-cache", "9000GB"]);
    let model = of(&all, "Qwen3.5-397B-A17B");
    assert_eq!((&model["tokens_per_s"], &model["in_memory"]), (&Value::Null, &Value::Null));
    assert!(model["error"].as_str().unwrap().contains("the model needs"), "{model}");
}

#[test]
fn the_table_ends_with_a_command() {
    let places = places();
    let arguments = ["models", "--device", "cpu", "--disk-rate", "3.5"];
    let text = ended(with_places(&arguments, &places).spawn().unwrap()).stdout;
    assert!(text.contains("experts read at 3.50 GB/s"), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("Qwen")).count() >= 8, "{text}");
    outcome(&["models", "--disk-rate", "fast"]).misused(&["expected GB/s above 0"]);
}

#[test]
fn measures_the_disk() {
    let places = places();
    let outcome = ended(with_places(&["models", "--device", "cpu", "--json"], &places).spawn().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let all: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(all["machine"]["rates"]["disk"].as_f64().unwrap() > 0.0, "{all}");
    // what was measured with is gone
    let left = fs::read_dir(places.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| name.to_string_lossy().starts_with("models--")));
}

#[test]
fn removes_a_model_and_nothing_else() {
    let places = places();
    let rm = |arguments: &[&str]| ended(with_places(&[&["rm"], arguments].concat(), &places).spawn().unwrap());
    let whole = places.0.path().join("models--org--whole");
    rm(&["org/whole"]).failed(&["org/whole", "nobody is there to be asked", "--yes"]);
    rm(&["org/none", "--yes"]).failed(&["org/none", "there is no such model", "flashflood list"]);
    rm(&["org/whole:Q4_K_M", "--yes"]).failed(&["expected a whole repository", "flashflood rm org/whole"]);
    rm(&["ollama:small:latest", "--yes"]).failed(&["its own to remove", "ollama rm small:latest"]);
    assert!(whole.is_dir());
    let removed = rm(&["org/whole", "--yes"]);
    assert_eq!((removed.code, removed.stdout.starts_with("removed org/whole: ")), (Some(0), true), "{removed:#?}");
    assert!(!whole.exists() && places.0.path().join("models--org--half").is_dir());
}

#[test]
fn removes_packs_but_no_other_folder() {
    let places = places();
    let rm = |folder: &Path| {
        let folder = folder.to_str().unwrap();
        ended(with_places(&["rm", "--yes", folder], &places).spawn().unwrap())
    };
    let packs = places.1.path().join("flashflood");
    rm(&packs).failed(&["expected the folder of a pack", "found another folder"]);
    let pack = packs.join("packs/small");
    for mine in ["notes.txt", "experts/notes.txt", "mine/notes.txt"] {
        let mine = pack.join(mine);
        fs::create_dir_all(mine.parent().unwrap()).unwrap();
        fs::write(&mine, "mine").unwrap();
        rm(&pack).failed(&["notes.txt", "a file that is not the pack's"]);
        fs::remove_file(&mine).unwrap();
    }
    fs::create_dir(pack.join("additional_chat_templates")).unwrap();
    fs::write(pack.join("additional_chat_templates/tools.jinja"), "").unwrap();
    assert_eq!(rm(&pack).code, Some(0));
    assert!(!pack.exists());
    // one that was begun, too, but not whatever has a file of that name
    let begun = packs.join("begun");
    rm(&begun).failed(&["expected the folder of a pack"]);
    fs::create_dir(begun.join("experts")).unwrap();
    fs::write(begun.join("experts/layer-000.bin.part"), "").unwrap();
    assert_eq!(rm(&begun).code, Some(0));
    assert!(packs.join("packs").is_dir());
}

#[cfg(unix)]
#[test]
fn does_not_follow_a_link() {
    let places = places();
    let (pack, link) = (places.1.path().join("flashflood/packs/small"), places.1.path().join("link"));
    std::os::unix::fs::symlink(&pack, &link).unwrap();
    let arguments = ["rm", "--yes", link.to_str().unwrap()];
    let outcome = ended(with_places(&arguments, &places).spawn().unwrap());
    outcome.failed(&["expected the folder of a pack", "found a link"]);
    assert!(pack.is_dir());
}
