//! Readers against files that PyTorch wrote, and against files that nobody should have written.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::tensor::{DType, HostTensor};

fn golden(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/weights").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "pth"));
    files.sort();
    assert!(files.len() > 10);
    files
}

fn good(name: &str) -> PathBuf {
    golden("good").into_iter().find(|p| p.file_stem().unwrap() == name).unwrap()
}

/// Opens bytes as a file of that name would be.
fn open_bytes(name: &str, bytes: &[u8]) -> crate::Result<WeightSet> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    WeightSet::open(&path)
}

fn message(result: crate::Result<WeightSet>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn torch_files_hold_what_torch_load_finds() {
    for path in golden("good") {
        let found = WeightSet::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let expected = WeightSet::open(path.with_extension("safetensors")).unwrap();
        assert_eq!(found.len(), expected.len(), "{}", path.display());
        for (name, want) in expected.iter() {
            let got = found.get(name).unwrap_or_else(|| panic!("{}: {name}", path.display()));
            assert_eq!(got.dtype(), want.dtype(), "{}: {name}", path.display());
            assert_eq!(got.shape(), want.shape(), "{}: {name}", path.display());
            assert_eq!(got.bytes(), want.bytes(), "{}: {name}", path.display());
        }
    }
}

#[test]
fn contiguous_tensors_share_the_mapped_file() {
    let set = WeightSet::open(good("views_zip")).unwrap();
    let at = |name: &str| set.get(name).unwrap().bytes().as_ptr() as usize;
    assert_eq!(at("rows"), at("whole") + 6 * 4);
    assert_eq!(at("scalar"), at("whole") + 15 * 4);
}

#[test]
fn sections_and_metadata_are_reported() {
    let ema = WeightSet::open(good("ema")).unwrap();
    assert_eq!(ema.section(), Some("params_ema"));
    assert_eq!(ema.metadata()["unused_sections"], "params");
    assert_eq!(ema.container(), Container::TorchZip);
    let lightning = WeightSet::open(good("lightning")).unwrap();
    assert_eq!(lightning.section(), Some("state_dict"));
    assert_eq!(lightning.metadata()["global_step"], "12");
    assert_eq!(WeightSet::open(good("data_parallel")).unwrap().section(), Some("model.state_dict"));
    assert_eq!(WeightSet::open(good("plain_legacy")).unwrap().container(), Container::TorchLegacy);
    assert_eq!(WeightSet::open(good("plain_zip")).unwrap().section(), None);
}

#[test]
fn evil_pickles_are_refused_by_name() {
    for path in golden("evil") {
        let import = fs::read_to_string(path.with_extension("txt")).unwrap();
        let error = message(WeightSet::open(&path));
        assert!(
            error.contains(&format!("wants to import `{}`", import.trim())),
            "{}: {error}",
            path.display()
        );
        assert!(error.contains("nothing in it was executed"), "{error}");
    }
}

#[test]
fn truncated_files_are_errors_at_every_length() {
    for path in golden("good").iter().chain(&golden("evil")) {
        let whole = fs::read(path).unwrap();
        for len in 0..whole.len() {
            let parsed = match whole[..len].to_vec() {
                cut if torch::is_legacy(&cut) => torch::parse_legacy(&cut.into()).map(|_| ()),
                cut => torch::parse_zip(&cut.into()).map(|_| ()),
            };
            assert!(parsed.is_err(), "{} cut to {len} bytes", path.display());
        }
        let (set, path) = (fs::read(path.with_extension("safetensors")), path.display());
        for len in 0..set.as_ref().map_or(0, Vec::len) {
            let cut = set.as_ref().unwrap()[..len].to_vec();
            assert!(safetensors::parse(&cut.into()).is_err(), "{path} as safetensors cut to {len} bytes");
        }
    }
}

#[test]
fn a_flipped_byte_is_an_error_or_harmless() {
    for name in ["views_zip", "window_legacy", "metadata"] {
        let whole = fs::read(good(name)).unwrap();
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                // Must return: whatever is accepted has passed the size checks.
                if torch::is_legacy(&bytes) {
                    let _ = torch::parse_legacy(&bytes.into());
                } else {
                    let _ = torch::parse_zip(&bytes.into());
                }
            }
        }
    }
}

