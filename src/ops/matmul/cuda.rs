//! Which kernels of `cuda/gemm.cu` run, and with what: for `matmul` here, for `linear` through [`Product`]. On Hopper
//! `cuda_sm90.rs` is asked first.

use super::{Dims, MatMul};
use crate::device::kernel::Launch;
use crate::device::library::{self, Activation, LibraryCall, Parameter};
use crate::ffi;
use crate::graph::cuda::{CudaCall, CudaOperand, Storage};
use crate::graph::{Layout, TensorType};
use crate::ops::epilogue::Epilogue;
use crate::tensor::DType;

/// Multiprocessors that a product is cut for: those of an A100, whatever the device, so that the order of
/// additions (and the need for scratch) depends on the shape alone.
const MULTIPROCESSORS: usize = 108;
/// Inner extent of a step of the tensor-core kernels; slices of k are multiples of it.
const STEP: usize = 32;
/// Rows of A up to which a product is memory-bound on B and has kernels of its own.
pub(in crate::ops) const FEW_ROWS: usize = 16;
/// Blocks along z of a launch.
const MOST_BLOCKS_Z: usize = 65535;

/// An operand of a product: matrices whose rows are dense.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix {
    pub(super) address: u64,
    pub(super) dtype: DType,
    /// Elements between rows.
    pub(super) step: usize,
    /// Elements between two items of the batch; 0: shared.
    pub(super) batch_step: usize,
}

impl Matrix {
    /// Dense or padded rows of one matrix, or of the batch's matrices one behind another.
    pub fn new(o: &CudaOperand, step: usize, batch_step: usize) -> Self {
        Matrix { address: o.address, dtype: o.ty.dtype, step, batch_step }
    }

    /// The least aligned of the matrices of a group: all can be read as it can.
    pub fn aligned_as(all: &[Matrix]) -> Self {
        *all.iter().min_by_key(|m| m.align()).expect("a group has members")
    }

    /// The largest power of two, up to 16 bytes, that divides the address and all steps.
    pub fn align(&self) -> i32 {
        let size = self.dtype.size();
        let all = self.address as usize | (self.step * size) | (self.batch_step * size) | 16;
        1 << all.trailing_zeros()
    }
}

/// Extents and layouts of a product.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Extents {
    pub batch: usize,
    /// Whether the items of the batch are a group: each has memory of its own. They are not split.
    pub grouped: bool,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub trans_a: bool,
    pub trans_b: bool,
    /// Whether A is half precision, and B too.
    pub half: bool,
}

/// A kernel, and into how many blocks' shares k is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    pub tile: Tile,
    pub splits: usize,
    /// Products of a share.
    pub k_slice: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tile {
    /// For up to [`FEW_ROWS`] rows.
    Rows,
    /// Rows and columns of the result that a block computes.
    Block(usize, usize),
}

impl Plan {
    /// The share of the peak that its kernel reaches while every multiprocessor has work.
    pub(super) fn share(&self, e: &Extents) -> f64 {
        let own = |t: &&(usize, usize, f64)| self.tile == Tile::Block(t.0, t.1);
        e.tiles().iter().find(own).map_or(1.0, |t| t.2)
    }
}

