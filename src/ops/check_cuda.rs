//! What the CUDA kernels of every op are held to, on the simulator.

use super::case::{Case, convert, to_host};
use super::check::{Arrangement, SEED, padded, unravel};
use crate::device::kernel::{DeviceFacts, Launch};
use crate::device::sim::{GuardedBuffer, Schedule, Simulator};
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult, Storage};
use crate::graph::{Array, Layout, TensorType};
use crate::tensor::{DType, HostTensor};

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

/// The launches of a case over addresses that mean nothing; or why there are none.
pub fn launches(case: &Case, storage: &Storage) -> Result<Vec<Launch>, String> {
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
        device: DeviceFacts::A100,
        constants: &mut |_| place(300),
    })
}

/// Runs a case's kernels on the simulator; every result is poison before.
pub fn run(
    case: &Case,
    inputs: &[HostTensor],
    storage: &Storage,
    how: Arrangement,
    schedule: Schedule,
    simulator: &Simulator,
) -> Result<Vec<HostTensor>, String> {
    let types: Vec<_> =
        case.output_types().iter().zip(&storage.outputs).map(|(t, &d)| stored(t, d)).collect();
    let mut out: Vec<_> = types.iter().map(|t| GuardedBuffer::new(t.bytes())).collect();
    let mut layouts = Vec::new();
    let mut buffers = Vec::new();
    for (k, t) in inputs.iter().enumerate() {
        let mut layout = Layout::dense(t.shape());
        let mut buffer = GuardedBuffer::of(t.bytes());
        if how == Arrangement::Strided(k) {
            layout = padded(t.shape()).expect("checked by arrangements()");
            let size = t.dtype().size();
            buffer = GuardedBuffer::new(layout.span() * size);
            for i in 0..t.len() {
                let at = layout.position(i) * size;
                buffer.bytes_mut()[at..at + size].copy_from_slice(&t.bytes()[i * size..(i + 1) * size]);
            }
        }
        if how == Arrangement::InPlace(k) {
            out[0].bytes_mut().copy_from_slice(t.bytes());
        }
        layouts.push(layout);
        buffers.push(buffer);
    }
    let it: Vec<_> = inputs.iter().map(|t| TensorType::new(t.dtype(), t.shape())).collect();
    let scratch = GuardedBuffer::new(
        case.op.cuda_scratch(&it.iter().collect::<Vec<_>>(), &types.iter().collect::<Vec<_>>()),
    );
    let mut constants = Vec::new();
    let launches = case.op.cuda(&mut CudaCall {
        inputs: (0..inputs.len())
            .map(|k| CudaOperand {
                ty: it[k].clone(),
                layout: &layouts[k],
                address: if how == Arrangement::InPlace(k) { out[0].address() } else { buffers[k].address() },
            })
            .collect(),
        outputs: out
            .iter()
            .zip(&types)
            .map(|(o, ty)| CudaResult { ty: ty.clone(), address: o.address() })
            .collect(),
        scratch: scratch.address(),
        device: DeviceFacts::A100,
        constants: &mut |bytes| {
            constants.push(GuardedBuffer::of(bytes));
            constants.last().expect("just pushed").address()
        },
    })?;
    for launch in &launches {
        // SAFETY: all addresses are buffers that live until the end of this function.
        unsafe { simulator.launch(launch, schedule, 1) }?;
    }
    for (k, o) in out.iter().enumerate() {
        if !o.tail_is_untouched() {
            return Err(format!("wrote past the end of result {k}"));
        }
        if !o.head_is_untouched() {
            return Err(format!("wrote before the start of result {k}"));
        }
    }
    for (k, b) in buffers.iter().enumerate() {
        if how == Arrangement::Dense && b.bytes() != inputs[k].bytes() {
            return Err(format!("changed operand {k}"));
        }
    }
    Ok(out.iter().zip(&types).map(|(o, t)| HostTensor::copy_of(t.dtype, &t.shape, o.bytes())).collect())
}

/// The kernels against the f64 reference over operands as they are stored, for every way in which a plan
/// may keep them, every accepted arrangement and every schedule; the bytes must not depend on the schedule.
pub fn kernels(case: &Case) -> Result<(), String> {
    let simulator = Simulator::new().map_err(|e| e.to_string())?;
    for storage in storages(case) {
        check(case, &storage, &simulator).map_err(|e| {
            let names = |d: &[DType]| d.iter().map(|d| d.name()).collect::<Vec<_>>().join(",");
            format!("{} -> {}: {e}", names(&storage.inputs), names(&storage.outputs))
        })?;
    }
    Ok(())
}

fn check(case: &Case, storage: &Storage, simulator: &Simulator) -> Result<(), String> {
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
    for how in arrangements(case, storage) {
        let mut first: Option<Vec<HostTensor>> = None;
        for schedule in Schedule::ALL {
            let got = run(case, &host, storage, how, schedule, simulator)
                .map_err(|e| format!("{how:?}, {schedule:?}: {e}"))?;
            if let Some(first) = &first {
                if let Some(k) = (0..got.len()).find(|&k| got[k].bytes() != first[k].bytes()) {
                    let (a, b) = (first[k].to_f64(), got[k].to_f64());
                    let i = (0..a.len()).find(|&i| a[i].to_bits() != b[i].to_bits()).unwrap_or(0);
                    let at = unravel(i, &truth[k].shape);
                    return Err(format!(
                        "{how:?}: result {k} depends on the schedule: a race (element {at:?} is {}, under {schedule:?} {})",
                        a[i], b[i]
                    ));
                }
                continue;
            }
            for (k, g) in got.iter().enumerate() {
                let rounded = Array::from_host(&to_host(&naive[k], g.dtype()));
                close(&g.to_f64(), &truth[k], &rounded, half.unwrap_or(g.dtype()))
                    .map_err(|e| format!("{how:?} (seed {SEED}): result {k}: {e}"))?;
            }
            first = Some(got);
        }
    }
    Ok(())
}

/// As close to the truth as twice the naive run in the same dtype: in the sum of squares over the whole
/// result, and for each element up to a few units in the last place of the largest.
fn close(got: &[f64], truth: &Array<f64>, naive: &Array<f64>, dtype: DType) -> Result<(), String> {
    let epsilon = match dtype {
        DType::BF16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        DType::F32 => f64::from(f32::EPSILON),
        _ => 0.0,
    };
    let scale = truth.data.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let naive_error = truth.data.iter().zip(&naive.data).fold(0.0f64, |m, (t, n)| m.max((t - n).abs()));
    let tolerance = 2.0 * naive_error + 4.0 * epsilon * scale;
    for (i, (g, t)) in got.iter().zip(&truth.data).enumerate() {
        let ok = (g - t).abs() <= tolerance;
        if !ok {
            let at = unravel(i, &truth.shape);
            return Err(format!("element {at:?} is {g}, should be {t} (tolerance {tolerance:.3e})"));
        }
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
    Ok(())
}
