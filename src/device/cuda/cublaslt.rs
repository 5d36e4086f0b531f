//! Products by cuBLASLt.
//!
//! cuBLASLt counts matrices by columns. Rows of ours are columns of its transposes, so it is asked for
//! yᵀ = op(B)ᵀ·op(A)ᵀ: its first operand is our B, its second our A, and a bias of one value a column of y is
//! one value a row of yᵀ, as it wants it.

use std::ffi::c_void;
use std::ptr::{from_ref, null_mut};
use std::sync::Arc;

use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulAlgo_t, cublasLtMatmulDescAttributes_t as Desc,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayoutAttribute_t as LayoutOf,
    cublasLtReductionScheme_t, cudaDataType_t,
};

use super::dynamic::{self, functions};
use super::tune::Library;
use crate::device::library::{Activation, LibraryCall, Matmul, Matrix, PreparedCall, alignment};
use crate::tensor::DType;

/// The oldest version whose functions are those below: 12.0.
const OLDEST: usize = 120_000;
/// The newest major version that is looked for.
const NEWEST: u32 = 13;

type Status = u32;
type Handle = *mut c_void;

/// What a heuristic answers. (Not cudarc's: a status that it does not know must not become an enum.)
#[repr(C)]
#[derive(Clone, Copy)]
struct Guess {
    algorithm: cublasLtMatmulAlgo_t,
    workspace: usize,
    status: Status,
    waves: f32,
    reserved: [i32; 4],
}

functions!(Functions {
    fn cublasLtGetVersion() -> usize;
    fn cublasLtCreate(*mut Handle) -> Status;
    fn cublasLtMatmulDescCreate(*mut Handle, u32, u32) -> Status;
    fn cublasLtMatmulDescSetAttribute(Handle, u32, *const c_void, usize) -> Status;
    fn cublasLtMatmulDescDestroy(Handle) -> Status;
    fn cublasLtMatrixLayoutCreate(*mut Handle, u32, u64, u64, i64) -> Status;
    fn cublasLtMatrixLayoutSetAttribute(Handle, u32, *const c_void, usize) -> Status;
    fn cublasLtMatrixLayoutDestroy(Handle) -> Status;
    fn cublasLtMatmulPreferenceCreate(*mut Handle) -> Status;
    fn cublasLtMatmulPreferenceSetAttribute(Handle, u32, *const c_void, usize) -> Status;
    fn cublasLtMatmulPreferenceDestroy(Handle) -> Status;
    fn cublasLtMatmulAlgoGetHeuristic(
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, i32, *mut Guess, *mut i32,
    ) -> Status;
    fn cublasLtMatmulAlgoCheck(
        Handle, Handle, Handle, Handle, Handle, Handle, *const cublasLtMatmulAlgo_t, *mut Guess,
    ) -> Status;
    fn cublasLtMatmul(
        Handle, Handle, *const c_void, *const c_void, Handle, *const c_void, Handle, *const c_void,
        *const c_void, Handle, *mut c_void, Handle, *const cublasLtMatmulAlgo_t, *mut c_void, usize, *mut c_void,
    ) -> Status;
});

/// The status as a result.
fn check(what: &str, status: Status) -> Result<(), String> {
    match status {
        0 => Ok(()),
        1 => Err(format!("{what}: the library does not start on this driver (status 1)")),
        15 => Err(format!("{what}: not supported for these extents and types (status 15)")),
        n => Err(format!("{what}: status {n}")),
    }
}

/// The library with a handle for one device. Both are kept for good (see [`dynamic::open`]): launches of
/// plans outlive the device now and then, and there is one device a process.
pub(super) struct CublasLt {
    f: Functions,
    handle: Handle,
    version: usize,
    /// Address of working memory, and its size.
    workspace: (u64, usize),
}

