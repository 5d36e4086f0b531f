//! The denoising loop on the device against the loop on the host, over the same simulated network: equal
//! bits, whatever the sampler, the tiles, the batch and the source of the noise.
#![cfg(not(windows))]

#[path = "support/loop_case.rs"]
mod loop_case;
mod support;

use dreamclear::cancel::Cancel;
use dreamclear::device::Device;
use dreamclear::device::sim::Simulator;
use dreamclear::diffusion::sampler;
use dreamclear::pipelines::dreamclear::denoise::{Denoised, Subject};
use dreamclear::pipelines::tiled::Watch;
use dreamclear::tensor::DType;
use dreamclear::{Error, Result};
use loop_case::LoopCase;

/// Both loops; bits of all latents.
fn both(case: &LoopCase, compute: DType) -> Option<[Vec<Denoised>; 2]> {
    if let Err(why) = Simulator::new() {
        eprintln!("skipped: {why}");
        return None;
    }
    let device = Device::sim(1, compute).unwrap();
    let mut denoiser = case.denoiser(&device);
    let (subjects, watch) = (case.subjects(), Watch { cancel: &Cancel::new(), progress: &|_| {} });
    let on_device = denoiser.run(&subjects, &case.settings, case.limit, watch).unwrap();
    let on_host = denoiser.run_on_host(&subjects, &case.settings, case.limit, watch).unwrap();
    Some([on_device, on_host])
}

fn assert_equal(name: &str, [device, host]: [Vec<Denoised>; 2]) {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(device.len(), host.len());
    for (i, (d, h)) in device.iter().zip(&host).enumerate() {
        assert!(h.latent.iter().all(|x| x.is_finite()));
        assert_eq!(bits(&d.latent), bits(&h.latent), "{name}: picture {i}");
        assert_eq!(d.other.as_deref().map(bits), h.other.as_deref().map(bits), "{name}: picture {i}");
    }
}

#[test]
fn every_sampler_gives_the_bits_of_the_loop_on_the_host() {
    for name in sampler::NAMES {
        let mut case = LoopCase::new();
        case.settings.sampler = name.into();
        case.pictures.truncate(1);
        let Some(latents) = both(&case, DType::F32) else { return };
        assert_equal(name, latents);
    }
}

#[test]
fn a_batch_of_tiled_and_whole_pictures_in_half_precision_does_too() {
    let mut case = LoopCase::new();
    case.settings.span = 2.into();
    case.pictures[0].keep_other = true;
    case.limit = 3;
    let Some(latents) = both(&case, DType::BF16) else { return };
    assert!(latents[0][0].other.is_some() && latents[0][1].other.is_none());
    assert_equal("batch", latents);
}

#[test]
fn replayed_noise_is_taken_step_by_step_and_half_by_half() {
    let mut case = LoopCase::new();
    case.settings.span = 3.into();
    case.pictures.truncate(1);
    case.pictures[0].keep_other = true;
    case.replay_noise();
    let Some(latents) = both(&case, DType::F32) else { return };
    assert!(latents[0][0].other.as_ref() != Some(&latents[0][0].latent), "halves have noise of their own");
    assert_equal("replayed", latents);
}

#[test]
fn without_guidance_the_captioned_half_runs_alone() {
    let mut case = LoopCase::new();
    case.settings.cfg = 1.0;
    case.pictures[0].keep_other = true;
    let Some(latents) = both(&case, DType::F32) else { return };
    assert!(latents.iter().all(|l| l[0].other.is_none()), "there is no other half to keep");
    assert_equal("no guidance", latents);

    // Halves that read one text answer alike, whatever the scale between them.
    case.same_text();
    let [_, alone] = both(&case, DType::F32).unwrap();
    case.settings.cfg = 4.5;
    let [_, pair] = both(&case, DType::F32).unwrap();
    for (a, p) in alone.iter().zip(&pair) {
        let size = p.latent.iter().fold(0f32, |m, x| m.max(x.abs()));
        let apart = a.latent.iter().zip(&p.latent).fold(0f32, |m, (a, p)| m.max((a - p).abs()));
        assert!(apart <= 1e-4 * size, "{apart} apart in a latent of up to {size}");
    }
}

/// How a loop ends that is not left alone.
fn ends(case: &LoopCase, watch: Watch) -> Option<Result<Vec<Denoised>>> {
    Simulator::new().ok()?;
    let mut denoiser = case.denoiser(&Device::sim(1, DType::F32).unwrap());
    let subjects: Vec<Subject> = case.subjects();
    Some(denoiser.run(&subjects, &case.settings, case.limit, watch))
}

#[test]
fn progress_rises_and_ctrl_c_ends_the_loop() {
    let mut case = LoopCase::new();
    case.pictures.truncate(1);
    let cancel = Cancel::new();
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |f: f32| {
        seen.lock().unwrap().push(f);
        if f >= 0.5 {
            cancel.cancel();
        }
    };
    let Some(end) = ends(&case, Watch { cancel: &cancel, progress: &progress }) else { return };
    assert!(matches!(end, Err(Error::Interrupted)), "{end:?}");
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() > 2 && *seen.last().unwrap() < 1.0, "{seen:?}");
}

#[test]
fn a_latent_that_is_not_finite_is_told_with_its_step() {
    let mut case = LoopCase::new();
    case.pictures.truncate(1);
    case.spoil_weights();
    let watch = Watch { cancel: &Cancel::new(), progress: &|_| {} };
    let Some(end) = ends(&case, watch) else { return };
    let message = end.expect_err("weights of infinity").to_string();
    assert!(message.contains("after denoising step 1 of 3") && message.contains("not finite"), "{message}");
}
