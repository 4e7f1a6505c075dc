//! Weights that cannot be a model's: zeros that a download left, and NaN. Resident ones are found when the model opens,
//! experts when they are read first.

use super::*;
use crate::snapshot::Snapshot;

/// What opening the model at `path`, and then running it, says.
fn says(path: &Path) -> (String, String) {
    let options = EngineOptions {
        device: Device::Cpu,
        activations: Activations::F32,
        context: Some(64),
        ..EngineOptions::default()
    };
    let mut engine = match Engine::open(path, &options) {
        Ok(engine) => engine,
        Err(error) => return (error.to_string(), String::new()),
    };
    let mut session = engine.session().unwrap();
    let ran = session.extend(&[1, 2, 3, 4, 5, 6, 7], flashflood::compute::LogitRows::Last, |_, _| true);
    (String::new(), ran.map_or_else(|error| error.to_string(), |_| "nothing".to_owned()))
}

fn expect(path: &Path, opening: &[&str], running: &[&str]) {
    let (opened, ran) = says(path);
    assert_eq!(opened.is_empty(), opening.is_empty(), "{opened}{ran}");
    assert!(opening.iter().all(|part| opened.contains(part)), "{opening:?} in {opened}");
    assert!(running.iter().all(|part| ran.contains(part)), "{running:?} in {ran}");
}

const INCOMPLETE: &str = "is the download complete?";

#[test]
fn zeros_to_the_end_of_a_file() {
    for numbers in [Numbers::Bf16, Numbers::Q8] {
        let (_folder, path) = write(&golden("mixtral").0.gguf(Form { numbers, ..Form::PLAIN }));
        let whole = fs::read(&path).unwrap();
        expect(&path, &[], &["nothing"]);
        let mut half = whole.clone();
        half[whole.len() / 2..].fill(0);
        fs::write(&path, half).unwrap();
        // whatever lies there
        let (opened, ran) = says(&path);
        let text = opened + &ran;
        assert!(["model.gguf: ", "found zeros", INCOMPLETE].iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn zeros_in_the_experts() {
    for (tensor, matrix) in [("ffn_gate_exps", "gate_proj"), ("ffn_up_exps", "up_proj"), ("ffn_down_exps", "down_proj")]
    {
        let mut file = golden("mixtral").0.gguf(Form { numbers: Numbers::Q8, ..Form::PLAIN });
        file.tensor(&format!("blk.1.{tensor}.weight")).bytes.fill(0);
        let (folder, path) = write(&file);
        let found = ["layer 1, expert", &format!("expected the weights of {matrix}, found zeros"), INCOMPLETE];
        expect(&path, &[], &["model.gguf", found[0], found[1], found[2]]);
        // a pack of it has checksums, of zeros
        let pack = folder.path().join("pack");
        ModelSource::open(&path).unwrap().write_pack(Some(&path), &pack, &PackOptions::default(), &|_| {}).unwrap();
        expect(&pack, &[], &["layer-001.bin", found[0], found[1]]);
    }
}

#[test]
fn numbers_that_are_none() {
    let name = "blk.0.attn_q.weight";
    for (numbers, bad, row) in [(Numbers::F32, vec![0, 0, 0xc0, 0x7f], 3), (Numbers::Bf16, vec![0x80, 0xff], 3)] {
        let mut file = golden("qwen3").0.gguf(Form { numbers, ..Form::PLAIN });
        let tensor = file.tensor(name);
        let at = tensor.dims[0] as usize * bad.len() * row;
        tensor.bytes[at..at + bad.len()].copy_from_slice(&bad);
        let (_folder, path) = write(&file);
        expect(&path, &["tensor `blk.0.attn_q.weight`, row 3: expected a finite number, found", INCOMPLETE], &[]);
    }
    // the scale of a block, in a row of a head that is no embedding
    let mut file = golden("mixtral").0.gguf(Form { numbers: Numbers::Q8, ..Form::PLAIN });
    let tensor = file.tensor("output.weight");
    let row = tensor.dims[0] as usize / 32 * 34;
    tensor.bytes[row * 7..row * 7 + 2].copy_from_slice(&[0, 0x7e]);
    let (_folder, path) = write(&file);
    expect(&path, &["tensor `output.weight`, row 7: expected a finite number, found NaN"], &[]);
    let mut file = golden("qwen3").0.gguf(Form::PLAIN);
    file.tensor("blk.1.ffn_norm.weight").bytes.fill(0);
    let (_folder, path) = write(&file);
    expect(&path, &["layers.1.post_norm", "expected the weight of a norm, found zeros"], &[]);
}

/// A snapshot whose one file ends in zeros.
#[test]
fn zeros_to_the_end_of_a_snapshot() {
    let snapshot = Snapshot::of("qwen3");
    let path = fs::read_dir(snapshot.path()).unwrap().map(|entry| entry.unwrap().path());
    let path = path.into_iter().find(|path| path.extension().is_some_and(|end| end == "safetensors")).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0);
    fs::write(&path, bytes).unwrap();
    expect(snapshot.path(), &["found zeros", INCOMPLETE], &[]);
}

/// A GGUF file beside a snapshot, in parts and without an index: the folder is the snapshot.
#[test]
fn a_file_beside_a_snapshot() {
    let snapshot = Snapshot::of("qwen3");
    let (_, tokens, _) = golden("qwen3");
    let expected = computed(snapshot.path(), Device::Cpu, &tokens);
    let (_folder, other) = write(&golden("mixtral").0.gguf(Form::PLAIN));
    fs::copy(other, snapshot.path().join("other.gguf")).unwrap();
    let index = snapshot.path().join("model.safetensors.index.json");
    if index.exists() {
        fs::remove_file(index).unwrap();
    } else {
        fs::rename(snapshot.path().join("model.safetensors"), snapshot.path().join("model-00001-of-00001.safetensors"))
            .unwrap();
    }
    assert!(computed(snapshot.path(), Device::Cpu, &tokens) == expected);
}
