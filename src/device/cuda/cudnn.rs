//! Convolutions by cuDNN, through its graph API: convolution, bias, activation and residual in one kernel.
//!
//! A call becomes an operation graph; the library's heuristic lists configurations of its engines for it, and
//! one that may be used becomes an execution plan. Tensors are described in the order N, C, H, W with the
//! strides of NHWC.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t, cudnnBackendNumericalNote_t as Note,
    cudnnConvolutionMode_t, cudnnDataType_t, cudnnPointwiseMode_t as Pointwise,
};

use super::dynamic::{self, functions};
use super::tune::Library;
use crate::device::library::{Activation, Conv, LibraryCall, Picture, PreparedCall, alignment};
use crate::tensor::DType;

/// The oldest version that is known to fuse what we ask for: 9.0.
const OLDEST: usize = 90_000;

type Status = u32;
type Handle = *mut c_void;

functions!(Functions {
    fn cudnnGetVersion() -> usize;
    fn cudnnCreate(*mut Handle) -> Status;
    fn cudnnSetStream(Handle, *mut c_void) -> Status;
    fn cudnnBackendCreateDescriptor(u32, *mut Handle) -> Status;
    fn cudnnBackendDestroyDescriptor(Handle) -> Status;
    fn cudnnBackendSetAttribute(Handle, u32, u32, i64, *const c_void) -> Status;
    fn cudnnBackendGetAttribute(Handle, u32, u32, i64, *mut i64, *mut c_void) -> Status;
    fn cudnnBackendFinalize(Handle) -> Status;
    fn cudnnBackendExecute(Handle, Handle, Handle) -> Status;
});

/// The status as a result.
fn check(what: &str, status: Status) -> Result<(), String> {
    match status {
        0 => Ok(()),
        3000..=3999 => Err(format!("{what}: not supported for these extents and types (status {status})")),
        n => Err(format!("{what}: status {n}")),
    }
}

/// The library with a handle for one device, kept for good as [`super::cublaslt::CublasLt`] is.
pub(super) struct Cudnn {
    f: Functions,
    handle: Handle,
    version: usize,
    /// Address of working memory, and its size.
    workspace: (u64, usize),
    /// Execution plans by description and algorithm: some are compiled when they are made.
    plans: Mutex<HashMap<(String, String), Arc<ExecutionPlan>>>,
}

// SAFETY: the handle and descriptors may be used from any thread, one at a time: the device calls in here
// under its lock.
unsafe impl Send for Cudnn {}
// SAFETY: as above.
unsafe impl Sync for Cudnn {}

/// A descriptor of the backend.
struct Descriptor {
    library: &'static Cudnn,
    raw: Handle,
}

// SAFETY: as for `Cudnn`.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `Cudnn::descriptor`, destroyed once.
        unsafe { (self.library.f.cudnnBackendDestroyDescriptor)(self.raw) };
    }
}

impl Descriptor {
    fn set<T>(self, name: Name, kind: Type, values: &[T]) -> Result<Self, String> {
        // SAFETY: copies so many values of that type.
        let status = unsafe {
            (self.library.f.cudnnBackendSetAttribute)(
                self.raw,
                name as u32,
                kind as u32,
                values.len() as i64,
                values.as_ptr().cast(),
            )
        };
        check(&format!("{name:?}"), status)?;
        Ok(self)
    }

    fn numbers(self, name: Name, values: &[usize]) -> Result<Self, String> {
        self.set(name, Type::CUDNN_TYPE_INT64, &values.iter().map(|&v| v as i64).collect::<Vec<_>>())
    }

    fn floats(self, name: Name, value: f32) -> Result<Self, String> {
        self.set(name, Type::CUDNN_TYPE_FLOAT, &[value])
    }

    fn data_type(self, name: Name, dtype: DType) -> Result<Self, String> {
        self.set(name, Type::CUDNN_TYPE_DATA_TYPE, &[data_type(dtype)])
    }

