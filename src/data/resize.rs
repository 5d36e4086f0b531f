//! Bicubic resizing with the exact semantics of the two libraries DreamClear was built on.
//!
//! | function | kernel | when shrinking | arithmetic | for |
//! | --- | --- | --- | --- | --- |
//! | [`bicubic_u8`] | a = −0.5 | widened | Pillow's 8-bit fixed point, bit-exact | the first step of `restore` |
//! | [`bicubic_antialias`] | a = −0.5 | widened | f32 | the same for 16-bit photos, alpha |
//! | [`bicubic_torch`] | a = −0.75 | not widened | f32 | the last step (`torch.interpolate`) |
//!
//! All are separable, horizontal pass first.

use rayon::prelude::*;

use super::image::{Channels, MAX_PIXELS, Photo, Samples};
use super::pixels::FloatImage;
pub use super::resize_torch::bicubic_torch;
use crate::{Error, Result};

/// Fractional bits of Pillow's 8-bit weights.
const PRECISION: u32 = 22;

/// For each output index along one axis: the first input index and the weights from there on.
struct Taps {
    first: Vec<usize>,
    /// `count` weights an output, zero-padded at the end.
    weights: Vec<f64>,
    count: usize,
}

/// Keys' cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

impl Taps {
    fn of(&self, i: usize) -> (usize, &[f64]) {
        (self.first[i], &self.weights[i * self.count..(i + 1) * self.count])
    }