// SAFETY: handles of cuBLASLt may be used from any thread, by several at once.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    /// The library's functions and version, for a driver of this major version.
    fn find(driver: u32) -> Result<(Functions, usize), String> {
        let library = dynamic::open(&dynamic::names("cublasLt", 12..=driver.clamp(12, NEWEST)))?;
        // SAFETY: the signatures are those of cublasLt.h, which have not changed since 12.0.
        let f = unsafe { Functions::of(library) }?;
        // SAFETY: takes nothing.
        let version = unsafe { (f.cublasLtGetVersion)() };
        if version < OLDEST {
            return Err(format!("version {version} is too old, {OLDEST} (12.0) or later is needed"));
        }
        Ok((f, version))
    }

    /// The version that would be used, or why there is none.
    pub fn found(driver: u32) -> Result<usize, String> {
        Self::find(driver).map(|(_, version)| version)
    }

    /// Opens the library for a driver of this major version; the device's context must be current.
    pub fn open(driver: u32, workspace: (u64, usize)) -> Result<&'static Self, String> {
        let (f, version) = Self::find(driver)?;
        let mut handle = null_mut();
        // SAFETY: writes a handle.
        check("cublasLtCreate", unsafe { (f.cublasLtCreate)(&mut handle) })?;
        Ok(Box::leak(Box::new(CublasLt { f, handle, version, workspace })))
    }

    fn problem(&'static self, call: &Matmul) -> Result<Problem, String> {
        let [f32_type, y_type] = [DType::F32, call.y_dtype].map(data_type);
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F as u32; // f32 operands are not cut to tf32
        let desc = Described::new(self.f.cublasLtMatmulDescDestroy, |to| {
            // SAFETY: writes a handle.
            check("cublasLtMatmulDescCreate", unsafe {
                (self.f.cublasLtMatmulDescCreate)(to, compute, f32_type)
            })
        })?;
        let set = |what: Desc, value: &[u8]| {
            // SAFETY: copies the value.
            check(&format!("{what:?}"), unsafe {
                (self.f.cublasLtMatmulDescSetAttribute)(
                    desc.raw,
                    what as u32,
                    value.as_ptr().cast(),
                    value.len(),
                )
            })
        };
        // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        set(Desc::CUBLASLT_MATMUL_DESC_TRANSA, &u32::from(call.b.transposed).to_ne_bytes())?;
        set(Desc::CUBLASLT_MATMUL_DESC_TRANSB, &u32::from(call.a.transposed).to_ne_bytes())?;
        let epilogue = epilogue(call)?;
        set(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32).to_ne_bytes())?;
        if let Some(bias) = &call.bias {
            set(Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address.to_ne_bytes())?;
            set(Desc::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &data_type(bias.dtype).to_ne_bytes())?;
        }
        let stored = |x: &Matrix, rows, columns| if x.transposed { (columns, rows) } else { (rows, columns) };
        let matrix = |x: &Matrix, (rows, columns): (usize, usize)| {
            self.layout(data_type(x.dtype), [columns, rows, x.step], (call.batch, x.batch_step))
        };
        let y = || self.layout(y_type, [call.n, call.m, call.n], (call.batch, call.m * call.n));
        Ok(Problem {
            library: self,
            a: matrix(&call.b, stored(&call.b, call.k, call.n))?,
            b: matrix(&call.a, stored(&call.a, call.m, call.k))?,
            c: y()?,
            d: y()?,
            desc,
        })
    }

    /// A matrix of `rows` by `columns` as cuBLASLt counts, columns `step` apart.
    fn layout(
        &'static self,
        data_type: u32,
        [rows, columns, step]: [usize; 3],
        (batch, batch_step): (usize, usize),
    ) -> Result<Described, String> {
        let layout = Described::new(self.f.cublasLtMatrixLayoutDestroy, |to| {
            // A single row of ours may claim any step.
            let step = step.max(rows) as i64;
            // SAFETY: writes a handle.
            check("cublasLtMatrixLayoutCreate", unsafe {
                (self.f.cublasLtMatrixLayoutCreate)(to, data_type, rows as u64, columns as u64, step)
            })
        })?;
        let set = |what: LayoutOf, value: &[u8]| {
            // SAFETY: copies the value.
            check(&format!("{what:?}"), unsafe {
                (self.f.cublasLtMatrixLayoutSetAttribute)(
                    layout.raw,
                    what as u32,
                    value.as_ptr().cast(),
                    value.len(),
                )
            })
        };
        if batch > 1 {
            set(LayoutOf::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &(batch as i32).to_ne_bytes())?;
            set(LayoutOf::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &(batch_step as i64).to_ne_bytes())?;
        }
        Ok(layout)
    }

    /// What algorithms may do: use our workspace, add up the parts of a split product in f32, and count on
    /// addresses no better aligned than these.
    fn preference(&'static self, call: &Matmul) -> Result<Described, String> {
        let preference = Described::new(self.f.cublasLtMatmulPreferenceDestroy, |to| {
            // SAFETY: writes a handle.
            check("cublasLtMatmulPreferenceCreate", unsafe { (self.f.cublasLtMatmulPreferenceCreate)(to) })
        })?;
        let set = |what: Preference, value: &[u8]| {
            // SAFETY: copies the value.
            check(&format!("{what:?}"), unsafe {
                (self.f.cublasLtMatmulPreferenceSetAttribute)(
                    preference.raw,
                    what as u32,
                    value.as_ptr().cast(),
                    value.len(),
                )
            })
        };
        set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(self.workspace.1 as u64).to_ne_bytes())?;
        let schemes = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes.to_ne_bytes())?;
        for (what, address) in [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, call.b.address),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, call.a.address),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, call.residual.unwrap_or(call.y)),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, call.y),
        ] {
            set(what, &alignment(address).to_ne_bytes())?;
        }
        Ok(preference)
    }
}

