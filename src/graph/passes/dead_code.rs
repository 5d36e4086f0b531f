//! Drops nodes that no output needs.

use crate::graph::ir::Graph;

/// Removes every node whose results reach no graph output. Leaves stay: a parameter that became
/// unused is still part of the checkpoint.
pub fn drop_dead_code(graph: &mut Graph) {
    let mut live = vec![false; graph.values.len()];
    for (_, v) in &graph.outputs {
        live[v.index()] = true;
    }
    let mut keep = vec![false; graph.nodes.len()];
    for (i, n) in graph.nodes.iter().enumerate().rev() {
        keep[i] = n.outputs.iter().any(|v| live[v.index()]);
        if keep[i] {
            for v in &n.inputs {
                live[v.index()] = true;
            }
        }
    }
    let mut i = 0;
    graph.nodes.retain(|_| {
        i += 1;
        keep[i - 1]
    });
    super::renumber(graph);
}
