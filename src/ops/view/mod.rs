//! Ops that only re-read their operand: `reshape`, `permute`, `slice`, `broadcast_to`. The plan
//! turns them into strides over the same memory; they copy only where a user needs dense rows.

use super::activation::expect_f32;
use super::{Case, CaseInput, OpEntry};
use crate::device::cpu::copy_strided;
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, CudaOperand, Storage};
use crate::graph::{
    Array, Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, Real, Reference, TensorType, ValueId,
    op::CpuCall, strided,
};
use crate::tensor::DType;

/// The same elements in row-major order under another shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshape(pub Vec<usize>);

/// Axes in another order: result axis i is operand axis `0[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permute(pub Vec<usize>);

/// `len` indices of one axis from `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// First index.
    pub start: usize,
    /// Number of indices.
    pub len: usize,
}

/// Repeats axes of extent 1, and adds leading axes, to reach a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastTo(pub Vec<usize>);

/// A view op: its name, its shape rule (or what is wrong) and how it changes a layout.
trait Rereading {
    const NAME: &'static str;
    fn shape(&self, x: &[usize]) -> Result<Vec<usize>, String>;
    fn layout(&self, x: &Layout) -> Option<Layout>;
    fn gradient(&self, b: &mut GraphBuilder, x: ValueId, dy: ValueId) -> Result<ValueId>;
}

impl Rereading for Reshape {
    const NAME: &'static str = "reshape";
    fn shape(&self, x: &[usize]) -> Result<Vec<usize>, String> {
        if x.iter().product::<usize>() != self.0.iter().product::<usize>() {
            return Err(format!("{x:?} has not as many elements as {:?}", self.0));
        }
        Ok(self.0.clone())
    }
    fn layout(&self, x: &Layout) -> Option<Layout> {
        x.reshape(&self.0)
    }
    fn gradient(&self, b: &mut GraphBuilder, x: ValueId, dy: ValueId) -> Result<ValueId> {
        let shape = b.shape(x).to_vec();
        b.reshape(dy, shape)
    }
}

impl Rereading for Permute {
    const NAME: &'static str = "permute";
    fn shape(&self, x: &[usize]) -> Result<Vec<usize>, String> {
        let mut seen = self.0.clone();
        seen.sort_unstable();
        if seen != (0..x.len()).collect::<Vec<_>>() {
            return Err(format!("{:?} is not an order of the axes of {x:?}", self.0));
        }
        Ok(self.0.iter().map(|&a| x[a]).collect())
    }
    fn layout(&self, x: &Layout) -> Option<Layout> {
        Some(x.permute(&self.0))
    }
    fn gradient(&self, b: &mut GraphBuilder, _: ValueId, dy: ValueId) -> Result<ValueId> {
        let mut inverse = vec![0; self.0.len()];
        for (i, &a) in self.0.iter().enumerate() {
            inverse[a] = i;
        }
        b.permute(dy, inverse)
    }
}

impl Rereading for Slice {
    const NAME: &'static str = "slice";
    fn shape(&self, x: &[usize]) -> Result<Vec<usize>, String> {
        if self.axis >= x.len() || self.start + self.len > x[self.axis] {
            let end = self.start + self.len;
            return Err(format!("{}..{end} of axis {} lies outside {x:?}", self.start, self.axis));
        }
        let mut shape = x.to_vec();
        shape[self.axis] = self.len;
        Ok(shape)
    }
    fn layout(&self, x: &Layout) -> Option<Layout> {
        Some(x.slice(self.axis, self.start, self.len))
    }
    fn gradient(&self, b: &mut GraphBuilder, x: ValueId, dy: ValueId) -> Result<ValueId> {
        let n = b.shape(x)[self.axis];
        let mut before = vec![0; b.shape(x).len()];
        let mut after = before.clone();
        before[self.axis] = self.start;
        after[self.axis] = n - self.start - self.len;
        b.pad_zeros(dy, before, after)
    }
}

impl Rereading for BroadcastTo {
    const NAME: &'static str = "broadcast_to";
    fn shape(&self, x: &[usize]) -> Result<Vec<usize>, String> {
        match Layout::dense(x).broadcast(&self.0) {
            Some(_) => Ok(self.0.clone()),
            None => Err(format!("{x:?} does not broadcast to {:?}", self.0)),
        }
    }
    fn layout(&self, x: &Layout) -> Option<Layout> {
        x.broadcast(&self.0)
    }
    fn gradient(&self, b: &mut GraphBuilder, x: ValueId, dy: ValueId) -> Result<ValueId> {
        let shape = b.shape(x).to_vec();
        b.sum_to(dy, &shape)
    }
}

