//! Where each output goes: never two to one file, never one over an input.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::data::image::Format;
use crate::data::inputs::{Input, Source};
use crate::{Error, Result};

/// Where the results of a job go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory in which outputs keep the inputs' tree.
    Directory(PathBuf),
    /// One file, for a job of one input.
    File(PathBuf),
}

impl Target {
    /// Reads `-o`: a path with an image extension names the output file of a single input unless
    /// it is a directory, everything else is a directory.
    ///
    /// # Errors
    /// `Error::Usage` if a file is named but there are several inputs.
    pub fn from_output(path: &Path, inputs: usize) -> Result<Self> {
        if path.is_dir() || Format::from_path(path).is_none() {
            return Ok(Target::Directory(path.to_owned()));
        }
        if inputs > 1 {
            return Err(Error::Usage(format!(
                "-o {} names one file, but there are {inputs} inputs; give a directory",
                path.display()
            )));
        }
        Ok(Target::File(path.to_owned()))
    }

    /// The directory that holds all outputs.
    pub fn directory(&self) -> &Path {
        match self {
            Target::Directory(path) => path,
            Target::File(path) => match path.parent() {
                Some(p) if !p.as_os_str().is_empty() => p,
                _ => Path::new("."),
            },
        }
    }
}

/// An input and its outputs, relative to the target's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What to restore.
    pub input: Input,
    /// The restored picture.
    pub output: String,
    /// The side-by-side picture, if one is wanted.
    pub compare: Option<String>,
}

/// Names the outputs of all `inputs`: `dir/a.jpg` becomes `dir/a.png` (the extension of
/// `format`), and where several inputs differ only in their extension each keeps its own in
/// front: `a.jpg.png`, `a.bmp.png`. Also returns a sentence for each of those.
///
/// Shards must call this on the whole job, before taking their part, or they would disagree.
///
/// # Errors
/// `Error::Usage` if two outputs would still share a name, or one would overwrite an input.
pub fn plan(
    inputs: Vec<Input>,
    target: &Target,
    format: Format,
    compare: bool,
) -> Result<(Vec<Planned>, Vec<String>)> {
    let extension = format.extension();
    let mut notes = Vec::new();
    let mut names: Vec<String> = Vec::with_capacity(inputs.len());
    match target {
        Target::File(path) => {
            if inputs.len() > 1 {
                return Err(Error::Usage(format!("{} inputs cannot go to one file", inputs.len())));
            }
            names.extend(
                inputs.iter().map(|_| path.file_name().unwrap_or_default().to_string_lossy().into_owned()),
            );
        }
        Target::Directory(_) => {
            let mut stems: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for input in &inputs {
                stems.entry(stem(&input.name)).or_default().push(&input.name);
            }
            for input in &inputs {
                let stem = stem(&input.name);
                let kept = if stems[stem].len() > 1 { &input.name } else { stem };
                names.push(format!("{kept}.{extension}"));
            }
            for group in stems.values().filter(|g| g.len() > 1) {
                notes.push(format!(
                    "{} differ only in their extension: the outputs keep it ({}.{extension} …)",
                    group.join(" and "),
                    group[0]
                ));
            }
        }
    }

    let directory = fs::canonicalize(target.directory()).ok();
    let mut taken: HashMap<String, String> = HashMap::new();
    let mut planned = Vec::with_capacity(inputs.len());
    for (input, output) in inputs.into_iter().zip(names) {
        let compare = compare.then(|| format!("{}.compare.png", stem(&output)));
        for name in std::iter::once(&output).chain(&compare) {
            if let Some(other) = taken.insert(name.clone(), input.name.clone()) {
                return Err(Error::Usage(format!(
                    "{other} and {} would both be written to {name}; rename one of them",
                    input.name
                )));
            }
            if let (Some(directory), Source::File(path)) = (&directory, &input.source)
                && fs::canonicalize(path).is_ok_and(|p| p == directory.join(name))
            {
                return Err(Error::Usage(format!(
                    "the output {name} would overwrite the input {}; choose another directory with -o",
                    path.display()
                )));
            }
        }
        planned.push(Planned { input, output, compare });
    }
    Ok((planned, notes))
}

/// A name without its last extension; dots in directories and at the start do not count.
fn stem(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |i| i + 1);
    match name[file..].rfind('.') {
        Some(dot) if dot > 0 => &name[..file + dot],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str) -> Input {
        Input { name: name.into(), source: Source::File(name.into()), size: 1, modified: 1 }
    }

    fn outputs(names: &[&str], compare: bool) -> Result<Vec<String>> {
        let target = Target::Directory("out".into());
        let (planned, _) = plan(names.iter().map(|n| input(n)).collect(), &target, Format::Png, compare)?;
        Ok(planned.into_iter().flat_map(|p| std::iter::once(p.output).chain(p.compare)).collect())
    }

    #[test]
    fn trees_are_kept_and_equal_stems_keep_their_extension() {
        assert_eq!(
            outputs(&["a.jpg", "d.x/b.tar.webp", "d.x/c"], false).unwrap(),
            ["a.png", "d.x/b.tar.png", "d.x/c.png"]
        );
        assert_eq!(
            outputs(&["d/a.jpg", "d/a.png", "e/a.jpg"], false).unwrap(),
            ["d/a.jpg.png", "d/a.png.png", "e/a.png"]
        );
        assert_eq!(outputs(&["a.jpg"], true).unwrap(), ["a.png", "a.compare.png"]);
        let target = Target::Directory("out".into());
        let (_, notes) = plan(vec![input("a.jpg"), input("a.png")], &target, Format::Png, false).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("a.jpg and a.png"), "{notes:?}");
    }

    #[test]
    fn remaining_collisions_are_refused() {
        for (names, compare) in
            [(&["a.jpg", "a.png", "a.jpg.bmp"], false), (&["a.jpg", "a.compare.jpg", "b.jpg"], true)]
        {
            match outputs(names, compare) {
                Err(Error::Usage(message)) => assert!(message.contains("a.jpg"), "{message}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_input_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        fs::write(&path, "x").unwrap();
        let input = Input { source: Source::File(path.clone()), ..input("a.png") };
        for target in [Target::Directory(dir.path().into()), Target::File(path.clone())] {
            let error = plan(vec![input.clone()], &target, Format::Png, false).unwrap_err();
            assert!(matches!(&error, Error::Usage(m) if m.contains("overwrite the input")), "{error}");
        }
        assert!(plan(vec![input], &Target::Directory(dir.path().into()), Format::WebP, false).is_ok());
    }

    #[test]
    fn output_arguments() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d.png")).unwrap();
        assert!(matches!(Target::from_output(&dir.path().join("d.png"), 5), Ok(Target::Directory(_))));
        assert!(matches!(Target::from_output(Path::new("out"), 1), Ok(Target::Directory(_))));
        let file = Target::from_output(Path::new("x.jpg"), 1).unwrap();
        assert_eq!(file.directory(), Path::new("."));
        assert!(matches!(Target::from_output(Path::new("x.jpg"), 2), Err(Error::Usage(_))));
    }
}
