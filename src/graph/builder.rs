//! Adds leaves and nodes to a graph, checking shapes and dtypes as it goes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::ir::{Graph, Node, NodeId, Origin, TensorType, Value, ValueId};
use super::op::Op;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor};

/// Builds a [`Graph`]. Scopes give parameters their official checkpoint keys and nodes their
/// path for error messages:
///
/// ```
/// use dreamclear::graph::GraphBuilder;
/// use dreamclear::tensor::DType;
///
/// # fn main() -> dreamclear::Result<()> {
/// let mut b = GraphBuilder::new();
/// let x = b.input("x", DType::F32, [1, 4])?;
/// let w = b.scope("mlp.fc1", |b| b.param("weight", [8, 4]))?; // key "mlp.fc1.weight"
/// # let _ = (x, w);
/// # Ok(()) }
/// ```
///
/// The methods that add operations (`b.gelu(x)`, `b.conv2d(…)`) stand beside each op in `ops`.
#[derive(Default)]
pub struct GraphBuilder {
    graph: Graph,
    scope: Vec<String>,
    leaves: HashMap<String, ValueId>,
    matrices: Option<DType>,
    constants: HashSet<ValueId>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// From here on [`GraphBuilder::matrix`] declares weights that stay in `dtype` (bf16, f16 or
    /// f32): half the memory, and no copy of a mapped file. Arithmetic stays f32.
    pub fn keep_matrices_in(&mut self, dtype: DType) {
        self.matrices = Some(dtype);
    }

    /// Continues an existing graph.
    pub fn from_graph(graph: Graph) -> Self {
        let leaves = graph.inputs().chain(graph.params()).map(|(n, v)| (n.to_owned(), v)).collect();
        GraphBuilder { graph, leaves, ..Self::default() }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph with its outputs, as built.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// From here on differentiation takes `v` for a constant, whatever it was computed from.
    pub fn hold_constant(&mut self, v: ValueId) {
        self.constants.insert(v);
    }

    /// Whether differentiation takes `v` for a constant.
    pub fn is_held_constant(&self, v: ValueId) -> bool {
        self.constants.contains(&v)
    }

    /// Runs `f` with `name` (one or more dotted parts) appended to the path.
    pub fn scope<R>(&mut self, name: impl Into<String>, f: impl FnOnce(&mut Self) -> R) -> R {
        self.scope.push(name.into());
        let result = f(self);
        self.scope.pop();
        result
    }

    /// The current path, dotted.
    pub fn path(&self) -> String {
        self.scope.iter().filter(|s| !s.is_empty()).map(String::as_str).collect::<Vec<_>>().join(".")
    }

    /// `name` under the current path.
    pub fn key(&self, name: &str) -> String {
        let path = self.path();
        if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
    }

    /// An error at the current path, blamed on `op`.
    pub fn error(&self, op: &str, message: impl Into<String>) -> Error {
        Error::Graph { path: self.path(), op: op.to_owned(), message: message.into() }
    }

    fn value(&mut self, ty: TensorType, origin: Origin) -> ValueId {
        self.graph.values.push(Value { ty, origin });
        ValueId((self.graph.values.len() - 1) as u32)
    }

    fn leaf(&mut self, name: String, ty: TensorType, origin: Origin) -> Result<ValueId> {
        if let Some(&old) = self.leaves.get(&name) {
            let was = self.graph.ty(old).clone();
            let same_kind = std::mem::discriminant(&self.graph.values[old.index()].origin)
                == std::mem::discriminant(&origin);
            if was == ty && same_kind {
                return Ok(old); // shared weights: the same key asked for twice
            }
            return Err(self.error("leaf", format!("\"{name}\" is asked for as {ty}, but already is {was}")));
        }
        let v = self.value(ty, origin);
        self.leaves.insert(name, v);
        Ok(v)
    }

    /// A value given at each run. Input names are not scoped.
    pub fn input(&mut self, name: &str, dtype: DType, shape: impl Into<Vec<usize>>) -> Result<ValueId> {
        self.leaf(name.to_owned(), TensorType::new(dtype, shape), Origin::Input(name.to_owned()))
    }

    /// A weight in f32 under the current path; asking again for the same key gives the same value.
    pub fn param(&mut self, name: &str, shape: impl Into<Vec<usize>>) -> Result<ValueId> {
        self.param_as(name, DType::F32, shape)
    }

    /// A weight that stays in `dtype` when bound.
    pub fn param_as(&mut self, name: &str, dtype: DType, shape: impl Into<Vec<usize>>) -> Result<ValueId> {
        let key = self.key(name);
        self.leaf(key.clone(), TensorType::new(dtype, shape), Origin::Param(key))
    }

    /// A weight of a product, a convolution or an embedding: f32, or the dtype that
    /// [`GraphBuilder::keep_matrices_in`] chose.
    pub fn matrix(&mut self, name: &str, shape: impl Into<Vec<usize>>) -> Result<ValueId> {
        self.param_as(name, self.matrices.unwrap_or(DType::F32), shape)
    }

    /// Numbers known now.
    pub fn constant(&mut self, tensor: HostTensor) -> ValueId {
        let ty = TensorType::new(tensor.dtype(), tensor.shape());
        self.value(ty, Origin::Const(tensor))
    }

    /// A constant f32 scalar (shape `[]`), which broadcasts against anything.
    pub fn scalar(&mut self, x: f32) -> ValueId {
        self.constant(HostTensor::from_f32([], vec![x]))
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &TensorType {
        self.graph.ty(v)
    }

    /// The shape of a value.
    pub fn shape(&self, v: ValueId) -> &[usize] {
        &self.graph.ty(v).shape
    }

    /// The shape of a value that must have `N` axes; `what` names it in the error.
    pub fn dims<const N: usize>(&self, v: ValueId, what: &str) -> Result<[usize; N]> {
        self.shape(v)
            .try_into()
            .map_err(|_| self.error(what, format!("expected {N} axes, found {}", self.graph.ty(v))))
    }

    /// Adds a node; its results are typed by the op, which may refuse.
    pub fn node(&mut self, op: impl Op, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        self.node_dyn(Arc::new(op), inputs)
    }

    /// Adds a node of an op that is already shared.
    pub fn node_dyn(&mut self, op: Arc<dyn Op>, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let types: Vec<_> = inputs.iter().map(|&v| self.graph.ty(v)).collect();
        let types = op.infer(&types).map_err(|m| self.error(op.name(), m))?;
        let node = NodeId(self.graph.nodes.len() as u32);
        let outputs: Vec<_> = types
            .into_iter()
            .enumerate()
            .map(|(index, ty)| self.value(ty, Origin::Node { node, index }))
            .collect();
        let path = Arc::from(self.path());
        self.graph.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), path });
        Ok(outputs)
    }

    /// Adds a node of an op with exactly one result.
    pub fn node1(&mut self, op: impl Op, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.node(op, inputs)?[0])
    }

    /// Names a result of the graph.
    pub fn output(&mut self, name: &str, v: ValueId) {
        self.graph.outputs.push((name.to_owned(), v));
    }
}
