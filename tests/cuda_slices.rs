//! Row-wise kernels on slices of wider tensors, such as the vectors of a sample in `[B, 6, C]`: where the slice
//! keeps the alignment, the same kernels run as on dense operands and give the same bytes.
#![cfg(not(windows))]

use dreamclear::device::kernel::DeviceFacts;
use dreamclear::device::sim::{GuardedBuffer, Schedule, Simulator};
use dreamclear::graph::cuda::{CudaCall, CudaOperand, CudaResult};
use dreamclear::graph::{Layout, TensorType};
use dreamclear::ops::case::to_host;
use dreamclear::ops::check_cuda::storages;
use dreamclear::ops::{Case, registry};
use dreamclear::tensor::HostTensor;

const FAMILIES: [&str; 8] =
    ["adaln", "conv2d", "gated_residual", "group_norm", "layer_norm", "moe_modulate", "rms_norm", "softmax"];

/// Columns before and after the slice: whole vectors of any element type.
const BEFORE: usize = 8;
const AFTER: usize = 16;

/// Columns BEFORE… of rows that are wider by both.
fn slice(shape: &[usize]) -> Option<Layout> {
    let (&cols, lead) = shape.split_last()?;
    let wide: Vec<_> = lead.iter().copied().chain([BEFORE + cols + AFTER]).collect();
    (!lead.is_empty()).then(|| Layout::dense(&wide).slice(lead.len(), BEFORE, cols))
}

/// Names of the kernels that ran, and the results, with operand `sliced` as a slice.
fn run(
    case: &Case,
    operands: &[HostTensor],
    results: &[TensorType],
    sliced: Option<usize>,
    simulator: &Simulator,
) -> (Vec<String>, Vec<Vec<u8>>) {
    let types: Vec<_> = operands.iter().map(|t| TensorType::new(t.dtype(), t.shape())).collect();
    let mut layouts = Vec::new();
    let mut memory = Vec::new();
    for (k, t) in operands.iter().enumerate() {
        let layout = match sliced {
            Some(s) if s == k => slice(t.shape()).expect("the caller asked"),
            _ => Layout::dense(t.shape()),
        };
        let size = t.dtype().size();
        let mut buffer = GuardedBuffer::new((layout.offset + layout.span()) * size);
        for (i, element) in t.bytes().chunks(size).enumerate() {
            let at = layout.position(i) * size;
            buffer.bytes_mut()[at..at + size].copy_from_slice(element);
        }
        layouts.push(layout);
        memory.push(buffer);
    }
    let views: Vec<_> = layouts.iter().map(|l| Layout { offset: 0, ..l.clone() }).collect();
    let out: Vec<_> = results.iter().map(|t| GuardedBuffer::new(t.bytes())).collect();
    let needed = case.op.cuda_scratch(&types.iter().collect::<Vec<_>>(), &results.iter().collect::<Vec<_>>());
    let scratch = GuardedBuffer::new(needed);
    let address = |k: usize| memory[k].address() + (layouts[k].offset * types[k].dtype.size()) as u64;
    let launches = case
        .op
        .cuda(&mut CudaCall {
            inputs: (0..types.len())
                .map(|k| CudaOperand { ty: types[k].clone(), layout: &views[k], address: address(k) })
                .collect(),
            outputs: out
                .iter()
                .zip(results)
                .map(|(o, ty)| CudaResult { ty: ty.clone(), address: o.address() })
                .collect(),
            scratch: scratch.address(),
            device: DeviceFacts::A100,
            constants: &mut |_| unreachable!("these families have no tables"),
            tensor_map: &|spec| simulator.tensor_map(spec),
        })
        .unwrap();
    for launch in &launches {
        // SAFETY: all addresses are buffers that live until the end of this function.
        unsafe { simulator.launch(launch, Schedule::Forward, 1) }.unwrap();
    }
    (launches.into_iter().map(|l| l.kernel).collect(), out.iter().map(|o| o.bytes().to_vec()).collect())
}

#[test]
fn aligned_slices_take_the_kernels_of_dense_rows() {
    let Ok(simulator) = Simulator::new() else { return };
    let mut checked = 0;
    for entry in registry().filter(|e| FAMILIES.contains(&e.family)) {
        for case in (entry.cases)().into_iter().filter(|c| !c.bench && c.input_types()[0].len() < 10_000) {
            for storage in storages(&case) {
                let operands: Vec<_> =
                    case.draw(1).iter().zip(&storage.inputs).map(|(a, &dtype)| to_host(a, dtype)).collect();
                let types = case.output_types();
                let results: Vec<_> = types
                    .iter()
                    .zip(&storage.outputs)
                    .map(|(t, &d)| TensorType::new(d, t.shape.clone()))
                    .collect();
                let mut dense = None;
                for k in 0..operands.len() {
                    let shape = operands[k].shape();
                    let Some(layout) = slice(shape).filter(|_| shape[shape.len() - 1].is_multiple_of(4))
                    else {
                        continue;
                    };
                    if !case.op.cuda_accepts(k, &Layout { offset: 0, ..layout }) {
                        continue;
                    }
                    let dense =
                        dense.get_or_insert_with(|| run(&case, &operands, &results, None, &simulator));
                    let sliced = run(&case, &operands, &results, Some(k), &simulator);
                    let what = format!("{}/{}, operand {k}, {:?}", entry.name, case.name, storage.inputs);
                    assert_eq!(sliced.0, dense.0, "{what}: kernels");
                    assert!(sliced.1 == dense.1, "{what}: results differ");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 100, "only {checked} arrangements");
}