fn matmul(call: &LibraryCall) -> Result<&Matmul, String> {
    match call {
        LibraryCall::Matmul(m) => Ok(m),
        LibraryCall::Conv(_) => Err("cuBLASLt knows products only".into()),
    }
}

impl Library for CublasLt {
    fn version(&self) -> usize {
        self.version
    }

    fn algorithms(&'static self, call: &LibraryCall, most: usize) -> Result<Vec<String>, String> {
        let call = matmul(call)?;
        let (p, preference) = (self.problem(call)?, self.preference(call)?);
        // SAFETY: plain numbers.
        let mut guesses = vec![unsafe { std::mem::zeroed::<Guess>() }; most];
        let mut found = 0;
        // SAFETY: live descriptors; there is room for as many guesses as are asked for.
        check("cublasLtMatmulAlgoGetHeuristic", unsafe {
            (self.f.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                p.desc.raw,
                p.a.raw,
                p.b.raw,
                p.c.raw,
                p.d.raw,
                preference.raw,
                most as i32,
                guesses.as_mut_ptr(),
                &mut found,
            )
        })?;
        guesses.truncate(found.max(0) as usize);
        let name = |g: &Guess| g.algorithm.data.iter().map(|word| format!("{word:016x}")).collect();
        Ok(guesses.iter().filter(|g| g.status == 0 && g.workspace <= self.workspace.1).map(name).collect())
    }

    fn prepare(&'static self, call: &LibraryCall, algorithm: &str) -> Result<Arc<dyn PreparedCall>, String> {
        let call = matmul(call)?;
        let problem = self.problem(call)?;
        let unreadable = || format!("\"{algorithm}\" is not an algorithm of cuBLASLt");
        let mut data = [0u64; 8];
        if algorithm.len() != 16 * data.len() || !algorithm.is_ascii() {
            return Err(unreadable());
        }
        for (i, word) in data.iter_mut().enumerate() {
            *word = u64::from_str_radix(&algorithm[16 * i..][..16], 16).map_err(|_| unreadable())?;
        }
        let algorithm = cublasLtMatmulAlgo_t { data };
        // SAFETY: plain numbers.
        let mut guess = unsafe { std::mem::zeroed::<Guess>() };
        // SAFETY: live descriptors.
        check("cublasLtMatmulAlgoCheck", unsafe {
            (self.f.cublasLtMatmulAlgoCheck)(
                self.handle,
                problem.desc.raw,
                problem.a.raw,
                problem.b.raw,
                problem.c.raw,
                problem.d.raw,
                &algorithm,
                &mut guess,
            )
        })?;
        check("cublasLtMatmulAlgoCheck", guess.status)?;
        if guess.workspace > self.workspace.1 {
            return Err(format!("the algorithm wants {} bytes of working memory", guess.workspace));
        }
        Ok(Arc::new(PreparedMatmul { problem, algorithm, call: call.clone() }))
    }
}

