//! Rewriting by small named rules.
//!
//! A rule looks at one node and may answer with another op over other operands for the same
//! results; what then has no user is dropped. Rules that name ops live beside them (`ops::fuse`);
//! the general ones are here. [`run`] can stop after any number of rewrites for a look.

mod cse;
mod dead_code;
mod hoist;
pub mod recompute;
mod stored;

pub use cse::merge_equal_nodes;
pub use dead_code::drop_dead_code;
pub use hoist::{Split, hoist};
pub use stored::keep_stored;

use std::sync::Arc;

use super::ir::{Graph, Node, NodeId, Origin, ValueId};
use super::op::Op;
use crate::error::{Error, Result};

/// What a rule puts in a node's place: same result types, other op and operands.
pub struct Rewrite {
    /// The new op.
    pub op: Arc<dyn Op>,
    /// Its operands; each must come from a leaf or an earlier node.
    pub inputs: Vec<ValueId>,
}

/// What a rule may look at.
pub struct View<'a> {
    /// The graph before the rewrite.
    pub graph: &'a Graph,
    /// Uses of each value.
    uses: &'a [usize],
}

impl<'a> View<'a> {
    /// The node that computes `v`, if `v` has no other user: it may be absorbed.
    pub fn sole_producer(&self, v: ValueId) -> Option<&'a Node> {
        if self.uses[v.index()] == 1 { self.graph.producer(v) } else { None }
    }

    /// The single f32 number of a constant scalar.
    pub fn scalar(&self, v: ValueId) -> Option<f32> {
        match &self.graph.values[v.index()].origin {
            Origin::Const(t) if t.len() == 1 && t.dtype().is_float() => Some(t.to_f32()[0]),
            _ => None,
        }
    }
}

/// A named local rewriting rule.
pub trait Rule: Sync {
    /// Short name for dumps and errors, as `bias into linear`.
    fn name(&self) -> &'static str;
    /// A replacement for `node`, if the rule applies.
    fn rewrite(&self, _view: &View, _node: &Node) -> Option<Rewrite> {
        None
    }
    /// For a rule that looks at many nodes at once: changes the graph when no rule rewrites a node any more,
    /// `most` times or less, and says how often. Nodes stay in an order in which they can run.
    fn rearrange(&self, _graph: &mut Graph, _most: usize) -> usize {
        0
    }
}

/// How often each rule applied, for `explain`.
pub type Applied = Vec<(&'static str, usize)>;

/// Applies `rules` until none does (at most `stop_after` rewrites), then merges equal nodes and
/// drops dead code.
pub fn run(graph: &mut Graph, rules: &[&dyn Rule], stop_after: Option<usize>) -> Result<Applied> {
    let mut left = stop_after.unwrap_or(usize::MAX);
    let mut applied: Applied = rules.iter().map(|r| (r.name(), 0)).collect();
    merge_equal_nodes(graph);
    drop_dead_code(graph);
    loop {
        let mut changed = false;
        let mut uses = graph.use_counts();
        for i in 0..graph.nodes.len() {
            for (rule, count) in rules.iter().zip(&mut applied) {
                if left == 0 {
                    break;
                }
                let found = rule.rewrite(&View { graph, uses: &uses }, &graph.nodes[i]);
                if let Some(new) = found {
                    for v in &new.inputs {
                        uses[v.index()] += 1;
                    }
                    for v in &graph.nodes[i].inputs {
                        uses[v.index()] -= 1;
                    }
                    replace(graph, i, new, rule.name())?;
                    count.1 += 1;
                    left -= 1;
                    changed = true;
                }
            }
        }
        drop_dead_code(graph);
        if !changed {
            break;
        }
    }
    for (rule, count) in rules.iter().zip(&mut applied) {
        let done = rule.rearrange(graph, left);
        count.1 += done;
        left -= done;
    }
    Ok(applied)
}

/// Lets values name the nodes that compute them, after nodes have moved.
pub(crate) fn renumber(graph: &mut Graph) {
    for (i, n) in graph.nodes.iter().enumerate() {
        for (index, v) in n.outputs.iter().enumerate() {
            graph.values[v.index()].origin = Origin::Node { node: NodeId(i as u32), index };
        }
    }
}

fn replace(graph: &mut Graph, i: usize, new: Rewrite, rule: &str) -> Result<()> {
    let node = &graph.nodes[i];
    let types: Vec<_> = new.inputs.iter().map(|&v| graph.ty(v)).collect();
    let fail = |message: String| Error::Graph {
        path: node.path.to_string(),
        op: node.op.name().to_owned(),
        message: format!("rule \"{rule}\" gave {:?}: {message}", new.op),
    };
    let results = new.op.infer(&types).map_err(fail)?;
    let was: Vec<_> = node.outputs.iter().map(|&v| graph.ty(v).clone()).collect();
    if results != was {
        return Err(fail(format!("results {results:?} in place of {was:?}")));
    }
    let node = &mut graph.nodes[i];
    node.op = new.op;
    node.inputs = new.inputs;
    Ok(())
}
