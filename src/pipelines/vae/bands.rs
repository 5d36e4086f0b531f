//! A chain of layers run one convolution at a time, each in bands of whole rows, with the same
//! result as the whole graph up to the rounding of the norms' sums.
//!
//! A group norm needs the moments of its whole input, and a 3×3 convolution one row above and one
//! below. So every convolution reads its input from a stored map, a band of rows and its
//! neighbours at a time, normalises on the way, and writes its result to another stored map while
//! the moments for the next norm are taken. The second convolution of a residual block writes over
//! the map that it adds to. Zeros are padded at the picture's borders only.

use std::ops::Range;

use rayon::prelude::*;

use super::maps::{Ledger, Map};
use super::{Progress, VaeRunner};
use crate::device::cpu::math;
use crate::device::cpu::simd::{Level, simd_fn};
use crate::error::{Error, Result};
use crate::graph::{Executable, Graph, GraphBuilder, Plan, passes};
use crate::models::vae::{Conv, EPS, Layer, Step, record};
use crate::ops::fuse;
use crate::tensor::{DType, HostTensor};

/// Bytes of a band's operands and results aimed at, where memory allows: large enough that packing
/// weights and reading rows twice cost little beside the work, small beside the maps.
const BAND: usize = 64 << 20;

fn band_bytes(memory: usize) -> usize {
    BAND.min(memory / 16)
}

/// What of the budget is kept for bands; the rest is for maps.
pub(super) fn reserve(memory: usize) -> usize {
    4 * band_bytes(memory)
}

/// Rows of the input that make rows of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Band {
    input: Range<usize>,
    output: Range<usize>,
    /// Zeros above and below: only at the picture's borders.
    pad: [usize; 2],
}

/// Bands of about `rows` output rows each, for an input of `height` rows.
fn bands(conv: &Conv, height: usize, rows: usize) -> Vec<Band> {
    let total = conv.extent(height);
    let mut all = Vec::new();
    let mut start = 0;
    while start < total {
        let mut end = (start + rows.max(1)).min(total);
        // The odd rows of an enlarged picture see two stored rows, the even ones three: bands that
        // begin and end there compute nothing twice.
        if conv.step == Step::Up && end < total && end.is_multiple_of(2) {
            end += 1;
        }
        let end = end.min(total);
        let (output, last) = (start..end, end == total);
        all.push(match conv.step {
            Step::Same(kernel) => {
                let reach = kernel / 2;
                let (first, beyond) = (start.saturating_sub(reach), end + reach);
                Band {
                    input: first..beyond.min(height),
                    output,
                    pad: [reach - (start - first), beyond.saturating_sub(height)],
                }
            }
            Step::Down => {
                let beyond = 2 * end + 1;
                Band { input: 2 * start..beyond.min(height), output, pad: [0, beyond.saturating_sub(height)] }
            }
            Step::Up => {
                let (top, bottom) = (usize::from(start == 0), usize::from(last));
                Band { input: (start + top - 1) / 2..(end + 1 - bottom) / 2, output, pad: [top, bottom] }
            }
        });
        start = end;
    }
    all
}

simd_fn! {
    /// y = silu((x − mean)·scale + shift) for whole pixels.
    fn norm_silu(x: &[f32], y: &mut [f32], mean: &[f32], scale: &[f32], shift: &[f32]) {
        let c = mean.len();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            for ((((y, &x), &m), &a), &b) in y.iter_mut().zip(x).zip(mean).zip(scale).zip(shift) {
                *y = math::silu((x - m) * a + b);
            }
        }
    }
}

/// What a norm does to each channel.
struct Normaliser {
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Runs a chain, or, without values, only counts what it would take.
pub(super) struct Chain<'a> {
    pub runner: &'a VaeRunner,
    pub ledger: Ledger,
    /// The most bytes that a band ever took beside the maps.
    pub band_peak: usize,
    /// The most bytes of maps in memory and a band together.
    pub peak: usize,
    /// Bands so far.
    pub bands: usize,
    pub progress: Progress<'a>,
}