    fn descriptors(self, name: Name, others: &[&Descriptor]) -> Result<Self, String> {
        let raw: Vec<_> = others.iter().map(|d| d.raw).collect();
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw)
    }

    fn handle(self, name: Name) -> Result<Self, String> {
        let handle = self.library.handle;
        self.set(name, Type::CUDNN_TYPE_HANDLE, &[handle])
    }

    fn finish(self, what: &str) -> Result<Self, String> {
        // SAFETY: a live descriptor.
        check(what, unsafe { (self.library.f.cudnnBackendFinalize)(self.raw) })?;
        Ok(self)
    }

    /// Up to `values.len()` values of an attribute; how many there are.
    fn get<T>(&self, name: Name, kind: Type, values: &mut [T]) -> Result<usize, String> {
        let mut count = 0;
        // SAFETY: there is room for so many values of that type.
        let status = unsafe {
            (self.library.f.cudnnBackendGetAttribute)(
                self.raw,
                name as u32,
                kind as u32,
                values.len() as i64,
                &mut count,
                values.as_mut_ptr().cast(),
            )
        };
        check(&format!("{name:?}"), status)?;
        Ok((count.max(0) as usize).min(values.len()))
    }
}

/// A call in the library's words.
struct OperationGraph {
    graph: Descriptor,
    /// What the graph refers to.
    _parts: Vec<Descriptor>,
}

/// Numbers of tensors.
const X: i64 = 1;
const W: i64 = 2;
const Y: i64 = 3;
const BIAS: i64 = 4;
const RESIDUAL: i64 = 5;
/// The first of those in registers.
const BETWEEN: i64 = 16;

/// Where the tensors of a call are.
fn addresses(call: &Conv) -> (Vec<i64>, Vec<u64>) {
    let always = [(X, call.x.address), (W, call.weight.address), (Y, call.y.address)];
    let bias = call.bias.as_ref().map(|b| (BIAS, b.address));
    always.into_iter().chain(bias).chain(call.residual.map(|r| (RESIDUAL, r))).unzip()
}

/// A configuration of an engine that is ready to run, for any addresses of the same alignment.
struct ExecutionPlan {
    plan: Descriptor,
    _graph: OperationGraph,
    _config: Descriptor,
}

impl Cudnn {
    /// The library's functions and version.
    fn find() -> Result<(Functions, usize), String> {
        let library = dynamic::open(&dynamic::names("cudnn", 9..=9))?;
        // SAFETY: the signatures are those of cudnn_graph.h, which have not changed since 9.0.
        let f = unsafe { Functions::of(library) }?;
        // SAFETY: takes nothing.
        let version = unsafe { (f.cudnnGetVersion)() };
        if version < OLDEST {
            return Err(format!("version {version} is too old, {OLDEST} (9.0) or later is needed"));
        }
        Ok((f, version))
    }

    /// The version that would be used, or why there is none.
    pub fn found() -> Result<usize, String> {
        Self::find().map(|(_, version)| version)
    }

