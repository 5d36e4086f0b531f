//! Cutting large pictures into overlapping tiles and putting the results together.
//!
//! Along each axis tiles start every `tile − overlap` pixels and the last one ends with the
//! picture, so all have the same extent (spec restore.md §11). Two ways to join them:
//!
//! - *exact*: each tile writes only its core; the cores partition the picture, and a pixel lies
//!   at least `overlap / 2` away from every cut edge of the tile that writes it. With a receptive
//!   field of at most that radius the result equals the untiled one.
//! - *blend*: tiles fade into each other linearly over their overlap; the weights sum to 1.

use std::ops::Range;

use super::pixels::FloatImage;
use crate::{Error, Result};

/// One tile along one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What the tile sees.
    pub input: Range<usize>,
    /// What it alone writes in exact mode; the cores of an axis partition it.
    pub core: Range<usize>,
}

impl Span {
    /// The same span on a grid `scale` times as fine.
    pub fn scaled(&self, scale: usize) -> Span {
        let times = |r: &Range<usize>| r.start * scale..r.end * scale;
        Span { input: times(&self.input), core: times(&self.core) }
    }
}

/// Splits an axis of `length` into tiles of `tile` that overlap by at least `overlap`; one tile
/// of the whole length if it fits.
///
/// # Errors
/// `Error::Usage` unless `overlap < tile` and `length > 0`.
pub fn spans(length: usize, tile: usize, overlap: usize) -> Result<Vec<Span>> {
    if overlap >= tile {
        return Err(Error::Usage(format!(
            "the tile overlap ({overlap}) must be smaller than the tile ({tile})"
        )));
    }
    if length == 0 {
        return Err(Error::Usage("a picture has at least one pixel a side".into()));
    }
    let tile = tile.min(length);
    // A single tile may be shorter than the overlap; it never steps.
    let step = tile.saturating_sub(overlap);
    let count = if length > tile { (length - tile).div_ceil(step) + 1 } else { 1 };
    let start = |k: usize| (k * step).min(length - tile);
    // Halfway through the overlap with the next tile, so that both have the same halo there.
    let border = |k: usize| (start(k + 1) + start(k) + tile) / 2;
    Ok((0..count)
        .map(|k| {
            let from = if k == 0 { 0 } else { border(k - 1) };
            let to = if k + 1 == count { length } else { border(k) };
            Span { input: start(k)..start(k) + tile, core: from..to }
        })
        .collect())
}

/// Blend weights of each span, over its input range: linear ramps where spans overlap,
/// normalised so that at every position they sum to 1. For output pixels pass scaled spans.
pub fn blend_weights(spans: &[Span]) -> Vec<Vec<f32>> {
    let ramp = |k: usize, at: usize| -> f64 {
        let own = &spans[k].input;
        let mut w = 1.0f64;
        if k > 0 {
            let shared = spans[k - 1].input.end.saturating_sub(own.start);
            w = w.min(((at - own.start) as f64 + 0.5) / shared.max(1) as f64);
        }
        if let Some(next) = spans.get(k + 1) {
            let shared = own.end.saturating_sub(next.input.start);
            w = w.min(((own.end - at) as f64 - 0.5) / shared.max(1) as f64);
        }
        w
    };
    let length = spans.last().map_or(0, |s| s.input.end);
    let mut sums = vec![0.0; length];
    for (k, span) in spans.iter().enumerate() {
        for at in span.input.clone() {
            sums[at] += ramp(k, at);
        }
    }
    (0..spans.len())
        .map(|k| spans[k].input.clone().map(|at| (ramp(k, at) / sums[at]) as f32).collect())
        .collect()
}

/// How tiles are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Each tile writes its core only.
    Exact,
    /// Linear cross-fade over the overlaps.
    Blend,
}

/// One tile: its row span and its column span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows.
    pub y: Span,
    /// Columns.
    pub x: Span,
}

/// The tiles of a picture and the picture they become.
///
/// `for i in 0..canvas.len() { let part = model(canvas.crop(&input, i)); canvas.place(i, &part)?; }`
#[derive(Clone, Debug)]
pub struct Canvas {
    rows: Vec<Span>,
    columns: Vec<Span>,
    row_weights: Vec<Vec<f32>>,
    column_weights: Vec<Vec<f32>>,
    join: Join,
    scale: usize,
    output: FloatImage,
}

impl Canvas {
    /// Plans tiles of `tile`×`tile` input pixels (less where the picture is smaller) for an
    /// input of `height`×`width`, and an output `scale` times as large with `channels` samples.
    ///
    /// For models that need sizes of a multiple of m, pad the picture to one first
    /// ([`pad_reflect`]) and choose `tile` and `overlap` as multiples: every tile then starts at one.
    ///
    /// # Errors
    /// `Error::Usage` as for [`spans`].
    pub fn new(
        (height, width): (usize, usize),
        tile: usize,
        overlap: usize,
        scale: usize,
        channels: usize,
        join: Join,
    ) -> Result<Self> {
        let (rows, columns) = (spans(height, tile, overlap)?, spans(width, tile, overlap)?);
        let weights = |spans: &[Span]| match join {
            Join::Exact => Vec::new(),
            Join::Blend => blend_weights(&spans.iter().map(|s| s.scaled(scale)).collect::<Vec<_>>()),
        };
        Ok(Canvas {
            row_weights: weights(&rows),
            column_weights: weights(&columns),
            rows,
            columns,
            join,
            scale,
            output: FloatImage::zeros(height * scale, width * scale, channels),
        })
    }

