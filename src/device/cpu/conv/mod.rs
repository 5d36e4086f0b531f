//! Convolutions on the processor, channels last: input `[batch, height, width, channels]`.
//!
//! A task computes a rectangle of output pixels. It first gathers the input pixels that the
//! rectangle sees into a padded strip: zero padding, concatenation of several inputs along the
//! channels, nearest-neighbour upsampling and the zeros of a transposed convolution all happen in
//! this copy and never in memory. The strip stays in the second-level cache while the GEMM tile
//! routine walks it once a panel of output channels, one segment for each kernel row, without an
//! im2col.

mod depthwise;
mod gradient;
mod strip;

pub use gradient::{ConvShape, conv2d_grad_input, conv2d_grad_weight};
pub use strip::{Input, Sampling};

use strip::{Strip, StripShape};

use super::gemm::{
    Epilogue, Finish, Kernels, MAX_ROWS, MAX_WIDTH, MatrixA, PackedB, Place, TileArgs, Values, extent,
    finish_tile, for_each_task, gemm_packed,
};
use super::scratch::{Scratch, Shared};
use super::simd::Level;

/// Values of k between two visits to a tile, so that a panel's part fits the second-level cache.
const K_BLOCK: usize = 2048;

/// Values of input that a task gathers at most: 384 KiB of a second-level cache of 1 MiB. Smaller
/// strips gather more of their border twice and pass over the weights more often (with 256 KiB, 512
/// channels at 128×128 took a tenth longer).
const STRIP: usize = 3 << 15;

/// Geometry of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Output steps, vertically and horizontally.
    pub stride: [usize; 2],
    /// Distance between kernel taps.
    pub dilation: [usize; 2],
    /// Zeros added at the top, bottom, left and right; negative values cut rows or columns off.
    pub padding: [isize; 4],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl Geometry {
    /// A square kernel of odd size with stride 1 that keeps height and width.
    pub fn same(kernel: usize) -> Geometry {
        let p = (kernel / 2) as isize;
        Geometry { kernel: [kernel; 2], stride: [1; 2], dilation: [1; 2], padding: [p; 4], groups: 1 }
    }

    /// Input rows and columns that one output pixel sees.
    fn reach(&self) -> [usize; 2] {
        [0, 1].map(|i| (self.kernel[i] - 1) * self.dilation[i] + 1)
    }

    /// Output height and width for an input of `height` × `width` (as seen after resampling);
    /// 0 where the kernel does not fit.
    pub fn output(&self, size: [usize; 2]) -> [usize; 2] {
        let reach = self.reach();
        [0, 1].map(|i| {
            let padded = size[i] as isize + self.padding[2 * i] + self.padding[2 * i + 1];
            if padded < reach[i] as isize { 0 } else { (padded as usize - reach[i]) / self.stride[i] + 1 }
        })
    }
}

/// Weights rearranged for [`conv2d`]; they can be kept from call to call.
pub struct ConvWeights {
    kind: Kind,
    geometry: Geometry,
    /// Of the whole convolution.
    in_channels: usize,
    out_channels: usize,
    level: Level,
}

enum Kind {
    /// One matrix of kernel-rows·kernel-columns·channels × output channels for each group.
    Panels(Vec<PackedB>),
    /// One input and one output channel a group: `[tap][channel]`.
    Depthwise(Scratch),
}

impl ConvWeights {
    /// Rearranges `[out_channels, in_channels / groups, rows, columns]`.
    ///
    /// # Panics
    /// If the channels are not divisible by the groups or there are too few values.
    pub fn new(
        level: Level,
        geometry: Geometry,
        in_channels: usize,
        out_channels: usize,
        weights: Values,
    ) -> ConvWeights {
        let [kh, kw] = geometry.kernel;
        let (cin, taps) = (in_channels / geometry.groups, kh * kw);
        assert!(weights.len() >= out_channels * cin * taps, "too few weights");
        Self::from_columns(level, geometry, in_channels, out_channels, |o, column| {
            let mut filter = Scratch::new(cin * taps);
            weights.read(o * cin * taps, &mut filter);
            for (t, channels) in column.chunks_exact_mut(cin).enumerate() {
                for (c, w) in channels.iter_mut().enumerate() {
                    *w = filter[c * taps + t];
                }
            }
        })
    }

