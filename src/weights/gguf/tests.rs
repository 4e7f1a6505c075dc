#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;

use super::*;

#[allow(dead_code, reason = "the tests of whole models write more")]
#[path = "../../../tests/families/gguf/writer.rs"]
mod writer;

use writer::{GgufFile, Numbers, Value};

const PATH: &str = "models/model.gguf";

/// Keys of all kinds, and three tensors.
fn valid() -> GgufFile {
    let mut file = GgufFile::new();
    file.put("general.architecture", "none");
    file.put("a.u8", Value::U8(200));
    file.put("a.u16", Value::U16(60_000));
    file.put("a.u64", Value::U64(1 << 40));
    file.put("a.i32", Value::I32(-7));
    file.put("a.f32", Value::F32(0.5));
    file.put("a.bool", Value::Bool(true));
    file.put("a.numbers", Value::I32s(vec![1, 2, 3]));
    file.put("a.bools", Value::Bools(vec![true, false]));
    file.put("a.texts", Value::Texts(vec!["x".into(), String::new(), "\u{e9}y".into()]));
    file.add("a", &[4], &[1.0, 2.0, 3.0, 4.0], Numbers::F32);
    file.add("b", &[2, 3], &[0.0; 6], Numbers::Bf16);
    file.tensors.push(writer::RawTensor { name: "c".into(), dims: vec![256, 1], kind: 12, bytes: vec![7; 144] });
    file
}

fn header(bytes: &[u8]) -> Result<Header, FileError> {
    read_header(Path::new(PATH), &Bytes::copy_from_slice(bytes))
}

