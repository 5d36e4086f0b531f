use half::f16;
use proptest::prelude::*;

use super::*;
use crate::device::cpu::gemm::{Activation, Residual, noise};

#[derive(Debug, Clone)]
struct Case {
    geometry: Geometry,
    batch: usize,
    /// As the convolution sees it.
    size: [usize; 2],
    /// Per group.
    cin: usize,
    cout: usize,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let geometry = (
        [1usize..4, 1usize..5],
        [1usize..4, 1usize..3],
        [1usize..3, 1usize..3],
        [-1isize..3, -1isize..3, 0isize..3, 0isize..3],
        prop_oneof![3 => Just(1usize), 1 => 2usize..6],
    )
        .prop_map(|(kernel, stride, dilation, padding, groups)| Geometry {
            kernel,
            stride,
            dilation,
            padding,
            groups,
        });
    (geometry, 1usize..3, [1usize..12, 1usize..40], 1usize..20, 1usize..40, any::<u64>())
        .prop_map(|(geometry, batch, size, cin, cout, seed)| Case { geometry, batch, size, cin, cout, seed })
        .prop_filter("the kernel fits", |c| !c.geometry.output(c.size).contains(&0))
}

impl Case {
    fn channels(&self) -> (usize, usize) {
        (self.cin * self.geometry.groups, self.cout * self.geometry.groups)
    }

    fn shape(&self) -> ConvShape {
        let (in_channels, out_channels) = self.channels();
        ConvShape { geometry: self.geometry, batch: self.batch, input: self.size, in_channels, out_channels }
    }

    fn lens(&self) -> (usize, usize, usize) {
        let (ci, co) = self.channels();
        let [h, w] = self.geometry.output(self.size);
        let taps = self.geometry.kernel[0] * self.geometry.kernel[1];
        (self.batch * self.size[0] * self.size[1] * ci, co * self.cin * taps, self.batch * h * w * co)
    }

    /// Calls `f(input index, weight index, output index)` for every product of the convolution.
    fn products(&self, mut f: impl FnMut(usize, usize, usize)) {
        let g = &self.geometry;
        let (ci, co) = self.channels();
        let [height, width] = g.output(self.size);
        for (b, y, x) in
            (0..self.batch * height * width).map(|i| (i / (height * width), i / width % height, i % width))
        {
            for (ky, kx) in (0..g.kernel[0] * g.kernel[1]).map(|t| (t / g.kernel[1], t % g.kernel[1])) {
                let iy = (y * g.stride[0] + ky * g.dilation[0]) as isize - g.padding[0];
                let ix = (x * g.stride[1] + kx * g.dilation[1]) as isize - g.padding[2];
                if iy < 0 || ix < 0 || iy >= self.size[0] as isize || ix >= self.size[1] as isize {
                    continue;
                }
                let pixel = (b * self.size[0] + iy as usize) * self.size[1] + ix as usize;
                for o in 0..co {
                    for c in 0..self.cin {
                        f(
                            pixel * ci + o / self.cout * self.cin + c,
                            ((o * self.cin + c) * g.kernel[0] + ky) * g.kernel[1] + kx,
                            ((b * height + y) * width + x) * co + o,
                        );
                    }
                }
            }
        }
    }
}

fn assert_close(name: &str, level: Level, got: &[f32], want: &[f64], size: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, ((&got, &want), &size)) in got.iter().zip(want).zip(size).enumerate() {
        let err = (got as f64 - want).abs();
        assert!(err <= 1e-6 * (1.0 + size), "{name} {}: {got} instead of {want} at {i}", level.name());
    }
}

/// Sums and sums of magnitudes, scattered by index.
fn sums(len: usize, case: &Case, term: impl Fn(usize, usize, usize) -> (usize, f64)) -> (Vec<f64>, Vec<f64>) {
    let (mut sum, mut size) = (vec![0.0; len], vec![0.0; len]);
    case.products(|i, w, o| {
        let (at, x) = term(i, w, o);
        sum[at] += x;
        size[at] += x.abs();
    });
    (sum, size)
}

fn forward(level: Level, case: &Case, x: &[f32], w: &[f32]) -> Vec<f32> {
    let (ci, co) = case.channels();
    let weights = ConvWeights::new(level, case.geometry, ci, co, w.into());
    let mut out = vec![f32::NAN; case.lens().2];
    conv2d(case.batch, &[Input::dense(x, case.size, ci)], &weights, &mut out, co, &Epilogue::default());
    out
}

