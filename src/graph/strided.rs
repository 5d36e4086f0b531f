//! Strided copies and conversions by the kernels of `cuda/copy.cu`, and the merging of axes that all
//! kernels over strided operands want. No op: plans copy and convert too.

use bytemuck::Zeroable;

use super::cuda::{CudaOperand, CudaResult, Storage};
use super::layout::Layout;
use crate::device::kernel::Launch;
use crate::ffi::{CopyGather, CopyStrided, CopyTranspose, Divisor};
use crate::tensor::DType;

/// Threads of a block, and units that each handles, in all kernels here.
const THREADS: usize = 256;
const UNITS: usize = 4;
/// Axes that kernels take, after merging.
pub(crate) const MOST_AXES: usize = 8;
/// Units that one launch may have: what [`divisor`] divides.
const MOST_UNITS: usize = 1 << 31;

/// `value` as kernels divide by it.
pub(crate) fn divisor(value: usize) -> Divisor {
    let d = value as u64;
    assert!(d > 0 && d < MOST_UNITS as u64, "a divisor of {value}");
    let shift = 64 - (d - 1).leading_zeros();
    let factor = (((1u64 << shift) - d) << 32) / d + 1;
    Divisor { value: value as u32, factor: factor as u32, shift, reserved: 0 }
}

/// An axis of N tensors that are walked together: how long, and how far each steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis<const N: usize> {
    pub extent: usize,
    pub strides: [usize; N],
}

/// The fewest axes that walk tensors of one shape with these strides in the same order.
pub(crate) fn merge<const N: usize>(shape: &[usize], strides: [&[usize]; N]) -> Vec<Axis<N>> {
    let mut axes: Vec<Axis<N>> = Vec::new();
    for (i, &extent) in shape.iter().enumerate().filter(|a| *a.1 != 1) {
        let inner = Axis { extent, strides: strides.map(|s| s[i]) };
        match axes.last_mut() {
            Some(outer) if (0..N).all(|k| outer.strides[k] == inner.strides[k] * extent) => {
                *outer = Axis { extent: outer.extent * extent, ..inner };
            }
            _ => axes.push(inner),
        }
    }
    axes
}

/// Cuts the walk into parts of at most `most` steps: axes, and where each tensor starts (in elements). Parts
/// of an axis are multiples of 64, so that vectors stay aligned.
fn split<const N: usize>(axes: &[Axis<N>], most: usize) -> Vec<(Vec<Axis<N>>, [usize; N])> {
    if axes.iter().map(|a| a.extent).product::<usize>() <= most {
        return vec![(axes.to_vec(), [0; N])];
    }
    let longest = (0..axes.len()).max_by_key(|&i| axes[i].extent).expect("a product above 1");
    let half = (axes[longest].extent / 2).next_multiple_of(64).min(axes[longest].extent - 1);
    let part = |start: usize, extent: usize| {
        let mut part = axes.to_vec();
        part[longest].extent = extent;
        let start = axes[longest].strides.map(|s| s * start);
        split(&part, most)
            .into_iter()
            .map(move |(axes, more)| (axes, std::array::from_fn(|k| start[k] + more[k])))
    };
    part(0, half).chain(part(half, axes[longest].extent - half)).collect()
}

/// [`split`] into what one launch can do.
pub(crate) fn launches<const N: usize>(axes: &[Axis<N>]) -> Vec<(Vec<Axis<N>>, [usize; N])> {
    split(axes, MOST_UNITS - 1)
}

/// Blocks for so many units at `per_block`.
pub(crate) fn grid(units: usize, per_block: usize) -> [u32; 3] {
    [units.div_ceil(per_block) as u32, 1, 1]
}

/// The extents of axes for a parameter struct.
pub(crate) fn divisors<const N: usize, const M: usize>(axes: &[Axis<N>]) -> [Divisor; M] {
    std::array::from_fn(|i| divisor(axes.get(i).map_or(1, |a| a.extent)))
}

/// The strides of tensor `k` for a parameter struct.
pub(crate) fn strides<const N: usize, const M: usize>(axes: &[Axis<N>], k: usize) -> [i64; M] {
    std::array::from_fn(|i| axes.get(i).map_or(0, |a| a.strides[k] as i64))
}

/// For ops that only move elements or map each to one: everything is kept as the operands are if these are
/// alike, in f32 otherwise. Integers stay.
pub(crate) fn alike(kept: &[DType], outputs: usize) -> Storage {
    let same = kept.iter().all(|d| *d == kept[0]);
    let dtype = if same { kept[0] } else { DType::F32 };
    Storage { inputs: vec![dtype; kept.len()], outputs: vec![dtype; outputs] }
}

