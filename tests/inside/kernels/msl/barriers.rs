//! Barriers: none is missing, and none that is taken away goes unnoticed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flashflood_formats::Block;

use crate::compute::shaders;
use crate::weights::WeightFormat;

use super::clang::{self, Build, in_parallel};
use super::recorded::{Recorded, alone, number_of, recorded, shader_of};

const BARRIER: &str = "metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);";

/// Pipelines of a kernel that are tried without a barrier before it counts as needless.
const TRIED: usize = 8;

/// Of those whose constants choose the same branches, so many.
const ALIKE: usize = 3;

/// Most workgroups of a script that is run without a barrier, where there is a shorter one.
const SHORT: u64 = 600;

/// Barriers that the Metal could do without: the kernel, which of its barriers, and why.
const NEEDLESS: [(&str, usize, &str); 2] = [
    ("combine_norm", 2, "a storage barrier is right before it: Metal waits for threads at either"),
    ("rms_norm", 2, "as in combine_norm"),
];

/// A script with the workgroups that it runs of each kernel.
struct Script {
    path: PathBuf,
    workgroups: BTreeMap<u32, u64>,
}

impl Script {
    fn of(path: &Path) -> Self {
        let text = std::fs::read_to_string(path.with_extension("kernels")).unwrap();
        let line = |line: &str| {
            let (kernel, count) = line.split_once(' ').unwrap();
            (kernel.parse().unwrap(), count.parse().unwrap())
        };
        Script { path: path.to_owned(), workgroups: text.lines().map(line).collect() }
    }

    fn cost(&self) -> u64 {
        self.workgroups.values().sum()
    }
}

/// All scripts: first those that were made for barriers, then those with few workgroups. ThreadSanitizer takes long for each.
fn scripts(recorded: &Recorded) -> Vec<Script> {
    let mut scripts: Vec<Script> = recorded.scripts.iter().map(|path| Script::of(path)).collect();
    scripts.sort_by_key(|script| {
        (!script.path.file_name().unwrap().to_str().unwrap().contains("msl.small"), script.cost())
    });
    scripts
}

/// Runs a script with ThreadSanitizer in both ways of telling threads apart.
fn sanitized(runner: &Path, arguments: &[&str], script: &Script) -> Result<(), String> {
    clang::run(runner, arguments, &script.path)?;
    clang::run(runner, &[arguments, &["--apart"]].concat(), &script.path)
}

/// ThreadSanitizer finds no accesses of two threads that no barrier orders: in any shader, within a workgroup or between
/// two of a dispatch.
#[test]
fn no_kernel_has_a_race() {
    let start = Instant::now();
    let Some(recorded) = recorded() else { return };
    let _alone = alone();
    let shaders: BTreeMap<u32, &str> = recorded.units.iter().map(|unit| (number_of(unit), shader_of(unit))).collect();
    let mut covered = BTreeSet::new();
    let mut chosen = scripts(&recorded);
    chosen.retain(|script| {
        let before = covered.len();
        covered.extend(script.workgroups.keys().map(|kernel| shared_by_threads(shaders[kernel])));
        covered.len() > before
    });
    let kernels: BTreeSet<u32> = chosen.iter().flat_map(|script| script.workgroups.keys().copied()).collect();
    let units: Vec<PathBuf> = recorded.units.iter().filter(|u| kernels.contains(&number_of(u))).cloned().collect();
    let folder = recorded.folder.path().join("races");
    std::fs::create_dir(&folder).unwrap();
    let runner = clang::build(&recorded.clang, &folder, &units, Build::Sanitized).unwrap_or_else(|e| panic!("{e}"));
    println!("{} kernels in {} scripts: {:.1?}", units.len(), chosen.len(), start.elapsed());
    let failed = in_parallel(&chosen, |script| sanitized(&runner, &[], script));
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("no races: {:.1?}", start.elapsed());
}

/// What of a shader a race could be in: of products with blocks of GGUF files all that threads share, because types differ
/// in how a thread reads weights, which nobody writes; of others the shader.
fn shared_by_threads(shader: &str) -> String {
    if !Block::all().any(|block| shader.ends_with(&format!("_{}", WeightFormat::Block(block).suffix()))) {
        return shader.to_owned();
    }
    let (source, _) = shaders::source(shader).unwrap();
    let shared = source.lines().filter(|line| line.contains("var<workgroup>") || line.contains("workgroupBarrier"));
    kernel_of(shader) + &shared.collect::<String>()
}

/// A kernel without one of its barriers.
struct Mutant<'a> {
    /// The kernel, and which of the barriers in its Metal.
    barrier: (String, usize),
    /// The kernel's own number.
    of: u32,
    number: u32,
    unit: PathBuf,
    script: &'a Script,
}

