//! Every kernel of `cuda/gemm.cu` and `cuda/gemm_sm90.cu` on the simulator, over the edges of its own tile: the op registry's
//! cases are so small that plans never choose the large ones.
#![cfg(not(windows))]

use std::collections::BTreeSet;

use dreamclear::device::kernel::{DeviceFacts, KernelInfo, Launch, Swizzle, TensorMapSpec};
use dreamclear::device::sim::{GuardedBuffer, Schedule, Simulator};
use dreamclear::ffi::{self, Epilogue, Gemm, GemmSm90};
use dreamclear::graph::cuda::{CudaCall, CudaOperand, CudaResult, Storage};
use dreamclear::graph::reference::DynReference;
use dreamclear::graph::{Array, Layout, Op, TensorType};
use dreamclear::ops::adaln::Adaln;
use dreamclear::ops::case::Rng;
use dreamclear::ops::linear_modulate::LinearModulate;
use dreamclear::ops::linear_norm::{LinearNorm, Norm, Producer};
use dreamclear::ops::{check_cuda, registry};
use dreamclear::tensor::{DType, HostTensor};

/// What a kernel's name says.
struct Kernel {
    name: String,
    /// Rows and columns of the result that a block computes.
    tile: [usize; 2],
    /// How A and B are stored, if the kernel runs one layout only.
    trans: Option<[bool; 2]>,
    a: DType,
    b: DType,
}

impl Kernel {
    /// Whether it is one of `cuda/gemm_sm90.cu`.
    fn hopper(&self) -> bool {
        self.name.ends_with("_sm90")
    }
}

fn parse(info: &KernelInfo) -> Option<Kernel> {
    let words: Vec<&str> = info.name.strip_prefix("gemm_")?.split('_').collect();
    let dtype = |name: &str| [DType::F32, DType::BF16, DType::F16].into_iter().find(|d| d.name() == name);
    let tile = |t: &str| t.split_once('x').map(|(m, n)| [m.parse().unwrap(), n.parse().unwrap()]);
    let (tile, trans, a, b) = match words[..] {
        ["sum", _] => return None,
        ["rows", d] => ([16, 16], Some([false, true]), d, d),
        ["rows", a, b] => ([8, 16], Some([false, true]), a, b),
        ["simt", t, a, b] => (tile(t)?, None, a, b),
        [order, t, d] | [order, t, d, "sm90"] => {
            let trans = [order.starts_with('t'), order.ends_with('t')];
            (tile(t)?, Some(trans), d, d)
        }
        _ => panic!("what is {}?", info.name),
    };
    Some(Kernel { name: info.name.clone(), tile, trans, a: dtype(a)?, b: dtype(b)? })
}

/// One product. Rows are `pad` elements longer than they need to be.
#[derive(Clone, Copy, Debug)]
struct Problem {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    pad: [usize; 2],
    trans: [bool; 2],
    splits: usize,
    y: DType,
    /// With bias, activation, factor and residual.
    epilogue: bool,
}

/// Rows of a matrix, drawn and stored; between them NaN.
struct Matrix {
    buffer: GuardedBuffer,
    values: Vec<f64>,
    cols: usize,
    step: usize,
    align: i32,
    dtype: DType,
}

impl Matrix {
    fn new(rng: &mut Rng, rows: usize, cols: usize, pad: usize, dtype: DType) -> Self {
        let step = cols + pad;
        let values: Vec<f64> =
            (0..rows * step).map(|i| if i % step < cols { rng.normal() } else { f64::NAN }).collect();
        let host = HostTensor::from_f64([rows, step], values).cast(dtype);
        let bytes = (step * dtype.size()) | 16;
        Matrix {
            buffer: GuardedBuffer::of(host.bytes()),
            values: host.to_f64(),
            cols,
            step,
            align: 1 << bytes.trailing_zeros(),
            dtype,
        }
    }

    /// For tensor copies of `boxed` elements and rows, as `items` matrices.
    fn map(&self, simulator: &Simulator, rows: usize, items: usize, boxed: [usize; 2]) -> ffi::TensorMap {
        let row = self.step * self.dtype.size();
        let spec = TensorMapSpec {
            address: self.buffer.address(),
            dtype: self.dtype,
            extents: vec![self.cols, rows, items],
            strides: vec![row, rows * row],
            boxed: vec![boxed[0], boxed[1], 1],
            swizzle: Swizzle::Bytes128,
        };
        simulator.tensor_map(&spec).expect("rows of whole 16 bytes")
    }
}

