//! Every kernel against its twin.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use flashflood_backends::gpu::MatrixUnits;

use crate::compute::shaders;

use super::clang::{self, Build, in_parallel};
use super::recorded::{alone, recorded, run_trials, shader_of};

/// Each kernel, compiled and run in every weight format, is near its twin; and the order of threads between barriers
/// changes no bit.
#[test]
fn kernels_are_their_twins() {
    let start = Instant::now();
    let Some(recorded) = recorded() else { return };
    let _alone = alone();
    let (folder, scripts, units) = (recorded.folder.path(), &recorded.scripts, &recorded.units);
    println!("{} scripts, {} kernels: {:.1?}", scripts.len(), units.len(), start.elapsed());
    let run: BTreeSet<&str> = units.iter().map(|unit| shader_of(unit)).collect();
    // Metal has matrices of 8 x 8, kernels of 16 x 16 are for Vulkan
    let known = shaders::names().filter(|name| shaders::units_of(name) != Some(MatrixUnits::By16));
    let missing: Vec<&str> = known.filter(|name| !run.contains(name)).collect();
    assert!(missing.is_empty(), "no property test runs {missing:?}");
    let runner = clang::build(&recorded.clang, folder, units, Build::Plain).unwrap_or_else(|e| panic!("{e}"));
    println!("compiled: {:.1?}", start.elapsed());
    let run = |script: &PathBuf| -> Result<(), String> {
        let out = script.with_extension("script.out");
        clang::run(&runner, &["--descending"], script)?;
        let descending = std::fs::read(&out).unwrap();
        clang::run(&runner, &[], script)?;
        if descending != std::fs::read(&out).unwrap() {
            return Err(format!("{}: the order of threads decides: a barrier is missing", script.display()));
        }
        Ok(())
    };
    let failed: Vec<String> = in_parallel(scripts, run).into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("run: {:.1?}", start.elapsed());
    run_trials("compare", folder);
    println!("compared: {:.1?}", start.elapsed());
}
