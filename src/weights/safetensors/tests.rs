#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const PATH: &str = "snapshot/model.safetensors";

/// A file with this header and this many zero bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn entry(dtype: &str, shape: &[u64], begin: u64, end: u64) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] })
}

/// Two tensors and metadata, 28 bytes of data.
fn valid() -> Value {
    json!({
        "__metadata__": { "format": "pt" },
        "b": entry("BF16", &[2, 3], 16, 28),
        "a": entry("F32", &[4], 0, 16),
    })
}

fn refused(bytes: &[u8], parts: &[&str]) {
    let message = read_header(Path::new(PATH), bytes).unwrap_err().to_string();
    for part in [&PATH].into_iter().chain(parts) {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

#[test]
fn reads_names_types_and_places() {
    let bytes = file(&valid().to_string(), 28);
    let data = bytes.len() as u64 - 28;
    let entries = read_header(Path::new(PATH), &bytes).unwrap();
    let b = Entry { name: "b".to_owned(), dtype: Dtype::BF16, shape: vec![2, 3], offset: data + 16, len: 12 };
    assert!(entries.contains(&b) && entries.len() == 2, "{entries:?}");

    let set = TensorSet::from_bytes(PATH, Bytes::from(bytes)).unwrap();
    assert_eq!(set.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(set.get("b").unwrap().bytes.len(), 12);
    assert_eq!(set.path_of(set.get("a").unwrap()), Path::new(PATH));
    assert_eq!(set.get("a").unwrap().to_f32().unwrap(), [0.0; 4]);
    assert!(set.get("c").is_none());
}

#[test]
fn reads_scalars_empty_tensors_and_padded_headers() {
    let header = json!({ "e": entry("F32", &[0, 5], 4, 4), "s": entry("F32", &[], 0, 4) }).to_string() + "   \n";
    assert_eq!(read_header(Path::new(PATH), &file(&header, 4)).unwrap().len(), 2);
    assert!(read_header(Path::new(PATH), &file("{}", 0)).unwrap().is_empty());
}

#[test]
fn finds_names_by_prefix() {
    let names = ["layers.1.a", "layers.10.a", "layers.1.b", "layers.2.a"];
    let header: Value = names.iter().map(|&name| (name.to_owned(), entry("U8", &[0], 0, 0))).collect();
    let set = TensorSet::from_bytes(PATH, Bytes::from(file(&header.to_string(), 0))).unwrap();
    assert_eq!(set.names_with("layers.1.").collect::<Vec<_>>(), ["layers.1.a", "layers.1.b"]);
    assert_eq!(set.names_with("x").count(), 0);
}

#[test]
fn converts_every_float_at_any_alignment() {
    let header = json!({
        "_": entry("U8", &[1], 0, 1), "f32": entry("F32", &[1], 1, 5), "f16": entry("F16", &[1], 5, 7),
        "bf16": entry("BF16", &[1], 7, 9),
    });
    let mut bytes = file(&header.to_string(), 1);
    bytes.extend((-1.5_f32).to_le_bytes());
    bytes.extend(half::f16::from_f32(-1.5).to_le_bytes());
    bytes.extend(half::bf16::from_f32(-1.5).to_le_bytes());
    let set = TensorSet::from_bytes(PATH, Bytes::from(bytes)).unwrap();
    for name in ["f32", "f16", "bf16"] {
        assert_eq!(set.get(name).unwrap().to_f32().unwrap(), [-1.5], "{name}");
    }
    assert!(set.get("_").unwrap().to_f32().is_none());
}

#[test]
fn refuses_bad_header_lengths() {
    refused(&[], &["8 bytes of length", "a file of 0 bytes"]);
    refused(&[1, 2, 3], &["a file of 3 bytes"]);
    refused(&[9, 0, 0, 0, 0, 0, 0, 0, b'{'], &["at most 1 bytes in a file of 9 bytes", "found 9 bytes"]);
    refused(&[0xff; 20], &["at most 12 bytes", "found 18446744073709551615 bytes"]);
}

#[test]
fn refuses_headers_that_are_not_tensors() {
    refused(&file("", 0), &["header", "EOF"]);
    refused(&file("{\"a\":", 0), &["header", "EOF"]);
    refused(&file("[]", 0), &["header", "an object of tensors"]);
    refused(&file("{\"a\": 1}", 0), &["tensor `a`", "struct"]);
    refused(&file("{\"\u{e9}\": \u{1}}", 0), &["header"]);
    let with = |key: &str, value: Value| {
        let mut header = valid();
        header["b"][key] = value;
        file(&header.to_string(), 28)
    };
    refused(&with("dtype", json!("Q4_K")), &["tensor `b`", "Q4_K"]);
    refused(&with("shape", json!([-2, 3])), &["tensor `b`", "-2"]);
    refused(&with("shape", json!("x")), &["tensor `b`", "sequence"]);
    refused(&with("data_offsets", json!([16])), &["tensor `b`", "length"]);
    refused(&file("{\"a\": {\"dtype\": \"F32\", \"shape\": []}}", 0), &["tensor `a`", "data_offsets"]);
}

#[test]
fn refuses_ranges_that_do_not_hold_the_elements() {
    let b = |dtype: &str, shape: &[u64], begin: u64, end: u64| {
        let mut header = valid();
        header["b"] = entry(dtype, shape, begin, end);
        file(&header.to_string(), 28)
    };
    refused(&b("BF16", &[2, 4], 16, 28), &["`b`", "16 bytes for BF16 [2, 4]", "found 12 bytes"]);
    refused(&b("BF16", &[2, 3], 16, 27), &["`b`", "12 bytes for BF16 [2, 3]", "found 11 bytes"]);
    refused(&b("F4", &[1], 16, 16), &["`b`", "4 bits for F4 [1]", "found 0 bytes"]);
    refused(&b("BF16", &[2, 3], 28, 16), &["`b`", "ascending", "[28, 16]"]);
    refused(&b("BF16", &[1 << 40, 1 << 40], 16, 28), &["`b`", "a size in 64 bits"]);
    refused(&b("BF16", &[2, 3], 4, 16), &["`b`", "data_offsets from 16 on", "found 4, which overlaps tensor `a`"]);
    let (header, bytes) = (b("BF16", &[2, 3], 20, 32), file(&valid().to_string(), 27));
    let total = header.len() + 4;
    refused(&header, &["`b`", &format!("at least {total} bytes, found {} bytes", total - 4)]);
    refused(&bytes, &["`b`", &format!("at least {} bytes, found {} bytes", bytes.len() + 1, bytes.len())]);
    refused(&b("BF16", &[2, 3], u64::MAX - 12, u64::MAX), &["`b`", "at least 18446744073709551615 bytes"]);
}

#[test]
fn refuses_holes_and_names_that_occur_twice() {
    refused(&file(&valid().to_string(), 30), &["found bytes 28 to 30 of it in none"]);
    refused(&file("{}", 2), &["found bytes 0 to 2"]);
    let mut header = valid();
    header["a"] = entry("F32", &[3], 0, 12);
    refused(&file(&header.to_string(), 28), &["found bytes 12 to 16"]);
    let empty = entry("F32", &[0], 0, 0);
    refused(&file(&format!("{{\"a\":{empty},\"a\":{empty}}}"), 0), &["`a`", "one tensor of this name", "found two"]);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0_u64..200) {
        let _ = read_header(Path::new(PATH), &bytes);
        let framed = [&length.to_le_bytes()[..], &bytes].concat();
        let _ = read_header(Path::new(PATH), &framed);
    }

    #[test]
    fn no_mutation_of_the_bytes_makes_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = file(&valid().to_string(), 28);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read_header(Path::new(PATH), &bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = read_header(Path::new(PATH), &bytes);
    }

    /// Whatever the header says, a set that opens has views of exactly the elements.
    #[test]
    fn accepted_tensors_lie_in_the_file(
        tensors in prop::collection::vec(
            ("[abc]", prop::sample::select(vec!["F32", "BF16", "U8", "F4"]), prop::collection::vec(0_u64..4, 0..3),
             prop_oneof![0_u64..40, any::<u64>()], prop_oneof![0_u64..40, any::<u64>()]),
            0..4,
        ),
        data in 0_usize..40,
    ) {
        let parts: Vec<String> = tensors
            .iter()
            .map(|(name, dtype, shape, begin, end)| format!("\"{name}\":{}", entry(dtype, shape, *begin, *end)))
            .collect();
        let bytes = file(&format!("{{{}}}", parts.join(",")), data);
        if let Ok(set) = TensorSet::from_bytes(PATH, Bytes::from(bytes)) {
            for name in set.names() {
                let tensor = set.get(name).unwrap();
                let bits = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize();
                prop_assert_eq!(tensor.bytes.len() * 8, bits);
            }
        }
    }
}

/// Parts that no index names, or that of another release.
#[test]
fn parts_without_an_index_are_taken_together() {
    let folder = tempfile::tempdir().unwrap();
    let one = |name: &str| file(&json!({ name: entry("F32", &[4], 0, 16) }).to_string(), 16);
    let write = |file: &str, bytes: &[u8]| std::fs::write(folder.path().join(file), bytes).unwrap();
    write("model-00001-of-00002.safetensors", &one("a"));
    let error = TensorSet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors: missing") && error.contains("1 of 2"), "{error}");
    write("model-00002-of-00002.safetensors", &one("b"));
    let set = TensorSet::open(folder.path()).unwrap();
    assert_eq!(set.names().collect::<Vec<_>>(), ["a", "b"]);
    assert!(set.path_of(set.get("b").unwrap()).ends_with("model-00002-of-00002.safetensors"));
    let stale = json!({ "weight_map": { "a": "model-00001-of-00009.safetensors" } });
    write("model.safetensors.index.json", stale.to_string().as_bytes());
    assert_eq!(TensorSet::open(folder.path()).unwrap().names().count(), 2);
    write("model-00002-of-00002.safetensors", &one("a"));
    let error = TensorSet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tensor `a`") && error.contains("00001-of-00002.safetensors too"), "{error}");
    write("other-00001-of-00001.safetensors", &one("c"));
    assert!(TensorSet::open(folder.path()).unwrap_err().to_string().contains("parts of `model` and of `other`"));
}

#[test]
fn pointers_of_git_lfs_are_named() {
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", &["a git-lfs pointer", "git lfs pull"]);
}

/// What is mapped is not touched: a part that is gone is an error, and no signal.
#[test]
fn a_header_that_is_lost_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, file(&valid().to_string(), 28)).unwrap();
    let mapped = map(&path).unwrap();
    for (left, lost) in [(64, "offset 8: "), (8, "offset 0: ")] {
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(left).unwrap();
        let error = TensorSet::from_bytes(&path, mapped.clone()).unwrap_err().to_string();
        let expected = ["model.safetensors: cannot read ", lost, "\nhint: "];
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
}
