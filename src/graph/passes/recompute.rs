//! Activation recomputation (Chen et al. 2016, arXiv 1604.06174): what the backward pass reads of the forward
//! pass is computed again where it is needed, instead of being kept until then.
//!
//! The forward pass is cut into [`Segment`]s where little is alive, which is between the blocks of a network. A
//! segment that is [recomputed](recompute) keeps what other segments read of it; the rest is made again from that,
//! by the same ops over the same values, just before the first gradient that wants it. Gradients are the same to
//! the bit.

use std::collections::{HashMap, HashSet};

use crate::graph::ir::{Graph, Node, Origin, Value, ValueId};

/// How many nodes before and after a cut have no less alive behind them.
const AROUND: usize = 2;

/// A part of the forward pass that can be computed again.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Nodes that are computed again, in order; no views.
    nodes: Vec<usize>,
    /// Results of these that nothing outside of the segment reads on the way forward.
    values: Vec<ValueId>,
    /// Bytes that need not be kept.
    pub saves: usize,
    /// Floating-point operations that are done twice.
    pub flops: f64,
}

/// Who reads a value, or views of it.
#[derive(Clone, Default)]
struct Readers {
    /// A node of another segment on the way forward, or the caller.
    outside: bool,
    /// A gradient.
    gradient: bool,
}

/// What is known of a graph with gradients.
struct Forward<'g> {
    graph: &'g Graph,
    /// Whether each node is needed for the results.
    forward: Vec<bool>,
    /// The value in whose memory each value lies.
    root: Vec<ValueId>,
}

impl<'g> Forward<'g> {
    /// Of the nodes that compute `results`.
    fn new(graph: &'g Graph, results: &[ValueId]) -> Self {
        let mut needed = vec![false; graph.values.len()];
        results.iter().for_each(|v| needed[v.index()] = true);
        let mut forward = vec![false; graph.nodes.len()];
        for (i, node) in graph.nodes.iter().enumerate().rev() {
            forward[i] = node.outputs.iter().any(|v| needed[v.index()]);
            if forward[i] {
                node.inputs.iter().for_each(|v| needed[v.index()] = true);
            }
        }
        let mut root: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
        for node in graph.nodes.iter().filter(|n| n.op.is_view()) {
            root[node.outputs[0].index()] = root[node.inputs[0].index()];
        }
        Forward { graph, forward, root }
    }

    /// The node that computes what lies in a value's memory; `None` for leaves.
    fn maker(&self, v: ValueId) -> Option<usize> {
        match self.graph.values[self.root[v.index()].index()].origin {
            Origin::Node { node, .. } => Some(node.index()),
            _ => None,
        }
    }

    /// Forward nodes that do something.
    fn working(&self) -> Vec<usize> {
        let works = |i: &usize| self.forward[*i] && !self.graph.nodes[*i].op.is_view();
        (0..self.graph.nodes.len()).filter(works).collect()
    }

    /// The working nodes in parts of at least so many, each of which ends where less is alive than around it.
    fn parts(&self, least: usize) -> Vec<Vec<usize>> {
        let working = self.working();
        let at: HashMap<usize, usize> = working.iter().enumerate().map(|(k, &i)| (i, k)).collect();
        let mut last = HashMap::new();
        for (k, &i) in working.iter().enumerate() {
            for &v in &self.graph.nodes[i].inputs {
                last.insert(self.root[v.index()], k);
            }
        }
        // Bytes alive after each working node.
        let mut change = vec![0i64; working.len() + 1];
        for (v, &end) in &last {
            if let Some(start) = self.maker(*v).and_then(|i| at.get(&i)) {
                change[*start] += self.graph.ty(*v).bytes() as i64;
                change[end] -= self.graph.ty(*v).bytes() as i64;
            }
        }
        let alive: Vec<i64> = change
            .iter()
            .scan(0, |sum, c| {
                *sum += c;
                Some(*sum)
            })
            .collect();
        let narrow = |k: usize| {
            let around = k.saturating_sub(AROUND)..(k + AROUND + 1).min(working.len());
            around.into_iter().all(|j| alive[k] <= alive[j])
        };
        let (mut parts, mut start) = (Vec::new(), 0);
        for end in 0..working.len() {
            if end + 1 - start >= least.max(1) && narrow(end) {
                parts.push(working[start..=end].to_vec());
                start = end + 1;
            }
        }
        parts
    }
}

