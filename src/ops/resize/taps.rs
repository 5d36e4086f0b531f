//! Which source pixels make up a new one, along one axis.
//!
//! Coordinates and weights are computed in f32, in the order of PyTorch's CPU kernels
//! (`aten/src/ATen/native/UpSample.h`, `native/cpu/UpSampleKernel.cpp`): they are part of the
//! operation's definition, so every number type and device uses these very numbers.

/// How new pixels are made; PyTorch's names in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The pixel at the floor of the source coordinate of the new pixel's corner (`nearest`).
    Nearest,
    /// The pixel under the new pixel's centre (`nearest-exact`).
    NearestExact,
    /// Weights by distance to two neighbours (`bilinear`).
    Bilinear {
        /// Centres of the corner pixels stay where they are, instead of the image's edges.
        align_corners: bool,
    },
    /// Cubic convolution with a = −0.75 (`bicubic`).
    Bicubic {
        /// As in bilinear.
        align_corners: bool,
    },
    /// The mean of all pixels that the new one touches (`area`).
    Area,
    /// A triangle as wide as the reduction (`bilinear` with `antialias`).
    BilinearAntialias,
    /// A cubic with a = −0.5 as wide as the reduction (`bicubic` with `antialias`), as in Pillow.
    BicubicAntialias,
}

/// For every new pixel: source pixels with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Taps {
    /// Where each new pixel's entries start, and the end of the last.
    starts: Vec<usize>,
    /// Source pixel and weight.
    pub entries: Vec<(usize, f32)>,
}

impl Taps {
    /// The taps from `from` pixels to `to`; `factor` is the scale factor that was asked for, if
    /// it and not the ratio of the sizes fixes the coordinates.
    pub fn new(mode: Mode, from: usize, to: usize, factor: Option<f64>) -> Self {
        let scale = match factor {
            Some(factor) => (1.0 / factor) as f32,
            None => from as f32 / to as f32,
        };
        let last = from - 1;
        Taps::collect(to, |i, entries| match mode {
            Mode::Nearest => {
                let at = match to {
                    _ if to == from => i,
                    _ if to == 2 * from => i / 2,
                    _ => (i as f32 * scale) as usize,
                };
                entries.push((at.min(last), 1.0));
            }
            Mode::NearestExact => entries.push(((((i as f32 + 0.5) * scale) as usize).min(last), 1.0)),
            Mode::Bilinear { .. } if to == from => entries.push((i, 1.0)),
            Mode::Bilinear { align_corners } => {
                let at = coordinate(i, scale, from, to, align_corners).max(0.0);
                let first = (at as usize).min(last);
                let weight = (at - first as f32).clamp(0.0, 1.0);
                entries.push((first, 1.0 - weight));
                if first < last {
                    entries.push((first + 1, weight));
                } else {
                    entries[0].1 += weight;
                }
            }
            Mode::Bicubic { align_corners } => {
                let at = coordinate(i, scale, from, to, align_corners);
                let first = at.floor().min(last as f32);
                let t = (at - first).clamp(0.0, 1.0);
                let weights = [
                    cubic_far(t + 1.0, -0.75),
                    cubic_near(t, -0.75),
                    cubic_near(1.0 - t, -0.75),
                    cubic_far(2.0 - t, -0.75),
                ];
                for (k, weight) in weights.into_iter().enumerate() {
                    let pixel = (first as isize + k as isize - 1).clamp(0, last as isize);
                    entries.push((pixel as usize, weight));
                }
            }
            Mode::Area => {
                let (start, end) = (i * from / to, ((i + 1) * from).div_ceil(to));
                entries.extend((start..end).map(|pixel| (pixel, 1.0 / (end - start) as f32)));
            }
            Mode::BilinearAntialias => antialias(i, scale, from, 1.0, |x| (1.0 - x).max(0.0), entries),
            Mode::BicubicAntialias => antialias(i, scale, from, 2.0, cubic_sharp, entries),
        })
    }

    fn collect(to: usize, mut add: impl FnMut(usize, &mut Vec<(usize, f32)>)) -> Self {
        let (mut starts, mut entries, mut own) = (vec![0], Vec::new(), Vec::new());
        for i in 0..to {
            own.clear();
            add(i, &mut own);
            entries.append(&mut own);
            starts.push(entries.len());
        }
        Taps { starts, entries }
    }

