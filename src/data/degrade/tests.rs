//! Draws as distributions, and the chain as a whole.

use super::draw::{Chain, Round};
use super::kernels::Kernel;
use super::noise::Noise;
use super::resize::Interpolation;
use super::*;

fn picture(height: usize, width: usize) -> FloatImage {
    let wave = |f: f32, x: usize, y: usize| 0.5 + 0.45 * (f * x as f32 + 0.7 * f * y as f32).sin();
    let pixel = |i: usize| [0.31, 0.13, 0.57].map(|f| wave(f, i % width, i / width));
    FloatImage::new(height, width, 3, (0..height * width).flat_map(pixel).collect())
}

/// What of 10 000 draws has a property must lie within three standard deviations of its probability.
#[track_caller]
fn share(draws: &[Round], probability: f64, has: impl Fn(&Round) -> bool) {
    let n = draws.len() as f64;
    let found = draws.iter().filter(|d| has(d)).count() as f64 / n;
    let bound = 3.0 * (probability * (1.0 - probability) / n).sqrt();
    assert!((found - probability).abs() <= bound, "{found} of the draws, expected {probability} ± {bound}");
}

/// Values of a uniform distribution: inside, with its mean.
#[track_caller]
fn uniform(values: &[f64], [low, high]: [f64; 2]) {
    assert!(values.iter().all(|v| (low..=high).contains(v)), "outside {low} to {high}");
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let bound = 3.0 * (high - low) / (12.0 * n).sqrt();
    let expected = (low + high) / 2.0;
    assert!((mean - expected).abs() <= bound, "mean {mean}, expected {expected} ± {bound}");
}

fn rounds(seed: u64) -> (Vec<Round>, Vec<Round>, Vec<draw::Last>) {
    let degradation = Degradation::real_esrgan();
    let mut all = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..10_000 {
        let Chain::RealEsrgan { scale, first, second, last } = degradation.draw(seed, 0, index).chain else {
            panic!("the kind of the settings")
        };
        assert_eq!(scale, 4);
        all.0.push(first);
        all.1.push(second);
        all.2.push(last);
    }
    all
}

#[test]
fn every_branch_has_its_probability() {
    let (first, second, last) = rounds(1);
    let sinc = |k: &Kernel| matches!(k, Kernel::Sinc { .. });
    for (rounds, blurred, up, down, sigma, gaussian, poisson) in [
        (&first, 1.0, 0.2, 0.7, [0.2, 3.0], [1.0, 30.0], [0.05, 3.0]),
        (&second, 0.8, 0.3, 0.4, [0.2, 1.5], [1.0, 25.0], [0.05, 2.5]),
    ] {
        share(rounds, blurred, |r| r.blur.is_some());
        share(rounds, 0.1 * blurred, |r| r.blur.as_ref().is_some_and(sinc));
        let family = |want: usize| {
            move |r: &Round| {
                let found = match r.blur {
                    Some(Kernel::Iso { .. }) => 0,
                    Some(Kernel::Aniso { .. }) => 1,
                    Some(Kernel::GeneralizedIso { .. }) => 2,
                    Some(Kernel::GeneralizedAniso { .. }) => 3,
                    Some(Kernel::PlateauIso { .. }) => 4,
                    Some(Kernel::PlateauAniso { .. }) => 5,
                    _ => 6,
                };
                found == want
            }
        };
        for (i, p) in [0.45, 0.25, 0.12, 0.03, 0.12, 0.03].into_iter().enumerate() {
            share(rounds, p * 0.9 * blurred, family(i));
        }
        for size in [7, 13, 21] {
            share(rounds, blurred / 8.0, |r| r.blur.is_some_and(|k| k.size() == size));
        }
        share(rounds, up, |r| r.factor > 1.0);
        share(rounds, down, |r| r.factor < 1.0);
        for mode in [Interpolation::Area, Interpolation::Bilinear, Interpolation::Bicubic] {
            share(rounds, 1.0 / 3.0, |r| r.mode == mode);
        }
        share(rounds, 0.5, |r| matches!(r.noise, Noise::Gaussian { .. }));
        share(rounds, 0.2, |r| matches!(r.noise, Noise::Gaussian { grey: true, .. }));
        share(rounds, 0.2, |r| matches!(r.noise, Noise::Poisson { grey: true, .. }));
        // A shape below 1 as often as above.
        share(rounds, 0.075 * 0.9 * blurred, |r| match r.blur {
            Some(Kernel::GeneralizedIso { beta, .. } | Kernel::GeneralizedAniso { beta, .. }) => beta < 1.0,
            _ => false,
        });
        // The lower half of plateaus is the single value 1.
        share(rounds, 0.075 * 0.9 * blurred, |r| match r.blur {
            Some(Kernel::PlateauIso { beta, .. } | Kernel::PlateauAniso { beta, .. }) => beta == 1.0,
            _ => false,
        });

        let all = |value: &dyn Fn(&Round) -> Option<f64>| rounds.iter().filter_map(value).collect::<Vec<_>>();
        uniform(&all(&|r| Some(r.quality)), [30.0, 95.0]);
        uniform(
            &all(&|r| match r.blur {
                Some(Kernel::Iso { sigma, .. }) => Some(sigma),
                _ => None,
            }),
            sigma,
        );
        uniform(
            &all(&|r| match r.blur {
                Some(Kernel::Aniso { sigma, .. }) => Some(sigma[1]),
                _ => None,
            }),
            sigma,
        );
        uniform(
            &all(&|r| match r.blur {
                Some(Kernel::Aniso { rotation, .. }) => Some(rotation),
                _ => None,
            }),
            [-std::f64::consts::PI, std::f64::consts::PI],
        );
        uniform(
            &all(&|r| match r.noise {
                Noise::Gaussian { sigma, .. } => Some(sigma),
                _ => None,
            }),
            gaussian,
        );
        uniform(
            &all(&|r| match r.noise {
                Noise::Poisson { scale, .. } => Some(scale),
                _ => None,
            }),
            poisson,
        );
        for (large, least) in [(false, 3.0), (true, 5.0)] {
            uniform(
                &all(&|r| match r.blur {
                    Some(Kernel::Sinc { size, cutoff }) if (size >= 13) == large => Some(cutoff),
                    _ => None,
                }),
                [std::f64::consts::PI / least, std::f64::consts::PI],
            );
        }
    }
    let sincs = last.iter().filter(|l| l.sinc.is_some()).count() as f64 / 1e4;
    assert!((sincs - 0.8).abs() <= 3.0 * (0.8f64 * 0.2 / 1e4).sqrt(), "{sincs}");
    let before = last.iter().filter(|l| l.before_compression).count() as f64 / 1e4;
    assert!((before - 0.5).abs() <= 3.0 * (0.25f64 / 1e4).sqrt(), "{before}");
    uniform(&first.iter().filter(|r| r.factor > 1.0).map(|r| r.factor).collect::<Vec<_>>(), [1.0, 1.5]);
    uniform(&first.iter().filter(|r| r.factor < 1.0).map(|r| r.factor).collect::<Vec<_>>(), [0.15, 1.0]);
    uniform(&second.iter().filter(|r| r.factor > 1.0).map(|r| r.factor).collect::<Vec<_>>(), [1.0, 1.2]);
    uniform(&second.iter().filter(|r| r.factor < 1.0).map(|r| r.factor).collect::<Vec<_>>(), [0.3, 1.0]);
}

