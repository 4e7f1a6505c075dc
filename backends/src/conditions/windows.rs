//! Windows: the kernel's low memory notification. It has no interface for heat that needs no driver.

use windows::Win32::Foundation::{CloseHandle, HANDLE};
use windows::Win32::System::Memory::{
    CreateMemoryResourceNotification, LowMemoryResourceNotification, QueryMemoryResourceNotification,
};
use windows::core::BOOL;

use super::{MemoryPressure, ThermalState};

pub(super) struct Sensors {
    low_memory: Option<HANDLE>,
}

// SAFETY: the handle belongs to this value alone, and handles of the kernel may be used on any thread.
unsafe impl Send for Sensors {}

impl Sensors {
    pub(super) fn new() -> Self {
        // SAFETY: takes a constant and gives a handle, which is closed when this value goes.
        Sensors { low_memory: unsafe { CreateMemoryResourceNotification(LowMemoryResourceNotification) }.ok() }
    }

    pub(super) fn memory(&self, _available: u64) -> MemoryPressure {
        let Some(handle) = self.low_memory else { return MemoryPressure::Normal };
        let mut is_low = BOOL::default();
        // SAFETY: the handle is open, and the answer goes where the pointer says.
        let told = unsafe { QueryMemoryResourceNotification(handle, &mut is_low) };
        // programs are not ended for it: they swap
        if told.is_ok() && is_low.as_bool() { MemoryPressure::Warning } else { MemoryPressure::Normal }
    }

    pub(super) fn thermal(&self) -> ThermalState {
        ThermalState::Nominal
    }
}

impl Drop for Sensors {
    fn drop(&mut self) {
        if let Some(handle) = self.low_memory {
            // SAFETY: it was opened in `new` and is used no more. Nothing can be done when closing fails.
            drop(unsafe { CloseHandle(handle) });
        }
    }
}
