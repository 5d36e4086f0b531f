//! Gradients of a convolution with respect to its input and its weights.

use super::{ConvWeights, Geometry, Input, Sampling, conv2d};
use crate::device::cpu::gemm::{
    ColumnArgs, Epilogue, Kernels, MAX_ROWS, MAX_WIDTH, MatrixB, PackedB, Panel, Segment, Values, extent,
    for_each_task,
};
use crate::device::cpu::scratch::{Scratch, Shared};
use crate::device::cpu::simd::Level;

/// Both ends of a convolution, for its gradients.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape {
    /// Kernel, steps, padding and groups of the forward convolution.
    pub geometry: Geometry,
    /// Images.
    pub batch: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
}

/// Writes the gradient with respect to the input, `[batch, height, width, in_channels]`, given
/// that with respect to the output: a convolution of the output's gradient, spread by the
/// stride, with the kernel turned round and its channels exchanged. `weights` are
/// `[out_channels, in_channels / groups, rows, columns]`.
///
/// # Panics
/// If a slice is too short.
pub fn conv2d_grad_input(
    level: Level,
    shape: &ConvShape,
    weights: Values,
    grad_out: &[f32],
    grad_in: &mut [f32],
) {
    let g = shape.geometry;
    let size = g.output(shape.input);
    let pixels = shape.batch * shape.input[0] * shape.input[1];
    let grad_in = &mut grad_in[..pixels * shape.in_channels];
    if size.contains(&0) || shape.out_channels == 0 {
        return grad_in.fill(0.0);
    }
    let taps = g.kernel[0] * g.kernel[1];
    let (cin, cout) = (shape.in_channels / g.groups, shape.out_channels / g.groups);
    let mut padding = [0; 4];
    for i in 0..2 {
        let reach = ((g.kernel[i] - 1) * g.dilation[i]) as isize;
        let seen = ((size[i] - 1) * g.stride[i] + 1) as isize;
        padding[2 * i] = reach - g.padding[2 * i];
        padding[2 * i + 1] = shape.input[i] as isize - seen - padding[2 * i] + reach;
    }
    let turned = Geometry { stride: [1, 1], padding, ..g };
    let packed =
        ConvWeights::from_columns(level, turned, shape.out_channels, shape.in_channels, |c, column| {
            let mut filter = vec![0.0; taps];
            for o in 0..cout {
                let start = ((c / cin * cout + o) * cin + c % cin) * taps;
                weights.read(start, &mut filter);
                for (t, w) in filter.iter().enumerate() {
                    column[(taps - 1 - t) * cout + o] = *w;
                }
            }
        });
    let sampling = if g.stride == [1, 1] { Sampling::Direct } else { Sampling::Spread(g.stride) };
    let input = Input { sampling, ..Input::dense(grad_out, size, shape.out_channels) };
    conv2d(shape.batch, &[input], &packed, grad_in, shape.in_channels, &Epilogue::default());
}

/// Output pixels between two visits to a tile.
const PIXELS: usize = 512;

/// Channels of the output up to which its gradient is read as it lies: rows further apart are a page
/// each.
const SHORT: usize = 512;

/// Writes the gradient with respect to the weights, `[out_channels, in_channels / groups, rows,
/// columns]`, from the forward input and the gradient with respect to the output.
///
/// A task owns one kernel row of a few input channels and goes through all pixels in order, so
/// no sums of different threads are ever added up.
///
/// # Panics
/// If a slice is too short.
pub fn conv2d_grad_weight(
    level: Level,
    shape: &ConvShape,
    input: &[f32],
    grad_out: &[f32],
    grad_weights: &mut [f32],
) {
    let g = shape.geometry;
    let [height, width] = g.output(shape.input);
    let (cin, cout) = (shape.in_channels / g.groups, shape.out_channels / g.groups);
    let pixels = shape.batch * height * width;
    let grad_weights = &mut grad_weights[..shape.out_channels * cin * g.kernel[0] * g.kernel[1]];
    if pixels == 0 || cout == 0 {
        return grad_weights.fill(0.0);
    }
    assert!(
        input.len() >= shape.batch * shape.input[0] * shape.input[1] * shape.in_channels,
        "input too short"
    );
    assert!(grad_out.len() >= extent(pixels, shape.out_channels, shape.out_channels), "gradient too short");
    let kernels = Kernels::of(level);
    let work = pixels * cin * cout * g.kernel[0] * g.kernel[1];
    // Two tiles of channels share what a task reads, as long as every thread has tasks enough.
    let threads = rayon::current_num_threads();
    let two = cin.div_ceil(2 * kernels.rows) * g.kernel[0] >= 4 * threads;
    let channels = if two { 2 * kernels.rows } else { kernels.rows };
    let shared = Shared::new(grad_weights);
    for group in 0..g.groups {
        let values = &grad_out[group * cout..];
        let packed;
        let gradient = if cout.is_multiple_of(kernels.width()) && shape.out_channels <= SHORT {
            Gradient::AsIs { values, channels: shape.out_channels, columns: cout }
        } else {
            let stride = shape.out_channels;
            let values = Values::F32(values);
            packed = PackedB::new(level, MatrixB { values, stride, transposed: false }, pixels, cout);
            Gradient::Packed(&packed)
        };
        for_each_task(cin.div_ceil(channels) * g.kernel[0], work > 1 << 16, |task| {
            let (first, ky) = (task / g.kernel[0] * channels, task % g.kernel[0]);
            let task = Rows { group, first, count: channels.min(cin - first), ky };
            // SAFETY: the weights of one kernel row of these channels belong to this task.
            unsafe { kernel_row(level, shape, input, gradient, task, shared) };
        });
    }
}

