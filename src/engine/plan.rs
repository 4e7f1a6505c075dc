//! Where memory goes, decided before anything large is allocated.

use std::fmt;
use std::str::FromStr;

use crate::compute::{KvFormat, Recording};
use crate::experts::{StoreError, auto_budget, plan_slots, reserve};
use crate::model::{RopeScaling, Shape};
use crate::sizes::bytes_for_people;
use crate::weights::ExpertLayout;

/// Positions that caches have room for unasked, however little memory there is: what a model was trained for if that is
/// less.
const LEAST_CONTEXT: usize = 8192;
/// The part of the memory beside the weights that caches may take unasked. An agent's first request has up to 40,000
/// tokens; what caches take the experts lack.
const CACHE_SHARE: u64 = 8;
/// The context that is taken unasked is a multiple of this.
const CONTEXT_STEP: usize = 1024;

/// Tokens of a chunk are a multiple of this, unless somebody asks for another number: kernels that go through tokens in
/// runs of 32 then have the same runs whatever the chunk, and so do their results.
const CHUNK_STEP: usize = 64;
/// The longest chunk that is taken unasked: beyond it a sweep of the experts takes less time than their products.
const MOST_CHUNK: usize = 4096;
/// The part of the memory left to experts that activations of a chunk may take.
const CHUNK_SHARE: u64 = 8;

/// What a plan is asked to make room for.
pub(super) struct Wishes {
    /// Positions; `None` is what memory has room for, up to what the model was trained for.
    pub(super) context: Option<usize>,
    /// How rotary positions are stretched, as it was asked for.
    pub(super) rope: RopeScaling,
    /// Tokens of a prompt in one step.
    pub(super) chunk: Option<usize>,
    /// Memory for routed experts.
    pub(super) experts: ExpertBudget,
    /// How keys and values are kept.
    pub(super) kv: KvFormat,
    /// Largest tensor that the device can bind, in bytes.
    pub(super) binding: u64,
}

/// Memory for routed experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertBudget {
    /// What is free, less a reserve.
    Auto,
    /// At most so many bytes.
    Bytes(u64),
    /// Every expert of the model.
    All,
}

impl FromStr for ExpertBudget {
    type Err = String;

    /// `auto`, `all`, or a number with an optional unit: powers of 1000 for kB, MB, GB, of 1024 for KiB, MiB, GiB.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(ExpertBudget::Auto),
            "all" => return Ok(ExpertBudget::All),
            _ => {}
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 =
            number.parse().map_err(|_| format!("expected auto, all or a size such as 8GB, found '{text}'"))?;
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "kb" | "k" => 1e3,
            "mb" | "m" => 1e6,
            "gb" | "g" => 1e9,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            other => return Err(format!("unknown unit '{other}'; expected B, kB, MB, GB, KiB, MiB or GiB")),
        };
        Ok(ExpertBudget::Bytes((number * unit) as u64))
    }
}

/// A plan that does not fit.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Experts.
    #[error(transparent)]
    Experts(#[from] StoreError),
    /// A longer context than the model knows.
    #[error(
        "a context of {found} positions: expected at most {most}, {} (hint: {}lower --ctx)",
        of_context(*most, *trained),
        hint.map_or(String::new(), |rope| format!("--rope-scaling {rope} if the model's card recommends YaRN, with :TRAINED where it names fewer positions, or "))
    )]
    Context {
        /// What was asked for.
        found: usize,
        /// What the model knows.
        most: usize,
        /// What it was trained for.
        trained: usize,
        /// The setting that would make room.
        hint: Option<RopeScaling>,
    },
    /// Everything together.
    #[error("the model needs {needed} and {available} are free; the largest part is {part} (hint: {hint})")]
    TooLarge {
        /// Bytes, for people.
        needed: String,
        /// Bytes, for people.
        available: String,
        /// Which part.
        part: &'static str,
        /// The flag that would make it fit.
        hint: &'static str,
    },
}

/// Bytes by part.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MemoryPlan {
    /// Weights that every token needs.
    pub resident: u64,
    /// Slots for routed experts.
    pub experts: u64,
    /// How many slots.
    pub slots: usize,
    /// Bytes of an expert in its slot.
    pub slot_bytes: u64,
    /// How many slots would hold every expert.
    pub all_slots: usize,
    /// KV caches for the whole context.
    pub kv: u64,
    /// How their keys and values are kept.
    pub kv_format: KvFormat,
    /// Positions of the context.
    pub context: usize,
    /// Recurrent and convolution state.
    pub state: u64,
    /// Activations of a step.
    pub activations: u64,
    /// Most tokens of a step.
    pub chunk: usize,
    /// Free when the plan was made.
    pub available: u64,
}

