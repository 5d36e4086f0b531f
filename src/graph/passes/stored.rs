//! Parameters in the number format of their file, where every reader takes it.

use crate::graph::ir::{Graph, Origin};
use crate::tensor::DType;

/// Lets parameters that are stored in bf16 or f16 stay so: half the memory, and no copy of a mapped
/// file. A parameter changes only if each op that reads it accepts the format and gives results of
/// the same types; `stored` tells a key's format.
pub fn keep_stored(graph: &mut Graph, stored: impl Fn(&str) -> Option<DType>) {
    let mut readers = vec![Vec::new(); graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|v| readers[v.index()].push(i));
    }
    for (v, readers) in readers.iter().enumerate() {
        let Origin::Param(key) = &graph.values[v].origin else { continue };
        let wide = graph.values[v].ty.dtype;
        let Some(dtype @ (DType::BF16 | DType::F16)) = stored(key).filter(|d| *d != wide) else { continue };
        graph.values[v].ty.dtype = dtype;
        let accepted = readers.iter().all(|&i| {
            let node = &graph.nodes[i];
            let types: Vec<_> = node.inputs.iter().map(|&v| graph.ty(v)).collect();
            let results: Vec<_> = node.outputs.iter().map(|&v| graph.ty(v).clone()).collect();
            node.op.infer(&types).is_ok_and(|found| found == results)
        });
        let output = graph.outputs.iter().any(|(_, o)| o.index() == v);
        if !accepted || output {
            graph.values[v].ty.dtype = wide;
        }
    }
}
