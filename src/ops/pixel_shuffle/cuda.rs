//! Strided copies: both ops are permutations of axes that share memory with the image's.

use crate::device::kernel::Launch;
use crate::graph::Layout;
use crate::graph::cuda::CudaCall;
use crate::ops::view::cuda::copy_between;

/// `[B, H, W, C·r²]`, whose channels are `[C, r, r]`, as `[B, H, r, W, r, C]`.
fn blocks([b, h, w, c]: [usize; 4], r: usize) -> Layout {
    Layout::dense(&[b, h, w, c / (r * r), r, r]).permute(&[0, 1, 4, 2, 5, 3])
}

fn shape(shape: &[usize]) -> [usize; 4] {
    shape.try_into().expect("infer takes four axes")
}

pub(super) fn shuffle(r: usize, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let from = blocks(shape(&x.ty.shape), r);
    copy_between(y.ty.dtype, x.address, &from, y.address, &Layout::dense(&from.shape))
}

pub(super) fn unshuffle(r: usize, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let to = blocks(shape(&y.ty.shape), r);
    copy_between(y.ty.dtype, x.address, &Layout::dense(&to.shape), y.address, &to)
}
