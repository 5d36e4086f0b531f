//! The plan: steps with resolved operands over one arena.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use super::memory::{self, Request};
use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::cuda::Storage;
use crate::graph::ir::{Graph, Origin, TensorType, ValueId};
use crate::graph::layout::Layout;
use crate::graph::op::{Cost, Op};
use crate::tensor::DType;

/// The memory behind an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An arena buffer.
    Arena(usize),
    /// A leaf value (graph input, parameter or constant) in its own host tensor.
    Leaf(ValueId),
}

/// A tensor as a step sees it: which memory, and how it lies there.
#[derive(Clone, Debug)]
pub struct Place {
    /// Shape, and the element type in memory.
    pub ty: TensorType,
    /// The memory.
    pub source: Source,
    /// Strides and offset within it.
    pub layout: Layout,
}

/// One launch.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is run; `None` copies the operand into dense memory, in the result's element type.
    pub op: Option<Arc<dyn Op>>,
    /// Operands.
    pub inputs: Vec<Place>,
    /// Results, always dense arena buffers; behind the op's own, result 0 in another element type where a later
    /// step reads it so ([`Op::cuda_also`]).
    pub outputs: Vec<Place>,
    /// An operand that shares memory with output 0.
    pub in_place: Option<usize>,
    /// Arena buffer of the op's working memory.
    pub scratch: Option<usize>,
    /// Path of the node in the model.
    pub path: Arc<str>,
    /// Work of the node.
    pub cost: Cost,
}

impl Step {
    /// The op's name, or `copy` or `cast`.
    pub fn name(&self) -> &'static str {
        let copy = || if self.inputs[0].ty.dtype == self.outputs[0].ty.dtype { "copy" } else { "cast" };
        self.op.as_ref().map_or_else(copy, |op| op.name())
    }
}

/// A buffer of the arena.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Bytes.
    pub size: usize,
    /// Offset in the arena; buffers that share memory in place have the same one.
    pub offset: usize,
}

/// A named result that is read as soon as it is there; its memory may hold something else afterwards.
#[derive(Clone, Debug)]
pub struct EarlyOutput {
    /// Its name among the graph's outputs.
    pub name: String,
    /// How many steps are over when it is there, and none more.
    pub after: usize,
    /// Where it then is, dense.
    pub place: Place,
}

/// What to run, in which order, where everything lies.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The graph after all passes.
    pub graph: Graph,
    /// Launches in order.
    pub steps: Vec<Step>,
    /// Arena buffers.
    pub buffers: Vec<Buffer>,
    /// Size of the arena in bytes: peak working memory.
    pub arena_bytes: usize,
    /// Where the graph's outputs are when the last step is done.
    pub outputs: Vec<(String, Place)>,
    /// Outputs that [`Plan::with_early`] takes out of `outputs`, in the order in which they come.
    pub early: Vec<EarlyOutput>,
    /// What the plan is for.
    pub target: Target,
    /// Element types of leaves in memory, where they are not the graph's.
    pub leaf_types: HashMap<ValueId, DType>,
}

struct Planner<'g> {
    graph: &'g Graph,
    steps: Vec<Step>,
    sizes: Vec<Request>,
    /// Buffer whose memory this one takes over in place.
    taken_from: Vec<Option<usize>>,
    places: Vec<Option<Place>>,
    /// Values that have ever lain in each buffer.
    holders: Vec<Vec<ValueId>>,
    /// Steps after which a value is no longer needed, counted in nodes.
    last_use: Vec<usize>,
    target: Target,
    leaf_types: HashMap<ValueId, DType>,
    /// Copies of values in other element types.
    converted: HashMap<(ValueId, DType), Place>,
    /// The steps that compute values as their result 0.
    made_by: HashMap<ValueId, usize>,
    early: Vec<EarlyOutput>,
}

impl Plan {
    /// Plans a graph for a device: a [`Target`], or the number of threads of a CPU.
    pub fn new(graph: Graph, target: impl Into<Target>) -> Result<Plan> {
        Self::with_early(graph, target, |_| false)
    }

