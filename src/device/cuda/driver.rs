//! The driver: whether it starts, and what its errors are in words.

use std::ffi::CStr;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::error::{Error, Result};

/// The oldest cards that the kernels run on: compute capability 8.0 (Ampere).
const OLDEST: u32 = 80;

/// What the driver says of an error, in words.
pub(super) fn words(e: DriverError) -> String {
    let text = |s: std::result::Result<&CStr, DriverError>| s.ok().map(|s| s.to_string_lossy().into_owned());
    match (text(e.error_name()), text(e.error_string())) {
        (Some(name), Some(what)) => format!("{what} ({name})"),
        _ => format!("error {}", e.0 as u32),
    }
}

pub(super) fn failed(what: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |e| Error::Run(format!("CUDA could not {what}: {}", words(e)))
}

/// Whether the driver's library is there.
pub fn driver_found() -> bool {
    // SAFETY: only looks for the library by name.
    unsafe { sys::is_culib_present() }
}

/// Starts the driver; how many devices there are.
pub(super) fn start() -> Result<usize> {
    if !driver_found() {
        return Err(Error::Usage(
            "no NVIDIA driver was found (libcuda.so.1): install it, or use --device cpu".into(),
        ));
    }
    result::init().map_err(|e| match e.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            Error::Usage("the NVIDIA driver is there, but it finds no GPU; use --device cpu".into())
        }
        _ => Error::Usage(format!(
            "the NVIDIA driver does not start: {}; update it (CUDA 12.4 or later is needed), or use --device cpu",
            words(e)
        )),
    })?;
    let count = result::device::get_count().map_err(failed("count devices"))?;
    match count {
        0 => Err(Error::Usage("the NVIDIA driver is there, but it finds no GPU; use --device cpu".into())),
        n => Ok(n as usize),
    }
}

/// Why a card cannot be used, if it is too old.
pub(super) fn too_old(name: &str, arch: u32) -> Option<Error> {
    (arch < OLDEST).then(|| {
        Error::Usage(format!(
            "{name} has compute capability {}.{}, the kernels need {}.{} (Ampere) or later; use --device cpu",
            arch / 10,
            arch % 10,
            OLDEST / 10,
            OLDEST % 10
        ))
    })
}

/// The sentence for memory that the device does not have.
pub(super) fn out_of_memory(name: &str, asked: usize, free: usize, total: usize) -> Error {
    let mib = |b: usize| b.div_ceil(1 << 20);
    Error::Run(format!(
        "{name} has no room for {} MiB: {} of its {} MiB are free; close other programs that use it, or set \
         --memory to what is free",
        mib(asked),
        free >> 20,
        mib(total)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_to_do() {
        let e = too_old("Tesla T4", 75).expect("older than Ampere").to_string();
        assert!(
            e.contains("Tesla T4") && e.contains("7.5") && e.contains("8.0") && e.contains("--device cpu"),
            "{e}"
        );
        assert!(too_old("A100", 80).is_none());
        let e = out_of_memory("A100", 10 << 30, 3 << 30, 40 << 30).to_string();
        assert!(e.contains("10240 MiB") && e.contains("3072 of its 40960") && e.contains("--memory"), "{e}");
    }

    #[test]
    fn without_a_driver_one_sentence() {
        if driver_found() {
            return; // a machine with a GPU: `tools/verify-gpu` takes over
        }
        let e = start().expect_err("no driver").to_string();
        assert!(e.contains("no NVIDIA driver") && e.contains("--device cpu"), "{e}");
    }
}