fn run(kernel: &Kernel, problem: &Problem, simulator: &Simulator) -> Result<(), String> {
    let Problem { batch, m, n, k, pad, trans, splits, y, epilogue } = *problem;
    let mut rng = Rng::new(7);
    let (ar, ac) = if trans[0] { (k, m) } else { (m, k) };
    let (br, bc) = if trans[1] { (n, k) } else { (k, n) };
    let a = Matrix::new(&mut rng, batch * ar, ac, pad[0], kernel.a);
    let b = Matrix::new(&mut rng, br, bc, pad[1], kernel.b); // shared by the batch
    let bias = Matrix::new(&mut rng, 1, n, 0, DType::F32);
    let residual = Matrix::new(&mut rng, batch * m, n, 0, y);
    // Samples of five rows; only products without a batch have more than one.
    let sample = if batch > 1 { m } else { 5 };
    let gate = Matrix::new(&mut rng, m.div_ceil(sample), n, 4, DType::F32);
    let parts = if splits > 1 { splits * batch * m * n * 4 } else { 0 };
    let partial = GuardedBuffer::new(parts);
    let nothing = Epilogue { alpha: 1.0, ..Epilogue::default() };
    let full = Epilogue {
        bias: bias.buffer.address(),
        residual: residual.buffer.address(),
        alpha: 0.5,
        act: ffi::ACTIVATION_SILU as i32,
        gate: gate.buffer.address(),
        gate_step: gate.step as i64,
        gate_rows: sample as i32,
        ..nothing
    };
    let last = if epilogue { full } else { nothing };
    // The rows of the result normed, and an f32 result of half-precision operands in their type too.
    let more = epilogue
        && kernel.name.starts_with("gemm_nt")
        && !kernel.hopper()
        && n % 4 == 0
        && splits == 1
        && batch == 1;
    let twice = more && y != kernel.a;
    let room = |wanted: bool| GuardedBuffer::new(if wanted { m * n * kernel.a.size() } else { 0 });
    let (also, normed) = (room(twice), room(more));
    let counters = GuardedBuffer::of(&vec![0; m.div_ceil(kernel.tile[0]) * 4]);
    let last = Epilogue { twin: if twice { also.address() } else { 0 }, ..last };
    let norm = ffi::RowNorm {
        y: normed.address(),
        shift: bias.buffer.address(),
        scale: gate.buffer.address(),
        scale_step: gate.step as i64,
        eps: 1e-6,
        plus: 1.0,
        ..Default::default()
    };
    let norms = ffi::RowNorms {
        norms: [norm, ffi::RowNorm::default()],
        counters: counters.address(),
        count: more.into(),
        tokens: sample as i32,
    };
    let step = if kernel.hopper() { 64 } else { 32 };
    let k_slice = if splits > 1 { k.div_ceil(splits).next_multiple_of(step) } else { k };
    let mut first: Option<Vec<u8>> = None;
    for schedule in Schedule::ALL {
        let result = GuardedBuffer::new(batch * m * n * y.size());
        let params = Gemm {
            a: a.buffer.address(),
            b: b.buffer.address(),
            y: if splits > 1 { partial.address() } else { result.address() },
            a_step: a.step as i64,
            b_step: b.step as i64,
            a_batch: (ar * a.step) as i64,
            b_batch: 0,
            epilogue: if splits > 1 { nothing } else { last },
            norms,
            m: m as i32,
            n: n as i32,
            k: k as i32,
            k_slice: k_slice as i32,
            a_align: a.align,
            b_align: b.align,
            a_trans: trans[0].into(),
            b_trans: trans[1].into(),
            y_f32: (splits > 1 || y == DType::F32).into(),
            ..Gemm::default()
        };
        let tiles = [m.div_ceil(kernel.tile[0]), n.div_ceil(kernel.tile[1])];
        let grid = match kernel.name.starts_with("gemm_rows") {
            true => [tiles[1], tiles[0], batch],
            false => [tiles[0] * tiles[1], splits, batch],
        };
        let grid = grid.map(|g| g as u32);
        let first_launch = if kernel.hopper() {
            let outer = |matrix: &Matrix, rows, items, trans: bool, tile| {
                matrix.map(simulator, rows, items, if trans { [64, 64] } else { [64, tile] })
            };
            let mut hopper = GemmSm90 {
                epilogue: params.epilogue,
                m: params.m,
                n: params.n,
                k: params.k,
                k_slice: params.k_slice,
                a_batched: 1,
                y_f32: params.y_f32,
                ..GemmSm90::default()
            };
            hopper.a[0] = outer(&a, ar, batch, trans[0], kernel.tile[0]);
            hopper.b[0] = outer(&b, br, 1, !trans[1], kernel.tile[1]);
            hopper.y[0] = params.y;
            Launch::new(&*kernel.name, grid, &hopper)
        } else {
            Launch::new(&*kernel.name, grid, &params)
        };
        let mut launches = vec![first_launch];
        if splits > 1 {
            let len = batch * m * n;
            let sum = ffi::GemmSum {
                partial: partial.address(),
                y: result.address(),
                len: len as i64,
                epilogue: last,
                n: n as i32,
                splits: splits as i32,
            };
            launches.push(Launch::new(format!("gemm_sum_{y}"), [len.div_ceil(256) as u32, 1, 1], &sum));
        }
        for launch in &launches {
            // SAFETY: all addresses are buffers that live until the end of this function.
            unsafe { simulator.launch(launch, schedule, 1) }?;
        }
        if !result.tail_is_untouched() || !partial.tail_is_untouched() {
            return Err("wrote past the end".into());
        }
        if first.as_ref().is_some_and(|f| f != result.bytes()) {
            return Err(format!("{schedule:?} gives other bytes: a race"));
        }
        first = Some(result.bytes().to_vec());
    }
    let got = HostTensor::copy_of(y, &[batch, m, n], &first.expect("schedules ran")).to_f64();
    let epsilon = match y {
        DType::F32 => 0.0,
        DType::BF16 => 2f64.powi(-8),
        _ => 2f64.powi(-11),
    };
    for (i, &g) in got.iter().enumerate() {
        let (z, row, col) = (i / (m * n), i / n % m, i % n);
        let mut sum = 0.0;
        for p in 0..k {
            let x = if trans[0] { (z * k + p) * a.step + row } else { (z * m + row) * a.step + p };
            let w = if trans[1] { col * b.step + p } else { p * b.step + col };
            sum += a.values[x] * b.values[w];
        }
        if epilogue {
            sum += bias.values[col];
            let gated = 0.5 * gate.values[row / sample * gate.step + col];
            sum = gated * sum / (1.0 + (-sum).exp()) + residual.values[i / n * residual.cols + col];
        }
        if more {
            let row_values = &got[row * n..][..n];
            let mean = row_values.iter().sum::<f64>() / n as f64;
            let variance = row_values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            let factor = 1.0 + gate.values[row / sample * gate.step + col];
            let want = (g - mean) / (variance + 1e-6).sqrt() * factor + bias.values[col];
            let near = |found: f64, want: f64| (found - want).abs() <= 2f64.powi(-8) * want.abs() + 1e-4;
            let found = half(&normed, kernel.a, i);
            if !near(found, want) {
                return Err(format!("element {:?} normed is {found}, should be {want}", [row, col]));
            }
            if twice && !near(half(&also, kernel.a, i), g) {
                return Err(format!(
                    "element {:?} is {g}, but {} again",
                    [row, col],
                    half(&also, kernel.a, i)
                ));
            }
        }
        // Products of up to a few hundred normal values, added in f32; then rounded once.
        let ok = (g - sum).abs() <= epsilon * sum.abs() + 2e-4;
        if !ok {
            return Err(format!("element {:?} is {g}, should be {sum}", [z, row, col]));
        }
    }
    Ok(())
}

