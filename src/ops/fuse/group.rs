//! Nodes that do one thing to tensors of the same shapes and do not depend on each other become one.

use std::sync::Arc;

use crate::graph::Op;
use crate::graph::ir::{Graph, Node, Origin};
use crate::graph::passes::{Rule, renumber};
use crate::ops::binary::{self, Binary, BinaryGroup};
use crate::ops::linear::Linear;
use crate::ops::linear_group::{self, LinearGroup};

/// A kind of nodes that can be members of a group.
trait Grouped {
    /// Members of a group.
    const MOST: usize;
    /// Past how many other nodes later ones come to join this one, if it can be a member: their results wait in
    /// memory from here to their users. Views do not count, nor do the members of other groups.
    fn reach(graph: &Graph, node: &Node) -> Option<usize>;
    /// What all members of a group do.
    fn same(first: &Node, other: &Node) -> bool;
    /// What a group of nodes like this does.
    fn op(node: &Node, members: usize) -> Option<Arc<dyn Op>>;
}

/// Lets nodes join the first one that they can, in its place: their operands must be there. Answers how many
/// groups there are now, `most` or less.
fn group<G: Grouped>(graph: &mut Graph, most: usize) -> usize {
    let mut left: Vec<Option<Node>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
    let mut there: Vec<bool> =
        graph.values.iter().map(|v| !matches!(v.origin, Origin::Node { .. })).collect();
    let mut groups = 0;
    for i in 0..left.len() {
        let Some(mut node) = left[i].take() else { continue };
        if let Some(reach) = G::reach(graph, &node).filter(|_| groups < most) {
            let types = |n: &Node| n.inputs.iter().map(|&v| graph.ty(v)).collect::<Vec<_>>();
            let wanted = types(&node);
            let mut members = vec![node];
            let mut passed = 0;
            for later in &mut left[i + 1..] {
                let Some(other) = later else { continue };
                let operands_there = other.inputs.iter().all(|v| there[v.index()]);
                if operands_there && G::same(&members[0], other) && types(other) == wanted {
                    members.extend(later.take());
                } else {
                    passed += usize::from(!other.op.is_view());
                }
                if members.len() == G::MOST || passed > reach {
                    break;
                }
            }
            groups += usize::from(members.len() > 1);
            node = joined::<G>(members);
        }
        node.outputs.iter().for_each(|v| there[v.index()] = true);
        graph.nodes.push(node);
    }
    renumber(graph);
    groups
}

/// The group of these nodes; one alone stays what it is.
fn joined<G: Grouped>(mut members: Vec<Node>) -> Node {
    match G::op(&members[0], members.len()) {
        Some(op) if members.len() > 1 => Node {
            op,
            inputs: members.iter().flat_map(|n| n.inputs.iter().copied()).collect(),
            outputs: members.iter().flat_map(|n| n.outputs.iter().copied()).collect(),
            path: members[0].path.clone(),
        },
        _ => members.swap_remove(0),
    }
}

/// Linear layers → `linear_group`: the keys and values of an attention; the projections of a block's experts,
/// first those of the same x, whose results then are there for all that follow.
pub(super) struct LinearsIntoGroup;

impl Rule for LinearsIntoGroup {
    fn name(&self) -> &'static str {
        "linears into group"
    }

    fn rearrange(&self, graph: &mut Graph, most: usize) -> usize {
        group::<Self>(graph, most)
    }
}

impl Grouped for LinearsIntoGroup {
    const MOST: usize = linear_group::MOST_MEMBERS;

    /// A result that is narrower than its x may wait for longer.
    fn reach(graph: &Graph, node: &Node) -> Option<usize> {
        let plain = node.op.downcast::<Linear>()?.epilogue.arity() == 0;
        let narrow = graph.ty(node.outputs[0]).last() < graph.ty(node.inputs[0]).last();
        plain.then_some(if narrow { 12 } else { 2 })
    }

    fn same(first: &Node, other: &Node) -> bool {
        first.op.downcast::<Linear>() == other.op.downcast::<Linear>()
    }

    fn op(node: &Node, members: usize) -> Option<Arc<dyn Op>> {
        let layer = node.op.downcast::<Linear>()?;
        Some(Arc::new(LinearGroup { members, bias: layer.bias, epilogue: layer.epilogue }))
    }
}

/// Small elementwise results → `binary_group`: what each block of a transformer adds to the time's modulation
/// vectors, which is little work and a launch each.
pub(super) struct BinariesIntoGroup;

/// Bytes of a result that is small: it may wait for long.
const SMALL: usize = 64 << 10;

impl Rule for BinariesIntoGroup {
    fn name(&self) -> &'static str {
        "binaries into group"
    }

    fn rearrange(&self, graph: &mut Graph, most: usize) -> usize {
        group::<Self>(graph, most)
    }
}

impl Grouped for BinariesIntoGroup {
    const MOST: usize = binary::MOST_MEMBERS;

    fn reach(graph: &Graph, node: &Node) -> Option<usize> {
        node.op.downcast::<Binary>()?;
        let small = graph.ty(node.outputs[0]).bytes() <= SMALL;
        (small && node.inputs.iter().all(|&v| graph.ty(v).len() > 1)).then_some(1000)
    }

    fn same(first: &Node, other: &Node) -> bool {
        first.op.downcast::<Binary>() == other.op.downcast::<Binary>()
    }

    fn op(node: &Node, members: usize) -> Option<Arc<dyn Op>> {
        Some(Arc::new(BinaryGroup { kind: node.op.downcast::<Binary>()?.0, members }))
    }
}