    /// `fill(o, column)` writes output channel o's weights as `[tap][input channel of its group]`.
    fn from_columns(
        level: Level,
        geometry: Geometry,
        in_channels: usize,
        out_channels: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> ConvWeights {
        let groups = geometry.groups;
        assert!(
            in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups),
            "channels not divisible by groups"
        );
        let (cin, cout) = (in_channels / groups, out_channels / groups);
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let kind = if groups > 1 && cin == 1 && cout == 1 {
            let mut values = Scratch::new(taps * groups);
            let mut column = vec![0.0; taps];
            for c in 0..groups {
                fill(c, &mut column);
                column.iter().enumerate().for_each(|(t, &w)| values[t * groups + c] = w);
            }
            Kind::Depthwise(values)
        } else {
            let group =
                |g| PackedB::from_columns(level, taps * cin, cout, |o, column| fill(g * cout + o, column));
            Kind::Panels((0..groups).map(group).collect())
        };
        ConvWeights { kind, geometry, in_channels, out_channels, level }
    }
}

/// `out = epilogue(convolution)`: `out` is `[batch, output height, output width, out channels]`,
/// its pixels `ldo` values apart (the residual's row is a pixel too). The inputs are concatenated
/// along the channels.
///
/// # Panics
/// If the inputs' channels do not add up to the weights', or a slice is too short.
pub fn conv2d(
    batch: usize,
    inputs: &[Input],
    weights: &ConvWeights,
    out: &mut [f32],
    ldo: usize,
    epilogue: &Epilogue,
) {
    let geometry = weights.geometry;
    let channels: usize = inputs.iter().map(|i| i.channels).sum();
    assert_eq!(channels, weights.in_channels, "input channels");
    let size = inputs[0].seen();
    for input in inputs {
        input.check(batch, size);
    }
    let [height, width] = geometry.output(size);
    let (pixels, n) = (batch * height * width, weights.out_channels);
    if pixels == 0 || n == 0 {
        return;
    }
    assert!(ldo >= n && out.len() >= extent(pixels, n, ldo), "output too short");

    if let (Kind::Panels(groups), [input]) = (&weights.kind, inputs)
        && geometry == (Geometry { groups: 1, ..Geometry::same(1) })
        && input.sampling == Sampling::Direct
    {
        let a = MatrixA { values: input.values, stride: input.stride, transposed: false };
        return gemm_packed(pixels, a, &groups[0], out, ldo, epilogue);
    }

    let finish = epilogue.resolve(pixels, n, out.as_ptr(), ldo);
    let work = pixels * n * (channels / geometry.groups) * geometry.kernel[0] * geometry.kernel[1];
    let parallel = work > 1 << 16;
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let [rows, columns] = rectangle(&geometry, [height, width], [channels, n], batch, threads);
    let (down, across) = (height.div_ceil(rows), width.div_ceil(columns));
    let shared = Shared::new(out);
    for_each_task(batch * down * across, parallel, |task| {
        let (y, x) = (task / across % down * rows, task % across * columns);
        let (rows, columns) = (rows.min(height - y), columns.min(width - x));
        let image = task / (across * down);
        let strip = Strip::gather(
            inputs,
            image,
            StripShape {
                top: (y * geometry.stride[0]) as isize - geometry.padding[0],
                left: (x * geometry.stride[1]) as isize - geometry.padding[2],
                rows: (rows - 1) * geometry.stride[0] + geometry.reach()[0],
                columns: (columns - 1) * geometry.stride[1] + geometry.reach()[1],
            },
        );
        let target = Target { first: (image * height + y) * width + x, line: width, rows, columns };
        let output = Output { out: shared, ldo, finish, level: weights.level };
        // SAFETY: the output was checked above; each task writes the pixels of its own rectangle.
        unsafe {
            match &weights.kind {
                Kind::Panels(groups) => panels(&strip, &geometry, groups, target, output),
                Kind::Depthwise(values) => depthwise::rectangle(&strip, &geometry, values, target, output),
            }
        }
    });
}

/// The rectangle of output pixels that a task computes.
#[derive(Clone, Copy)]
struct Target {
    /// Index of the first pixel in the whole output.
    first: usize,
    /// Pixels between one row and the next.
    line: usize,
    rows: usize,
    columns: usize,
}

/// Where and how results are written.
#[derive(Clone, Copy)]
struct Output<'a> {
    out: Shared<f32>,
    ldo: usize,
    finish: Finish<'a>,
    level: Level,
}

