//! One strided copy an operand.

use crate::device::kernel::Launch;
use crate::graph::Layout;
use crate::graph::cuda::CudaCall;
use crate::graph::strided::copy_between;

pub(super) fn forward(axis: usize, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let y = &call.outputs[0];
    let whole = Layout::dense(&y.ty.shape);
    let (mut start, mut launches) = (0, Vec::new());
    for x in &call.inputs {
        let len = x.ty.shape[axis];
        let part = whole.slice(axis, start, len);
        launches.extend(copy_between(y.ty.dtype, x.address, x.layout, y.address, &part)?);
        start += len;
    }
    Ok(launches)
}
