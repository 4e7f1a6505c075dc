//! Kernels that read or write a KV cache: once for each pair of formats that `--kv` gives keys and values. What depends on
//! these is imported by its role:
//!
//! | role | is | declares |
//! | --- | --- | --- |
//! | `keys` | `keys_FORMAT` | `KeyCell` and `key_cells`, the elements of the binding of a head; `key_quad`, four elements of a head there; `key_cell` and `kept_key`, a cell to write and four elements to be read of the head in `own`; the latter gets a zero that no driver knows to be one |
//! | `values` | `values_FORMAT` | the same of values |
//! | `ready` | `ready_nothing`, or what turns heads | `prepare_cache` or `prepare_reading`, before anything is read; `ready_own`, before heads in `own` are stored |
//! | `turn` | `turn_nothing` or `turn_head` | `turn_head`: queries as keys are, or what values come to back |

use flashflood_formats::CacheFormat;

use super::{File, piece};

/// A pair of formats.
struct Pair {
    /// What the names of its shaders end with.
    suffix: &'static str,
    keys: File,
    values: File,
    ready: File,
}

macro_rules! pair {
    ($suffix:literal, $keys:literal, $values:literal, $ready:literal) => {
        Pair { suffix: $suffix, keys: shared!($keys), values: shared!($values), ready: shared!($ready) }
    };
}

static PAIRS: [Pair; 5] = [
    pair!("", "keys_f32", "values_f32", "ready_nothing"),
    pair!("_f16", "keys_f16", "values_f16", "ready_nothing"),
    pair!("_q8", "keys_q8", "values_q8", "ready_nothing"),
    pair!("_tq4", "keys_tq4", "values_tq4", "cache_tq4"),
    pair!("_k8v4", "keys_q8", "values_tq4", "cache_tq4"),
];

/// How a kernel depends on the formats.
#[derive(Clone, Copy, PartialEq)]
enum Depends {
    /// It reads or writes the cache.
    Formats,
    /// Likewise, and in f16: no kernel for caches that are kept exactly.
    FewerBits,
    /// It turns heads or not.
    Turns,
}

const KERNELS: [(File, Depends); 6] = [
    (kernel!("attention"), Depends::Formats),
    (kernel!("attention_prefill"), Depends::Formats),
    (kernel!("attention_prefill_cooperative"), Depends::FewerBits),
    (kernel!("kv_norm_rope"), Depends::Formats),
    (kernel!("attention_merge"), Depends::Turns),
    (kernel!("query_norm_rope"), Depends::Turns),
];

const TURNED: &str = "_turned";

/// A kernel for a pair of formats, or for heads that are turned or not.
pub(super) struct Cached {
    pub(super) name: &'static str,
    pub(super) kernel: File,
    pair: Option<&'static Pair>,
}

impl Cached {
    /// All there are.
    pub(super) fn all() -> Vec<Cached> {
        let mut all = Vec::new();
        for (kernel, depends) in KERNELS {
            let mut add = |suffix: &str, pair| {
                let name = format!("{}{suffix}", kernel.name).leak();
                all.push(Cached { name, kernel, pair });
            };
            match depends {
                Depends::Formats => PAIRS.iter().for_each(|pair| add(pair.suffix, Some(pair))),
                Depends::FewerBits => fewer_bits().for_each(|pair| add(pair.suffix, Some(pair))),
                Depends::Turns => ["", TURNED].iter().for_each(|suffix| add(suffix, None)),
            }
        }
        all
    }

    /// The file that an import means.
    pub(super) fn find(&self, import: &str) -> Option<File> {
        match (import, self.pair) {
            ("keys", Some(pair)) => Some(pair.keys),
            ("values", Some(pair)) => Some(pair.values),
            ("ready", Some(pair)) => Some(pair.ready),
            ("turn", Some(pair)) => Some(turn(pair.values.name == "values_tq4")),
            ("turn", None) => Some(turn(self.name.ends_with(TURNED))),
            _ => piece(import),
        }
    }
}

fn fewer_bits() -> impl Iterator<Item = &'static Pair> {
    PAIRS.iter().filter(|pair| pair.keys.name != "keys_f32")
}

fn turn(is_turned: bool) -> File {
    if is_turned { shared!("turn_head") } else { shared!("turn_nothing") }
}

/// What the names of kernels end with that read or write a cache of these keys and values; `None` where there are none.
pub(crate) fn suffix_of([keys, values]: [CacheFormat; 2]) -> Option<&'static str> {
    let pair = PAIRS.iter().find(|pair| {
        let is = |file: File, format: CacheFormat| file.name.rsplit('_').next() == Some(&format.to_string());
        is(pair.keys, keys) && is(pair.values, values)
    });
    pair.map(|pair| pair.suffix)
}

/// The name of a kernel with a suffix, as [`names`](super::names) has it.
///
/// # Panics
/// For one that is not among them: a mistake in an op.
pub(crate) fn with_suffix(kernel: &str, suffix: &str) -> &'static str {
    let found = super::CACHED.iter().find(|cached| cached.name.strip_prefix(kernel) == Some(suffix));
    found.expect("kernels of caches are rows of KERNELS, for each pair of formats").name
}

/// The name of a kernel of turned heads, or of others.
pub(crate) fn turned(kernel: &str, is_turned: bool) -> &'static str {
    with_suffix(kernel, if is_turned { TURNED } else { "" })
}