fn refused(bytes: &[u8], parts: &[&str]) {
    let message = header(bytes).unwrap_err().to_string();
    for part in [&PATH].into_iter().chain(parts) {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

/// A change of the valid file is refused in these words.
fn changed(change: impl FnOnce(&mut GgufFile), parts: &[&str]) {
    let mut file = valid();
    change(&mut file);
    refused(&file.bytes(), parts);
}

#[test]
fn reads_keys_and_tensors() {
    for version in [2, 3] {
        let bytes = GgufFile { version, ..valid() }.bytes();
        let Header { metadata, tensors } = header(&bytes).unwrap();
        assert_eq!(metadata.size("a.u8").unwrap(), Some(200));
        assert_eq!(metadata.size("a.u16").unwrap(), Some(60_000));
        assert_eq!(metadata.size("a.u64").unwrap(), Some(1 << 40));
        assert_eq!(metadata.number("a.i32").unwrap(), Some(-7.0));
        assert_eq!(metadata.number("a.f32").unwrap(), Some(0.5));
        assert_eq!(metadata.flag("a.bool").unwrap(), Some(true));
        assert_eq!(metadata.sizes("a.numbers").unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(metadata.flags("a.bools").unwrap(), Some(vec![true, false]));
        assert_eq!(metadata.texts("a.texts").unwrap(), Some(vec!["x", "", "\u{e9}y"]));
        assert_eq!(metadata.text("absent").unwrap(), None);
        assert_eq!(metadata.keys_with("a.u").collect::<Vec<_>>(), ["a.u16", "a.u64", "a.u8"]);
        let [a, b, c] = &tensors[..] else { panic!("{tensors:?}") };
        assert_eq!((&a.shape[..], a.kind.name, a.len), (&[4][..], "F32", 16));
        assert_eq!((&b.shape[..], b.kind.name, b.len), (&[2, 3][..], "BF16", 12));
        assert_eq!((&c.shape[..], c.kind.name, c.len), (&[1, 256][..], "Q4_K", 144));
        assert_eq!(bytes[c.offset as usize..][..c.len], [7; 144]);
        assert!(tensors.iter().all(|tensor| tensor.offset.is_multiple_of(32)));
    }
}

#[test]
fn keys_of_other_kinds_are_named() {
    let metadata = header(&valid().bytes()).unwrap().metadata;
    let said = |error: FileError| error.to_string();
    assert!(said(metadata.size("a.i32").unwrap_err()).ends_with("`a.i32`: expected a whole number from 0, found -7"));
    assert!(said(metadata.text("a.u8").unwrap_err()).ends_with("`a.u8`: expected a text, found 200"));
    let error = said(metadata.number("a.texts").unwrap_err());
    assert!(error.ends_with("`a.texts`: expected a number, found an array of 3 texts"), "{error}");
    let error = said(metadata.texts("general.architecture").unwrap_err());
    assert!(error.ends_with("expected an array of texts, found \"none\""), "{error}");
}

#[test]
fn refuses_what_is_no_gguf() {
    refused(b"", &["expected a GGUF file, found 0 bytes", "is the download complete?"]);
    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        &["found a git-lfs pointer", "git lfs pull"],
    );
    refused(b"lmgg\x01\0\0\0", &["from before GGUF"]);
    refused(&[0; 64], &["found zeros"]);
    refused(b"\x80\x02}q\0", &["begins with \"\\\\x80\\\\x02}q\""]);
    for (version, parts) in [
        (1, ["found 1", "newer file"]),
        (4, ["found 4", "newer flashflood"]),
        (0x0300_0000, ["found 3, big-endian", "gguf-convert-endian"]),
    ] {
        refused(&GgufFile { version, ..valid() }.bytes(), &parts);
    }
}

#[test]
fn refuses_tensors_that_do_not_hold_their_elements() {
    changed(|file| file.tensor("c").dims = vec![255], &["tensor `c`", "whole blocks of 256 elements (Q4_K)", "255"]);
    changed(|file| file.tensor("b").kind = 99, &["tensor `b`", "found type 99"]);
    changed(|file| file.tensor("b").dims = vec![u64::MAX, 2], &["tensor `b`", "a size in 64 bits"]);
    changed(|file| file.tensor("b").dims = vec![1; 5], &["tensor `b`", "at most 4 dimensions, found 5"]);
    changed(|file| file.tensor("a").dims = vec![12], &["tensor `b`", "overlaps tensor `a`"]);
    changed(|file| file.tensor("b").name = "a".into(), &["tensor `a`", "one tensor of this name, found two"]);
    changed(|file| file.alignment = 4, &["tensor `b`", "a multiple of 32, found 16"]);
    changed(
        |file| file.put("general.alignment", Value::U32(24)),
        &["`general.alignment`", "a power of two", "found 24"],
    );
    let whole = valid().bytes();
    refused(&whole[..whole.len() - 100], &["tensor `c`", "expected a file of at least", "is the download complete?"]);
}

#[test]
fn refuses_keys_that_cannot_be() {
    changed(|file| file.keys.push(("a.u8".into(), Value::U8(1))), &["`a.u8`", "one key of this name, found two"]);
    let with = |find: &[u8], put: &[u8]| {
        let mut bytes = valid().bytes();
        let at = bytes.windows(find.len()).position(|window| window == find).unwrap();
        bytes[at..][..put.len()].copy_from_slice(put);
        bytes
    };
    refused(&with(b"a.u8\0\0\0\0", b"a.u8\x0d\0\0\0"), &["`a.u8`", "a type from 0 to 12, found type 13"]);
    refused(&with(b"a.u8\0\0\0\0", b"\xffbu8"), &["the name of key 1", "in UTF-8"]);
    let numbers = [b"a.numbers\x09\0\0\0".as_slice(), &[5, 0, 0, 0]].concat();
    refused(&with(&numbers, b"a.numbers\x09\0\0\0\x09"), &["`a.numbers`", "found an array of arrays"]);
    // counts beyond the file
    let mut bytes = valid().bytes();
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&bytes, &["number of tensors: expected at most", "found 18446744073709551615"]);
    let counted = |kind: u32| [b"\x09\0\0\0".as_slice(), &kind.to_le_bytes(), &3u64.to_le_bytes()].concat();
    let many = |kind: u32| [b"\x09\0\0\0".as_slice(), &kind.to_le_bytes(), &(1u64 << 62).to_le_bytes()].concat();
    refused(&with(&counted(5), &many(5)), &["the array `a.numbers`", "before the file ends"]);
    refused(&with(&counted(8), &many(8)), &["of 4611686018427387904 of `a.texts`", "before the file ends"]);
    let whole = valid().bytes();
    for end in 0..200 {
        header(&whole[..end]).unwrap_err();
    }
}

#[test]
fn parts_are_of_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |n: usize| folder.path().join(format!("m-{n:05}-of-00003.gguf"));
    let write = |parts: &[GgufFile]| {
        for (n, part) in parts.iter().enumerate() {
            std::fs::write(path(n + 1), part.bytes()).unwrap();
        }
    };
    let parts = valid().split(3);
    write(&parts);
    for n in 1..=3 {
        let gguf = Gguf::open(&path(n)).unwrap();
        assert_eq!(gguf.root(), path(1));
        assert_eq!((gguf.files.len(), gguf.tensors.len()), (3, 3));
        assert_eq!(gguf.get("c").unwrap().bytes[..], [7; 144]);
        assert_eq!(gguf.metadata().number("a.f32").unwrap(), Some(0.5));
    }
    let refused = |parts: &[&str]| {
        let message = Gguf::open(&path(1)).map(|_| ()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let mut other = parts.clone();
    other.swap(1, 2);
    write(&other);
    refused(&["m-00002-of-00003.gguf: `split.no`: expected 1, as its name says, found 2"]);
    let mut other = parts.clone();
    other[0].put("split.tensors.count", Value::I32(4));
    write(&other);
    refused(&["`split.tensors.count`: expected 3, the tensors of all 3 files, found 4"]);
    let mut other = parts.clone();
    other[2].tensor("c").name = "a".into();
    write(&other);
    refused(&["m-00003-of-00003.gguf: tensor `a`: expected one tensor of this name, found another in", "m-00002"]);
    write(&parts);
    std::fs::remove_file(path(2)).unwrap();
    refused(&["m-00002-of-00003.gguf: missing, expected beside", "(1 of 3 files are missing)"]);
    let renamed = folder.path().join("renamed.gguf");
    std::fs::rename(path(1), &renamed).unwrap();
    let message = Gguf::open(&renamed).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("expected a name that ends in -00001-of-00003.gguf"), "{message}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), counts in any::<[u8; 2]>()) {
        let _ = header(&bytes);
        let start = [b"GGUF\x03\0\0\0".as_slice(), &[counts[0], 0, 0, 0, 0, 0, 0, 0, counts[1], 0, 0, 0, 0, 0, 0, 0]];
        let _ = header(&[&start.concat()[..], &bytes].concat());
    }

    /// Whatever a header says, a file that opens has views of exactly its elements.
    #[test]
    fn no_mutation_of_the_bytes_makes_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = valid().bytes();
        for (at, value) in changes {
            // data says nothing
            let at = at.index(bytes.len() - 200);
            bytes[at] = value;
        }
        if let Ok(header) = header(&bytes) {
            for tensor in &header.tensors {
                let elements: usize = tensor.shape.iter().product();
                prop_assert_eq!(tensor.len, elements / tensor.kind.block * tensor.kind.bytes);
                prop_assert!(tensor.offset as usize + tensor.len <= bytes.len());
            }
            for key in ["a.u8", "a.i32", "a.f32", "a.bool", "a.numbers", "a.texts", "general.architecture"] {
                let metadata = &header.metadata;
                let _ = (metadata.size(key), metadata.number(key), metadata.flag(key), metadata.text(key));
                let _ = (metadata.sizes(key), metadata.flags(key), metadata.texts(key));
            }
        }
        bytes.truncate(cut.index(bytes.len()));
        let _ = header(&bytes);
    }
}

/// What is mapped is not touched: a header is read to its end, and a part that is gone is an error, and no signal.
#[test]
fn a_header_is_read_and_may_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    // longer than what is read at first, twice
    let mut long = valid();
    long.put("a.long", Value::Texts(vec!["x".repeat(1000); 2500]));
    std::fs::write(&path, long.bytes()).unwrap();
    let mapped = map(&path).unwrap();
    let found = read_header(&path, &mapped).unwrap();
    assert_eq!(found.tensors, header(&long.bytes()).unwrap().tensors);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2_000_000).unwrap();
    // what was read does not need the file
    assert_eq!(found.metadata.size("a.u8").unwrap(), Some(200));
    let error = read_header(&path, &mapped).map(drop).unwrap_err().to_string();
    let expected = ["model.gguf: cannot read ", "\nhint: "];
    assert!(expected.iter().all(|part| error.contains(part)), "{error}");
}
