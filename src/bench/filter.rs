//! Which rows of a bench to run.

use std::fmt;

use crate::error::{Error, Result};

/// A part of a row's name, or a glob over the whole name where it holds `*`, `?` or `[`.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    text: String,
    glob: Option<glob::Pattern>,
}

impl Filter {
    /// Reads a filter; the empty text selects everything.
    pub fn parse(text: &str) -> Result<Self> {
        let glob = match text.contains(['*', '?', '[']) {
            false => None,
            true => Some(
                glob::Pattern::new(text)
                    .map_err(|e| Error::Usage(format!("the filter \"{text}\" is not a pattern: {e}")))?,
            ),
        };
        Ok(Filter { text: text.to_owned(), glob })
    }

    /// Whether a row's name is selected.
    pub fn matches(&self, name: &str) -> bool {
        match &self.glob {
            Some(g) => g.matches(name),
            None => name.contains(&self.text),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_part_and_a_pattern_is_the_whole() {
        let matches = |filter: &str, name| Filter::parse(filter).unwrap().matches(name);
        assert!(matches("", "linear/odd"));
        assert!(matches("near/o", "linear/odd"));
        assert!(!matches("conv", "linear/odd"));
        assert!(matches("linear/*", "linear/odd"));
        assert!(!matches("near/*", "linear/odd"));
        assert!(matches("*_x4_*", "rrdbnet_x4_256"));
        assert!(matches("linear/[op]dd", "linear/odd"));
    }

    #[test]
    fn a_broken_pattern_is_a_usage_error() {
        assert!(matches!(Filter::parse("linear/[od"), Err(Error::Usage(m)) if m.contains("linear/[od")));
    }
}
