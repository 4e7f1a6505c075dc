//! The same choice as from all logits, from the most likely ones and the sums of runs of the vocabulary, wherever it is
//! certain: what a GPU has to hand over is a few KB.

use super::{Sampler, by_likelihood, check_finite};
use crate::compute::LogitsSummary;
use crate::text::TextError;

/// How far sums that a device makes in f32 may be from those of all logits in f64, of the whole: 1,024 terms a run, each by
/// an exponential that is right to 3 + 2 |x| units in the last place.
const UNCERTAIN: f64 = 1e-5;

impl Sampler {
    /// How many of the most likely tokens [`sample_from_summary`](Self::sample_from_summary) should be given, of `most` there
    /// can be; `None` where it is never certain.
    pub(crate) fn candidates_wanted(&self, most: usize) -> Option<usize> {
        let settings = &self.settings;
        let needed = if settings.is_greedy() { 1 } else { settings.top_k };
        let wanted = match settings.has_penalties() {
            // as many again may be penalised, and some more
            true if needed > 0 && settings.only_lowers() => (2 * needed).max(64),
            true => return None,
            false if needed > 0 => needed,
            // the others are found by their run
            false if settings.top_p >= 1.0 && settings.min_p <= 0.0 => 1,
            false => most,
        };
        (wanted <= most && self.bias.is_empty()).then_some(wanted)
    }

    /// What the logits are to be divided by before runs are added up.
    pub(crate) fn summed_at(&self) -> f32 {
        match self.settings.top_p < 1.0 || self.settings.min_p > 0.0 || self.settings.is_greedy() {
            true => 1.0,
            false => self.settings.temperature,
        }
    }

    /// The token that [`sample`](Self::sample) would choose from all logits, where that is certain; else `None`, and nothing
    /// is drawn. `run` gives the logits of one run.
    pub(crate) fn sample_from_summary<E: From<TextError>>(
        &mut self,
        summary: &LogitsSummary,
        history: &[u32],
        run: impl FnOnce(usize) -> Result<Vec<f32>, E>,
    ) -> Result<Option<u32>, E> {
        check_finite(summary.top.iter().copied())?;
        let Some(&(_, highest)) = summary.top.first() else { return Ok(None) };
        let highest = f64::from(highest);
        if highest == f64::NEG_INFINITY || !self.bias.is_empty() {
            return Ok(None);
        }
        if !self.needs_full_logits(summary.top.len()) {
            return Ok(Some(self.sample_from(&summary.top)?));
        }
        if self.settings.has_penalties() {
            if summary.runs.iter().any(|run| run.total.is_nan()) {
                return Ok(None);
            }
            return Ok(self.sample_penalised(summary, history)?);
        }
        // fewer tokens than the top-k, or some that are not numbers; or these among those that were added up
        if self.settings.top_k > 0 || summary.runs.iter().any(|run| run.total.is_nan()) {
            return Ok(None);
        }
        let mut kept = match (self.settings.top_p < 1.0, self.settings.min_p > 0.0) {
            (true, _) => match self.nucleus(summary, highest) {
                Some(kept) => kept,
                None => return Ok(None),
            },
            (false, true) => summary.top.clone(),
            (false, false) => return self.draw_from_runs(summary, highest, run),
        };
        if self.settings.min_p > 0.0 {
            let before = kept.len();
            self.keep_min_p(&mut kept, highest);
            let all_are_seen = kept.len() < before || summary.top.len() == summary.vocab;
            if self.settings.top_p >= 1.0 {
                if !all_are_seen {
                    return Ok(None);
                }
                // without top-k and top-p tokens are gone through by id
                kept.sort_unstable_by_key(|(id, _)| *id);
            }
        }
        Ok(Some(self.draw(&kept, highest)))
    }

    /// Penalties only lower logits, so that no token beyond the candidates can pass the least of them.
    fn sample_penalised(&mut self, summary: &LogitsSummary, history: &[u32]) -> Result<Option<u32>, TextError> {
        let needed = if self.settings.is_greedy() { 1 } else { self.settings.top_k };
        let least = match summary.top.last() {
            Some((_, least)) if summary.top.len() < summary.vocab => *least,
            _ => f32::NEG_INFINITY,
        };
        let mut kept = summary.top.clone();
        let counts = self.counts(history);
        for (id, logit) in &mut kept {
            if let Some(count) = counts.get(id) {
                *logit = self.penalised(*logit, *count);
            }
        }
        check_finite(kept.iter().copied())?;
        kept.sort_unstable_by(by_likelihood);
        let certain = kept.iter().take_while(|(_, logit)| *logit > least).count();
        if needed == 0 || certain < needed {
            return Ok(None);
        }
        let given = kept.len();
        self.choose(&mut kept, given).map(Some)
    }

