//! Offsets in one arena for buffers with known sizes and lifetimes.

/// A buffer to place: its size and the first and last step at which it must hold its contents.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Bytes.
    pub size: usize,
    /// First step (inclusive).
    pub first: usize,
    /// Last step (inclusive).
    pub last: usize,
}

/// Where each request lies, and the size of the arena.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    /// Byte offset of each request, a multiple of the alignment asked for.
    pub offsets: Vec<usize>,
    /// Arena bytes: the peak.
    pub size: usize,
}

pub use crate::device::cpu::ALIGN;

/// Places requests so that two that live at the same step never overlap: largest first, each in
/// the lowest gap that holds it (greedy by size, Pisarchyk & Lee 2020, arXiv 2001.03288).
pub fn assign(requests: &[Request], align: usize) -> Assignment {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(requests[i].size), requests[i].first, i));
    let mut placed: Vec<(usize, usize, usize)> = Vec::new(); // (offset, end, request), by offset
    let mut offsets = vec![0; requests.len()];
    let mut size = 0;
    for i in order {
        let r = requests[i];
        let bytes = r.size.next_multiple_of(align);
        let mut at = 0;
        for &(start, end, j) in &placed {
            let o = requests[j];
            if o.last < r.first || r.last < o.first {
                continue;
            }
            if start >= at + bytes {
                break; // the gap before this neighbour is wide enough
            }
            at = at.max(end);
        }
        offsets[i] = at;
        size = size.max(at + bytes);
        let k = placed.partition_point(|p| p.0 <= at);
        placed.insert(k, (at, at + bytes, i));
    }
    Assignment { offsets, size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn living_buffers_never_overlap(raw in prop::collection::vec((1usize..5000, 0usize..30, 0usize..8), 1..60)) {
            let requests: Vec<_> =
                raw.iter().map(|&(size, first, len)| Request { size, first, last: first + len }).collect();
            let a = assign(&requests, ALIGN);
            for i in 0..requests.len() {
                prop_assert_eq!(a.offsets[i] % ALIGN, 0);
                prop_assert!(a.offsets[i] + requests[i].size <= a.size);
                for j in 0..i {
                    let (p, q) = (requests[i], requests[j]);
                    let together = p.first <= q.last && q.first <= p.last;
                    let apart = a.offsets[i] + p.size <= a.offsets[j] || a.offsets[j] + q.size <= a.offsets[i];
                    prop_assert!(!together || apart);
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<_> = (0..10).map(|i| Request { size: 640, first: i, last: i + 1 }).collect();
        assert_eq!(assign(&chain, ALIGN).size, 1280);
    }
}
