//! Walks the op registry: an op is whole or absent. Failures name the op and the case.
//! `cargo test --test registry NAME` is not a filter on ops; set `OPS=conv2d,linear` for that.

use std::collections::HashSet;
use std::path::Path;

use dreamclear::ops::{Case, check, registry};

/// Every test case of every (selected) op.
fn each(what: &str, check: impl Fn(&Case) -> Result<(), String> + Sync) {
    use rayon::prelude::*;
    let only = std::env::var("OPS").ok();
    let failures: Vec<String> = registry()
        .filter(|e| only.as_ref().is_none_or(|o| o.split(',').any(|n| n == e.name || n == e.family)))
        .collect::<Vec<_>>()
        .into_par_iter()
        .flat_map_iter(|e| (e.cases)().into_iter().filter(|c| !c.bench).map(move |c| (e.name, c)))
        .filter_map(|(op, case)| check(&case).err().map(|m| format!("{op}/{}: {m}", case.name)))
        .collect();
    assert!(failures.is_empty(), "{what}:\n{}", failures.join("\n"));
}

#[test]
fn registry_rows_are_whole() {
    let mut names = HashSet::new();
    for e in registry() {
        assert!(names.insert(e.name), "{}: listed twice", e.name);
        assert!(!e.about.is_empty(), "{}: has no description", e.name);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops").join(e.family);
        assert!(folder.join("mod.rs").exists(), "{}: has no folder {}", e.name, folder.display());
        let cases = (e.cases)();
        assert!(cases.iter().any(|c| !c.bench), "{}: has no test case", e.name);
        let mut seen = HashSet::new();
        for c in &cases {
            assert_eq!(c.op.name(), e.name, "{}/{}: belongs to another op", e.name, c.name);
            assert!(seen.insert(c.name), "{}/{}: case listed twice", e.name, c.name);
        }
    }
}

#[test]
fn registry_fast_paths_equal_references() {
    each("fast path against reference", check::fast_path);
}

#[test]
fn registry_gradients_equal_differences() {
    each("gradient against central differences", check::gradient);
}

#[test]
fn registry_costs_are_counted() {
    each("stated cost against counted operations", check::cost);
}

/// Every implementation of `Op` in the source is reached from the registry.
#[test]
fn registry_knows_every_op() {
    let names: HashSet<_> = registry().map(|e| e.name).collect();
    let mut found = 0;
    for entry in walkdir::WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops")) {
        let entry = entry.expect("src/ops is readable");
        if entry.path().extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).expect("source is readable");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if !line.trim_start().starts_with("fn name(&self)") {
                continue;
            }
            let name = lines.next().unwrap_or("").trim().trim_matches('"').to_owned();
            if name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
                assert!(
                    names.contains(name.as_str()),
                    "{}: op \"{name}\" is not in the registry",
                    entry.path().display()
                );
                found += 1;
            }
        }
    }
    assert!(found > 0, "no op was found: has the layout of src/ops changed?");
}