/// `Op` and `Reference` for a view op; a macro because a blanket impl would cover all types.
macro_rules! view_op {
    ($($op:ty),*) => {$(
        impl Op for $op {
            fn name(&self) -> &'static str {
                <$op as Rereading>::NAME
            }
            fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
                let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
                Ok(vec![TensorType::new(x.dtype, self.shape(&x.shape)?)])
            }
            fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
                expect_f32("x", g.b.ty(g.inputs[0])).map_err(|m| g.b.error(self.name(), m))?;
                let dy = g.dy();
                let dx = Rereading::gradient(self, g.b, g.inputs[0], dy)?;
                Ok(Gradient::Inputs(vec![Some(dx)]))
            }
            fn cost(&self, _: &[&TensorType], _: &[&TensorType]) -> Cost {
                Cost::default()
            }
            fn cpu(&self, call: CpuCall) -> Result<(), String> {
                copy_view(self.layout(call.inputs[0].layout), call)
            }
            fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
                strided::alike(kept, 1)
            }
            fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
                let x = &call.inputs[0];
                let layout = self.layout(x.layout).ok_or(NO_VIEW)?;
                strided::copy(&CudaOperand { layout: &layout, ..x.clone() }, &call.outputs[0])
            }
            fn cuda_accepts(&self, _: usize, layout: &Layout) -> bool {
                self.layout(layout).is_some()
            }
            fn view(&self, operand: &Layout) -> Option<Layout> {
                self.layout(operand)
            }
            fn is_view(&self) -> bool {
                true
            }
        }

        impl Reference for $op {
            fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
                let x = &inputs[0];
                let l = self.layout(&Layout::dense(&x.shape)).expect("a dense operand");
                vec![Array::new(l.shape.clone(), (0..l.len()).map(|i| x.data[l.position(i)]).collect())]
            }
        }
    )*};
}
view_op!(Reshape, Permute, Slice, BroadcastTo);

/// A plan asks [`Op::view`] before it runs a view as a copy.
const NO_VIEW: &str = "this layout cannot be viewed without a copy";

fn copy_view(layout: Option<Layout>, mut call: CpuCall) -> Result<(), String> {
    let l = layout.ok_or(NO_VIEW)?;
    let size = call.inputs[0].ty.dtype.size();
    let crate::graph::op::OperandData::Apart(src) = call.inputs[0].data else {
        return Err("a view never shares its result's memory".into());
    };
    copy_strided(&src[l.offset * size..], &l.shape, &l.strides, size, call.outputs[0].data);
    Ok(())
}

impl GraphBuilder {
    /// The same elements under another shape.
    pub fn reshape(&mut self, x: ValueId, shape: impl Into<Vec<usize>>) -> Result<ValueId> {
        let shape = shape.into();
        if self.shape(x) == shape { Ok(x) } else { self.node1(Reshape(shape), &[x]) }
    }

    /// Axes in another order: result axis i is operand axis `axes[i]`.
    pub fn permute(&mut self, x: ValueId, axes: impl Into<Vec<usize>>) -> Result<ValueId> {
        self.node1(Permute(axes.into()), &[x])
    }

    /// `len` indices of `axis` from `start`.
    pub fn slice(&mut self, x: ValueId, axis: usize, start: usize, len: usize) -> Result<ValueId> {
        self.node1(Slice { axis, start, len }, &[x])
    }

    /// The same elements, which differentiation takes for constants: `torch.Tensor.detach`. Needs an axis.
    pub fn detach(&mut self, x: ValueId) -> Result<ValueId> {
        let [n, ..] = *self.shape(x) else {
            return Err(self.error("detach", "expected a tensor with an axis"));
        };
        let y = self.slice(x, 0, 0, n)?;
        self.hold_constant(y);
        Ok(y)
    }

    /// Repeats axes of extent 1, and adds leading axes, to reach `shape`.
    pub fn broadcast_to(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.shape(x) == shape { Ok(x) } else { self.node1(BroadcastTo(shape.to_vec()), &[x]) }
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "reshape",
        family: "view",
        about: "another shape over the same memory",
        cases: reshape_cases,
    },
    OpEntry {
        name: "permute",
        family: "view",
        about: "axes in another order, by strides",
        cases: permute_cases,
    },
    OpEntry { name: "slice", family: "view", about: "a range of one axis, by offset", cases: slice_cases },
    OpEntry {
        name: "broadcast_to",
        family: "view",
        about: "repeated axes, by stride 0",
        cases: broadcast_cases,
    },
];

fn reshape_cases() -> Vec<Case> {
    vec![Case::test("fold", Reshape(vec![6, 20]), vec![CaseInput::normal([2, 3, 4, 5])])]
}

fn permute_cases() -> Vec<Case> {
    vec![
        Case::test("nchw_to_nhwc", Permute(vec![0, 2, 3, 1]), vec![CaseInput::normal([2, 3, 4, 5])]),
        Case::test("reverse", Permute(vec![2, 1, 0]), vec![CaseInput::normal([3, 4, 5])]),
        Case::test("heads", Permute(vec![0, 2, 1, 3]), vec![CaseInput::normal([2, 5, 3, 8])]),
        Case::test("tiles", Permute(vec![0, 2, 1]), vec![CaseInput::normal([2, 67, 33])]),
    ]
}

fn slice_cases() -> Vec<Case> {
    let slice = |axis, start, len| Slice { axis, start, len };
    vec![
        Case::test("middle", slice(1, 1, 2), vec![CaseInput::normal([2, 5, 3])]),
        Case::test("channels", slice(2, 0, 1), vec![CaseInput::normal([2, 5, 3])]),
    ]
}

fn broadcast_cases() -> Vec<Case> {
    vec![
        Case::test("rows", BroadcastTo(vec![4, 3, 5]), vec![CaseInput::normal([3, 1])]),
        Case::test("scalar", BroadcastTo(vec![2, 3]), vec![CaseInput::normal([])]),
    ]
}
