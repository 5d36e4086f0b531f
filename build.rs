//! Builds what is not Rust: the simulator of CUDA kernels (every `cuda/*.cu` by the host's C++ compiler
//! against `cuda/sim/`).

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rustc-check-cfg=cfg(simulator)");
    for dir in ["cuda", "cuda/include", "cuda/sim", "ffi"] {
        println!("cargo:rerun-if-changed={dir}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    simulator();
}

/// All files of a folder with this ending, sorted.
fn files(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = Path::new(dir)
        .read_dir()
        .map(|d| d.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    found.retain(|p: &PathBuf| p.extension().is_some_and(|e| e == ending));
    found.sort();
    found
}

/// Without a C++ compiler only `--device sim` is missing.
fn simulator() {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(1)
        .debug(false)
        .warnings(false)
        .flag("-xc++")
        .flag("-ffp-contract=off") // a GPU fuses where nvcc says; the host must not add its own
        .flag("-U_FORTIFY_SOURCE")
        .flag_if_supported("-Wno-unknown-pragmas")
        .link_lib_modifier("+whole-archive") // kernels register themselves; nothing refers to them by name
        .files(files("cuda", "cu"))
        .files(files("cuda/sim", "cpp"));
    let compiler = build.try_get_compiler().ok().and_then(|c| c.to_command().arg("--version").output().ok());
    if compiler.is_none_or(|o| !o.status.success()) {
        return;
    }
    build.compile("dreamclear_sim");
    println!("cargo:rustc-cfg=simulator");
}