impl Chain<'_> {
    fn dry(&self) -> bool {
        self.ledger.folder.is_none()
    }

    /// All layers on a picture.
    pub fn run(&mut self, layers: &[Layer], mut x: Map) -> Result<Map> {
        for layer in layers {
            x = match layer {
                Layer::Conv(conv) => {
                    let y = self.fresh(conv, &x)?;
                    let y = self.conv(conv, &x, None, y)?;
                    self.ledger.give_back(x);
                    y
                }
                Layer::Resnet { convs: [first, second], shortcut } => {
                    let h = self.fresh(first, &x)?;
                    let h = self.conv(first, &x, None, h)?;
                    let y = if second.out <= x.size[2] {
                        self.conv(second, &h, Some(Around { map: None, shortcut: shortcut.as_ref() }), x)?
                    } else {
                        let y = self.fresh(second, &x)?;
                        let around = Around { map: Some(&x), shortcut: shortcut.as_ref() };
                        let y = self.conv(second, &h, Some(around), y)?;
                        self.ledger.give_back(x);
                        y
                    };
                    self.ledger.give_back(h);
                    y
                }
                Layer::Attention(_) => self.whole(layer, x)?,
            };
        }
        Ok(x)
    }

    fn fresh(&mut self, conv: &Conv, x: &Map) -> Result<Map> {
        let [height, width, _] = x.size;
        self.ledger.take([conv.extent(height), conv.extent(width), conv.out])
    }

    /// One convolution with norm, and what is added to it, from `x` to `y`.
    fn conv(&mut self, conv: &Conv, x: &Map, around: Option<Around>, mut y: Map) -> Result<Map> {
        let [height, width, channels] = x.size;
        let (across, out) = (conv.extent(width), conv.out);
        let side = around.as_ref().map(|a| a.map.map_or(y.size[2], |m| m.size[2]));
        let per_row = 4 * across * (channels + 2 * out + side.unwrap_or(0));
        let rows = self.runner.band_rows.unwrap_or((band_bytes(self.runner.memory) / per_row.max(1)).max(4));
        let all = bands(conv, height, rows);
        let normaliser = match &conv.norm {
            Some(key) if !self.dry() => Some(self.normaliser(key, x)?),
            _ => None,
        };
        y.reset_moments();
        self.bands += all.len();
        let mut ready: Option<(usize, [usize; 2], Executable)> = None;
        for band in all {
            self.progress.watch.cancel.check()?;
            let shape = (band.input.len(), band.pad);
            if ready.as_ref().is_none_or(|(n, pad, _)| (*n, *pad) != shape) {
                let shortcut = around.as_ref().and_then(|a| a.shortcut);
                let graph =
                    self.band_graph(conv, [band.input.len(), width, channels], band.pad, side, shortcut)?;
                let plan = Plan::new(graph, &self.runner.device)?;
                let around_bytes = 4 * band.output.len() * across * side.unwrap_or(0);
                let given = 4 * band.input.len() * width * channels + around_bytes;
                // Operands of this band and of the one before, which the plan still holds.
                let need = plan.arena_bytes + 2 * given + 4 * band.output.len() * across * out;
                self.band_peak = self.band_peak.max(need);
                self.peak = self.peak.max(self.ledger.in_memory() + need);
                if self.dry() {
                    continue;
                }
                ready = Some((shape.0, shape.1, self.runner.executable(plan)?));
            }
            let Some((_, _, exe)) = &mut ready else { continue };
            let mut given = vec![("x", self.gather(x, band.input.clone(), normaliser.as_ref()))];
            if let Some(a) = &around {
                given.push(("around", self.gather(a.map.unwrap_or(&y), band.output.clone(), None)));
            }
            let result = exe.run(&given)?.swap_remove(0).1;
            let result = result.to_f32();
            y.write(band.output.start, out, &result);
            self.runner.device.run(|| y.count(&result, out));
            self.progress.done(exe.plan().cost().flops);
        }
        if out < y.size[2] {
            self.ledger.shrink(&mut y, out);
        }
        Ok(y)
    }

    /// Rows of a map as the operand `[1, rows, width, channels]`.
    fn gather(&self, x: &Map, rows: Range<usize>, norm: Option<&Normaliser>) -> HostTensor {
        let [_, width, channels] = x.size;
        let shape = [1, rows.len(), width, channels];
        let source = x.rows(rows);
        let Some(norm) = norm else { return HostTensor::from_f32(shape, source.to_vec()) };
        let mut values = vec![0.0; source.len()];
        let row = width * channels;
        self.runner.device.run(|| {
            values.par_chunks_mut(row).zip(source.par_chunks(row)).for_each(|(y, x)| {
                norm_silu(Level::best(), x, y, &norm.mean, &norm.scale, &norm.shift);
            });
        });
        HostTensor::from_f32(shape, values)
    }

    fn normaliser(&self, key: &str, x: &Map) -> Result<Normaliser> {
        let parameter = |name: &str| {
            let key = format!("{key}.{name}");
            let found = self.runner.weights.get(&key).filter(|t| t.shape() == [x.size[2]]);
            found.ok_or_else(|| {
                Error::Weights(format!("expected \"{key}\" with {} numbers, found none", x.size[2]))
            })
        };
        let (gamma, beta) = (parameter("weight")?.to_f32(), parameter("bias")?.to_f32());
        let width = x.size[2] / self.runner.config.norm_num_groups;
        let (mut mean, mut scale) = (Vec::with_capacity(x.size[2]), Vec::with_capacity(x.size[2]));
        for ((middle, variance), gamma) in
            x.group_moments(self.runner.config.norm_num_groups).into_iter().zip(gamma.chunks(width))
        {
            let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
            mean.extend(gamma.iter().map(|_| middle as f32));
            scale.extend(gamma.iter().map(|&g| (f64::from(g) * rstd) as f32));
        }
        Ok(Normaliser { mean, scale, shift: beta.into_owned() })
    }

    /// The convolution of one band, plus `side` channels of what goes around it.
    fn band_graph(
        &self,
        conv: &Conv,
        [rows, width, channels]: [usize; 3],
        pad: [usize; 2],
        side: Option<usize>,
        shortcut: Option<&Conv>,
    ) -> Result<Graph> {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [1, rows, width, channels])?;
        let [_, _, left, right] = conv.spec().pad;
        let mut y = conv.record_bare(&mut b, x, [pad[0], pad[1], left, right])?;
        if let Some(side) = side {
            let [_, rows, width, _] = b.dims(y, "around")?;
            let around = b.input("around", DType::F32, [1, rows, width, side])?;
            let around = match shortcut {
                Some(shortcut) => shortcut.record(&mut b, self.runner.config.norm_num_groups, around)?,
                None => around,
            };
            y = b.add(y, around)?;
        }
        b.output("y", y);
        let mut graph = b.finish();
        passes::run(&mut graph, fuse::RULES, None)?;
        Ok(graph)
    }

    /// A layer that needs all pixels at once, over its own input.
    fn whole(&mut self, layer: &Layer, mut x: Map) -> Result<Map> {
        let [height, width, channels] = x.size;
        let mut b = GraphBuilder::new();
        let value = b.input("x", DType::F32, [1, height, width, channels])?;
        let y = record(&mut b, std::slice::from_ref(layer), self.runner.config.norm_num_groups, value)?;
        b.output("y", y);
        let mut graph = b.finish();
        passes::run(&mut graph, fuse::RULES, None)?;
        let plan = Plan::new(graph, &self.runner.device)?;
        let need = plan.arena_bytes + 2 * 4 * height * width * channels;
        self.band_peak = self.band_peak.max(need);
        self.peak = self.peak.max(self.ledger.in_memory() + need);
        self.bands += 1;
        if self.dry() {
            return Ok(x);
        }
        let given = self.gather(&x, 0..height, None);
        let mut exe = self.runner.executable(plan)?;
        let result = self.progress.run(&mut exe, &[("x", given)])?;
        let result = result.to_f32();
        x.reset_moments();
        x.write(0, channels, &result);
        self.runner.device.run(|| x.count(&result, channels));
        Ok(x)
    }
}

