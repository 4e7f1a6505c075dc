//! Tests that look inside the rooms. They are modules of the library, so that nothing is public for their sake alone;
//! the suites beside this folder use flashflood as other programs do.

mod expert_store;
mod faults;
mod kernels;
mod open_snapshot;
mod oracle;
mod pack;
mod quantise;
mod sessions;
mod shaders;
