//! What the registry's walk does not see of the small ops: builder methods that add several
//! nodes, and refusals.

use std::sync::Arc;

use dreamclear::device::cpu::CpuDevice;
use dreamclear::graph::{Executable, GraphBuilder, Plan, ValueId};
use dreamclear::ops::pad_edges;
use dreamclear::ops::resize::Mode;
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::{Error, Result};

/// One result of a graph over the input "x".
fn run(
    x: HostTensor,
    build: impl FnOnce(&mut GraphBuilder, ValueId) -> Result<ValueId>,
) -> Result<HostTensor> {
    let mut b = GraphBuilder::new();
    let v = b.input("x", x.dtype(), x.shape())?;
    let y = build(&mut b, v)?;
    b.output("y", y);
    let device = Arc::new(CpuDevice::new(1)?);
    let mut run = Executable::new(Plan::new(b.finish(), 1)?, device, |_| None)?;
    Ok(run.run(&[("x", x)])?.remove(0).1)
}

fn counting(shape: &[usize]) -> HostTensor {
    HostTensor::from_f32(shape, (0..shape.iter().product()).map(|i| i as f32).collect())
}

#[test]
fn reductions_over_scattered_axes() -> Result<()> {
    let x = counting(&[2, 3, 4]);
    let y = run(x.clone(), |b, x| b.sum(x, &[2, 0], false))?;
    assert_eq!((y.shape(), y.to_f64()), (&[3][..], vec![60.0, 92.0, 124.0]));
    let y = run(x.clone(), |b, x| b.mean(x, &[0, 2], true))?;
    assert_eq!((y.shape(), y.to_f64()), (&[1, 3, 1][..], vec![7.5, 11.5, 15.5]));
    let y = run(x, |b, x| b.max(x, &[1, 2, 0], false))?;
    assert_eq!((y.shape(), y.to_f64()), (&[][..], vec![23.0]));
    Ok(())
}

#[test]
fn the_gradient_of_a_maximum_goes_to_the_first() -> Result<()> {
    let x = HostTensor::from_f32([2, 2, 2], vec![1.0, 3.0, 0.0, 3.0, 3.0, 2.0, 1.0, 0.0]);
    let dx = run(x, |b, x| {
        let y = b.max(x, &[0, 2], false)?; // 3 at [0, 0, 1] and [1, 0, 0]; 3 at [0, 1, 1]
        let dy = b.constant(HostTensor::from_f32([2], vec![5.0, 7.0]));
        Ok(dreamclear::ops::gradients(b, &[(y, dy)], &[x])?[0].expect("x reaches the maximum"))
    })?;
    assert_eq!(dx.to_f64(), [0.0, 5.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0]);
    Ok(())
}

#[test]
fn maxima_and_softmax_keep_nan() -> Result<()> {
    let mut data = vec![1.0; 40];
    data[33] = f32::NAN;
    data[2] = f32::INFINITY;
    let x = HostTensor::from_f32([1, 40], data);
    assert!(run(x.clone(), |b, x| b.max(x, &[1], false))?.to_f64()[0].is_nan());
    assert!(run(x, |b, x| b.softmax(x))?.to_f64()[33].is_nan());
    Ok(())
}

#[test]
fn an_index_outside_the_table_is_an_error() {
    for bad in [-1, 3] {
        let result = run(HostTensor::from_i64([2], vec![0, bad]), |b, x| {
            let table = b.constant(counting(&[3, 2]));
            b.embedding(table, x)
        });
        let message = result.expect_err("an index outside").to_string();
        assert!(message.contains(&format!("index {bad} at position 1")), "{message}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut b = GraphBuilder::new();
    let mut x = |name: &str, shape: &[usize]| b.input(name, DType::F32, shape).expect("a new name");
    let (image, odd, vector) = (x("image", &[1, 4, 6, 6]), x("odd", &[1, 5, 6, 7]), x("vector", &[7]));
    let refused: [(&str, Result<ValueId>); 8] = [
        ("one number per column", b.layer_norm(image, Some((vector, vector)), 1e-5)),
        ("multiple of 4 groups", b.group_norm(odd, 4, (vector, vector), 1e-5)),
        ("does not fit", b.concat(&[image, odd], 3)),
        ("needs a longer axis", b.pad_edges(image, pad_edges::Mode::Reflect, vec![0, 4, 0, 0], vec![0; 4])),
        ("multiple of 2²", b.pixel_shuffle(image, 2)),
        ("multiples of 2", b.pixel_unshuffle(odd, 2)),
        ("cannot resize 4×6 to 0×3", b.resize(image, [0, 3], Mode::Area)),
        ("must be positive", b.resize_by(image, [f64::INFINITY, 1.0], Mode::Nearest)),
    ];
    for (words, result) in refused {
        match result {
            Err(Error::Graph { message, .. }) => assert!(message.contains(words), "{message}"),
            other => panic!("\"{words}\" was not refused: {other:?}"),
        }
    }
}

#[test]
fn enlarging_by_whole_factors_repeats_pixels() -> Result<()> {
    let y = run(counting(&[1, 2, 1, 2]), |b, x| b.upsample_nearest(x, 2))?;
    assert_eq!(y.shape(), [1, 4, 2, 2]);
    assert_eq!(y.to_f64(), [0., 1., 0., 1., 0., 1., 0., 1., 2., 3., 2., 3., 2., 3., 2., 3.]);
    Ok(())
}