    /// Opens the library; the device's context must be current.
    pub fn open(workspace: (u64, usize)) -> Result<&'static Self, String> {
        let (f, version) = Self::find()?;
        let mut handle = null_mut();
        // SAFETY: writes a handle.
        check("cudnnCreate", unsafe { (f.cudnnCreate)(&mut handle) })?;
        Ok(Box::leak(Box::new(Cudnn { f, handle, version, workspace, plans: Mutex::default() })))
    }

    fn descriptor(&'static self, kind: Kind) -> Result<Descriptor, String> {
        let mut raw = null_mut();
        // SAFETY: writes a handle.
        check(&format!("{kind:?}"), unsafe { (self.f.cudnnBackendCreateDescriptor)(kind as u32, &mut raw) })?;
        Ok(Descriptor { library: self, raw })
    }

    fn tensor(
        &'static self,
        id: i64,
        dtype: DType,
        extents: [usize; 4],
        strides: [usize; 4],
        address: Option<u64>,
    ) -> Result<Descriptor, String> {
        let mut tensor = self
            .descriptor(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .data_type(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, dtype)?
            .numbers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &extents)?
            .numbers(Name::CUDNN_ATTR_TENSOR_STRIDES, &strides)?
            .set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Type::CUDNN_TYPE_INT64, &[id])?
            .numbers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[address.map_or(16, alignment) as usize])?;
        if address.is_none() {
            // Between two operations, in registers.
            tensor = tensor.set(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, Type::CUDNN_TYPE_BOOLEAN, &[true])?;
        }
        tensor.finish("a tensor")
    }

    fn picture(&'static self, id: i64, p: &Picture) -> Result<Descriptor, String> {
        let [batch, height, width, channels] = p.shape;
        let strides = [height * width * p.step, 1, width * p.step, p.step];
        self.tensor(id, p.dtype, [batch, channels, height, width], strides, Some(p.address))
    }

    /// `y = f(x)` or `y = f(x, b)`, element for element.
    fn pointwise(
        &'static self,
        (mode, slope): (Pointwise, Option<f32>),
        [x, y]: [&Descriptor; 2],
        b: Option<&Descriptor>,
        parts: &mut Vec<Descriptor>,
    ) -> Result<Descriptor, String> {
        let mut function = self
            .descriptor(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_POINTWISE_MODE, Type::CUDNN_TYPE_POINTWISE_MODE, &[mode as u32])?
            .data_type(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, DType::F32)?;
        if let Some(slope) = slope {
            let slope = [f64::from(slope)];
            let name = Name::CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP_SLOPE;
            function = function.set(name, Type::CUDNN_TYPE_DOUBLE, &slope)?;
        }
        let function = function.finish("a function")?;
        let mut operation = self
            .descriptor(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?
            .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[&function])?
            .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[x])?
            .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[y])?;
        if let Some(b) = b {
            operation = operation.descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[b])?;
        }
        parts.push(function);
        operation.finish("an elementwise operation")
    }

    fn graph(&'static self, call: &Conv) -> Result<OperationGraph, String> {
        let mut parts = Vec::new();
        let x = self.picture(X, &call.x)?;
        let y = self.picture(Y, &call.y)?;
        let [n, channels, kh, kw] = call.weight_shape;
        let steps = [kh * kw * channels, 1, kw * channels, channels];
        let w = self.tensor(W, call.weight.dtype, call.weight_shape, steps, Some(call.weight.address))?;
        let [top, bottom, left, right] = call.pad;
        let convolution = self
            .descriptor(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
            .data_type(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, DType::F32)?
            .set(
                Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
                Type::CUDNN_TYPE_CONVOLUTION_MODE,
                &[cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION as u32],
            )?
            .numbers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?
            .numbers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &call.dilation)?
            .numbers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &call.stride)?
            .numbers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &[top, left])?
            .numbers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &[bottom, right])?
            .finish("a convolution")?;
        let mut operations = Vec::new();
        if call.gradient {
            use Name as A;
            operations.push(
                self.descriptor(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR)?
                    .descriptors(A::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, &[&convolution])?
                    .descriptors(A::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, &[&w])?
                    .descriptors(A::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, &[&x])?
                    .descriptors(A::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, &[&y])?
                    .floats(A::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, 1.0)?
                    .floats(A::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, 0.0)?
                    .finish("the gradient of a convolution")?,
            );
            parts.push(y);
        } else {
            // What is done to the result, in order: the function, its other operand.
            let mut then: Vec<(Function, Option<Descriptor>)> = Vec::new();
            if let Some(bias) = &call.bias {
                let b = self.tensor(BIAS, bias.dtype, [1, n, 1, 1], [n, 1, n, n], Some(bias.address))?;
                then.push(((Pointwise::CUDNN_POINTWISE_ADD, None), Some(b)));
            }
            if let Some(act) = call.act {
                then.push((function(act), None));
            }
            if let Some(residual) = call.residual {
                let r = self.picture(RESIDUAL, &Picture { address: residual, ..call.y })?;
                then.push(((Pointwise::CUDNN_POINTWISE_ADD, None), Some(r)));
            }
            let [batch, height, width, _] = call.y.shape;
            let strides = [height * width * n, 1, width * n, n];
            // Results of all but the last operation stay in registers, in f32; the last is y.
            let mut results = (0..then.len() as i64)
                .map(|i| self.tensor(BETWEEN + i, DType::F32, [batch, n, height, width], strides, None))
                .collect::<Result<Vec<_>, _>>()?;
            results.push(y);
            use Name as A;
            operations.push(
                self.descriptor(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?
                    .descriptors(A::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, &[&convolution])?
                    .descriptors(A::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, &[&w])?
                    .descriptors(A::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, &[&x])?
                    .descriptors(A::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, &[&results[0]])?
                    .floats(A::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.0)?
                    .floats(A::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, 0.0)?
                    .finish("a convolution")?,
            );
            for (i, (function, b)) in then.into_iter().enumerate() {
                let io = [&results[i], &results[i + 1]];
                operations.push(self.pointwise(function, io, b.as_ref(), &mut parts)?);
                parts.extend(b);
            }
            parts.extend(results);
        }
        let all: Vec<_> = operations.iter().collect();
        let graph = self
            .descriptor(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
            .handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE)?
            .descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &all)?
            .finish("an operation graph")?;
        parts.extend(operations);
        parts.extend([x, w, convolution]);
        Ok(OperationGraph { graph, _parts: parts })
    }

    /// What the heuristic proposes, its best guess first.
    fn configs(&'static self, graph: &OperationGraph, most: usize) -> Result<Vec<Descriptor>, String> {
        let heuristic = self
            .descriptor(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
            .descriptors(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&graph.graph])?
            .set(
                Name::CUDNN_ATTR_ENGINEHEUR_MODE,
                Type::CUDNN_TYPE_HEUR_MODE,
                &[cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A as u32],
            )?
            .finish("the heuristic")?;
        let room = (0..most)
            .map(|_| self.descriptor(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
            .collect::<Result<Vec<_>, _>>()?;
        let mut raw: Vec<_> = room.iter().map(|d| d.raw).collect();
        let (name, kind) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR);
        let found = heuristic.get(name, kind, &mut raw)?;
        Ok(room.into_iter().take(found).collect())
    }

    /// Whether an engine's numbers are as good as those of our kernels, and the same in every run.
    fn may_use(&'static self, config: &Descriptor, dtype: DType) -> Result<bool, String> {
        let engine = self.descriptor(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        let backend = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
        config.get(Name::CUDNN_ATTR_ENGINECFG_ENGINE, backend, &mut [engine.raw])?;
        let mut notes = [u32::MAX; 32];
        let kind = Type::CUDNN_TYPE_NUMERICAL_NOTE;
        let count = engine.get(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, kind, &mut notes)?;
        let never = [
            Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
            Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
            Note::CUDNN_NUMERICAL_NOTE_FFT,
            Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
            Note::CUDNN_NUMERICAL_NOTE_WINOGRAD,
        ];
        // Tensor cores cut f32 operands to tf32.
        let tf32 = (dtype == DType::F32).then_some(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
        Ok(!notes[..count].iter().any(|&n| never.into_iter().chain(tf32).any(|bad| bad as u32 == n)))
    }

    /// The plan of algorithm `index` of the heuristic's list.
    fn plan(&'static self, call: &Conv, index: usize) -> Result<ExecutionPlan, String> {
        let graph = self.graph(call)?;
        let config = self.configs(&graph, index + 1)?.into_iter().nth(index);
        let config = config.ok_or_else(|| format!("cuDNN does not propose an algorithm {index}"))?;
        if !self.may_use(&config, call.x.dtype)? {
            return Err(format!("algorithm {index} rounds more than ours, or differently each time"));
        }
        let plan = self
            .descriptor(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE)?
            .descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&config])?
            .finish("an execution plan")?;
        let mut bytes = [0i64];
        let name = Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE;
        plan.get(name, Type::CUDNN_TYPE_INT64, &mut bytes)?;
        if bytes[0] > self.workspace.1 as i64 {
            return Err(format!("algorithm {index} wants {} bytes of working memory", bytes[0]));
        }
        Ok(ExecutionPlan { plan, _graph: graph, _config: config })
    }
}

