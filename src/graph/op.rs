//! What every operation must say about itself: the trait [`Op`].

use std::any::Any;
use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use super::builder::GraphBuilder;
use super::cuda::{CudaCall, Storage};
use super::ir::{TensorType, ValueId};
use super::layout::Layout;
use super::reference::{Array, DynReference};
use crate::device::kernel::Launch;
use crate::device::library::LibraryCall;
use crate::error::Result;
use crate::tensor::DType;

/// Work of one node: floating-point operations (a multiply-add counts two, a transcendental
/// function one) and compulsory bytes (every operand read once, every result written once).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes moved if every operand is read once and every result written once.
    pub bytes: f64,
}

impl Cost {
    /// `flops`, and the bytes of all operands and results.
    pub fn dense(flops: f64, inputs: &[&TensorType], outputs: &[&TensorType]) -> Self {
        let bytes = inputs.iter().chain(outputs).map(|t| t.bytes()).sum::<usize>() as f64;
        Cost { flops, bytes }
    }
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, o: Cost) -> Cost {
        Cost { flops: self.flops + o.flops, bytes: self.bytes + o.bytes }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(iter: I) -> Cost {
        iter.fold(Cost::default(), Add::add)
    }
}

/// What a gradient rule answers.
pub enum Gradient {
    /// One entry per operand: its gradient, or `None` where the operand has none (an integer, or
    /// one that was not asked for).
    Inputs(Vec<Option<ValueId>>),
    /// The op has no gradient, and why. Asking for one is an error, never a zero.
    NotDifferentiable(&'static str),
}

/// What a gradient rule works with. New nodes go into `b`.
pub struct GradientContext<'a> {
    /// The graph under construction.
    pub b: &'a mut GraphBuilder,
    /// Operands of the forward node.
    pub inputs: &'a [ValueId],
    /// Results of the forward node.
    pub outputs: &'a [ValueId],
    /// Gradient of the loss with respect to each result; `None` where the result does not reach
    /// the loss.
    pub d_outputs: &'a [Option<ValueId>],
    /// Which operands need a gradient; others may be answered with `None` to save the work.
    pub wanted: &'a [bool],
}

impl GradientContext<'_> {
    /// The gradient of the only result.
    ///
    /// # Panics
    /// If it does not reach the loss; autodiff never calls a rule then.
    pub fn dy(&self) -> ValueId {
        self.d_outputs[0].expect("autodiff calls a rule only when a result reaches the loss")
    }
}

/// An operand as the CPU path sees it.
pub struct Operand<'a> {
    /// Dtype and shape.
    pub ty: &'a TensorType,
    /// Strides; `offset` is relative to the data below.
    pub layout: &'a Layout,
    /// The buffer from the view's start to its last element. Empty if the plan lets this operand
    /// share memory with output 0 ([`Op::in_place`]): then read it there.
    pub data: OperandData<'a>,
}

/// Where an operand's elements are.
#[derive(Clone, Copy)]
pub enum OperandData<'a> {
    /// In memory of their own.
    Apart(&'a [u8]),
    /// In the memory of output 0, element for element; overwriting is the point.
    InOutput,
}

impl<'a> Operand<'a> {
    /// The elements as f32, from the view's first element on.
    ///
    /// # Panics
    /// If the dtype is not f32, or the operand lives in the output. `infer` and `in_place` rule
    /// both out.
    pub fn f32(&self) -> &'a [f32] {
        self.cast(DType::F32)
    }

    /// The elements as i64; panics like [`Operand::f32`].
    pub fn i64(&self) -> &'a [i64] {
        self.cast(DType::I64)
    }

    /// Whether this operand shares the memory of output 0.
    pub fn in_output(&self) -> bool {
        matches!(self.data, OperandData::InOutput)
    }

    /// The elements as any plain type of the operand's dtype; panics like [`Operand::f32`].
    pub fn cast<T: bytemuck::Pod>(&self, dtype: DType) -> &'a [T] {
        assert_eq!(self.ty.dtype, dtype, "operand dtype");
        match self.data {
            OperandData::Apart(bytes) => bytemuck::cast_slice(bytes),
            OperandData::InOutput => panic!("operand shares the output's memory; read it there"),
        }
    }
}

/// A result as the CPU path sees it: always dense.
pub struct Output<'a> {
    /// Dtype and shape.
    pub ty: &'a TensorType,
    /// The memory to fill; every element must be written.
    pub data: &'a mut [u8],
}

impl Output<'_> {
    /// The elements as f32.
    ///
    /// # Panics
    /// If the dtype is not f32.
    pub fn f32(&mut self) -> &mut [f32] {
        assert_eq!(self.ty.dtype, DType::F32, "output dtype");
        bytemuck::cast_slice_mut(self.data)
    }
}

