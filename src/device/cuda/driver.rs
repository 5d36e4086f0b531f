//! The driver: whether it starts, and what its errors are in words.

use std::ffi::CStr;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::error::{Error, Result};

/// The oldest cards that the kernels run on: compute capability 8.0 (Ampere).
const OLDEST: u32 = 80;
/// The oldest driver: the functions that list a module's kernels came with CUDA 12.4.
const OLDEST_DRIVER: i32 = 12_040;

/// What the driver says of an error, in words.
pub(super) fn words(e: DriverError) -> String {
    let text = |s: std::result::Result<&CStr, DriverError>| s.ok().map(|s| s.to_string_lossy().into_owned());
    match (text(e.error_name()), text(e.error_string())) {
        (Some(name), Some(what)) => format!("{what} ({name})"),
        _ => format!("error {}", e.0 as u32),
    }
}

/// The error for something that the driver did not do.
pub(super) fn failed(what: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |e| {
        let said = format!("CUDA could not {what}: {}", words(e));
        if lost(e) {
            return Error::Device(format!(
                "{said}; the GPU does nothing more for this process: start it again (--resume keeps what is done), \
                 and report it if it happens with the same picture again"
            ));
        }
        Error::Run(said)
    }
}

/// Whether the driver refuses everything from here on: a kernel or the card failed, and the context with it.
fn lost(e: DriverError) -> bool {
    use sys::CUresult as R;
    matches!(
        e.0,
        R::CUDA_ERROR_ILLEGAL_ADDRESS
            | R::CUDA_ERROR_LAUNCH_TIMEOUT
            | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | R::CUDA_ERROR_ASSERT
            | R::CUDA_ERROR_HARDWARE_STACK_ERROR
            | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | R::CUDA_ERROR_MISALIGNED_ADDRESS
            | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | R::CUDA_ERROR_INVALID_PC
            | R::CUDA_ERROR_LAUNCH_FAILED
            | R::CUDA_ERROR_ECC_UNCORRECTABLE
            | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | R::CUDA_ERROR_DEINITIALIZED
    )
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
        sys::CUresult::CUDA_ERROR_NO_DEVICE | sys::CUresult::CUDA_ERROR_INVALID_DEVICE => no_gpu(),
        _ => Error::Usage(format!(
            "the NVIDIA driver does not start: {}; update it (CUDA {} or later is needed), or use --device cpu",
            words(e),
            version(OLDEST_DRIVER)
        )),
    })?;
    let supported = supported();
    if supported < OLDEST_DRIVER {
        return Err(Error::Usage(format!(
            "the NVIDIA driver supports CUDA {}, the program needs {}: update the driver, or use --device cpu",
            version(supported),
            version(OLDEST_DRIVER)
        )));
    }
    match result::device::get_count().map_err(failed("count devices"))? {
        0 => Err(no_gpu()),
        n => Ok(n as usize),
    }
}

/// The newest CUDA that the driver supports: 1000·major + 10·minor.
pub(super) fn supported() -> i32 {
    let mut supported = 0;
    // SAFETY: writes one integer; the driver's library was found.
    let _ = unsafe { sys::cuDriverGetVersion(&mut supported) };
    supported
}

fn version(cuda: i32) -> String {
    format!("{}.{}", cuda / 1000, cuda % 1000 / 10)
}

/// The sentence for a driver without devices; the usual reason is a variable that hides them.
fn no_gpu() -> Error {
    let hidden = match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(v) => format!(
            " since CUDA_VISIBLE_DEVICES is \"{v}\": unset it or name a GPU or MIG instance of `nvidia-smi -L`, or"
        ),
        Err(_) => ";".into(),
    };
    Error::Usage(format!("the NVIDIA driver is there, but it finds no GPU{hidden} use --device cpu"))
}

/// The sentence for a number that no device has.
pub(super) fn no_such_device(ordinal: usize, count: usize) -> Error {
    let there = match count {
        1 => "there is only device 0".to_owned(),
        n => format!("there are devices 0 to {}", n - 1),
    };
    let of_all = match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(v) => format!(", counted among those that CUDA_VISIBLE_DEVICES=\"{v}\" shows"),
        // A process sees one MIG instance, whatever there are.
        Err(_) => match result::device::get(0).and_then(result::device::get_name) {
            Ok(name) if name.contains("MIG") => {
                ", the first MIG instance; choose another by CUDA_VISIBLE_DEVICES (`nvidia-smi -L` lists them)".into()
            }
            _ => String::new(),
        },
    };
    Error::Usage(format!("--device cuda:{ordinal}: {there}{of_all}"))
}

/// Why a device does not start.
pub(super) fn does_not_start(name: &str, e: DriverError) -> Error {
    match e.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::Run(format!(
            "{name} has no room even to start: other programs fill its memory; close them, or use another device"
        )),
        sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => Error::Run(format!(
            "{name} is not to be had: another process uses it, and its compute mode lets only one in (or none); wait, \
             choose another --device, or have it shared with `nvidia-smi -c DEFAULT`"
        )),
        _ => failed("start the device")(e),
    }
}

/// Why the kernels of a family do not load.
pub(super) fn does_not_load(family: &str, name: &str, arch: u32, e: DriverError) -> Error {
    use sys::CUresult as R;
    let todo = match e.0 {
        R::CUDA_ERROR_NO_BINARY_FOR_GPU => {
            "this build has no code for the card: build again with its architecture in DREAMCLEAR_CUDA_ARCHS"
                .into()
        }
        R::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | R::CUDA_ERROR_INVALID_PTX
        | R::CUDA_ERROR_INVALID_IMAGE
        | R::CUDA_ERROR_INVALID_SOURCE
        | R::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => format!(
            "the driver supports CUDA {} and the kernels were compiled by a newer one: update the driver, or build with \
             the toolkit of that version",
            version(supported())
        ),
        R::CUDA_ERROR_OUT_OF_MEMORY => "its memory is full: close other programs that use it".into(),
        _ => "use --device cpu, and report this".into(),
    };
    Error::Run(format!("{name} (sm_{arch}) does not take the kernels of {family}: {}; {todo}", words(e)))
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
    Error::OutOfMemory(format!(
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