    /// Pillow's `precompute_coeffs` (src/libImaging/Resample.c): a = −0.5, widened when
    /// shrinking, cut at the border and normalised.
    fn pillow(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = 2.0 * filter_scale;
        let inverse = 1.0 / filter_scale;
        let count = (support.ceil() as usize * 2 + 1).min(input);
        let mut taps = Taps { first: Vec::with_capacity(output), weights: vec![0.0; output * count], count };
        for i in 0..output {
            let centre = (i as f64 + 0.5) * scale;
            let lo = ((centre - support + 0.5) as i64).max(0) as usize;
            let hi = ((centre + support + 0.5) as usize).min(input);
            // Keeping `first + count` inside the input lets loops run over all `count` weights.
            let first = lo.min(input - count);
            let weights = &mut taps.weights[i * count..(i + 1) * count];
            let mut sum = 0.0;
            for j in lo..hi {
                let w = cubic(((j - lo) as f64 + lo as f64 - centre + 0.5) * inverse, -0.5);
                weights[j - first] = w;
                sum += w;
            }
            if sum != 0.0 {
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            taps.first.push(first);
        }
        taps
    }
}

/// Pillow's `Image.resize((new_width, new_height), BICUBIC)` of 8-bit pixels
/// `[height, width, channels]`, bit-exact wherever Pillow runs its horizontal pass first (always
/// when enlarging; before 13.0 also when shrinking). Alpha is a channel like the others here.
///
/// # Panics
/// If a size is 0 or `pixels` is not `height · width · channels` long.
pub fn bicubic_u8(
    pixels: &[u8],
    (height, width): (usize, usize),
    channels: usize,
    (new_height, new_width): (usize, usize),
) -> Vec<u8> {
    assert_eq!(pixels.len(), height * width * channels, "pixels of a {width}×{height}×{channels} image");
    assert!(height * width * new_height * new_width > 0, "sizes are at least 1");
    let fixed = |taps: &Taps| -> Vec<i32> {
        taps.weights.iter().map(|w| (w * f64::from(1 << PRECISION) + 0.5f64.copysign(*w)) as i32).collect()
    };
    let level = |sum: i32| (sum >> PRECISION).clamp(0, 255) as u8;
    const HALF: i32 = 1 << (PRECISION - 1);

    let mut rows = std::borrow::Cow::Borrowed(pixels);
    if new_width != width {
        let taps = Taps::pillow(width, new_width);
        let weights = fixed(&taps);
        let mut out = vec![0; height * new_width * channels];
        out.par_chunks_mut(new_width * channels).zip(pixels.par_chunks(width * channels)).for_each(
            |(out, row)| {
                for (x, o) in out.chunks_exact_mut(channels).enumerate() {
                    let weights = &weights[x * taps.count..(x + 1) * taps.count];
                    for (c, o) in o.iter_mut().enumerate() {
                        let samples = row[taps.first[x] * channels + c..].iter().step_by(channels);
                        *o = level(
                            HALF + weights.iter().zip(samples).map(|(&w, &p)| w * i32::from(p)).sum::<i32>(),
                        );
                    }
                }
            },
        );
        rows = out.into();
    }
    if new_height != height {
        let taps = Taps::pillow(height, new_height);
        let weights = fixed(&taps);
        let n = new_width * channels;
        let mut out = vec![0; new_height * n];
        out.par_chunks_mut(n).enumerate().for_each_init(
            || vec![0i32; n],
            |sums, (y, out)| {
                sums.fill(HALF);
                for (k, &w) in weights[y * taps.count..(y + 1) * taps.count].iter().enumerate() {
                    let at = (taps.first[y] + k) * n;
                    for (sum, &p) in sums.iter_mut().zip(&rows[at..at + n]) {
                        *sum += w * i32::from(p);
                    }
                }
                for (o, &sum) in out.iter_mut().zip(&*sums) {
                    *o = level(sum);
                }
            },
        );
        rows = out.into();
    }
    rows.into_owned()
}

/// Bicubic with a = −0.5, widened when shrinking, in f32: [`bicubic_u8`] without its rounding.
/// Values may leave the input's range by the kernel's overshoot.
///
/// # Panics
/// If a size is 0.
pub fn bicubic_antialias(image: &FloatImage, height: usize, width: usize) -> FloatImage {
    separable(image, height, width, Taps::pillow)
}

/// A photo's colours at another size as f32 RGB in 0..1: for 8-bit photos exactly what DreamClear
/// feeds its networks ([`bicubic_u8`], then /255), for 16-bit ones the same in f32, clipped.
///
/// # Panics
/// If a size is 0.
pub fn photo_rgb(photo: &Photo, height: usize, width: usize) -> FloatImage {
    match photo.samples {
        Samples::U8(_) => {
            let pixels = bicubic_u8(&photo.rgb_u8(), (photo.height, photo.width), 3, (height, width));
            Photo::new(height, width, Channels::Rgb, Samples::U8(pixels)).rgb_f32()
        }
        Samples::U16(_) => {
            let mut image = bicubic_antialias(&photo.rgb_f32(), height, width);
            image.data.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
            image
        }
    }
}

/// A photo's alpha at another size; none if it has none.
///
/// # Panics
/// If a size is 0.
pub fn photo_alpha(photo: &Photo, height: usize, width: usize) -> Option<FloatImage> {
    photo.alpha_f32().map(|alpha| bicubic_antialias(&alpha, height, width))
}

/// The two sizes of a DreamClear restoration, as (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// What the networks see: multiples of 64.
    pub working: (usize, usize),
    /// What is written.
    pub output: (usize, usize),
}

/// Sizes for an input of `height`×`width` enlarged by `upscale`, with a working size of at least
/// `min_size` on its shorter side (`PIL2Tensor`, spec restore.md §2; halves round to even).
///
/// # Errors
/// `Error::Usage` unless `upscale` is a positive number; `Error::Run` if either size exceeds
/// [`MAX_PIXELS`], as for a very long, thin picture.
pub fn restore_sizes((height, width): (usize, usize), upscale: f64, min_size: usize) -> Result<Sizes> {
    if !(upscale > 0.0 && upscale.is_finite()) {
        return Err(Error::Usage(format!("--upscale expects a positive number, found {upscale}")));
    }
    let (mut h, mut w) = (height as f64 * upscale, width as f64 * upscale);
    // A factor below 1 may leave nothing of a thin picture: one pixel stays.
    let output = (h.round_ties_even().max(1.0), w.round_ties_even().max(1.0));
    let shorter = h.min(w);
    if shorter < min_size as f64 {
        let enlarge = min_size as f64 / shorter;
        (h, w) = (h * enlarge, w * enlarge);
    }
    let grid = |x: f64| (64.0 * (x / 64.0).round_ties_even()).max(64.0);
    let working = (grid(h), grid(w));
    for (what, (h, w)) in [("output", output), ("working", working)] {
        if h * w > MAX_PIXELS as f64 {
            return Err(Error::Run(format!(
                "a {width}×{height} picture gets a {what} size of {w:.0}×{h:.0}, more than {MAX_PIXELS} pixels; choose a smaller --upscale or --min-size, or cut it into parts"
            )));
        }
    }
    let whole = |(h, w): (f64, f64)| (h as usize, w as usize);
    Ok(Sizes { working: whole(working), output: whole(output) })
}

