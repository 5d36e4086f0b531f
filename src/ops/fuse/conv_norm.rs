//! Group norms go into the convolutions around them: the normalisation into the one that reads it, the statistics
//! into the one that computes what is normalised. The tensor in between is written once and read once.

use std::sync::Arc;

use crate::graph::ValueId;
use crate::graph::ir::{Graph, NodeId, Origin};
use crate::graph::passes::{Rule, renumber};
use crate::ops::conv2d::{Conv2d, InputNorm};
use crate::ops::group_norm::{GroupNorm, GroupNormAffine};

/// The node that computes `v`.
fn producer(graph: &Graph, v: ValueId) -> Option<NodeId> {
    match graph.values[v.index()].origin {
        Origin::Node { node, .. } => Some(node),
        _ => None,
    }
}

/// The convolution of node `i`, if its kernel has an input pixel in shared memory for all taps at once.
fn tiled(graph: &Graph, i: NodeId) -> Option<&Conv2d> {
    let node = graph.node(i);
    let types: Vec<_> = node.inputs.iter().map(|&v| graph.ty(v)).collect();
    node.op.downcast::<Conv2d>().filter(|conv| conv.reads_tiles(&types))
}

/// `conv2d(group_norm(x))` → a convolution that normalises what it reads. What is left of the norm are the scale and
/// shift of each channel.
pub(super) struct NormIntoConv;

impl Rule for NormIntoConv {
    fn name(&self) -> &'static str {
        "group norm into conv2d"
    }

    fn rearrange(&self, graph: &mut Graph, most: usize) -> usize {
        let uses = graph.use_counts();
        let mut done = 0;
        for i in 0..graph.nodes.len() {
            let Some(conv) = tiled(graph, NodeId(i as u32)).filter(|c| c.sources == 1 && c.upsample == 1)
            else {
                continue;
            };
            let op = conv.clone();
            let normed = graph.nodes[i].inputs[0];
            let Some(n) = producer(graph, normed).filter(|_| uses[normed.index()] == 1) else { continue };
            let Some(&norm) = graph.node(n).op.downcast::<GroupNorm>() else { continue };
            if op.norm.is_some() || done == most {
                continue;
            }
            let GroupNorm { groups, eps, silu } = norm;
            let affine = GroupNormAffine { groups, eps };
            let [x, gamma, beta] = graph.node(n).inputs[..] else { continue };
            let Ok(ty) = affine.infer_of(graph.ty(x), graph.ty(gamma), graph.ty(beta)) else { continue };
            // The norm's value had no other reader: it becomes the scale and shift.
            graph.values[normed.index()].ty = ty;
            graph.nodes[n.index()].op = Arc::new(affine);
            graph.nodes[i].op = Arc::new(Conv2d { norm: Some(InputNorm { silu }), ..op });
            graph.nodes[i].inputs.splice(..1, [x, normed]);
            done += 1;
        }
        done
    }
}

/// `group_norm_affine(conv2d(…))` → a second result of the convolution.
pub(super) struct StatisticsIntoConv;

impl Rule for StatisticsIntoConv {
    fn name(&self) -> &'static str {
        "group norm's statistics into conv2d"
    }

    fn rearrange(&self, graph: &mut Graph, most: usize) -> usize {
        let mut absorbed = vec![false; graph.nodes.len()];
        for i in 0..graph.nodes.len() {
            let node = &graph.nodes[i];
            let Some(&affine) = node.op.downcast::<GroupNormAffine>() else { continue };
            let ([x, gamma, beta], out) =
                (node.inputs[..].try_into().expect("infer checked"), node.outputs[0]);
            let Some(n) = producer(graph, x) else { continue };
            let Some(conv) = tiled(graph, n).filter(|c| c.affine.is_none()) else { continue };
            let there = [gamma, beta].iter().all(|&v| producer(graph, v).is_none());
            let whole = graph.ty(x).last().is_multiple_of(8);
            if !there || !whole || absorbed.iter().filter(|&&a| a).count() == most {
                continue;
            }
            let op = Conv2d { affine: Some(affine), ..conv.clone() };
            let producer = &mut graph.nodes[n.index()];
            producer.op = Arc::new(op);
            producer.inputs.extend([gamma, beta]);
            producer.outputs.push(out);
            absorbed[i] = true;
        }
        let mut gone = absorbed.iter();
        graph.nodes.retain(|_| !gone.next().expect("one a node"));
        renumber(graph);
        absorbed.into_iter().filter(|&a| a).count()
    }
}
