//! Every case of the op registry on a device.

use std::sync::Arc;

use serde_json::json;

use super::networks::{bar, relative};
use super::{Context, Place, Row, outside};
use crate::bench::ops::{SEED, draw};
use crate::device::kernel::{DeviceFacts, DeviceMemory, KernelDevice, Launch};
use crate::error::{Error, Result};
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult, Storage};
use crate::graph::{Cost, Layout, TensorType};
use crate::ops::Case;
use crate::ops::check::{Arrangement, run_fast};
use crate::ops::check_cuda::{self, Checked, Executor, OnDevice, Simulated};
use crate::tensor::{DType, HostTensor};

/// A small case in every way in which a plan may run it, a row for each; see [`check_cuda::check`]. Where a card
/// with one multiprocessor would take other kernels, those run too: small cases fill it, and get the kernels of
/// large ones.
pub fn small(context: &Context, case: &Case) -> Result<Vec<Row>> {
    let whole = context.kernels.facts();
    let one = DeviceFacts { multiprocessors: 1, ..whole };
    match context.place {
        Place::Simulator => Ok(both(case, &Simulated::new(whole)?, &Simulated::new(one)?)),
        Place::Device => {
            let device = || match context.small {
                // For sanitizers.
                true => OnDevice::without_bands(context.kernels.clone()),
                false => OnDevice::new(context.kernels.clone()),
            };
            Ok(both(case, &device(), &device().playing(one)))
        }
    }
}

fn both<E: Executor>(case: &Case, whole: &E, one: &E) -> Vec<Row> {
    let mut rows: Vec<Row> = check_cuda::check(case, whole).into_iter().map(row).collect();
    rows.extend(check_cuda::check_others(case, one, whole.facts()).into_iter().map(|checked| {
        let mut row = row(checked);
        row.found.insert("as_if".into(), "one multiprocessor".into());
        row
    }));
    rows
}

/// A check of the kernels outside the registry.
pub fn outside(context: &Context, name: &str) -> Result<Row> {
    Ok(match context.place {
        Place::Simulator => outside::run(name, &Simulated::new(context.kernels.facts())?),
        Place::Device => outside::run(name, &OnDevice::new(context.kernels.clone())),
    })
}

fn row(checked: Checked) -> Row {
    let mut row = Row { kernels: checked.kernels, ..Row::default() };
    row.found.insert("storage".into(), checked.storage.into());
    row.found.insert("arrangement".into(), format!("{:?}", checked.arrangement).into());
    match checked.verdict {
        Ok(accuracy) => {
            row.found.insert("relative_l2".into(), json!(accuracy.relative_l2));
            row.found.insert("of_allowed".into(), json!(accuracy.of_allowed));
        }
        Err(e) => row.fail(e),
    }
    row
}

/// A case of a model's size, against the CPU's fast path over the same (rounded) operands: relative L2, and each
/// element relative to the largest, at most [`bar`].
pub fn full(context: &Context, case: &Case, compute: DType) -> Result<Row> {
    let storage = storage(case, compute);
    let operands = operands(case, &storage);
    let wide: Vec<_> = operands.iter().zip(&case.inputs).map(|(t, i)| widened(t, i.ty.dtype)).collect();
    let want = run_fast(case, &wide, Arrangement::Dense, context.host()).map_err(Error::Run)?;
    drop(wide);
    let mut loaded = Loaded::new(case, &operands, &storage, &context.kernels)?;
    loaded.launch()?;
    let mut row = Row { kernels: loaded.kernels(), ..Row::default() };
    let mut worst = 0.0f64;
    for (k, want) in want.iter().enumerate() {
        let got = loaded.result(k)?;
        let error = relative(&got, want);
        let (got, want) = (got.to_f32(), want.to_f32());
        let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let off = got.iter().zip(want.iter()).fold(0.0f32, |m, (g, w)| nan_or_max(m, (g - w).abs()));
        let of_largest = if off == 0.0 { 0.0 } else { f64::from(off / largest) };
        if !(error <= bar(compute)) || !(of_largest <= bar(compute)) {
            row.fail(format!(
                "result {k}: relative L2 {error:.3e}, worst element {of_largest:.3e} of the largest; expected at \
                 most {:.1e}",
                bar(compute)
            ));
        }
        worst = if error <= worst { worst } else { error };
    }
    row.found.insert("relative_l2".into(), json!(worst));
    row.found.insert("bar".into(), json!(bar(compute)));
    Ok(row)
}

