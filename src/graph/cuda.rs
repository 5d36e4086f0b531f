//! How an op runs on a CUDA device (or its simulation): with which element types in memory, and by which
//! launches.
//!
//! The graph computes in f32 whatever the device. On CUDA a plan may *keep* values in half precision: the
//! [`Storage`] of each value is decided per plan from its compute type ([`super::Op::cuda_storage`]), and
//! kernels convert when they load and store. Arithmetic accumulates in f32 always.

use super::ir::TensorType;
use super::layout::Layout;
use crate::device::kernel::{DeviceFacts, TensorMapSpec};
use crate::ffi;
use crate::tensor::DType;

/// Element types that an op wants its operands in and gives its results in. Integers stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Per operand; where it differs from what the operand is kept in, the plan converts first.
    pub inputs: Vec<DType>,
    /// Per result.
    pub outputs: Vec<DType>,
}

impl Storage {
    /// Everything as the graph says: f32.
    pub fn of_graph(inputs: &[&TensorType], outputs: &[&TensorType]) -> Self {
        Storage {
            inputs: inputs.iter().map(|t| t.dtype).collect(),
            outputs: outputs.iter().map(|t| t.dtype).collect(),
        }
    }
}

/// An operand as a launch sees it.
#[derive(Clone, Debug)]
pub struct CudaOperand<'a> {
    /// Shape, and the element type in memory.
    pub ty: TensorType,
    /// Strides in elements; its offset is 0 (the address has it).
    pub layout: &'a Layout,
    /// Device address of the view's first element; a multiple of 16 for whole buffers, of the element
    /// size for views.
    pub address: u64,
}

impl CudaOperand<'_> {
    /// Whether vectors of `n` elements can be read: the address and every stride but the last are
    /// multiples of n, and the last axis is dense.
    pub fn vectors(&self, n: usize) -> bool {
        let size = self.ty.dtype.size() * n;
        let l = self.layout;
        let Some((&last, lead)) = l.shape.split_last() else { return false };
        self.address.is_multiple_of(size as u64)
            && last.is_multiple_of(n)
            && l.strides.last() == Some(&1)
            && lead.iter().zip(&l.strides).all(|(&extent, &s)| extent == 1 || s.is_multiple_of(n))
    }
}

/// A result as a launch sees it: dense.
#[derive(Clone, Debug)]
pub struct CudaResult {
    /// Shape, and the element type in memory.
    pub ty: TensorType,
    /// Device address, a multiple of 256.
    pub address: u64,
}

/// One node to be turned into launches. Called once when a plan is bound to memory; the launches are
/// replayed by every run, so they must not depend on the contents of any operand.
pub struct CudaCall<'a> {
    /// Operands in the op's order.
    pub inputs: Vec<CudaOperand<'a>>,
    /// Results in the op's order.
    pub outputs: Vec<CudaResult>,
    /// Address of [`super::Op::cuda_scratch`] bytes, a multiple of 256, contents arbitrary.
    pub scratch: u64,
    /// The device.
    pub device: DeviceFacts,
    /// Puts bytes into device memory for the life of the plan: tables that the op brings along.
    pub constants: &'a mut dyn FnMut(&[u8]) -> u64,
    /// Describes a tensor to the tensor copies of kernels `*_sm90`; or says why that cannot be.
    pub tensor_map: &'a dyn Fn(&TensorMapSpec) -> Result<ffi::TensorMap, String>,
}
