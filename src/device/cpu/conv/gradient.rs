//! Gradients of a convolution with respect to its input and its weights.

use super::{ConvWeights, Geometry, Input, Sampling, conv2d};
use crate::device::cpu::gemm::{
    Epilogue, Kernels, MAX_ROWS, MAX_WIDTH, MatrixB, PackedB, TileArgs, Values, extent, for_each_task,
};
use crate::device::cpu::scratch::{Scratch, Shared};
use crate::device::cpu::simd::{Level, simd_fn};

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
const PIXELS: usize = 1024;

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
    let rows = Kernels::of(level).rows;
    let blocks = cin.div_ceil(rows);
    let shared = Shared::new(grad_weights);
    for group in 0..g.groups {
        let values = Values::F32(&grad_out[group * cout..]);
        let b = PackedB::new(
            level,
            MatrixB { values, stride: shape.out_channels, transposed: false },
            pixels,
            cout,
        );
        let work = pixels * cin * cout * g.kernel[0] * g.kernel[1];
        for_each_task(blocks * g.kernel[0], work > 1 << 16, |task| {
            let (first, ky) = (task / g.kernel[0] * rows, task % g.kernel[0]);
            let task = Rows { group, first, count: rows.min(cin - first), ky };
            // SAFETY: the weights of one kernel row of these channels belong to this task.
            unsafe { kernel_row(shape, input, &b, task, shared) };
        });
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

/// Where one line of a plane comes from.
#[derive(Clone, Copy)]
struct Line {
    /// Input column of its first value (negative: padding) and distance to the next one's.
    first: isize,
    step: usize,
    /// Where in the plane it begins.
    start: usize,
}

simd_fn! {
    /// Writes a line of `columns` values into each of the planes in `a`: channel `channel` and
    /// following of `pixels`, zero outside them.
    fn transpose_line(
        pixels: &[f32],
        channels: usize,
        channel: usize,
        line: Line,
        columns: usize,
        plane: usize,
        a: &mut [f32],
    ) {
        let width = pixels.len() / channels;
        let before = usize::try_from(-line.first).unwrap_or(0).div_ceil(line.step).min(columns);
        let first = (line.first + (before * line.step) as isize) as usize;
        let inside = width.saturating_sub(first).div_ceil(line.step).min(columns - before);
        // Channel by channel: the line of pixels stays in the first cache.
        for (c, plane) in a.chunks_exact_mut(plane).enumerate() {
            let (margin, rest) = plane[line.start..line.start + columns].split_at_mut(before);
            let (middle, end) = rest.split_at_mut(inside);
            margin.fill(0.0);
            end.fill(0.0);
            if let Some(pixels) = pixels.get(first * channels + channel + c..) {
                for (x, pixel) in middle.iter_mut().zip(pixels.chunks(line.step * channels)) {
                    *x = pixel[0];
                }
            }
        }
    }
}

/// # Safety
/// `out` holds all weights, and no one else writes those of `task`.
unsafe fn kernel_row(shape: &ConvShape, input: &[f32], b: &PackedB, task: Rows, out: Shared<f32>) {
    let g = shape.geometry;
    let kernels = Kernels::of(b.level());
    let [height, width] = g.output(shape.input);
    let [kh, kw] = g.kernel;
    let (step, spread) = (g.stride[1], g.dilation[1]);
    // Column x·step + kx·spread of the input is entry x + kx·spread / step of phase
    // kx·spread mod step: for each tap, consecutive x are then consecutive in memory.
    let columns = width + (kw - 1) * spread / step;
    let lines = (PIXELS / width).clamp(1, height);
    let plane = step * lines * columns + 16;
    let mut a = Scratch::new(task.count * plane);
    let tile_len = MAX_ROWS * MAX_WIDTH;
    let mut tiles = Scratch::new(kw * b.panels() * tile_len);
    tiles.fill(0.0);
    for image in 0..shape.batch {
        for y in (0..height).step_by(lines) {
            let lines = lines.min(height - y);
            let channel = task.group * (shape.in_channels / g.groups) + task.first;
            for (phase, line) in (0..step).flat_map(|phase| (0..lines).map(move |line| (phase, line))) {
                let row = ((y + line) * g.stride[0] + task.ky * g.dilation[0]) as isize - g.padding[0];
                let row = usize::try_from(row).ok().filter(|&row| row < shape.input[0]);
                let line = Line {
                    first: phase as isize - g.padding[2],
                    step,
                    start: (phase * lines + line) * columns,
                };
                let pixels = row.map_or(&[][..], |row| {
                    let start = (image * shape.input[0] + row) * shape.input[1] * shape.in_channels;
                    &input[start..start + shape.input[1] * shape.in_channels]
                });
                transpose_line(b.level(), pixels, shape.in_channels, channel, line, columns, plane, &mut a);
            }
            let pixel = (image * height + y) * width;
            for kx in 0..kw {
                let (phase, shift) = (kx * spread % step, kx * spread / step);
                let offsets: Vec<usize> =
                    (0..lines).map(|line| (phase * lines + line) * columns + shift).collect();
                for p in 0..b.panels() {
                    let panel = b.panel(p, pixel);
                    // SAFETY: each segment is one line of `width` values of the plane; the panel
                    // has all pixels of the output; the tile is large enough.
                    unsafe {
                        kernels.tile(task.count, panel.width)(TileArgs {
                            a: a.as_ptr(),
                            lda: plane,
                            offsets: &offsets,
                            k: width,
                            b: panel.b,
                            ldb: panel.width,
                            tile: tiles[(kx * b.panels() + p) * tile_len..].as_mut_ptr(),
                            accumulate: true,
                        });
                    }
                }
            }
        }
    }
    let (cin, cout) = (shape.in_channels / g.groups, b.n());
    for kx in 0..kw {
        for p in 0..b.panels() {
            let panel = b.panel(p, 0);
            let tile = &tiles[(kx * b.panels() + p) * tile_len..];
            for c in 0..task.count {
                for j in 0..panel.columns {
                    let o = task.group * cout + panel.column + j;
                    let index = ((o * cin + task.first + c) * kh + task.ky) * kw + kx;
                    // SAFETY: within the weights, and this task's alone.
                    unsafe { *out.get().add(index) = tile[c * panel.width + j] };
                }
            }
        }
    }
}