    /// Number of tiles, at least 1.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Height and width that every tile has, in input pixels.
    pub fn tile_size(&self) -> (usize, usize) {
        (self.rows[0].input.len(), self.columns[0].input.len())
    }

    /// Tile `index`, row by row.
    ///
    /// # Panics
    /// If `index` is not below [`Canvas::len`].
    pub fn tile(&self, index: usize) -> Tile {
        let n = self.columns.len();
        Tile { y: self.rows[index / n].clone(), x: self.columns[index % n].clone() }
    }

    /// What tile `index` sees of `image`.
    ///
    /// # Panics
    /// If `image` is smaller than the planned input.
    pub fn crop(&self, image: &FloatImage, index: usize) -> FloatImage {
        let tile = self.tile(index);
        crop(image, tile.y.input, tile.x.input)
    }

    /// Joins the result of tile `index` (its input window times `scale`) into the output. Every
    /// tile is to be placed once, in any order.
    ///
    /// # Errors
    /// `Error::Run` if the result has another size.
    pub fn place(&mut self, index: usize, result: &FloatImage) -> Result<()> {
        let tile = self.tile(index);
        let (y, x) = (tile.y.scaled(self.scale), tile.x.scaled(self.scale));
        let c = self.output.channels;
        let expected = (y.input.len(), x.input.len(), c);
        let found = (result.height, result.width, result.channels);
        if found != expected {
            return Err(Error::Run(format!(
                "tile {index}: expected a result of {expected:?}, found {found:?}"
            )));
        }
        match self.join {
            Join::Exact => {
                let columns = (x.core.start - x.input.start) * c..(x.core.end - x.input.start) * c;
                for at in y.core.clone() {
                    let row = &result.row(at - y.input.start)[columns.clone()];
                    self.output.row_mut(at)[x.core.start * c..x.core.end * c].copy_from_slice(row);
                }
            }
            Join::Blend => {
                let n = self.columns.len();
                let (wy, wx) = (&self.row_weights[index / n], &self.column_weights[index % n]);
                for (i, &wy) in wy.iter().enumerate() {
                    let out = &mut self.output.row_mut(y.input.start + i)[x.input.start * c..x.input.end * c];
                    for ((o, p), &wx) in out.chunks_exact_mut(c).zip(result.row(i).chunks_exact(c)).zip(wx) {
                        for (o, &p) in o.iter_mut().zip(p) {
                            *o += wy * wx * p;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The joined picture, `height · scale` × `width · scale`.
    pub fn into_output(self) -> FloatImage {
        self.output
    }
}

/// A window of a picture.
///
/// # Panics
/// If the window reaches outside.
pub fn crop(image: &FloatImage, rows: Range<usize>, columns: Range<usize>) -> FloatImage {
    let c = image.channels;
    let (height, width) = (rows.len(), columns.len());
    let mut data = Vec::with_capacity(height * width * c);
    for y in rows {
        data.extend_from_slice(&image.row(y)[columns.start * c..columns.end * c]);
    }
    FloatImage::new(height, width, c, data)
}

/// Mirrors index `i` into `0..n` without repeating the border (`reflect` padding), as often as
/// it takes; a single pixel repeats.
fn reflect(i: usize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let i = i % (2 * n - 2);
    i.min(2 * n - 2 - i)
}

/// Extends a picture at the bottom and right to multiples of `multiple` by reflection, also
/// where it is smaller than the padding. Undo with [`crop`] on the (scaled) original size.
///
/// # Panics
/// If `multiple` is 0 or the picture is empty.
pub fn pad_reflect(image: &FloatImage, multiple: usize) -> FloatImage {
    let c = image.channels;
    let (height, width) = (image.height.next_multiple_of(multiple), image.width.next_multiple_of(multiple));
    let mut data = Vec::with_capacity(height * width * c);
    for y in 0..height {
        let row = image.row(reflect(y, image.height));
        data.extend_from_slice(row);
        for x in image.width..width {
            let at = reflect(x, image.width) * c;
            data.extend_from_slice(&row[at..at + c]);
        }
    }
    FloatImage::new(height, width, c, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_are_those_of_the_spec() {
        let starts = |l| spans(l, 128, 32).unwrap().iter().map(|s| s.input.start).collect::<Vec<_>>();
        assert_eq!(starts(1088 / 8), [0, 8]);
        assert_eq!(starts(2048 / 8), [0, 96, 128]);
        assert_eq!(starts(4096 / 8).len(), 5);
        assert_eq!(starts(100), [0]);
        assert!(matches!(spans(10, 4, 4), Err(Error::Usage(_))));
    }

    /// A box filter of the given radius, reflecting nothing: edges see fewer pixels.
    fn blur(image: &FloatImage, radius: usize) -> FloatImage {
        let mut out = FloatImage::zeros(image.height, image.width, image.channels);
        for y in 0..image.height {
            for x in 0..image.width * image.channels {
                let rows = y.saturating_sub(radius)..(y + radius + 1).min(image.height);
                let n = rows.len() as f32;
                out.row_mut(y)[x] = rows.map(|y| image.row(y)[x]).sum::<f32>() / n;
            }
        }
        out
    }

    proptest! {
        #[test]
        fn cores_partition_and_halos_are_half_the_overlap(length in 1usize..600, tile in 1usize..150, overlap in 0usize..150) {
            prop_assume!(overlap < tile);
            let spans = spans(length, tile, overlap).unwrap();
            let mut at = 0;
            for s in &spans {
                prop_assert_eq!(s.input.len(), tile.min(length));
                prop_assert_eq!(s.core.start, at);
                prop_assert!(s.core.end > s.core.start && s.input.start <= s.core.start && s.core.end <= s.input.end);
                prop_assert!(s.input.start == 0 || s.core.start - s.input.start >= overlap / 2);
                prop_assert!(s.input.end == length || s.input.end - s.core.end >= overlap / 2);
                at = s.core.end;
            }
            prop_assert_eq!(at, length);
        }

        #[test]
        fn blend_weights_sum_to_one(length in 1usize..400, tile in 1usize..100, overlap in 0usize..100, scale in 1usize..5) {
            prop_assume!(overlap < tile);
            let spans: Vec<_> = spans(length, tile, overlap).unwrap().iter().map(|s| s.scaled(scale)).collect();
            let mut sums = vec![0.0f64; length * scale];
            for (s, w) in spans.iter().zip(blend_weights(&spans)) {
                for (at, w) in s.input.clone().zip(w) {
                    prop_assert!(w > 0.0 && w <= 1.0);
                    sums[at] += f64::from(w);
                }
            }
            prop_assert!(sums.iter().all(|s| (s - 1.0).abs() <= 1e-6), "{:?}", sums);
        }

        #[test]
        fn tiled_equals_whole(h in 1usize..40, w in 1usize..40, tile in 5usize..20, radius in 0usize..2, scale in 1usize..3) {
            let image = FloatImage::new(h, w, 2, (0..h * w * 2).map(|i| ((i * 7919) % 101) as f32).collect());
            let enlarge = |x: &FloatImage| {
                let x = blur(x, radius);
                let at = |i: usize| {
                    let (p, c) = (i / 2, i % 2);
                    x.row(p / (x.width * scale) / scale)[p % (x.width * scale) / scale * 2 + c]
                };
                FloatImage::new(x.height * scale, x.width * scale, 2, (0..x.data.len() * scale * scale).map(at).collect())
            };
            let whole = enlarge(&image);
            let mut canvas = Canvas::new((h, w), tile, 2 * radius, scale, 2, Join::Exact).unwrap();
            for i in (0..canvas.len()).rev() {
                let part = enlarge(&canvas.crop(&image, i));
                canvas.place(i, &part).unwrap();
            }
            prop_assert_eq!(canvas.into_output(), whole.clone());

            // A pointwise model must survive blending as well.
            let mut canvas = Canvas::new((h, w), tile, 3, 1, 2, Join::Blend).unwrap();
            for i in 0..canvas.len() {
                let part = canvas.crop(&image, i);
                canvas.place(i, &part).unwrap();
            }
            for (a, b) in canvas.into_output().data.iter().zip(&image.data) {
                prop_assert!((a - b).abs() <= 1e-4, "{} against {}", a, b);
            }
        }

        #[test]
        fn padding_keeps_the_picture_and_mirrors_it(h in 1usize..20, w in 1usize..20, m in 1usize..33) {
            let image = FloatImage::new(h, w, 1, (0..h * w).map(|i| i as f32).collect());
            let padded = pad_reflect(&image, m);
            prop_assert!(padded.height.is_multiple_of(m) && padded.width.is_multiple_of(m));
            prop_assert_eq!(crop(&padded, 0..h, 0..w), image.clone());
            if w > 1 && padded.width > w {
                prop_assert_eq!(padded.row(0)[w], image.row(0)[w - 2]);
            }
        }
    }

    #[test]
    fn a_result_of_the_wrong_size_is_refused() {
        let mut canvas = Canvas::new((8, 8), 8, 0, 2, 3, Join::Exact).unwrap();
        let e = canvas.place(0, &FloatImage::zeros(8, 8, 3)).unwrap_err().to_string();
        assert!(e.contains("(16, 16, 3)") && e.contains("(8, 8, 3)"), "{e}");
    }
}
