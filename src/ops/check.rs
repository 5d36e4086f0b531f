//! What every op is held to, as functions that name what is wrong. Tests walk the registry with
//! them; `dreamclear ops` may too.

use super::case::{Case, Rng, convert, to_host};
use crate::device::cpu::{ALIGN, CpuDevice};
use crate::graph::op::{CpuCall, Operand, OperandData, Output};
use crate::graph::reference::{Counted, interpret_f64};
use crate::graph::{
    Array, Gradient, GradientContext, GraphBuilder, Layout, Real, TensorType, ValueId, autodiff,
};
use crate::tensor::{DType, HostTensor};

/// Seed of the operands of all checks; a failure message repeats it.
pub const SEED: u64 = 20_241_210;

/// How operands are laid out for a run of the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// All dense.
    Dense,
    /// This operand with gaps between its rows, where the op accepts that.
    Strided(usize),
    /// This operand in the memory of output 0.
    InPlace(usize),
    /// All dense, and result 0 in this element type as well; for kernels.
    Also(DType),
}

/// 64-byte aligned bytes.
struct AlignedBytes(Vec<[u64; 8]>, usize);

impl AlignedBytes {
    fn new(bytes: usize, fill: u8) -> Self {
        let word = u64::from_ne_bytes([fill; 8]);
        assert_eq!(ALIGN, 64);
        AlignedBytes(vec![[word; 8]; bytes.div_ceil(64) + 1], bytes)
    }
    fn whole(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
    fn get(&self) -> &[u8] {
        &self.whole()[..self.1]
    }
    fn get_mut(&mut self) -> &mut [u8] {
        let n = self.1;
        &mut bytemuck::cast_slice_mut(&mut self.0)[..n]
    }
}

/// Runs the fast path of a case, every output first filled with NaN, and gives the result bytes.
pub fn run_fast(
    case: &Case,
    inputs: &[HostTensor],
    how: Arrangement,
    device: &CpuDevice,
) -> Result<Vec<HostTensor>, String> {
    let types = case.output_types();
    let mut out: Vec<_> = types.iter().map(|t| AlignedBytes::new(t.bytes(), 0xFF)).collect();
    let mut layouts = Vec::new();
    let mut data = Vec::new();
    for (k, t) in inputs.iter().enumerate() {
        let mut layout = Layout::dense(t.shape());
        let mut bytes = AlignedBytes::new(t.bytes().len(), 0);
        bytes.get_mut().copy_from_slice(t.bytes());
        if how == Arrangement::Strided(k) {
            layout = padded(t.shape()).expect("checked by arrangements()");
            let size = t.dtype().size();
            bytes = AlignedBytes::new(layout.span() * size, 0xFF);
            for i in 0..t.len() {
                let at = layout.position(i) * size;
                bytes.get_mut()[at..at + size].copy_from_slice(&t.bytes()[i * size..(i + 1) * size]);
            }
        }
        if how == Arrangement::InPlace(k) {
            out[0].get_mut().copy_from_slice(t.bytes());
        }
        layouts.push(layout);
        data.push(bytes);
    }
    let input_types = case.input_types();
    let output_types: Vec<_> = types.iter().collect();
    let mut scratch =
        AlignedBytes::new(case.op.cpu_scratch(&input_types, &output_types, device.threads()), 0xFF);
    let call = CpuCall {
        inputs: (0..inputs.len())
            .map(|k| Operand {
                ty: input_types[k],
                layout: &layouts[k],
                data: match how {
                    Arrangement::InPlace(i) if i == k => OperandData::InOutput,
                    _ => OperandData::Apart(data[k].get()),
                },
            })
            .collect(),
        outputs: out.iter_mut().zip(&types).map(|(o, ty)| Output { ty, data: o.get_mut() }).collect(),
        scratch: scratch.get_mut(),
    };
    device.run(|| case.op.cpu(call))?;
    for (o, ty) in out.iter().zip(&types) {
        if o.whole()[o.1..].iter().any(|&b| b != 0xFF) {
            return Err(format!("wrote past the end of its result {ty}"));
        }
    }
    Ok(out.iter().zip(&types).map(|(o, t)| HostTensor::copy_of(t.dtype, &t.shape, o.get())).collect())
}

/// Rows of the last axis moved apart.
pub(super) fn padded(shape: &[usize]) -> Option<Layout> {
    let (&last, lead) = shape.split_last()?;
    let wide: Vec<_> = lead.iter().copied().chain([last + 5]).collect();
    (!lead.is_empty()).then(|| Layout { shape: shape.to_vec(), ..Layout::dense(&wide) })
}

/// Every arrangement that the op says it can run.
pub fn arrangements(case: &Case) -> Vec<Arrangement> {
    let mut all = vec![Arrangement::Dense];
    let out = case.output_types();
    for (k, i) in case.inputs.iter().enumerate() {
        if padded(&i.ty.shape).is_some_and(|l| !l.is_dense() && case.op.accepts(k, &l)) {
            all.push(Arrangement::Strided(k));
        }
        if case.op.in_place(k) && i.ty == out[0] {
            all.push(Arrangement::InPlace(k));
        }
    }
    all
}

/// The fast path against the f64 reference: error at most twice that of the naive f32 run (plus
/// a few units in the last place of the largest result), in every arrangement, with the same
/// bytes for one and for two threads.
pub fn fast_path(case: &Case) -> Result<(), String> {
    let inputs = case.draw(SEED);
    let truth = case.op.eval_f64(&inputs);
    let naive = case.op.eval_f32(&inputs.iter().map(convert::<f32>).collect::<Vec<_>>());
    let host: Vec<_> = inputs.iter().zip(&case.inputs).map(|(a, i)| to_host(a, i.ty.dtype)).collect();
    let types = case.output_types();
    for (k, t) in types.iter().enumerate() {
        if truth[k].shape != t.shape {
            return Err(format!("reference result {k} is {:?}, infer says {t}", truth[k].shape));
        }
    }
    let (one, two) =
        (CpuDevice::new(1).map_err(|e| e.to_string())?, CpuDevice::new(2).map_err(|e| e.to_string())?);
    for how in arrangements(case) {
        let fast = run_fast(case, &host, how, &one)?;
        let again = run_fast(case, &host, how, &two)?;
        for k in 0..types.len() {
            if fast[k].bytes() != again[k].bytes() {
                return Err(format!("{how:?}: result {k} depends on the number of threads"));
            }
            let got = fast[k].to_f64();
            close(
                &got,
                &truth[k].data,
                &naive[k].data.iter().map(|x| x.f64()).collect::<Vec<_>>(),
                &types[k],
            )
            .map_err(|e| format!("{how:?} (seed {SEED}): result {k}: {e}"))?;
        }
    }
    Ok(())
}

fn close(got: &[f64], truth: &[f64], naive: &[f64], ty: &TensorType) -> Result<(), String> {
    let scale = truth.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let naive_error = truth.iter().zip(naive).fold(0.0f64, |m, (t, n)| m.max((t - n).abs()));
    let ulp = if ty.dtype.is_float() { f32::EPSILON as f64 } else { 0.0 };
    let tolerance = 2.0 * naive_error + 4.0 * ulp * scale;
    for (i, (g, t)) in got.iter().zip(truth).enumerate() {
        // Written so that NaN fails.
        let ok = (g - t).abs() <= tolerance;
        if !ok {
            let at = unravel(i, &ty.shape);
            return Err(format!("element {at:?} is {g}, should be {t} (tolerance {tolerance:.3e})"));
        }
    }
    Ok(())
}

pub(super) fn unravel(mut i: usize, shape: &[usize]) -> Vec<usize> {
    let mut at: Vec<_> = shape
        .iter()
        .rev()
        .map(|&n| {
            let r = i % n;
            i /= n;
            r
        })
        .collect();
    at.reverse();
    at
}

/// The gradient rule against central differences in f64 along a random direction, with random
/// cotangents. An op that states it has no gradient passes; one whose rule fails does not.
pub fn gradient(case: &Case) -> Result<(), String> {
    let mut b = GraphBuilder::new();
    let text = |e: crate::Error| e.to_string();
    let mut xs = Vec::new();
    for (k, i) in case.inputs.iter().enumerate() {
        xs.push(b.input(&format!("x{k}"), i.ty.dtype, i.ty.shape.clone()).map_err(text)?);
    }
    let ys = b.node_dyn(case.op.clone(), &xs).map_err(text)?;
    let mut seeds = Vec::new();
    for (k, &y) in ys.iter().enumerate() {
        if b.ty(y).dtype.is_float() {
            let shape = b.shape(y).to_vec();
            seeds.push((y, b.input(&format!("dy{k}"), DType::F32, shape).map_err(text)?));
        }
        b.output(&format!("y{k}"), y);
    }
    let floats: Vec<ValueId> = xs.iter().copied().filter(|&x| b.ty(x).dtype.is_float()).collect();
    if let Some(_why) = no_gradient(&mut b, case, &xs, &ys, &seeds)? {
        return Ok(());
    }
    let grads = autodiff::gradients(&mut b, &seeds, &floats, super::add_values).map_err(text)?;
    for (x, dx) in floats.iter().zip(&grads) {
        let k = xs.iter().position(|v| v == x).expect("from xs");
        let dx = dx.ok_or_else(|| format!("operand {k} gets no gradient"))?;
        b.output(&format!("dx{k}"), dx);
    }
    let graph = b.finish();
    let inputs = case.draw(SEED);
    let mut rng = Rng::new(SEED ^ 0xD1FF);
    let mut leaves: std::collections::HashMap<String, Array<f64>> =
        inputs.iter().enumerate().map(|(k, a)| (format!("x{k}"), a.clone())).collect();
    for (k, t) in case.output_types().iter().enumerate() {
        let data = (0..t.len()).map(|_| rng.normal()).collect();
        leaves.insert(format!("dy{k}"), Array::new(t.shape.clone(), data));
    }
    let results: std::collections::HashMap<_, _> =
        interpret_f64(&graph, |n| leaves.get(n).cloned()).map_err(text)?.into_iter().collect();
    let loss = |inputs: &[Array<f64>]| -> f64 {
        let y = case.op.eval_f64(inputs);
        y.iter().enumerate().map(|(k, y)| dot(&y.data, &leaves[&format!("dy{k}")].data)).sum()
    };
    for k in 0..inputs.len() {
        let Some(dx) = results.get(&format!("dx{k}")) else { continue };
        let direction: Vec<f64> = (0..dx.data.len()).map(|_| rng.normal()).collect();
        let analytic = dot(&dx.data, &direction);
        let step = 1e-6;
        let moved = |s: f64| {
            let mut m = inputs.clone();
            m[k].data.iter_mut().zip(&direction).for_each(|(x, d)| *x += s * d);
            loss(&m)
        };
        let numeric = (moved(step) - moved(-step)) / (2.0 * step);
        let scale = dx.data.iter().zip(&direction).map(|(a, b)| (a * b).abs()).sum::<f64>().max(1e-3);
        let error = (analytic - numeric).abs() / scale;
        if !(error <= 1e-6) {
            return Err(format!(
                "operand {k}: along a random direction the gradient is {analytic}, differences give {numeric} \
                 (relative {error:.1e}, seed {SEED})"
            ));
        }
    }
    Ok(())
}

fn no_gradient(
    b: &mut GraphBuilder,
    _case: &Case,
    xs: &[ValueId],
    ys: &[ValueId],
    seeds: &[(ValueId, ValueId)],
) -> Result<Option<&'static str>, String> {
    let mut probe = GraphBuilder::from_graph(b.graph().clone());
    let op = probe.graph().producer(ys[0]).expect("a node's result").op.clone();
    let d_outputs: Vec<_> = ys.iter().map(|y| seeds.iter().find(|s| s.0 == *y).map(|s| s.1)).collect();
    let wanted: Vec<_> = xs.iter().map(|&x| probe.ty(x).dtype.is_float()).collect();
    let mut context =
        GradientContext { b: &mut probe, inputs: xs, outputs: ys, d_outputs: &d_outputs, wanted: &wanted };
    match op.gradient(&mut context).map_err(|e| e.to_string())? {
        Gradient::NotDifferentiable(why) => Ok(Some(why)),
        Gradient::Inputs(_) => Ok(None),
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The stated FLOPs against what the reference really counts: within a factor of two (a fast
/// kernel may share work that the formula repeats), and bytes at least those of operands and
/// results.
pub fn cost(case: &Case) -> Result<(), String> {
    let inputs: Vec<Array<Counted>> = case.draw(SEED).iter().map(convert).collect();
    Counted::take();
    case.op.eval_counted(&inputs);
    let counted = Counted::take() as f64;
    let outputs = case.output_types();
    let stated = case.op.cost(&case.input_types(), &outputs.iter().collect::<Vec<_>>());
    let elements = outputs.iter().map(TensorType::len).sum::<usize>() as f64;
    // An operation or two per result is noise: comparisons and index arithmetic are not counted.
    let slack = 2.0 * elements;
    let ok = stated.flops <= 2.0 * counted + slack && counted <= 2.0 * stated.flops + slack;
    if !ok {
        return Err(format!("states {} FLOPs, the reference does {counted}", stated.flops));
    }
    if !case.op.is_view() && !(stated.bytes > 0.0) {
        return Err("states no bytes".into());
    }
    Ok(())
}
