//! Keys and values where the inner loops want them: rows of one head one after the other.
//!
//! In a fused qkv tensor the rows of one head lie a whole token apart, each on a page of its own.
//! Where several tasks read the same head, all heads are therefore copied once beforehand; where
//! only one does, it copies tile by tile.

use rayon::prelude::*;

use super::Extents;
use super::strip::Heads;
use crate::device::cpu::share::Disjoint;
use crate::device::cpu::tile::pitch;

/// Keys of one tile: scores of a strip (12 KiB) and a few rows of K stay in L1.
pub(super) const KEYS: usize = 64;

/// Where tiles of keys and values come from.
pub(super) struct Source<'a> {
    k: Heads<'a>,
    v: Heads<'a>,
    e: Extents,
    /// `[kv batch, heads, 2, keys, pitch]`, or nothing if tiles are copied when they are asked for.
    packed: Option<&'a [f32]>,
}

/// Floats that packing takes, if each head is read by `readers` tasks.
pub(super) fn packed_size(e: Extents, readers: usize) -> usize {
    if readers > 1 { 2 * e.kv_batch * e.heads * e.keys * pitch(e.depth) } else { 0 }
}

/// Floats that a worker needs to hold a tile of keys and one of values.
pub(super) fn tile_size(e: Extents, readers: usize) -> usize {
    if readers > 1 { 0 } else { 2 * KEYS * pitch(e.depth) }
}

impl<'a> Source<'a> {
    /// Packs into `memory` of [`packed_size`] floats, unless that is none.
    pub(super) fn new(k: Heads<'a>, v: Heads<'a>, e: Extents, memory: &'a mut [f32]) -> Self {
        if memory.is_empty() {
            return Source { k, v, e, packed: None };
        }
        let p = pitch(e.depth);
        let blocks = e.keys.div_ceil(KEYS);
        let all = Disjoint::new(memory);
        // A task goes through whole tokens, so that it reads memory in its order.
        (0..e.kv_batch * blocks).into_par_iter().for_each(|task| {
            let (b, first) = (task / blocks, task % blocks * KEYS);
            for i in first..e.keys.min(first + KEYS) {
                for h in 0..e.heads {
                    for (which, x) in [&k, &v].into_iter().enumerate() {
                        let row = (((b * e.heads + h) * 2 + which) * e.keys + i) * p;
                        // SAFETY: one row of one head, which only this task writes.
                        unsafe { all.part(row, e.depth) }.copy_from_slice(x.row(b, i, h));
                    }
                }
            }
        });
        let packed: Option<&[f32]> = Some(all.into_slice());
        Source { k, v, e, packed }
    }

    /// `count` keys from `first` and their values, rows [`pitch`] apart; `memory` holds them if
    /// they are not packed.
    pub(super) fn tiles<'t>(
        &'t self,
        (b, h): (usize, usize),
        first: usize,
        count: usize,
        memory: &'t mut [f32],
    ) -> (&'t [f32], &'t [f32]) {
        let p = pitch(self.e.depth);
        if let Some(packed) = self.packed {
            let head = (b * self.e.heads + h) * 2 * self.e.keys;
            let at = |which: usize| (head + which * self.e.keys + first) * p;
            return (&packed[at(0)..at(0) + count * p], &packed[at(1)..at(1) + count * p]);
        }
        let (k_tile, v_tile) = memory.split_at_mut(KEYS * p);
        for (x, tile) in [(&self.k, &mut *k_tile), (&self.v, &mut *v_tile)] {
            for (i, to) in tile.chunks_exact_mut(p).take(count).enumerate() {
                to[..self.e.depth].copy_from_slice(x.row(b, first + i, h));
            }
        }
        (k_tile, v_tile)
    }
}