/// Where the longest context of a model comes from.
fn of_context(most: usize, trained: usize) -> String {
    match most > trained {
        true => format!("to which rotary positions are stretched from the {trained} that the model was trained for"),
        false => "which the model was trained for".to_owned(),
    }
}

/// Positions that `bytes` have room for, within what is sensible and what the model knows.
fn default_context(bytes: u64, bytes_per_position: u64, most: usize) -> usize {
    // a model without caches has room for all
    let fits = bytes.checked_div(bytes_per_position).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    (fits / CONTEXT_STEP * CONTEXT_STEP).max(LEAST_CONTEXT).clamp(1, most.max(1))
}

impl MemoryPlan {
    /// Plans a model, and decides how many tokens a step of `recording` may have.
    pub(super) fn new(
        shape: &Shape,
        recording: &mut Recording,
        experts: &ExpertLayout,
        wishes: &Wishes,
    ) -> Result<MemoryPlan, PlanError> {
        let budget = wishes.experts;
        let available = flashflood_backends::memory::available_memory();
        let weights = recording.weight_bytes() + recording.tensor_bytes(true);
        // what was asked for is theirs; caches and a chunk take of the rest
        let asked = match budget {
            ExpertBudget::Auto => 0,
            ExpertBudget::Bytes(bytes) => bytes,
            ExpertBudget::All => experts.experts() as u64 * experts.slot_bytes() as u64,
        };
        let free = available.saturating_sub(weights.saturating_add(asked));
        let context = match wishes.context {
            Some(found) if found > shape.max_positions => {
                let (most, trained) = (shape.max_positions, shape.trained_positions());
                return Err(PlanError::Context { found, most, trained, hint: wishes.rope.for_context(found, trained) });
            }
            Some(context) => context.max(1),
            None => default_context(free / CACHE_SHARE, recording.kv_bytes_per_position(), shape.max_positions),
        };
        let mut plan = MemoryPlan {
            resident: recording.weight_bytes(),
            experts: 0,
            slots: 0,
            slot_bytes: experts.slot_bytes() as u64,
            all_slots: experts.experts(),
            kv: recording.kv_bytes_per_position().saturating_mul(context as u64),
            kv_format: wishes.kv,
            context,
            state: recording.tensor_bytes(true),
            activations: 0,
            chunk: 0,
            available,
        };
        let slot_bytes = plan.slot_bytes;
        let for_experts = auto_budget(available, plan.total().saturating_add(asked));
        plan.chunk = match wishes.chunk {
            Some(chunk) => chunk.clamp(1, context.max(1)),
            None => chunk_within(recording, for_experts / CHUNK_SHARE, context, wishes.binding),
        };
        recording.max_tokens = plan.chunk;
        plan.activations = recording.tensor_bytes(false);
        let bytes = match budget {
            ExpertBudget::Auto => auto_budget(available, plan.total()),
            ExpertBudget::Bytes(_) | ExpertBudget::All => asked,
        };
        plan.check(0)?;
        plan.slots = match plan_slots(experts, bytes) {
            // nobody chose so few: it is the rest that leaves no room
            Err(StoreError::BudgetTooSmall { needed, .. }) if budget == ExpertBudget::Auto => {
                return Err(plan.too_large(needed, reserve(available)));
            }
            slots => slots?,
        };
        plan.experts = plan.slots as u64 * slot_bytes;
        plan.check(plan.experts)?;
        Ok(plan)
    }

    /// All parts.
    pub fn total(&self) -> u64 {
        self.resident + self.experts + self.kv + self.state + self.activations
    }

    fn check(&self, experts: u64) -> Result<(), PlanError> {
        let rest = self.resident + self.kv + self.state + self.activations;
        match rest.saturating_add(experts) <= self.available {
            true => Ok(()),
            false => Err(self.too_large(experts, 0)),
        }
    }

