//! Two implementations of the same work, taking turns.
//!
//! Speeds of a machine drift (clocks, neighbours), so two times are comparable only when taken
//! side by side. Both sides therefore alternate in short slots, A B A B …; each pair of slots gives
//! one ratio, and the ratios are what is reported.

use std::thread;
use std::time::Duration;

use super::Options;
use super::measure::{Flusher, median, sample, sample_warm};
use super::torch::{Loaded, Torch};
use super::work::{Kind, Row, Work};
use crate::error::Result;
use crate::tensor::HostTensor;

/// Pairs of slots for an op; a slot holds as many runs as fit.
const OP_PAIRS: usize = 7;
/// Pairs of runs for a network.
const MODEL_PAIRS: usize = 3;
/// Pause between slots: the worker threads of both sides spin for a while after their last task.
const SETTLE: Duration = Duration::from_millis(10);

/// What the measurement of a row gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Our times in seconds.
    pub times: Vec<f64>,
    /// The comparison, where one was asked for.
    pub versus: Option<Versus>,
}

/// The other side of a row.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Versus {
    /// Times and agreement.
    Measured {
        /// The other side's median time in seconds.
        seconds: f64,
        /// Median of the pairs' ratios, their time over ours: above 1 we are faster.
        ratio: f64,
        /// Smallest ratio of a pair.
        ratio_min: f64,
        /// Largest ratio of a pair.
        ratio_max: f64,
        /// Number of pairs.
        pairs: usize,
        /// Distance of the two results: ‖ours − theirs‖ / ‖theirs‖.
        relative_l2: f64,
    },
    /// There is no comparison, and why.
    Absent(String),
}

/// Measures our side of a row only.
pub fn alone(
    row: &Row,
    work: &mut dyn Work,
    options: &Options,
    flusher: Option<&mut Flusher>,
) -> Result<Outcome> {
    let run = || options.cancel.check().and_then(|()| work.run());
    let times = sample(run, options.seconds, row.kind().min_runs(), flusher)?;
    Ok(Outcome { times, versus: None })
}

/// Measures a row on both sides.
pub fn run(
    row: &Row,
    work: &mut dyn Work,
    torch: &mut Torch,
    options: &Options,
    mut flusher: Option<&mut Flusher>,
) -> Result<Outcome> {
    let compared = match torch.load(&work.describe(), &work.inputs())? {
        Loaded::Ready { result: theirs, .. } => {
            work.run()?;
            distance(&work.output(), &theirs)
        }
        Loaded::Refused(why) => Err(why),
    };
    let relative_l2 = match compared {
        Ok(distance) => distance,
        Err(why) => {
            let ours = alone(row, work, options, flusher)?;
            return Ok(Outcome { versus: Some(Versus::Absent(why)), ..ours });
        }
    };
    let pairs = match row.kind() {
        Kind::Op => OP_PAIRS,
        Kind::Model => MODEL_PAIRS,
    };
    let slot = options.seconds / pairs as f64;
    // A network runs so long that it warms itself up; both sides have run it once already.
    let warm_up = row.kind() == Kind::Op;
    let (mut times, mut their_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        thread::sleep(SETTLE);
        let mut run = || options.cancel.check().and_then(|()| work.run());
        if warm_up {
            run()?;
        }
        let ours = sample_warm(run, slot, 1, flusher.as_deref_mut())?;
        thread::sleep(SETTLE);
        let theirs = torch.time(slot, warm_up)?;
        ratios.push(median(&theirs) / median(&ours));
        times.extend(ours);
        their_times.extend(theirs);
    }
    let versus = Versus::Measured {
        seconds: median(&their_times),
        ratio: median(&ratios),
        ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratio_max: ratios.iter().copied().fold(0.0, f64::max),
        pairs,
        relative_l2,
    };
    Ok(Outcome { times, versus: Some(versus) })
}

/// ‖a − b‖ / ‖b‖ of two results of one shape, or how their shapes differ.
pub(super) fn distance(a: &HostTensor, b: &HostTensor) -> Result<f64, String> {
    if a.shape() != b.shape() {
        return Err(format!("the results differ in shape: {:?} and {:?}", a.shape(), b.shape()));
    }
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&x, &y) in a.to_f32().iter().zip(b.to_f32().iter()) {
        let (x, y) = (f64::from(x), f64::from(y));
        difference += (x - y) * (x - y);
        norm += y * y;
    }
    Ok(if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_known_results() {
        let t = |v: &[f32]| HostTensor::from_f32([v.len()], v.to_vec());
        assert_eq!(distance(&t(&[3.0, 0.0]), &t(&[3.0, 4.0])), Ok(0.8));
        assert_eq!(distance(&t(&[0.0]), &t(&[0.0])), Ok(0.0));
        assert!(distance(&t(&[f32::NAN]), &t(&[1.0])).unwrap().is_nan());
        assert!(distance(&t(&[1.0]), &t(&[1.0, 2.0])).unwrap_err().contains("shape"));
    }
}