/// The parts of a graph's forward pass, which computes `results`, that are worth recomputing. Each has at least so
/// many nodes: longer ones keep less, and need more while they are computed again.
pub fn segments(graph: &Graph, results: &[ValueId], least: usize) -> Vec<Segment> {
    let forward = Forward::new(graph, results);
    let parts = forward.parts(least);
    let mut part_of = vec![usize::MAX; graph.nodes.len()];
    for (p, nodes) in parts.iter().enumerate() {
        nodes.iter().for_each(|&i| part_of[i] = p);
    }
    let mut readers = vec![Readers::default(); graph.values.len()];
    for (_, v) in &graph.outputs {
        readers[forward.root[v.index()].index()].outside = true;
    }
    for (i, node) in graph.nodes.iter().enumerate().filter(|(_, n)| !n.op.is_view()) {
        for &v in &node.inputs {
            let Some(maker) = forward.maker(v) else { continue };
            let its = &mut readers[forward.root[v.index()].index()];
            match forward.forward[i] {
                true => its.outside |= part_of[i] != part_of[maker] || part_of[i] == usize::MAX,
                false => its.gradient = true,
            }
        }
    }
    let segment = |nodes: &Vec<usize>| {
        let mut wanted = vec![false; graph.values.len()];
        let (mut again, mut values, mut saves) = (Vec::new(), Vec::new(), 0);
        for &i in nodes.iter().rev() {
            let node = &graph.nodes[i];
            let remade = node.outputs.iter().filter(|v| !readers[v.index()].outside);
            for &v in remade {
                wanted[v.index()] |= readers[v.index()].gradient;
                saves += if readers[v.index()].gradient { graph.ty(v).bytes() } else { 0 };
                values.extend(wanted[v.index()].then_some(v));
            }
            if node.outputs.iter().any(|v| wanted[v.index()]) {
                again.push(i);
                // What it is computed from, up to what is kept anyway.
                for &v in &node.inputs {
                    let root = forward.root[v.index()].index();
                    wanted[root] |= !readers[root].outside;
                }
            }
        }
        again.reverse();
        let flops = again.iter().map(|&i| graph.node_cost(&graph.nodes[i]).flops).sum();
        Segment { nodes: again, values, saves, flops }
    };
    parts.iter().map(segment).filter(|s| s.saves > 0).collect()
}

/// The graph in which gradients read what `segments` make again. `results` are those that the segments were found
/// for. No pass that merges equal nodes may follow.
pub fn recompute(graph: &Graph, results: &[ValueId], segments: &[&Segment]) -> Graph {
    let forward = Forward::new(graph, results);
    let mut maker = HashMap::new();
    for (s, segment) in segments.iter().enumerate() {
        maker.extend(segment.values.iter().map(|v| (*v, s)));
    }
    let mut again = Again {
        forward: &forward,
        anew: maker.keys().copied().collect(),
        nodes: Vec::with_capacity(2 * graph.nodes.len()),
        values: graph.values.clone(),
        remade: HashMap::new(),
    };
    let mut done = vec![false; segments.len()];
    // Gradients that other passes have moved up in between read what is there.
    let end = forward.forward.iter().rposition(|&f| f).map_or(0, |last| last + 1);
    for (i, node) in graph.nodes.iter().enumerate() {
        let mut node = node.clone();
        if i >= end && !node.op.is_view() {
            for v in &mut node.inputs {
                let Some(&s) = maker.get(&forward.root[v.index()]) else { continue };
                if !std::mem::replace(&mut done[s], true) {
                    segments[s].nodes.iter().for_each(|&i| again.copy(&graph.nodes[i]));
                }
                *v = again.value(*v);
            }
        }
        again.nodes.push(node);
    }
    let mut graph = Graph { nodes: again.nodes, values: again.values, outputs: graph.outputs.clone() };
    super::renumber(&mut graph);
    // Views of old values, which new ones have taken the place of.
    super::drop_dead_code(&mut graph);
    graph
}

/// A graph that grows by copies of forward nodes.
struct Again<'f> {
    forward: &'f Forward<'f>,
    /// Old values that are made again.
    anew: HashSet<ValueId>,
    nodes: Vec<Node>,
    values: Vec<Value>,
    /// New values by old ones.
    remade: HashMap<ValueId, ValueId>,
}

impl Again<'_> {
    /// Adds a copy of a node, over new values where there are some.
    fn copy(&mut self, node: &Node) {
        let inputs = node.inputs.iter().map(|&v| self.value(v)).collect();
        self.push(node, inputs);
    }

    /// The new value for an old one: itself, unless what lies in its memory has been made again.
    fn value(&mut self, v: ValueId) -> ValueId {
        if let Some(&new) = self.remade.get(&v) {
            return new;
        }
        let graph = self.forward.graph;
        match graph.producer(v) {
            Some(node) if node.op.is_view() => {
                let from = self.value(node.inputs[0]);
                if from == node.inputs[0] { v } else { self.push(node, vec![from]) }
            }
            _ => v,
        }
    }

    /// Adds a node like `node`; returns its first result.
    fn push(&mut self, node: &Node, inputs: Vec<ValueId>) -> ValueId {
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for &v in &node.outputs {
            let new = ValueId(self.values.len() as u32);
            self.values.push(self.values[v.index()].clone());
            if node.op.is_view() || self.anew.contains(&v) {
                self.remade.insert(v, new);
            }
            outputs.push(new);
        }
        let first = outputs[0];
        self.nodes.push(Node { op: node.op.clone(), inputs, outputs, path: node.path.clone() });
        first
    }
}
