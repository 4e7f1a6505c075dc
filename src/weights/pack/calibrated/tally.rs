use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Fewer tokens per input of down say too little about an expert.
const FEW: f32 = 2.0;
/// Most experts that a warning names.
const MOST_NAMED: usize = 12;

/// How a matrix was quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was copied.
    AsItWas,
    /// Plainly: nothing is known of its inputs.
    Unknown,
    /// Plainly: with the calibration it would lose more on the tokens that were kept out.
    Worse,
    /// By the calibration.
    Better,
}

/// What became of all matrices.
#[derive(Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    quantised: usize,
    worse: usize,
    unknown: usize,
    /// Experts by layer.
    few: BTreeMap<usize, Vec<usize>>,
    /// Layers whose experts share moments that nothing can be made of.
    without_input: BTreeSet<usize>,
}

impl Tally {
    /// Of one expert.
    pub(crate) fn add(&self, layer: usize, expert: usize, tokens_per_input: f32, outcomes: [Outcome; 3]) {
        let mut counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for outcome in outcomes {
            counts.quantised += usize::from(outcome != Outcome::AsItWas);
            counts.worse += usize::from(outcome == Outcome::Worse);
            counts.unknown += usize::from(outcome == Outcome::Unknown);
        }
        if tokens_per_input < FEW && outcomes != [Outcome::AsItWas; 3] {
            counts.few.entry(layer).or_default().push(expert);
        }
    }

    /// Of a layer whose gate and up nothing is known of, whatever the expert.
    pub(crate) fn add_without_input(&self, layer: usize) {
        let mut counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        counts.without_input.insert(layer);
    }

    /// What whoever made the pack should know; `part` is how many layers were counted where an earlier run wrote others.
    pub(crate) fn warnings(&self, part: Option<usize>) -> Vec<String> {
        let part = part.map_or(String::new(), |layers| format!(" of {layers} layers of this run"));
        let counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut all = Vec::new();
        let few: usize = counts.few.values().map(Vec::len).sum();
        if few > 0 {
            let mut named = Vec::new();
            let mut left = MOST_NAMED;
            for (layer, experts) in &counts.few {
                let mut experts = experts.clone();
                experts.sort_unstable();
                experts.truncate(left);
                left -= experts.len();
                if !experts.is_empty() {
                    let experts: Vec<String> = experts.iter().map(usize::to_string).collect();
                    named.push(format!("layer {layer}: {}", experts.join(", ")));
                }
            }
            let more = if few > MOST_NAMED { ", ..." } else { "" };
            all.push(format!(
                "the calibration saw few tokens of {few} experts{part} ({}{more}); more text, or text of more kinds, makes them better",
                named.join("; ")
            ));
        }
        if !counts.without_input.is_empty() {
            let layers: Vec<String> = counts.without_input.iter().map(usize::to_string).collect();
            all.push(format!(
                "the calibration's moments of the inputs of gate and up are not positive definite in layer {}: these matrices \
                 are as without it",
                layers.join(", ")
            ));
        }
        let Counts { quantised, worse, unknown, .. } = *counts;
        if worse + unknown > 0 {
            all.push(format!(
                "{worse} of {quantised} matrices{part} lose less without the calibration on tokens that it kept out, and {unknown} it \
                 cannot judge: these are as without it"
            ));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_named_in_order_and_not_all() {
        let tally = Tally::default();
        for expert in (0..20).rev() {
            tally.add(3, expert, 1.0, [Outcome::Better; 3]);
        }
        tally.add(1, 7, 0.0, [Outcome::Unknown, Outcome::Worse, Outcome::Better]);
        tally.add(1, 8, 50.0, [Outcome::Better; 3]);
        tally.add(1, 9, 0.0, [Outcome::AsItWas; 3]);
        let [few, plain] = &tally.warnings(None)[..] else { panic!("two warnings") };
        assert!(few.contains("few tokens of 21 experts (layer 1: 7; layer 3: 0, 1, 2"), "{few}");
        assert!(few.contains("10, ...)"), "{few}");
        assert!(plain.starts_with("1 of 66 matrices") && plain.contains("and 1 it cannot judge"), "{plain}");
        assert!(Tally::default().warnings(None).is_empty());
        tally.add_without_input(4);
        let [few, without, plain] = &tally.warnings(Some(5))[..] else { panic!("three warnings") };
        assert!(few.contains("21 experts of 5 layers of this run (layer 1: 7"), "{few}");
        assert!(without.contains("not positive definite in layer 4: "), "{without}");
        assert!(plain.starts_with("1 of 66 matrices of 5 layers of this run lose less"), "{plain}");
    }
}