impl Extents {
    /// Tiles that there are kernels for: rows, columns, share of the peak.
    fn tiles(&self) -> &'static [(usize, usize, f64)] {
        match (self.half, self.trans_a, self.trans_b) {
            (false, ..) => &[(128, 128, 0.85), (64, 64, 0.6)],
            (true, false, true) => &[(128, 256, 0.8), (128, 128, 0.75), (64, 64, 0.5)],
            (true, true, true) => &[(64, 64, 0.5)],
            (true, ..) => &[(128, 128, 0.75), (64, 64, 0.5)],
        }
    }

    /// How A and B are stored, as kernels' names say it: n, or t for transposed.
    pub(super) fn order(&self) -> &'static str {
        match (self.trans_a, self.trans_b) {
            (false, false) => "nn",
            (false, true) => "nt",
            (true, false) => "tn",
            (true, true) => "tt",
        }
    }

    /// The fastest plan by a model of the time on an A100: waves of blocks, each at the kernel's share of a
    /// multiprocessor's peak; for split products also the traffic and launch of the sum.
    fn plan(&self) -> Plan {
        let whole = |tile| Plan { tile, splits: 1, k_slice: self.k };
        if self.m <= FEW_ROWS && !self.trans_a && self.trans_b {
            return whole(Tile::Rows);
        }
        let peak = if self.half { 312e12 } else { 19.5e12 } / MULTIPROCESSORS as f64;
        let mut best = (f64::INFINITY, whole(Tile::Block(64, 64)));
        for &(rows, columns, share) in self.tiles() {
            let blocks = self.batch * self.m.div_ceil(rows) * self.n.div_ceil(columns);
            for splits in 1..=if self.grouped { 1 } else { 16 } {
                let k_slice = self.k.div_ceil(splits).next_multiple_of(STEP);
                if splits > 1 && (k_slice < 8 * STEP || k_slice * (splits - 1) >= self.k) {
                    continue;
                }
                let waves = (blocks * splits).div_ceil(MULTIPROCESSORS) as f64;
                let block = 2.0 * (rows * columns * k_slice) as f64 / (peak * share);
                let traffic = (self.batch * self.m * self.n * 8 * splits) as f64 / 1.5e12;
                let sum = if splits > 1 { 3e-6 + traffic } else { 0.0 };
                let time = waves * block + sum;
                if time < best.0 {
                    let k_slice = if splits > 1 { k_slice } else { self.k };
                    best = (time, Plan { tile: Tile::Block(rows, columns), splits, k_slice });
                }
            }
        }
        best.1
    }

    /// Whether the blocks of one launch of the tensor-core kernels finish the result, tile by tile: they can
    /// write it twice (`twin` of the epilogue), and norm its rows. Whoever lets other kernels make such products
    /// either teaches them both or says so here.
    pub fn in_tiles(&self) -> bool {
        let plan = self.plan();
        self.half && !self.grouped && plan.splits == 1 && matches!(plan.tile, Tile::Block(..))
    }

    /// Rows of tiles: what norms of the result count by.
    pub fn tile_rows(&self) -> usize {
        match self.plan().tile {
            Tile::Rows => 1,
            Tile::Block(rows, _) => self.m.div_ceil(rows),
        }
    }

    /// Bytes for the parts of a split product.
    pub fn scratch(&self) -> usize {
        match self.plan().splits {
            1 => 0,
            splits => splits * self.batch * self.m * self.n * size_of::<f32>(),
        }
    }
}

/// y = epilogue(A·B) for every item of a batch.
pub(in crate::ops) struct Product {
    pub extents: Extents,
    pub a: Matrix,
    pub b: Matrix,
    /// Address and element type of the dense result.
    pub y: u64,
    pub y_dtype: DType,
    pub epilogue: ffi::Epilogue,
    /// Of the rows of the result; only where it is made [`Extents::in_tiles`].
    pub norms: ffi::RowNorms,
    /// Address of [`Extents::scratch`] bytes.
    pub scratch: u64,
    /// What the members of a group have of their own; empty for a batch.
    pub group: Vec<ffi::GemmMember>,
}

