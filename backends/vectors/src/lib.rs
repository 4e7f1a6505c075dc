//! Vector instructions of processors: the loops that a token spends its time in, once for each set of instructions and once
//! portable. Which one runs is found out at run time.
//!
//! What a result is does not depend on the instructions: sums of integers are exact, sums of f32 have one order, and a
//! product that is added is always fused. The portable form is the definition; tests hold the others to its bits.
//!
//! A set of instructions is a file of primitives under one set of names (`transpose`, `dot4`, `fused` …); the loops over them are
//! `kernels`, written once and compiled for each; those for one token, `row_kernels`, are for x86 alone.

mod add_kernels;
#[cfg(target_arch = "aarch64")]
mod arm;
mod block_kernels;
mod blocks;
mod float_kernels;
mod floats;
mod int8;
mod kernels;
mod portable;
#[cfg(target_arch = "x86_64")]
mod row_kernels;
mod table_kernels;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::sync::OnceLock;

pub use blocks::{BlockKind, Blocks};
pub use floats::{Attend, DeltaStep, Seen};
pub use int8::{Activations, Affine, Block, Number, SmallFloats};

/// A set of instructions that there are loops for. Other crates have those that [`available`](Instructions::available) found
/// on this processor, and cannot make another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2, FMA and F16C: 8 rows at a time.
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Avx2,
    /// The same with products of bytes that are added in 32 bits.
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    AvxVnni,
    /// AVX-512 with these: 16 rows at a time.
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Avx512Vnni,
    /// NEON: 4 rows at a time.
    #[cfg(target_arch = "aarch64")]
    #[non_exhaustive]
    Neon,
    /// The same with products of bytes that are added in 32 bits.
    #[cfg(target_arch = "aarch64")]
    #[non_exhaustive]
    NeonDotprod,
    /// The same with products of two rows and two tokens at a time.
    #[cfg(target_arch = "aarch64")]
    #[non_exhaustive]
    NeonI8mm,
}

impl Instructions {
    /// The best of what this processor has.
    pub fn best() -> Instructions {
        static BEST: OnceLock<Instructions> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// All that this processor has, the best first; the portable form is last.
    pub fn available() -> Vec<Instructions> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                all.push(Instructions::Avx512Vnni);
            }
            if avx2 && has!("avxvnni") {
                all.push(Instructions::AvxVnni);
            }
            if avx2 {
                all.push(Instructions::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            if has!("dotprod") && has!("i8mm") {
                all.push(Instructions::NeonI8mm);
            }
            if has!("dotprod") {
                all.push(Instructions::NeonDotprod);
            }
            all.push(Instructions::Neon);
        }
        all.push(Instructions::Portable);
        all
    }

    /// Rows that are computed together: parts of a matrix that several threads share out are multiples of this.
    pub const ROWS: usize = 16;
}

/// Asks for bytes that will be read soon: for rows that are read in turns with much else, which processors do not foresee.
pub fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every processor of this architecture has the instruction, and it faults nowhere
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line.as_ptr(), options(nostack, preserves_flags));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = line;
    }
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Instructions::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Instructions::AvxVnni => "AVX2 with VNNI",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Vnni => "AVX-512 with VNNI",
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => "NEON",
            #[cfg(target_arch = "aarch64")]
            Instructions::NeonDotprod => "NEON with dotprod",
            #[cfg(target_arch = "aarch64")]
            Instructions::NeonI8mm => "NEON with i8mm",
        })
    }
}

/// Calls a function of the module of `$instructions`.
macro_rules! dispatch {
    ($instructions:expr, $function:ident $(::<$generic:tt>)? ($($argument:expr),* $(,)?)) => {
        match $instructions {
            Instructions::Portable => portable::$function $(::<$generic>)? ($($argument),*),
            // SAFETY: `available` found each of these instructions on this processor
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { x86::avx2::$function $(::<$generic>)? ($($argument),*) },
            // SAFETY: as above
            #[cfg(target_arch = "x86_64")]
            Instructions::AvxVnni => unsafe { x86::avx_vnni::$function $(::<$generic>)? ($($argument),*) },
            // SAFETY: as above
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Vnni => unsafe { x86::avx512::$function $(::<$generic>)? ($($argument),*) },
            // SAFETY: every processor of this architecture has NEON
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => unsafe { arm::neon::$function $(::<$generic>)? ($($argument),*) },
            // SAFETY: `available` found dotprod on this processor
            #[cfg(target_arch = "aarch64")]
            Instructions::NeonDotprod => unsafe { arm::dotprod::$function $(::<$generic>)? ($($argument),*) },
            // SAFETY: and i8mm
            #[cfg(target_arch = "aarch64")]
            Instructions::NeonI8mm => unsafe { arm::i8mm::$function $(::<$generic>)? ($($argument),*) },
        }
    };
}
pub(crate) use dispatch;
