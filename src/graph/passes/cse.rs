//! Common subexpressions: equal ops over equal operands are computed once.

use std::collections::HashMap;

use crate::graph::ir::{Graph, ValueId};

/// Redirects users of a node to an earlier node with the same op, attributes and operands. The
/// later node loses its users and falls to dead-code removal.
pub fn merge_equal_nodes(graph: &mut Graph) {
    let mut seen: HashMap<(String, Vec<ValueId>), Vec<ValueId>> = HashMap::new();
    let mut instead: HashMap<ValueId, ValueId> = HashMap::new();
    for node in &mut graph.nodes {
        for v in &mut node.inputs {
            if let Some(&first) = instead.get(v) {
                *v = first;
            }
        }
        let first = seen.entry((node.op.key(), node.inputs.clone())).or_insert_with(|| node.outputs.clone());
        for (&mine, &earlier) in node.outputs.iter().zip(first.iter()) {
            if mine != earlier {
                instead.insert(mine, earlier);
            }
        }
    }
    for (_, v) in &mut graph.outputs {
        if let Some(&first) = instead.get(v) {
            *v = first;
        }
    }
}