/// The larger, or NaN if either is.
fn nan_or_max(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

fn widened(t: &HostTensor, dtype: DType) -> HostTensor {
    if t.dtype() == dtype { t.clone() } else { t.cast(dtype) }
}

/// How a plan of this compute type keeps the case's operands when all that it may keep in half precision are.
pub fn storage(case: &Case, compute: DType) -> Storage {
    let inputs = case.input_types();
    let outputs = case.output_types();
    let kept: Vec<_> = inputs.iter().map(|t| if t.dtype.is_float() { compute } else { t.dtype }).collect();
    case.op.cuda_storage(&inputs, &outputs.iter().collect::<Vec<_>>(), &kept, compute)
}

/// Operands with random contents, as they are stored.
pub fn operands(case: &Case, storage: &Storage) -> Vec<HostTensor> {
    let drawn = case.inputs.iter().zip(SEED..).map(|(input, seed)| draw(input, seed));
    drawn.zip(&storage.inputs).map(|(t, &dtype)| widened(&t, dtype)).collect()
}

/// A case with dense operands in device memory.
pub struct Loaded {
    device: Arc<dyn KernelDevice>,
    launches: Vec<Launch>,
    types: Vec<TensorType>,
    outputs: Vec<DeviceMemory>,
    cost: Cost,
    /// Operands, working memory and tables: the launches point into them.
    _held: Vec<DeviceMemory>,
}

impl Loaded {
    /// Brings operands into device memory and makes the launches.
    pub fn new(
        case: &Case,
        operands: &[HostTensor],
        storage: &Storage,
        device: &Arc<dyn KernelDevice>,
    ) -> Result<Self> {
        let input_types: Vec<_> = operands.iter().map(|t| TensorType::new(t.dtype(), t.shape())).collect();
        let types: Vec<_> = case
            .output_types()
            .iter()
            .zip(&storage.outputs)
            .map(|(t, &dtype)| TensorType::new(dtype, t.shape.clone()))
            .collect();
        let (ins, outs) = (input_types.iter().collect::<Vec<_>>(), types.iter().collect::<Vec<_>>());
        let layouts: Vec<_> = operands.iter().map(|t| Layout::dense(t.shape())).collect();
        let inputs: Vec<_> =
            operands.iter().map(|t| DeviceMemory::of(device, t.bytes())).collect::<Result<_>>()?;
        let outputs: Vec<_> =
            types.iter().map(|t| DeviceMemory::new(device, t.bytes())).collect::<Result<_>>()?;
        let scratch = DeviceMemory::new(device, case.op.cuda_scratch(&ins, &outs))?;
        let (mut tables, mut refused) = (Vec::new(), None);
        let launches = case.op.cuda(&mut CudaCall {
            inputs: (input_types.iter().zip(&layouts).zip(&inputs))
                .map(|((ty, layout), m)| CudaOperand { ty: ty.clone(), layout, address: m.address() })
                .collect(),
            outputs: (types.iter().zip(&outputs))
                .map(|(ty, m)| CudaResult { ty: ty.clone(), address: m.address() })
                .collect(),
            scratch: scratch.address(),
            device: device.facts(),
            tensor_map: &|spec| device.tensor_map(spec),
            constants: &mut |bytes| match DeviceMemory::of(device, bytes) {
                Ok(memory) => {
                    tables.push(memory);
                    tables.last().expect("just pushed").address()
                }
                Err(e) => {
                    refused = Some(e);
                    0
                }
            },
        });
        if let Some(e) = refused {
            return Err(e);
        }
        let launches = launches.map_err(Error::Run)?;
        launches.iter().try_for_each(|l| device.check(l)).map_err(Error::Run)?;
        let cost = case.op.cost(&ins, &outs);
        let held = inputs.into_iter().chain(tables).chain([scratch]).collect();
        Ok(Loaded { device: device.clone(), launches, types, outputs, cost, _held: held })
    }

    /// The launches, in order.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// The kernels, each once.
    pub fn kernels(&self) -> Vec<String> {
        let mut all: Vec<_> = self.launches.iter().map(|l| l.kernel.clone()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Operations, and compulsory bytes of operands and results as they are stored.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Runs once and waits.
    pub fn launch(&mut self) -> Result<()> {
        // SAFETY: all addresses are memory that `self` holds.
        unsafe { self.device.launch(&self.launches) }
            .map_err(|(i, e)| Error::Run(format!("{}: {e}", self.launches[i].kernel)))?;
        self.device.synchronize()
    }

    /// A result.
    pub fn result(&self, k: usize) -> Result<HostTensor> {
        let ty = &self.types[k];
        let mut bytes = vec![0; ty.bytes()];
        self.outputs[k].read(0, &mut bytes)?;
        Ok(HostTensor::copy_of(ty.dtype, &ty.shape, &bytes))
    }
}