    /// As [`Plan::new`]; graph outputs whose names `early` picks are to be read at once when they are computed
    /// (gradients, which are added up elsewhere), and keep no memory until the end.
    pub fn with_early(graph: Graph, target: impl Into<Target>, early: impl Fn(&str) -> bool) -> Result<Plan> {
        let mut last_use = vec![0; graph.values.len()];
        for (i, n) in graph.nodes.iter().enumerate() {
            for v in &n.inputs {
                last_use[v.index()] = i;
            }
        }
        let (early, late): (Vec<_>, Vec<_>) =
            graph.outputs.iter().cloned().partition(|(name, _)| early(name));
        for (_, v) in &late {
            last_use[v.index()] = usize::MAX;
        }
        let mut p = Planner {
            graph: &graph,
            early: Vec::with_capacity(early.len()),
            steps: Vec::new(),
            sizes: Vec::new(),
            taken_from: Vec::new(),
            places: vec![None; graph.values.len()],
            holders: Vec::new(),
            last_use,
            target: target.into(),
            leaf_types: HashMap::new(),
            converted: HashMap::new(),
            made_by: HashMap::new(),
        };
        p.leaf_storage();
        p.leaves();
        let mut ready: HashMap<ValueId, Vec<String>> = HashMap::new();
        for (name, v) in early {
            ready.entry(v).or_default().push(name);
        }
        for (i, value) in graph.values.iter().enumerate() {
            if !matches!(value.origin, Origin::Node { .. }) {
                p.hand_over(ValueId(i as u32), &mut ready);
            }
        }
        for (i, node) in graph.nodes.iter().enumerate() {
            p.node(i)?;
            node.outputs.iter().for_each(|&v| p.hand_over(v, &mut ready));
        }
        let outputs = p.outputs(&late);
        let early = std::mem::take(&mut p.early);
        let (target, leaf_types) = (p.target, std::mem::take(&mut p.leaf_types));
        let (steps, buffers, arena_bytes) = p.place();
        Ok(Plan { steps, buffers, arena_bytes, outputs, early, target, leaf_types, graph })
    }

    /// Bytes of all parameters in the element types that the plan keeps them in.
    pub fn param_bytes(&self) -> usize {
        self.graph.params().map(|(_, v)| self.graph.ty(v).len() * self.leaf_dtype(v).size()).sum()
    }

    /// The element type that a leaf is kept in.
    pub fn leaf_dtype(&self, v: ValueId) -> DType {
        self.leaf_types.get(&v).copied().unwrap_or(self.graph.ty(v).dtype)
    }

    /// Sum of all steps.
    pub fn cost(&self) -> Cost {
        self.steps.iter().map(|s| s.cost).sum()
    }

    /// One line a step: op, result, buffer and offset, path, and why memory is shared or copied; on a CUDA
    /// target the kernels that it launches, too, and the library that can take their place (which of both runs
    /// is measured on the device; `--verbose` tells).
    pub fn explain(&self) -> String {
        let (launches, libraries) = (self.cuda_launches(), self.library_calls());
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} steps, {} buffers, arena {} bytes, parameters {} bytes",
            self.steps.len(),
            self.buffers.len(),
            self.arena_bytes,
            self.param_bytes()
        );
        if let (Target::Cuda { compute, .. }, Ok(launches)) = (self.target, &launches) {
            let count = launches.iter().map(Vec::len).sum::<usize>();
            let _ = writeln!(out, "{count} launches, compute type {compute}");
        }
        for (i, s) in self.steps.iter().enumerate() {
            let _ = write!(out, "{i:5} {:<20}", s.name());
            for o in &s.outputs {
                if let Source::Arena(b) = o.source {
                    let _ = write!(out, " {} @{}", o.ty, self.buffers[b].offset);
                }
            }
            match (s.in_place, &s.op) {
                (Some(k), _) => _ = write!(out, " in place of operand {k}"),
                (None, None) => _ = write!(out, " (the next op reads only dense memory of its own type)"),
                _ => {}
            }
            if let Ok(launches) = &launches {
                launches[i].iter().for_each(|l| _ = write!(out, " [{} {:?}]", l.kernel, l.grid));
            }
            if let Some(call) = &libraries[i] {
                let _ = write!(out, " or {}", call.library());
            }
            let _ = writeln!(out, "  {}", s.path);
        }
        if let Err(e) = launches {
            let _ = writeln!(out, "no launches: {e}");
        }
        out
    }
}

