//! NVRTC, the CUDA compiler as a library: loaded at run time where a machine has it.
//!
//! Bound by hand: cudarc knows no `libnvrtc.so.13`, and panics where it finds none.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use libloading::Library;

use crate::error::{Error, Result};

/// `DREAMCLEAR_NVRTC` names a library; else the loader looks for these.
const NAMES: [&str; 3] = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];
/// The oldest version that compiles the kernels.
const OLDEST: (c_int, c_int) = (12, 4);

const FLAGS: [&str; 2] = ["--std=c++17", "-default-device"];

/// The library.
pub struct Nvrtc {
    library: Library,
    version: (c_int, c_int),
    /// Its other half, where the loader would not find it.
    _builtins: Vec<Library>,
}

/// What is compiled for: machine code of an architecture, or PTX where the library is older than the card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `sm_80`, `sm_90a`, `compute_90`.
    pub arch: String,
}

impl Target {
    fn is_ptx(&self) -> bool {
        self.arch.starts_with("compute_")
    }
}

type Program = *mut c_void;

/// Calls `$name` of the library with these arguments: an `nvrtcResult`, 0 for success.
macro_rules! call {
    ($self:ident, $name:expr, ($($ty:ty),*) $(, $arg:expr)*) => {{
        let f = $self
            .library
            .get::<unsafe extern "C" fn($($ty),*) -> c_int>($name)
            .unwrap_or_else(|e| panic!("libnvrtc lacks a function that version 11.2 has: {e}"));
        f($($arg),*)
    }};
}

impl Nvrtc {
    /// Loads the library: that of `DREAMCLEAR_NVRTC`, else one that the loader finds; None if there is none.
    ///
    /// # Errors
    /// As [`Nvrtc::open`].
    pub fn load() -> Result<Option<Self>> {
        if let Some(path) = std::env::var_os("DREAMCLEAR_NVRTC").filter(|v| !v.is_empty()) {
            return Self::open(Path::new(&path)).map(Some);
        }
        // SAFETY: initialisers of NVIDIA's library, which is what these names say it is.
        match NAMES.into_iter().find_map(|name| unsafe { Library::new(name) }.ok()) {
            Some(library) => Self::new(library, Vec::new()).map(Some),
            None => Ok(None),
        }
    }

