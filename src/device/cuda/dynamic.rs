//! Shared libraries of NVIDIA's, found when they are wanted.
//!
//! cudarc looks for the major version that it was built for; here every version whose functions are the same
//! will do, and a function that is not there is a sentence, not a panic. Numbers of attributes and types are
//! cudarc's.

pub(super) use libloading::Library;

/// Opens the first of these that is there. It stays open for good: libraries of CUDA's do not like to be
/// closed.
pub(super) fn open(names: &[String]) -> Result<&'static Library, String> {
    for name in names {
        // SAFETY: NVIDIA's libraries do nothing when they are loaded that matters to us.
        if let Ok(library) = unsafe { Library::new(name) } {
            return Ok(Box::leak(Box::new(library)));
        }
    }
    Err(format!("none of {} is on the library path (LD_LIBRARY_PATH)", names.join(", ")))
}

/// The file names of a library, newest first: of these major versions, and without one.
pub(super) fn names(library: &str, majors: impl DoubleEndedIterator<Item = u32>) -> Vec<String> {
    let versions = majors.rev().map(|major| match std::env::consts::OS {
        "windows" => format!("{library}64_{major}.dll"),
        _ => format!("lib{library}.so.{major}"),
    });
    let plain = match std::env::consts::OS {
        "windows" => format!("{library}.dll"),
        _ => format!("lib{library}.so"),
    };
    versions.chain([plain]).collect()
}

/// A struct of functions of a library, under their names there.
macro_rules! functions {
    ($name:ident { $(fn $function:ident($($argument:ty),* $(,)?) $(-> $result:ty)?;)* }) => {
        #[allow(non_snake_case)] // the library's names
        struct $name {
            $($function: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $name {
            /// # Safety
            /// The library's functions must have these signatures.
            unsafe fn of(library: &'static $crate::device::cuda::dynamic::Library) -> Result<Self, String> {
                Ok($name {
                    $($function: {
                        let name = stringify!($function);
                        // SAFETY: the caller's promise.
                        let found = unsafe { library.get(name.as_bytes()) };
                        *found.map_err(|_| format!("it has no {name}"))?
                    },)*
                })
            }
        }
    };
}
pub(super) use functions;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn newest_first() {
        assert_eq!(names("cublasLt", 12..=13), ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let e = open(&["libno_such_thing.so.3".into()]).unwrap_err();
        assert!(e.contains("libno_such_thing.so.3") && e.contains("LD_LIBRARY_PATH"), "{e}");
    }
}