/// Copies an operand into a dense result of the same shape and element type.
pub fn copy(src: &CudaOperand, dst: &CudaResult) -> Result<Vec<Launch>, String> {
    copy_between(src.ty.dtype, src.address, src.layout, dst.address, &Layout::dense(&dst.ty.shape))
}

/// Copies elements between two layouts of the same shape. Offsets count; no element is written twice.
pub fn copy_between(
    dtype: DType,
    src: u64,
    from: &Layout,
    dst: u64,
    to: &Layout,
) -> Result<Vec<Launch>, String> {
    let size = dtype.size();
    let at = |address: u64, element: usize| address + (element * size) as u64;
    let (src, dst) = (at(src, from.offset), at(dst, to.offset));
    if from.is_empty() {
        return Ok(vec![]);
    }
    let axes = merged(from, to)?;
    let parts = launches(&axes).into_iter().map(|(axes, [s, d])| {
        let (src, dst) = (at(src, s), at(dst, d));
        transpose(size, src, dst, &axes).unwrap_or_else(|| {
            let (axes, unit) = in_units(&axes, size, &[src, dst]);
            strided(format!("copy_strided_b{unit}"), src, dst, &axes)
        })
    });
    Ok(parts.collect())
}

/// Converts an operand to the element type of a dense result of the same shape; both are floats.
pub fn cast(src: &CudaOperand, dst: &CudaResult) -> Result<Vec<Launch>, String> {
    let (from, to) = (src.ty.dtype, dst.ty.dtype);
    if from == to {
        return copy(src, dst);
    }
    if dst.ty.is_empty() {
        return Ok(vec![]);
    }
    let at = |address: u64, dtype: DType, element: usize| address + (element * dtype.size()) as u64;
    let start = at(src.address, from, src.layout.offset);
    let parts =
        launches(&merged(src.layout, &Layout::dense(&dst.ty.shape))?).into_iter().map(|(axes, [s, d])| {
            let (src, dst) = (at(start, from, s), at(dst.address, to, d));
            let aligned =
                src.is_multiple_of(4 * from.size() as u64) && dst.is_multiple_of(4 * to.size() as u64);
            match widen(&axes, 4).filter(|_| aligned) {
                Some(axes) => strided(format!("cast_vec4_{from}_{to}"), src, dst, &axes),
                None => strided(format!("cast_any_{from}_{to}"), src, dst, &axes),
            }
        });
    Ok(parts.collect())
}

fn merged(from: &Layout, to: &Layout) -> Result<Vec<Axis<2>>, String> {
    let axes = merge(&from.shape, [&from.strides, &to.strides]);
    if axes.len() > MOST_AXES {
        return Err(format!("{from:?} has more than {MOST_AXES} axes that do not run together"));
    }
    Ok(axes)
}

/// The same walk in units of `n` neighbouring elements, if these are neighbours in all tensors.
fn widen<const N: usize>(axes: &[Axis<N>], n: usize) -> Option<Vec<Axis<N>>> {
    let (last, lead) = axes.split_last()?;
    let fits = last.strides == [1; N]
        && last.extent.is_multiple_of(n)
        && lead.iter().all(|a| a.strides.iter().all(|s| s.is_multiple_of(n)));
    fits.then(|| {
        let mut wide: Vec<_> =
            lead.iter().map(|a| Axis { extent: a.extent, strides: a.strides.map(|s| s / n) }).collect();
        wide.push(Axis { extent: last.extent / n, ..*last });
        wide
    })
}

/// The walk in the widest units of up to 16 bytes that all addresses allow, and their size.
fn in_units<const N: usize>(axes: &[Axis<N>], size: usize, addresses: &[u64]) -> (Vec<Axis<N>>, usize) {
    [16, 8, 4, 2]
        .into_iter()
        .filter(|&unit| unit > size && addresses.iter().all(|a| a.is_multiple_of(unit as u64)))
        .find_map(|unit| Some((widen(axes, unit / size)?, unit)))
        .unwrap_or((axes.to_vec(), size))
}

fn strided(kernel: String, src: u64, dst: u64, axes: &[Axis<2>]) -> Launch {
    let units: usize = axes.iter().map(|a| a.extent).product();
    let params = CopyStrided {
        src,
        dst,
        src_strides: strides(axes, 0),
        dst_strides: strides(axes, 1),
        extents: divisors(axes),
        units: units as u32,
        rank: axes.len() as u32,
    };
    Launch::new(kernel, grid(units, THREADS * UNITS), &params)
}

