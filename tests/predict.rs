//! What `bench --predict` says of the published model, held to the bars of the specification: a change that moves
//! more bytes or launches more kernels shows here, without a GPU.

use dreamclear::bench::predict::{self, Card, Prediction};

/// Σ max(arithmetic, bytes) over the ops of a denoising step at 1024×1024 on an A100: restore.md §14.
const STEP_ROOFLINE: f64 = 0.1747;

fn predicted(row: &str) -> Prediction {
    let card = Card::named("a100").unwrap();
    let rows = predict::rows();
    rows.iter().find(|r| r.name == row).unwrap().predict(card).unwrap()
}

fn launches(p: &Prediction, op: &str) -> usize {
    p.by_op.iter().find(|(name, ..)| name == op).map_or(0, |o| o.1)
}

#[test]
fn a_denoising_step_stays_within_its_budget() {
    let p = predicted("dreamclear_step_1024");
    println!("{} launches, {:.2} GB, {:.1} ms", p.launches, p.bytes / 1e9, p.predicted * 1e3);
    assert!(p.launches <= 1450, "{} launches", p.launches);
    let ratio = p.predicted / STEP_ROOFLINE;
    assert!(ratio <= 1.35, "{:.1} ms are {ratio:.3} times the roofline", p.predicted * 1e3);
    // The embedded latents alone: residual streams are written in both types by the products that add to them.
    assert!(launches(&p, "cast") <= 3, "{:?}", p.by_op);
    assert_eq!((launches(&p, "modulate"), launches(&p, "moe_modulate")), (0, 0), "{:?}", p.by_op);
}

#[test]
fn a_layer_stays_within_its_launches() {
    let p = predicted("controlformer_layer_4096");
    assert!(p.launches <= 50, "{} launches", p.launches);
}
