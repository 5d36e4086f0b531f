//! Norms of a residual stream join the product that adds to it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::graph::ValueId;
use crate::graph::ir::{Graph, Node, Origin};
use crate::graph::passes::{Rule, renumber};
use crate::ops::linear::Linear;
use crate::ops::linear_modulate::LinearModulate;
use crate::ops::linear_norm::{LinearNorm, MOST_NORMS, Norm, Producer};

/// `adaln(y)` and `layer_norm(y)` of a product y with a residual → `linear_norm`, which gives y and its norms. They
/// come to the product: a norm that the next block of a branch asks for waits in memory until then.
pub(super) struct NormIntoProduct;

/// Bytes of a result that is small: it may wait for long.
const SMALL: usize = 64 << 10;

fn producer(node: &Node) -> Option<Producer> {
    if let Some(linear) = node.op.downcast::<Linear>() {
        return linear.epilogue.residual.then(|| Producer::Linear(linear.clone()));
    }
    node.op.downcast::<LinearModulate>().map(|&op| Producer::Modulate(op))
}

/// The norm that `node` is of the value `y`.
fn norm_of(node: &Node, y: &Node) -> Option<Norm> {
    (node.inputs.first() == y.outputs.first()).then(|| Norm::of(&*node.op, node.inputs.len())).flatten()
}

impl Rule for NormIntoProduct {
    fn name(&self) -> &'static str {
        "norms into product"
    }

    fn rearrange(&self, graph: &mut Graph, most: usize) -> usize {
        let norms = graph.nodes.iter().filter(|n| Norm::of(&*n.op, n.inputs.len()).is_some());
        let normed: HashSet<ValueId> = norms.map(|n| n.inputs[0]).collect();
        let joined = |node: &Node| producer(node).is_some() && normed.contains(&node.outputs[0]);
        if most == 0 || !graph.nodes.iter().any(joined) {
            return 0;
        }
        small_first(graph, joined);
        let mut there: Vec<bool> =
            graph.values.iter().map(|v| !matches!(v.origin, Origin::Node { .. })).collect();
        let mut left: Vec<Option<Node>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
        let mut done = 0;
        for i in 0..left.len() {
            let Some(mut node) = left[i].take() else { continue };
            if let Some(producer) = producer(&node).filter(|_| done < most) {
                let mut norms = Vec::new();
                for later in &mut left[i + 1..] {
                    let Some(n) = later else { continue };
                    if let Some(norm) = norm_of(n, &node)
                        && n.inputs[1..].iter().all(|v| there[v.index()])
                    {
                        node.inputs.extend(&n.inputs[1..]);
                        node.outputs.extend(&n.outputs);
                        norms.push(norm);
                        *later = None;
                    }
                    if norms.len() == MOST_NORMS {
                        break;
                    }
                }
                if !norms.is_empty() {
                    node.op = Arc::new(LinearNorm { producer, norms });
                    done += 1;
                }
            }
            node.outputs.iter().for_each(|v| there[v.index()] = true);
            graph.nodes.push(node);
        }
        renumber(graph);
        done
    }
}

/// Small results of leaves and other small results come first, and views of them, but for products that norms
/// join: the vectors of a norm are there when its product is.
fn small_first(graph: &mut Graph, joined: impl Fn(&Node) -> bool) {
    let mut early: Vec<bool> =
        graph.values.iter().map(|v| !matches!(v.origin, Origin::Node { .. })).collect();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for node in std::mem::take(&mut graph.nodes) {
        let small = node.op.is_view() || node.outputs.iter().all(|&v| graph.ty(v).bytes() <= SMALL);
        if small && !joined(&node) && node.inputs.iter().all(|v| early[v.index()]) {
            node.outputs.iter().for_each(|v| early[v.index()] = true);
            first.push(node);
        } else {
            rest.push(node);
        }
    }
    first.append(&mut rest);
    graph.nodes = first;
    renumber(graph);
}