    /// Loads the library at `path`.
    ///
    /// # Errors
    /// If it is none, or too old.
    pub fn open(path: &Path) -> Result<Self> {
        // It opens `libnvrtc-builtins.so.X.Y` by name alone when it compiles: what lies beside it is found so if
        // it has been loaded before.
        let beside = path.parent().and_then(|folder| folder.read_dir().ok()).into_iter().flatten().flatten();
        let builtins = beside.filter(|e| e.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so"));
        // SAFETY: as below.
        let builtins = builtins.filter_map(|e| unsafe { Library::new(e.path()) }.ok()).collect();
        // SAFETY: initialisers of NVIDIA's library, as which the user named it.
        let library = unsafe { Library::new(path) }.map_err(|e| {
            Error::Usage(format!(
                "{} does not load as NVRTC ({e}); set DREAMCLEAR_NVRTC to the path of libnvrtc.so",
                path.display()
            ))
        })?;
        Self::new(library, builtins)
    }

    fn new(library: Library, builtins: Vec<Library>) -> Result<Self> {
        let mut nvrtc = Nvrtc { library, version: (0, 0), _builtins: builtins };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature in nvrtc.h; writes two integers.
        unsafe { call!(nvrtc, b"nvrtcVersion", (*mut c_int, *mut c_int), &mut major, &mut minor) };
        nvrtc.version = (major, minor);
        if nvrtc.version < OLDEST {
            return Err(Error::Usage(format!(
                "NVRTC {} is too old to compile the kernels: install {}.{} or later, or use --device cpu",
                nvrtc.version(),
                OLDEST.0,
                OLDEST.1
            )));
        }
        Ok(nvrtc)
    }

    /// `12.4`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// What decides the result beside source and target.
    pub fn flags() -> String {
        FLAGS.join(" ")
    }

    /// What to compile for, for a card of this compute capability (major·10 + minor).
    pub fn target(&self, capability: u32) -> Target {
        let mut count = 0;
        // SAFETY: the signatures in nvrtc.h; the list has room for as many as were counted.
        let known = unsafe {
            call!(self, b"nvrtcGetNumSupportedArchs", (*mut c_int), &mut count);
            let mut known = vec![0; count.max(0) as usize];
            call!(self, b"nvrtcGetSupportedArchs", (*mut c_int), known.as_mut_ptr());
            known
        };
        target(&known, capability as c_int)
    }

    /// Compiles a source. `name` is what messages call it; `headers` are names and texts of
    /// `#include <name>`. On failure: what the compiler said.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        target: &Target,
    ) -> Result<Vec<u8>, String> {
        let c = |s: &str| CString::new(s).expect("sources and options hold no zero byte");
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (name, source) = (c(name), c(source));
        let names: Vec<_> = headers.iter().map(|h| c(h.0)).collect();
        let texts: Vec<_> = headers.iter().map(|h| c(h.1)).collect();
        let options: Vec<_> =
            FLAGS.map(c).into_iter().chain([c(&format!("--gpu-architecture={}", target.arch))]).collect();
        let mut program: Program = std::ptr::null_mut();
        type Strings = *const *const c_char;
        // SAFETY: the signatures in nvrtc.h; all strings live until the program is destroyed.
        unsafe {
            let made = call!(
                self,
                b"nvrtcCreateProgram",
                (*mut Program, *const c_char, *const c_char, c_int, Strings, Strings),
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                headers.len() as c_int,
                pointers(&texts).as_ptr(),
                pointers(&names).as_ptr()
            );
            if made != 0 {
                return Err(self.words(made));
            }
            let result = call!(
                self,
                b"nvrtcCompileProgram",
                (Program, c_int, Strings),
                program,
                options.len() as c_int,
                pointers(&options).as_ptr()
            );
            let said = match result {
                0 if target.is_ptx() => self.bytes(program, b"nvrtcGetPTXSize", b"nvrtcGetPTX"),
                0 => self.bytes(program, b"nvrtcGetCUBINSize", b"nvrtcGetCUBIN"),
                failed => {
                    let log = self.bytes(program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog");
                    let log = String::from_utf8_lossy(log.as_deref().unwrap_or_default()).into_owned();
                    Err(format!("{}\n{}", self.words(failed), log.trim_end_matches('\0').trim()))
                }
            };
            call!(self, b"nvrtcDestroyProgram", (*mut Program), &mut program);
            said
        }
    }

    /// One of a program's results.
    ///
    /// # Safety
    /// The program must be live, the names those of a pair of functions of nvrtc.h.
    unsafe fn bytes(&self, program: Program, size: &[u8], get: &[u8]) -> Result<Vec<u8>, String> {
        let mut bytes = 0usize;
        // SAFETY: the caller's promise; the buffer has the size that was told.
        unsafe {
            let result = call!(self, size, (Program, *mut usize), program, &mut bytes);
            let mut all = vec![0u8; bytes];
            match result {
                0 => match call!(self, get, (Program, *mut u8), program, all.as_mut_ptr()) {
                    0 => Ok(all),
                    failed => Err(self.words(failed)),
                },
                failed => Err(self.words(failed)),
            }
        }
    }

    /// What the library says of an error.
    fn words(&self, result: c_int) -> String {
        // SAFETY: the signature in nvrtc.h; the string is the library's own and stays.
        unsafe {
            let f = self
                .library
                .get::<unsafe extern "C" fn(c_int) -> *const c_char>(b"nvrtcGetErrorString")
                .expect("every libnvrtc has it");
            CStr::from_ptr(f(result)).to_string_lossy().into_owned()
        }
    }
}

/// Machine code of the card's own architecture; else of the newest older one of its family, which it runs
/// too; else PTX of the newest that is older.
fn target(known: &[c_int], capability: c_int) -> Target {
    // From 9.0 on the instructions of one architecture alone (wgmma, TMA) need the suffix.
    let name = |c: c_int| format!("sm_{c}{}", if c >= 90 { "a" } else { "" });
    if known.contains(&capability) {
        return Target { arch: name(capability) };
    }
    let older = known.iter().copied().filter(|&k| k < capability).max().unwrap_or(capability);
    let prefix = if older / 10 == capability / 10 { "sm" } else { "compute" };
    Target { arch: format!("{prefix}_{older}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let of = |known: &[c_int], c| target(known, c).arch;
        let all = [75, 80, 86, 89, 90, 100];
        assert_eq!(of(&all, 80), "sm_80");
        assert_eq!(of(&all, 90), "sm_90a");
        assert_eq!(of(&all, 88), "sm_86", "runs code of 8.6");
        assert_eq!(of(&all, 120), "compute_100", "the driver compiles PTX for what is newer");
        assert_eq!(of(&[80, 90], 100), "compute_90");
    }
}