impl Planner<'_> {
    fn leaves(&mut self) {
        for (i, v) in self.graph.values.iter().enumerate() {
            if !matches!(v.origin, Origin::Node { .. }) {
                let layout = Layout::dense(&v.ty.shape);
                let id = ValueId(i as u32);
                let dtype = self.leaf_types.get(&id).copied().unwrap_or(v.ty.dtype);
                let ty = TensorType { dtype, ..v.ty.clone() };
                self.places[i] = Some(Place { ty, source: Source::Leaf(id), layout });
            }
        }
    }

    fn buffer(&mut self, size: usize) -> usize {
        let step = self.steps.len();
        self.sizes.push(Request { size, first: step, last: step });
        self.taken_from.push(None);
        self.holders.push(Vec::new());
        self.sizes.len() - 1
    }

    fn touch(&mut self, source: Source) {
        if let Source::Arena(b) = source {
            self.sizes[b].last = self.sizes[b].last.max(self.steps.len());
        }
    }

    fn set_place(&mut self, v: ValueId, place: Place) {
        if let Source::Arena(b) = place.source {
            self.holders[b].push(v);
        }
        self.places[v.index()] = Some(place);
    }

    fn place_of(&self, v: ValueId) -> &Place {
        self.places[v.index()].as_ref().expect("operands come before their users")
    }

    /// Adds a step that makes `place` dense, in this element type.
    fn copy(&mut self, place: Place, dtype: DType, path: &Arc<str>) -> Place {
        self.touch(place.source);
        let ty = TensorType { dtype, ..place.ty.clone() };
        let b = self.buffer(ty.bytes());
        let bytes = (place.ty.bytes() + ty.bytes()) as f64;
        let out = Place { layout: Layout::dense(&ty.shape), source: Source::Arena(b), ty };
        self.steps.push(Step {
            op: None,
            inputs: vec![place],
            outputs: vec![out.clone()],
            in_place: None,
            scratch: None,
            path: path.clone(),
            cost: Cost { flops: 0.0, bytes },
        });
        out
    }

    /// Lets the step that computes `v` write it in this element type as well, if it can.
    fn twin(&mut self, v: ValueId, dtype: DType) -> Option<Place> {
        let at = *self.made_by.get(&v)?;
        let step = &self.steps[at];
        fn types(places: &[Place]) -> Vec<&TensorType> {
            places.iter().map(|p| &p.ty).collect()
        }
        let op = step.op.as_ref()?;
        if !op.cuda_also(&types(&step.inputs), &types(&step.outputs), dtype) {
            return None;
        }
        let ty = TensorType { dtype, ..step.outputs[0].ty.clone() };
        let b = self.buffer(ty.bytes());
        self.sizes[b].first = at;
        let step = &mut self.steps[at];
        step.cost.bytes += ty.bytes() as f64;
        let place = Place { layout: Layout::dense(&ty.shape), source: Source::Arena(b), ty };
        step.outputs.push(place.clone());
        self.made_by.remove(&v); // one twin is all that is asked for: a plan has one compute type
        Some(place)
    }

    fn node(&mut self, i: usize) -> Result<()> {
        let graph = self.graph;
        let node = &graph.nodes[i];
        if node.op.is_view() {
            let operand = self.place_of(node.inputs[0]).clone();
            let (operand, layout) = match node.op.view(&operand.layout) {
                Some(layout) => (operand, layout),
                None => {
                    let dtype = operand.ty.dtype;
                    let dense = self.copy(operand, dtype, &node.path);
                    let layout = node.op.view(&dense.layout).ok_or_else(|| Error::Graph {
                        path: node.path.to_string(),
                        op: node.op.name().to_owned(),
                        message: "cannot view a dense operand".into(),
                    })?;
                    (dense, layout)
                }
            };
            let out = node.outputs[0];
            let ty = TensorType { dtype: operand.ty.dtype, ..graph.ty(out).clone() };
            self.set_place(out, Place { ty, source: operand.source, layout });
            return Ok(());
        }
        let storage = self.storage(i, |v| self.place_of(v).ty.dtype);
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (k, &v) in node.inputs.iter().enumerate() {
            let mut place = self.place_of(v).clone();
            let dtype = storage.inputs[k];
            let accepted = match self.target {
                Target::Cpu { .. } => node.op.accepts(k, &place.layout),
                Target::Cuda { .. } => node.op.cuda_accepts(k, &place.layout),
            };
            if place.ty.dtype != dtype {
                // Others that read the value in this type share the conversion; the value itself stays.
                place = match self.converted.get(&(v, dtype)) {
                    Some(found) => found.clone(),
                    None => {
                        let twin = self.twin(v, dtype);
                        let made = twin.unwrap_or_else(|| self.copy(place, dtype, &node.path));
                        self.converted.insert((v, dtype), made.clone());
                        made
                    }
                };
            } else if !accepted {
                place = self.copy(place, dtype, &node.path);
                // Later users profit from the dense copy too.
                self.set_place(v, place.clone());
            }
            inputs.push(place);
        }
        let in_place = self.in_place_operand(i, &inputs, &storage);
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for (k, &v) in node.outputs.iter().enumerate() {
            let ty = TensorType { dtype: storage.outputs[k], ..graph.ty(v).clone() };
            let b = self.buffer(ty.bytes());
            if k == 0
                && let Some(operand) = in_place
                && let Source::Arena(from) = inputs[operand].source
            {
                self.taken_from[b] = Some(from);
            }
            let layout = Layout::dense(&ty.shape);
            let place = Place { ty, source: Source::Arena(b), layout };
            self.set_place(v, place.clone());
            outputs.push(place);
        }
        let types = |places: &[Place]| places.iter().map(|p| p.ty.clone()).collect::<Vec<_>>();
        let (it, ot) = (types(&inputs), types(&outputs));
        let (it, ot): (Vec<_>, Vec<_>) = (it.iter().collect(), ot.iter().collect());
        let scratch = match self.target {
            Target::Cpu { threads } => node.op.cpu_scratch(&it, &ot, threads),
            Target::Cuda { .. } => node.op.cuda_scratch(&it, &ot),
        };
        let scratch = (scratch > 0).then(|| self.buffer(scratch));
        for p in &inputs {
            self.touch(p.source);
        }
        if let (Target::Cuda { .. }, Some(&v)) = (self.target, node.outputs.first()) {
            self.made_by.insert(v, self.steps.len());
        }
        self.steps.push(Step {
            op: Some(node.op.clone()),
            in_place,
            scratch,
            path: node.path.clone(),
            cost: self.cost(i, &it, &ot),
            inputs,
            outputs,
        });
        Ok(())
    }

    /// What node `i` wants its operands kept in and gives its results in, given what they are kept in.
    fn storage(&self, i: usize, kept: impl Fn(ValueId) -> DType) -> Storage {
        let node = &self.graph.nodes[i];
        let types = |values: &[ValueId]| values.iter().map(|&v| self.graph.ty(v)).collect::<Vec<_>>();
        let (inputs, outputs) = (types(&node.inputs), types(&node.outputs));
        match self.target {
            Target::Cpu { .. } => Storage::of_graph(&inputs, &outputs),
            Target::Cuda { compute, .. } => {
                let kept: Vec<_> = node.inputs.iter().map(|&v| kept(v)).collect();
                node.op.cuda_storage(&inputs, &outputs, &kept, compute)
            }
        }
    }

    /// Leaves are kept as the first op that reads them wants them, views apart: a weight is rounded once,
    /// when it is bound, an input that stays the same from run to run when it is first given.
    fn leaf_storage(&mut self) {
        let graph = self.graph;
        for (i, node) in graph.nodes.iter().enumerate().filter(|(_, n)| !n.op.is_view()) {
            let storage = self.storage(i, |v| graph.ty(v).dtype);
            for (&v, &dtype) in node.inputs.iter().zip(&storage.inputs) {
                let mut root = v;
                while let Some(view) = graph.producer(root).filter(|n| n.op.is_view()) {
                    root = view.inputs[0];
                }
                let leaf = &graph.values[root.index()];
                if !matches!(leaf.origin, Origin::Node { .. }) && leaf.ty.dtype.is_float() {
                    self.leaf_types.entry(root).or_insert(dtype);
                }
            }
        }
    }

    /// Work of node `i`: operations by the graph's types, bytes by those in memory.
    fn cost(&self, i: usize, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let graph = self.graph;
        let types = |values: &[ValueId]| values.iter().map(|&v| graph.ty(v)).collect::<Vec<_>>();
        let cost = graph.nodes[i].op.cost(&types(&graph.nodes[i].inputs), &types(&graph.nodes[i].outputs));
        match self.target {
            Target::Cpu { .. } => cost,
            Target::Cuda { .. } => Cost { bytes: Cost::dense(0.0, inputs, outputs).bytes, ..cost },
        }
    }

    /// An operand whose memory dies here, is dense, whole and of the result's size, and that the
    /// op may overwrite.
    fn in_place_operand(&self, i: usize, inputs: &[Place], storage: &Storage) -> Option<usize> {
        let node = &self.graph.nodes[i];
        let out = TensorType { dtype: storage.outputs[0], ..self.graph.ty(*node.outputs.first()?).clone() };
        (0..inputs.len()).find(|&k| {
            let p = &inputs[k];
            let Source::Arena(b) = p.source else { return false };
            let allowed = match self.target {
                Target::Cpu { .. } => node.op.in_place(k),
                Target::Cuda { .. } => node.op.cuda_in_place(k),
            };
            allowed
                && p.ty == out
                && p.layout.is_dense()
                && p.layout.offset == 0
                && self.sizes[b].size == out.bytes()
                && inputs.iter().filter(|q| q.source == p.source).count() == 1
                && self.dies_at(b, i)
        })
    }

    /// Whether no value held in buffer `b` is used after node `i`.
    fn dies_at(&self, b: usize, i: usize) -> bool {
        let values = self.holders[b].iter().all(|&v| {
            let moved = self.place_of(v).source != Source::Arena(b);
            moved || self.last_use[v.index()] <= i
        });
        let copies = |(&(v, _), place): (&(ValueId, DType), &Place)| {
            place.source != Source::Arena(b) || self.last_use[v.index()] <= i
        };
        values && self.converted.iter().all(copies)
    }

    /// The place of an output, dense.
    fn output(&mut self, name: &str, v: ValueId) -> Place {
        let place = self.place_of(v).clone();
        if place.layout.is_dense() {
            return place;
        }
        let dtype = place.ty.dtype;
        self.copy(place, dtype, &Arc::from(format!("output {name}")))
    }

    /// Lets early outputs that are `v` be read now. Their memory is kept through the step that was added last.
    fn hand_over(&mut self, v: ValueId, ready: &mut HashMap<ValueId, Vec<String>>) {
        for name in ready.remove(&v).unwrap_or_default() {
            let place = self.output(&name, v);
            let after = self.steps.len();
            if let Source::Arena(b) = place.source {
                self.sizes[b].last = self.sizes[b].last.max(after.saturating_sub(1));
            }
            self.early.push(EarlyOutput { name, after, place });
        }
    }

    fn outputs(&mut self, named: &[(String, ValueId)]) -> Vec<(String, Place)> {
        let mut outputs = Vec::new();
        for (name, v) in named {
            let place = self.output(name, *v);
            self.touch(place.source);
            outputs.push((name.clone(), place));
        }
        // Outputs are read after the last step.
        let end = self.steps.len();
        for (_, place) in &outputs {
            if let Source::Arena(b) = place.source {
                self.sizes[b].last = end;
            }
        }
        outputs
    }

    /// Gives chains of in-place buffers one lifetime and every chain an offset.
    fn place(self) -> (Vec<Step>, Vec<Buffer>, usize) {
        let mut root: Vec<usize> = (0..self.sizes.len()).collect();
        for b in 0..root.len() {
            if let Some(from) = self.taken_from[b] {
                root[b] = root[from]; // `from` was made earlier, so its root is final
            }
        }
        let mut requests: Vec<Option<Request>> = vec![None; root.len()];
        for (b, r) in self.sizes.iter().enumerate() {
            let slot = &mut requests[root[b]];
            *slot = Some(match *slot {
                None => *r,
                Some(o) => Request {
                    size: o.size.max(r.size),
                    first: o.first.min(r.first),
                    last: o.last.max(r.last),
                },
            });
        }
        let ids: Vec<usize> = (0..root.len()).filter(|&b| root[b] == b).collect();
        let list: Vec<Request> = ids.iter().map(|&b| requests[b].expect("a root has a request")).collect();
        let assignment = memory::assign(&list, self.target.align());
        let mut offset = vec![0; root.len()];
        for (k, &b) in ids.iter().enumerate() {
            offset[b] = assignment.offsets[k];
        }
        let buffers =
            (0..root.len()).map(|b| Buffer { size: self.sizes[b].size, offset: offset[root[b]] }).collect();
        (self.steps, buffers, assignment.size)
    }
}