/// Every barrier of every kernel is needed, and its absence is noticed.
#[test]
fn every_barrier_is_missed() {
    let start = Instant::now();
    let Some(recorded) = recorded() else { return };
    let _alone = alone();
    let scripts = scripts(&recorded);
    // of each kernel a pipeline for every way in which its constants choose branches, those first that a short script runs
    let mut pipelines: BTreeMap<String, Vec<(&Path, &Script)>> = BTreeMap::new();
    let units: BTreeMap<u32, &Path> = recorded.units.iter().map(|unit| (number_of(unit), unit.as_path())).collect();
    let mut seen: BTreeMap<_, usize> = BTreeMap::new();
    for script in &scripts {
        for kernel in script.workgroups.keys() {
            let entry = kernel_of(shader_of(units[kernel]));
            let of_entry = pipelines.entry(entry.clone()).or_default();
            let branches = branches(units[kernel]);
            let alike = seen.entry((entry, branches)).or_default();
            if *alike < ALIKE && (of_entry.is_empty() || script.cost() <= SHORT) {
                *alike += 1;
                of_entry.push((units[kernel], script));
            }
        }
    }
    // those that differ most first
    for of_entry in pipelines.values_mut() {
        let mut ranks: BTreeMap<Vec<bool>, usize> = BTreeMap::new();
        let rank = |(unit, _): &(&Path, &Script)| {
            let rank = ranks.entry(branches(unit)).or_default();
            *rank += 1;
            *rank
        };
        of_entry.sort_by_cached_key(rank);
    }
    let mut left: BTreeSet<(String, usize)> = BTreeSet::new();
    for (entry, pipelines) in &pipelines {
        let count = std::fs::read_to_string(pipelines[0].0).unwrap().matches(BARRIER).count();
        left.extend((0..count).map(|i| (entry.clone(), i)));
    }
    let all = left.len();
    for round in 0..TRIED {
        let folder = recorded.folder.path().join(format!("without-barriers-{round}"));
        std::fs::create_dir(&folder).unwrap();
        let mutants: Vec<Mutant> = left
            .iter()
            .filter_map(|barrier| {
                let (unit, script) = pipelines[&barrier.0].get(round)?;
                Some(mutant(barrier.clone(), unit, script, &folder))
            })
            .collect();
        if mutants.is_empty() {
            break;
        }
        // the other kernels of their scripts, as they are
        let own: BTreeSet<u32> = mutants.iter().flat_map(|m| m.script.workgroups.keys().copied()).collect();
        let own = own.iter().map(|kernel| units[kernel].to_owned());
        let built: Vec<PathBuf> = mutants.iter().map(|m| m.unit.clone()).chain(own).collect();
        let runner = clang::build(&recorded.clang, &folder, &built, Build::Sanitized).unwrap_or_else(|e| panic!("{e}"));
        println!("round {round}: {} kernels without a barrier: {:.1?}", mutants.len(), start.elapsed());
        let noticed = in_parallel(&mutants, |m| {
            let instead = format!("{}={}", m.of, m.number);
            let Err(said) = sanitized(&runner, &["--instead", &instead], m.script) else { return false };
            // an index that was not there yet may be any number
            assert!(said.contains("a data race in") || said.contains("SEGV"), "{:?}: {said}", m.barrier);
            true
        });
        for (mutant, noticed) in mutants.iter().zip(noticed) {
            if noticed {
                left.remove(&mutant.barrier);
            }
        }
    }
    println!("{} of {all} missing barriers are noticed: {:.1?}", all - left.len(), start.elapsed());
    let needless = NEEDLESS.map(|(kernel, barrier, _)| (kernel.to_owned(), barrier)).into();
    assert_eq!(left, needless, "barriers without which no pipeline does anything else; left: found, right: known");
}

/// Which branches a pipeline's constants choose.
fn branches(unit: &Path) -> Vec<bool> {
    let source = std::fs::read_to_string(unit).unwrap();
    source.lines().filter_map(|line| line.trim().strip_prefix("if (")?.strip_suffix(") {")?.parse().ok()).collect()
}

/// A kernel with its form of activations, which decides its barriers; its formats have the same.
fn kernel_of(shader: &str) -> String {
    let name = shaders::names().find(|name| *name == shader).unwrap();
    let form = if shader.contains("_int8_") { "_int8" } else { "" };
    shaders::source(name).unwrap().1.to_owned() + form
}

fn mutant<'a>(barrier: (String, usize), unit: &Path, script: &'a Script, folder: &Path) -> Mutant<'a> {
    let source = std::fs::read_to_string(unit).unwrap();
    let (at, _) = source.match_indices(BARRIER).nth(barrier.1).unwrap();
    let of = number_of(unit);
    let number = of.wrapping_add(1 + barrier.1 as u32);
    let source = source[..at].to_owned() + &source[at + BARRIER.len()..];
    let source = source.replace(&of.to_string(), &number.to_string());
    let unit = folder.join(format!("{}.{number}.cpp", barrier.0));
    std::fs::write(&unit, source).unwrap();
    Mutant { barrier, of, number, unit, script }
}
