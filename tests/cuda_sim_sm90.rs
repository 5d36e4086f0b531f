//! As `cuda_sim_faults.rs`, for what Hopper adds (`cuda/include/sm90.cuh`): each planted fault of
//! `cuda/sim/faults_sm90.cpp` must be reported, and tensor copies, warpgroup products and barriers are compared with
//! the tables of the PTX ISA, written out once more here.
#![cfg(not(windows))]

use dreamclear::device::kernel::{Launch, Swizzle, TensorMapSpec};
use dreamclear::device::sim::{GuardedBuffer, Schedule, Simulator};
use dreamclear::ffi::TensorMap;
use dreamclear::tensor::DType;

#[path = "support/twice.rs"]
mod twice;

/// The parameters of every kernel of `cuda/sim/faults_sm90.cpp`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct TensorProbe {
    x_map: TensorMap,
    y_map: TensorMap,
    x: u64,
    y: u64,
    more: u64,
    n: i32,
    first: i32,
    reserved: [u64; 4],
}

/// Without a C++ compiler there is nothing to test.
fn simulator() -> Option<Simulator> {
    Simulator::new().map_err(|e| eprintln!("skipped: {e}")).ok()
}

// ---- Faults -----------------------------------------------------------------------------------------

const N: usize = 136;

/// Rows of four numbers, of which a block copies sixteen.
fn rows_of_four(address: u64) -> TensorMapSpec {
    TensorMapSpec {
        address,
        dtype: DType::F32,
        extents: vec![4, N / 4],
        strides: vec![16],
        boxed: vec![4, 16],
        swizzle: Swizzle::None,
    }
}

/// Runs a kernel that shall double 136 numbers, and errs in block 1, as those of all ops are run by
/// `tests/cuda_sim.rs`.
fn check(kernel: &'static str) -> Result<(), String> {
    twice::check(N, move |call| {
        let (x, y) = (call.inputs[0].address, call.outputs[0].address);
        let p = TensorProbe {
            x_map: (call.tensor_map)(&rows_of_four(x))?,
            y_map: (call.tensor_map)(&rows_of_four(y))?,
            x,
            y,
            n: N as i32,
            first: 1,
            ..Default::default()
        };
        Ok(vec![Launch::new(kernel, [N.div_ceil(64) as u32, 1, 1], &p)])
    })
}

