//! What the CUDA kernels of every op are held to, on the simulator and on GPUs alike.

use half::{bf16, f16};

use super::case::{Case, convert, to_host};
use super::check::{Arrangement, SEED, padded, unravel};
use crate::device::kernel::{DeviceFacts, Launch};
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult, Storage};
use crate::graph::{Array, Layout, TensorType};
use crate::tensor::{DType, HostTensor};

mod executor;

pub use executor::{Executor, OnDevice, Simulated};

/// Compute types of a CUDA plan.
pub const COMPUTE: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Every arrangement of operands that the kernels say they can run.
fn arrangements(case: &Case, storage: &Storage) -> Vec<Arrangement> {
    let mut all = vec![Arrangement::Dense];
    let out = case.output_types();
    for (k, i) in case.inputs.iter().enumerate() {
        if padded(&i.ty.shape).is_some_and(|l| !l.is_dense() && case.op.cuda_accepts(k, &l)) {
            all.push(Arrangement::Strided(k));
        }
        if case.op.cuda_in_place(k) && i.ty == out[0] && storage.inputs[k] == storage.outputs[0] {
            all.push(Arrangement::InPlace(k));
        }
    }
    let (it, ot): (Vec<_>, Vec<_>) = (
        case.inputs.iter().zip(&storage.inputs).map(|(i, &d)| stored(&i.ty, d)).collect(),
        out.iter().zip(&storage.outputs).map(|(t, &d)| stored(t, d)).collect(),
    );
    let (it, ot): (Vec<_>, Vec<_>) = (it.iter().collect(), ot.iter().collect());
    let also = [DType::BF16, DType::F16].into_iter().filter(|&d| case.op.cuda_also(&it, &ot, d));
    all.extend(also.map(Arrangement::Also));
    all
}

/// The ways in which plans of all compute types may keep this case's operands and results.
pub fn storages(case: &Case) -> Vec<Storage> {
    let inputs = case.input_types();
    let outputs = case.output_types();
    let outputs: Vec<_> = outputs.iter().collect();
    let mut all: Vec<Storage> = Vec::new();
    for compute in COMPUTE {
        for half in [false, true] {
            let kept: Vec<_> =
                inputs.iter().map(|t| if half && t.dtype.is_float() { compute } else { t.dtype }).collect();
            let storage = case.op.cuda_storage(&inputs, &outputs, &kept, compute);
            if !all.contains(&storage) {
                all.push(storage);
            }
        }
    }
    all
}

fn stored(ty: &TensorType, dtype: DType) -> TensorType {
    TensorType::new(dtype, ty.shape.clone())
}

/// The launches of a case on a card, over addresses that mean nothing; or why there are none.
pub fn launches(case: &Case, storage: &Storage, device: DeviceFacts) -> Result<Vec<Launch>, String> {
    let inputs = case.input_types();
    let outputs = case.output_types();
    let layouts: Vec<_> = inputs.iter().map(|t| Layout::dense(&t.shape)).collect();
    let place = |i: usize| (i as u64 + 1) << 40;
    case.op.cuda(&mut CudaCall {
        inputs: inputs
            .iter()
            .enumerate()
            .map(|(i, t)| CudaOperand {
                ty: stored(t, storage.inputs[i]),
                layout: &layouts[i],
                address: place(i),
            })
            .collect(),
        outputs: outputs
            .iter()
            .enumerate()
            .map(|(i, t)| CudaResult { ty: stored(t, storage.outputs[i]), address: place(100 + i) })
            .collect(),
        scratch: place(200),
        device,
        constants: &mut |_| place(300),
        tensor_map: &|spec| spec.check().map(|()| Default::default()),
    })
}

/// One way in which a plan may run a case: what was run, and how near the truth it came.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Element types of operands and results, `bf16,bf16 -> f32`.
    pub storage: String,
    /// How the operands lay.
    pub arrangement: Arrangement,
    /// The kernels, in the order of their launches.
    pub kernels: Vec<String>,
    /// What came of it, or what was wrong.
    pub verdict: Result<Accuracy, String>,
}

/// How near results came to the f64 reference: the worst of all results of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// ‖got − truth‖ / ‖truth‖.
    pub relative_l2: f64,
    /// The error over what is allowed, by element or as a whole: at most 1.
    pub of_allowed: f64,
}

