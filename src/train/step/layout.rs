//! Where the gradients of all trained parameters lie: a few long buffers, filled one after the other by the
//! backward pass, so that sums over processes can start while it goes on.

use std::ops::Range;

use crate::graph::Plan;
use crate::graph::plan::Place;

/// Bytes of a buffer: enough that starting a sum costs little beside the sum, and few enough that the last one,
/// which nothing hides, is short. As in PyTorch's DistributedDataParallel.
pub(super) const BUCKET_BYTES: usize = 25 << 20;
/// Tensors start at multiples of so many numbers (256 bytes), as kernels like them.
const ALIGN: usize = 64;
/// In front of a parameter's key in the name of its gradient.
pub(super) const GRADIENT: &str = "grad.";
/// In front of a parameter's key in the name of what a batch makes of it (see `Objective::record`).
pub(super) const NEXT: &str = "next.";

/// One trained parameter.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub key: String,
    pub shape: Vec<usize>,
    /// Which buffer, and where in it.
    pub bucket: usize,
    pub start: usize,
    pub len: usize,
}

impl Slot {
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// Keys of parameters that a plan's batches give a new value without a gradient, and their shapes.
pub(super) fn buffers(plan: &Plan) -> Vec<(String, Vec<usize>)> {
    let next =
        |(name, place): &(String, Place)| Some((name.strip_prefix(NEXT)?.to_owned(), place.ty.shape.clone()));
    plan.outputs.iter().filter_map(next).collect()
}

/// All trained parameters in the order in which their gradients come.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    pub slots: Vec<Slot>,
    /// Numbers of each buffer.
    pub buckets: Vec<usize>,
    /// The most numbers of a buffer that holds several tensors.
    most: usize,
}

impl Layout {
    /// The order of a plan's early outputs, in buffers of about so many bytes.
    pub fn of(plan: &Plan, bucket_bytes: usize) -> Self {
        let mut layout = Layout { most: bucket_bytes / size_of::<f32>(), ..Layout::default() };
        for early in &plan.early {
            let key = early.name.strip_prefix(GRADIENT).expect("only gradients are early outputs").to_owned();
            layout.push(key, early.place.ty.shape.clone());
        }
        layout
    }

    fn push(&mut self, key: String, shape: Vec<usize>) {
        let len: usize = shape.iter().product();
        match self.buckets.last() {
            Some(n) if n + len <= self.most => {}
            _ => self.buckets.push(0),
        }
        let bucket = self.buckets.len() - 1;
        let start = self.buckets[bucket];
        self.buckets[bucket] = (start + len).next_multiple_of(ALIGN);
        self.slots.push(Slot { key, shape, bucket, start, len });
    }

    /// Whether tensor number `k` is the last of its buffer to come.
    pub fn completes(&self, k: usize) -> bool {
        self.slots.get(k + 1).is_none_or(|next| next.bucket != self.slots[k].bucket)
    }

    /// Zeros in this layout.
    pub fn zeros(&self) -> Vec<Vec<f32>> {
        self.buckets.iter().map(|&n| vec![0.0; n]).collect()
    }

    /// Where each tensor starts if the buffers lie one behind the other.
    pub fn starts(&self) -> Vec<usize> {
        let before = self.buckets.iter().scan(0, |sum, n| Some(std::mem::replace(sum, *sum + n)));
        let before: Vec<usize> = before.collect();
        self.slots.iter().map(|slot| before[slot.bucket] + slot.start).collect()
    }

    /// Each tensor's numbers.
    pub fn cut<'a>(&self, buckets: &'a [Vec<f32>]) -> Vec<&'a [f32]> {
        self.slots.iter().map(|slot| &buckets[slot.bucket][slot.range()]).collect()
    }

    /// Each tensor's numbers, to be changed.
    pub fn cut_mut<'a>(&self, buckets: &'a mut [Vec<f32>]) -> Vec<&'a mut [f32]> {
        let mut rest: Vec<(usize, &mut [f32])> = buckets.iter_mut().map(|b| (0, b.as_mut_slice())).collect();
        let cut = |slot: &Slot| {
            let (done, tail) = std::mem::take(&mut rest[slot.bucket]);
            let (mine, tail) = tail[slot.start - done..].split_at_mut(slot.len);
            rest[slot.bucket] = (slot.start + slot.len, tail);
            mine
        };
        self.slots.iter().map(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_keep_apart_and_buffers_are_not_longer_than_they_may() {
        const BUCKET: usize = 1 << 12;
        let mut layout = Layout { most: BUCKET, ..Layout::default() };
        for (i, len) in [3, 100, BUCKET - 500, 1000, 2 * BUCKET, 5].into_iter().enumerate() {
            layout.push(i.to_string(), vec![len]);
        }
        let place: Vec<_> = layout.slots.iter().map(|s| (s.bucket, s.start)).collect();
        assert_eq!(place, [(0, 0), (0, 64), (0, 192), (1, 0), (2, 0), (3, 0)]);
        let first = (192 + BUCKET - 500).next_multiple_of(ALIGN);
        assert_eq!(layout.starts(), [0, 64, 192, first, first + 1024, first + 1024 + 2 * BUCKET]);
        let mut buckets = layout.zeros();
        for (i, part) in layout.cut_mut(&mut buckets).into_iter().enumerate() {
            assert_eq!(part.len(), layout.slots[i].len);
            part.fill(1.0 + i as f32);
        }
        for (i, part) in layout.cut(&buckets).into_iter().enumerate() {
            assert!(part.iter().all(|&x| x == 1.0 + i as f32), "tensor {i} is its own");
        }
    }
}
