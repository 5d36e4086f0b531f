//! Tensors that one program stores apart and another as one: rows one below the other.

use std::collections::BTreeMap;

use super::set::WeightSet;
use crate::Result;
use crate::tensor::HostTensor;

/// Which rows of a joined tensor a stored one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Counted from 0, top to bottom.
    pub place: usize,
    /// How many parts there are.
    pub of: usize,
}

impl WeightSet {
    /// The same tensors under other names. `rename` says for each its new name and, where several
    /// become one, which part it is: those are joined along the first axis (a copy). Where a part is
    /// missing or unlike the others, they stay apart under their old names, so that
    /// [`WeightSet::check`] tells what is wrong.
    ///
    /// # Errors
    /// If two tensors would get one name.
    pub fn joined(&self, rename: impl Fn(&str) -> (String, Option<Part>)) -> Result<WeightSet> {
        let mut groups: BTreeMap<String, Vec<(usize, &str)>> = BTreeMap::new();
        for name in self.names() {
            if let (whole, Some(part)) = rename(name) {
                groups.entry(whole).or_default().push((part.place, name));
            }
        }
        let mut whole_tensors: BTreeMap<String, HostTensor> = BTreeMap::new();
        for (whole, mut parts) in groups {
            parts.sort_unstable();
            let of = rename(parts[0].1).1.map_or(0, |p| p.of);
            if parts.iter().map(|p| p.0).eq(0..of)
                && let Some(tensor) = stacked(parts.iter().filter_map(|(_, name)| self.get(name)))
            {
                whole_tensors.insert(whole, tensor);
            }
        }
        let set = self.renamed(|name| match rename(name) {
            (whole, None) => Some(whole),
            // The first part stands for all.
            (whole, Some(part)) if whole_tensors.contains_key(&whole) => (part.place == 0).then_some(whole),
            _ => Some(name.to_owned()),
        })?;
        Ok(set.replaced(whole_tensors))
    }
}

/// Tensors one below the other; `None` if they differ in more than their rows.
fn stacked<'a>(parts: impl Iterator<Item = &'a HostTensor>) -> Option<HostTensor> {
    let parts: Vec<_> = parts.collect();
    let first = parts.first()?;
    let (dtype, row) = (first.dtype(), first.shape().get(1..)?);
    if parts.iter().any(|t| t.dtype() != dtype || t.shape().get(1..) != Some(row)) {
        return None;
    }
    let rows = parts.iter().map(|t| t.shape()[0]).sum();
    let shape: Vec<usize> = [rows].into_iter().chain(row.iter().copied()).collect();
    let bytes: Vec<u8> = parts.iter().flat_map(|t| t.bytes()).copied().collect();
    Some(HostTensor::copy_of(dtype, &shape, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rename(name: &str) -> (String, Option<Part>) {
        match name.split_once("to_") {
            Some((block, part @ ("q" | "k"))) => {
                let place = usize::from(part == "k");
                (format!("{block}qk"), Some(Part { place, of: 2 }))
            }
            _ => (name.replace("old", "new"), None),
        }
    }

    #[test]
    fn parts_are_stacked_in_their_places() {
        let t = |rows: usize, x: f32| HostTensor::from_f32([rows, 2], vec![x; 2 * rows]);
        let set = WeightSet::from_tensors([
            ("a.to_k".to_owned(), t(1, 2.0)),
            ("old".to_owned(), t(1, 5.0)),
            ("a.to_q".to_owned(), t(2, 1.0)),
            ("b.to_q".to_owned(), t(2, 1.0)),
        ]);
        let joined = set.joined(rename).unwrap();
        let mut names: Vec<_> = joined.names().collect();
        names.sort_unstable();
        assert_eq!(names, ["a.qk", "b.to_q", "new"]);
        assert_eq!(joined.shape("a.qk"), Some(&[3, 2][..]));
        assert_eq!(*joined.get("a.qk").unwrap().to_f32(), [1.0, 1.0, 1.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn unlike_parts_stay_apart() {
        let set = WeightSet::from_tensors([
            ("a.to_q".to_owned(), HostTensor::from_f32([1, 2], vec![0.0; 2])),
            ("a.to_k".to_owned(), HostTensor::from_f32([2, 1], vec![0.0; 2])),
        ]);
        assert_eq!(set.joined(rename).unwrap().names().collect::<Vec<_>>(), ["a.to_q", "a.to_k"]);
    }
}
