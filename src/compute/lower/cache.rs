//! How caches store their rows.

use std::fmt;

use flashflood_formats::CacheFormat;

use crate::compute::op::Op;
use crate::compute::recording::{Recorded, Recording};

/// How keys and values are stored: the 397B takes 61, 31, 16, 8 and 12 kB for each token of the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum KvFormat {
    /// 32-bit floats, as they are computed.
    F32,
    /// 16-bit floats.
    #[default]
    F16,
    /// 8-bit integers with a scale for every 32.
    Q8,
    /// 4-bit codes of turned heads (TurboQuant); heads of a multiple of 32 elements.
    Tq4,
    /// Keys as q8, values as tq4: most of what keys lose by 4 bits is kept.
    K8v4,
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Q8 => "q8",
            KvFormat::Tq4 => "tq4",
            KvFormat::K8v4 => "k8v4",
        })
    }
}

impl KvFormat {
    /// All there are.
    pub(crate) const ALL: [KvFormat; 5] = [KvFormat::F32, KvFormat::F16, KvFormat::Q8, KvFormat::Tq4, KvFormat::K8v4];

    /// Of keys and of values, in heads of so many elements.
    pub(crate) fn of_heads(self, head: usize) -> [CacheFormat; 2] {
        match self {
            KvFormat::F32 => [CacheFormat::F32; 2],
            KvFormat::F16 => [CacheFormat::F16; 2],
            KvFormat::Q8 => [CacheFormat::Q8 { head }; 2],
            KvFormat::Tq4 => [CacheFormat::Tq4 { head }; 2],
            KvFormat::K8v4 => [CacheFormat::Q8 { head }, CacheFormat::Tq4 { head }],
        }
    }
}

/// Gives the caches of attention a format; whether it is one for their heads is checked with all shapes.
pub(super) fn formats(recording: &mut Recording, kv: KvFormat) {
    for recorded in &mut recording.steps {
        let Recorded::Kernel { kernel: Op::Attention(attention), .. } = recorded else { continue };
        attention.formats = kv.of_heads(attention.dim);
        for (stream, format) in recording.caches[attention.kv.0].streams.iter_mut().zip(attention.formats) {
            stream.format = format;
        }
    }
}