#[test]
fn draws_of_codeformer_are_those_of_diffbir() {
    let degradation = Degradation::code_former();
    let (mut round, mut shrinks, mut qualities) = (0, Vec::new(), Vec::new());
    for index in 0..10_000 {
        let drawn = degradation.draw(0, 0, index);
        let Chain::CodeFormer { blur, shrink, noise, quality } = drawn.chain else { panic!("another kind") };
        assert!(drawn.sharpen.is_none());
        assert!(matches!(noise, Noise::Gaussian { sigma, grey: false } if (0.0..15.0).contains(&sigma)));
        let Some(Kernel::Iso { size: 41, .. } | Kernel::Aniso { size: 41, .. }) = blur else {
            panic!("{blur:?}")
        };
        round += usize::from(matches!(blur, Some(Kernel::Iso { .. })));
        shrinks.push(shrink);
        qualities.push(quality);
    }
    assert!((4850..=5150).contains(&round), "{round}");
    uniform(&shrinks, [1.0, 12.0]);
    uniform(&qualities, [30.0, 100.0]);
}

#[test]
fn a_picture_depends_on_seed_epoch_and_index_alone() {
    for degradation in [Degradation::real_esrgan(), Degradation::code_former()] {
        let image = picture(64, 48);
        let make =
            |seed, epoch, index| degradation.apply(&degradation.draw(seed, epoch, index), &image).unwrap();
        let one = make(5, 1, 9);
        assert_eq!((one.gt.height, one.sr_bicubic.height, one.sr_bicubic.width), (64, 64, 48));
        assert_eq!(make(5, 1, 9), one);
        for other in [make(6, 1, 9), make(5, 2, 9), make(5, 1, 10)] {
            assert_ne!(other.sr_bicubic, one.sr_bicubic);
        }
        // On another thread, after other pictures.
        let again = std::thread::scope(|s| s.spawn(|| (make(5, 1, 8), make(5, 1, 9)).1).join().unwrap());
        assert_eq!(again, one);
    }
}