/// The output's gradient as a matrix of pixels by the channels of one group.
#[derive(Clone, Copy)]
enum Gradient<'a> {
    /// Where it lies: `channels` a pixel, of which `columns` (whole panels) are the group's.
    AsIs { values: &'a [f32], channels: usize, columns: usize },
    /// As panels.
    Packed(&'a PackedB),
}

impl Gradient<'_> {
    fn panels(self, kernels: &Kernels) -> usize {
        match self {
            Gradient::AsIs { columns, .. } => columns / kernels.width(),
            Gradient::Packed(b) => b.panels(),
        }
    }

    /// A panel from its first pixel on, and the distance between its pixels.
    fn panel(self, kernels: &Kernels, p: usize) -> (Panel, usize) {
        match self {
            Gradient::AsIs { values, channels, .. } => {
                let (width, column) = (kernels.width(), p * kernels.width());
                (Panel { b: values[column..].as_ptr(), column, columns: width, width }, channels)
            }
            Gradient::Packed(b) => {
                let panel = b.panel(p, 0);
                (panel, panel.width)
            }
        }
    }
}

/// The weights whose gradient a task computes: input channels `first..first + count` of a group
/// and one row of the kernel.
#[derive(Clone, Copy)]
struct Rows {
    group: usize,
    first: usize,
    count: usize,
    ky: usize,
}

/// # Safety
/// `out` holds all weights, and no one else writes those of `task`; input and gradient hold all pixels.
unsafe fn kernel_row(
    level: Level,
    shape: &ConvShape,
    input: &[f32],
    gradient: Gradient,
    task: Rows,
    out: Shared<f32>,
) {
    let g = shape.geometry;
    let kernels = Kernels::of(level);
    let [height, width] = g.output(shape.input);
    let [kh, kw] = g.kernel;
    let (cin, panels) = (shape.in_channels / g.groups, gradient.panels(kernels));
    let rows: Vec<(usize, usize)> = kernels.row_tiles(task.count).collect();
    let lines = (PIXELS / width).clamp(1, height);
    let tile_len = MAX_ROWS * MAX_WIDTH;
    let mut tiles = Scratch::new(kw * panels * rows.len() * tile_len);
    tiles.fill(0.0);
    let mut segments = Vec::with_capacity(lines);
    for image in 0..shape.batch {
        for y in (0..height).step_by(lines) {
            for kx in 0..kw {
                // The tap sees input column x · step − before; which x lie inside?
                let step = g.stride[1];
                let before = g.padding[2] - (kx * g.dilation[1]) as isize;
                let inside =
                    |column: isize| usize::try_from(before + column).unwrap_or(0).div_ceil(step).min(width);
                let (from, to) = (inside(0), inside(shape.input[1] as isize));
                segments.clear();
                for line in y..height.min(y + lines) {
                    let row = (line * g.stride[0] + task.ky * g.dilation[0]) as isize - g.padding[0];
                    let row = usize::try_from(row).ok().filter(|&row| row < shape.input[0]);
                    if let (Some(row), true) = (row, from < to) {
                        let column = ((from * step) as isize - before) as usize;
                        segments.push(Segment {
                            a: ((image * shape.input[0] + row) * shape.input[1] + column) * shape.in_channels,
                            row: (image * height + line) * width + from,
                            k: to - from,
                        });
                    }
                }
                if segments.is_empty() {
                    continue;
                }
                for p in 0..panels {
                    let (panel, ldb) = gradient.panel(kernels, p);
                    for (i, &(m, count)) in rows.iter().enumerate() {
                        let tile = &mut tiles[((kx * panels + p) * rows.len() + i) * tile_len..][..tile_len];
                        // SAFETY: each segment's pixels lie inside the image and the gradient, and all
                        // channels with them; the tile is large enough.
                        unsafe {
                            kernels.column_tile(count, panel.width)(ColumnArgs {
                                a: input.as_ptr().add(task.group * cin + task.first + m),
                                lda: step * shape.in_channels,
                                b: panel.b,
                                ldb,
                                segments: &segments,
                                tile: tile.as_mut_ptr(),
                                accumulate: true,
                            });
                        }
                    }
                }
            }
        }
    }
    let cout = shape.out_channels / g.groups;
    for (kx, p) in (0..kw).flat_map(|kx| (0..panels).map(move |p| (kx, p))) {
        let (panel, _) = gradient.panel(kernels, p);
        for (i, &(m, count)) in rows.iter().enumerate() {
            let tile = &tiles[((kx * panels + p) * rows.len() + i) * tile_len..];
            for (c, j) in (0..count).flat_map(|c| (0..panel.columns).map(move |j| (c, j))) {
                let o = task.group * cout + panel.column + j;
                let index = ((o * cin + task.first + m + c) * kh + task.ky) * kw + kx;
                // SAFETY: within the weights, and this task's alone.
                unsafe { *out.get().add(index) = tile[c * panel.width + j] };
            }
        }
    }
}