impl Output<'_> {
    /// Finishes a tile of `rows` consecutive pixels from `pixel` on.
    ///
    /// # Safety
    /// The output and the residual hold these pixels, which no one else writes.
    #[inline]
    unsafe fn write(
        &self,
        tile: &mut [f32],
        width: usize,
        pixel: usize,
        rows: usize,
        column: usize,
        columns: usize,
    ) {
        let place = Place {
            // SAFETY: the caller vouches for the pixels.
            out: unsafe { self.out.get().add(pixel * self.ldo + column) },
            ldo: self.ldo,
            residual_offset: self.finish.residual.map_or(0, |(_, stride)| pixel * stride + column),
            row: pixel,
            rows,
            column,
            columns,
        };
        finish_tile(self.level, tile, width, place, self.finish);
    }
}

/// Output rows and columns of a task: a strip that fits the cache, near-square so that little is
/// gathered twice, and several tasks for every thread.
fn rectangle(
    g: &Geometry,
    [height, width]: [usize; 2],
    [channels, out_channels]: [usize; 2],
    batch: usize,
    threads: usize,
) -> [usize; 2] {
    let reach = g.reach();
    // The results, too, should stay in the cache between one panel and the next.
    let pixels = (STRIP / channels.max(1)).min(2 * STRIP / out_channels).max(64);
    let seen = |n: usize, i: usize| (n - 1) * g.stride[i] + reach[i];
    // Whole tiles of pixels, as many as make a rectangle half again as wide as high.
    let side = ((pixels as f64 * 1.5).sqrt() as usize / g.stride[1]).max(MAX_ROWS);
    let columns = width.div_ceil(width.div_ceil(side)).next_multiple_of(MAX_ROWS).min(width);
    let lines = (pixels / seen(columns, 1)).saturating_sub(reach[0] - 1) / g.stride[0];
    let wanted = (batch * height * width.div_ceil(columns)).div_ceil(4 * threads);
    [lines.clamp(1, height).min(wanted.max(2)), columns]
}

/// All output channels of one rectangle.
///
/// # Safety
/// As [`Output::write`], for the whole rectangle.
unsafe fn panels(strip: &Strip, g: &Geometry, groups: &[PackedB], target: Target, output: Output) {
    let kernels = Kernels::of(output.level);
    let channels = strip.channels;
    let cin = channels / groups.len();
    // Taps that lie side by side in the strip are one segment.
    let joined = groups.len() == 1 && g.dilation[1] == 1;
    let segment = if joined { g.kernel[1] * cin } else { cin };
    let offsets: Vec<usize> = (0..g.kernel[0])
        .flat_map(|ky| (0..if joined { 1 } else { g.kernel[1] }).map(move |kx| (ky, kx)))
        .map(|(ky, kx)| (ky * g.dilation[0] * strip.columns + kx * g.dilation[1]) * channels)
        .collect();
    let at_once = (K_BLOCK / segment.max(1)).clamp(1, offsets.len());
    let column_tiles: Vec<(usize, usize)> = kernels.row_tiles(target.columns).collect();
    let waiting = if at_once < offsets.len() { target.rows * column_tiles.len() } else { 1 };
    let tile_len = MAX_ROWS * MAX_WIDTH;
    let mut tiles = Scratch::new(waiting * tile_len);
    for (group, packed) in groups.iter().enumerate() {
        for p in 0..packed.panels() {
            for (block, some) in offsets.chunks(at_once).enumerate() {
                let k = block * at_once * segment;
                let panel = packed.panel(p, k);
                let last = k + some.len() * segment == packed.k();
                for y in 0..target.rows {
                    for (i, &(x, pixels)) in column_tiles.iter().enumerate() {
                        let index = if waiting > 1 { y * column_tiles.len() + i } else { 0 };
                        let tile = &mut tiles[index * tile_len..][..tile_len];
                        let first =
                            (y * g.stride[0] * strip.columns + x * g.stride[1]) * channels + group * cin;
                        // SAFETY: the strip was gathered to hold all taps of these pixels.
                        unsafe {
                            kernels.tile(pixels, panel.width)(TileArgs {
                                a: strip.values[first..].as_ptr(),
                                lda: g.stride[1] * channels,
                                offsets: some,
                                k: segment,
                                b: panel.b,
                                ldb: panel.width,
                                tile: tile.as_mut_ptr(),
                                accumulate: block > 0,
                            });
                            if last {
                                let pixel = target.first + y * target.line + x;
                                let column = group * packed.n() + panel.column;
                                output.write(tile, panel.width, pixel, pixels, column, panel.columns);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