#[test]
fn parameters_written_and_read_give_the_same_bytes() {
    let image = picture(48, 64);
    for degradation in [Degradation::real_esrgan(), Degradation::code_former()] {
        for index in 0..40 {
            let drawn = degradation.draw(u64::MAX, (1 << 24) - 1, index);
            let line = serde_json::to_string(&drawn).unwrap();
            let read: Drawn = serde_json::from_str(&line).unwrap();
            assert_eq!(read, drawn, "{line}");
            read.check().unwrap();
            if index < 3 {
                assert_eq!(apply(&read, &image).unwrap(), apply(&drawn, &image).unwrap());
            }
        }
    }
}

#[test]
fn parameters_that_nothing_drew_are_refused() {
    let line = serde_json::to_string(&Degradation::real_esrgan().draw(0, 0, 0)).unwrap();
    let quality = line.find("\"quality\":").unwrap() + 10;
    for (text, word) in [
        (line.replacen("\"scale\":4", "\"scale\":0", 1), "scale"),
        (line.replacen("\"epoch\":0", "\"epoch\":16777216", 1), "epoch"),
        (
            format!("{}1e9{}", &line[..quality], &line[quality + line[quality..].find('}').unwrap()..]),
            "quality",
        ),
    ] {
        assert_ne!(text, line);
        let read: Drawn = serde_json::from_str(&text).unwrap();
        let error = read.check().unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!(serde_json::from_str::<Drawn>(&line.replacen("\"scale\"", "\"scales\"", 1)).is_err());
}

/// What the official code draws once a batch is equal within it, the rest is not.
#[test]
fn a_batch_shares_what_the_official_one_does() {
    let text = config::REALESRGAN.replacen("scope = \"image\"", "scope = \"batch\"", 1).replacen(
        "batch = 192",
        "batch = 8",
        1,
    );
    let degradation = Degradation::from_toml(&text).unwrap();
    let of = |index| match degradation.draw(3, 0, index).chain {
        Chain::RealEsrgan { first, second, last, .. } => (first, second, last),
        Chain::CodeFormer { .. } => panic!("another kind"),
    };
    let gaussian = |r: &Round| matches!(r.noise, Noise::Gaussian { .. });
    for index in 1..8 {
        let (a, b) = (of(0), of(index));
        for (a, b) in [(a.0, b.0), (a.1, b.1)] {
            assert_eq!((a.factor, a.mode, gaussian(&a)), (b.factor, b.mode, gaussian(&b)));
            assert_eq!(a.blur.is_some(), b.blur.is_some());
            assert!(a.quality != b.quality && a.noise != b.noise);
        }
        assert_eq!((a.2.before_compression, a.2.mode), (b.2.before_compression, b.2.mode));
        assert_ne!(a.0.blur, b.0.blur);
    }
    assert_ne!(of(0).0.factor, of(8).0.factor);

    // Grey Gaussian noise is one field for the batch; other noise is each picture's own.
    let drawn = [degradation.draw(3, 0, 0), degradation.draw(3, 0, 1)];
    for (grey, same) in [(true, true), (false, false)] {
        let values = [0, 1].map(|i| {
            let source = chain::Noises::source(&drawn[i], 0, grey);
            let mut values = [0.0; 8];
            source.normals(0, &mut values);
            values
        });
        assert_eq!(values[0] == values[1], same);
    }
    assert_eq!(Degradation::real_esrgan().draw(3, 0, 0).batch, None);
}

#[test]
fn sides_that_are_no_multiples_are_refused_with_what_to_do() {
    let degradation = Degradation::real_esrgan();
    let error = degradation.apply(&degradation.draw(0, 0, 0), &picture(30, 32)).unwrap_err().to_string();
    assert!(error.contains("32×30") && error.contains("multiples of 4"), "{error}");
}

#[test]
fn the_smallest_pictures_pass_through() {
    let degradation = Degradation::real_esrgan();
    for index in 0..30 {
        let pair = degradation.apply(&degradation.draw(1, 0, index), &picture(4, 8)).unwrap();
        assert_eq!((pair.lr.height, pair.lr.width), (1, 2));
        assert!(pair.sr_bicubic.data.iter().all(|x| x.is_finite()));
    }
}

/// Sharpening moves values away from their surroundings, and leaves a flat picture alone.
#[test]
fn the_ground_truth_is_sharpened() {
    let mask = Degradation::real_esrgan().config.sharpen().mask().unwrap();
    let flat = FloatImage::new(30, 40, 3, vec![0.3; 3600]);
    assert!(mask.apply(&flat).data.iter().all(|x| (x - 0.3).abs() <= 1e-6));
    let mut edge = FloatImage::zeros(40, 40, 3);
    for y in 0..40 {
        for (x, p) in edge.row_mut(y).chunks_exact_mut(3).enumerate() {
            p.fill(if x < 20 { 0.3 } else { 0.7 });
        }
    }
    let sharp = mask.apply(&edge);
    let at = |x: usize| sharp.row(20)[3 * x];
    assert!(at(19) < 0.25 && at(20) > 0.75, "{} {}", at(19), at(20));
    assert!((at(0) - 0.3).abs() < 0.03, "{}", at(0));
}