#[test]
fn wrong_files_are_told_apart() {
    for (name, bytes, says) in [
        ("a.pth", &b"<!DOCTYPE html><html>"[..], "web page"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.pth", b"\x80\x04N.", "bare pickle"),
        ("a.pth", b"hello, world", "68 65 6c 6c"),
        ("a.pth", b"", "empty"),
        ("a.safetensors", b"abc", "3 bytes"),
        ("a.pth", b"PK\x03\x04 and then nothing", "truncated"),
        ("a.json", b"{\"a\": 1}", "weight_map"),
        ("a.bin", b"\x47\x6b\x30\x01 half", "a.param is missing"),
    ] {
        let error = message(open_bytes(name, bytes));
        assert!(error.contains(says), "{name}: {error}");
    }
    let error = message(WeightSet::open("/nonexistent/x.pth"));
    assert!(error.starts_with("cannot open /nonexistent/x.pth: "), "{error}");
}

fn safetensors_bytes(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn damaged_safetensors_headers_are_one_sentence() {
    let tensor =
        |begin: usize, end: usize| format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":[{begin},{end}]}}"#);
    let cases = [
        (format!(r#"{{"a":{},"b":{}}}"#, tensor(0, 4), tensor(2, 6)), 8, "`b` overlap"),
        (format!(r#"{{"a":{}}}"#, tensor(0, 4)), 8, "another total size"),
        (format!(r#"{{"a":{}}}"#, tensor(0, 400)), 8, "do not agree"),
        (format!(r#"{{"a":{},"a":{}}}"#, tensor(0, 4), tensor(0, 4)), 4, "`a` stands twice"),
        (
            r#"{"a":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}}"#.into(),
            1,
            "`a` is stored as F8_E5M2",
        ),
        (r#"{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,1]}}"#.into(), 1, "Q7"),
        (
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}}"#.into(),
            4,
            "larger than any",
        ),
        ("{".into(), 0, "not valid JSON|damaged"),
    ];
    for (header, data, says) in cases {
        let error = message(open_bytes("x.safetensors", &safetensors_bytes(&header, data)));
        assert!(says.split('|').any(|s| error.contains(s)), "{header}: {error}");
        assert_eq!(error.lines().count(), 1);
    }
    let mut huge = (1u64 << 60).to_le_bytes().to_vec();
    for tail in ["", "{", "{\"a\":"] {
        huge.truncate(8);
        huge.extend(tail.as_bytes());
        let error = message(open_bytes("x.safetensors", &huge));
        assert!(error.contains("claims 1152921504606846976 bytes"), "{error}");
    }
}

#[test]
fn safetensors_round_trip_in_order_and_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let tensors = [
        ("z\n\"é", HostTensor::from_f32([3], vec![1.0, f32::NAN, -0.0])),
        ("half", HostTensor::from_f32([2], vec![1.5, 2.5]).cast(DType::F16)),
        ("empty", HostTensor::zeros(DType::U8, [0, 4])),
        ("scalar", HostTensor::from_i64([], vec![-1])),
        ("a", HostTensor::from_f32([1], vec![4.0])),
    ];
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::write(&path, tensors.iter().map(|(n, t)| (*n, t)), &metadata, None).unwrap();
    let set = WeightSet::open(&path).unwrap();
    assert_eq!(set.metadata(), &metadata);
    // Same widths keep the given order.
    assert_eq!(set.names().collect::<Vec<_>>(), ["scalar", "z\n\"é", "a", "half", "empty"]);
    for (name, tensor) in &tensors {
        let back = set.get(name).unwrap();
        assert_eq!(
            (back.dtype(), back.shape(), back.bytes()),
            (tensor.dtype(), tensor.shape(), tensor.bytes())
        );
        assert_eq!(back.bytes().as_ptr() as usize % tensor.dtype().size(), 0);
    }
    let twice = [("a", &tensors[0].1), ("a", &tensors[1].1)];
    assert!(safetensors::write(&path, twice, &metadata, None).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written remains");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_nothing_behind() {
    // /dev/full cannot be renamed over, so a size limit stands in for the full disk.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let big = HostTensor::zeros(DType::F32, [1 << 20]);
    let file = fs::File::create(dir.path().join("probe")).unwrap();
    drop(file);
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "weights::tests::helper_writes_until_the_limit", "--ignored", "--nocapture"])
        .env("DREAMCLEAR_TEST_WRITE", &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("refused: cannot write"), "{said}{}", String::from_utf8_lossy(&status.stderr));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the probe is left");
    safetensors::write(&path, [("a", &big)], &Default::default(), None).unwrap();
}

/// Runs in a process of its own, where files may not grow beyond 64 KiB.
#[test]
#[ignore = "helper of a_full_disk_leaves_nothing_behind"]
#[cfg(target_os = "linux")]
fn helper_writes_until_the_limit() {
    let Some(path) = std::env::var_os("DREAMCLEAR_TEST_WRITE") else { return };
    let limit = libc::rlimit { rlim_cur: 1 << 16, rlim_max: 1 << 16 };
    // SAFETY: plain system calls on this process; `limit` outlives the call.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let big = HostTensor::zeros(DType::F32, [1 << 20]);
    let error = safetensors::write(Path::new(&path), [("a", &big)], &Default::default(), None).unwrap_err();
    println!("refused: {error}");
}

#[test]
fn shards_and_directories() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let one = HostTensor::from_f32([1], vec![1.0]);
    let write = |name: &str, keys: &[&str]| {
        safetensors::write(&at(name), keys.iter().map(|k| (*k, &one)), &Default::default(), None).unwrap();
    };
    assert!(message(WeightSet::open(dir.path())).contains("found none"));
    write("model-00001-of-00002.safetensors", &["a", "b"]);
    fs::copy(good("plain_zip"), at("model-00002-of-00002.bin")).unwrap();
    assert!(message(WeightSet::open(dir.path())).contains("index.json"));
    let index = |map: serde_json::Value| {
        let text = serde_json::json!({"metadata": {"total_size": 3}, "weight_map": map}).to_string();
        fs::write(at("model.safetensors.index.json"), text).unwrap();
    };
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.bin");
    index(serde_json::json!({"b": first, "a.weight": second, "a": first}));
    let set = WeightSet::open(dir.path()).unwrap();
    assert_eq!(set.names().collect::<Vec<_>>(), ["b", "a.weight", "a"]);
    assert_eq!(set.file_of("a.weight").unwrap(), at(second));
    assert_eq!(set.container(), Container::Sharded);
    assert_eq!(set.metadata()["total_size"], "3");

    index(serde_json::json!({"b": first, "gone": second}));
    assert!(message(WeightSet::open(dir.path())).contains("gone (in model-00002-of-00002.bin)"));
    index(serde_json::json!({"b": "absent.safetensors"}));
    assert!(message(WeightSet::open(dir.path())).contains("absent.safetensors"));
    // An index that names itself would otherwise never end.
    index(serde_json::json!({"b": "model.safetensors.index.json"}));
    assert!(message(WeightSet::open(dir.path())).contains("shard"));

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let write = |name: &str, key: &str| {
        safetensors::write(&at(name), [(key, &one)], &Default::default(), None).unwrap();
    };
    fs::create_dir(at("vae")).unwrap();
    write("vae/diffusion_pytorch_model.fp16.safetensors", "half");
    assert!(message(WeightSet::open(dir.path())).contains("vae"));
    assert!(WeightSet::open(at("vae")).unwrap().contains("half"));
    write("vae/diffusion_pytorch_model.safetensors", "full");
    assert!(WeightSet::open(at("vae")).unwrap().contains("full"));
    fs::copy(good("plain_zip"), at("vae/optimizer.pt")).unwrap();
    fs::copy(good("plain_zip"), at("vae/diffusion_pytorch_model.bin")).unwrap();
    assert!(WeightSet::open(at("vae")).unwrap().contains("full"));
    fs::remove_file(at("vae/diffusion_pytorch_model.safetensors")).unwrap();
    // Full precision in an older container, rather than half of it in a newer one.
    assert!(WeightSet::open(at("vae")).unwrap().contains("a.weight"));
    write("vae/diffusion_pytorch_model.safetensors", "full");
    write("vae/other.safetensors", "other");
    assert!(message(WeightSet::open(at("vae"))).contains("several"));
}

#[test]
fn colliding_names_are_refused() {
    let both = [("module.a", 1.0), ("a", 2.0)].map(|(n, x)| (n, HostTensor::from_f32([1], vec![x])));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    safetensors::write(&path, both.iter().map(|(n, t)| (*n, t)), &Default::default(), None).unwrap();
    assert!(message(WeightSet::open(&path)).contains("`a`"));
}

/// What pickles of tensors consist of.
const INSTRUCTIONS: &[&[u8]] = &[
    b"(",
    b"]",
    b"}",
    b")",
    b"t",
    b"R",
    b"Q",
    b"K\x02",
    b"N",
    b"X\x07\x00\x00\x00storage",
    b"u",
    b"s",
    b"a",
    b"e",
    b"2",
    b"0",
    b"1",
    b"\x94",
    b"h\x01",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"b",
    b"ccollections\nOrderedDict\n",
    b"\x85",
    b"\x86",
    b"\x87",
    b"o",
    b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x92",
    b"\x81",
];

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let blob = Blob::from(bytes);
        let _ = torch::parse_zip(&blob);
        let _ = torch::parse_legacy(&blob);
        let _ = safetensors::parse(&blob);
        let _ = ncnn::parse_param(blob.bytes());
        let _ = sharded::parse_index(blob.bytes());
    }

    /// Pickles made of real instructions reach deeper than noise does.
    #[test]
    fn arbitrary_pickles_never_panic(
        ops in proptest::collection::vec(
            proptest::sample::select(INSTRUCTIONS),
            0..60,
        ),
    ) {
        let mut stream = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.}.".to_vec();
        stream.extend(ops.concat());
        stream.extend(b".].");
        let _ = torch::parse_legacy(&stream.into());
    }
}

/// A legacy file around `pickle`, with no storages.
fn stream(pickle: &[u8]) -> Blob {
    [b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.}.", pickle, b".]."]
        .concat()
        .into()
}

#[test]
fn bombs_are_refused_quickly() {
    let refuse = |pickle: Vec<u8>| torch::parse_legacy(&stream(&pickle)).map(|_| ()).unwrap_err();
    // A dictionary that holds itself.
    assert!(refuse(b"}q\x00X\x05\x00\x00\x00modelh\x00s".to_vec()).contains("without end"));
    assert!(refuse(b"}q\x00X\x01\x00\x00\x00ah\x00s".to_vec()).contains("without end"));
    // Thirty dictionaries, each holding the next twice: 2^30 paths.
    let mut laughs = b"}".to_vec();
    for _ in 0..30 {
        laughs.extend(b"q\x00}X\x01\x00\x00\x00ah\x00sX\x01\x00\x00\x00bh\x00s");
    }
    assert!(refuse(laughs).contains("without end"));
    // One long tuple, copied by every call.
    let mut copies = [b"(".to_vec(), b"N".repeat(10_000), b"tq\x00".to_vec()].concat();
    copies.extend(b"ctorch\nSize\nh\x00\x85R".repeat(10_000));
    assert!(refuse(copies).contains("over and over"));
    // Nested deeper than any stack.
    let deep = [b"]".repeat(200_000), b"a".repeat(199_999)].concat();
    assert!(refuse(deep).contains("expected a dictionary"));
    // Lengths that the file does not have.
    assert!(refuse(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()).contains("truncated"));
    assert!(refuse(b"\x8b\xff\xff\xff\x7f".to_vec()).contains("truncated"));
}
