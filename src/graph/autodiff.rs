//! Reverse-mode differentiation: graph in, graph out.

use std::collections::HashMap;

use super::builder::GraphBuilder;
use super::ir::{NodeId, ValueId};
use super::op::{Gradient, GradientContext};
use crate::error::Result;

/// How two gradients of one value are summed. The graph knows no operation by name, so `ops`
/// brings its `add`.
pub type Add = fn(&mut GraphBuilder, ValueId, ValueId) -> Result<ValueId>;

/// Appends the gradient nodes of `seeds` (results with their cotangents) with respect to `wrt`.
///
/// Returns one entry per `wrt`: its gradient, or `None` if no seed depends on it.
///
/// # Errors
/// If an op on the way is not differentiable, or its rule leaves out an operand on the way to
/// `wrt`: a missing gradient is an error, never a silent zero.
pub fn gradients(
    b: &mut GraphBuilder,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
    add: Add,
) -> Result<Vec<Option<ValueId>>> {
    let end = b.graph().nodes.len();
    // Values on some path from `wrt`.
    let mut needs = vec![false; b.graph().values.len()];
    for v in wrt {
        needs[v.index()] = true;
    }
    for n in &b.graph().nodes {
        if n.inputs.iter().any(|v| needs[v.index()]) {
            for v in n.outputs.iter().filter(|v| !b.is_held_constant(**v)) {
                needs[v.index()] = true;
            }
        }
    }
    let mut grads: HashMap<ValueId, ValueId> = HashMap::new();
    for &(y, dy) in seeds {
        if b.ty(y) != b.ty(dy) {
            let message = format!("the cotangent of {} is {}", b.ty(y), b.ty(dy));
            return Err(b.error("gradients", message));
        }
        accumulate(b, &mut grads, y, dy, add)?;
    }
    for i in (0..end).rev() {
        let node = b.graph().node(NodeId(i as u32)).clone();
        let d_outputs: Vec<_> = node.outputs.iter().map(|v| grads.get(v).copied()).collect();
        let wanted: Vec<_> = node.inputs.iter().map(|v| needs[v.index()]).collect();
        let constant = node.outputs.iter().all(|v| b.is_held_constant(*v));
        if constant || d_outputs.iter().all(Option::is_none) || !wanted.contains(&true) {
            continue;
        }
        let scope = format!("{}.grad", node.path);
        let d_inputs = b.scope(scope.trim_start_matches('.'), |b| {
            let rule = node.op.gradient(&mut GradientContext {
                b,
                inputs: &node.inputs,
                outputs: &node.outputs,
                d_outputs: &d_outputs,
                wanted: &wanted,
            })?;
            match rule {
                Gradient::Inputs(d) => Ok(d),
                Gradient::NotDifferentiable(why) => {
                    Err(b.error(node.op.name(), format!("has no gradient: {why}")))
                }
            }
        })?;
        assert_eq!(d_inputs.len(), node.inputs.len(), "{}: one gradient per operand", node.op.name());
        for (k, (&x, dx)) in node.inputs.iter().zip(d_inputs).enumerate() {
            match dx {
                Some(dx) if wanted[k] => {
                    if b.ty(x).shape != b.ty(dx).shape {
                        let message = format!("gradient of operand {k} is {}, not {}", b.ty(dx), b.ty(x));
                        return Err(b.error(node.op.name(), message));
                    }
                    accumulate(b, &mut grads, x, dx, add)?;
                }
                None if wanted[k] && b.ty(x).dtype.is_float() => {
                    return Err(b.error(node.op.name(), format!("gives no gradient for operand {k}")));
                }
                _ => {}
            }
        }
    }
    Ok(wrt.iter().map(|v| grads.get(v).copied()).collect())
}

fn accumulate(
    b: &mut GraphBuilder,
    grads: &mut HashMap<ValueId, ValueId>,
    x: ValueId,
    dx: ValueId,
    add: Add,
) -> Result<()> {
    let sum = match grads.get(&x) {
        Some(&old) => add(b, old, dx)?,
        None => dx,
    };
    grads.insert(x, sum);
    Ok(())
}
