use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

/// Repeatable values in [−1, 1).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn activation64(f: Activation, x: f64, column: usize) -> f64 {
    match f {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu(s) => {
            if x < 0.0 {
                x * s as f64
            } else {
                x
            }
        }
        Activation::Prelu(s) => {
            if x < 0.0 {
                x * s[column] as f64
            } else {
                x
            }
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Clamp(lo, hi) => x.clamp(lo as f64, hi as f64),
        Activation::Function(f) => f(x as f32) as f64,
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        // math.rs checks this one against f64; here it is enough that it is the one applied.
        Activation::GeluErf => crate::device::cpu::math::gelu_erf(x as f32) as f64,
    }
}

#[derive(Debug, Clone)]
struct Case {
    shape: (usize, usize, usize),
    transposed: (bool, bool),
    gaps: (usize, usize, usize),
    activation: usize,
    residual: usize,
    bias: bool,
    dtype: usize,
    seed: u64,
}

const SLOPES: [f32; 100] = [0.3; 100];
const ACTIVATIONS: [Activation; 11] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu(0.2),
    Activation::Prelu(&SLOPES),
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Clamp(-0.5, 1.0),
    Activation::Function(f32::abs),
];

fn cases() -> impl Strategy<Value = Case> {
    let k = prop_oneof![4 => 0usize..70, 1 => 500usize..530, 1 => 1020usize..1040];
    (
        (1usize..40, k, 1usize..100),
        any::<(bool, bool)>(),
        (0usize..5, 0usize..5, 0usize..5),
        0usize..ACTIVATIONS.len(),
        0usize..3,
        any::<bool>(),
        0usize..3,
        any::<u64>(),
    )
        .prop_map(|(shape, transposed, gaps, activation, residual, bias, dtype, seed)| Case {
            shape,
            transposed,
            gaps,
            activation,
            residual,
            bias,
            dtype,
            seed,
        })
}