/// One call of the fast CPU path. It runs inside the device's rayon pool: `rayon` iterators use
/// the right number of threads by themselves.
pub struct CpuCall<'a> {
    /// Operands in the op's order.
    pub inputs: Vec<Operand<'a>>,
    /// Results in the op's order.
    pub outputs: Vec<Output<'a>>,
    /// Working memory of [`Op::cpu_scratch`] bytes, 64-byte aligned, contents arbitrary.
    pub scratch: &'a mut [u8],
}

/// An operation: everything that the engine knows about it. The registry in `ops` lists all of
/// them, and tests walk it; an op is whole or absent.
///
/// The plain reference (f32, f64 and counted) comes from implementing
/// [`Reference`](super::reference::Reference).
pub trait Op: DynReference + fmt::Debug + Send + Sync + Any {
    /// The op's one name, everywhere: folder, kernel prefix, bench group, NVTX range.
    fn name(&self) -> &'static str;

    /// Result types for these operand types, or what is wrong with them (one sentence, with the
    /// numbers; the caller adds path and op).
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String>;

    /// Appends the gradient with respect to the operands, as graph nodes.
    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient>;

    /// Floating-point operations and compulsory bytes.
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost;

    /// The fast CPU path. Must give the same bytes for any number of threads.
    fn cpu(&self, call: CpuCall) -> Result<(), String>;

    /// Working memory that [`Op::cpu`] needs with `threads` threads, in bytes.
    fn cpu_scratch(&self, _inputs: &[&TensorType], _outputs: &[&TensorType], _threads: usize) -> usize {
        0
    }

    /// Whether the fast paths read operand `input` in this layout; if not, the plan copies it
    /// into dense memory first.
    fn accepts(&self, _input: usize, layout: &Layout) -> bool {
        layout.is_dense()
    }

    /// Whether operand `input` may share memory with output 0 (same type, each element read
    /// before or when it is written, and by the same thread).
    fn in_place(&self, _input: usize) -> bool {
        false
    }

    /// Element types in memory on a CUDA device for this compute type (f32, bf16 or f16), given what the
    /// operands are kept in. Unless an op says otherwise, everything is f32.
    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        outputs: &[&TensorType],
        _kept: &[DType],
        _compute: DType,
    ) -> Storage {
        Storage::of_graph(inputs, outputs)
    }

    /// The launches that compute the results, or what stands in the way in one sentence.
    fn cuda(&self, _call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        Err(format!("{} has no CUDA kernel in this version", self.name()))
    }

    /// Whether [`Op::cuda`] can write result 0 in the element type `also` as well, for operands and results of
    /// these shapes and types in memory. Where a later op wants it so, the plan then asks for it as one more
    /// result, behind the op's own, instead of converting it.
    fn cuda_also(&self, _inputs: &[&TensorType], _outputs: &[&TensorType], _also: DType) -> bool {
        false
    }

    /// The same by one call of a library of NVIDIA's, where there is one that gives the same numbers but for
    /// the order of additions and the rounding of a bias. It is measured against [`Op::cuda`] when a plan is
    /// bound on a device that has the library.
    fn cuda_library(&self, _call: &CudaCall) -> Option<LibraryCall> {
        None
    }

    /// Working memory that [`Op::cuda`] needs, in bytes, for operands and results of these shapes and
    /// element types in memory.
    fn cuda_scratch(&self, _inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        0
    }

    /// The naive run in a half-precision type, if it differs from the plain formula in f32 with rounded
    /// results: intermediate tensors that an unfused program would store are rounded too (the
    /// probabilities of an attention). Kernels may err twice as much. `inputs` are as stored.
    fn naive_in(&self, _inputs: &[Array<f64>], _dtype: DType) -> Option<Vec<Array<f64>>> {
        None
    }

    /// As [`Op::accepts`], for the kernels of [`Op::cuda`].
    fn cuda_accepts(&self, input: usize, layout: &Layout) -> bool {
        self.accepts(input, layout)
    }

    /// As [`Op::in_place`], for the kernels of [`Op::cuda`]: only where each element is read by the thread
    /// that overwrites it, before it does.
    fn cuda_in_place(&self, _input: usize) -> bool {
        false
    }

    /// For an op that only re-reads operand 0 (reshape, transpose, slice, broadcast): the layout
    /// of the result over the same buffer, or `None` if this layout needs a copy first. A dense
    /// operand must succeed. Such an op never runs; its `cpu` is a strided copy.
    fn view(&self, _operand: &Layout) -> Option<Layout> {
        None
    }

    /// Whether this is such a re-reading op.
    fn is_view(&self) -> bool {
        false
    }

    /// Identity of the op with its attributes, for common-subexpression elimination and dumps.
    fn key(&self) -> String {
        format!("{self:?}")
    }
}

impl dyn Op {
    /// The concrete op, if it is a `T`: how fusion rules look at neighbours.
    pub fn downcast<T: Op>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}