/// Element `i` of a buffer of half-precision numbers.
fn half(of: &GuardedBuffer, dtype: DType, i: usize) -> f64 {
    HostTensor::copy_of(dtype, &[1], &of.bytes()[2 * i..2 * i + 2]).to_f64()[0]
}

fn problems(kernel: &Kernel) -> Vec<Problem> {
    let [tm, tn] = kernel.tile;
    let small = kernel.name.starts_with("gemm_rows");
    let (m, n) = (if small { tm - 3 } else { tm + 9 }, tn + 5);
    let full = Problem {
        batch: 1,
        m,
        n,
        k: 133,
        pad: [0, 0],
        trans: kernel.trans.unwrap_or([false, true]),
        splits: 1,
        y: kernel.a,
        epilogue: true,
    };
    // Rows of 16-, 8-, 4- and 2-byte alignment, by the length that each layout gives a row.
    let aligned = |k: usize, to: usize| {
        let pad = |len: usize| (len + 1).next_multiple_of(2 * to) + to - len;
        let [ta, tb] = full.trans;
        let of = |trans: bool, outer: usize, k: usize| pad(if trans { outer } else { k });
        Problem { k, pad: [of(ta, m, k), of(!tb, n, k)], ..full }
    };
    if kernel.hopper() {
        // Rows of whole 16 bytes, with room between them.
        let of = |m: usize, n: usize, k: usize| {
            let pad = |len: usize| (len + 1).next_multiple_of(8) - len;
            let [ta, tb] = full.trans;
            Problem { m, n, k, pad: [pad(if ta { m } else { k }), pad(if tb { k } else { n })], ..full }
        };
        let mut all = vec![
            Problem { batch: 2, epilogue: false, ..of(70, 75, 133) },
            Problem { splits: 2, ..of(30, 40, 130) },
            Problem { y: DType::F32, ..of(3, 4, 1) },
        ];
        if kernel.a == DType::BF16 {
            // Past one tile, and more steps than there are stages; exactly one tile and one step.
            all.extend([of(m, n, 5 * 64 + 7), Problem { epilogue: false, ..of(tm, tn, 64) }]);
        }
        return all;
    }
    let mut all = vec![
        Problem { m: if small { m } else { tm }, n: tn, k: 64, epilogue: false, pad: [8, 8], ..full },
        Problem { n: tn + 8, y: DType::F32, ..aligned(70, 8) },
        Problem { batch: 2, m: m.min(20), n: n.min(24), k: 7, ..full },
        Problem { m: 3, n: 4, k: 0, pad: [8, 8], ..full },
        Problem { m: m.min(20), n: n.min(24), ..aligned(133, 4) },
        Problem { m: m.min(20), n: n.min(24), ..aligned(133, 2) },
        Problem { m: m.min(20), n: n.min(24), ..aligned(133, 1) },
    ];
    if kernel.a == DType::F16 {
        all.drain(..2); // the same template as bf16: only small problems again
    }
    if kernel.trans.is_none() {
        let turn = |trans| Problem { trans, m: m.min(70), n: n.min(72), k: 50, ..full };
        let padded = |trans| Problem { pad: [2, 4], k: 52, ..turn(trans) };
        for trans in [[false, false], [true, false], [true, true]] {
            all.extend([turn(trans), padded(trans)]);
        }
    }
    if !small {
        all.push(Problem { m: m.min(30), n: n.min(40), splits: 3, ..aligned(133, 8) });
        all.push(Problem { m: m.min(3), n: n.min(4), splits: 4, k: 130, batch: 2, epilogue: false, ..full });
    }
    all
}

