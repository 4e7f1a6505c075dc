//! Every kernel as Apple's GPUs get it: the Metal that naga writes, compiled by clang with the header in
//! `targets/apple/msl` and run on the CPU, against the CPU twin.
//!
//! The property tests are what is run. This binary starts itself again with two phases of them: [`Phase::Record`], in
//! which a trial writes what it would have had a device do as a script, and every kernel's Metal as C++; and, when
//! those are compiled and the scripts have run, [`Phase::Compare`], in which the same trials take what the scripts read
//! for the device's answers.
//!
//! What a kernel looks like is found with `FLASHFLOOD_MSL_PHASE=record FLASHFLOOD_MSL_FOLDER=some/folder cargo test --test
//! kernels NAME`, where NAME is one of the property tests.

mod barriers;
mod clang;
pub(in crate::inside) mod costs;
mod device;
mod logits;
pub(in crate::inside) mod lower;
mod proof;
mod recorded;
mod script;
mod small;
mod units;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use crate::compute::Recording;

pub(crate) use device::MslDevice;

use crate::inside::kernels::trial::Experts;

/// What a process of property tests does instead of running a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Writes scripts and kernels.
    Record,
    /// Compares what the scripts read with the CPU twin.
    Compare,
}

const PHASE: &str = "FLASHFLOOD_MSL_PHASE";
const FOLDER: &str = "FLASHFLOOD_MSL_FOLDER";

/// The phase that this process is for, if any.
pub(crate) fn phase() -> Option<Phase> {
    Some(match std::env::var(PHASE).ok()?.as_str() {
        "record" => Phase::Record,
        "compare" => Phase::Compare,
        other => panic!("{PHASE}={other}"),
    })
}

thread_local!(static FAILED: Cell<bool> = const { Cell::new(false) });

/// Told of a case that failed.
pub(crate) fn failed() {
    FAILED.set(true);
}

/// One script: of one trial of one test.
pub(crate) struct Case {
    phase: Phase,
    folder: PathBuf,
    script: PathBuf,
}

impl Case {
    /// The next of this test, by whose name it is called. None after one that failed: what would make its input smaller
    /// has no script.
    pub(crate) fn next(phase: Phase) -> Option<Self> {
        thread_local!(static COUNT: Cell<usize> = const { Cell::new(0) });
        if FAILED.get() {
            return None;
        }
        let count = COUNT.replace(COUNT.get() + 1);
        let test = std::thread::current().name().expect("tests have threads of their name").replace("::", ".");
        let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
        Some(Case { phase, script: folder.join(format!("{test}.{count}.script")), folder })
    }

    pub(crate) fn device(
        &self,
        recording: Arc<Recording>,
        context: usize,
        experts: Option<Experts>,
        limits: (u64, u32),
    ) -> MslDevice {
        let out = self.script.with_extension("script.out");
        let answers = (self.phase == Phase::Compare)
            .then(|| std::fs::read(&out).unwrap_or_else(|e| panic!("{}: {e}", out.display())));
        MslDevice::new(self.folder.clone(), recording, context, experts, limits, answers)
    }

    /// Whether the device's answers are real.
    pub(crate) fn finish(self, device: MslDevice) -> bool {
        if self.phase == Phase::Record {
            device.into_script().save(&self.script);
        }
        self.phase == Phase::Compare
    }
}
