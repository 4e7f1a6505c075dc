//! Opening a pack: the manifest, the lengths of the files it names, and its weights as a source.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::load::{PackWeights, Resident};
use super::manifest::Manifest;
use super::opening::PackFiles;
use super::{MANIFEST, Pack, PackError, RESIDENT, layer_file};
use crate::file_error::FileError;
use crate::weights::file_bytes;
use crate::weights::layout::ExpertFile;

/// Opens the pack in `folder`: maps its resident weights and checks the length of every file. Experts are not read.
///
/// # Errors
/// A manifest that is missing, of another version or does not hold; a file that is missing or of another length.
pub fn open(folder: &Path) -> Result<Pack, PackError> {
    open_striped(folder, &[])
}

/// Opens the pack in `folder` of which some layers' files lie in other folders, on other disks: the file of a layer is
/// the one in the first of `stripes` that has it, else the one in `folder`, which need not exist then.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_striped(folder: &Path, stripes: &[PathBuf]) -> Result<Pack, PackError> {
    let manifest = read_manifest(folder)?;
    let mut files = Vec::new();
    for layer in &manifest.layers {
        let name = layer_file(layer.layer);
        let striped = stripes.iter().map(|stripe| stripe.join(&name)).find(|path| path.exists());
        let path = striped.unwrap_or_else(|| folder.join(&name));
        check_length(&path, layer.file_bytes())?;
        files.push(ExpertFile::Path(path));
    }
    let path = folder.join(RESIDENT);
    check_length(&path, manifest.resident.bytes)?;
    let all = 0..manifest.resident.bytes;
    let resident = Resident::open(&path, file_bytes(&path, all.end, |_| std::iter::once(all.clone()).collect())?)?;
    let opening = files_of(folder, &manifest);
    Ok(Pack { files: Some(opening), ..pack(folder.join(MANIFEST), manifest, resident, files) })
}

/// The files that are held against the manifest when a model opens.
pub(super) fn files_of(folder: &Path, manifest: &Manifest) -> PackFiles {
    let files = manifest.files.clone().unwrap_or_default();
    PackFiles { folder: folder.to_owned(), resident: manifest.resident, files }
}

/// Opens a pack that is part of the binary. `layers` are (name for messages, bytes of the layer's file).
///
/// # Errors
/// As [`open`].
pub(crate) fn open_embedded(
    manifest: &'static str,
    resident: &'static [u8],
    layers: &[(&'static str, &'static [u8])],
) -> Result<Pack, PackError> {
    let manifest = Manifest::parse(Path::new(MANIFEST), manifest)?;
    let length = |name: &str, expected: u64, found: usize| match expected == found as u64 {
        true => Ok(()),
        false => Err(wrong_length(Path::new(name), expected, found as u64)),
    };
    length(RESIDENT, manifest.resident.bytes, resident.len())?;
    if layers.len() != manifest.layers.len() {
        let expected = format!("{} embedded layers", layers.len());
        return Err(FileError::new(Path::new(MANIFEST), "layers", expected, manifest.layers.len()).into());
    }
    for (layer, (name, bytes)) in manifest.layers.iter().zip(layers) {
        length(name, layer.file_bytes(), bytes.len())?;
    }
    let resident = Resident::open(Path::new(RESIDENT), Bytes::from_static(resident))?;
    let files =
        layers.iter().map(|(name, bytes)| ExpertFile::Memory { name, bytes: Bytes::from_static(bytes) }).collect();
    Ok(pack(PathBuf::from(MANIFEST), manifest, resident, files))
}

fn pack(path: PathBuf, manifest: Manifest, resident: Resident, files: Vec<ExpertFile>) -> Pack {
    let Manifest { config, source, record_align, layers, .. } = manifest;
    let of_layers = layers.iter().map(|records| records.layer).collect();
    let weights = PackWeights { resident, manifest: path.clone(), record_align, layers, files };
    let config = config.to_string();
    Pack { manifest: path, config, weights: Box::new(weights), layers: of_layers, source, files: None }
}

/// Reads and checks the manifest of `folder`.
pub(super) fn read_manifest(folder: &Path) -> Result<Manifest, PackError> {
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path).map_err(FileError::io("read", &path))?;
    Manifest::parse(&path, &text)
}

pub(super) fn check_length(path: &Path, expected: u64) -> Result<(), FileError> {
    let found = fs::metadata(path).map_err(FileError::io("open", path))?.len();
    match found == expected {
        true => Ok(()),
        false => Err(wrong_length(path, expected, found)),
    }
}

fn wrong_length(path: &Path, expected: u64, found: u64) -> FileError {
    let error = FileError::new(path, "", format!("{expected} bytes"), found);
    error.hint("the file is damaged; make the pack again")
}
