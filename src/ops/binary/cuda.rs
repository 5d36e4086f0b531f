//! Which kernel of `cuda/binary.cu` runs, and with what.

use super::Kind;
use crate::device::kernel::Launch;
use crate::ffi::{self, BinaryFwd};
use crate::graph::cuda::{CudaCall, CudaOperand, Storage};
use crate::graph::strided::{Axis, MOST_AXES, alike, divisors, grid, launches, merge, strides};
use crate::graph::{Layout, TensorType};
use crate::tensor::DType;

/// Elements of a block.
const BLOCK: usize = 256 * 8;

/// All alike, but a single number stays in f32 beside an operand in half precision: a factor that were
/// rounded would err everywhere in the same direction.
pub(super) fn storage(inputs: &[&TensorType], kept: &[DType]) -> Storage {
    match [0, 1].map(|k| inputs[k].len() == 1 && kept[k] == DType::F32) {
        [false, true] => Storage { inputs: vec![kept[0], DType::F32], outputs: vec![kept[0]] },
        [true, false] => Storage { inputs: vec![DType::F32, kept[1]], outputs: vec![kept[1]] },
        _ => alike(kept, 1),
    }
}

/// Members of a group alike: no operand of theirs is a single number.
pub(super) fn group_storage(kept: &[DType], members: usize) -> Storage {
    alike(kept, members)
}

/// f of each two operands, one result after the other: all of the same shapes and strides.
pub(super) fn forward(kind: Kind, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, y, ..] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let z = &call.outputs[0];
    if z.ty.is_empty() {
        return Ok(vec![]);
    }
    let broadcast = |o: &CudaOperand| o.layout.broadcast(&z.ty.shape).expect("infer checked").strides;
    let dense = Layout::dense(&z.ty.shape).strides;
    let axes = merge(&z.ty.shape, [&broadcast(x), &broadcast(y), &dense]);
    if axes.len() > MOST_AXES {
        return Err(format!("{} has more than {MOST_AXES} axes that do not run together", z.ty));
    }
    let dtype = z.ty.dtype;
    let number = |o: &CudaOperand| o.ty.len() == 1 && o.ty.dtype == DType::F32;
    let numbers = [number(x), number(y)];
    let launch = |axes: &[Axis<3>], start: [usize; 3]| {
        let address = |k: usize, o: &CudaOperand| o.address + (start[k] * o.ty.dtype.size()) as u64;
        let mut members = [ffi::BinaryMember::default(); ffi::BINARY_MEMBERS as usize];
        for ((member, operands), z) in members.iter_mut().zip(call.inputs.chunks(2)).zip(&call.outputs) {
            let z = z.address + (start[2] * dtype.size()) as u64;
            *member = ffi::BinaryMember { x: address(0, &operands[0]), y: address(1, &operands[1]), z };
        }
        // A power of two divides all addresses if it divides this.
        let addresses = members.iter().fold([0, 0], |all, m| [all[0] | m.x, all[1] | m.y]);
        let n = 16 / dtype.size();
        let repeats = |k: usize| axes.last().is_none_or(|a| a.strides[k] == 0);
        let whole = axes.last().is_some_and(|a| a.extent.is_multiple_of(n))
            && (0..2).all(|k| repeats(k) || runs_in_vectors(axes, k, n, addresses[k], dtype));
        let n = if whole { n } else { 1 };
        let form = |k: usize| match numbers[k] {
            true => ffi::BINARY_OPERAND_NUMBER,
            false if n == 1 || repeats(k) => ffi::BINARY_OPERAND_ONE,
            false => ffi::BINARY_OPERAND_VECTOR,
        };
        let mut units = axes.to_vec();
        if let Some(last) = units.last_mut() {
            *last = Axis { extent: last.extent / n, strides: last.strides.map(|s| s * n) };
        }
        let count: usize = units.iter().map(|a| a.extent).product();
        let params = BinaryFwd {
            members,
            x_strides: strides(&units, 0),
            y_strides: strides(&units, 1),
            extents: divisors(&units),
            units: count as u32,
            rank: units.len() as u32,
            kind: match kind {
                Kind::Add => ffi::BINARY_ADD,
                Kind::Sub => ffi::BINARY_SUB,
                Kind::Mul => ffi::BINARY_MUL,
                Kind::Div => ffi::BINARY_DIV,
            } as i32,
            x_form: form(0) as i32,
            y_form: form(1) as i32,
            reserved: 0,
        };
        let any = if whole { "" } else { "any_" };
        let [blocks, ..] = grid(count * n, BLOCK);
        let grid = [blocks, 1, call.outputs.len() as u32];
        Launch::new(format!("binary_fwd_{any}{dtype}"), grid, &params)
    };
    Ok(launches(&axes).into_iter().map(|(axes, start)| launch(&axes, start)).collect())
}

/// Whether tensor `k` can be read in aligned vectors of n along the last axis.
fn runs_in_vectors(axes: &[Axis<3>], k: usize, n: usize, address: u64, dtype: DType) -> bool {
    let (last, lead) = axes.split_last().expect("an axis");
    last.strides[k] == 1
        && address.is_multiple_of((n * dtype.size()) as u64)
        && lead.iter().all(|a| a.strides[k].is_multiple_of(n))
}
