//! How rotary positions are stretched when somebody asks for something else than the model's configuration says. Cards of
//! models recommend YaRN for long contexts and leave it out of `config.json`, since it costs quality on short ones.

use std::fmt;
use std::str::FromStr;

/// A longer stretch is a mistake.
pub(super) const MOST_FACTOR: f64 = 1024.0;

/// How rotary positions are stretched.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// As the model's configuration says.
    #[default]
    Auto,
    /// Not at all, though the configuration says YaRN.
    None,
    /// By YaRN, with the betas, `truncate` and mscales of the configuration where it has YaRN too.
    Yarn {
        /// How many times longer the context is than what the model was trained with.
        factor: f64,
        /// Positions that the model was trained with; `None` takes what the configuration says.
        original: Option<usize>,
    },
}

impl RopeScaling {
    /// The setting with the smallest whole factor that makes room for `context` of `trained` positions, if there is one.
    pub(crate) fn for_context(self, context: usize, trained: usize) -> Option<RopeScaling> {
        let factor = context.div_ceil(trained.max(1)) as f64;
        let original = match self {
            RopeScaling::Yarn { original, .. } => original,
            RopeScaling::Auto | RopeScaling::None => None,
        };
        (factor <= MOST_FACTOR).then_some(RopeScaling::Yarn { factor, original })
    }
}

impl FromStr for RopeScaling {
    type Err = String;

    /// `auto`, `none`, `yarn:FACTOR` or `yarn:FACTOR:TRAINED`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected auto, none, yarn:FACTOR such as yarn:4 (1 to 1024), or yarn:FACTOR:TRAINED, found '{text}'"
            )
        };
        match text {
            "auto" => return Ok(RopeScaling::Auto),
            "none" => return Ok(RopeScaling::None),
            _ => {}
        }
        let mut numbers = text.strip_prefix("yarn:").ok_or_else(wrong)?.split(':');
        let factor = numbers.next().and_then(|number| number.parse().ok());
        let factor = factor.filter(|factor| (1.0..=MOST_FACTOR).contains(factor)).ok_or_else(wrong)?;
        let original = numbers.next().map(|number| number.parse().ok().filter(|n| *n > 0).ok_or_else(wrong));
        match (original.transpose()?, numbers.next()) {
            (original, None) => Ok(RopeScaling::Yarn { factor, original }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RopeScaling::Auto => write!(f, "auto"),
            RopeScaling::None => write!(f, "none"),
            RopeScaling::Yarn { factor, original: None } => write!(f, "yarn:{factor}"),
            RopeScaling::Yarn { factor, original: Some(original) } => write!(f, "yarn:{factor}:{original}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_as_people_write_them() {
        let yarn = |factor, original| RopeScaling::Yarn { factor, original };
        for (text, setting) in [
            ("auto", RopeScaling::Auto),
            ("none", RopeScaling::None),
            ("yarn:4", yarn(4.0, None)),
            ("yarn:1.5", yarn(1.5, None)),
            ("yarn:4:32768", yarn(4.0, Some(32_768))),
        ] {
            assert_eq!(text.parse(), Ok(setting));
            assert_eq!(setting.to_string(), text);
        }
        for text in
            ["", "yarn", "yarn:", "yarn:0.5", "yarn:nan", "yarn:2000", "yarn:4:0", "yarn:4:", "yarn:4:8:9", "linear:2"]
        {
            let message = text.parse::<RopeScaling>().err().unwrap_or_default();
            assert!(message.starts_with("expected auto, none, yarn:FACTOR") && message.contains(text), "{message}");
        }
    }

    #[test]
    fn settings_that_make_room() {
        let hint = |asked: RopeScaling, context| asked.for_context(context, 32_768).map(|setting| setting.to_string());
        assert_eq!(hint(RopeScaling::Auto, 32_769).as_deref(), Some("yarn:2"));
        assert_eq!(hint(RopeScaling::None, 131_072).as_deref(), Some("yarn:4"));
        let asked = RopeScaling::Yarn { factor: 4.0, original: Some(32_768) };
        assert_eq!(hint(asked, 131_073).as_deref(), Some("yarn:5:32768"));
        assert_eq!(hint(asked, usize::MAX), None);
    }
}