impl Accuracy {
    /// The worse of each.
    pub fn worst(self, other: Self) -> Self {
        Accuracy {
            relative_l2: self.relative_l2.max(other.relative_l2),
            of_allowed: self.of_allowed.max(other.of_allowed),
        }
    }
}

/// A case with its operands in memory, ready to be launched.
struct Prepared<B> {
    launches: Vec<Launch>,
    types: Vec<TensorType>,
    inputs: Vec<B>,
    outputs: Vec<B>,
    /// Working memory and tables: the launches point into them.
    _held: Vec<B>,
}

/// Brings a case's operands into memory; every result is poison.
fn prepare<E: Executor>(
    case: &Case,
    inputs: &[HostTensor],
    storage: &Storage,
    how: Arrangement,
    executor: &E,
) -> Result<Prepared<E::Buffer>, String> {
    let poison = |bytes: usize| vec![0xFF; bytes];
    let mut types: Vec<_> =
        case.output_types().iter().zip(&storage.outputs).map(|(t, &d)| stored(t, d)).collect();
    if let Arrangement::Also(dtype) = how {
        types.push(stored(&types[0], dtype));
    }
    let mut results: Vec<_> = types.iter().map(|t| poison(t.bytes())).collect();
    let mut layouts = Vec::new();
    let mut buffers = Vec::new();
    for (k, t) in inputs.iter().enumerate() {
        let mut layout = Layout::dense(t.shape());
        let mut bytes = t.bytes().to_vec();
        if how == Arrangement::Strided(k) {
            layout = padded(t.shape()).expect("checked by arrangements()");
            let size = t.dtype().size();
            bytes = poison(layout.span() * size);
            for i in 0..t.len() {
                let at = layout.position(i) * size;
                bytes[at..at + size].copy_from_slice(&t.bytes()[i * size..(i + 1) * size]);
            }
        }
        if how == Arrangement::InPlace(k) {
            results[0].copy_from_slice(t.bytes());
        }
        layouts.push(layout);
        buffers.push(executor.buffer(&bytes)?);
    }
    let outputs = results.iter().map(|r| executor.buffer(r)).collect::<Result<Vec<_>, _>>()?;
    let operands: Vec<_> = inputs.iter().map(|t| TensorType::new(t.dtype(), t.shape())).collect();
    let scratch =
        case.op.cuda_scratch(&operands.iter().collect::<Vec<_>>(), &types.iter().collect::<Vec<_>>());
    let scratch = executor.buffer(&poison(scratch))?;
    let (mut held, mut refused) = (Vec::new(), None);
    let launches = case.op.cuda(&mut CudaCall {
        inputs: (0..inputs.len())
            .map(|k| {
                let own = if how == Arrangement::InPlace(k) { &outputs[0] } else { &buffers[k] };
                CudaOperand { ty: operands[k].clone(), layout: &layouts[k], address: executor.address(own) }
            })
            .collect(),
        outputs: outputs
            .iter()
            .zip(&types)
            .map(|(o, ty)| CudaResult { ty: ty.clone(), address: executor.address(o) })
            .collect(),
        scratch: executor.address(&scratch),
        device: executor.facts(),
        tensor_map: &|spec| executor.tensor_map(spec),
        constants: &mut |bytes| match executor.buffer(bytes) {
            Ok(buffer) => {
                held.push(buffer);
                executor.address(held.last().expect("just pushed"))
            }
            Err(e) => {
                refused = Some(e);
                0
            }
        },
    })?;
    held.push(scratch);
    match refused {
        Some(e) => Err(e),
        None => Ok(Prepared { launches, types, inputs: buffers, outputs, _held: held }),
    }
}

impl<B> Prepared<B> {
    /// The kernels, in order.
    fn kernels(&self) -> Vec<String> {
        self.launches.iter().map(|l| l.kernel.clone()).collect()
    }