/// What must be said of each fault.
const FAULTS: &[(&str, &[&str])] = &[
    ("tensor_read_before_wait", &["element [64] is NaN"]),
    ("tensor_other_parity", &["the block ended with 1 tensor copies that nobody waited for"]),
    (
        "tensor_too_many_arrivals",
        &[
            "block (1, 0, 0), thread 0: arrival at the mbarrier at byte 512",
            "all its 1 arrivals and still waits for copies",
        ],
    ),
    (
        "tensor_too_few_arrivals",
        &[
            "block (1, 0, 0), thread 0: 64 of 64 threads wait for the end of phase 0 of the mbarrier at byte 512",
            "1 of 2 arrivals and copies of 256 of 256 bytes",
        ],
    ),
    (
        "tensor_too_many_bytes",
        &["64 of 64 threads wait for", "1 of 1 arrivals and copies of 256 of 272 bytes"],
    ),
    ("tensor_too_few_bytes", &["thread 0: tensor loads of 256 bytes on the mbarrier", "which expects 240"]),
    ("tensor_not_expected", &["the block ended with 1 tensor copies that nobody waited for"]),
    ("tensor_nobody_waits", &["the block ended with 1 tensor copies that nobody waited for"]),
    ("tensor_no_init", &["the mbarrier at byte 512 of shared memory has not been initialised yet"]),
    ("tensor_no_init_fence", &["before thread 0, which made it, called fence_barrier_init"]),
    ("tensor_barrier_overwritten", &["the mbarrier at byte 512 of shared memory has been overwritten"]),
    ("tensor_misaligned_load", &["thread 0: tensor load to shared memory at 0x", "not aligned to 128 bytes"]),
    ("tensor_past_shared", &["tensor load to shared memory at 0x", "not within the block's shared memory"]),
    ("tensor_two_loads", &["tensor load to byte 0 of shared memory, to which another is still under way"]),
    ("tensor_no_map", &["what it is given is not a tensor map"]),
    ("tensor_other_rank", &["3 coordinates of a tensor map of 2 axes"]),
    (
        "tensor_no_async_fence",
        &["tensor store reads byte 256 of shared memory", "without fence_async_shared"],
    ),
    ("tensor_one_fences_for_all", &["tensor store reads byte", "without fence_async_shared"]),
    ("tensor_store_not_waited", &["the thread ended with 1 tensor stores not waited for"]),
    ("tensor_store_not_committed", &["the thread ended with 1 tensor stores not waited for"]),
    ("tensor_overwritten_before_store", &["tensor store reads byte 256 of shared memory", "or too early"]),
    ("tensor_load_over_stores", &["tensor load overwrites byte", "without fence_async_shared"]),
    ("product_no_async_fence", &["wgmma reads byte", "without fence_async_shared"]),
    ("product_no_fence", &["wgmma without wgmma_fence before the first"]),
    ("product_no_fence_after_wait", &["wgmma without wgmma_fence before the first, or after a wait"]),
    ("product_read_before_wait", &["element [64] is NaN"]),
    ("product_written_before_wait", &["has changed accumulators of a product (wgmma) before its wait"]),
    ("product_never_committed", &["the thread ended with 1 products (wgmma) not waited for"]),
    ("product_never_waited", &["the thread ended with 1 products (wgmma) not waited for"]),
    ("product_overwritten_early", &["wgmma reads byte", "or too early"]),
    ("product_half_a_group", &["issued 0 products (wgmma) while others of its warpgroup issued 1"]),
    ("product_other_operands", &["product 0 of the thread is another than that of its warpgroup"]),
    ("product_one_lane_skips", &["wgmma_wait: lane 5 has issued 0 products", "lane 0 has issued 1"]),
    ("product_misaligned", &["wgmma: an operand at 0x", "not aligned to 16 bytes"]),
    (
        "product_swizzle_misaligned",
        &[
            "the descriptor of a begins at byte 128 of shared memory",
            "not in the first of eight rows of 128 bytes",
        ],
    ),
    ("named_barrier", &["32 of 64 threads wait at named barrier 1 for 64 threads", "32 have ended"]),
];