impl Product {
    pub fn launches(&self, call: &CudaCall) -> Result<Vec<Launch>, String> {
        let e = &self.extents;
        if e.batch * e.m * e.n == 0 {
            return Ok(vec![]);
        }
        let plan = e.plan();
        if let Some((launch, splits)) = self.on_hopper(call, &plan)? {
            return Ok([launch].into_iter().chain((splits > 1).then(|| self.sum(splits))).collect());
        }
        let kernel = self.kernel(plan.tile);
        let blocks = match plan.tile {
            Tile::Block(rows, columns) => [e.m.div_ceil(rows) * e.n.div_ceil(columns), plan.splits],
            Tile::Rows if e.half => [e.n.div_ceil(16), 1],
            Tile::Rows => [e.n.div_ceil(16), e.m.div_ceil(8)],
        };
        let part = plan.splits > 1;
        let mut members = [ffi::GemmMember::default(); ffi::GEMM_MEMBERS as usize];
        members[..self.group.len()].copy_from_slice(&self.group);
        let nothing = Epilogue::default().on_cuda(None, None);
        let launch = |first: usize| {
            let at = |m: &Matrix| m.address + (first * m.batch_step * m.dtype.size()) as u64;
            let y_offset = (first * e.m * e.n * self.y_dtype.size()) as u64;
            let mut epilogue = if part { nothing } else { self.epilogue };
            epilogue.residual += if epilogue.residual == 0 { 0 } else { y_offset };
            let params = ffi::Gemm {
                a: at(&self.a),
                b: at(&self.b),
                y: if part { self.scratch } else { self.y + y_offset },
                a_step: self.a.step as i64,
                b_step: self.b.step as i64,
                a_batch: self.a.batch_step as i64,
                b_batch: self.b.batch_step as i64,
                epilogue,
                members,
                norms: self.norms,
                m: e.m as i32,
                n: e.n as i32,
                k: e.k as i32,
                k_slice: plan.k_slice as i32,
                a_align: self.a.align(),
                b_align: self.b.align(),
                a_trans: e.trans_a.into(),
                b_trans: e.trans_b.into(),
                y_f32: (part || self.y_dtype == DType::F32).into(),
                grouped: e.grouped.into(),
            };
            let z = (e.batch - first).min(MOST_BLOCKS_Z);
            Launch::new(&kernel, [blocks[0] as u32, blocks[1] as u32, z as u32], &params)
        };
        let mut all: Vec<_> = (0..e.batch).step_by(MOST_BLOCKS_Z).map(launch).collect();
        if part {
            debug_assert_eq!(all.len(), 1, "so many products fill the device without being split");
            all.push(self.sum(plan.splits));
        }
        Ok(all)
    }

    /// Adds up the parts of a split product.
    fn sum(&self, splits: usize) -> Launch {
        let e = &self.extents;
        let len = e.batch * e.m * e.n;
        let params = ffi::GemmSum {
            partial: self.scratch,
            y: self.y,
            len: len as i64,
            epilogue: self.epilogue,
            n: e.n as i32,
            splits: splits as i32,
        };
        Launch::new(format!("gemm_sum_{}", self.y_dtype), [len.div_ceil(256) as u32, 1, 1], &params)
    }

    /// The same by cuBLASLt, where that has the epilogue and multiplies such operands. `bias` is its operand.
    /// It wants a bias in the type of the result, rounded once more than ours.
    pub fn library(&self, epilogue: &Epilogue, bias: Option<usize>) -> Option<LibraryCall> {
        let e = &self.extents;
        let act = epilogue.on_library()?;
        let has_act = match act {
            None => true,
            Some(Activation::Relu | Activation::GeluTanh) => !epilogue.residual && epilogue.alpha == 1.0,
            Some(_) => false,
        };
        let scaled_bias = bias.is_some() && epilogue.alpha != 1.0;
        let types = self.a.dtype == self.b.dtype && [DType::F32, self.a.dtype].contains(&self.y_dtype);
        if e.grouped || e.batch * e.m * e.n * e.k == 0 || !has_act || scaled_bias || !types {
            return None;
        }
        let matrix = |x: &Matrix, rows: usize, columns: usize, transposed: bool| {
            let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
            let Matrix { address, dtype, step, batch_step } = *x;
            let repeated = rows > 1 && step < columns;
            (!repeated).then_some(library::Matrix { address, dtype, step, batch_step, transposed })
        };
        Some(LibraryCall::Matmul(library::Matmul {
            batch: e.batch,
            m: e.m,
            n: e.n,
            k: e.k,
            a: matrix(&self.a, e.m, e.k, e.trans_a)?,
            b: matrix(&self.b, e.k, e.n, e.trans_b)?,
            y: self.y,
            y_dtype: self.y_dtype,
            alpha: epilogue.alpha,
            bias: bias.map(|operand| Parameter {
                operand,
                address: self.epilogue.bias,
                order: vec![0],
                dtype: self.y_dtype,
            }),
            act,
            residual: epilogue.residual.then_some(self.epilogue.residual),
        }))
    }

