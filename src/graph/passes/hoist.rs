//! Splits a graph that runs many times into what changes from run to run and what does not.
//!
//! A denoiser is called once per step with a new latent and a new time; the caption, the
//! conditions and everything computed from them alone stay. The model records one plain graph,
//! and this pass takes the unchanging part out, so that it is computed once per image.

use crate::error::{Error, Result};
use crate::graph::ir::{Graph, Node, NodeId, Origin, Value, ValueId};

/// The two parts of a graph.
pub struct Split {
    /// Computes from the unchanging inputs what the other part needs: outputs `hoisted.0` ….
    pub once: Graph,
    /// The rest, with inputs `hoisted.0` … beside the changing ones.
    pub each: Graph,
}

/// Splits `graph`; inputs named in `changing` are given anew at each run.
///
/// Leaves stay leaves on both sides, and views of hoisted values are taken on the side that reads
/// them, so nothing is copied for their sake.
///
/// # Errors
/// If an output does not depend on a changing input: it would have no place in the second part.
pub fn hoist(graph: &Graph, changing: &[&str]) -> Result<Split> {
    let mut changes = vec![false; graph.values.len()];
    for (i, v) in graph.values.iter().enumerate() {
        changes[i] = matches!(&v.origin, Origin::Input(name) if changing.contains(&name.as_str()));
    }
    for node in &graph.nodes {
        let any = node.inputs.iter().any(|v| changes[v.index()]);
        node.outputs.iter().for_each(|v| changes[v.index()] = any);
    }
    let mut once = Part::new(graph);
    for node in graph.nodes.iter().filter(|n| !changes[n.outputs[0].index()]) {
        once.add(node);
    }
    let mut split = Splitter { graph, changes: &changes, once, each: Part::new(graph) };
    for node in graph.nodes.iter().filter(|n| changes[n.outputs[0].index()]) {
        for &v in &node.inputs {
            split.bring(v);
        }
        split.each.add(node);
    }
    for (name, v) in &graph.outputs {
        if !changes[v.index()] {
            return Err(Error::Graph {
                path: String::new(),
                op: "hoist".into(),
                message: format!("output \"{name}\" does not depend on {}", changing.join(" or ")),
            });
        }
        let mapped = split.each.get(*v);
        split.each.graph.outputs.push((name.clone(), mapped));
    }
    let mut once = split.once.graph;
    super::drop_dead_code(&mut once);
    Ok(Split { once: used_leaves(&once), each: split.each.graph })
}

struct Splitter<'g> {
    graph: &'g Graph,
    changes: &'g [bool],
    once: Part<'g>,
    each: Part<'g>,
}

impl Splitter<'_> {
    /// Makes `v` available in the second part.
    fn bring(&mut self, v: ValueId) {
        if self.changes[v.index()] || self.each.map[v.index()].is_some() {
            return;
        }
        let Some(node) = self.graph.producer(v) else { return }; // a leaf comes by itself
        if node.op.is_view() {
            self.bring(node.inputs[0]);
            self.each.add(node);
            return;
        }
        let name = format!("hoisted.{}", self.once.graph.outputs.len());
        let source = self.once.get(v);
        self.once.graph.outputs.push((name.clone(), source));
        let value = Value { ty: self.graph.ty(v).clone(), origin: Origin::Input(name) };
        self.each.map[v.index()] = Some(push(&mut self.each.graph, value));
    }
}

/// A graph under construction from parts of another.
struct Part<'g> {
    from: &'g Graph,
    graph: Graph,
    map: Vec<Option<ValueId>>,
}

impl<'g> Part<'g> {
    fn new(from: &'g Graph) -> Self {
        Part { from, graph: Graph::default(), map: vec![None; from.values.len()] }
    }

    /// The value here; leaves are copied at their first use.
    fn get(&mut self, v: ValueId) -> ValueId {
        if let Some(there) = self.map[v.index()] {
            return there;
        }
        let value = self.from.values[v.index()].clone();
        assert!(!matches!(value.origin, Origin::Node { .. }), "operands are added before their users");
        let there = push(&mut self.graph, value);
        self.map[v.index()] = Some(there);
        there
    }

    fn add(&mut self, node: &Node) {
        let inputs = node.inputs.iter().map(|&v| self.get(v)).collect();
        let id = NodeId(self.graph.nodes.len() as u32);
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for (index, &v) in node.outputs.iter().enumerate() {
            let value = Value { ty: self.from.ty(v).clone(), origin: Origin::Node { node: id, index } };
            let there = push(&mut self.graph, value);
            self.map[v.index()] = Some(there);
            outputs.push(there);
        }
        self.graph.nodes.push(Node { op: node.op.clone(), inputs, outputs, path: node.path.clone() });
    }
}

fn push(graph: &mut Graph, value: Value) -> ValueId {
    graph.values.push(value);
    ValueId((graph.values.len() - 1) as u32)
}

/// The graph without leaves that nothing reads: a part asks for no weight it does not use.
fn used_leaves(graph: &Graph) -> Graph {
    let mut part = Part::new(graph);
    for node in &graph.nodes {
        part.add(node);
    }
    for (name, v) in &graph.outputs {
        let there = part.get(*v);
        part.graph.outputs.push((name.clone(), there));
    }
    part.graph
}