    /// Launches and reads the results.
    fn run<E: Executor<Buffer = B>>(
        &self,
        inputs: &[HostTensor],
        how: Arrangement,
        executor: &E,
        way: usize,
    ) -> Result<Vec<HostTensor>, String> {
        // SAFETY: all addresses are buffers that `self` holds.
        unsafe { executor.launch(&self.launches, way) }?;
        for (k, buffer) in self.inputs.iter().enumerate() {
            let bytes = executor.read(buffer, &format!("operand {k}"))?;
            if how == Arrangement::Dense && bytes != inputs[k].bytes() {
                return Err(format!("changed operand {k}"));
            }
        }
        let results = self.outputs.iter().zip(&self.types).enumerate();
        results
            .map(|(k, (buffer, ty))| {
                let bytes = executor.read(buffer, &format!("result {k}"))?;
                Ok(HostTensor::copy_of(ty.dtype, &ty.shape, &bytes))
            })
            .collect()
    }
}

/// An H100 of which one multiprocessor is left: small cases fill it, and get the kernels of large ones.
pub const SMALL_HOPPER: DeviceFacts = DeviceFacts { multiprocessors: 1, ..DeviceFacts::H100 };

/// The kernels against the f64 reference on the simulator, in every way in which a plan may run them on an
/// A100, and on [`SMALL_HOPPER`] where that takes other kernels; the first that is wrong.
pub fn kernels(case: &Case) -> Result<(), String> {
    let simulated = |facts| Simulated::new(facts).map_err(|e| e.to_string());
    first_fault(check(case, &simulated(DeviceFacts::A100)?))?;
    let hopper = check_others(case, &simulated(SMALL_HOPPER)?, DeviceFacts::A100);
    first_fault(hopper).map_err(|e| format!("on Hopper: {e}"))
}

fn first_fault(checked: Vec<Checked>) -> Result<(), String> {
    match checked.into_iter().find_map(|c| Some((c.verdict.err()?, c.storage, c.arrangement))) {
        Some((e, storage, how)) => Err(format!("{storage}: {how:?} (seed {SEED}): {e}")),
        None => Ok(()),
    }
}

/// The kernels against the f64 reference over operands as they are stored, for every way in which a plan
/// may keep them and every accepted arrangement; the bytes must not depend on the way of running.
pub fn check<E: Executor>(case: &Case, executor: &E) -> Vec<Checked> {
    storages(case).iter().flat_map(|storage| check_storage(case, storage, executor)).collect()
}

/// [`check`] for the storages alone in which the executor's card takes other kernels than this one.
pub fn check_others<E: Executor>(case: &Case, executor: &E, than: DeviceFacts) -> Vec<Checked> {
    let kernels = |storage: &Storage, device| {
        let launches = launches(case, storage, device).unwrap_or_default();
        launches.into_iter().map(|l| l.kernel).collect::<Vec<_>>()
    };
    let mut storages = storages(case);
    storages.retain(|s| kernels(s, executor.facts()) != kernels(s, than));
    storages.iter().flat_map(|storage| check_storage(case, storage, executor)).collect()
}

fn check_storage<E: Executor>(case: &Case, storage: &Storage, executor: &E) -> Vec<Checked> {
    let host: Vec<_> = case.draw(SEED).iter().zip(&storage.inputs).map(|(a, &d)| to_host(a, d)).collect();
    let inputs: Vec<Array<f64>> = host.iter().map(Array::from_host).collect();
    let truth = case.op.eval_f64(&inputs);
    let half = storage
        .inputs
        .iter()
        .chain(&storage.outputs)
        .copied()
        .find(|d| matches!(d, DType::BF16 | DType::F16));
    let naive: Vec<Array<f64>> = half.and_then(|d| case.op.naive_in(&inputs, d)).unwrap_or_else(|| {
        let plain = case.op.eval_f32(&inputs.iter().map(convert::<f32>).collect::<Vec<_>>());
        plain
            .iter()
            .map(|a| Array::new(a.shape.clone(), a.data.iter().map(|&x| f64::from(x)).collect()))
            .collect()
    });
    let judge = |got: &[HostTensor]| {
        got.iter().enumerate().try_fold(Accuracy::default(), |worst, (k, g)| {
            let rounded = Array::from_host(&to_host(&naive[k], g.dtype()));
            let accuracy = close(&g.to_f64(), &truth[k], &rounded, half.unwrap_or(g.dtype()))
                .map_err(|e| format!("result {k}: {e}"))?;
            Ok(worst.worst(accuracy))
        })
    };
    let names = |d: &[DType]| d.iter().map(|d| d.name()).collect::<Vec<_>>().join(",");
    let text = format!("{} -> {}", names(&storage.inputs), names(&storage.outputs));
    arrangements(case, storage)
        .into_iter()
        .map(|how| {
            let mut kernels = Vec::new();
            let verdict =
                in_all_ways(case, &host, storage, how, executor, &mut kernels).and_then(|g| judge(&g));
            Checked { storage: text.clone(), arrangement: how, kernels, verdict }
        })
        .collect()
}