fn check_case(case: &Case) {
    let (nx, nw, no) = case.lens();
    let (x, w, dy) = (noise(case.seed, nx), noise(case.seed ^ 1, nw), noise(case.seed ^ 2, no));
    let term = |a: f32, b: f32| a as f64 * b as f64;
    let (y64, y_size) = sums(no, case, |i, k, o| (o, term(x[i], w[k])));
    let (dx64, dx_size) = sums(nx, case, |i, k, o| (i, term(dy[o], w[k])));
    let (dw64, dw_size) = sums(nw, case, |i, k, o| (k, term(dy[o], x[i])));
    for level in Level::available() {
        assert_close("forward", level, &forward(level, case, &x, &w), &y64, &y_size);
        let mut dx = vec![f32::NAN; nx];
        conv2d_grad_input(level, &case.shape(), w[..].into(), &dy, &mut dx);
        assert_close("input gradient", level, &dx, &dx64, &dx_size);
        let mut dw = vec![f32::NAN; nw];
        conv2d_grad_weight(level, &case.shape(), &x, &dy, &mut dw);
        assert_close("weight gradient", level, &dw, &dw64, &dw_size);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn agrees_with_f64(case in cases()) {
        check_case(&case);
    }
}

fn plain(kernel: usize, size: [usize; 2], cin: usize, cout: usize) -> Case {
    Case { geometry: Geometry::same(kernel), batch: 1, size, cin, cout, seed: 7 }
}

#[test]
fn long_reductions_many_rectangles_and_depthwise() {
    check_case(&plain(3, [5, 13], 260, 34)); // more than one block of k
    check_case(&plain(3, [40, 70], 40, 3)); // several rectangles, few output channels
    check_case(&plain(1, [3, 50], 600, 20));
    let mut depthwise = plain(3, [9, 14], 1, 1);
    depthwise.geometry.groups = 50;
    check_case(&depthwise);
}

#[test]
fn concatenation_upsampling_and_epilogue_are_what_they_replace() {
    let (h, w) = (6, 11);
    let (a, b) = (noise(1, h * w * 5), noise(2, h * w * 10));
    let (weights, bias, residual) = (noise(3, 9 * 9 * 20), noise(4, 20), noise(5, 4 * h * w * 24));
    // Channels 3.. of an input whose pixels are ten values apart.
    let inputs = [
        Input { sampling: Sampling::Nearest(2), ..Input::dense(&a, [h, w], 5) },
        Input { values: &b[3..], size: [h, w], channels: 4, stride: 10, sampling: Sampling::Nearest(2) },
    ];
    let joined: Vec<f32> = (0..4 * h * w)
        .flat_map(|i| {
            let pixel = i / (2 * w) / 2 * w + i % (2 * w) / 2;
            [&a[pixel * 5..][..5], &b[pixel * 10 + 3..][..4]].concat()
        })
        .collect();
    let case = plain(3, [2 * h, 2 * w], 9, 20);
    for level in Level::available() {
        let plain = forward(level, &case, &joined, &weights);
        let packed = ConvWeights::new(level, case.geometry, 9, 20, weights[..].into());
        let epilogue = Epilogue {
            bias: Some(&bias),
            activation: Activation::LeakyRelu(0.2),
            alpha: 0.2,
            gate: None,
            residual: Residual::Matrix(&residual, 24),
        };
        let mut out = vec![9.0; 4 * h * w * 22];
        conv2d(1, &inputs, &packed, &mut out, 22, &epilogue);
        for (i, out) in out.chunks(22).enumerate() {
            for (o, bias) in bias.iter().enumerate() {
                let x = plain[i * 20 + o] + bias;
                let x = if x < 0.0 { x * 0.2 } else { x };
                assert_eq!(out[o], x * 0.2 + residual[i * 24 + o], "pixel {i} channel {o}");
            }
            assert_eq!(out[20..], [9.0; 2], "wrote between the pixels");
        }
    }
}

#[test]
fn half_precision_weights_are_read_exactly() {
    let case = plain(3, [8, 8], 8, 8);
    let x = noise(1, 8 * 8 * 8);
    let w: Vec<f16> = noise(2, 9 * 64).into_iter().map(f16::from_f32).collect();
    let w32: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
    let packed = ConvWeights::new(Level::best(), case.geometry, 8, 8, Values::F16(&w));
    let mut out = vec![0.0; 8 * 8 * 8];
    conv2d(1, &[Input::dense(&x, [8, 8], 8)], &packed, &mut out, 8, &Epilogue::default());
    assert_eq!(out, forward(Level::best(), &case, &x, &w32));
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let case = plain(3, [50, 61], 30, 33);
    let (nx, nw, no) = case.lens();
    let (x, w, dy) = (noise(1, nx), noise(2, nw), noise(3, no));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut dx, mut dw) = (vec![0.0; nx], vec![0.0; nw]);
            conv2d_grad_input(Level::best(), &case.shape(), w[..].into(), &dy, &mut dx);
            conv2d_grad_weight(Level::best(), &case.shape(), &x, &dy, &mut dw);
            [forward(Level::best(), &case, &x, &w), dx, dw]
                .map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}
