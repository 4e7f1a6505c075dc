//! What numbers in session files stand for.

use flashflood_formats::CacheFormat;

use super::Reason;

/// The format, and the elements of a head in the upper half.
pub(super) fn format_code(format: CacheFormat) -> u64 {
    let of_heads = |code, head: usize| code | (head as u64) << 32;
    match format {
        CacheFormat::F32 => 0,
        CacheFormat::F16 => 1,
        CacheFormat::Q8 { head } => of_heads(2, head),
        CacheFormat::Tq4 { head } => of_heads(3, head),
    }
}

pub(super) fn format_of(code: u64) -> Option<CacheFormat> {
    let head = usize::try_from(code >> 32).unwrap_or(0);
    let format = match code & u64::from(u32::MAX) {
        0 => CacheFormat::F32,
        1 => CacheFormat::F16,
        2 => CacheFormat::Q8 { head },
        3 => CacheFormat::Tq4 { head },
        _ => return None,
    };
    // heads where there are none are damage, and the other way round
    (format_code(format) == code && !matches!(format, CacheFormat::Q8 { head: 0 } | CacheFormat::Tq4 { head: 0 }))
        .then_some(format)
}

pub(super) fn reason_code(reason: Reason) -> u64 {
    match reason {
        Reason::Interval => 0,
        Reason::Asked => 1,
        Reason::Turn => 2,
    }
}