    /// Number of new pixels.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are no new pixels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Source pixels and weights of new pixel `i`.
    #[inline(always)]
    pub fn of(&self, i: usize) -> &[(usize, f32)] {
        &self.entries[self.starts[i]..self.starts[i + 1]]
    }

    /// The taps of the gradient: for every one of `from` source pixels, the new pixels it is in.
    pub fn transposed(&self, from: usize) -> Taps {
        let mut users = vec![Vec::new(); from];
        for i in 0..self.len() {
            for &(pixel, weight) in self.of(i) {
                users[pixel].push((i, weight));
            }
        }
        Taps::collect(from, |i, entries| entries.append(&mut users[i]))
    }
}

/// The source coordinate of new pixel `i`.
fn coordinate(i: usize, scale: f32, from: usize, to: usize, align_corners: bool) -> f32 {
    if align_corners {
        let scale = if to > 1 { (from - 1) as f32 / (to - 1) as f32 } else { 0.0 };
        return scale * i as f32;
    }
    scale * (i as f32 + 0.5) - 0.5
}

/// The cubic convolution kernel for |x| ≤ 1 (Keys 1981).
fn cubic_near(x: f32, a: f32) -> f32 {
    ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
}

/// The cubic convolution kernel for 1 < |x| < 2.
fn cubic_far(x: f32, a: f32) -> f32 {
    ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
}

fn cubic_sharp(x: f32) -> f32 {
    match x {
        _ if x < 1.0 => cubic_near(x, -0.5),
        _ if x < 2.0 => cubic_far(x, -0.5),
        _ => 0.0,
    }
}

/// Weights of a filter that reaches `reach` pixels, or so many new pixels when shrinking.
fn antialias(
    i: usize,
    scale: f32,
    from: usize,
    reach: f32,
    filter: impl Fn(f32) -> f32,
    entries: &mut Vec<(usize, f32)>,
) {
    let (support, inverse) = if scale >= 1.0 { (reach * scale, 1.0 / scale) } else { (reach, 1.0) };
    let centre = scale * (i as f32 + 0.5);
    let start = (centre - support + 0.5).max(0.0) as usize;
    let end = ((centre + support + 0.5) as usize).min(from);
    entries.extend((start..end).map(|p| (p, filter(((p as f32 - centre + 0.5) * inverse).abs()))));
    let sum: f32 = entries.iter().map(|e| e.1).sum();
    if sum != 0.0 {
        entries.iter_mut().for_each(|e| e.1 /= sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MODES: [Mode; 9] = [
        Mode::Nearest,
        Mode::NearestExact,
        Mode::Bilinear { align_corners: false },
        Mode::Bilinear { align_corners: true },
        Mode::Bicubic { align_corners: false },
        Mode::Bicubic { align_corners: true },
        Mode::Area,
        Mode::BilinearAntialias,
        Mode::BicubicAntialias,
    ];

    proptest! {
        #[test]
        fn weights_sum_to_one_and_stay_inside(mode in 0usize..9, from in 1usize..70, to in 1usize..70) {
            let taps = Taps::new(MODES[mode], from, to, None);
            prop_assert_eq!(taps.len(), to);
            for i in 0..to {
                let sum: f32 = taps.of(i).iter().map(|e| e.1).sum();
                prop_assert!((sum - 1.0).abs() <= 1e-5, "{:?} {}→{}: pixel {} has weights {}", MODES[mode], from, to, i, sum);
                prop_assert!(taps.of(i).iter().all(|e| e.0 < from));
            }
        }

        #[test]
        fn transposing_twice_changes_nothing(mode in 0usize..9, from in 1usize..40, to in 1usize..40) {
            let taps = Taps::new(MODES[mode], from, to, None);
            let mut back = taps.transposed(from).transposed(to);
            let mut sorted = taps.clone();
            for t in [&mut back, &mut sorted] {
                for i in 0..to {
                    let range = t.starts[i]..t.starts[i + 1];
                    t.entries[range].sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
                }
            }
            prop_assert_eq!(back, sorted);
        }
    }
}
