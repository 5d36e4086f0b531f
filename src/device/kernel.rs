//! What a kernel launch is, on a GPU or in its simulation.

/// One launch of a kernel: everything but the number of threads and of shared bytes, which belong to
/// the kernel itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name of the kernel: op, what it does, tile, dtypes (`adaln_fwd_f32_bf16`).
    pub kernel: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// The parameter struct of `ffi/`, as bytes.
    pub params: Vec<u8>,
}

impl Launch {
    /// A launch of `kernel` over `grid` blocks.
    pub fn new<P: bytemuck::Pod>(kernel: impl Into<String>, grid: [u32; 3], params: &P) -> Self {
        Launch { kernel: kernel.into(), grid, params: bytemuck::bytes_of(params).to_vec() }
    }
}

/// What a kernel says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Name, as in [`Launch::kernel`].
    pub name: String,
    /// Size of the parameter struct.
    pub param_bytes: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Shared memory of a block.
    pub shared_bytes: u32,
}

/// What the choice of a kernel may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Compute capability, major·10 + minor: 80, 86, 89, 90.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

impl DeviceFacts {
    /// An A100: what the simulator stands for.
    pub const A100: DeviceFacts = DeviceFacts { arch: 80, multiprocessors: 108 };
}
