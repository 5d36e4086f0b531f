//! Whole small networks on a device: against the CPU, recorded against launch by launch, run against run.

use serde_json::json;

use super::examples::{Example, Results, Source};
use super::{Context, Row};
use crate::device::Device;
use crate::device::kernel::DeviceMemory;
use crate::error::{Error, Result};
use crate::graph::Outputs;
use crate::tensor::{DType, HostTensor};

/// The most by which results may differ from the CPU's, as relative L2 distance. A step of rounding to bf16 is
/// 2⁻⁹, to f16 2⁻¹²; these networks round some dozens of times on the way.
pub fn bar(compute: DType) -> f64 {
    match compute {
        DType::BF16 => 16.0 * 2f64.powi(-9),
        DType::F16 => 16.0 * 2f64.powi(-12),
        _ => 1e-5,
    }
}

/// The most by which a gradient in f32 may differ from the CPU's.
pub const GRADIENT_BAR: f64 = 1e-4;

/// Below this norm a gradient is zero but for rounding (a bias before a norm), and has no relative error.
const NO_GRADIENT: f64 = 1e-6;

/// The forward on the device against the CPU's.
pub fn forward(context: &Context, source: &Source, compute: DType) -> Result<Row> {
    let example = Example::open(source)?;
    let want = example.forward(&context.host().clone().into())?.outputs;
    let got = example.forward(&context.device(compute))?;
    Ok(compared(&want, &got, bar(compute), |_| false))
}

/// Every gradient of a training step, in f32, against the CPU's.
pub fn training_step(context: &Context, source: &Source) -> Result<Row> {
    let example = Example::open(source)?;
    let want = example.training_step(&context.host().clone().into())?.outputs;
    let got = example.training_step(&context.device(DType::F32))?;
    let gradients = want.iter().filter(|(name, _)| name.starts_with("grad.")).count();
    let mut row = compared(&want, &got, GRADIENT_BAR, |want| norm(&want.to_f64()) <= NO_GRADIENT);
    row.found.insert("gradients".into(), gradients.into());
    if gradients <= 20 {
        row.fail(format!("expected more than 20 gradients, found {gradients}"));
    }
    Ok(row)
}

/// The worst relative L2 distance of all results but those that `passes` over.
fn compared(want: &Outputs, got: &Results, bar: f64, passes: impl Fn(&HostTensor) -> bool) -> Row {
    let mut row = Row { kernels: got.kernels.clone(), ..Row::default() };
    let (mut worst, mut of) = (0.0f64, String::new());
    if want.len() != got.outputs.len() {
        row.fail(format!("expected {} results, found {}", want.len(), got.outputs.len()));
    }
    for ((name, want), (_, got)) in want.iter().zip(&got.outputs) {
        let error = relative(got, want);
        if passes(want) && error.is_finite() {
            continue;
        }
        if !(error <= bar) {
            row.fail(format!("{name}: relative L2 {error:.3e} > {bar:.1e}"));
        }
        if !(error <= worst) {
            (worst, of) = (error, name.clone());
        }
    }
    row.found.insert("relative_l2".into(), json!(worst));
    row.found.insert("bar".into(), json!(bar));
    row.found.insert("worst".into(), of.into());
    row
}

/// A plan as it is replayed, against the same plan launch by launch with a wait after each step, twice.
pub fn replay(context: &Context, source: &Source, compute: DType) -> Result<Row> {
    let example = Example::open(source)?;
    let device = context.device(compute);
    let (mut recorded, mut plans) = (0, 0);
    let results = example.with(&device, Ok, |exe, inputs| {
        let once = exe.run(inputs)?;
        let stepwise = exe.run_checked(inputs)?;
        same(&once, &stepwise, "replayed", "launch by launch")?;
        same(&once, &exe.run(inputs)?, "replayed", "replayed again")?;
        recorded += usize::from(exe.is_recorded());
        plans += 1;
        Ok(once)
    })?;
    let mut row = Row { kernels: results.kernels, ..Row::default() };
    row.found.insert("plans".into(), plans.into());
    row.found.insert("recorded".into(), recorded.into());
    Ok(row)
}

/// Two runs in memory of their own each: the same bytes.
pub fn determinism(context: &Context, source: &Source, compute: DType) -> Result<Row> {
    let example = Example::open(source)?;
    let run = |device: &Device| example.with(device, Ok, |exe, inputs| exe.run(inputs));
    let first = run(&context.device(compute))?;
    // What is in use now moves the second run's memory to other addresses.
    let _in_the_way = DeviceMemory::new(&context.kernels, 3 << 20)?;
    let second = run(&context.device(compute))?;
    same(&first.outputs, &second.outputs, "the first run", "the second")?;
    Ok(Row { kernels: second.kernels, ..Row::default() })
}

fn same(a: &Outputs, b: &Outputs, name_a: &str, name_b: &str) -> Result<()> {
    if a.len() != b.len() {
        return Err(Error::Run(format!("{name_a} gives {} results, {name_b} {}", a.len(), b.len())));
    }
    for ((name, a), (_, b)) in a.iter().zip(b) {
        if a.bytes() != b.bytes() {
            let (x, y) = (a.to_f64(), b.to_f64());
            let i = (0..x.len()).find(|&i| x[i].to_bits() != y[i].to_bits()).unwrap_or(0);
            return Err(Error::Run(format!(
                "{name}: element {i} is {} {name_a}, {} {name_b}; expected the same bytes",
                x[i], y[i]
            )));
        }
    }
    Ok(())
}

/// ‖got − want‖ / ‖want‖, NaN if anything is; infinite if their shapes differ.
pub fn relative(got: &HostTensor, want: &HostTensor) -> f64 {
    if got.shape() != want.shape() {
        return f64::INFINITY;
    }
    let (a, b) = (got.to_f64(), want.to_f64());
    let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let (off, of) = (norm(&difference), norm(&b));
    if off == 0.0 { 0.0 } else { off / of }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}
