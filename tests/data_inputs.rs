//! Collecting inputs from real directories, globs, lists and archives.

use std::fs;
use std::path::{Path, PathBuf};

use dreamclear::Error;
use dreamclear::data::inputs::{Inputs, collect};

/// Creates files holding their own name.
fn tree(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    dir
}

fn names(inputs: &Inputs) -> Vec<&str> {
    assert_eq!(inputs.failed, [], "nothing should fail");
    inputs.found.iter().map(|i| i.name.as_str()).collect()
}

#[test]
fn directories_keep_their_tree() {
    let dir = tree(&[
        "b.png",
        "a.JPG",
        "notes.md",
        ".hidden.png",
        "sub/c.webp",
        "sub/deep/d.tif",
        ".git/e.png",
        "out/b.png",
    ]);
    assert_eq!(names(&collect(&[dir.path()], false, None).unwrap()), ["a.JPG", "b.png"]);
    let inputs = collect(&[dir.path()], true, Some(&dir.path().join("out"))).unwrap();
    assert_eq!(names(&inputs), ["a.JPG", "b.png", "sub/c.webp", "sub/deep/d.tif"]);
    assert_eq!(inputs.found[2].read().unwrap(), b"sub/c.webp");
    assert_eq!(inputs.found[2].size, 10);
    assert!(inputs.found[2].modified > 0);
}

#[test]
fn a_file_given_twice_counts_once_and_equal_names_are_refused() {
    let dir = tree(&["x/a.png", "y/a.png", "x/odd"]);
    let at = |p: &str| dir.path().join(p);
    let inputs = collect(&[at("x"), at("x/a.png"), at("x/../x/a.png"), at("x/odd")], false, None).unwrap();
    assert_eq!(names(&inputs), ["a.png", "odd"]);
    match collect(&[at("x"), at("y")], false, None) {
        Err(Error::Usage(message)) => {
            assert!(message.contains("x/a.png") && message.contains("y/a.png"), "{message}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn globs_name_from_their_fixed_part() {
    let dir = tree(&["p/x/1.png", "p/y/1.png", "p/y/2.txt", "p/y/[odd].png"]);
    let inputs = collect(&[dir.path().join("p/*/*.png")], false, None).unwrap();
    assert_eq!(names(&inputs), ["x/1.png", "y/1.png", "y/[odd].png"]);
    assert_eq!(names(&collect(&[dir.path().join("p/y/*")], false, None).unwrap()), ["1.png", "[odd].png"]);
    // A file whose name looks like a pattern is that file.
    assert_eq!(names(&collect(&[dir.path().join("p/y/[odd].png")], false, None).unwrap()), ["[odd].png"]);
    let none = collect(&[dir.path().join("p/*.bmp")], false, None).unwrap();
    assert!(none.found.is_empty() && none.failed[0].reason.contains("no file matches"));
}

#[test]
fn lists_of_paths() {
    let dir = tree(&["in/a/1.png", "in/b/1.png", "in/b/2.png"]);
    let text = dir.path().join("list.txt");
    fs::write(&text, "\u{feff}in/a/1.png\r\n\n  in/b/1.png  \nmissing.png\nin\n").unwrap();
    let inputs = collect(&[&text], false, None).unwrap();
    let found: Vec<_> = inputs.found.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(found, ["in/a/1.png", "in/b/1.png"]);
    assert_eq!(inputs.failed.len(), 2);
    assert!(inputs.failed[0].name.ends_with("missing.png"), "{:?}", inputs.failed);

    let lines = dir.path().join("list.jsonl");
    let absolute = |p: &str| serde_json::to_string(&dir.path().join(p)).unwrap();
    let content = format!(
        "{}\n{{\"image\": {}, \"caption\": \"x\"}}\n{{\"caption\": \"x\"}}\n{{\"path\": tru\n",
        absolute("in/a/1.png"),
        absolute("in/b/2.png")
    );
    fs::write(&lines, content).unwrap();
    let inputs = collect(&[&lines], false, None).unwrap();
    let found: Vec<_> = inputs.found.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(found, ["a/1.png", "b/2.png"], "absolute paths are named from their common directory");
    assert!(inputs.failed[0].name.ends_with("list.jsonl:3") && inputs.failed[1].name.ends_with(":4"));
}

fn tar_of(path: &Path, members: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.finish().unwrap();
}

#[test]
fn tar_members_are_read_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard-000.tar");
    let long = "k".repeat(120) + "/0002.png";
    tar_of(
        &path,
        &[("0001.jpg", b"first"), ("0001.txt", b"a caption"), (&long, b"second"), ("0001.jpg", b"again")],
    );
    let inputs = collect(&[&path], false, None).unwrap();
    assert_eq!(names(&inputs), ["0001.jpg", &long]);
    assert_eq!(inputs.found[0].read().unwrap(), b"again", "the later member counts");
    assert_eq!(inputs.found[1].read().unwrap(), b"second");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was unpacked");
}

#[test]
fn broken_archives_keep_what_precedes_the_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.tar");
    tar_of(&path, &[("1.png", b"whole"), ("2.png", &[7; 5000])]);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..2500]).unwrap();
    let inputs = collect(&[&path], false, None).unwrap();
    assert_eq!(inputs.found.len(), 1);
    assert_eq!(inputs.found[0].read().unwrap(), b"whole");
    assert!(inputs.failed[0].reason.contains("2.png"), "{:?}", inputs.failed);

    fs::write(&path, "not a tar archive at all, but text that goes on ".repeat(40)).unwrap();
    let inputs = collect(&[&path], false, None).unwrap();
    assert!(inputs.found.is_empty() && inputs.failed.len() == 1, "{inputs:?}");
}

#[test]
fn what_cannot_be_opened_fails_alone() {
    let dir = tree(&["a.png", "b.tar.gz"]);
    let arguments: Vec<PathBuf> =
        ["a.png", "nowhere.png", "b.tar.gz"].iter().map(|n| dir.path().join(n)).collect();
    let inputs = collect(&arguments, false, None).unwrap();
    assert_eq!(inputs.found.len(), 1);
    assert_eq!(inputs.failed.len(), 2);
    assert!(inputs.failed[1].reason.contains("compressed"), "{:?}", inputs.failed);
}

#[cfg(unix)]
#[test]
fn unreadable_directories_and_link_loops_fail_alone() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tree(&["a.png", "locked/b.png", "loop/c.png"]);
    symlink(dir.path().join("loop"), dir.path().join("loop/again")).unwrap();
    symlink(dir.path().join("gone.png"), dir.path().join("dangling.png")).unwrap();
    let locked = dir.path().join("locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let root = fs::read_dir(&locked).is_ok(); // permissions do not bind root
    let inputs = collect(&[dir.path()], true, None).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    let failed = |part: &str| inputs.failed.iter().any(|f| f.name.contains(part));
    assert!(failed("loop/again") && failed("dangling.png"), "{:?}", inputs.failed);
    assert!(root || failed("locked"), "{:?}", inputs.failed);
    assert!(
        inputs.found.iter().any(|i| i.name == "a.png") && inputs.found.iter().any(|i| i.name == "loop/c.png")
    );
}
