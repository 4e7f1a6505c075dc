//! macOS and iOS: libdispatch tells of memory, the process info of heat. Both need no permission.

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use dispatch2::{
    DispatchObject, DispatchRetained, DispatchSource, dispatch_source_memorypressure_flags_t, dispatch_source_type_s,
};
use objc2_foundation::{NSProcessInfo, NSProcessInfoThermalState};

use super::{MemoryPressure, ThermalState};

/// The events of the whole process: they are asked for once and never given up.
static EVENTS: OnceLock<DispatchRetained<DispatchSource>> = OnceLock::new();

/// The flags of the last event; 0 before the first.
static FLAGS: AtomicUsize = AtomicUsize::new(0);

const NORMAL: usize = dispatch_source_memorypressure_flags_t::DISPATCH_MEMORYPRESSURE_NORMAL.0 as usize;
const WARN: usize = dispatch_source_memorypressure_flags_t::DISPATCH_MEMORYPRESSURE_WARN.0 as usize;
const CRITICAL: usize = dispatch_source_memorypressure_flags_t::DISPATCH_MEMORYPRESSURE_CRITICAL.0 as usize;

// SAFETY: a constant of libdispatch with this name and type; the header's DISPATCH_SOURCE_TYPE_MEMORYPRESSURE is its
// address.
unsafe extern "C" {
    static _dispatch_source_type_memorypressure: dispatch_source_type_s;
}

/// Runs on a thread of libdispatch.
extern "C" fn keep_flags(_context: *mut c_void) {
    if let Some(source) = EVENTS.get() {
        FLAGS.store(source.data(), Ordering::Relaxed);
    }
}

fn watch_memory() -> DispatchRetained<DispatchSource> {
    let kind = (&raw const _dispatch_source_type_memorypressure).cast_mut();
    // SAFETY: the type is a memory pressure source, which takes the handle 0 and this mask. The default queue runs the
    // handler, which touches nothing but the statics above.
    let source = unsafe { DispatchSource::new(kind, 0, NORMAL | WARN | CRITICAL, None) };
    source.set_event_handler_f(keep_flags);
    source
}

pub(super) struct Sensors;

impl Sensors {
    pub(super) fn new() -> Self {
        let mut is_first = false;
        let source = EVENTS.get_or_init(|| {
            is_first = true;
            watch_memory()
        });
        // only now that the handler finds it
        if is_first {
            source.activate();
        }
        Sensors
    }

    pub(super) fn memory(&self, _available: u64) -> MemoryPressure {
        match FLAGS.load(Ordering::Relaxed) {
            flags if flags & CRITICAL != 0 => MemoryPressure::Critical,
            flags if flags & WARN != 0 => MemoryPressure::Warning,
            _ => MemoryPressure::Normal,
        }
    }

    pub(super) fn thermal(&self) -> ThermalState {
        match NSProcessInfo::processInfo().thermalState() {
            NSProcessInfoThermalState::Fair => ThermalState::Fair,
            NSProcessInfoThermalState::Serious => ThermalState::Serious,
            NSProcessInfoThermalState::Critical => ThermalState::Critical,
            _ => ThermalState::Nominal,
        }
    }
}
