//! Colour fixes against the official functions, on numbers that `tools/golden/color_fix.py` wrote.

use std::path::Path;

use dreamclear::data::color_fix::ColorFix;
use dreamclear::data::pixels::FloatImage;
use dreamclear::weights::WeightSet;

#[test]
fn equal_the_official_functions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/color_fix.safetensors");
    let golden = WeightSet::open(&path).unwrap();
    let image = |name: &str| {
        let tensor = golden.get(name).unwrap_or_else(|| panic!("{name}"));
        let [h, w, c] = tensor.shape()[..] else { panic!("{name} is HWC") };
        FloatImage::new(h, w, c, tensor.to_f32().into_owned())
    };
    let cases: Vec<String> = serde_json::from_str(&golden.metadata()["cases"]).unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        for (fix, name) in [(ColorFix::Wavelet, "wavelet"), (ColorFix::Adain, "adain")] {
            let got = fix.apply(image(&format!("{case}.content")), &image(&format!("{case}.style")));
            let want = image(&format!("{case}.{name}"));
            let square = |x: f64| x * x;
            let pairs = || got.data.iter().zip(&want.data).map(|(&a, &b)| (f64::from(a), f64::from(b)));
            let error = (pairs().map(|(a, b)| square(a - b)).sum::<f64>()
                / pairs().map(|(_, b)| square(b)).sum::<f64>())
            .sqrt();
            println!("{case} {name}: {error:.1e}");
            assert!(error <= 1e-6, "{case} {name}: relative L2 {error:.2e}");
        }
    }
}