#[test]
fn planted_faults_are_reported() {
    if simulator().is_none() {
        return;
    }
    for kernel in ["fault_free_tensor_twice_sm90", "fault_free_product_twice_sm90"] {
        check(kernel).unwrap_or_else(|e| panic!("{kernel} is in order, but: {e}"));
    }
    let mut wrong = Vec::new();
    for (name, said) in FAULTS {
        let kernel: &'static str = format!("fault_{name}_sm90").leak();
        let Err(message) = check(kernel) else {
            wrong.push(format!("{kernel} passes"));
            continue;
        };
        for part in said.iter().filter(|part| !message.contains(**part)) {
            wrong.push(format!("{kernel}: `{message}` does not say `{part}`"));
        }
        if !message.contains("is NaN") && !message.contains(&format!("kernel {kernel}, block (")) {
            wrong.push(format!("{kernel}: `{message}` does not name the kernel"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_planted_fault_is_tested() {
    let Some(simulator) = simulator() else { return };
    for kernel in simulator.kernels() {
        let Some(name) = kernel.name.strip_prefix("fault_").and_then(|n| n.strip_suffix("_sm90")) else {
            continue;
        };
        let known = name.starts_with("free_") || FAULTS.iter().any(|(n, _)| *n == name);
        assert!(known, "{} of cuda/sim/faults_sm90.cpp is not in FAULTS", kernel.name);
    }
}

#[test]
fn after_a_fault_the_simulator_goes_on() {
    if simulator().is_none() {
        return;
    }
    for fault in ["fault_tensor_too_few_arrivals_sm90", "fault_product_never_waited_sm90"] {
        check(fault).unwrap_err();
        check("fault_free_tensor_twice_sm90").unwrap_or_else(|e| panic!("after {fault}: {e}"));
    }
}

// ---- What primitives do -----------------------------------------------------------------------------

/// Runs a kernel under every schedule over copies of `x` and `more`; what y holds then, which held `y` before. `map`
/// makes the tensor maps from the addresses of x and y.
fn probe<Y: bytemuck::Pod>(
    kernel: &str,
    x: &[u8],
    more: &[i32],
    y: &[Y],
    n: usize,
    maps: impl Fn(u64, u64) -> [Option<TensorMapSpec>; 2],
) -> Option<Vec<Y>> {
    let simulator = simulator()?;
    let (x, more) = (GuardedBuffer::of(x), GuardedBuffer::of(bytemuck::cast_slice(more)));
    let results = Schedule::ALL.map(|schedule| {
        let y = GuardedBuffer::of(bytemuck::cast_slice(y));
        let map = |spec: &Option<TensorMapSpec>| {
            spec.as_ref().map_or(TensorMap::default(), |s| simulator.tensor_map(s).unwrap())
        };
        let [x_map, y_map] = maps(x.address(), y.address());
        let p = TensorProbe {
            x_map: map(&x_map),
            y_map: map(&y_map),
            x: x.address(),
            y: y.address(),
            more: more.address(),
            n: n as i32,
            ..Default::default()
        };
        // SAFETY: buffers of the extents that the kernel takes.
        unsafe { simulator.launch(&Launch::new(kernel, [1, 1, 1], &p), schedule, 1) }
            .unwrap_or_else(|e| panic!("{kernel}, {schedule:?}: {e}"));
        y.bytes().to_vec()
    });
    assert!(results[1] == results[0] && results[2] == results[0], "{kernel} depends on the schedule");
    Some(bytemuck::pod_collect_to_vec(&results[0]))
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

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

/// PTX ISA, "Swizzling modes" of tensors: the pattern of 128-byte swizzle is, for the eight chunks of 16 bytes in rows
/// 0 to 7 of 128 bytes (64-byte: in pairs of two rows of 64, 32-byte: four rows of 32), written here as the table
/// that the ISA draws.
fn swizzled(at: usize, swizzle: Swizzle) -> usize {
    let (line, chunk, inside) = (at / 128 % 8, at / 16 % 8, at % 16);
    let moved = match swizzle {
        Swizzle::None => chunk,
        // Lines of 128 bytes, by the chunk that is found at each place.
        Swizzle::Bytes128 => [
            [0, 1, 2, 3, 4, 5, 6, 7],
            [1, 0, 3, 2, 5, 4, 7, 6],
            [2, 3, 0, 1, 6, 7, 4, 5],
            [3, 2, 1, 0, 7, 6, 5, 4],
            [4, 5, 6, 7, 0, 1, 2, 3],
            [5, 4, 7, 6, 1, 0, 3, 2],
            [6, 7, 4, 5, 2, 3, 0, 1],
            [7, 6, 5, 4, 3, 2, 1, 0],
        ][line][chunk],
        Swizzle::Bytes64 => [
            [0, 1, 2, 3, 4, 5, 6, 7],
            [1, 0, 3, 2, 5, 4, 7, 6],
            [2, 3, 0, 1, 6, 7, 4, 5],
            [3, 2, 1, 0, 7, 6, 5, 4],
        ][line % 4][chunk],
        Swizzle::Bytes32 => [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]][line % 2][chunk],
    };
    at / 128 * 128 + moved * 16 + inside
}

/// A canonical layout of an operand of wgmma, and what a descriptor says of it.
struct Canonical {
    /// Byte of element (outer, k), before swizzling.
    place: fn(outer: usize, k: usize, leading: usize, stride: usize) -> usize,
    leading: usize,
    stride: usize,
    /// As the field of the descriptor counts.
    code: i32,
    swizzle: Swizzle,
}

// PTX ISA 8.5, "Strides" of "Matrix descriptor", as CUTLASS has it in units of 16 bytes (T = 8 elements of 16 bits):
//   K major:  INTERLEAVE ((8,n),2):((1,SBO),LBO)  B32 ((8,n),2):((2,SBO),1)  B64 ((8,n),2):((4,SBO),1)
//             B128 ((8,n),2):((8,SBO),1)
//   MN major: INTERLEAVE ((1,n),(8,k)):((X,SBO),(1,LBO))  B32 ((2,n),(8,k)):((1,LBO),(2,SBO))
//             B64 ((4,n),(8,k)):((1,LBO),(4,SBO))  B128 ((8,n),(8,k)):((1,LBO),(8,SBO))
fn k_major() -> [Canonical; 4] {
    [
        Canonical {
            place: |o, k, lbo, sbo| o % 8 * 16 + o / 8 * sbo + k / 8 * lbo + k % 8 * 2,
            leading: 8192,
            stride: 128,
            code: 0,
            swizzle: Swizzle::None,
        },
        Canonical {
            place: |o, k, _, sbo| o % 8 * 32 + o / 8 * sbo + k / 8 * 16 + k % 8 * 2,
            leading: 16,
            stride: 256,
            code: 3,
            swizzle: Swizzle::Bytes32,
        },
        Canonical {
            place: |o, k, _, sbo| o % 8 * 64 + o / 8 * sbo + k / 8 * 16 + k % 8 * 2,
            leading: 16,
            stride: 512,
            code: 2,
            swizzle: Swizzle::Bytes64,
        },
        Canonical {
            place: |o, k, _, sbo| o % 8 * 128 + o / 8 * sbo + k / 8 * 16 + k % 8 * 2,
            leading: 16,
            stride: 1024,
            code: 1,
            swizzle: Swizzle::Bytes128,
        },
    ]
}
fn mn_major() -> [Canonical; 4] {
    [
        Canonical {
            place: |o, k, lbo, sbo| o / 8 * sbo + o % 8 * 2 + k % 8 * 16 + k / 8 * lbo,
            leading: 8192,
            stride: 128,
            code: 0,
            swizzle: Swizzle::None,
        },
        Canonical {
            place: |o, k, lbo, sbo| o / 8 % 2 * 16 + o / 16 * lbo + o % 8 * 2 + k % 8 * 32 + k / 8 * sbo,
            leading: 512,
            stride: 256,
            code: 3,
            swizzle: Swizzle::Bytes32,
        },
        Canonical {
            place: |o, k, lbo, sbo| o / 8 % 4 * 16 + o / 32 * lbo + o % 8 * 2 + k % 8 * 64 + k / 8 * sbo,
            leading: 1024,
            stride: 512,
            code: 2,
            swizzle: Swizzle::Bytes64,
        },
        Canonical {
            place: |o, k, lbo, sbo| o / 8 % 8 * 16 + o / 64 * lbo + o % 8 * 2 + k % 8 * 128 + k / 8 * sbo,
            leading: 2048,
            stride: 1024,
            code: 1,
            swizzle: Swizzle::Bytes128,
        },
    ]
}

const IMAGE: usize = 64 << 10;
/// Where b begins: a multiple of the longest pattern.
const B_START: usize = 24 << 10;

/// A product of 64×16 and 16×N by warpgroups over operands laid out by hand.
fn check_product(name: &str, n: usize, order: &str, a_as: Option<&Canonical>, b_as: &Canonical) {
    let mut random = Random(88172645463325252);
    let mut draw = |len: usize| -> Vec<f32> { (0..len).map(|_| random.small()).collect() };
    let (a, b) = (draw(64 * 16), draw(16 * n)); // a[m][k], b[k][n]
    let bits = |x: f32| match name {
        "bf16" => half::bf16::from_f32(x).to_bits(),
        _ => half::f16::from_f32(x).to_bits(),
    };
    // What is not an operand is NaN.
    let mut image = vec![0xFFu8; IMAGE];
    let mut put = |at: usize, x: f32| image[at..at + 2].copy_from_slice(&bits(x).to_ne_bytes());
    let mut places = vec![0, 0, 0, 0];
    match a_as {
        Some(l) => {
            for m in 0..64 {
                for k in 0..16 {
                    put(swizzled((l.place)(m, k, l.leading, l.stride), l.swizzle), a[m * 16 + k]);
                }
            }
            places = vec![0, l.leading as i32, l.stride as i32, l.code];
        }
        // PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16", a in registers:
        //   row = 16 · (warp of the group) + groupID       for ai where 0 <= i < 2 || 4 <= i < 6, else + 8
        //   col = threadID_in_group * 2 + (i & 0x1)        for ai where i < 4, else + 8
        None => {
            for thread in 0..128 {
                let (warp, group, t) = (thread / 32, thread % 32 / 4, thread % 4);
                for i in 0..8 {
                    let row = warp * 16 + group + if i < 2 || (4..6).contains(&i) { 0 } else { 8 };
                    let col = t * 2 + (i & 1) + if i < 4 { 0 } else { 8 };
                    put(thread * 16 + i * 2, a[row * 16 + col]);
                }
            }
        }
    }
    for k in 0..16 {
        for col in 0..n {
            let at = B_START + (b_as.place)(col, k, b_as.leading, b_as.stride);
            put(swizzled(at, b_as.swizzle), b[k * n + col]);
        }
    }
    places.extend([B_START as i32, b_as.leading as i32, b_as.stride as i32, b_as.code]);
    let kernel = format!("fault_free_wgmma_{name}_n{n}_{order}_sm90");
    let y = vec![f32::NAN; 64 * n];
    let Some(got) = probe(&kernel, &image, &places, &y, IMAGE, |_, _| [None, None]) else { return };
    // The accumulators: row = 16 · warp + groupID + 8 · (i / 2 % 2), col = 8 · (i / 4) + 2 · threadID_in_group + i % 2.
    for (at, &got) in got.iter().enumerate() {
        let (thread, i) = (at / (n / 2), at % (n / 2));
        let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
        let col = i / 4 * 8 + thread % 4 * 2 + i % 2;
        let want = 1.0 + (0..16).map(|k| a[row * 16 + k] * b[k * n + col]).sum::<f32>();
        let b_swizzle = b_as.swizzle;
        assert_eq!(got, want, "{kernel}, b {b_swizzle:?}: d{i} of thread {thread}, row {row}, column {col}");
    }
}

#[test]
fn products_read_operands_as_the_ptx_isa_says() {
    let (k, mn) = (k_major(), mn_major());
    for n in [8, 72, 256] {
        for i in 0..4 {
            // Tiles of rows of m hold whole rows of their swizzle.
            let wide_enough = n * 2 % mn[i].swizzle.bytes().max(16) == 0;
            check_product("bf16", n, "kk", Some(&k[i]), &k[(i + 1) % 4]);
            check_product("bf16", n, "mk", Some(&mn[i]), &k[(i + 2) % 4]);
            check_product("bf16", n, "rk", None, &k[i]);
            check_product("f16", n, "kk", Some(&k[i]), &k[i]);
            if wide_enough {
                check_product("bf16", n, "km", Some(&k[(i + 1) % 4]), &mn[i]);
                check_product("bf16", n, "mm", Some(&mn[(i + 3) % 4]), &mn[i]);
            }
        }
    }
}

#[test]
fn tensor_core_work_is_counted() {
    let Some(simulator) = simulator() else { return };
    // Other tests may run at the same time: at least what this one adds.
    simulator.take_mma_flops();
    let k = k_major();
    check_product("bf16", 72, "kk", Some(&k[0]), &k[3]);
    let counted = simulator.take_mma_flops();
    assert!(counted >= 3 * 2 * 64 * 72 * 16, "{counted} operations");
}

/// A tensor, a box of it and where that lies.
struct Boxed {
    dtype: DType,
    extents: &'static [usize],
    /// In bytes, of all axes but the first.
    strides: &'static [usize],
    boxed: &'static [usize],
    at: &'static [i32],
    swizzle: Swizzle,
}

const BOXES: &[Boxed] = &[
    Boxed {
        dtype: DType::BF16,
        extents: &[40, 7],
        strides: &[80],
        boxed: &[16, 4],
        at: &[8, 2],
        swizzle: Swizzle::None,
    },
    // Past every edge.
    Boxed {
        dtype: DType::BF16,
        extents: &[40, 7],
        strides: &[96],
        boxed: &[64, 16],
        at: &[-3, -5],
        swizzle: Swizzle::Bytes128,
    },
    Boxed {
        dtype: DType::F32,
        extents: &[10, 5],
        strides: &[48],
        boxed: &[16, 9],
        at: &[2, 1],
        swizzle: Swizzle::Bytes64,
    },
    Boxed {
        dtype: DType::F16,
        extents: &[24, 20],
        strides: &[48],
        boxed: &[16, 24],
        at: &[16, -2],
        swizzle: Swizzle::Bytes32,
    },
    // Wholly outside.
    Boxed {
        dtype: DType::F16,
        extents: &[24, 20],
        strides: &[48],
        boxed: &[8, 2],
        at: &[24, 0],
        swizzle: Swizzle::None,
    },
    Boxed {
        dtype: DType::F16,
        extents: &[24, 20],
        strides: &[48],
        boxed: &[8, 2],
        at: &[0, -2],
        swizzle: Swizzle::None,
    },
    Boxed {
        dtype: DType::BF16,
        extents: &[64, 5, 3],
        strides: &[128, 640],
        boxed: &[64, 3, 2],
        at: &[0, -1, 2],
        swizzle: Swizzle::Bytes128,
    },
    // A window of a picture, beyond its border: channels, columns, rows, pictures.
    Boxed {
        dtype: DType::BF16,
        extents: &[72, 6, 5, 2],
        strides: &[144, 864, 4320],
        boxed: &[64, 4, 3, 1],
        at: &[64, -1, 3, 1],
        swizzle: Swizzle::Bytes128,
    },
    Boxed {
        dtype: DType::F32,
        extents: &[4, 3, 3, 2, 2],
        strides: &[16, 48, 144, 288],
        boxed: &[4, 2, 2, 2, 1],
        at: &[0, 2, -1, 1, 1],
        swizzle: Swizzle::None,
    },
];

impl Boxed {
    fn spec(&self, address: u64) -> TensorMapSpec {
        TensorMapSpec {
            address,
            dtype: self.dtype,
            extents: self.extents.to_vec(),
            strides: self.strides.to_vec(),
            boxed: self.boxed.to_vec(),
            swizzle: self.swizzle,
        }
    }
    /// Bytes up to the end of the last element.
    fn bytes(&self) -> usize {
        let size = self.dtype.size();
        let last: usize = self.extents[1..].iter().zip(self.strides).map(|(n, s)| (n - 1) * s).sum();
        last + self.extents[0] * size
    }
    fn more(&self) -> Vec<i32> {
        let mut more = self.at.to_vec();
        more.resize(5, 0);
        more.push(self.at.len() as i32);
        more
    }
    /// For each element of the box: its byte in shared memory, and in the tensor if it is there.
    fn places(&self) -> Vec<(usize, Option<usize>)> {
        let size = self.dtype.size();
        (0..self.boxed.iter().product())
            .map(|i| {
                let (mut rest, mut byte, mut inside) = (i, 0usize, true);
                for axis in 0..self.boxed.len() {
                    let c = self.at[axis] as isize + (rest % self.boxed[axis]) as isize;
                    rest /= self.boxed[axis];
                    inside &= (0..self.extents[axis] as isize).contains(&c);
                    let step = if axis == 0 { size } else { self.strides[axis - 1] };
                    byte = byte.wrapping_add_signed(c * step as isize);
                }
                (swizzled(i * size, self.swizzle), inside.then_some(byte))
            })
            .collect()
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut random = Random(2463534242);
    (0..bytes).map(|_| (random.next() % 255) as u8).collect()
}

#[test]
fn tensor_loads_place_boxes_and_fill_with_zeros() {
    for (i, b) in BOXES.iter().enumerate() {
        let memory = noise(b.bytes());
        let places = b.places();
        let y = vec![0xEEu8; b.spec(0).box_bytes()];
        let maps = |x, _| [Some(b.spec(x)), None];
        let Some(got) = probe("fault_free_tensor_load_sm90", &memory, &b.more(), &y, y.len(), maps) else {
            return;
        };
        let size = b.dtype.size();
        for (shared, tensor) in places {
            let want = tensor.map_or(vec![0; size], |t| memory[t..t + size].to_vec());
            assert_eq!(got[shared..shared + size], want, "box {i}, byte {shared} of shared memory");
        }
    }
}

#[test]
fn tensor_stores_leave_out_what_is_outside() {
    for (i, b) in BOXES.iter().enumerate().filter(|(_, b)| b.at.len() < 5) {
        let shared = noise(b.spec(0).box_bytes());
        let before = vec![0xEEu8; b.bytes()];
        let mut want = before.clone();
        let size = b.dtype.size();
        for (from, to) in b.places() {
            if let Some(to) = to {
                want[to..to + size].copy_from_slice(&shared[from..from + size]);
            }
        }
        let maps = |_, y| [None, Some(b.spec(y))];
        let n = shared.len();
        let Some(got) = probe("fault_free_tensor_store_sm90", &shared, &b.more(), &before, n, maps) else {
            return;
        };
        assert_eq!(got, want, "box {i}");
    }
}

#[test]
fn tables_of_swizzles_are_permutations() {
    for swizzle in SWIZZLES {
        let mut all: Vec<_> = (0..1024).map(|at| swizzled(at, swizzle)).collect();
        all.sort();
        assert_eq!(all, (0..1024).collect::<Vec<_>>());
    }
}

#[test]
fn a_ring_of_one_slot_passes_every_number() {
    let Some(got) = probe("fault_free_ring_sm90", &[], &[], &[0f32; 32], 9, |_, _| [None, None]) else {
        return;
    };
    assert_eq!(got, [36.0; 32]);
}

#[test]
fn tensor_maps_say_what_they_cannot_be() {
    let good = rows_of_four(1 << 20);
    good.check().unwrap();
    let with = |change: &dyn Fn(&mut TensorMapSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec.check().unwrap_err()
    };
    for (message, said) in [
        (with(&|s| s.address += 8), "a tensor map at address 0x100008; expected a multiple of 16"),
        (with(&|s| s.strides[0] = 24), "a stride of 24 bytes; expected a multiple of 16"),
        (with(&|s| s.boxed[1] = 257), "a box of 257 elements along an axis; expected 1 to 256"),
        (with(&|s| s.boxed[0] = 3), "rows of 12 bytes in a box; expected a multiple of 16"),
        (
            with(&|s| s.swizzle = Swizzle::Bytes128),
            "rows of 16 bytes in a box; expected the 128 of its swizzle",
        ),
        (with(&|s| s.extents[1] = 0), "an axis of 0 elements"),
        (with(&|s| s.boxed.push(1)), "a tensor map of 2 extents, 1 strides and a box of 3 axes"),
        (with(&|s| s.dtype = DType::I32), "expected f32, bf16 or f16"),
    ] {
        assert!(message.contains(said), "`{message}` does not say `{said}`");
    }
}