/// Elements of this type, as cuBLASLt counts types.
fn data_type(dtype: DType) -> u32 {
    (match dtype {
        DType::F32 => cudaDataType_t::CUDA_R_32F,
        DType::BF16 => cudaDataType_t::CUDA_R_16BF,
        DType::F16 => cudaDataType_t::CUDA_R_16F,
        other => unreachable!("no product of {other}"),
    }) as u32
}

/// Its GELU is the approximation by tanh.
fn epilogue(call: &Matmul) -> Result<cublasLtEpilogue_t, String> {
    use cublasLtEpilogue_t as E;
    match (call.act, call.bias.is_some()) {
        (None, false) => Ok(E::CUBLASLT_EPILOGUE_DEFAULT),
        (None, true) => Ok(E::CUBLASLT_EPILOGUE_BIAS),
        (Some(Activation::Relu), false) => Ok(E::CUBLASLT_EPILOGUE_RELU),
        (Some(Activation::Relu), true) => Ok(E::CUBLASLT_EPILOGUE_RELU_BIAS),
        (Some(Activation::GeluTanh), false) => Ok(E::CUBLASLT_EPILOGUE_GELU),
        (Some(Activation::GeluTanh), true) => Ok(E::CUBLASLT_EPILOGUE_GELU_BIAS),
        (Some(other), _) => Err(format!("cuBLASLt has no epilogue {other:?}")),
    }
}

/// A descriptor of the library's.
struct Described {
    raw: Handle,
    destroy: unsafe extern "C" fn(Handle) -> Status,
}

impl Described {
    fn new(
        destroy: unsafe extern "C" fn(Handle) -> Status,
        create: impl FnOnce(*mut Handle) -> Result<(), String>,
    ) -> Result<Self, String> {
        let mut raw = null_mut();
        create(&mut raw)?;
        Ok(Described { raw, destroy })
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: made by `create`, destroyed once.
        unsafe { (self.destroy)(self.raw) };
    }
}

/// A product in the library's words.
struct Problem {
    library: &'static CublasLt,
    desc: Described,
    a: Described,
    b: Described,
    c: Described,
    d: Described,
}

struct PreparedMatmul {
    problem: Problem,
    algorithm: cublasLtMatmulAlgo_t,
    call: Matmul,
}

// SAFETY: descriptors are read only once they are made.
unsafe impl Send for PreparedMatmul {}
// SAFETY: as above.
unsafe impl Sync for PreparedMatmul {}

impl PreparedCall for PreparedMatmul {
    unsafe fn start(&self, stream: *mut c_void) -> Result<(), String> {
        let PreparedMatmul { problem: p, algorithm, call } = self;
        let (alpha, beta) = (call.alpha, f32::from(u8::from(call.residual.is_some())));
        let pointer = |address: u64| address as *mut c_void;
        let (workspace, bytes) = p.library.workspace;
        // SAFETY: the caller's promise.
        check("cublasLtMatmul", unsafe {
            (p.library.f.cublasLtMatmul)(
                p.library.handle,
                p.desc.raw,
                from_ref(&alpha).cast(),
                pointer(call.b.address),
                p.a.raw,
                pointer(call.a.address),
                p.b.raw,
                from_ref(&beta).cast(),
                pointer(call.residual.unwrap_or(call.y)),
                p.c.raw,
                pointer(call.y),
                p.d.raw,
                algorithm,
                pointer(workspace),
                bytes,
                stream,
            )
        })
    }
}