fn check_case(case: &Case) {
    let (m, k, n) = case.shape;
    let (ta, tb) = case.transposed;
    let (ar, ac) = if ta { (k, m) } else { (m, k) };
    let (br, bc) = if tb { (n, k) } else { (k, n) };
    let (lda, ldb, ldo) = (ac + case.gaps.0, bc + case.gaps.1, n + case.gaps.2);
    let a = noise(case.seed, ar * lda);
    let b32 = noise(case.seed ^ 1, br * ldb);
    let b_bf16: Vec<bf16> = b32.iter().map(|&x| bf16::from_f32(x)).collect();
    let b_f16: Vec<f16> = b32.iter().map(|&x| f16::from_f32(x)).collect();
    let (values, b): (Values, Vec<f32>) = match case.dtype {
        0 => (Values::F32(&b32), b32.clone()),
        1 => (Values::Bf16(&b_bf16), b_bf16.iter().map(|x| x.to_f32()).collect()),
        _ => (Values::F16(&b_f16), b_f16.iter().map(|x| x.to_f32()).collect()),
    };
    let bias = noise(case.seed ^ 2, n);
    let other = noise(case.seed ^ 3, m * (n + 3));
    let before = noise(case.seed ^ 4, m * ldo);
    let gates = noise(case.seed ^ 5, m.div_ceil(7) * (n + 1));
    let epilogue = Epilogue {
        bias: case.bias.then_some(&bias),
        activation: ACTIVATIONS[case.activation],
        alpha: 0.7,
        gate: case.seed.is_multiple_of(2).then_some(Gate { values: &gates, step: n + 1, rows: 7 }),
        residual: [Residual::None, Residual::Output, Residual::Matrix(&other, n + 3)][case.residual],
    };
    for level in Level::available() {
        let mut out = before.clone();
        let a_matrix = MatrixA { values: &a, stride: lda, transposed: ta };
        let b_matrix = MatrixB { values, stride: ldb, transposed: tb };
        gemm(level, case.shape, a_matrix, b_matrix, &mut out, ldo, &epilogue);
        for i in 0..m {
            for j in 0..ldo {
                let got = out[i * ldo + j] as f64;
                if j >= n {
                    assert_eq!(out[i * ldo + j], before[i * ldo + j], "wrote between the rows at {i},{j}");
                    continue;
                }
                let (mut sum, mut size) = (0.0f64, 1.0f64);
                for l in 0..k {
                    let x = a[if ta { l * lda + i } else { i * lda + l }] as f64;
                    let y = b[if tb { j * ldb + l } else { l * ldb + j }] as f64;
                    sum += x * y;
                    size += (x * y).abs();
                }
                let sum = sum + if case.bias { bias[j] as f64 } else { 0.0 };
                let residual = match case.residual {
                    0 => 0.0,
                    1 => before[i * ldo + j] as f64,
                    _ => other[i * (n + 3) + j] as f64,
                };
                let gate = epilogue.gate.map_or(1.0, |g| g.values[i / g.rows * g.step + j] as f64);
                let want = gate * 0.7f32 as f64 * activation64(epilogue.activation, sum, j) + residual;
                let tolerance = 1e-6 * size;
                assert!((got - want).abs() <= tolerance, "{level:?} at {i},{j}: {got} not {want}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn agrees_with_f64(case in cases()) {
        check_case(&case);
    }
}

fn product_with(threads: usize, (m, k, n): (usize, usize, usize), a: &[f32], b: &[f32]) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut out = vec![f32::NAN; m * n];
    let b = MatrixB { values: b.into(), stride: k, transposed: true };
    pool.install(|| {
        gemm(Level::best(), (m, k, n), MatrixA::dense(a, k), b, &mut out, n, &Epilogue::default())
    });
    out.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    for shape in [(1, 700, 300), (3, 64, 1000), (5, 1100, 500), (257, 600, 180), (100, 180, 540)] {
        let (m, k, n) = shape;
        let (a, b) = (noise(1, m * k), noise(2, k * n));
        let one = product_with(1, shape, &a, &b);
        for threads in [2, 3, 7] {
            assert!(one == product_with(threads, shape, &a, &b), "{shape:?} on {threads} threads");
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_row_only() {
    let (m, k, n) = (30, 50, 70);
    let mut a = noise(1, m * k);
    a[7 * k + 3] = f32::NAN;
    a[9 * k + 49] = f32::INFINITY;
    let b: Vec<f32> = noise(2, k * n).iter().map(|x| x + 2.0).collect();
    for level in Level::available() {
        for activation in
            [Activation::Identity, Activation::Relu, Activation::LeakyRelu(0.1), Activation::Silu]
        {
            let mut out = vec![0.0; m * n];
            let b = MatrixB { values: b[..].into(), stride: n, transposed: false };
            let epilogue = Epilogue { activation, ..Epilogue::default() };
            gemm(level, (m, k, n), MatrixA::dense(&a, k), b, &mut out, n, &epilogue);
            for (i, row) in out.chunks(n).enumerate() {
                match i {
                    7 => assert!(row.iter().all(|x| x.is_nan()), "{level:?} {activation:?}"),
                    9 => assert!(row.iter().all(|x| *x == f32::INFINITY), "{level:?} {activation:?}"),
                    _ => assert!(row.iter().all(|x| x.is_finite()), "{level:?} {activation:?}"),
                }
            }
        }
    }
}

#[test]
fn batches_are_independent_products() {
    let (batch, m, k, n) = (5, 7, 20, 33);
    let (a, b) = (noise(1, batch * m * k), noise(2, batch * k * n));
    let a_of = |i: usize| MatrixA::dense(&a[i * m * k..], k);
    let b_of = |i: usize| MatrixB { values: b[i * k * n..].into(), stride: n, transposed: false };
    let epilogue = Epilogue { alpha: 0.5, ..Epilogue::default() };
    for level in Level::available() {
        let mut out = vec![0.0; batch * m * n];
        gemm_batch(level, (batch, m, k, n), a_of, b_of, &mut out, m * n, &epilogue);
        for (i, out) in out.chunks(m * n).enumerate() {
            let mut one = vec![0.0; m * n];
            gemm(level, (m, k, n), a_of(i), b_of(i), &mut one, n, &epilogue);
            assert_eq!(out, one);
        }
    }
}

/// An element's sum does not depend on how many rows there are, nor on the path that they take.
#[test]
fn rows_do_not_see_each_other() {
    let (k, n) = (1100, 70);
    let (a, w) = (noise(1, 200 * k), noise(2, n * k));
    let half: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
    for level in Level::available() {
        for values in [Values::F32(&w), Values::Bf16(&half)] {
            let b = MatrixB { values, stride: k, transposed: true };
            let run = |m: usize| {
                let mut out = vec![f32::NAN; m * n];
                gemm(level, (m, k, n), MatrixA::dense(&a, k), b, &mut out, n, &Epilogue::default());
                out
            };
            let many = run(200);
            for m in [5, 13, 144, 145] {
                assert_eq!(run(m), many[..m * n], "{} rows at {}", m, level.name());
            }
            let few = run(4);
            assert_eq!(run(1), few[..n], "one row at {}", level.name());
        }
    }
}

#[test]
fn columns_of_a_give_the_bits_of_its_rows() {
    // From 513 rows on, columns are copied first.
    let long = [(600, 270, 100), (515, 256, 33)];
    for (m, k, n) in
        [(48, 1000, 48), (6, 300, 17), (145, 64, 40), (40, 256, 520), (300, 257, 30)].into_iter().chain(long)
    {
        let (a, b) = (noise(7, m * k), noise(8, k * n));
        let columns: Vec<f32> = (0..k).flat_map(|kk| a[kk..].iter().step_by(k).copied()).collect();
        let b = MatrixB { values: b[..].into(), stride: n, transposed: false };
        for level in Level::available() {
            let product = |a| {
                let mut out = vec![0.0; m * n];
                gemm(level, (m, k, n), a, b, &mut out, n, &Epilogue::default());
                out
            };
            let rows = product(MatrixA::dense(&a, k));
            let columns = product(MatrixA { values: &columns, stride: m, transposed: true });
            assert!(
                rows.iter().map(|x| x.to_bits()).eq(columns.iter().map(|x| x.to_bits())),
                "{m}x{k}x{n} at {level:?}"
            );
        }
    }
}