    /// What makes the context take less.
    fn less_context(&self) -> &'static str {
        match self.kv_format {
            KvFormat::F32 | KvFormat::F16 => "a smaller --ctx, or --kv q8",
            KvFormat::Q8 => "a smaller --ctx, or --kv k8v4",
            KvFormat::Tq4 | KvFormat::K8v4 => "a smaller --ctx",
        }
    }

    /// The error of a plan with `experts` bytes for experts that leaves `reserve` bytes to other programs.
    fn too_large(&self, experts: u64, reserve: u64) -> PlanError {
        let rest = self.resident + self.kv + self.state + self.activations;
        let parts = [
            (experts, "the expert cache", "a smaller --expert-cache"),
            (self.kv, "the KV cache", self.less_context()),
            (self.activations, "the activations of a chunk", "a smaller --chunk"),
            (self.resident, "the resident weights", "a pack with fewer bits: flashflood pack --resident-bits"),
        ];
        let (_, part, hint) = parts.into_iter().max_by_key(|(bytes, ..)| *bytes).expect("there are parts");
        PlanError::TooLarge {
            needed: bytes_for_people(rest.saturating_add(experts)),
            available: bytes_for_people(self.available.saturating_sub(reserve)),
            part,
            hint,
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = format!("{} of {} experts", self.slots, self.all_slots);
        let context = format!("{} positions in {}", self.context, self.kv_format);
        let chunk = format!("chunks of {} tokens", self.chunk);
        let rows = [
            ("resident weights", self.resident, ""),
            ("expert slots", self.experts, slots.as_str()),
            ("KV cache", self.kv, context.as_str()),
            ("recurrent state", self.state, ""),
            ("activations", self.activations, chunk.as_str()),
            ("total", self.total(), ""),
            ("free", self.available, ""),
        ];
        for (name, bytes, note) in rows {
            writeln!(f, "{name:<18}{:>10}  {note}", bytes_for_people(bytes))?;
        }
        Ok(())
    }
}

/// The longest chunk whose activations take at most `bytes`, of 64 tokens at least.
fn chunk_within(recording: &mut Recording, bytes: u64, context: usize, binding: u64) -> usize {
    let mut chunk = CHUNK_STEP;
    let longest = context.next_multiple_of(CHUNK_STEP).min(MOST_CHUNK);
    while 2 * chunk <= longest.next_power_of_two() {
        recording.max_tokens = 2 * chunk;
        if recording.tensor_bytes(false) > bytes || recording.largest_tensor() > binding {
            break;
        }
        chunk *= 2;
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_is_what_an_eighth_of_memory_holds() {
        // 61,440 bytes a position as the 397B has it
        assert_eq!(default_context(5_000_000_000, 61_440, 262_144), 80_896);
        assert_eq!(default_context(1_000, 61_440, 262_144), LEAST_CONTEXT);
        assert_eq!(default_context(5_000_000_000, 61_440, 2048), 2048);
        assert_eq!(default_context(5, 0, 262_144), 262_144);
    }

    /// 150 MB that are free, as in a small container: the caches leave no room, and nobody asked for a small budget.
    #[test]
    fn what_does_not_fit_is_named() {
        let plan = MemoryPlan {
            resident: 2_700_000,
            experts: 0,
            slots: 0,
            slot_bytes: 27_000,
            all_slots: 256,
            kv: 67_100_000,
            kv_format: KvFormat::F16,
            context: 32_768,
            state: 251_900,
            activations: 9_000_000,
            chunk: 64,
            available: 150_000_000,
        };
        let text = plan.too_large(108_000, reserve(plan.available)).to_string();
        let expected = "the model needs 79.2 MB and 75.0 MB are free; the largest part is the KV cache (hint: a smaller --ctx, or --kv q8)";
        assert_eq!(text, expected);
        assert!(plan.check(0).is_ok() && plan.check(80_000_000).is_err());
    }

    #[test]
    fn sizes_as_people_write_them() {
        let sizes = [
            ("auto", ExpertBudget::Auto),
            ("all", ExpertBudget::All),
            ("4096", ExpertBudget::Bytes(4096)),
            ("512MB", ExpertBudget::Bytes(512_000_000)),
            ("1.5 GiB", ExpertBudget::Bytes(3 << 29)),
            ("2k", ExpertBudget::Bytes(2000)),
        ];
        for (text, size) in sizes {
            assert_eq!(text.parse(), Ok(size));
        }
        for text in ["", "much", "-1", "1.2.3GB", "GB"] {
            let message = text.parse::<ExpertBudget>().err().unwrap_or_default();
            assert_eq!(message, format!("expected auto, all or a size such as 8GB, found '{text}'"));
        }
        assert!("5 parrots".parse::<ExpertBudget>().is_err_and(|message| message.contains("unknown unit 'parrots'")));
    }
}