/// What is added to a convolution's result.
struct Around<'m> {
    /// The map; without one it is what the result is written over.
    map: Option<&'m Map>,
    /// A 1×1 convolution on the way.
    shortcut: Option<&'m Conv>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn conv(step: Step) -> Conv {
        Conv { norm: None, key: "conv".into(), out: 1, step }
    }

    proptest! {
        /// Every output row of a band sees the input rows that it sees in the whole picture, at the
        /// same taps.
        #[test]
        fn bands_see_what_the_whole_sees(
            kind in 0usize..4, height in 2usize..40, rows in 1usize..12,
        ) {
            let conv = conv([Step::Same(1), Step::Same(3), Step::Down, Step::Up][kind]);
            let factor = if conv.step == Step::Up { 2 } else { 1 };
            let kernel = if conv.step == Step::Same(1) { 1 } else { 3 };
            let spec = conv.spec();
            let all = bands(&conv, height, rows);
            let mut next = 0;
            for band in &all {
                prop_assert_eq!(band.output.start, next);
                next = band.output.end;
                let mut part = spec;
                part.pad[0] = band.pad[0];
                part.pad[1] = band.pad[1];
                let n = band.input.len() * factor;
                prop_assert_eq!(part.extent(0, n, kernel), Some(band.output.len()));
                for y in 0..band.output.len() {
                    for k in 0..kernel {
                        let here = part.source(0, y, k, n).map(|i| i / factor + band.input.start);
                        let whole = spec.source(0, band.output.start + y, k, height * factor);
                        prop_assert_eq!(here, whole.map(|i| i / factor), "{:?} row {} tap {}", band, y, k);
                    }
                }
            }
            prop_assert_eq!(next, conv.extent(height));
        }
    }
}
