//! Attention kernels beyond the cases of the registry: edges of tiles, slices of a fused projection, rows that
//! see nothing, what lies beyond an entry's length, and how much work the tensor cores are given.
#![cfg(not(windows))]

use std::sync::{Mutex, MutexGuard};

use dreamclear::device::kernel::DeviceFacts;
use dreamclear::device::sim::{GuardedBuffer, Schedule, Simulator};
use dreamclear::graph::cuda::{CudaCall, CudaOperand, CudaResult};
use dreamclear::graph::{Array, Layout, Op, TensorType};
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

/// What simulated kernels are chosen for.
const CARDS: [DeviceFacts; 2] = [DeviceFacts::A100, DeviceFacts::H100];

/// The simulator in the place of a card.
#[derive(Clone, Copy)]
struct Simulation<'a> {
    simulator: &'a Simulator,
    card: DeviceFacts,
    schedule: Schedule,
}

impl<'a> Simulation<'a> {
    fn of(simulator: &'a Simulator, card: DeviceFacts) -> Self {
        Simulation { simulator, card, schedule: Schedule::Forward }
    }
}

/// An operand in its memory.
struct Held<'a> {
    ty: TensorType,
    layout: Layout,
    memory: &'a GuardedBuffer,
}

fn run(op: &dyn Op, operands: &[Held], dtype: DType, on: Simulation) -> Vec<HostTensor> {
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
            device: on.card,
            constants: &mut |_| unreachable!("no table"),
            tensor_map: &|spec| on.simulator.tensor_map(spec),
        })
        .unwrap();
    if on.card.hopper && dtype != DType::F32 {
        let products =
            launches.iter().filter(|l| !l.kernel.contains("_delta_") && !l.kernel.contains("_dbias_"));
        let other: Vec<_> = products.filter(|l| !l.kernel.ends_with("_sm90")).collect();
        assert!(other.is_empty(), "{other:?}");
    }
    for launch in &launches {
        // SAFETY: all addresses are buffers that live until the end of this function.
        unsafe { on.simulator.launch(launch, on.schedule, 1) }.unwrap();
    }
    out.iter().zip(&types).map(|(o, t)| HostTensor::copy_of(t.dtype, &t.shape, o.bytes())).collect()
}

fn draw(shape: &[usize], dtype: DType, seed: u64) -> HostTensor {
    to_host(&CaseInput::normal(shape).draw(seed), dtype)
}

