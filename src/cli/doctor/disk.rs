//! The disk that experts are read from: its free space, and its speed at the size of an expert.

use std::path::Path;

use flashflood::weights::{ExpertFile, ExpertLayout};

use super::super::bench::read_speeds;
use super::super::disk::{self, DEPTHS};
use super::{Finding, bytes_for_people};

/// Slower disks make a token of a large model take seconds.
const SLOW: f64 = 1.0;

/// Free space, and reads of the experts of a model; or of a file in `place`, removed afterwards.
pub(super) fn findings(experts: Option<&ExpertLayout>, place: Option<&Path>) -> anyhow::Result<Vec<Finding>> {
    let place = &disk::folder(place);
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
        None if free < disk::ROOM => {
            findings.push(Finding::warn("disk speed", "not measured", "there is too little room for a file to read"));
            return Ok(findings);
        }
        None => match disk::speeds(place) {
            Ok(speeds) => speeds,
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
        best = best.max(speed.rate());
        findings.push(Finding::pass("disk speed", text));
    }
    if best < SLOW {
        let hint = "experts are read for every token: put models on a faster disk, or keep all in memory with --expert-cache all";
        findings.push(Finding::warn("disk speed", format!("{best:.2} GB/s at best"), hint));
    }
    Ok(findings)
}
