//! The disk that experts are read from: its free space, and its speed at the size of an expert.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flashflood::weights::{ExpertFile, ExpertLayout, LayerExperts, Part, Place, SlotLayout, WeightFormat};

use super::super::bench::read_speeds;
use super::{Finding, bytes_for_people};

/// Bytes of an expert of Qwen3.5-397B-A17B at 4 bits, in whole pages.
const EXPERT: usize = 7_077_888;
/// Bytes of the file that is read where no model is given.
const FILE: u64 = 256_000_000;
/// Depths at which reads are made.
const DEPTHS: [usize; 3] = [1, 4, 8];
/// Slower disks make a token of a large model take seconds.
const SLOW: f64 = 1.0;

/// Free space, and reads of the experts of a model; or of a file in `place`, removed afterwards.
pub(super) fn findings(experts: Option<&ExpertLayout>, place: Option<&Path>) -> anyhow::Result<Vec<Finding>> {
    let temporary = std::env::temp_dir();
    // a cache that is not there yet will be below a folder that is
    let place = place.and_then(|place| place.ancestors().find(|folder| folder.is_dir())).unwrap_or(&temporary);
    let mut findings = Vec::new();
    let free = match fs4::available_space(place) {
        Ok(free) => {
            findings
                .push(Finding::pass("disk space", format!("{} free in {}", bytes_for_people(free), place.display())));
            free
        }
        Err(error) => {
            let text = format!("{}: {error}", place.display());
            findings.push(Finding::warn("disk space", text, "the free space of this folder is not known"));
            u64::MAX
        }
    };
    let on_disk = experts.filter(|layout| layout.files.iter().all(|file| matches!(file, ExpertFile::Path(_))));
    let speeds = match on_disk {
        Some(layout) => read_speeds(layout, &DEPTHS)?,
        None if free < 4 * FILE => {
            findings.push(Finding::warn("disk speed", "not measured", "there is too little room for a file to read"));
            return Ok(findings);
        }
        None => match Temporary::write(place) {
            Ok(file) => read_speeds(&file.layout(), &DEPTHS)?,
            Err(error) => {
                let hint = "give a model with --model to measure where it lies";
                findings.push(Finding::warn("disk speed", format!("not measured: {error:#}"), hint));
                return Ok(findings);
            }
        },
    };
    let mut best: f64 = 0.0;
    for speed in &speeds {
        let direct = speed.direct.map_or("not possible".to_owned(), |rate| format!("{rate:.2} GB/s"));
        let cold = if speed.cached_is_cold { "cold" } else { "perhaps from memory" };
        let text = format!(
            "reads of {}, {} at a time: {direct} past the page cache, {:.2} GB/s through it ({cold})",
            bytes_for_people(speed.bytes as u64),
            speed.depth,
            speed.cached
        );
        best = best.max(speed.direct.unwrap_or(if speed.cached_is_cold { speed.cached } else { 0.0 }));
        findings.push(Finding::pass("disk speed", text));
    }
    if best < SLOW {
        let hint = "experts are read for every token: put models on a faster disk, or keep all in memory with --expert-cache all";
        findings.push(Finding::warn("disk speed", format!("{best:.2} GB/s at best"), hint));
    }
    Ok(findings)
}

/// A file to read, which goes when this does.
struct Temporary(PathBuf);

impl Temporary {
    fn write(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(format!(".flashflood-doctor-{}", std::process::id()));
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
        let slot = SlotLayout::new(32, 32, WeightFormat::F32, WeightFormat::F32);
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
