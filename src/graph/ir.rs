//! Values, nodes and the graph that holds them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::op::Op;
use crate::tensor::{DType, HostTensor};

/// Dtype and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extent of each axis, row-major.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        TensorType { dtype, shape: shape.into() }
    }

    /// An f32 tensor of this shape.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self::new(DType::F32, shape)
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether some axis has extent 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a contiguous tensor of this type.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Extent of the last axis (1 for a scalar).
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// Names a value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

/// Names a node of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl ValueId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Given anew at each run, by name.
    Input(String),
    /// A weight, by its official checkpoint key; bound once before running.
    Param(String),
    /// Numbers fixed when the graph was built.
    Const(HostTensor),
    /// Output `index` of a node.
    Node {
        /// The producer.
        node: NodeId,
        /// Which of its outputs.
        index: usize,
    },
}

/// One tensor that flows through the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Dtype and shape.
    pub ty: TensorType,
    /// Its producer or source.
    pub origin: Origin,
}

/// One operation applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Arc<dyn Op>,
    /// Operands, in the op's order.
    pub inputs: Vec<ValueId>,
    /// Results, in the op's order.
    pub outputs: Vec<ValueId>,
    /// Place in the model, as in the checkpoint: `layers.0.residual_group.blocks.1.attn.qkv`.
    pub path: Arc<str>,
}

/// A static dataflow graph. Nodes stand in a topological order: every operand of a node comes
/// from a leaf or an earlier node.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// All values; a [`ValueId`] indexes this.
    pub values: Vec<Value>,
    /// All nodes in execution order.
    pub nodes: Vec<Node>,
    /// Named results.
    pub outputs: Vec<(String, ValueId)>,
}

impl Graph {
    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &TensorType {
        &self.values[v.index()].ty
    }

    /// A node by its id.
    pub fn node(&self, n: NodeId) -> &Node {
        &self.nodes[n.index()]
    }

    /// The node that computes `v`, if it is not a leaf.
    pub fn producer(&self, v: ValueId) -> Option<&Node> {
        match self.values[v.index()].origin {
            Origin::Node { node, .. } => Some(self.node(node)),
            _ => None,
        }
    }

    /// How often each value is used, as an operand or as a graph output.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut count = vec![0; self.values.len()];
        for v in self.nodes.iter().flat_map(|n| &n.inputs).chain(self.outputs.iter().map(|(_, v)| v)) {
            count[v.index()] += 1;
        }
        count
    }

    /// Input leaves in the order of creation: name and value.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, ValueId)> {
        self.values.iter().enumerate().filter_map(|(i, v)| match &v.origin {
            Origin::Input(name) => Some((name.as_str(), ValueId(i as u32))),
            _ => None,
        })
    }

    /// Parameter leaves in the order of creation: official key and value.
    pub fn params(&self) -> impl Iterator<Item = (&str, ValueId)> {
        self.values.iter().enumerate().filter_map(|(i, v)| match &v.origin {
            Origin::Param(name) => Some((name.as_str(), ValueId(i as u32))),
            _ => None,
        })
    }

    /// Expected checkpoint: every parameter key with its shape, for a strict load.
    pub fn param_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.params().map(|(k, v)| (k.to_owned(), self.ty(v).shape.clone())).collect()
    }

    /// Sum of the costs of all nodes.
    pub fn cost(&self) -> super::Cost {
        self.nodes.iter().map(|n| self.node_cost(n)).sum()
    }

    /// Cost of one node of this graph.
    pub fn node_cost(&self, n: &Node) -> super::Cost {
        let types = |ids: &[ValueId]| ids.iter().map(|&v| self.ty(v)).collect::<Vec<_>>();
        n.op.cost(&types(&n.inputs), &types(&n.outputs))
    }

    /// How many nodes of each op there are, by name.
    pub fn op_counts(&self) -> HashMap<&'static str, usize> {
        let mut counts = HashMap::new();
        for n in &self.nodes {
            *counts.entry(n.op.name()).or_default() += 1;
        }
        counts
    }
}
