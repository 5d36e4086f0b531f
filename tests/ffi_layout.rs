//! The structs of `ffi/` mean the same to Rust, to the host's C++ compiler and to nvcc.
//!
//! Rust proves the layout in constants of `src/ffi.rs`, the C++ compilers in `cuda/sim/ffi_layout.cpp`, both
//! whenever they are compiled. What is left to prove, without libclang: that both files were written from
//! the headers as they are, and state the same numbers.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// As tools/bindgen computes it: over name, newline, contents of each header, by name.
fn headers_sha256() -> String {
    let mut headers: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("ffi"))
        .expect("the folder ffi/")
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "h"))
        .collect();
    headers.sort();
    assert!(!headers.is_empty(), "ffi/ holds no header");
    let mut hash = Sha256::new();
    for header in headers {
        hash.update(header.file_name().unwrap().as_encoded_bytes());
        hash.update(b"\n");
        hash.update(fs::read(&header).unwrap());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn generated_files_are_of_these_headers() {
    let line = format!("// headers sha256: {}", headers_sha256());
    for path in ["src/ffi.rs", "cuda/sim/ffi_layout.cpp"] {
        assert!(
            read(path).lines().any(|l| l == line),
            "{path} was written from other headers than those in ffi/; run tools/bindgen and commit it"
        );
    }
}

#[test]
fn rust_and_cpp_are_told_the_same_layout() {
    // (struct, field or "") → bytes
    let mut rust = BTreeMap::new();
    // rustfmt breaks long assertions in several places.
    let text = read("src/ffi.rs").split_whitespace().collect::<Vec<_>>().join(" ").replace("] [", "][");
    for statement in text.split(';') {
        let Some((what, rest)) = statement.split_once("[\"").and_then(|(_, s)| s.split_once("\"]")) else {
            continue;
        };
        let Some(bytes) = rest.rsplit_once(" - ").and_then(|(_, n)| n.strip_suffix("usize]")) else {
            panic!("src/ffi.rs: not an assertion of tools/bindgen: {statement}")
        };
        let bytes: usize = bytes.parse().unwrap();
        if let Some(name) = what.strip_prefix("Size of ") {
            rust.insert((name.to_string(), String::new()), bytes);
        } else if let Some(field) = what.strip_prefix("Offset of field: ") {
            let (name, field) = field.split_once("::").unwrap();
            rust.insert((name.to_string(), field.to_string()), bytes);
        }
    }
    let mut cpp = BTreeMap::new();
    for line in read("cuda/sim/ffi_layout.cpp").lines() {
        let Some((what, rest)) = line.strip_prefix("static_assert(").and_then(|l| l.split_once(" == "))
        else {
            continue;
        };
        let bytes: usize = rest.split(',').next().unwrap().parse().unwrap();
        let (of, inner) = what.trim_end_matches(')').split_once('(').unwrap();
        let key = match (of, inner.split_once(", ")) {
            ("sizeof", None) => (inner.to_string(), String::new()),
            ("offsetof", Some((name, field))) => (name.to_string(), field.to_string()),
            _ => panic!("cuda/sim/ffi_layout.cpp: {line}"),
        };
        cpp.insert(key, bytes);
    }
    assert!(!rust.is_empty(), "src/ffi.rs asserts nothing; run tools/bindgen");
    assert_eq!(rust, cpp, "src/ffi.rs and cuda/sim/ffi_layout.cpp differ; run tools/bindgen");
    assert_eq!(rust[&("AdalnFwd".into(), String::new())], size_of::<dreamclear::ffi::AdalnFwd>());
}