fn conv(call: &LibraryCall) -> Result<&Conv, String> {
    match call {
        LibraryCall::Conv(c) => Ok(c),
        LibraryCall::Matmul(_) => Err("cuDNN is asked for convolutions only".into()),
    }
}

impl Library for Cudnn {
    fn version(&self) -> usize {
        self.version
    }

    /// By their place in the heuristic's list. Which of them can be used shows when they are prepared.
    fn algorithms(&'static self, call: &LibraryCall, most: usize) -> Result<Vec<String>, String> {
        let graph = self.graph(conv(call)?)?;
        Ok((0..self.configs(&graph, most)?.len()).map(|i| i.to_string()).collect())
    }

    fn prepare(&'static self, call: &LibraryCall, algorithm: &str) -> Result<Arc<dyn PreparedCall>, String> {
        let c = conv(call)?;
        let index = algorithm.parse().map_err(|_| format!("\"{algorithm}\" is not an algorithm of cuDNN"))?;
        let key = (call.description(), algorithm.to_owned());
        let known = self.plans.lock().unwrap_or_else(|e| e.into_inner()).get(&key).cloned();
        let plan = match known {
            Some(plan) => plan,
            None => {
                let plan = Arc::new(self.plan(c, index)?);
                self.plans.lock().unwrap_or_else(|e| e.into_inner()).insert(key, plan.clone());
                plan
            }
        };
        let (ids, addresses) = addresses(c);
        let pack = self
            .descriptor(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Type::CUDNN_TYPE_INT64, &ids)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Type::CUDNN_TYPE_VOID_PTR, &addresses)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Type::CUDNN_TYPE_VOID_PTR, &[self.workspace.0])?
            .finish("the addresses of a convolution")?;
        Ok(Arc::new(PreparedConv { plan, pack }))
    }
}

