//! Attention kernels beyond the cases of the registry: slices of a fused projection, rows that see nothing,
//! and how much work the tensor cores are given.
#![cfg(not(windows))]

use std::sync::{Mutex, MutexGuard};

use dreamclear::device::kernel::DeviceFacts;
use dreamclear::device::sim::{GuardedBuffer, Schedule, Simulator};
use dreamclear::graph::cuda::{CudaCall, CudaOperand, CudaResult};
use dreamclear::graph::{Layout, Op, TensorType};
use dreamclear::ops::CaseInput;
use dreamclear::ops::attention::{Attention, AttentionGrad};
use dreamclear::ops::case::to_host;
use dreamclear::tensor::{DType, HostTensor};

/// The simulator counts the work of all kernels together: one test at a time. `None` without a C++ compiler.
fn simulator() -> Option<(Simulator, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    let held = ONE.lock().unwrap_or_else(|e| e.into_inner());
    Simulator::new().ok().map(|s| (s, held))
}

/// An operand in its memory.
struct Held<'a> {
    ty: TensorType,
    layout: Layout,
    memory: &'a GuardedBuffer,
}

fn run(op: &dyn Op, operands: &[Held], dtype: DType, simulator: &Simulator) -> Vec<HostTensor> {
    let graph_types: Vec<_> = operands
        .iter()
        .map(|o| if o.ty.dtype.is_float() { TensorType::f32(o.ty.shape.clone()) } else { o.ty.clone() })
        .collect();
    let graph_types: Vec<_> = graph_types.iter().collect();
    let results = op.infer(&graph_types).unwrap();
    let storage = op.cuda_storage(&graph_types, &results.iter().collect::<Vec<_>>(), &[], dtype);
    let types: Vec<_> =
        results.iter().zip(&storage.outputs).map(|(t, &d)| TensorType::new(d, t.shape.clone())).collect();
    let out: Vec<_> = types.iter().map(|t| GuardedBuffer::new(t.bytes())).collect();
    let stored: Vec<_> = operands.iter().map(|o| &o.ty).collect();
    let scratch = GuardedBuffer::new(op.cuda_scratch(&stored, &types.iter().collect::<Vec<_>>()));
    let bases: Vec<_> = operands.iter().map(|o| Layout { offset: 0, ..o.layout.clone() }).collect();
    let launches = op
        .cuda(&mut CudaCall {
            inputs: operands
                .iter()
                .zip(&bases)
                .map(|(o, layout)| CudaOperand {
                    ty: o.ty.clone(),
                    layout,
                    address: o.memory.address() + (o.layout.offset * o.ty.dtype.size()) as u64,
                })
                .collect(),
            outputs: out
                .iter()
                .zip(&types)
                .map(|(o, ty)| CudaResult { ty: ty.clone(), address: o.address() })
                .collect(),
            scratch: scratch.address(),
            device: DeviceFacts::A100,
            constants: &mut |_| unreachable!("no table"),
            tensor_map: &|spec| simulator.tensor_map(spec),
        })
        .unwrap();
    for launch in &launches {
        // SAFETY: all addresses are buffers that live until the end of this function.
        unsafe { simulator.launch(launch, Schedule::Forward, 1) }.unwrap();
    }
    out.iter().zip(&types).map(|(o, t)| HostTensor::copy_of(t.dtype, &t.shape, o.bytes())).collect()
}

fn draw(shape: &[usize], dtype: DType, seed: u64) -> HostTensor {
    to_host(&CaseInput::normal(shape).draw(seed), dtype)
}

fn run_dense(op: &dyn Op, operands: &[HostTensor], dtype: DType, simulator: &Simulator) -> Vec<HostTensor> {
    let memory: Vec<_> = operands.iter().map(|t| GuardedBuffer::of(t.bytes())).collect();
    let held: Vec<_> = operands
        .iter()
        .zip(&memory)
        .map(|(t, memory)| Held {
            ty: TensorType::new(t.dtype(), t.shape()),
            layout: Layout::dense(t.shape()),
            memory,
        })
        .collect();
    run(op, &held, dtype, simulator)
}

fn attention(depth: usize) -> Attention {
    Attention {
        scale: (depth as f32).sqrt().recip(),
        causal: false,
        bias: false,
        key_lengths: false,
        kv_rows: None,
    }
}

fn gradient(forward: &Attention) -> AttentionGrad {
    AttentionGrad { forward: forward.clone(), d_lse: false, d_bias: false }
}

/// Multiply-adds on the tensor cores against those of the formula: whole tiles at depth 72 pad nothing.
#[test]
fn tensor_cores_do_no_more_than_the_formula_asks() {
    let Some((simulator, _held)) = simulator() else { return };
    for (depth, forward_ratio, backward_ratio) in [(72, 1.0, 1.0), (64, 1.0, 1.0), (512, 1.0, 0.0)] {
        let shape = [1, 128, 1, depth];
        let op = attention(depth);
        let product = (2 * 128 * 128 * depth) as f64;
        let [q, k, v, d_out] = [1, 2, 3, 4].map(|seed| draw(&shape, DType::BF16, seed));
        simulator.take_mma_flops();
        let [out, lse] = run_dense(&op, &[q.clone(), k.clone(), v.clone()], DType::BF16, &simulator)
            .try_into()
            .unwrap_or_else(|_| unreachable!("two results"));
        let forward = simulator.take_mma_flops() as f64 / (2.0 * product);
        assert_eq!(forward, forward_ratio, "forward, depth {depth}");
        // Scores and dP are made twice: dV, dK, dQ and two pairs.
        run_dense(&gradient(&op), &[q, k, v, out, lse, d_out], DType::BF16, &simulator);
        let backward = simulator.take_mma_flops() as f64 / (7.0 * product);
        assert_eq!(backward, backward_ratio, "backward, depth {depth}");
    }
}

