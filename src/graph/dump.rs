//! The graph as text or DOT, for people.

use std::fmt::Write;

use super::ir::{Graph, Origin, ValueId};

fn name(graph: &Graph, v: ValueId) -> String {
    match &graph.values[v.index()].origin {
        Origin::Input(n) | Origin::Param(n) => n.clone(),
        Origin::Const(t) if t.len() == 1 => format!("{}", t.to_f64()[0]),
        _ => v.to_string(),
    }
}

/// One line a node: results, op with attributes, operands, path.
pub fn text(graph: &Graph) -> String {
    let mut out = String::new();
    for n in &graph.nodes {
        let list = |ids: &[ValueId], typed: bool| {
            let show = |&v| {
                if typed { format!("{}: {}", name(graph, v), graph.ty(v)) } else { name(graph, v) }
            };
            ids.iter().map(show).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(
            out,
            "{} = {}({})  # {} {}",
            list(&n.outputs, true),
            n.op.name(),
            list(&n.inputs, false),
            n.op.key(),
            n.path
        );
    }
    for (k, v) in &graph.outputs {
        let _ = writeln!(out, "output {k} = {}", name(graph, *v));
    }
    out
}

/// Graphviz source; `dot -Tsvg` draws it.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::from("digraph g {\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for (k, v) in graph.inputs() {
        let _ = writeln!(out, "  v{} [label={:?}, shape=ellipse];", v.0, format!("{k}\n{}", graph.ty(v)));
    }
    for (i, n) in graph.nodes.iter().enumerate() {
        let _ = writeln!(out, "  n{i} [label={:?}];", format!("{}\n{}", n.op.name(), n.path));
        for v in &n.inputs {
            match graph.values[v.index()].origin {
                Origin::Node { node, .. } => {
                    let _ = writeln!(out, "  n{} -> n{i} [label={:?}];", node.0, graph.ty(*v).to_string());
                }
                Origin::Input(_) => {
                    let _ = writeln!(out, "  v{} -> n{i};", v.0);
                }
                _ => {}
            }
        }
    }
    out.push_str("}\n");
    out
}