    /// The most likely tokens that are as likely together as is asked for.
    fn nucleus(&self, summary: &LogitsSummary, highest: f64) -> Option<Vec<(u32, f32)>> {
        let enough = f64::from(self.settings.top_p) * summary.total(highest, 1.0);
        let mut reached = 0.0;
        let last = summary.top.iter().position(|&(_, logit)| {
            reached += (f64::from(logit) - highest).exp();
            reached >= enough * (1.0 - UNCERTAIN)
        })?;
        (reached >= enough * (1.0 + UNCERTAIN)).then(|| summary.top[..=last].to_vec())
    }

    /// A draw from all tokens: which run it falls into, and then which of its tokens.
    fn draw_from_runs<E>(
        &mut self,
        summary: &LogitsSummary,
        highest: f64,
        run: impl FnOnce(usize) -> Result<Vec<f32>, E>,
    ) -> Result<Option<u32>, E> {
        let temperature = f64::from(self.settings.temperature);
        let total = summary.total(highest, temperature);
        let mut random = self.random;
        let target = random.next_unit() * total;
        let is_within = |from: f64, to: f64| target - from > UNCERTAIN * total && to - target > UNCERTAIN * total;
        let mut reached = 0.0;
        let found = summary.runs.iter().position(|run| {
            reached += run.weight(highest, temperature);
            target < reached
        });
        let Some(place) = found else { return Ok(None) };
        let from = reached - summary.runs[place].weight(highest, temperature);
        if !is_within(from, reached) {
            return Ok(None);
        }
        let mut reached = from;
        for (id, logit) in (place * LogitsSummary::RUN..).zip(run(place)?) {
            let before = reached;
            if logit > f32::NEG_INFINITY {
                reached += ((f64::from(logit) - highest) / temperature).exp();
            }
            if target < reached {
                let is_certain = is_within(before, reached);
                if is_certain {
                    self.random = random;
                }
                return Ok(is_certain.then_some(id as u32));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;
    use crate::compute::RunTotal;
    use crate::text::SamplerOptions;

    /// As a device sums up: in f32.
    fn summary(logits: &[f32], most: usize, temperature: f32) -> LogitsSummary {
        let mut top: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        top.sort_by(by_likelihood);
        top.truncate(most);
        let runs = logits.chunks(LogitsSummary::RUN).map(|run| {
            let largest = run.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            RunTotal { largest, total: run.iter().map(|logit| ((logit - largest) / temperature).exp()).sum() }
        });
        LogitsSummary { top, runs: runs.collect(), vocab: logits.len() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// The same tokens from the same seed, and the next draw is the same too, wherever it is certain; and it is for most.
        #[test]
        fn a_summary_is_enough_or_says_that_it_is_not(
            seed in any::<u64>(),
            spread in 1f32..12.0,
            temperature in prop::sample::select(vec![0.0f32, 0.6, 1.0, 1.7]),
            top_k in prop::option::of(1u32..80),
            top_p in prop::option::of(0.1f32..1.0),
            min_p in prop::option::of(0.001f32..0.5),
            penalties in prop::option::of((0.8f32..1.5, -0.5f32..2.0, 0f32..1.0)),
        ) {
            let mut random = super::super::SplitMix64::new(seed);
            let mut number = move || random.next_unit() as f32;
            let logits: Vec<f32> = (0..5000).map(|_| spread * (number() + number() + number() - 1.5) * 2.0).collect();
            let history: Vec<u32> = (0..60).map(|i| (i * 83) % 5000).collect();
            let options = SamplerOptions {
                temperature: Some(temperature),
                top_k,
                top_p,
                min_p,
                repetition_penalty: penalties.map(|p| p.0),
                presence_penalty: penalties.map(|p| p.1),
                frequency_penalty: penalties.map(|p| p.2),
                ..SamplerOptions::default()
            };
            let mut from_all = Sampler::new(options, seed).unwrap();
            let mut from_summary = from_all.clone();
            let Some(wanted) = from_summary.candidates_wanted(256) else { return Ok(()) };
            let summary = summary(&logits, wanted, from_summary.summed_at());
            let mut certain = 0;
            for _ in 0..20 {
                let run = |run: usize| -> Result<_, TextError> {
                    Ok(logits.chunks(LogitsSummary::RUN).nth(run).unwrap().to_vec())
                };
                let expected = from_all.sample(&mut logits.clone(), &history).unwrap();
                match from_summary.sample_from_summary(&summary, &history, run).unwrap() {
                    Some(found) => {
                        prop_assert_eq!(found, expected);
                        certain += 1;
                    }
                    None => from_summary = from_all.clone(),
                }
            }
            // a narrow spread has many tokens as likely as the uncertainty
            let is_plain = penalties.is_none() && top_k.is_none() && top_p.is_none() && min_p.is_none();
            prop_assert!(!is_plain || spread < 4.0 || certain >= 15, "{} certain", certain);
        }
    }
}