fn separable(image: &FloatImage, height: usize, width: usize, taps: fn(usize, usize) -> Taps) -> FloatImage {
    assert!(image.height * image.width * height * width > 0, "sizes are at least 1");
    let channels = image.channels;
    let mut wide = std::borrow::Cow::Borrowed(image);
    if width != image.width {
        let taps = taps(image.width, width);
        let mut out = FloatImage::zeros(image.height, width, channels);
        out.data.par_chunks_mut(width * channels).enumerate().for_each(|(y, out)| {
            for (x, o) in out.chunks_exact_mut(channels).enumerate() {
                let (first, weights) = taps.of(x);
                for (&w, p) in weights.iter().zip(image.row(y)[first * channels..].chunks_exact(channels)) {
                    for (o, &p) in o.iter_mut().zip(p) {
                        *o += w as f32 * p;
                    }
                }
            }
        });
        wide = std::borrow::Cow::Owned(out);
    }
    if height != image.height {
        let taps = taps(image.height, height);
        let mut out = FloatImage::zeros(height, width, channels);
        out.data.par_chunks_mut(width * channels).enumerate().for_each(|(y, out)| {
            let (first, weights) = taps.of(y);
            for (k, &w) in weights.iter().enumerate() {
                for (o, &p) in out.iter_mut().zip(wide.row(first + k)) {
                    *o += w as f32 * p;
                }
            }
        });
        wide = std::borrow::Cow::Owned(out);
    }
    wide.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    /// Inputs and outputs by Pillow and PyTorch; made by `tools/golden/resize.py`.
    static GOLDEN: &[u8] = include_bytes!("../../tests/golden/resize.safetensors");

    /// Name, input shape and bytes, output shape and bytes.
    type Case<'a> = (String, [usize; 3], &'a [u8], [usize; 3], &'a [u8]);

    fn cases<'a>(golden: &'a SafeTensors<'a>, prefix: &str) -> Vec<Case<'a>> {
        let shape = |s: &[usize]| -> [usize; 3] { s.try_into().unwrap() };
        let cases: Vec<_> = golden
            .names()
            .iter()
            .filter_map(|n| n.strip_suffix(".out").filter(|n| n.starts_with(prefix)))
            .map(|n| {
                let (i, o) =
                    (golden.tensor(&format!("{n}.in")).unwrap(), golden.tensor(&format!("{n}.out")).unwrap());
                (n.to_owned(), shape(i.shape()), i.data(), shape(o.shape()), o.data())
            })
            .collect();
        assert!(cases.len() >= 5, "{prefix}: {} golden cases", cases.len());
        cases
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn equals_pillow_bit_for_bit() {
        let golden = SafeTensors::deserialize(GOLDEN).unwrap();
        for (name, [h, w, c], pixels, [nh, nw, _], expected) in cases(&golden, "pillow") {
            let found = bicubic_u8(pixels, (h, w), c, (nh, nw));
            let wrong = found.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{name}: {w}×{h}×{c} to {nw}×{nh}: first difference (flat index)");
        }
    }

    #[test]
    fn equals_torch_to_rounding() {
        let golden = SafeTensors::deserialize(GOLDEN).unwrap();
        for (name, [h, w, c], pixels, [nh, nw, _], expected) in cases(&golden, "torch") {
            let found = bicubic_torch(&FloatImage::new(h, w, c, floats(pixels)), nh, nw);
            for (i, (a, b)) in found.data.iter().zip(floats(expected)).enumerate() {
                assert!((a - b).abs() <= 2e-6, "{name} at {i}: {a} against torch's {b}");
            }
        }
    }

    #[test]
    fn f32_agrees_with_the_8_bit_path_to_its_rounding() {
        let golden = SafeTensors::deserialize(GOLDEN).unwrap();
        for (name, [h, w, c], pixels, [nh, nw, _], _) in cases(&golden, "pillow") {
            // Mid-range pixels: no overshoot is clipped between the two passes.
            let pixels: Vec<u8> = pixels.iter().map(|p| p / 4 + 96).collect();
            let x = FloatImage::new(h, w, c, pixels.iter().map(|&p| f32::from(p)).collect());
            let eight = bicubic_u8(&pixels, (h, w), c, (nh, nw));
            for (a, b) in bicubic_antialias(&x, nh, nw).data.iter().zip(eight) {
                // Half a level for each pass, the first one amplified by the kernel (Σ|w| ≤ 1.4
                // with the cut at the border).
                assert!((a - f32::from(b)).abs() <= 1.2, "{name}: {a} against {b}");
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_official_code() {
        // (height, width), upscale, minimum → PIL2Tensor's (h, w) and (h0, w0), run in Python.
        for (size, upscale, min, working, output) in [
            ((256, 256), 4.0, 1024, (1024, 1024), (1024, 1024)),
            ((200, 300), 4.0, 1024, (1024, 1536), (800, 1200)),
            ((333, 500), 4.0, 1024, (1344, 1984), (1332, 2000)),
            ((1080, 1920), 1.0, 1024, (1088, 1920), (1080, 1920)),
            ((1, 1), 4.0, 1024, (1024, 1024), (4, 4)),
            ((301, 455), 2.5, 512, (768, 1152), (752, 1138)),
            ((97, 97), 1.5, 0, (128, 128), (146, 146)),
        ] {
            assert_eq!(
                restore_sizes(size, upscale, min).unwrap(),
                Sizes { working, output },
                "{size:?} ×{upscale}"
            );
        }
        assert_eq!(restore_sizes((3, 5), 0.1, 0).unwrap(), Sizes { working: (64, 64), output: (1, 1) });
        let e = restore_sizes((3, 20_000), 4.0, 1024).unwrap_err().to_string();
        assert!(e.contains("20000×3") && e.contains("working size of 6826688×1024"), "{e}");
        for upscale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(restore_sizes((3, 3), upscale, 0), Err(Error::Usage(_))));
        }
    }

    #[test]
    fn photos_of_both_depths_agree() {
        let eight: Vec<u8> = (0..12 * 10 * 4).map(|i| (i * 37 % 151 + 40) as u8).collect();
        let sixteen = eight.iter().map(|&x| u16::from(x) * 257).collect();
        let eight = Photo::new(12, 10, Channels::Rgba, Samples::U8(eight));
        let sixteen = Photo::new(12, 10, Channels::Rgba, Samples::U16(sixteen));
        for (a, b) in photo_rgb(&eight, 30, 17).data.iter().zip(photo_rgb(&sixteen, 30, 17).data) {
            assert!((a - b).abs() <= 1.2 / 255.0, "{a} against {b}");
        }
        let alpha = photo_alpha(&eight, 30, 17).unwrap();
        assert_eq!((alpha.height, alpha.width, alpha.channels), (30, 17, 1));
        assert_eq!(photo_rgb(&eight, 12, 10), eight.rgb_f32());
    }

    proptest! {
        #[test]
        fn constants_stay_constant(h in 1usize..20, w in 1usize..20, nh in 1usize..50, nw in 1usize..50, v in 0u8..=255) {
            let out = bicubic_u8(&vec![v; h * w], (h, w), 1, (nh, nw));
            prop_assert!(out.iter().all(|&o| o == v));
            let x = FloatImage::new(h, w, 1, vec![0.75; h * w]);
            // Weights of `bicubic_antialias` are normalised in f64. PyTorch's are not: its f32 polynomial
            // for the two outer taps passes through values of up to 12 (8a·x), each rounded by up to
            // half an ulp of 8..16, which leaves the sum of the weights of an axis up to 2e-6 from one.
            for (out, tolerance) in [(bicubic_antialias(&x, nh, nw), 1e-6), (bicubic_torch(&x, nh, nw), 3e-6)] {
                for o in out.data {
                    prop_assert!((o - 0.75).abs() <= tolerance, "{o} is {:e} from 0.75", (o - 0.75).abs());
                }
            }
        }
    }
}
