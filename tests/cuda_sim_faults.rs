//! The simulator of CUDA kernels is held to what it promises: `cuda/sim/faults.cpp` breaks one rule at a time, and
//! each must be reported with kernel, block, thread and place; and its primitives are compared with the
//! tables of the PTX ISA, written out once more here.
#![cfg(not(windows))]

use dreamclear::device::kernel::Launch;
use dreamclear::device::sim::{GuardedBuffer, Schedule, Simulator};

#[path = "support/twice.rs"]
mod twice;

/// The parameters of every kernel of `cuda/sim/faults.cpp`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Probe {
    x: u64,
    y: u64,
    more: u64,
    n: i32,
    first: i32,
}

/// Without a C++ compiler there is nothing to test.
fn simulator() -> Option<Simulator> {
    Simulator::new().map_err(|e| eprintln!("skipped: {e}")).ok()
}

// ---- Faults -----------------------------------------------------------------------------------------

const N: usize = 130;

/// Runs a kernel that shall double 130 numbers, and errs in block 1, as those of all ops are run by
/// `tests/cuda_sim.rs`.
fn check(kernel: &'static str) -> Result<(), String> {
    twice::check(N, move |call| {
        let (x, y) = (call.inputs[0].address, call.outputs[0].address);
        let p = Probe { x, y, more: 0, n: N as i32, first: 1 };
        Ok(vec![Launch::new(kernel, [N.div_ceil(64) as u32, 1, 1], &p)])
    })
}

/// What must be said of each fault. `@` stands for kernel, block and thread 5.
const FAULTS: &[(&str, &[&str])] = &[
    ("read_without_barrier", &["result 0 depends on the schedule: a race", "Reverse"]),
    ("write_without_barrier", &["result 0 depends on the schedule: a race", "Reverse"]),
    (
        "partial_barrier",
        &["block (1, 0, 0)", "waits at the barrier of", "faults.cpp:", "while others wait at that of"],
    ),
    (
        "barrier_after_return",
        &[
            "block (1, 0, 0), thread 8: 56 of 64 threads wait at the barrier of",
            "faults.cpp:",
            "8 have ended",
        ],
    ),
    (
        "other_barrier",
        &["block (0, 0, 0)", "waits at the barrier of", "while others wait at that of", "faults.cpp:"],
    ),
    (
        "lanes_skip",
        &["block (1, 0, 0), thread 0: 32 of 64 threads wait in __shfl_sync for lanes that do not come"],
    ),
    (
        "lanes_part",
        &["block (1, 0, 0), thread 16: __ballot_sync", "while lanes of the warp wait in __shfl_sync"],
    ),
    ("reads_past_end", &["@", "reads 0x", "536 bytes after the address that byte 0 of the parameters has"]),
    (
        "writes_past_end",
        &["@", "writes to 0x", "536 bytes after the address that byte 8 of the parameters has"],
    ),
    ("writes_just_past_end", &["wrote past the end of result 0"]),
    ("writes_before_start", &["wrote before the start of result 0"]),
    ("changes_operand", &["changed operand 0"]),
    ("unwritten", &["element [69] is NaN"]),
    ("null", &["@", "writes to", "outside every buffer"]),
    ("shared_unwritten", &["element [69] is NaN"]),
    (
        "shared_overrun",
        &[
            "block (1, 0, 0), thread 63: writes to",
            "0 bytes past the end of the block's 256 bytes of shared memory",
        ],
    ),
    ("shared_overrun_of_odd_size", &["@", "has written 0 bytes past the end of the block's 200 bytes"]),
    ("shared_underrun", &["@", "before the start of the block's 256 bytes"]),
    ("copy_read_before_wait", &["element [0] is NaN"]),
    ("copy_waits_for_older", &["element [0] is NaN"]),
    (
        "copy_never_waited",
        &["block (0, 0, 0), thread 0: the thread ended with 1 asynchronous copies not waited for"],
    ),
    ("copy_never_committed", &["block (0, 0, 0), thread 0: the thread ended with 1 asynchronous copies"]),
    ("copy_misaligned", &["@", "asynchronous copy to shared memory at", "not aligned to 16 bytes"]),
    ("copy_past_shared", &["@", "not within the block's shared memory"]),
    ("copy_to_global", &["@", "not within the block's shared memory"]),
    ("misaligned_load", &["@", "vector load at 0x", "not aligned to 16 bytes"]),
    ("misaligned_store", &["@", "vector store at 0x", "not aligned to 8 bytes"]),
    ("misaligned_matrix", &["@", "ldmatrix row at 0x", "not aligned to 16 bytes"]),
    ("endless_recursion", &["@", "the stack of the thread, which is full"]),
    ("too_much_shared", &["no GPU runs a block of 64 threads with 233472 bytes of shared memory"]),
    ("odd_threads", &["no GPU runs a block of 40 threads"]),
];