/// The results, which must be the same bytes whichever way the launches are run. Operands and results are
/// brought into memory anew for each.
fn in_all_ways<E: Executor>(
    case: &Case,
    inputs: &[HostTensor],
    storage: &Storage,
    how: Arrangement,
    executor: &E,
    kernels: &mut Vec<String>,
) -> Result<Vec<HostTensor>, String> {
    let mut first: Option<Vec<HostTensor>> = None;
    for way in 0..executor.ways() {
        let named = |e| format!("{}: {e}", executor.way(way));
        let prepared = prepare(case, inputs, storage, how, executor).map_err(named)?;
        *kernels = prepared.kernels();
        let mut got = prepared.run(inputs, how, executor, way).map_err(named)?;
        if let Arrangement::Also(dtype) = how {
            let also = got.pop().expect("asked for");
            let rounded = |&x: &f32| match dtype {
                DType::BF16 => bf16::from_f32(x).to_f64(),
                _ => f16::from_f32(x).to_f64(),
            };
            if !got[0].to_f32().iter().map(rounded).eq(also.to_f64()) {
                return Err(format!("{}: result 0 in {dtype} is not result 0, rounded", executor.way(way)));
            }
        }
        let Some(first) = &first else {
            first = Some(got);
            continue;
        };
        if let Some(k) = (0..got.len()).find(|&k| got[k].bytes() != first[k].bytes()) {
            let (a, b) = (first[k].to_f64(), got[k].to_f64());
            let i = (0..a.len()).find(|&i| a[i].to_bits() != b[i].to_bits()).unwrap_or(0);
            return Err(format!(
                "result {k} depends on the {}: a race (element {:?} is {} in {}, {} in {})",
                E::VARIES,
                unravel(i, got[k].shape()),
                a[i],
                executor.way(0),
                b[i],
                executor.way(way)
            ));
        }
    }
    Ok(first.expect("there is a way to run"))
}

/// As close to the truth as twice the naive run in the same dtype: in the sum of squares over the whole
/// result, and for each element up to a few units in the last place of the largest.
fn close(got: &[f64], truth: &Array<f64>, naive: &Array<f64>, dtype: DType) -> Result<Accuracy, String> {
    let epsilon = match dtype {
        DType::BF16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        DType::F32 => f64::from(f32::EPSILON),
        _ => 0.0,
    };
    let scale = truth.data.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let naive_error = truth.data.iter().zip(&naive.data).fold(0.0f64, |m, (t, n)| m.max((t - n).abs()));
    let tolerance = 2.0 * naive_error + 4.0 * epsilon * scale;
    let mut worst = 0.0f64;
    for (i, (g, t)) in got.iter().zip(&truth.data).enumerate() {
        let off = (g - t).abs();
        let ok = off <= tolerance;
        if !ok {
            let at = unravel(i, &truth.shape);
            return Err(format!("element {at:?} is {g}, should be {t} (tolerance {tolerance:.3e})"));
        }
        worst = worst.max(off);
    }
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let n = (truth.data.len() as f64).sqrt();
    let error = norm(&mut got.iter().zip(&truth.data).map(|(g, t)| g - t));
    let allowed = 2.0 * norm(&mut naive.data.iter().zip(&truth.data).map(|(g, t)| g - t))
        + 2.0 * f64::from(f32::EPSILON) * scale * n;
    let ok = error <= allowed;
    if !ok {
        return Err(format!("the error is {error:.3e} (root of the sum of squares), allowed {allowed:.3e}"));
    }
    let share = |x: f64, of: f64| if x == 0.0 { 0.0 } else { x / of };
    Ok(Accuracy {
        relative_l2: share(error, norm(&mut truth.data.iter().copied())),
        of_allowed: share(worst, tolerance).max(share(error, allowed)),
    })
}