/// Through tiles, if each side has an axis of its own along which it is dense.
fn transpose(size: usize, src: u64, dst: u64, axes: &[Axis<2>]) -> Option<Launch> {
    /// Shorter rows do not fill a tile's sectors; plain copies are as good.
    const SHORTEST: usize = 8;
    let dense = |side: usize| axes.iter().position(|a| a.strides[side] == 1 && a.extent >= SHORTEST);
    let (across, down) = (dense(0)?, dense(1)?);
    if across == down || axes[down].strides[0] == 0 || axes.len() > 2 + 6 {
        return None;
    }
    let (across_axis, down_axis) = (axes[across], axes[down]);
    let batch: Vec<_> = (0..axes.len()).filter(|&i| i != across && i != down).map(|i| axes[i]).collect();
    let edge = if size <= 2 { 64 } else { 32 };
    let tiles_across = across_axis.extent.div_ceil(edge);
    let tiles = tiles_across * down_axis.extent.div_ceil(edge);
    let blocks = tiles * batch.iter().map(|a| a.extent).product::<usize>();
    let params = CopyTranspose {
        src,
        dst,
        src_step: down_axis.strides[0] as i64,
        dst_step: across_axis.strides[1] as i64,
        src_strides: strides(&batch, 0),
        dst_strides: strides(&batch, 1),
        extents: divisors(&batch),
        tiles_across: divisor(tiles_across),
        tiles: divisor(tiles),
        across: across_axis.extent as u32,
        down: down_axis.extent as u32,
        rank: batch.len() as u32,
        reserved: 0,
    };
    Some(Launch::new(format!("copy_transpose_b{size}"), [blocks as u32, 1, 1], &params))
}

/// One axis of a [`gather`].
pub(crate) enum Gather {
    /// All of src's `extent` indices in order.
    All {
        /// Length in src and in the result.
        extent: usize,
    },
    /// For each index of the result that of src, of which there are `extent`; −1 for zeros.
    Table {
        /// Length in src.
        extent: usize,
        /// One entry an index of the result.
        table: Vec<i32>,
    },
}