fn run_dense(op: &dyn Op, operands: &[HostTensor], dtype: DType, on: Simulation) -> Vec<HostTensor> {
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
    run(op, &held, dtype, on)
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

/// Multiply-adds on the tensor cores against those of the formula: whole tiles at depth 72 pad nothing on an
/// A100; an H100 multiplies 80 columns where products run along depth.
#[test]
fn tensor_cores_do_little_more_than_the_formula_asks() {
    let Some((simulator, _held)) = simulator() else { return };
    let [a100, h100] = CARDS;
    for (card, depth, forward_ratio, backward_ratio) in [
        (a100, 72, 1.0, 1.0),
        (a100, 64, 1.0, 1.0),
        (a100, 512, 1.0, 0.0),
        (h100, 72, 152.0 / 144.0, (4.0 * 80.0 + 3.0 * 72.0) / (7.0 * 72.0)),
        (h100, 64, 1.0, 1.0),
    ] {
        let on = Simulation::of(&simulator, card);
        let shape = [1, 128, 1, depth];
        let op = attention(depth);
        let product = (2 * 128 * 128 * depth) as f64;
        let [q, k, v, d_out] = [1, 2, 3, 4].map(|seed| draw(&shape, DType::BF16, seed));
        simulator.take_mma_flops();
        let [out, lse] = run_dense(&op, &[q.clone(), k.clone(), v.clone()], DType::BF16, on)
            .try_into()
            .unwrap_or_else(|_| unreachable!("two results"));
        let forward = simulator.take_mma_flops() as f64 / (2.0 * product);
        assert_eq!(forward, forward_ratio, "forward, depth {depth}, {card:?}");
        // Scores and dP are made twice: dV, dK, dQ and two pairs.
        run_dense(&gradient(&op), &[q, k, v, out, lse, d_out], DType::BF16, on);
        let backward = simulator.take_mma_flops() as f64 / (7.0 * product);
        assert_eq!(backward, backward_ratio, "backward, depth {depth}, {card:?}");
    }
}

/// Whether results are as near the truth as twice a naive run in this type, in the sum of squares.
fn assert_near(op: &dyn Op, operands: &[HostTensor], results: &[HostTensor], dtype: DType, name: &str) {
    let inputs: Vec<_> = operands.iter().map(Array::from_host).collect();
    let truth = op.eval_f64(&inputs);
    let naive = op.naive_in(&inputs, dtype).expect("attention has a naive form");
    for (k, got) in results.iter().enumerate() {
        let norm = |x: &[f64]| x.iter().zip(&truth[k].data).map(|(x, t)| (x - t).powi(2)).sum::<f64>().sqrt();
        let size = truth[k].data.iter().map(|t| t * t).sum::<f64>().sqrt();
        let (error, allowed) =
            (norm(&got.to_f64()), 2.0 * norm(&to_host(&naive[k], got.dtype()).to_f64()) + 1e-6 * size);
        let near = error <= allowed;
        assert!(near, "{name}: result {k} is {error:.3e} from the truth, allowed {allowed:.3e}");
    }
}

/// Tiles of Hopper's kernels that are whole, begun and nearly full, more of them than slots of their rings and
/// than blocks; the bytes are the same by every schedule.
#[test]
fn edges_of_hoppers_tiles_and_rings() {
    let Some((simulator, _held)) = simulator() else { return };
    let card = DeviceFacts { multiprocessors: 2, ..DeviceFacts::H100 };
    for ([batch, queries, keys, heads], depth, dtype, causal) in [
        ([1, 64, 128, 1], 72, DType::BF16, false),
        ([1, 129, 127, 1], 72, DType::F16, false),
        ([1, 63, 129, 1], 64, DType::BF16, false),
        ([1, 128, 640, 1], 72, DType::BF16, false),
        ([1, 520, 130, 1], 64, DType::F16, true),
        ([2, 257, 3, 2], 72, DType::BF16, false),
        ([1, 300, 260, 1], 64, DType::BF16, true),
        ([1, 1, 2, 7], 72, DType::F16, false),
        ([3, 20, 257, 1], 56, DType::BF16, false),
    ] {
        let name = format!("{batch}x{queries}x{keys}x{heads}x{depth} {dtype}");
        let op = Attention { causal, key_lengths: batch == 3, ..attention(depth) };
        let [q, d_out] = [1, 2].map(|seed| draw(&[batch, queries, heads, depth], dtype, seed));
        let [k, v] = [3, 4].map(|seed| draw(&[batch, keys, heads, depth], dtype, seed));
        let mut operands = vec![q, k, v];
        operands.extend(
            op.key_lengths.then(|| to_host(&CaseInput::i64([3], &[256, 0, 129]).draw(0), DType::I64)),
        );
        let by_all_schedules = |op: &dyn Op, operands: &[HostTensor]| {
            let [first, others @ ..] = Schedule::ALL.map(|schedule| {
                let on = Simulation { simulator: &simulator, card, schedule };
                run_dense(op, operands, dtype, on)
            });
            for other in &others {
                let same = first.iter().zip(other).all(|(a, b)| a.bytes() == b.bytes());
                assert!(same, "{name}: a race");
            }
            assert_near(op, operands, &first, dtype, &name);
            first
        };
        operands.extend(by_all_schedules(&op, &operands.clone()));
        operands.push(d_out);
        by_all_schedules(&gradient(&op), &operands);
    }
}

/// Keys and values beyond an entry's length are never seen, whatever they are.
#[test]
fn beyond_an_entrys_length_may_lie_anything() {
    let Some((simulator, _held)) = simulator() else { return };
    let [entries, queries, keys, heads] = [3, 10, 300, 2];
    let lengths = [70, 0, 257];
    for (card, depth) in [(CARDS[0], 72), (CARDS[1], 72), (CARDS[1], 64)] {
        let on = Simulation::of(&simulator, card);
        let op = Attention { key_lengths: true, ..attention(depth) };
        let grad = gradient(&op);
        let [q, d_out] = [1, 2].map(|seed| draw(&[entries, queries, heads, depth], DType::BF16, seed));
        let results = |beyond: f64| {
            let [k, v] = [3, 4].map(|seed| {
                let mut values = draw(&[entries, keys, heads, depth], DType::BF16, seed).to_f64();
                for (entry, of_entry) in values.chunks_mut(keys * heads * depth).enumerate() {
                    of_entry[lengths[entry] as usize * heads * depth..].fill(beyond);
                }
                HostTensor::from_f64([entries, keys, heads, depth], values).cast(DType::BF16)
            });
            let lengths = to_host(&CaseInput::i64([entries], &lengths).draw(0), DType::I64);
            let mut operands = vec![q.clone(), k, v, lengths];
            let forward = run_dense(&op, &operands, DType::BF16, on);
            operands.extend(forward.iter().cloned());
            operands.push(d_out.clone());
            let backward = run_dense(&grad, &operands, DType::BF16, on);
            forward.into_iter().chain(backward).map(|t| t.bytes().to_vec()).collect::<Vec<_>>()
        };
        assert!(results(0.0) == results(f64::NAN), "depth {depth}, {card:?}");
    }
}

/// q, k and v as slices of one `[B, N, 3, H, D]`, as a fused projection leaves them, give the same bytes as
/// copies of the slices.
#[test]
fn slices_of_a_fused_projection_are_read_in_place() {
    let Some((simulator, _held)) = simulator() else { return };
    let [b, n, h] = [2, 70, 2];
    let [a100, h100] = CARDS;
    for (card, depth, dtype) in [
        (a100, 72, DType::BF16),
        (a100, 64, DType::F16),
        (a100, 512, DType::BF16),
        (a100, 72, DType::F32),
        (a100, 12, DType::F16),
        (h100, 72, DType::BF16),
        (h100, 64, DType::F16),
    ] {
        let on = Simulation::of(&simulator, card);
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
        let dense = run_dense(&op, &copies, dtype, on);
        let sliced = run(&op, &slices().collect::<Vec<_>>(), dtype, on);
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
        let sliced = run(&gradient(&op), &slices().chain(rest).collect::<Vec<_>>(), dtype, on);
        let dense =
            run_dense(&gradient(&op), &copies.iter().chain(&more).cloned().collect::<Vec<_>>(), dtype, on);
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
    let [a100, h100] = CARDS;
    for (card, depth, dtype) in [
        (a100, 72, DType::BF16),
        (a100, 512, DType::F16),
        (a100, 5, DType::F16),
        (a100, 8, DType::F32),
        (h100, 72, DType::BF16),
        (h100, 64, DType::F16),
    ] {
        let on = Simulation::of(&simulator, card);
        let op = Attention { bias: true, ..attention(depth) };
        let hidden =
            (0..queries * keys).map(|i| if i / keys == 1 { f64::NEG_INFINITY } else { 0.0 }).collect();
        let bias = HostTensor::from_f64([1, 1, queries, keys], hidden).cast(DType::F32);
        let [q, d_out] = [1, 2].map(|seed| draw(&[1, queries, 1, depth], dtype, seed));
        let [k, v] = [3, 4].map(|seed| draw(&[1, keys, 1, depth], dtype, seed));
        let mut operands = vec![q, k, v, bias];
        let results = run_dense(&op, &operands, dtype, on);
        assert!(results[0].to_f64()[depth..2 * depth].iter().all(|&x| x == 0.0), "depth {depth} {dtype}");
        assert_eq!(results[1].to_f64()[1], 0.0, "depth {depth} {dtype}");
        assert!(results.iter().all(|r| r.to_f64().iter().all(|x| x.is_finite())), "depth {depth} {dtype}");

        operands.extend(results);
        operands.push(d_out);
        let grad = AttentionGrad { d_bias: true, ..gradient(&op) };
        let results = run_dense(&grad, &operands, dtype, on);
        assert!(results[0].to_f64()[depth..2 * depth].iter().all(|&x| x == 0.0), "dq, depth {depth} {dtype}");
        assert!(results.iter().all(|r| r.to_f64().iter().all(|x| x.is_finite())), "depth {depth} {dtype}");
    }
}