/// The large tile of `linear_modulate`, which plans take for more rows than a test has: two tiles each way, k that is
/// no whole step, a result in two types and a norm of it.
#[test]
fn modulation_over_the_edges_of_its_large_tile() {
    let Ok(simulator) = Simulator::new() else {
        eprintln!("skipped: this build has no simulator (no C++ compiler)");
        return;
    };
    let (m, n, k, dtype) = (137, 76, 40, DType::BF16);
    let producer = LinearModulate { experts: 3, routed: true };
    let op =
        LinearNorm { producer: Producer::Modulate(producer), norms: vec![Norm::Adaln(Adaln { eps: 1e-6 })] };
    let mut shapes = vec![vec![1, m, n], vec![1, m, 3]];
    for _ in 0..3 {
        shapes.extend([vec![1, m, k], vec![n, k], vec![n], vec![n, k], vec![n]]);
    }
    shapes.extend([vec![1, 1, n], vec![1, 1, n]]);
    let types: Vec<_> = shapes.into_iter().map(TensorType::f32).collect();
    let types: Vec<_> = types.iter().collect();
    let results = op.infer(&types).unwrap();
    let results: Vec<_> = results.iter().collect();
    let storage = op.cuda_storage(&types, &results, &vec![DType::F32; types.len()], dtype);
    let mut rng = Rng::new(11);
    let host: Vec<_> = types
        .iter()
        .zip(&storage.inputs)
        .map(|(t, &d)| {
            let values = (0..t.len()).map(|_| rng.normal() * 0.4).collect();
            HostTensor::from_f64(t.shape.clone(), values).cast(d)
        })
        .collect();
    let truth = op.eval_f64(&host.iter().map(Array::from_host).collect::<Vec<_>>());
    let buffers: Vec<_> = host.iter().map(|t| GuardedBuffer::of(t.bytes())).collect();
    let layouts: Vec<_> = types.iter().map(|t| Layout::dense(&t.shape)).collect();
    let of = |d: DType| TensorType::new(d, [1, m, n]);
    for schedule in Schedule::ALL {
        let kinds = [of(DType::F32), of(dtype), of(dtype)];
        let out: Vec<_> = kinds.iter().map(|t| GuardedBuffer::new(t.bytes())).collect();
        let mut tables = Vec::new();
        let mut launches = op
            .cuda(&mut CudaCall {
                inputs: (0..host.len())
                    .map(|i| CudaOperand {
                        ty: TensorType::new(storage.inputs[i], host[i].shape()),
                        layout: &layouts[i],
                        address: buffers[i].address(),
                    })
                    .collect(),
                outputs: kinds
                    .iter()
                    .zip(&out)
                    .map(|(ty, b)| CudaResult { ty: ty.clone(), address: b.address() })
                    .collect(),
                scratch: 0,
                device: DeviceFacts::A100,
                constants: &mut |bytes| {
                    tables.push(GuardedBuffer::of(bytes));
                    tables.last().unwrap().address()
                },
                tensor_map: &|spec| simulator.tensor_map(spec),
            })
            .unwrap();
        assert_eq!(launches.len(), 1);
        let tiles = m.div_ceil(128) * (2 * n).div_ceil(128);
        let launch = Launch {
            kernel: "linear_modulate_128x128_bf16".into(),
            grid: [tiles as u32, 1, 1],
            ..launches.remove(0)
        };
        // SAFETY: all addresses are buffers that live until the end of the loop's body.
        unsafe { simulator.launch(&launch, schedule, 1) }.unwrap();
        let got: Vec<_> =
            out.iter().zip(&kinds).map(|(b, t)| HostTensor::copy_of(t.dtype, &t.shape, b.bytes())).collect();
        let error = |got: &HostTensor, want: &Array<f64>| {
            let pairs = got.to_f64().into_iter().zip(want.data.iter());
            pairs.fold(0.0f64, |worst, (g, w)| worst.max((g - w).abs() / w.abs().max(1.0)))
        };
        assert!(error(&got[0], &truth[0]) <= 1e-5, "{schedule:?}: {}", error(&got[0], &truth[0]));
        assert!(error(&got[1], &truth[1]) <= 2f64.powi(-8), "{schedule:?}: {}", error(&got[1], &truth[1]));
        let rounded: Vec<f64> = got[0].to_f32().iter().map(|&x| half::bf16::from_f32(x).to_f64()).collect();
        assert!(got[2].to_f64() == rounded, "{schedule:?}: the result in two types");
        assert!(tables[0].bytes().iter().all(|&b| b == 0), "counters are zero again");
    }
}

