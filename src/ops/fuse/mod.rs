//! Fusion rules: which neighbours an op absorbs. Each is small, named, and applied by
//! [`crate::graph::passes::run`] after differentiation.

mod conv_norm;
mod group;
mod norm;

use std::sync::Arc;

use super::activation::Activation;
use super::binary::{Binary, Kind};
use super::conv2d::Conv2d;
use super::epilogue::Epilogue;
use super::gated_residual::GatedResidual;
use super::linear::Linear;
use super::linear_modulate::LinearModulate;
use super::moe_modulate::{Modulate, MoeModulate};
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ir::{Graph, Node};
use crate::graph::op::Op;
use crate::graph::passes::{self, Applied, Rewrite, Rule, View};
use crate::graph::plan::Target;
use crate::tensor::DType;

/// All rules, in the order in which they are tried.
pub static RULES: &[&dyn Rule] = &[
    &ActivationIntoEpilogue,
    &ScaleIntoEpilogue,
    &ResidualIntoEpilogue,
    &GatedResidualIntoLinear,
    &LinearsIntoModulate,
    &ConcatIntoConv,
    &UpsampleIntoConv,
    &group::LinearsIntoGroup,
    &group::BinariesIntoGroup,
    &norm::NormIntoProduct,
];

/// Rules for plans on CUDA devices that keep operands in half precision, after [`RULES`]. On a CPU, and in f32
/// arithmetic, where no kernel normalises what it reads, they would only move the same work.
pub static CUDA_HALF_RULES: &[&dyn Rule] = &[&conv_norm::NormIntoConv, &conv_norm::StatisticsIntoConv];

/// Applies the rules that pay on this target only; after [`RULES`].
///
/// # Errors
/// If a rule gives a node that its op refuses.
pub fn for_target(graph: &mut Graph, target: impl Into<Target>) -> Result<Applied> {
    match target.into() {
        Target::Cuda { compute: DType::BF16 | DType::F16, .. } => passes::run(graph, CUDA_HALF_RULES, None),
        _ => Ok(Applied::new()),
    }
}

/// The epilogue of a GEMM-like op.
fn epilogue_of(op: &dyn Op) -> Option<Epilogue> {
    if let Some(l) = op.downcast::<Linear>() {
        return Some(l.epilogue);
    }
    op.downcast::<Conv2d>().filter(|c| c.affine.is_none()).map(|c| c.epilogue)
}

/// The op with another epilogue.
fn with_epilogue(op: &dyn Op, epilogue: Epilogue) -> Option<Arc<dyn Op>> {
    if let Some(l) = op.downcast::<Linear>() {
        return Some(Arc::new(Linear { epilogue, ..l.clone() }));
    }
    op.downcast::<Conv2d>().map(|c| Arc::new(Conv2d { epilogue, ..c.clone() }) as Arc<dyn Op>)
}

/// `act(linear(x))` → `linear` with the activation in its epilogue.
struct ActivationIntoEpilogue;

impl Rule for ActivationIntoEpilogue {
    fn name(&self) -> &'static str {
        "activation into epilogue"
    }

    fn rewrite(&self, view: &View, node: &Node) -> Option<Rewrite> {
        let act = node.op.downcast::<Activation>()?;
        let producer = view.sole_producer(node.inputs[0])?;
        let epilogue = epilogue_of(&*producer.op)?;
        if !epilogue.is_identity() {
            return None;
        }
        let op = with_epilogue(&*producer.op, Epilogue { act: Some(act.0), ..epilogue })?;
        Some(Rewrite { op, inputs: producer.inputs.clone() })
    }
}

/// `factor · linear(x)` → the factor in the epilogue.
struct ScaleIntoEpilogue;

impl Rule for ScaleIntoEpilogue {
    fn name(&self) -> &'static str {
        "scale into epilogue"
    }

    fn rewrite(&self, view: &View, node: &Node) -> Option<Rewrite> {
        if node.op.downcast::<Binary>()?.0 != Kind::Mul {
            return None;
        }
        let (x, factor) = either_order(node, |v| view.scalar(v))?;
        let producer = view.sole_producer(x)?;
        let epilogue = epilogue_of(&*producer.op)?;
        if epilogue.residual || view.graph.ty(x) != view.graph.ty(node.outputs[0]) {
            return None;
        }
        let op = with_epilogue(&*producer.op, Epilogue { alpha: epilogue.alpha * factor, ..epilogue })?;
        Some(Rewrite { op, inputs: producer.inputs.clone() })
    }
}

/// The operand for which `f` answers, and the other one.
fn either_order<T>(node: &Node, f: impl Fn(ValueId) -> Option<T>) -> Option<(ValueId, T)> {
    let [x, y] = node.inputs[..] else { return None };
    f(y).map(|t| (x, t)).or_else(|| f(x).map(|t| (y, t)))
}

/// `linear(x) + r` → the residual in the epilogue, where r has the result's shape.
struct ResidualIntoEpilogue;