    fn kernel(&self, tile: Tile) -> String {
        let e = &self.extents;
        let (a, b) = (self.a.dtype, self.b.dtype);
        match tile {
            Tile::Rows if e.half => format!("gemm_rows_{a}"),
            Tile::Rows => format!("gemm_rows_f32_{b}"),
            Tile::Block(rows, columns) if e.half => {
                format!("gemm_{}_{rows}x{columns}_{a}", e.order())
            }
            Tile::Block(rows, columns) => format!("gemm_simt_{rows}x{columns}_f32_{b}"),
        }
    }
}

/// (rows step, batch step) of matrices `[…, R, C]` whose rows are dense and whose leading axes fold into one.
fn matrices(layout: &Layout) -> Option<(usize, usize)> {
    let rank = layout.shape.len();
    let (lead, last) = layout.shape.split_at_checked(rank.checked_sub(2)?)?;
    let dense = |axis: usize| layout.shape[axis] == 1 || layout.strides[axis] == 1;
    if !dense(rank - 1) {
        return None;
    }
    let step = if last[0] == 1 { last[1] } else { layout.strides[rank - 2] };
    // The batch as the rows of a matrix with one column.
    let batch = Layout {
        shape: lead.iter().copied().chain([1]).collect(),
        strides: layout.strides[..rank - 2].iter().copied().chain([1]).collect(),
        offset: 0,
    };
    let (count, _, batch_step) = batch.as_rows()?;
    Some((step, if count == 1 { 0 } else { batch_step }))
}

/// Rows of A must have one step through the whole batch if A is not transposed: a product with a shared B
/// is then one tall product.
pub(super) fn accepts(op: &MatMul, input: usize, layout: &Layout) -> bool {
    if input == 0 && !op.trans_a { layout.as_rows().is_some() } else { matrices(layout).is_some() }
}

/// Operands and result in the compute type, but a product over the rows of both operands (`trans_a`: the
/// gradient of a weight) in f32. An f32 product reads B as it is kept.
pub(super) fn storage(op: &MatMul, kept: &[DType], compute: DType) -> Storage {
    let b = if compute == DType::F32 { kept[1] } else { compute };
    Storage { inputs: vec![compute, b], outputs: vec![if op.trans_a { DType::F32 } else { compute }] }
}

/// Extents, with the batch as rows of A where B is shared.
fn extents(op: &MatMul, a: &TensorType, b: &TensorType) -> (Extents, Dims) {
    let (mut d, _) = op.dims(&a.shape, &b.shape).expect("infer checked");
    if d.step_b == 0 && !op.trans_a {
        d.m *= d.batch;
        d.batch = 1;
    }
    let Dims { batch, m, k, n, .. } = d;
    let half = a.dtype != DType::F32;
    (Extents { batch, grouped: false, m, k, n, trans_a: op.trans_a, trans_b: op.trans_b, half }, d)
}

pub(super) fn scratch(op: &MatMul, inputs: &[&TensorType]) -> usize {
    extents(op, inputs[0], inputs[1]).0.scratch()
}

pub(super) fn product(op: &MatMul, call: &CudaCall) -> Product {
    let [a, b] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let (extents, d) = extents(op, &a.ty, &b.ty);
    let (a_step, a_batch) = if op.trans_a {
        matrices(a.layout).expect("accepts() asked")
    } else {
        let step = a.layout.as_rows().expect("accepts() asked").2;
        (step, step * d.m)
    };
    let (b_step, b_batch) = matrices(b.layout).expect("accepts() asked");
    let y = &call.outputs[0];
    Product {
        extents,
        a: Matrix::new(a, a_step, if d.step_a == 0 || d.batch == 1 { 0 } else { a_batch }),
        b: Matrix::new(b, b_step, b_batch),
        y: y.address,
        y_dtype: y.ty.dtype,
        epilogue: Epilogue::default().on_cuda(None, None),
        norms: ffi::RowNorms::default(),
        scratch: call.scratch,
        group: vec![],
    }
}
