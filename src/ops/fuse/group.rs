//! Linear layers of the same extents that do not depend on each other, in one node.

use std::sync::Arc;

use crate::graph::ir::{Graph, Node, Origin};
use crate::graph::passes::{Rule, renumber};
use crate::ops::linear::Linear;
use crate::ops::linear_group::{LinearGroup, MOST_MEMBERS};

/// How many nodes further on a layer is looked for: its result waits in memory from here to its users.
const REACH: usize = 12;

/// Layers → `linear_group`, in the place of the first: the keys and values of an attention; the projections
/// of a block's experts, first those of the same x, whose results then are there for all that follow.
pub(super) struct LinearsIntoGroup;

impl Rule for LinearsIntoGroup {
    fn name(&self) -> &'static str {
        "linears into group"
    }

    fn rearrange(&self, graph: &mut Graph, most: usize) -> usize {
        let mut left: Vec<Option<Node>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
        let mut there: Vec<bool> =
            graph.values.iter().map(|v| !matches!(v.origin, Origin::Node { .. })).collect();
        let mut groups = 0;
        for i in 0..left.len() {
            let Some(mut node) = left[i].take() else { continue };
            if groups < most && may_join(&node) {
                let mut members = vec![node];
                for later in left.iter_mut().skip(i + 1).take(REACH) {
                    let joins = |n: &mut Node| {
                        alike(graph, &members[0], n) && n.inputs.iter().all(|v| there[v.index()])
                    };
                    members.extend(later.take_if(joins));
                    if members.len() == MOST_MEMBERS {
                        break;
                    }
                }
                groups += usize::from(members.len() > 1);
                node = joined(members);
            }
            node.outputs.iter().for_each(|v| there[v.index()] = true);
            graph.nodes.push(node);
        }
        renumber(graph);
        groups
    }
}

fn may_join(node: &Node) -> bool {
    node.op.downcast::<Linear>().is_some_and(|l| l.epilogue.arity() == 0)
}

/// Whether two layers, the first of which may join, can be of one group.
fn alike(graph: &Graph, first: &Node, other: &Node) -> bool {
    let same_type = |k: usize| graph.ty(first.inputs[k]) == graph.ty(other.inputs[k]);
    first.op.downcast::<Linear>() == other.op.downcast::<Linear>() && same_type(0) && same_type(1)
}

/// The group of these layers; one alone stays what it is.
fn joined(mut members: Vec<Node>) -> Node {
    if members.len() == 1 {
        return members.remove(0);
    }
    let layer = members[0].op.downcast::<Linear>().expect("only linears are members");
    let op = LinearGroup { members: members.len(), bias: layer.bias, epilogue: layer.epilogue };
    Node {
        op: Arc::new(op),
        inputs: members.iter().flat_map(|n| n.inputs.iter().copied()).collect(),
        outputs: members.iter().flat_map(|n| n.outputs.iter().copied()).collect(),
        path: members[0].path.clone(),
    }
}