/// q, k and v as slices of one `[B, N, 3, H, D]`, as a fused projection leaves them, give the same bytes as
/// copies of the slices.
#[test]
fn slices_of_a_fused_projection_are_read_in_place() {
    let Some((simulator, _held)) = simulator() else { return };
    let [b, n, h] = [2, 70, 2];
    for (depth, dtype) in
        [(72, DType::BF16), (64, DType::F16), (512, DType::BF16), (72, DType::F32), (12, DType::F16)]
    {
        let fused = draw(&[b, n, 3, h, depth], dtype, 7);
        let memory = GuardedBuffer::of(fused.bytes());
        let whole = Layout::dense(&[b, n, 3, h, depth]);
        let ty = TensorType::new(dtype, [b, n, h, depth]);
        let layouts: Vec<_> = (0..3)
            .map(|i| whole.slice(2, i, 1).permute(&[2, 0, 1, 3, 4]))
            .map(|l| Layout {
                shape: l.shape[1..].to_vec(),
                strides: l.strides[1..].to_vec(),
                offset: l.offset,
            })
            .collect();
        let copies: Vec<_> = layouts
            .iter()
            .map(|l| {
                let values = fused.to_f64();
                HostTensor::from_f64([b, n, h, depth], (0..l.len()).map(|i| values[l.position(i)]).collect())
                    .cast(dtype)
            })
            .collect();
        let slices = || layouts.iter().map(|l| Held { ty: ty.clone(), layout: l.clone(), memory: &memory });
        let op = attention(depth);
        let dense = run_dense(&op, &copies, dtype, &simulator);
        let sliced = run(&op, &slices().collect::<Vec<_>>(), dtype, &simulator);
        assert!(
            dense.iter().zip(&sliced).all(|(a, b)| a.bytes() == b.bytes()),
            "forward, depth {depth} {dtype}"
        );

        let d_out = draw(&[b, n, h, depth], dtype, 8);
        let more: Vec<_> = dense.into_iter().chain([d_out]).collect();
        let memories: Vec<_> = more.iter().map(|t| GuardedBuffer::of(t.bytes())).collect();
        let rest = more.iter().zip(&memories).map(|(t, memory)| Held {
            ty: TensorType::new(t.dtype(), t.shape()),
            layout: Layout::dense(t.shape()),
            memory,
        });
        let sliced = run(&gradient(&op), &slices().chain(rest).collect::<Vec<_>>(), dtype, &simulator);
        let dense = run_dense(
            &gradient(&op),
            &copies.iter().chain(&more).cloned().collect::<Vec<_>>(),
            dtype,
            &simulator,
        );
        assert!(
            dense.iter().zip(&sliced).all(|(a, b)| a.bytes() == b.bytes()),
            "backward, depth {depth} {dtype}"
        );
    }
}

/// A bias of −∞ for every key of a row: zeros and a log-sum-exp of 0, no NaN, also on the way back.
#[test]
fn rows_that_see_nothing_are_zero() {
    let Some((simulator, _held)) = simulator() else { return };
    let [queries, keys] = [3, 70];
    for (depth, dtype) in [(72, DType::BF16), (512, DType::F16), (5, DType::F16), (8, DType::F32)] {
        let op = Attention { bias: true, ..attention(depth) };
        let hidden =
            (0..queries * keys).map(|i| if i / keys == 1 { f64::NEG_INFINITY } else { 0.0 }).collect();
        let bias = HostTensor::from_f64([1, 1, queries, keys], hidden).cast(DType::F32);
        let [q, d_out] = [1, 2].map(|seed| draw(&[1, queries, 1, depth], dtype, seed));
        let [k, v] = [3, 4].map(|seed| draw(&[1, keys, 1, depth], dtype, seed));
        let mut operands = vec![q, k, v, bias];
        let results = run_dense(&op, &operands, dtype, &simulator);
        assert!(results[0].to_f64()[depth..2 * depth].iter().all(|&x| x == 0.0), "depth {depth} {dtype}");
        assert_eq!(results[1].to_f64()[1], 0.0, "depth {depth} {dtype}");
        assert!(results.iter().all(|r| r.to_f64().iter().all(|x| x.is_finite())), "depth {depth} {dtype}");

        operands.extend(results);
        operands.push(d_out);
        let grad = AttentionGrad { d_bias: true, ..gradient(&op) };
        let results = run_dense(&grad, &operands, dtype, &simulator);
        assert!(results[0].to_f64()[depth..2 * depth].iter().all(|&x| x == 0.0), "dq, depth {depth} {dtype}");
        assert!(results.iter().all(|r| r.to_f64().iter().all(|x| x.is_finite())), "depth {depth} {dtype}");
    }
}
