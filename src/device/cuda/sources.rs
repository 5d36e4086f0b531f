//! The kernels' sources that this build carries, for machines where its code for GPUs is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// `cuda/*.cu`, `cuda/include/`, `ffi/*.h`, packed by `build.rs`: for each file a line with its path and
/// its bytes, then the bytes.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernel_sources.gz"));

/// Path in the project → text.
pub struct Sources(BTreeMap<String, String>);

impl Sources {
    /// Those of this build.
    pub fn embedded() -> Self {
        let mut text = String::new();
        flate2::read::GzDecoder::new(PACKED).read_to_string(&mut text).expect("build.rs packed text");
        let mut files = BTreeMap::new();
        let mut rest = text.as_str();
        while let Some((head, body)) = rest.split_once('\n') {
            let (path, bytes) = head.rsplit_once(' ').expect("a path and a number of bytes");
            let (file, after) = body.split_at(bytes.parse().expect("a number of bytes"));
            files.insert(path.to_owned(), file.to_owned());
            rest = after;
        }
        Sources(files)
    }

    /// The families: stems of `cuda/*.cu`.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|path| path.strip_prefix("cuda/")?.strip_suffix(".cu"))
    }

    /// The text of a file of the project.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn file(&self, path: &str) -> &str {
        self.0.get(path).unwrap_or_else(|| panic!("{path} was not packed"))
    }

    /// A family as one text: each header of the project once, where it is first included. `#line` keeps the
    /// compiler's messages about the files as they are. Includes of the simulator stay: only a host's
    /// compiler gets to see them.
    pub fn flat(&self, family: &str) -> String {
        let mut text = String::new();
        self.append(&format!("cuda/{family}.cu"), &mut BTreeSet::new(), &mut text);
        text
    }

    fn append<'a>(&'a self, path: &str, seen: &mut BTreeSet<&'a str>, out: &mut String) {
        let (path, text) = self.0.get_key_value(path).unwrap_or_else(|| panic!("{path} was not packed"));
        if !seen.insert(path) {
            return;
        }
        *out += &format!("#line 1 \"{path}\"\n");
        for (i, line) in text.lines().enumerate() {
            match included(line).map(|name| beside(path, name)).filter(|p| self.0.contains_key(p)) {
                Some(header) => {
                    self.append(&header, seen, out);
                    *out += &format!("#line {} \"{path}\"\n", i + 2);
                }
                None if line.trim() == "#pragma once" => *out += "\n",
                None => {
                    *out += line;
                    *out += "\n";
                }
            }
        }
    }
}

/// The name in `#include "name"`.
fn included(line: &str) -> Option<&str> {
    let name = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim();
    name.strip_prefix('"')?.split_once('"').map(|(name, _)| name)
}

/// `name` as seen from the folder of `path`.
fn beside(path: &str, name: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_one_text() {
        let sources = Sources::embedded();
        assert!(sources.families().any(|f| f == "adaln"));
        let text = sources.flat("adaln");
        assert_eq!(text.matches("struct AdalnFwd {").count(), 1, "the header once");
        assert_eq!(
            text.matches("#define DC_KERNEL(").count(),
            2 - 1,
            "for GPUs; the simulator's is elsewhere"
        );
        let own = |l: &&str| included(l).is_some_and(|n| !n.contains("sim/"));
        assert_eq!(text.lines().find(own), None, "every header of the project is in its place");
        let whole: String =
            sources.file("cuda/adaln.cu").lines().skip_while(|l| included(l).is_some()).collect();
        assert!(!whole.is_empty());
    }

    #[test]
    fn paths() {
        assert_eq!(included("  # include \"a/b.cuh\" // c"), Some("a/b.cuh"));
        assert_eq!(included("#include <stdint.h>"), None);
        assert_eq!(beside("cuda/include/rows.cuh", "../../ffi/rows.h"), "ffi/rows.h");
        assert_eq!(beside("ffi/conv2d.h", "./epilogue.h"), "ffi/epilogue.h");
    }
}