#[test]
fn every_kernel_over_the_edges_of_its_tile() {
    use rayon::prelude::*;
    let Ok(simulator) = Simulator::new() else {
        eprintln!("skipped: this build has no simulator (no C++ compiler)");
        return;
    };
    let kernels: Vec<Kernel> = simulator.kernels().iter().filter_map(parse).collect();
    assert!(kernels.len() > 20, "found {} kernels only", kernels.len());
    let failures: Vec<String> = kernels
        .par_iter()
        .flat_map_iter(|kernel| problems(kernel).into_iter().map(move |p| (kernel, p)))
        .filter_map(|(kernel, p)| {
            run(kernel, &p, &simulator).err().map(|e| format!("{}: {p:?}: {e}", kernel.name))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The kernels that the registry's cases of products get on a card, kept in bf16: the benches', or the tests'.
fn chosen(card: DeviceFacts, bench: bool) -> BTreeSet<String> {
    let products = registry().filter(|e| ["linear", "linear_group", "matmul"].contains(&e.family));
    let cases = products.flat_map(|e| (e.cases)()).filter(|c| c.bench == bench);
    let half = |s: &Storage| s.inputs[0] == DType::BF16 && s.inputs[1] == DType::BF16;
    cases
        .flat_map(|case| {
            let storages = check_cuda::storages(&case).into_iter().filter(half);
            storages.flat_map(|s| check_cuda::launches(&case, &s, card).unwrap()).collect::<Vec<_>>()
        })
        .map(|launch| launch.kernel)
        .collect()
}

#[test]
fn hopper_multiplies_with_its_own_kernels() {
    let own = |kernels: &BTreeSet<String>| {
        kernels.iter().filter(|k| k.ends_with("_sm90")).cloned().collect::<BTreeSet<_>>()
    };
    let named = |names: &[&str]| names.iter().map(|n| format!("gemm_{n}_bf16_sm90")).collect::<BTreeSet<_>>();
    let all = named(&["nt_128x256", "nt_128x128", "nn_128x128", "tn_128x128"]);
    let small = chosen(check_cuda::SMALL_HOPPER, false);
    assert_eq!(own(&small), all, "what the checks of all ops run");
    // Whatever it can copy: of the layers of PixArt-α only what has few rows is left to others.
    let large = chosen(DeviceFacts::H100, true);
    assert!(own(&large).is_superset(&named(&["nt_128x256", "tn_128x128"])), "{large:?}");
    for bench in [false, true] {
        assert!(own(&chosen(DeviceFacts::A100, bench)).is_empty());
    }
}
