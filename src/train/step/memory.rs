//! Memory: what a step takes, and which activations are computed again so that it fits a budget.

use super::StepOptions;
use super::layout::{GRADIENT, Layout};
use crate::error::{Error, Result};
use crate::graph::passes::recompute::{recompute, segments};
use crate::graph::plan::Target;
use crate::graph::{Graph, Plan};

/// Nodes of a part of the forward pass that is computed again, at least; tried in turn.
const PART: [usize; 5] = [4, 8, 16, 32, 64];

/// Bytes that a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters, frozen ones too.
    pub parameters: usize,
    /// Gradients, moments and the moving average.
    pub optimizer: usize,
    /// Activations and working memory of the kernels, at their peak.
    pub activations: usize,
}

impl Memory {
    /// Of a plan with these options.
    pub(super) fn of(plan: &Plan, options: &StepOptions) -> Self {
        let numbers: usize = Layout::of(plan, options.bucket_bytes).buckets.iter().sum();
        let kinds = 3 + usize::from(options.ema.is_some());
        Memory {
            parameters: plan.param_bytes(),
            optimizer: 4 * numbers * kinds,
            activations: plan.arena_bytes,
        }
    }

    /// All together.
    pub fn total(&self) -> usize {
        self.parameters + self.optimizer + self.activations
    }
}

/// The plan of a differentiated graph that does the least work twice and fits the budget.
pub(super) fn planned(graph: Graph, target: Target, options: &StepOptions) -> Result<Plan> {
    let plan = |graph: Graph| Plan::with_early(graph, target, |name| name.starts_with(GRADIENT));
    let Some(budget) = options.memory_budget else { return plan(graph) };
    let whole = plan(graph.clone())?;
    let takes = |plan: &Plan| Memory::of(plan, options).total();
    if takes(&whole) <= budget {
        return Ok(whole);
    }
    let results: Vec<_> =
        graph.outputs.iter().filter(|(name, _)| !name.starts_with(GRADIENT)).map(|(_, v)| *v).collect();
    let mut least_found = takes(&whole);
    for nodes in PART {
        let all = segments(&graph, &results, nodes);
        // Those that save most for their work come first.
        let mut order: Vec<_> = all.iter().collect();
        order.sort_by(|a, b| (a.flops / a.saves as f64).total_cmp(&(b.flops / b.saves as f64)));
        let with = |count: usize| plan(recompute(&graph, &results, &order[..count]));
        let best = with(order.len())?;
        least_found = least_found.min(takes(&best));
        if takes(&best) <= budget {
            return fewest(best, order.len(), with, |plan| takes(plan) <= budget);
        }
    }
    let (least, most) = (mebibytes(least_found), mebibytes(takes(&whole)));
    Err(Error::OutOfMemory(format!(
        "a batch of {} takes {least} MiB if activations are computed again ({most} MiB if not), and memory_budget is \
         {} MiB: give it {least} MiB, or make the batch or its pictures smaller",
        options.batch,
        budget >> 20
    )))
}

/// The plan with the fewest parts that fits; all of them, `best`, do.
fn fewest(
    mut best: Plan,
    all: usize,
    with: impl Fn(usize) -> Result<Plan>,
    fits: impl Fn(&Plan) -> bool,
) -> Result<Plan> {
    let (mut too_few, mut enough) = (0, all);
    while too_few + 1 < enough {
        let middle = (too_few + enough) / 2;
        let found = with(middle)?;
        if fits(&found) {
            (enough, best) = (middle, found);
        } else {
            too_few = middle;
        }
    }
    tracing::debug!("{enough} of {all} parts of the forward pass are computed again");
    Ok(best)
}

/// Rounded up.
fn mebibytes(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}
