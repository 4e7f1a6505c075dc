//! Reads a pack again and holds every byte against the manifest's checksums.

use std::fs::File;
use std::path::Path;

use flashflood_backends::positioned::read_exact_at;
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::read::{check_length, read_manifest};
use super::{Checksum, Observer, PackError, Progress, RESIDENT, layer_file};
use crate::file_error::FileError;

/// What was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Expert records.
    pub records: usize,
    /// Bytes of records and resident weights.
    pub bytes: u64,
}

/// Bytes read at a time by each thread.
const CHUNK: usize = 1 << 20;

/// Reads every record and the resident file of the pack in `folder` and compares checksums.
///
/// # Errors
/// The first difference, by layer and expert, and everything that [`open`](super::open) refuses but resident shapes.
pub fn verify(folder: &Path, observer: &Observer<'_>) -> Result<VerifyReport, PackError> {
    let manifest = read_manifest(folder)?;
    // not held against the files yet: the sum of what is written there may be any number
    let bytes =
        manifest.layers.iter().fold(manifest.resident.bytes, |sum, layer| sum.saturating_add(layer.file_bytes()));
    observer(Progress::Total { bytes });

    super::read::files_of(folder, &manifest).verify_small()?;
    let path = folder.join(RESIDENT);
    let file = open(&path, manifest.resident.bytes)?;
    let found = checksum(&path, &file, 0, manifest.resident.bytes, observer)?;
    compare(&path, || "resident weights".into(), 0, manifest.resident.xxh3, found)?;

    let mut records = 0;
    for layer in &manifest.layers {
        let path = folder.join(layer_file(layer.layer));
        let file = open(&path, layer.file_bytes())?;
        let record = |(expert, expected): (usize, &Checksum)| {
            let offset = expert as u64 * layer.stride;
            let found = checksum(&path, &file, offset, layer.bytes as u64, observer)?;
            compare(&path, || format!("layer {}, expert {expert}", layer.layer), offset, *expected, found)?;
            check_padding(&path, &file, offset + layer.bytes as u64, offset + layer.stride, observer)
        };
        // the first in file order, whichever thread finishes first
        if let Some(error) = layer.xxh3.par_iter().enumerate().find_map_first(|item| record(item).err()) {
            return Err(error);
        }
        records += layer.xxh3.len();
    }
    Ok(VerifyReport { records, bytes })
}

fn open(path: &Path, bytes: u64) -> Result<File, PackError> {
    check_length(path, bytes)?;
    Ok(File::open(path).map_err(FileError::io("open", path))?)
}

pub(super) fn compare(
    path: &Path,
    what: impl Fn() -> String,
    offset: u64,
    expected: Checksum,
    found: Checksum,
) -> Result<(), PackError> {
    match expected == found {
        true => Ok(()),
        false => Err(PackError::Checksum { path: path.to_owned(), what: what(), offset, expected, found }),
    }
}

fn checksum(path: &Path, file: &File, from: u64, bytes: u64, observer: &Observer<'_>) -> Result<Checksum, PackError> {
    let mut sum = Xxh3::new();
    read_chunks(path, file, from, from + bytes, observer, |chunk, _| {
        sum.update(chunk);
        Ok(())
    })?;
    Ok(Checksum(sum.digest()))
}

fn check_padding(path: &Path, file: &File, from: u64, to: u64, observer: &Observer<'_>) -> Result<(), PackError> {
    read_chunks(path, file, from, to, observer, |chunk, offset| match chunk.iter().position(|b| *b != 0) {
        None => Ok(()),
        Some(at) => {
            Err(FileError::new(path, format!("padding at offset {}", offset + at as u64), "0", chunk[at]).into())
        }
    })
}

fn read_chunks(
    path: &Path,
    file: &File,
    from: u64,
    to: u64,
    observer: &Observer<'_>,
    mut each: impl FnMut(&[u8], u64) -> Result<(), PackError>,
) -> Result<(), PackError> {
    let mut buffer = vec![0; (to - from).min(CHUNK as u64) as usize];
    let mut offset = from;
    while offset < to {
        let chunk = &mut buffer[..(to - offset).min(CHUNK as u64) as usize];
        read_exact_at(file, chunk, offset).map_err(FileError::io("read", path))?;
        each(chunk, offset)?;
        offset += chunk.len() as u64;
        observer(Progress::Advanced { bytes: chunk.len() as u64 });
    }
    Ok(())
}
