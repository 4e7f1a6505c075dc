//! Writes the folder that the hub would hold for a golden model: weights by the formula of
//! `tests/golden/families/families.py`, in the files and under the names that transformers gives them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use flashflood::weights::safetensors::TensorSet;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// What `weights.json` says.
#[derive(Deserialize)]
struct Weights {
    seed: u64,
    files: BTreeMap<String, BTreeMap<String, Formula>>,
}

#[derive(Deserialize)]
struct Formula {
    shape: Vec<usize>,
    low: f64,
    high: f64,
}

impl Formula {
    /// SplitMix64, seeded with the FNV-1a hash of the tensor's name.
    fn tensor(&self, name: &str, seed: u64) -> Tensor {
        let hash = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash) ^ seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let unit = ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24);
            bf16::from_f32((self.low + (self.high - self.low) * unit) as f32)
        };
        let count = self.shape.iter().product();
        Tensor { shape: self.shape.clone(), bytes: (0..count).flat_map(|_| next().to_le_bytes()).collect() }
    }
}

/// A BF16 tensor.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    /// Numbers that would be seen if they took part.
    pub(crate) fn of_ones(shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        Tensor { shape: shape.to_vec(), bytes: bf16::ONE.to_le_bytes().repeat(count) }
    }
}

/// A golden model before it is written, to be changed.
pub(crate) struct Draft {
    pub(crate) config: Value,
    /// Tensors by name, by file.
    pub(crate) files: BTreeMap<String, BTreeMap<String, Tensor>>,
}

impl Draft {
    pub(crate) fn of(name: &str) -> Draft {
        let read = |file: &str| fs::read_to_string(golden(name).join(file)).unwrap();
        let Weights { seed, files } = serde_json::from_str(&read("weights.json")).unwrap();
        let tensors = |formulas: BTreeMap<String, Formula>| {
            formulas.into_iter().map(|(name, formula)| (name.clone(), formula.tensor(&name, seed))).collect()
        };
        let files = files.into_iter().map(|(file, formulas)| (file, tensors(formulas))).collect();
        Draft { config: serde_json::from_str(&read("config.json")).unwrap(), files }
    }

    /// The tensor `name`, wherever it lies.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.files.values_mut().find_map(|tensors| tensors.get_mut(name)).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// Takes the tensor `name` out.
    pub(crate) fn remove(&mut self, name: &str) -> Tensor {
        let removed = self.files.values_mut().find_map(|tensors| tensors.remove(name));
        removed.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// Gives every tensor the name that `rename` makes of its own.
    pub(crate) fn rename(&mut self, rename: impl Fn(&str) -> String) {
        for tensors in self.files.values_mut() {
            *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        }
    }

    /// The number of weights.
    pub(crate) fn parameters(&self) -> usize {
        self.files.values().flat_map(BTreeMap::values).map(|tensor| tensor.bytes.len() / 2).sum()
    }

    /// Writes configuration, shards and their index.
    pub(crate) fn write(&self) -> Snapshot {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        let mut index = Map::new();
        for (file, tensors) in &self.files {
            let views = tensors.iter().map(|(name, tensor)| {
                (name, TensorView::new(Dtype::BF16, tensor.shape.clone(), &tensor.bytes).unwrap())
            });
            let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            serialize_to_file(views, Some(metadata), &folder.path().join(file)).unwrap();
            index.extend(tensors.keys().map(|name| (name.clone(), file.as_str().into())));
        }
        if self.files.len() > 1 {
            let index = json!({ "metadata": {}, "weight_map": index });
            fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        }
        Snapshot(folder)
    }
}

/// A model's folder, as long as this lives.
pub(crate) struct Snapshot(TempDir);

impl Snapshot {
    pub(crate) fn of(name: &str) -> Snapshot {
        Draft::of(name).write()
    }

    /// With what text needs: a tokenizer of bytes, each its own id, and a template that makes "user: Hello\nassistant:" of a
    /// "Hello".
    pub(crate) fn with_text(self) -> Snapshot {
        let write = |file: &str, text: &str| fs::write(self.path().join(file), text).unwrap();
        write("tokenizer.json", &tokenizer_of_bytes().to_string());
        let template = "{%- for message in messages %}{{ message.role ~ ': ' ~ message.content ~ '\\n' }}{%- endfor %}\
            {%- if add_generation_prompt %}{{ 'assistant:' }}{%- endif %}";
        write("chat_template.jinja", template);
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families").join(name)
}

fn tokenizer_of_bytes() -> Value {
    // byte-level BPE writes bytes that are not printable as characters from U+0100 on
    let mut unprintable = (0x100..).map(|code| char::from_u32(code).unwrap());
    let mut character = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => unprintable.next().unwrap(),
    };
    let vocab: Map<String, Value> = (0..=255).map(|byte| (character(byte).to_string(), byte.into())).collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": bytes, "decoder": bytes,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

/// What transformers computes with a golden model.
pub(crate) struct Oracle(TensorSet);

impl Oracle {
    pub(crate) fn of(name: &str) -> Oracle {
        Oracle(TensorSet::open_file(&golden(name).join("oracle.safetensors")).unwrap())
    }

    pub(crate) fn ids(&self, name: &str) -> Option<Vec<u32>> {
        let bytes = &self.0.get(name)?.bytes;
        Some(bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
    }

    /// Logits of all tokens at once.
    pub(crate) fn logits(&self) -> Vec<f32> {
        self.0.get("logits_prefill").unwrap().to_f32().unwrap()
    }

    /// Logits that are `off` those: the same where that is not kept.
    pub(crate) fn logits_off(&self, off: &str) -> Vec<f32> {
        let mut logits = self.logits();
        if let Some(off) = self.0.get(off) {
            let off = off.bytes.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32());
            logits.iter_mut().zip(off).for_each(|(logit, off)| *logit += off);
        }
        logits
    }
}
