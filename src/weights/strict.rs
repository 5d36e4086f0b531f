//! Strict loading: every key accounted for, and one error that says everything.

use std::collections::HashSet;

use super::set::WeightSet;
use crate::{Error, Result};

/// How many keys of one kind an error shows.
const SHOWN: usize = 8;

/// The first few items, and how many more there are.
pub(super) fn list(items: &[String]) -> String {
    let mut text = items.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text += &format!(" and {} more", items.len() - SHOWN);
    }
    text
}

impl WeightSet {
    /// Checks that the set holds exactly the `expected` names and shapes.
    ///
    /// Names for which `ignore` is true may be absent or present in any shape (buffers that
    /// are recomputed, such as `attn_mask`).
    ///
    /// # Errors
    /// One [`Error::Weights`] that lists every missing, unexpected and mis-shaped key.
    pub fn check<'a>(
        &self,
        expected: impl IntoIterator<Item = (&'a str, &'a [usize])>,
        ignore: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let (mut missing, mut misshaped, mut known) = (Vec::new(), Vec::new(), HashSet::new());
        for (name, shape) in expected {
            known.insert(name);
            if ignore(name) {
                continue;
            }
            match self.shape(name) {
                None => missing.push(name.to_owned()),
                Some(found) if found != shape => {
                    let hint = if is_transposed(found, shape) { ", which looks transposed" } else { "" };
                    misshaped.push(format!("{name} (expected {shape:?}, found {found:?}{hint})"));
                }
                Some(_) => {}
            }
        }
        let unexpected: Vec<String> =
            self.names().filter(|n| !known.contains(n) && !ignore(n)).map(str::to_owned).collect();

        let parts: Vec<String> =
            [("missing", &missing), ("unexpected", &unexpected), ("of the wrong shape", &misshaped)]
                .iter()
                .filter(|(_, keys)| !keys.is_empty())
                .map(|(what, keys)| format!("{} {what}: {}", keys.len(), list(keys)))
                .collect();
        if parts.is_empty() {
            return Ok(());
        }
        Err(Error::Weights(format!(
            "{}: these weights do not fit the model ({} of {} keys match); {}",
            self.path().display(),
            known.len() - missing.len() - misshaped.len(),
            known.len(),
            parts.join("; ")
        )))
    }
}

/// Whether swapping two axes makes the shapes equal.
fn is_transposed(found: &[usize], expected: &[usize]) -> bool {
    if found.len() != expected.len() {
        return false;
    }
    let differ: Vec<usize> = (0..found.len()).filter(|&i| found[i] != expected[i]).collect();
    matches!(differ[..], [i, j] if found[i] == expected[j] && found[j] == expected[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, HostTensor};

    #[test]
    fn one_error_lists_everything() {
        let zeros = |shape: &[usize]| HostTensor::zeros(DType::F32, shape);
        let set = WeightSet::from_tensors([
            ("a".to_owned(), zeros(&[2, 3])),
            ("b".to_owned(), zeros(&[4])),
            ("extra".to_owned(), zeros(&[1])),
            ("attn_mask".to_owned(), zeros(&[9])),
        ]);
        let fits: [(&str, &[usize]); 3] = [("a", &[2, 3]), ("b", &[4]), ("extra", &[1])];
        set.check(fits, |n| n.ends_with("attn_mask")).unwrap();

        let wrong: [(&str, &[usize]); 4] = [("a", &[3, 2]), ("b", &[4]), ("c", &[1]), ("attn_mask", &[1])];
        let error = set.check(wrong, |n| n.ends_with("attn_mask")).unwrap_err().to_string();
        for part in [
            "1 missing: c",
            "1 unexpected: extra",
            "1 of the wrong shape: a (expected [3, 2], found [2, 3], which looks transposed)",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn long_lists_are_cut_with_a_count() {
        let names: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
        let expected: Vec<(&str, &[usize])> = names.iter().map(|n| (n.as_str(), &[1usize][..])).collect();
        let error = WeightSet::from_tensors([]).check(expected, |_| false).unwrap_err().to_string();
        assert!(error.contains("20 missing: k0, k1") && error.contains("k7 and 12 more"), "{error}");
    }
}