#[test]
fn planted_faults_are_reported() {
    if simulator().is_none() {
        return;
    }
    for kernel in ["fault_free_twice", "fault_free_copy"] {
        check(kernel).unwrap_or_else(|e| panic!("{kernel} is in order, but: {e}"));
    }
    let mut wrong = Vec::new();
    for (name, said) in FAULTS {
        let kernel: &'static str = format!("fault_{name}").leak();
        let Err(message) = check(kernel) else {
            wrong.push(format!("{kernel} passes"));
            continue;
        };
        let at = format!("kernel {kernel}, block (1, 0, 0), thread 5: ");
        for part in said.iter().map(|p| p.replace('@', &at)) {
            if !message.contains(&part) {
                wrong.push(format!("{kernel}: `{message}` does not say `{part}`"));
            }
        }
        let names_block = said.iter().any(|p| p.contains("block ("));
        if names_block && !message.contains(&format!("kernel {kernel}, block (")) {
            wrong.push(format!("{kernel}: `{message}` does not name the kernel"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_planted_fault_is_tested() {
    let Some(simulator) = simulator() else { return };
    for kernel in simulator.kernels() {
        let Some(name) = kernel.name.strip_prefix("fault_") else { continue };
        if name.ends_with("_sm90") {
            continue; // tests/cuda_sim_sm90.rs
        }
        let known = name.starts_with("free_") || FAULTS.iter().any(|(n, _)| *n == name);
        assert!(known, "{} of cuda/sim/faults.cpp is not in FAULTS", kernel.name);
    }
}

#[test]
fn after_a_fault_the_simulator_goes_on() {
    if simulator().is_none() {
        return;
    }
    for fault in [
        "fault_writes_past_end",
        "fault_barrier_after_return",
        "fault_endless_recursion",
        "fault_copy_never_waited",
    ] {
        check(fault).unwrap_err();
        check("fault_free_twice").unwrap_or_else(|e| panic!("after {fault}: {e}"));
    }
}

#[test]
fn impossible_launches_are_refused() {
    let Some(simulator) = simulator() else { return };
    let x = GuardedBuffer::of(bytemuck::cast_slice(&[1f32; N]));
    let y = GuardedBuffer::new(4 * N);
    let p = Probe { x: x.address(), y: y.address(), more: 0, n: N as i32, first: 0 };
    let good = Launch::new("fault_free_twice", [3, 1, 1], &p);
    // SAFETY: both buffers live; launches that would be anything else are refused.
    let run = |launch: &Launch| unsafe { simulator.launch(launch, Schedule::Forward, 1) };
    run(&good).unwrap();
    for (launch, said) in [
        (Launch { kernel: "fault_none_such".into(), ..good.clone() }, "there is no kernel fault_none_such"),
        (
            Launch { params: good.params[8..].to_vec(), ..good.clone() },
            "fault_free_twice: takes 32 bytes of parameters, got 24",
        ),
        (Launch { params: vec![], ..good.clone() }, "fault_free_twice: takes 32 bytes of parameters, got 0"),
        (Launch { grid: [0, 1, 1], ..good.clone() }, "fault_free_twice: a grid has 1 to"),
        (Launch { grid: [1, 65536, 1], ..good.clone() }, "fault_free_twice: a grid has 1 to"),
        (Launch { grid: [1, 1, 65536], ..good.clone() }, "fault_free_twice: a grid has 1 to"),
        (Launch { grid: [1 << 31, 1, 1], ..good.clone() }, "fault_free_twice: a grid has 1 to"),
    ] {
        let message = run(&launch).expect_err(said);
        assert!(message.contains(said), "`{message}` does not say `{said}`");
    }
}

#[test]
fn workers_share_blocks_and_their_faults() {
    let Some(simulator) = simulator() else { return };
    let n = 64 * 40;
    let numbers: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let x = GuardedBuffer::of(bytemuck::cast_slice(&numbers));
    let y = GuardedBuffer::new(4 * n);
    let p = Probe { x: x.address(), y: y.address(), more: 0, n: n as i32, first: 23 };
    // SAFETY: both buffers have n elements.
    let run = |kernel: &str| unsafe {
        simulator.launch(&Launch::new(kernel, [40, 1, 1], &p), Schedule::Shuffled(7), 3)
    };
    run("fault_free_twice").unwrap();
    let got: &[f32] = bytemuck::cast_slice(y.bytes());
    assert!(got.iter().zip(&numbers).all(|(y, x)| *y == 2.0 * x));
    let message = run("fault_writes_past_end").unwrap_err();
    assert!(
        message.contains("kernel fault_writes_past_end, block (23, 0, 0), thread 5: writes to"),
        "{message}"
    );
}

// ---- What primitives do -----------------------------------------------------------------------------

/// Runs a `fault_free_*` kernel under every schedule over buffers that end at a guard page; `y` is what the result
/// holds before. The result's bytes must not depend on the schedule.
fn probe<Y: bytemuck::Pod>(
    kernel: &str,
    blocks: u32,
    x: &[u8],
    more: &[u8],
    y: &[Y],
    n: usize,
) -> Option<Vec<Y>> {
    let simulator = simulator()?;
    let (x, more) = (GuardedBuffer::of(x), GuardedBuffer::of(more));
    let mut results = Schedule::ALL.map(|schedule| {
        let y = GuardedBuffer::of(bytemuck::cast_slice(y));
        let p = Probe { x: x.address(), y: y.address(), more: more.address(), n: n as i32, first: 0 };
        // SAFETY: buffers of the extents that the kernel takes.
        unsafe { simulator.launch(&Launch::new(kernel, [blocks, 1, 1], &p), schedule, 1) }
            .unwrap_or_else(|e| panic!("{kernel}, {schedule:?}: {e}"));
        y.bytes().to_vec()
    });
    assert!(results[1] == results[0] && results[2] == results[0], "{kernel} depends on the schedule");
    Some(bytemuck::pod_collect_to_vec(&std::mem::take(&mut results[0])))
}

/// xorshift: numbers for tests.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// A whole number from −8 to 8: products and their sums are exact in every type.
    fn small(&mut self) -> f32 {
        (self.next() % 17) as f32 - 8.0
    }
}

/// How a matrix is spread over a warp.
struct Fragment {
    rows: usize,
    columns: usize,
    /// Elements of a lane.
    elements: usize,
    /// Row and column of element `i` of lane `l`, given groupID = l / 4 and threadID_in_group = l % 4.
    place: fn(group: usize, thread: usize, i: usize) -> (usize, usize),
}

// PTX ISA 8.5, section 9.7.14.5, "Matrix Fragments for mma.m16n8k16 with floating point type" (.f16, .bf16):
//   row = groupID      for ai where 0 <= i < 2 || 4 <= i < 6
//         groupID + 8  otherwise
//   col = (threadID_in_group * 2) + (i & 0x1)      for ai where i < 4
//         (threadID_in_group * 2) + (i & 0x1) + 8  for ai where i >= 4
const A_K16: Fragment = Fragment {
    rows: 16,
    columns: 16,
    elements: 8,
    place: |group, thread, i| {
        (
            if i < 2 || (4..6).contains(&i) { group } else { group + 8 },
            thread * 2 + (i & 1) + if i < 4 { 0 } else { 8 },
        )
    },
};
//   row = (threadID_in_group * 2) + (i & 0x1)      for bi where i < 2
//         (threadID_in_group * 2) + (i & 0x1) + 8  for bi where i >= 2
//   col = groupID
const B_K16: Fragment = Fragment {
    rows: 16,
    columns: 8,
    elements: 4,
    place: |group, thread, i| (thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group),
};
// "Matrix Fragments for mma.m16n8k8", .f16 and .bf16:
//   row = groupID      for ai where i < 2
//         groupID + 8  for ai where i >= 2
//   col = threadID_in_group * 2 + (i & 0x1)
const A_K8: Fragment = Fragment {
    rows: 16,
    columns: 8,
    elements: 4,
    place: |group, thread, i| (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1)),
};
//   row = (threadID_in_group * 2) + i,  col = groupID
const B_K8: Fragment =
    Fragment { rows: 8, columns: 8, elements: 2, place: |group, thread, i| (thread * 2 + i, group) };
// "Matrix Fragments for mma.m16n8k8", .tf32:
//   row = groupID      for a0 and a2,  groupID + 8  for a1 and a3
//   col = threadID_in_group  for a0 and a1,  threadID_in_group + 4  for a2 and a3
const A_TF32: Fragment = Fragment {
    rows: 16,
    columns: 8,
    elements: 4,
    place: |group, thread, i| {
        (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
    },
};
//   row = threadID_in_group for b0, threadID_in_group + 4 for b1,  col = groupID
const B_TF32: Fragment =
    Fragment { rows: 8, columns: 8, elements: 2, place: |group, thread, i| (thread + 4 * i, group) };
// The accumulators of all of them (.f32):
//   row = groupID      for ci where i < 2,  groupID + 8  for ci where i >= 2
//   col = (threadID_in_group * 2) + (i & 0x1)
const C: Fragment = Fragment {
    rows: 16,
    columns: 8,
    elements: 4,
    place: |group, thread, i| (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1)),
};

impl Fragment {
    fn at(&self, lane: usize, i: usize) -> usize {
        let (row, column) = (self.place)(lane / 4, lane % 4, i);
        row * self.columns + column
    }
}

#[test]
fn fragments_cover_their_matrices() {
    for f in [A_K16, B_K16, A_K8, B_K8, A_TF32, B_TF32, C] {
        let mut places: Vec<_> =
            (0..32).flat_map(|l| (0..f.elements).map(move |i| (l, i))).map(|(l, i)| f.at(l, i)).collect();
        places.sort();
        assert_eq!(places, (0..f.rows * f.columns).collect::<Vec<_>>());
    }
}

/// The elements of a lane, packed: two of 16 bits a register, the lower index in the low half, or one of 32.
fn registers(f: &Fragment, m: &[f32], lane: usize, bits: fn(f32) -> u32, half: bool) -> Vec<u32> {
    let elements: Vec<u32> = (0..f.elements).map(|i| bits(m[f.at(lane, i)])).collect();
    if half { elements.chunks(2).map(|p| p[0] | p[1] << 16).collect() } else { elements }
}

fn bf16_bits(x: f32) -> u32 {
    half::bf16::from_f32(x).to_bits().into()
}
fn f16_bits(x: f32) -> u32 {
    half::f16::from_f32(x).to_bits().into()
}
/// With rubbish in the 13 bits that tensor cores ignore.
fn tf32_bits(x: f32) -> u32 {
    x.to_bits() | 0x1a5b
}

fn plain_product(a: &[f32], b: &[f32], c: &[f32], k: usize) -> Vec<f32> {
    let element =
        |i: usize, j: usize| c[i * 8 + j] + (0..k).map(|l| a[i * k + l] * b[l * 8 + j]).sum::<f32>();
    (0..16).flat_map(|i| (0..8).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
}

#[test]
fn mma_takes_fragments_as_the_ptx_isa_says() {
    /// Name, fragments of a and b, a number's bits, whether two share a register.
    type Kind = (&'static str, Fragment, Fragment, fn(f32) -> u32, bool);
    let kinds: [Kind; 5] = [
        ("m16n8k16_bf16", A_K16, B_K16, bf16_bits, true),
        ("m16n8k16_f16", A_K16, B_K16, f16_bits, true),
        ("m16n8k8_bf16", A_K8, B_K8, bf16_bits, true),
        ("m16n8k8_f16", A_K8, B_K8, f16_bits, true),
        ("m16n8k8_tf32", A_TF32, B_TF32, tf32_bits, false),
    ];
    for (name, fa, fb, bits, half) in kinds {
        let mut random = Random(88172645463325252);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random.small()).collect() };
        let (a, b, c) = (draw(16 * fa.columns), draw(fb.rows * 8), draw(128));
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for lane in 0..32 {
            let mut words = registers(&fa, &a, lane, bits, half);
            words.resize(4, 0xdead_beef);
            words.extend(registers(&fb, &b, lane, bits, half));
            words.resize(6, 0xdead_beef);
            x.extend(words);
            y.extend((0..4).map(|i| c[C.at(lane, i)]));
        }
        let Some(got) = probe(&format!("fault_free_{name}"), 1, bytemuck::cast_slice(&x), &[], &y, 0) else {
            return;
        };
        let expected = plain_product(&a, &b, &c, fa.columns);
        for lane in 0..32 {
            for i in 0..4 {
                assert_eq!(got[lane * 4 + i], expected[C.at(lane, i)], "{name}: d{i} of lane {lane}");
            }
        }
    }
}

#[test]
fn tensor_core_work_is_counted() {
    let Some(simulator) = simulator() else { return };
    // Other tests may run at the same time: at least what this one adds.
    simulator.take_mma_flops();
    probe("fault_free_m16n8k16_bf16", 1, &[0; 768], &[], &[0f32; 128], 0);
    let counted = simulator.take_mma_flops();
    assert!(counted >= 3 * 2 * 16 * 8 * 16, "{counted} operations");
}

#[test]
fn ldmatrix_and_mma_make_a_product() {
    for (name, bits) in [("bf16", bf16_bits as fn(f32) -> u32), ("f16", f16_bits)] {
        let mut random = Random(2463534242);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random.small()).collect() };
        let (a, b) = (draw(256), draw(128));
        let stored =
            |m: &[f32]| -> Vec<u8> { m.iter().flat_map(|&x| (bits(x) as u16).to_ne_bytes()).collect() };
        let kernel = format!("fault_free_product_{name}");
        let Some(got) = probe(&kernel, 1, &stored(&a), &stored(&b), &[f32::NAN; 128], 0) else { return };
        assert_eq!(got, plain_product(&a, &b, &[0.0; 128], 16), "{name}");
    }
}

/// PTX ISA, ldmatrix .m8n8: threads 8m to 8m+7 give the rows of matrix m; a row is spread over four threads, thread l
/// gets elements 2·(l % 4) and the next of row l / 4 of each matrix; with .trans the matrix is loaded in
/// column-major format.
#[test]
fn ldmatrix_gives_rows_or_columns() {
    let memory: Vec<u16> = (0..512).map(|i| i * 77 + 1).collect();
    let mut random = Random(362436069);
    // Rows anywhere in memory, aligned to 16 bytes.
    let rows: Vec<i32> = (0..32).map(|_| (random.next() % 64 * 8) as i32).collect();
    for count in [1, 2, 4] {
        for transposed in [false, true] {
            let kernel = format!("fault_free_ldmatrix_x{count}{}", if transposed { "_trans" } else { "" });
            let y = vec![0u32; 32 * count];
            let Some(got) =
                probe(&kernel, 1, bytemuck::cast_slice(&memory), bytemuck::cast_slice(&rows), &y, 0)
            else {
                return;
            };
            for lane in 0..32 {
                for m in 0..count {
                    let element =
                        |row: usize, column: usize| u32::from(memory[rows[8 * m + row] as usize + column]);
                    let (line, pair) = (lane / 4, lane % 4 * 2);
                    let expected = if transposed {
                        element(pair, line) | element(pair + 1, line) << 16
                    } else {
                        element(line, pair) | element(line, pair + 1) << 16
                    };
                    assert_eq!(got[lane * count + m], expected, "{kernel}: matrix {m}, lane {lane}");
                }
            }
        }
    }
}

#[test]
fn threads_exchange_what_they_should() {
    let mut random = Random(521288629);
    let x: Vec<f32> = (0..96).map(|_| random.small()).collect();
    let from: Vec<i32> = (0..96).map(|_| (random.next() % 32) as i32).collect();
    let y = [f32::NAN; 8 * 96];
    let Some(got) =
        probe("fault_free_exchange", 1, bytemuck::cast_slice(&x), bytemuck::cast_slice(&from), &y, 96)
    else {
        return;
    };
    for (thread, got) in got.chunks(8).enumerate() {
        let (warp, lane) = (&x[thread / 32 * 32..][..32], thread % 32);
        let positive = warp.iter().enumerate().fold(0u32, |bits, (i, &x)| bits | u32::from(x > 0.0) << i);
        let most = |x: &[f32]| x.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(got[0], warp[from[thread] as usize], "shuffle, thread {thread}");
        assert_eq!(got[1], warp[lane ^ 5], "shuffle_xor, thread {thread}");
        assert_eq!(got[2].to_bits(), positive, "ballot, thread {thread}");
        assert_eq!(got[3], warp.iter().sum::<f32>(), "warp_sum, thread {thread}");
        assert_eq!(got[4], most(warp), "warp_max, thread {thread}");
        assert_eq!(got[5], x.iter().sum::<f32>(), "block_sum, thread {thread}");
        assert_eq!(got[6], most(&x), "block_max, thread {thread}");
        assert_eq!(got[7], 96.0, "block_sum again, thread {thread}");
    }
}

#[test]
fn atomics_lose_nothing_between_workers() {
    let Some(simulator) = simulator() else { return };
    let numbers: Vec<f32> = (0..64 * 50).map(|i| (i % 7) as f32).collect();
    let x = GuardedBuffer::of(bytemuck::cast_slice(&numbers));
    let y = GuardedBuffer::of(&[0; 8]);
    let p = Probe { x: x.address(), y: y.address(), more: 0, n: numbers.len() as i32, first: 0 };
    // SAFETY: x has n elements, y two.
    unsafe { simulator.launch(&Launch::new("fault_free_atomics", [50, 1, 1], &p), Schedule::Forward, 4) }
        .unwrap();
    assert_eq!(bytemuck::cast_slice::<u8, f32>(y.bytes()), [numbers.iter().sum(), 3200.0]);
}

#[test]
fn copies_are_whole_or_filled_with_zeros() {
    let x: Vec<u8> = (0..512).map(|i| (i % 255 + 1) as u8).collect();
    // `valid` bytes of pieces of 16, as of 8 and 4.
    let valid: Vec<i32> = (0..32).map(|l| l % 17).collect();
    let Some(got) =
        probe("fault_free_copy_sizes", 1, &x, bytemuck::cast_slice(&valid), &[0xEEu8; 3 * 512], 0)
    else {
        return;
    };
    for (k, part) in got.chunks(512).enumerate() {
        for (i, &byte) in part.iter().enumerate() {
            let expected = if ((i % 16) as i32) < valid[i / 16] { x[i] } else { 0 };
            assert_eq!(byte, expected, "pieces of {} bytes, byte {} of thread {}", 4 << k, i % 16, i / 16);
        }
    }
}

#[test]
fn every_half_precision_number_is_read_right() {
    let y = vec![0f32; 65536];
    let Some(bf16) = probe("fault_free_from_bf16", 1, &[], &[], &y, 0) else { return };
    let Some(f16) = probe("fault_free_from_f16", 1, &[], &[], &y, 0) else { return };
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    for i in 0..=u16::MAX {
        let at = usize::from(i);
        assert!(same(bf16[at], half::bf16::from_bits(i).to_f32()), "bf16 {i:#06x} is read as {:e}", bf16[at]);
        assert!(same(f16[at], half::f16::from_bits(i).to_f32()), "f16 {i:#06x} is read as {:e}", f16[at]);
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest_half() {
    // Around every number of both types and around every midpoint between neighbours, where rounding turns.
    let mut x = Vec::new();
    for i in 0..0x7c00u16 {
        let (a, b) = (half::f16::from_bits(i).to_f32(), half::f16::from_bits(i + 1).to_f32());
        let middle = if i + 1 == 0x7c00 { 65520.0 } else { (a + b) / 2.0 };
        x.extend([a, middle, middle.next_down(), middle.next_up()]);
    }
    for i in 0..0x7f80u32 {
        let (a, middle) = (i << 16, i << 16 | 0x8000);
        x.extend([a, middle, middle - 1, middle + 1].map(f32::from_bits));
    }
    let mut random = Random(1812433253);
    x.extend((0..50_000).map(|_| f32::from_bits(random.next() as u32)));
    x.extend([
        f32::INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
        f32::NAN,
        65519.996,
        65536.0,
        2f32.powi(-25),
        2f32.powi(-24),
    ]);
    let negative: Vec<f32> = x.iter().map(|x| -x).collect();
    x.extend(negative);
    let Some(got) =
        probe("fault_free_to_half", 1, bytemuck::cast_slice(&x), &[], &vec![0u32; x.len()], x.len())
    else {
        return;
    };
    for (&x, got) in x.iter().zip(got) {
        let (b, h) = (half::bf16::from_bits(got as u16), half::f16::from_bits((got >> 16) as u16));
        let (eb, eh) = (half::bf16::from_f32(x), half::f16::from_f32(x));
        assert!(
            b.to_bits() == eb.to_bits() || x.is_nan() && b.is_nan(),
            "{x:e} becomes bf16 {b:e}, not {eb:e}"
        );
        assert!(
            h.to_bits() == eh.to_bits() || x.is_nan() && h.is_nan(),
            "{x:e} becomes f16 {h:e}, not {eh:e}"
        );
    }
}
