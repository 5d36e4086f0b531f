//! From an objective to the graph of one step: forward, loss, gradients.

use std::collections::HashSet;

use super::layout::{GRADIENT, NEXT};
use crate::error::{Error, Result};
use crate::graph::plan::Target;
use crate::graph::{Graph, GraphBuilder, passes};
use crate::ops::{fuse, gradients};
use crate::tensor::{DType, HostTensor};
use crate::train::Objective;

/// The name of the loss among the outputs.
pub(super) const LOSS: &str = "loss";
/// The input that multiplies the loss on a target whose gradients would else vanish in f16, f32 `[]`.
pub(super) const LOSS_SCALE: &str = "loss_scale";

/// The graph of one batch: outputs `loss`, each term by its name, and `grad.KEY` for every trainable parameter
/// that the loss depends on. Frozen parameters may stay in the element type that `stored` tells.
pub(super) fn differentiated(
    objective: &dyn Objective,
    batch: usize,
    target: Target,
    stored: impl Fn(&str) -> Option<DType>,
) -> Result<Graph> {
    let mut b = GraphBuilder::new();
    let recorded = objective.record(&mut b, batch)?;
    if !b.shape(recorded.loss).is_empty() {
        let found = b.ty(recorded.loss);
        return Err(b.error("objective", format!("expected a loss that is one number, found {found}")));
    }
    b.output(LOSS, recorded.loss);
    for (name, v) in recorded.terms {
        b.output(name, v);
    }
    let trained: Vec<_> = b
        .graph()
        .params()
        .filter(|(key, _)| objective.trainable(key))
        .map(|(key, v)| (key.to_owned(), v))
        .collect();
    let seed = match target {
        Target::Cuda { compute: DType::F16, .. } => b.input(LOSS_SCALE, DType::F32, [])?,
        _ => b.constant(HostTensor::from_f32([], vec![1.0])),
    };
    let wanted: Vec<_> = trained.iter().map(|(_, v)| *v).collect();
    let found = gradients(&mut b, &[(recorded.loss, seed)], &wanted)?;
    for ((key, _), gradient) in trained.iter().zip(found) {
        if let Some(gradient) = gradient {
            b.output(&format!("{GRADIENT}{key}"), gradient);
        }
    }
    let mut graph = b.finish();
    if !graph.outputs.iter().any(|(name, _)| name.starts_with(GRADIENT)) {
        return Err(Error::Usage(
            "nothing is trained: the loss depends on no trainable parameter; name some that it depends on"
                .into(),
        ));
    }
    passes::run(&mut graph, fuse::RULES, None)?;
    fuse::for_target(&mut graph, target)?;
    let changed: HashSet<_> =
        graph.outputs.iter().filter_map(|(name, _)| name.strip_prefix(NEXT)).map(str::to_owned).collect();
    let fixed = |key: &str| !objective.trainable(key) && !changed.contains(key);
    passes::keep_stored(&mut graph, |key| if fixed(key) { stored(key) } else { None });
    Ok(graph)
}
