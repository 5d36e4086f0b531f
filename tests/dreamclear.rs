//! The whole restoration against the official script, replicated step for step with tiny networks
//! (`tools/golden/restore.py`), and what its users may rely on: same seed same bytes, faults told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use dreamclear::data::image::{Channels, Photo, Samples};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::{WeightSet, npz, safetensors};
use serde_json::Value;

mod support;

use support::relative;

/// A golden case as files on disk.
struct Case {
    folder: tempfile::TempDir,
    tensors: BTreeMap<String, HostTensor>,
    metadata: BTreeMap<String, String>,
    case: Value,
    options: Value,
}

impl Case {
    fn new(name: &str) -> Case {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/restore_{name}.safetensors"));
        let (tensors, metadata) = support::golden(&path);
        let json = |key: &str| serde_json::from_str(&metadata[key]).unwrap();
        let case = Case {
            folder: tempfile::tempdir().unwrap(),
            case: json("case"),
            options: json("options"),
            tensors,
            metadata,
        };
        for network in ["swinir", "vae", "dreamclear"] {
            let folder = case.path(network);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("config.json"), &case.metadata[&format!("{network}_config")]).unwrap();
            case.write_weights(network, |_| {});
        }
        case.write_picture("picture.png", &case.tensors["image"]);
        let noise = |key: &str| (key.to_owned(), case.tensors[&format!("{name}.{key}")].clone());
        save(&case.path("noise.safetensors"), [noise("noise_T"), noise("noises")]);
        std::fs::create_dir(case.path("features")).unwrap();
        case.write_features("features/picture.npz", |_| {});
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_picture(&self, name: &str, pixels: &HostTensor) {
        let [h, w, _] = pixels.shape()[..] else { panic!("{pixels:?}") };
        let photo = Photo::new(h, w, Channels::Rgb, Samples::U8(pixels.bytes().to_vec()));
        photo.save(self.path(name), dreamclear::data::image::Format::Png, 100).unwrap();
    }

    /// A network's weights, after a change for the worse.
    fn write_weights(&self, network: &str, spoil: impl FnOnce(&mut BTreeMap<String, HostTensor>)) {
        let prefix = format!("{network}.");
        let strip = |(k, t): (&String, &HostTensor)| Some((k.strip_prefix(&prefix)?.to_owned(), t.clone()));
        let mut weights = self.tensors.iter().filter_map(strip).collect();
        spoil(&mut weights);
        save(&self.path(network).join("model.safetensors"), weights);
    }

    fn write_features(&self, name: &str, change: impl FnOnce(&mut BTreeMap<String, HostTensor>)) {
        let mut arrays = BTreeMap::from([
            ("caption_feature".to_owned(), self.tensors["caption_feature"].clone()),
            ("attention_mask".to_owned(), self.tensors["attention_mask"].clone()),
        ]);
        change(&mut arrays);
        npz::write(&self.path(name), arrays.iter().map(|(n, t)| (n.as_str(), t)), true).unwrap();
    }

    /// The arguments that make it the official run, without captions, noise and output.
    fn args(&self) -> Vec<String> {
        let o = |key: &str| self.options[key].to_string();
        let pair = self.options["untiled_latent"].as_array().unwrap();
        let mut args: Vec<String> = ["restore", "--model", "dreamclear", "--threads", "2"].map(String::from).into();
        for network in ["swinir", "vae", "dreamclear"] {
            args.extend([format!("--{network}"), self.path(network).display().to_string()]);
        }
        args.extend(["--weights".into(), self.folder.path().display().to_string()]);
        args.extend(["--upscale".into(), self.case["upscale"].to_string()]);
        args.extend(["--steps".into(), self.case["steps"].to_string()]);
        args.extend(["--color-fix".into(), self.case["color_align"].as_str().unwrap().into()]);
        args.extend(["--min-size".into(), o("min_size"), "--cfg".into(), o("cfg_scale")]);
        args.extend(["--tile".into(), o("latent_tiled_size"), "--tile-overlap".into(), o("latent_tiled_overlap")]);
        args.extend(["--untiled-latent".into(), format!("{}x{}", pair[0], pair[1])]);
        args.extend(["--start-point".into(), o("start_point")]);
        args
    }

    fn features(&self) -> [String; 2] {
        ["--caption-features".into(), self.path("features").display().to_string()]
    }

    /// `restore` of `input` with more arguments.
    fn restore(&self, input: &str, output: &str, more: &[&str]) -> Output {
        let mut command = self.command(input, output, more);
        command.output().unwrap()
    }

    fn command(&self, input: &str, output: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
        command.args(self.args()).arg(self.path(input)).arg("-o").arg(self.path(output)).args(more);
        command.stdin(Stdio::null());
        command
    }
}

fn save(path: &Path, tensors: impl IntoIterator<Item = (String, HostTensor)>) {
    let tensors: Vec<_> = tensors.into_iter().collect();
    safetensors::write(path, tensors.iter().map(|(n, t)| (n.as_str(), t)), &Default::default(), None).unwrap();
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn succeeds(out: &Output) {
    assert!(out.status.success(), "{}", stderr(out));
}

/// Values that differ by one, as a share; a greater difference fails.
fn off_by_one(got: &[u8], expected: &[u8]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let differences: Vec<u8> = got.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).collect();
    let worst = differences.iter().max().unwrap();
    assert!(*worst <= 1, "worst difference {worst}");
    differences.iter().filter(|&&d| d == 1).count() as f64 / got.len() as f64
}

/// Replays a case: every intermediate, then the picture.
fn replay(name: &str) {
    let case = Case::new(name);
    let features = case.features();
    let (noise, dump) = (case.path("noise.safetensors"), case.path("dump.safetensors"));
    let more = ["--noise", noise.to_str().unwrap(), "--dump", dump.to_str().unwrap(), &features[0], &features[1]];
    succeeds(&case.restore("picture.png", "out.png", &more));
    let dumped = WeightSet::open(&dump).unwrap();
    let noise: BTreeMap<String, String> = serde_json::from_str(&case.metadata["f32_noise"]).unwrap();
    let lq = dumped.get("img_lq_u8").unwrap();
    assert_eq!(lq.bytes(), case.tensors["img_lq_u8"].bytes(), "the resize is PIL's to the bit");
    for key in ["img_pre", "latent_lq", "latent_pre", "z_T", "samples", "latent_out", "decoded", "color_fixed"] {
        let got = dumped.get(key).unwrap_or_else(|| panic!("{key} is not dumped"));
        // Large intermediates are not in every golden file.
        let Some(expected) = case.tensors.get(key) else { continue };
        let error = relative(got, expected);
        println!("{name:8} {key:12} {error:.1e} (official f32 against f64: {})", noise[key]);
        assert!(error <= 1e-5, "{key}: {error:.2e}");
    }
    let photo = Photo::load(case.path("out.png")).unwrap();
    let expected = &case.tensors["output"];
    assert_eq!([photo.height, photo.width, 3], expected.shape());
    let share = off_by_one(&photo.samples_u8(), expected.bytes());
    println!("{name:8} picture: {share:.1e} off by one (official f32 against f64: {})", case.metadata["f32_output_off_by_one"]);
    assert!(share <= 1e-3, "{share:.1e} of the values are off by one");
}

#[test]
fn an_untiled_picture_in_fifty_steps_is_the_official_one() {
    replay("untiled");
}

#[test]
fn a_tiled_picture_is_the_official_one() {
    replay("tiled");
}

#[test]
fn a_picture_with_adain_that_is_resized_last_is_the_official_one() {
    replay("adain");
}