impl Rule for ResidualIntoEpilogue {
    fn name(&self) -> &'static str {
        "residual into epilogue"
    }

    fn rewrite(&self, view: &View, node: &Node) -> Option<Rewrite> {
        if node.op.downcast::<Binary>()?.0 != Kind::Add {
            return None;
        }
        let like_result = |v| view.graph.ty(v) == view.graph.ty(node.outputs[0]);
        let [x, y] = node.inputs[..] else { return None };
        let absorb = |v: ValueId, residual: ValueId| {
            let producer = view.sole_producer(v)?;
            let epilogue = epilogue_of(&*producer.op)?;
            if epilogue.residual || !like_result(v) || !like_result(residual) {
                return None;
            }
            let op = with_epilogue(&*producer.op, Epilogue { residual: true, ..epilogue })?;
            Some(Rewrite { op, inputs: producer.inputs.iter().copied().chain([residual]).collect() })
        };
        absorb(x, y).or_else(|| absorb(y, x))
    }
}

/// `gated_residual(x, gate, linear(h))` → gate and residual in the epilogue.
struct GatedResidualIntoLinear;

impl Rule for GatedResidualIntoLinear {
    fn name(&self) -> &'static str {
        "gated residual into linear"
    }

    fn rewrite(&self, view: &View, node: &Node) -> Option<Rewrite> {
        node.op.downcast::<GatedResidual>()?;
        let [x, gate, y] = node.inputs[..] else { return None };
        let producer = view.sole_producer(y)?;
        let linear = producer.op.downcast::<Linear>()?;
        if linear.epilogue.gate || linear.epilogue.residual {
            return None;
        }
        let op = with_epilogue(linear, Epilogue { gate: true, residual: true, ..linear.epilogue })?;
        Some(Rewrite { op, inputs: producer.inputs.iter().copied().chain([gate, x]).collect() })
    }
}

/// `modulate(x, linear(h), linear(h))` → `linear_modulate`, and likewise a mixture of such pairs: no γ or β is kept.
struct LinearsIntoModulate;

impl Rule for LinearsIntoModulate {
    fn name(&self) -> &'static str {
        "linears into modulate"
    }

    fn rewrite(&self, view: &View, node: &Node) -> Option<Rewrite> {
        let mixture = node.op.downcast::<MoeModulate>();
        if mixture.is_none() {
            node.op.downcast::<Modulate>()?;
        }
        let routed = mixture.is_some();
        let (own, pairs) = node.inputs.split_at(1 + usize::from(routed));
        let (gammas, betas) = pairs.split_at(pairs.len() / 2);
        let layer = |v: ValueId| {
            let producer = view.sole_producer(v)?;
            let linear = producer.op.downcast::<Linear>()?;
            (linear.bias && linear.epilogue.is_identity()).then_some(&producer.inputs)
        };
        let mut inputs = own.to_vec();
        for (&gamma, &beta) in gammas.iter().zip(betas) {
            let (gamma, beta) = (layer(gamma)?, layer(beta)?);
            if gamma[0] != beta[0] {
                return None;
            }
            inputs.extend(gamma.iter().chain(&beta[1..]));
        }
        Some(Rewrite { op: Arc::new(LinearModulate { experts: gammas.len(), routed }), inputs })
    }
}

/// `conv2d(concat(a, b, …))` → a convolution that reads its inputs side by side: dense blocks
/// never materialise their concatenations.
struct ConcatIntoConv;

impl Rule for ConcatIntoConv {
    fn name(&self) -> &'static str {
        "concat into conv2d"
    }

    fn rewrite(&self, view: &View, node: &Node) -> Option<Rewrite> {
        let conv = node.op.downcast::<Conv2d>()?;
        if conv.sources != 1 || conv.spec.groups != 1 || conv.norm.is_some() {
            return None;
        }
        // The concatenation may have other users: it costs nothing to leave it to them.
        let concat = view.graph.producer(node.inputs[0])?;
        if concat.op.downcast::<super::concat::Concat>()?.axis != 3 {
            return None;
        }
        let op = Arc::new(Conv2d { sources: concat.inputs.len(), ..conv.clone() });
        Some(Rewrite { op, inputs: concat.inputs.iter().chain(&node.inputs[1..]).copied().collect() })
    }
}

/// `conv2d(upsample_nearest(x))` → a convolution that reads each pixel of x several times.
struct UpsampleIntoConv;

impl Rule for UpsampleIntoConv {
    fn name(&self) -> &'static str {
        "nearest enlargement into conv2d"
    }

    fn rewrite(&self, view: &View, node: &Node) -> Option<Rewrite> {
        let conv = node.op.downcast::<Conv2d>()?;
        if conv.sources != 1 || conv.upsample != 1 || conv.norm.is_some() {
            return None;
        }
        let resize = view.graph.producer(node.inputs[0])?;
        let upsample =
            resize.op.downcast::<super::resize::Resize>()?.nearest_factor(view.graph.ty(resize.inputs[0]))?;
        let op = Arc::new(Conv2d { upsample, ..conv.clone() });
        Some(Rewrite { op, inputs: resize.inputs.iter().chain(&node.inputs[1..]).copied().collect() })
    }
}
