//! Modules: the compiled kernels of a family, and what each kernel says about itself.

use std::ffi::{CStr, CString};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use sha2::Digest;

use super::CudaDevice;
use super::driver::{does_not_load, failed};
use crate::device::kernel::KernelInfo;
use crate::error::{Error, Result};

/// Compiled kernels: a family's name and its fatbin.
pub type Fatbin = (&'static str, &'static [u8]);

/// How families of kernels for sm_90a end.
const FOR_HOPPER: &str = "_sm90";

/// Whether a card of this compute capability runs a family: machine code of sm_90a runs nowhere else, later
/// cards included.
pub fn runs_on(family: &str, capability: u32) -> bool {
    capability == 90 || !family.ends_with(FOR_HOPPER)
}

pub(super) struct Kernel {
    pub(super) function: sys::CUfunction,
    pub(super) info: KernelInfo,
}

impl CudaDevice {
    /// Loads a module and looks at every kernel of it, if the card runs it.
    pub(super) fn load(&mut self, family: &str, image: &[u8]) -> Result<()> {
        if !runs_on(family, self.facts.arch) {
            return Ok(());
        }
        self.code.update(image);
        self.facts.hopper |= family.ends_with(FOR_HOPPER);
        // SAFETY: a fatbin that build.rs embedded or what NVRTC made, which the driver copies; functions are valid while the context is.
        unsafe {
            let module = result::module::load_data(image.as_ptr().cast())
                .map_err(|e| does_not_load(family, &self.name, self.facts.arch, e))?;
            for function in functions(module).map_err(failed("list the kernels"))? {
                let mut raw = std::ptr::null();
                sys::cuFuncGetName(&mut raw, function).result().map_err(failed("list the kernels"))?;
                let name = CStr::from_ptr(raw).to_string_lossy().into_owned();
                let symbol = CString::new(format!("{name}_info")).expect("kernel names hold no zero byte");
                let (address, bytes) = result::module::get_global(module, symbol)
                    .map_err(failed("read a kernel's properties"))?;
                let mut info = [0u32; 3];
                if bytes != size_of_val(&info) {
                    return Err(Error::Run(format!(
                        "{name} was built against another version of cuda/include/dc.cuh"
                    )));
                }
                result::memcpy_dtoh_sync(&mut info, address).map_err(failed("read a kernel's properties"))?;
                let [threads, shared_bytes, param_bytes] = info;
                if shared_bytes > self.most_shared {
                    continue; // of a later architecture: to a plan it is not there
                }
                if shared_bytes > 48 << 10 {
                    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SIZE;
                    result::function::set_function_attribute(function, SIZE, shared_bytes as i32)
                        .map_err(failed("give a kernel its shared memory"))?;
                }
                let info = KernelInfo {
                    name: name.clone(),
                    param_bytes: param_bytes as usize,
                    threads,
                    shared_bytes,
                };
                self.kernels.insert(name, Kernel { function, info });
            }
        }
        Ok(())
    }
}

/// All kernels of a module.
///
/// # Safety
/// The module must be loaded.
unsafe fn functions(module: sys::CUmodule) -> std::result::Result<Vec<sys::CUfunction>, DriverError> {
    let mut count = 0;
    // SAFETY: the caller's promise; the list has room for as many as were counted.
    unsafe {
        sys::cuModuleGetFunctionCount(&mut count, module).result()?;
        let mut all = vec![std::ptr::null_mut(); count as usize];
        sys::cuModuleEnumerateFunctions(all.as_mut_ptr(), count, module).result()?;
        Ok(all)
    }
}
