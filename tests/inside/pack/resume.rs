//! Runs that were interrupted, and folders that hold something already.

use std::fs;
use std::io::ErrorKind;
use std::sync::Mutex;

use crate::weights::pack::{self, PackError, Progress};

use super::model::{QUIET, contents, file_of, folders, options, source};

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let (temp, model, out) = folders();
    let source = source(&model, 1);
    let whole = temp.path().join("whole");
    source.write_pack(None, &whole, &options(4), QUIET).unwrap();

    // the last layer's file is cut in the middle of an expert; the source has mapped the whole one
    let cut = file_of(source.experts(), 2, 0);
    let aside = temp.path().join("aside");
    fs::rename(cut, &aside).unwrap();
    let bytes = fs::read(&aside).unwrap();
    fs::write(cut, &bytes[..bytes.len() - 100]).unwrap();
    let error = source.write_pack(None, &out, &options(4), QUIET).unwrap_err();
    let PackError::File(file) = &error else { panic!("{error}") };
    assert_eq!(file.path(), cut);
    assert_eq!(file.io_error().unwrap().kind(), ErrorKind::UnexpectedEof);
    // experts lie backwards in this file
    let text = error.to_string();
    assert!(text.starts_with(&format!("{}: cannot read ", cut.display())), "{text}");
    assert!(text.contains(" bytes at offset ") && text.contains("(layer 2, expert 0)"), "{text}");
    assert!(!pack::is_pack(&out));
    let error = pack::open(&out).map(drop).unwrap_err();
    let PackError::File(file) = &error else { panic!("{error}") };
    assert_eq!(file.io_error().unwrap().kind(), ErrorKind::NotFound);
    assert!(contents(&out).iter().all(|(name, _)| !name.ends_with(".part")));

    // with other options it does not go on
    let error = source.write_pack(None, &out, &options(3), QUIET).unwrap_err();
    assert!(matches!(error, PackError::OtherPack { .. }), "{error}");
    assert!(error.to_string().contains("bits 4") && error.to_string().contains("bits 3"), "{error}");

    fs::remove_file(cut).unwrap();
    fs::rename(&aside, cut).unwrap();
    let resumed = Mutex::new(0);
    let observer = |progress: Progress<'_>| {
        if let Progress::Resumed { layers, .. } = progress {
            *resumed.lock().unwrap() = layers;
        }
    };
    let summary = source.write_pack(None, &out, &options(4), &observer).unwrap();
    assert_eq!((summary.layers_written, summary.layers_kept, *resumed.lock().unwrap()), (1, 2, 2));
    assert_eq!(contents(&out), contents(&whole));

    // a finished pack is left as it is; what is missing of it is made again
    let summary = source.write_pack(None, &out, &options(4), QUIET).unwrap();
    assert_eq!((summary.layers_written, summary.layers_kept), (0, 3));
    fs::remove_file(out.join(pack::layer_file(0))).unwrap();
    let summary = source.write_pack(None, &out, &options(4), QUIET).unwrap();
    assert_eq!((summary.layers_written, summary.layers_kept), (1, 2));
    assert_eq!(contents(&out), contents(&whole));
}

#[test]
fn a_folder_with_something_else_is_left_alone() {
    let (temp, model, out) = folders();
    let first = source(&model, 1);
    let error = first.write_pack(Some(&model), &model, &options(4), QUIET).unwrap_err();
    assert!(matches!(error, PackError::NotEmpty { .. }), "{error}");
    first.write_pack(None, &out, &options(4), QUIET).unwrap();
    let other = temp.path().join("other");
    fs::create_dir(&other).unwrap();
    let before = contents(&out);
    let error = source(&other, 9).write_pack(None, &out, &options(4), QUIET).unwrap_err();
    assert!(matches!(error, PackError::OtherPack { .. }), "{error}");
    assert_eq!(contents(&out), before);
}