/// Elements of this type, as cuDNN counts types.
fn data_type(dtype: DType) -> u32 {
    (match dtype {
        DType::F32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
        DType::BF16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        DType::F16 => cudnnDataType_t::CUDNN_DATA_HALF,
        other => unreachable!("no convolution of {other}"),
    }) as u32
}

/// A pointwise function, and its slope below zero where that is not the usual one.
type Function = (Pointwise, Option<f32>);

fn function(act: Activation) -> Function {
    match act {
        Activation::Relu => (Pointwise::CUDNN_POINTWISE_RELU_FWD, None),
        Activation::LeakyRelu(slope) => (Pointwise::CUDNN_POINTWISE_RELU_FWD, Some(slope)),
        Activation::Gelu => (Pointwise::CUDNN_POINTWISE_GELU_FWD, None),
        Activation::GeluTanh => (Pointwise::CUDNN_POINTWISE_GELU_APPROX_TANH_FWD, None),
        Activation::Silu => (Pointwise::CUDNN_POINTWISE_SWISH_FWD, None),
        Activation::Sigmoid => (Pointwise::CUDNN_POINTWISE_SIGMOID_FWD, None),
        Activation::Tanh => (Pointwise::CUDNN_POINTWISE_TANH_FWD, None),
    }
}

struct PreparedConv {
    plan: Arc<ExecutionPlan>,
    /// The call's addresses.
    pack: Descriptor,
}

impl PreparedCall for PreparedConv {
    unsafe fn start(&self, stream: *mut c_void) -> Result<(), String> {
        let library = self.pack.library;
        // SAFETY: the caller's promise.
        unsafe {
            check("cudnnSetStream", (library.f.cudnnSetStream)(library.handle, stream))?;
            let status = (library.f.cudnnBackendExecute)(library.handle, self.plan.plan.raw, self.pack.raw);
            check("cudnnBackendExecute", status)
        }
    }
}
