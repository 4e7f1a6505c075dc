//! Opening a pack: the manifest, the lengths of the files it names, and the resident weights as views.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flashflood_backends::map_file;

use super::manifest::Manifest;
use super::{MANIFEST, Pack, PackError, RESIDENT, layer_file, load};
use crate::experts::{ExpertFile, ExpertLayout, LayerExperts, Part, Place};
use crate::model::ModelWeights;

/// Opens the pack in `folder`: maps its resident weights and checks the length of every file. Experts are not read.
///
/// # Errors
/// A manifest that is missing, of another version or does not hold; a file that is missing or of another length; a
/// resident tensor that is missing or of another shape or type.
pub fn open(folder: &Path) -> Result<Pack, PackError> {
    open_striped(folder, &[])
}

/// Opens the pack in `folder` of which some layers' files lie in other folders, on other disks: the file of a layer is
/// the one in the first of `stripes` that has it, else the one in `folder`, which need not exist then.
///
/// # Errors
/// As [`open`].
pub fn open_striped(folder: &Path, stripes: &[PathBuf]) -> Result<Pack, PackError> {
    let manifest = read_manifest(folder)?;
    let mut files = Vec::new();
    for (n, layer) in manifest.layers.iter().enumerate() {
        let name = layer_file(n);
        let striped = stripes.iter().map(|stripe| stripe.join(&name)).find(|path| path.exists());
        let path = striped.unwrap_or_else(|| folder.join(&name));
        check_length(&path, layer.bytes())?;
        files.push(ExpertFile::Path(path));
    }
    let path = folder.join(RESIDENT);
    check_length(&path, manifest.resident.bytes)?;
    let mapped = map_file(&path).map_err(PackError::io("map", &path))?;
    let weights = load::load(&manifest.config, &path, Bytes::from_owner(mapped))?;
    Ok(pack(manifest, weights, files))
}

/// Opens a pack that is part of the binary. `layers` are (name for messages, bytes of the layer's file).
///
/// # Errors
/// As [`open`].
pub fn open_embedded(
    manifest: &'static str,
    resident: &'static [u8],
    layers: &[(&'static str, &'static [u8])],
) -> Result<Pack, PackError> {
    let manifest = Manifest::parse(Path::new(MANIFEST), manifest)?;
    let length = |name: &str, expected: u64, found: usize| match expected == found as u64 {
        true => Ok(()),
        false => Err(PackError::Length { path: PathBuf::from(name), expected, found: found as u64 }),
    };
    length(RESIDENT, manifest.resident.bytes, resident.len())?;
    if layers.len() != manifest.layers.len() {
        return Err(PackError::Value {
            path: PathBuf::from(MANIFEST),
            key: "layers".into(),
            expected: format!("{} embedded layers", layers.len()),
            found: manifest.layers.len().to_string(),
        });
    }
    for (layer, (name, bytes)) in manifest.layers.iter().zip(layers) {
        length(name, layer.bytes(), bytes.len())?;
    }
    let weights = load::load(&manifest.config, Path::new(RESIDENT), Bytes::from_static(resident))?;
    let files =
        layers.iter().map(|(name, bytes)| ExpertFile::Memory { name, bytes: Bytes::from_static(bytes) }).collect();
    Ok(pack(manifest, weights, files))
}

fn pack(manifest: Manifest, weights: ModelWeights, files: Vec<ExpertFile>) -> Pack {
    let layers = (0..).zip(manifest.layers).map(|(file, layer)| LayerExperts {
        slot: layer.slot,
        parts: vec![Part {
            place: Place::Strided { file, base: 0, stride: layer.stride },
            len: layer.slot.bytes,
            at: 0,
        }],
        checksums: Some(layer.xxh3.iter().map(|sum| sum.0).collect()),
    });
    let experts = ExpertLayout { files, experts: manifest.config.experts, layers: layers.collect() };
    Pack { config: manifest.config, weights, experts, source: manifest.source }
}

/// Reads and checks the manifest of `folder`.
pub(super) fn read_manifest(folder: &Path) -> Result<Manifest, PackError> {
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path).map_err(PackError::io("read", &path))?;
    Manifest::parse(&path, &text)
}

pub(super) fn check_length(path: &Path, expected: u64) -> Result<(), PackError> {
    let found = fs::metadata(path).map_err(PackError::io("open", path))?.len();
    match found == expected {
        true => Ok(()),
        false => Err(PackError::Length { path: path.to_owned(), expected, found }),
    }
}
