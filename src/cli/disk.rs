//! How fast the disk under a folder is, for reads of experts: measured with a file that is made and removed again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flashflood::bytes_for_people;
use flashflood::weights::{ExpertFile, ExpertLayout, LayerExperts, Part, Place, SlotLayout, WeightFormat};

use super::bench::{ReadSpeed, read_speeds};

/// Bytes of an expert of Qwen3.5-397B-A17B at 4 bits, in whole pages.
const EXPERT: usize = 7_077_888;
/// Bytes of the file that is read.
const FILE: u64 = 256_000_000;
/// Free bytes that a measurement asks for.
pub(super) const ROOM: u64 = 4 * FILE;
/// Depths at which reads are made.
pub(super) const DEPTHS: [usize; 3] = [1, 4, 8];

/// The folder that is there and that `place` is in, or will be; of temporary files where no place is known.
pub(super) fn folder(place: Option<&Path>) -> PathBuf {
    let there = place.and_then(|place| place.ancestors().find(|folder| folder.is_dir()));
    there.map_or_else(std::env::temp_dir, Path::to_owned)
}

/// Reads of experts at each of [`DEPTHS`] from a file in `folder`.
pub(super) fn speeds(folder: &Path) -> anyhow::Result<Vec<ReadSpeed>> {
    read_speeds(&Temporary::write(folder)?.layout(), &DEPTHS)
}

/// GB/s of the best of them. Where all came from memory, which some file systems cannot be kept from, those of memory.
pub(super) fn rate(folder: &Path) -> anyhow::Result<f64> {
    let free = fs4::available_space(folder).unwrap_or(u64::MAX);
    if free < ROOM {
        bail!(
            "{}: {} are free, too little to measure the disk with (hint: --disk-rate says how fast it is)",
            folder.display(),
            bytes_for_people(free)
        );
    }
    let speeds = speeds(folder)?;
    let best = |of: fn(&ReadSpeed) -> f64| speeds.iter().map(of).fold(0.0, f64::max);
    let of_disk = best(ReadSpeed::rate);
    Ok(if of_disk > 0.0 { of_disk } else { best(|speed| speed.cached) })
}

/// A file to read, which goes when this does.
struct Temporary(PathBuf);

impl Temporary {
    fn write(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(format!(".flashflood-disk-{}", std::process::id()));
        let named = || path.display().to_string();
        let mut file = File::create_new(&path).with_context(named)?;
        let temporary = Temporary(path.clone());
        // no two pages alike: some disks and file systems keep such pages once, or not at all
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut words = vec![0_u64; 1 << 17];
        for _ in 0..FILE >> 20 {
            for word in &mut words {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *word = state;
            }
            file.write_all(bytemuck::cast_slice(&words)).with_context(named)?;
        }
        // what is not on the disk cannot be read from it
        file.sync_all().with_context(named)?;
        Ok(temporary)
    }

    /// As if it were a layer of experts.
    fn layout(&self) -> ExpertLayout {
        let part = Part { place: Place::Strided { file: 0, base: 0, stride: EXPERT as u64 }, len: EXPERT, at: 0 };
        let slot = SlotLayout::new(32, 32, [WeightFormat::F32; 3]);
        let experts = (FILE / EXPERT as u64) as usize;
        ExpertLayout {
            files: vec![ExpertFile::Path(self.0.clone())],
            layers: vec![LayerExperts {
                experts,
                top_k: 1,
                slot,
                parts: vec![part],
                rewritten: Vec::new(),
                checksums: None,
            }],
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
