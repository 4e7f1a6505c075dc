//! Chooses the next token from the logits.
//!
//! The chain: penalties, top-k, top-p, min-p, temperature, draw. The filters look at the probabilities at
//! temperature 1, so raising the temperature does not let in tokens that the filters are there to keep out.
//!
//! Every step goes through the tokens in one fixed order (with top-k or top-p most likely first, of equals the lowest
//! id) and sums in f64, so that a seed gives the same text again, whether all logits come in or only the most likely
//! ones, picked on the GPU.

mod summary;

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{SamplerOptions, SamplerSettings, TextError};

/// Chooses tokens; holds the options and the state of the random generator.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    random: SplitMix64,
    /// Added to the logits of tokens.
    bias: Vec<(u32, f32)>,
    /// Tokens of the history that the penalties do not count: the prompt.
    prompt: usize,
    /// Kept between tokens for its memory only.
    kept: Vec<(u32, f32)>,
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler that follows `options` (open ones at their built-in defaults) and draws from `seed`.
    pub fn new(options: SamplerOptions, seed: u64) -> Result<Self, TextError> {
        let (settings, random) = (options.settings()?, SplitMix64::new(seed));
        Ok(Self { settings, random, bias: Vec::new(), prompt: 0, kept: Vec::new(), weights: Vec::new() })
    }

    /// The same, with `bias` added to the logits of tokens, and penalties that leave out the first `prompt` tokens of a
    /// history: what was asked is not a repetition.
    #[must_use]
    pub(crate) fn for_answer(self, bias: Vec<(u32, f32)>, prompt: usize) -> Self {
        Self { bias, prompt, ..self }
    }

    /// Whether [`Sampler::sample_from`] with the `candidates` most likely tokens is not enough, and
    /// [`Sampler::sample`] must see all logits: with penalties, or without a top-k that small.
    pub(crate) fn needs_full_logits(&self, candidates: usize) -> bool {
        self.candidates_needed().is_none_or(|needed| needed > candidates)
    }

    /// How many of the most likely tokens are enough for [`Sampler::sample_from`]; `None` where all logits are needed.
    pub(crate) fn candidates_needed(&self) -> Option<usize> {
        self.settings.candidates_needed().filter(|_| self.bias.is_empty())
    }

    /// Chooses from all logits, `logits[id]`, leaving out the padding beyond the tokenizer's vocabulary.
    ///
    /// `history` holds the tokens that the penalties count; the penalties are applied to `logits` in place. -inf masks
    /// a token. Draws one random number per call, none if greedy. NaN and +inf are errors that name the token.
    pub(crate) fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32, TextError> {
        self.penalise(logits, history);
        for (id, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        // after the penalties, which keep NaN and infinity and could overflow to it
        check_finite((0..).zip(logits.iter().copied()))?;
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        kept.extend((0..).zip(logits.iter().copied()));
        let token = self.choose(&mut kept, logits.len());
        self.kept = kept;
        token
    }

    /// Chooses from the most likely tokens alone, as (id, logit); exactly the token that [`Sampler::sample`] would
    /// choose from all logits, wherever [`Sampler::needs_full_logits`] is false.
    ///
    /// Of tokens with equal logits at the end of the list, those with the lowest ids must have been taken.
    pub(crate) fn sample_from(&mut self, candidates: &[(u32, f32)]) -> Result<u32, TextError> {
        if self.needs_full_logits(candidates.len()) {
            return Err(TextError::Candidates {
                needed: match self.candidates_needed() {
                    Some(needed) => format!("the {needed} most likely tokens"),
                    None => "all logits".into(),
                },
                found: candidates.len(),
            });
        }
        check_finite(candidates.iter().copied())?;
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        kept.extend_from_slice(candidates);
        let token = self.choose(&mut kept, candidates.len());
        self.kept = kept;
        token
    }

    fn penalise(&self, logits: &mut [f32], history: &[u32]) {
        if !self.settings.has_penalties() {
            return;
        }
        // each token is changed once and by itself, so the order of the map does not matter
        for (id, count) in self.counts(history) {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = self.penalised(*logit, count);
            }
        }
    }

    /// How often each token is in a history, its prompt left out.
    fn counts(&self, history: &[u32]) -> HashMap<u32, u32> {
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for &id in history.get(self.prompt..).unwrap_or_default() {
            *counts.entry(id).or_default() += 1;
        }
        counts
    }

    /// The logit of a token that was chosen `count` times.
    fn penalised(&self, logit: f32, count: u32) -> f32 {
        let repeated = match logit > 0.0 {
            true => logit / self.settings.repetition_penalty,
            false => logit * self.settings.repetition_penalty,
        };
        repeated - self.settings.presence_penalty - self.settings.frequency_penalty * count as f32
    }

    fn choose(&mut self, kept: &mut Vec<(u32, f32)>, given: usize) -> Result<u32, TextError> {
        // a masked token has no probability, whatever the filters say
        kept.retain(|&(_, logit)| logit > f32::NEG_INFINITY);
        let none = TextError::NoToken { count: given };
        if self.settings.is_greedy() {
            return match kept.iter().min_by(|a, b| by_likelihood(a, b)) {
                Some(&(id, _)) => Ok(id),
                None => Err(none),
            };
        }
        let highest = kept.iter().map(|&(_, logit)| f64::from(logit));
        let Some(highest) = highest.reduce(f64::max) else {
            return Err(none);
        };
        // without top-k and top-p the order of the ids serves as well, and a vocabulary is slow to sort
        if self.settings.top_k > 0 || self.settings.top_p < 1.0 {
            self.keep_top_k(kept);
            self.keep_top_p(kept, highest);
        }
        self.keep_min_p(kept, highest);
        Ok(self.draw(kept, highest))
    }

    /// Draws from what the filters have left.
    fn draw(&mut self, kept: &[(u32, f32)], highest: f64) -> u32 {
        let temperature = f64::from(self.settings.temperature);
        self.weights.clear();
        self.weights.extend(kept.iter().map(|&(_, logit)| ((f64::from(logit) - highest) / temperature).exp()));
        let total: f64 = self.weights.iter().sum();
        let target = self.random.next_unit() * total;
        let mut reached = 0.0;
        for (&(id, _), weight) in kept.iter().zip(&self.weights) {
            reached += weight;
            if target < reached {
                return id;
            }
        }
        // target < 1 * total, and `reached` ends as the same sum: only rounding in the product leads here
        kept[kept.len() - 1].0
    }

    /// Leaves the k most likely (all, if k is 0), most likely first.
    fn keep_top_k(&self, kept: &mut Vec<(u32, f32)>) {
        let k = self.settings.top_k;
        if k > 0 && k < kept.len() {
            kept.select_nth_unstable_by(k - 1, by_likelihood);
            kept.truncate(k);
        }
        kept.sort_unstable_by(by_likelihood);
    }

    fn keep_top_p(&mut self, kept: &mut Vec<(u32, f32)>, highest: f64) {
        if self.settings.top_p >= 1.0 {
            return;
        }
        self.weights.clear();
        self.weights.extend(kept.iter().map(|&(_, logit)| (f64::from(logit) - highest).exp()));
        let enough = f64::from(self.settings.top_p) * self.weights.iter().sum::<f64>();
        let mut reached = 0.0;
        let last = self.weights.iter().position(|weight| {
            reached += weight;
            reached >= enough
        });
        kept.truncate(last.map_or(kept.len(), |last| last + 1));
    }

    fn keep_min_p(&self, kept: &mut Vec<(u32, f32)>, highest: f64) {
        if self.settings.min_p <= 0.0 {
            return;
        }
        let least = f64::from(self.settings.min_p);
        // the ratio of the most likely token is 1, so at least one stays
        kept.retain(|&(_, logit)| (f64::from(logit) - highest).exp() >= least);
    }
}