/// Fills a dense result from a dense operand, index by index along each axis.
pub(crate) fn gather(
    src: u64,
    dst: u64,
    dtype: DType,
    axes: Vec<Gather>,
    constants: &mut dyn FnMut(&[u8]) -> u64,
) -> Result<Vec<Launch>, String> {
    let size = dtype.size();
    let mut merged: Vec<Gather> = Vec::new();
    for axis in axes {
        match (merged.last_mut(), axis) {
            (_, Gather::All { extent: 1 }) => {}
            (Some(Gather::All { extent: outer }), Gather::All { extent }) => *outer *= extent,
            (_, axis) => merged.push(axis),
        }
    }
    let unit = match merged.last() {
        Some(Gather::All { extent }) => {
            let aligned =
                |u: &usize| [src, dst, (extent * size) as u64].iter().all(|x| x.is_multiple_of(*u as u64));
            [16, 8, 4, 2].into_iter().filter(|&u| u > size).find(aligned).unwrap_or(size)
        }
        _ => size,
    };
    if let Some(Gather::All { extent }) = merged.last_mut() {
        *extent /= unit / size;
    }
    let (from, to): (Vec<usize>, Vec<usize>) = merged
        .iter()
        .map(|a| match a {
            Gather::All { extent } => (*extent, *extent),
            Gather::Table { extent, table } => (*extent, table.len()),
        })
        .unzip();
    let units: usize = to.iter().product();
    if units == 0 {
        return Ok(vec![]);
    }
    if merged.len() > MOST_AXES || units >= MOST_UNITS {
        return Err(format!(
            "a result of {units} units of {unit} bytes on {} axes is too large",
            merged.len()
        ));
    }
    let steps = Layout::dense(&from).strides;
    let mut params =
        CopyGather { src, dst, units: units as u32, rank: to.len() as u32, ..Zeroable::zeroed() };
    for (i, axis) in merged.iter().enumerate() {
        params.src_strides[i] = steps[i] as i64;
        params.extents[i] = divisor(to[i]);
        if let Gather::Table { table, .. } = axis {
            params.tables[i] = constants(bytemuck::cast_slice(table));
        }
    }
    Ok(vec![Launch::new(format!("copy_gather_b{unit}"), grid(units, THREADS * UNITS), &params)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::{GuardedBuffer, Schedule, Simulator};
    use crate::graph::TensorType;
    use crate::tensor::HostTensor;

    #[test]
    fn divisors_divide() {
        let divide = |n: u32, d: &Divisor| {
            let high = ((u64::from(n) * u64::from(d.factor)) >> 32) as u32;
            high.checked_add(n).expect("no carry below 2^31") >> d.shift
        };
        let top = (1u32 << 31) - 1;
        for value in (1..200).chain([1152, 4096, 65535, 65537, 1 << 30, (1 << 30) + 1, top]) {
            let d = divisor(value as usize);
            for q in [0, 1, 2, 3, 1000, top / value] {
                let near = |by: i64| (i64::from(q) * i64::from(value) + by).clamp(0, i64::from(top)) as u32;
                for n in [near(-1), near(0), near(1), top, top - 1] {
                    assert_eq!(divide(n, &d), n / value, "{n} / {value}");
                }
            }
        }
    }

    #[test]
    fn axes_that_run_together_merge() {
        let heads = Layout::dense(&[2, 5, 3, 4, 6]).slice(2, 1, 1);
        let dense = Layout::dense(&heads.shape);
        let axes = merge(&heads.shape, [&heads.strides, &dense.strides]);
        assert_eq!(axes, [Axis { extent: 10, strides: [72, 24] }, Axis { extent: 24, strides: [1, 1] }]);
        assert_eq!(merge(&[1, 1], [&[7, 3]]), []);
    }

    #[test]
    fn a_split_walk_covers_all() {
        let axes = [Axis { extent: 3, strides: [1000] }, Axis { extent: 300, strides: [2] }];
        let mut seen = Vec::new();
        for (part, [start]) in split(&axes, 70) {
            assert!(part.iter().map(|a| a.extent).product::<usize>() <= 70);
            for i in 0..part[0].extent {
                seen.extend(
                    (0..part[1].extent).map(|j| start + i * part[0].strides[0] + j * part[1].strides[0]),
                );
            }
        }
        seen.sort_unstable();
        let all: Vec<_> = (0..3).flat_map(|i| (0..300).map(move |j| i * 1000 + j * 2)).collect();
        assert_eq!(seen, all);
    }

    /// Runs launches over `from` (as bytes), into `bytes` of poison.
    fn simulate(
        from: &[u8],
        bytes: usize,
        launches: impl Fn(u64, u64) -> Result<Vec<Launch>, String>,
    ) -> Option<Vec<u8>> {
        let simulator = Simulator::new().ok()?;
        let (src, dst) = (GuardedBuffer::of(from), GuardedBuffer::new(bytes));
        for launch in launches(src.address(), dst.address()).expect("a copy that kernels can do") {
            // SAFETY: both buffers live and are as large as the layouts say.
            unsafe { simulator.launch(&launch, Schedule::Forward, 1) }.expect("runs");
        }
        Some(dst.bytes().to_vec())
    }

    /// Views of 6000 elements.
    fn views() -> Vec<Layout> {
        let dense = Layout::dense(&[5, 12, 100]);
        vec![
            dense.clone(),
            dense.permute(&[2, 1, 0]),
            dense.permute(&[0, 2, 1]),
            dense.slice(2, 3, 40),
            dense.slice(1, 1, 7).permute(&[1, 0, 2]),
            dense.slice(2, 8, 1).broadcast(&[5, 12, 9]).expect("repeats"),
            dense.slice(0, 2, 0),
        ]
    }

    #[test]
    fn copies_of_all_element_sizes() {
        let bytes: Vec<u8> = (0..48_000u32).map(|i| ((i * 2_654_435_761) >> 24) as u8).collect();
        for dtype in [DType::U8, DType::BF16, DType::F32, DType::I64] {
            for view in views() {
                let size = dtype.size();
                let dense = Layout::dense(&view.shape);
                let copy = |src, dst| copy_between(dtype, src, &view, dst, &dense);
                let Some(got) = simulate(&bytes[..6000 * size], view.len() * size, copy) else { return };
                for (i, got) in got.chunks(size).enumerate() {
                    let at = view.position(i) * size;
                    assert_eq!(got, &bytes[at..at + size], "{dtype}, {view:?}, element {i}");
                }
            }
        }
    }

    #[test]
    fn conversions_round_as_the_host_does() {
        let mut numbers: Vec<f32> = (0..6000).map(|i| ((i * 7919) % 6007) as f32 * 0.37 - 1100.0).collect();
        numbers[..6].copy_from_slice(&[f32::NAN, f32::INFINITY, -0.0, 1e-7, 7e4, f32::MIN_POSITIVE]);
        let floats = [DType::F32, DType::BF16, DType::F16];
        for (from, to) in floats.iter().flat_map(|&f| floats.map(|t| (f, t))) {
            let source = HostTensor::from_f32([6000], numbers.clone()).cast(from);
            for view in views() {
                let operand =
                    CudaOperand { ty: TensorType::new(from, view.shape.clone()), layout: &view, address: 0 };
                let result = CudaResult { ty: TensorType::new(to, view.shape.clone()), address: 0 };
                let convert = |src, dst| {
                    cast(
                        &CudaOperand { address: src, ..operand.clone() },
                        &CudaResult { address: dst, ..result.clone() },
                    )
                };
                let Some(got) = simulate(source.bytes(), result.ty.bytes(), convert) else { return };
                let (size, expected) = (to.size(), source.cast(to));
                for (i, got) in got.chunks(size).enumerate() {
                    let at = view.position(i) * size;
                    assert_eq!(
                        got,
                        &expected.bytes()[at..at + size],
                        "{from} to {to}, {view:?}, element {i}"
                    );
                }
            }
        }
    }
}
