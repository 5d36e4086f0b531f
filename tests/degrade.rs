//! Degradations against the official functions, on numbers that `tools/golden/degrade.py` wrote.

use std::path::Path;

use dreamclear::data::degrade::config::UnsharpMask;
use dreamclear::data::degrade::filter::Filter;
use dreamclear::data::degrade::jpeg;
use dreamclear::data::degrade::kernels::Kernel;
use dreamclear::data::degrade::resize::{Interpolation, interpolate, interpolate_by};
use dreamclear::data::degrade::{Degradation, Drawn, apply};
use dreamclear::data::pixels::FloatImage;
use dreamclear::weights::WeightSet;
use serde_json::json;

struct Golden(WeightSet);

impl Golden {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/degrade.safetensors");
        Golden(WeightSet::open(path).unwrap())
    }

    /// A picture in 0..1; photos are stored in levels of 255.
    fn image(&self, name: &str) -> FloatImage {
        let tensor = self.0.get(name).unwrap_or_else(|| panic!("{name}"));
        let [h, w, c] = tensor.shape()[..] else { panic!("{name} is HWC") };
        let mut data = tensor.to_f32().into_owned();
        if name.starts_with("photo.") {
            data.iter_mut().for_each(|x| *x = (f64::from(*x) / 255.0) as f32);
        }
        FloatImage::new(h, w, c, data)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_str(&self.0.metadata()[name]).unwrap()
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        self.0.iter().filter_map(|(n, _)| n.strip_prefix(prefix).map(str::to_owned)).collect()
    }
}

fn worst(got: &FloatImage, want: &FloatImage) -> f32 {
    assert_eq!((got.height, got.width, got.channels), (want.height, want.width, want.channels));
    let worst = got.data.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.data.iter().all(|x| x.is_finite()));
    worst
}

#[track_caller]
fn close(name: &str, got: &FloatImage, want: &FloatImage, bound: f32) {
    let worst = worst(got, want);
    println!("{name}: {worst:.1e}");
    assert!(worst <= bound, "{name}: differs by {worst:.2e}, at most {bound:.0e} allowed");
}

#[test]
fn kernels_and_filtering() {
    let golden = Golden::open();
    let kernels: Vec<Kernel> = golden.json("kernels");
    assert_eq!(kernels.len(), 10);
    for (i, kernel) in kernels.iter().enumerate() {
        let want = golden.0.get(&format!("kernel.{i}")).unwrap().to_f32().into_owned();
        let got = kernel.weights();
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(&want).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
        // Half a unit in the last place of f32 weights of at most 1.
        assert!(worst <= 6e-8, "{kernel:?}: {worst:e}");
    }
    let (small, wide) = (golden.image("photo.small"), golden.image("photo.wide"));
    for i in [2, 7, 9] {
        let want = golden.image(&format!("filter.{i}"));
        close(&format!("filter {i}"), &kernels[i].filter().apply(&small), &want, 2e-6);
    }
    close("cv2.filter2D", &kernels[3].filter().apply(&wide), &golden.image("cv2.filter"), 2e-6);
    // A round kernel is applied by rows and columns; its square is the official way.
    for round in [kernels[0], kernels[1]] {
        let square = Filter::square(round.size(), &round.weights()).apply(&small);
        close("separable", &round.filter().apply(&small), &square, 1e-6);
    }
}

#[test]
fn resizing() {
    let golden = Golden::open();
    let small = golden.image("photo.small");
    let mut corner = FloatImage::zeros(24, 31, 3);
    for y in 0..24 {
        corner.row_mut(y).copy_from_slice(&small.row(y)[..31 * 3]);
    }
    let names = golden.names("resize.");
    assert_eq!(names.len(), 21);
    for name in names {
        let (mode, size) = name.split_once('.').unwrap();
        let mode: Interpolation = serde_json::from_value(json!(mode)).unwrap();
        let got = match size.split_once('x') {
            Some((h, w)) => interpolate(&small, h.parse().unwrap(), w.parse().unwrap(), mode),
            None => interpolate_by(&corner, size.parse().unwrap(), mode),
        };
        close(&name, &got, &golden.image(&format!("resize.{name}")), 2e-6);
    }
    let got = interpolate(&golden.image("photo.wide"), 17, 23, Interpolation::Bilinear);
    close("cv2.resize", &got, &golden.image("cv2.resize"), 2e-6);
}

#[test]
fn real_valued_jpeg() {
    let golden = Golden::open();
    let names = golden.names("jpeg.");
    assert_eq!(names.len(), 6);
    for name in names {
        let (photo, quality) = name.split_once('.').unwrap();
        let got = jpeg::compress(&golden.image(&format!("photo.{photo}")), quality.parse().unwrap());
        close(&name, &got, &golden.image(&format!("jpeg.{name}")), 1e-5);
    }
}

#[test]
fn sharpening() {
    let golden = Golden::open();
    let mask = UnsharpMask { taps: 51, sigma: 8.0, weight: 0.5, threshold: 10.0 };
    close("usm", &mask.apply(&golden.image("photo.usm")), &golden.image("usm"), 1e-5);
}

/// Whole chains, with noise: the golden script draws the same fields by its own Philox and distributions.
#[test]
fn the_official_chain_with_the_same_draws() {
    let golden = Golden::open();
    let chains: Vec<Drawn> = golden.json("chains");
    assert_eq!(chains.len(), 4);
    for (i, drawn) in chains.iter().enumerate() {
        drawn.check().unwrap();
        let pair = apply(drawn, &golden.image(&format!("photo.chain{i}"))).unwrap();
        close(&format!("chain {i} lr"), &pair.lr, &golden.image(&format!("realesrgan.{i}.lr")), 1e-5);
        if i == 0 {
            close("chain gt", &pair.gt, &golden.image("realesrgan.0.gt"), 1e-5);
            close("chain sr", &pair.sr_bicubic, &golden.image("realesrgan.0.sr_bicubic"), 1e-5);
        }
    }
}

/// DiffBIR's steps through OpenCV. Encoders and decoders round differently: a level on average.
#[test]
fn the_first_order_chain_of_diffbir() {
    let golden = Golden::open();
    let cases: Vec<(Kernel, f64, f64, f64)> = golden.json("codeformer");
    let image = golden.image("photo.chain0");
    for (i, (blur, shrink, sigma, quality)) in cases.into_iter().enumerate() {
        let mut drawn = serde_json::to_value(Degradation::code_former().draw(11, 0, i as u64)).unwrap();
        drawn["chain"]["blur"] = json!(blur);
        drawn["chain"]["shrink"] = json!(shrink);
        drawn["chain"]["noise"] = json!({"model": "gaussian", "sigma": sigma, "grey": false});
        drawn["chain"]["quality"] = json!(quality);
        let drawn: Drawn = serde_json::from_value(drawn).unwrap();
        let got = apply(&drawn, &image).unwrap().sr_bicubic;
        let want = golden.image(&format!("codeformer.{i}"));
        let squares: f64 = got.data.iter().zip(&want.data).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let rms = (squares / got.data.len() as f64).sqrt() * 255.0;
        println!("codeformer {i}: {rms:.2} levels");
        assert!(rms <= 1.0, "codeformer {i}: {rms} levels");
    }
}