/// Most likely first; of equals the lowest id. NaN has been refused before.
fn by_likelihood(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

fn check_finite(logits: impl Iterator<Item = (u32, f32)>) -> Result<(), TextError> {
    for (token, value) in logits {
        if value.is_nan() || value == f32::INFINITY {
            return Err(TextError::Logit { token, value });
        }
    }
    Ok(())
}

/// The random generator of the sampler: SplitMix64 (Steele, Lea and Flood 2014), one u64 of state.
///
/// Its whole state is that number, so a saved session can go on with the same draws; one draw per token asks no more
/// of a generator than this gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Starts at `seed`.
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 random bits.
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number in [0, 1), on a grid of 2^-53.
    fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use proptest::prelude::*;

    fn sampler(options: SamplerOptions, seed: u64) -> Sampler {
        Sampler::new(options, seed).unwrap()
    }

    fn sampling(temperature: f32) -> SamplerOptions {
        SamplerOptions { temperature: Some(temperature), ..SamplerOptions::default() }
    }

    /// How often each token of `logits` is drawn in `draws` draws.
    fn histogram(options: SamplerOptions, logits: &[f32], draws: u32) -> Vec<u32> {
        let mut sampler = sampler(options, 7);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn random_numbers_are_splitmix64s() {
        // the values of the generator's published C code for seed 1234567
        let mut random = SplitMix64::new(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(expected.map(|_| random.next_u64()), expected);
        assert_eq!(SplitMix64::new(0).next_u64(), 0xE220_A839_7B1D_CDAF);
        assert!((0..10_000).all(|_| (0.0..1.0).contains(&random.next_unit())));
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        let mut greedy = sampler(SamplerOptions::default(), 0);
        assert_eq!(greedy.sample(&mut [1.0, 3.0, 3.0, -0.0], &[]).unwrap(), 1);
        assert_eq!(greedy.sample(&mut [-0.0, 0.0], &[]).unwrap(), 0);
        assert_eq!(greedy.sample_from(&[(9, 2.0), (4, 2.0)]).unwrap(), 4);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        // probabilities 0.5, 0.25, 0.25
        let logits = [2f32.ln(), 0.0, 0.0];
        let counts = histogram(sampling(1.0), &logits, 40_000);
        // 5 standard deviations of a binomial are at most 5 * sqrt(40000 / 4) = 500
        for (count, expected) in counts.iter().zip([20_000u32, 10_000, 10_000]) {
            assert!(count.abs_diff(expected) < 500, "{counts:?}");
        }
        let hot = histogram(sampling(1e6), &logits, 30_000);
        assert!(hot.iter().all(|c| c.abs_diff(10_000) < 500), "{hot:?}");
        assert_eq!(histogram(sampling(1e-9), &logits, 100), [100, 0, 0]);
    }

    #[test]
    fn filters_keep_what_they_should() {
        // probabilities 0.4, 0.3, 0.2, 0.1
        let logits = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let drawn = |options| {
            let counts = histogram(options, &logits, 2_000);
            counts.into_iter().map(|c| c > 0).collect::<Vec<_>>()
        };
        let hot = sampling(3.0);
        assert_eq!(drawn(hot), [true, true, true, true]);
        let top_k = SamplerOptions { top_k: Some(2), ..hot };
        assert_eq!(drawn(top_k), [true, true, false, false]);
        let top_p = SamplerOptions { top_p: Some(0.65), ..hot };
        assert_eq!(drawn(top_p), [true, true, false, false]);
        let nothing = SamplerOptions { top_p: Some(0.0), ..hot };
        assert_eq!(drawn(nothing), [true, false, false, false]);
        let min_p = SamplerOptions { min_p: Some(0.45), ..hot };
        assert_eq!(drawn(min_p), [true, true, true, false]);
    }

    #[test]
    fn penalties_count_the_history() {
        let options = SamplerOptions {
            presence_penalty: Some(1.0),
            frequency_penalty: Some(0.5),
            repetition_penalty: Some(2.0),
            ..SamplerOptions::default()
        };
        let mut logits = [4.0, -1.0, 2.0, f32::NEG_INFINITY];
        let chosen = sampler(options, 0).sample(&mut logits, &[0, 1, 0, 3, 99]);
        assert_eq!(logits, [4.0 / 2.0 - 1.0 - 1.0, -2.0 - 1.0 - 0.5, 2.0, f32::NEG_INFINITY]);
        assert_eq!(chosen.unwrap(), 2);
    }

    #[test]
    fn broken_logits_are_errors() {
        for options in [SamplerOptions::default(), sampling(1.0)] {
            let mut sampler = sampler(options, 0);
            let error = sampler.sample(&mut [0.0, f32::NAN], &[]).unwrap_err();
            assert!(matches!(error, TextError::Logit { token: 1, .. }), "{error}");
            assert!(sampler.sample(&mut [f32::INFINITY], &[]).is_err());
            let error = sampler.sample(&mut [f32::NEG_INFINITY; 3], &[]).unwrap_err();
            assert!(matches!(error, TextError::NoToken { count: 3 }), "{error}");
            assert!(sampler.sample(&mut [], &[]).is_err());
        }
        let overflow = SamplerOptions { repetition_penalty: Some(1e-6), ..sampling(1.0) };
        assert!(sampler(overflow, 0).sample(&mut [1e38, 0.0], &[0]).is_err());
    }

    #[test]
    fn too_few_candidates_are_an_error() {
        let mut open = sampler(sampling(1.0), 0);
        assert!(open.needs_full_logits(1_000_000));
        assert!(open.sample_from(&[(0, 1.0)]).is_err());
        let top_k = SamplerOptions { top_k: Some(2), ..sampling(1.0) };
        assert!(sampler(top_k, 0).sample_from(&[(0, 1.0)]).is_err());
        assert!(sampler(top_k, 0).sample_from(&[(0, 1.0), (1, 0.0)]).is_ok());
        let penalty = SamplerOptions { presence_penalty: Some(1.0), ..top_k };
        assert!(sampler(penalty, 0).needs_full_logits(64));
    }

    #[test]
    fn stronger_options_win() {
        let file = SamplerOptions { do_sample: Some(false), top_k: Some(20), ..SamplerOptions::default() };
        let flags = SamplerOptions { top_k: Some(5), ..sampling(0.5) };
        let settings = flags.or(file).settings().unwrap();
        assert_eq!((settings.temperature, settings.top_k), (0.5, 5));
        assert!(SamplerOptions::default().or(file).settings().unwrap().is_greedy());
        let sample = SamplerOptions { do_sample: Some(true), ..SamplerOptions::default() };
        assert_eq!(sample.settings().unwrap().temperature, 1.0);
        assert!(sampling(0.0).or(sample).settings().unwrap().is_greedy());
    }

    #[test]
    fn options_out_of_range_are_named() {
        let error = sampling(-1.0).settings().unwrap_err().to_string();
        assert!(error.contains("temperature") && error.contains("-1"), "{error}");
        for options in [
            sampling(f32::NAN),
            SamplerOptions { top_p: Some(1.5), ..SamplerOptions::default() },
            SamplerOptions { min_p: Some(-0.1), ..SamplerOptions::default() },
            SamplerOptions { repetition_penalty: Some(0.0), ..SamplerOptions::default() },
            SamplerOptions { repetition_penalty: Some(1e-30), ..SamplerOptions::default() },
            SamplerOptions { presence_penalty: Some(f32::INFINITY), ..SamplerOptions::default() },
            SamplerOptions { frequency_penalty: Some(-3e38), ..SamplerOptions::default() },
        ] {
            assert!(Sampler::new(options, 0).is_err());
        }
    }

    proptest! {
        /// The list that a GPU returns gives the same token as all logits, ties and masked tokens included.
        #[test]
        fn candidates_are_as_good_as_all_logits(
            // few distinct values, so that ties are common
            logits in prop::collection::vec(prop_oneof![9 => (-8i8..8).prop_map(|v| f32::from(v) / 2.0), 1 => Just(f32::NEG_INFINITY)], 1..80),
            candidates in 1usize..24,
            top_k in 0u32..24,
            temperature in prop_oneof![Just(0.0f32), 0.05f32..3.0],
            top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0],
            min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
            seed: u64,
        ) {
            let options = SamplerOptions {
                temperature: Some(temperature), top_k: Some(top_k), top_p: Some(top_p), min_p: Some(min_p),
                ..SamplerOptions::default()
            };
            let mut full = sampler(options, seed);
            prop_assume!(!full.needs_full_logits(candidates));
            let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            sorted.sort_by(by_likelihood);
            sorted.truncate(candidates);
            prop_assume!(!full.needs_full_logits(sorted.len()));
            let mut short = full.clone();
            for _ in 0..4 {
                prop_assert_eq!(full.sample(&mut logits.clone(), &[]).ok(), short.sample_from(&sorted).ok());
            }
        }
    }
}
