//! What can be benched, by name.

use serde_json::Value;

use std::sync::Arc;

use super::models::{MODELS, ModelRow, ModelWork};
use super::ops::OpWork;
use super::train::{STEPS, TrainRow, TrainWork};
use crate::device::cpu::CpuDevice;
use crate::error::Result;
use crate::graph::Cost;
use crate::ops::{Case, OpEntry, registry};
use crate::tensor::HostTensor;

/// Something that can be run again and again on the same operands.
pub trait Work: Send {
    /// One run.
    fn run(&mut self) -> Result<()>;

    /// Operations and compulsory bytes of one run.
    fn cost(&self) -> Cost;

    /// What another implementation must build to do the same: `{"op": …}`, `{"model": …}` or
    /// `{"train": …}`.
    fn describe(&self) -> Value;

    /// All tensors that go in, by name.
    fn inputs(&self) -> Vec<(String, HostTensor)>;

    /// The first result of the last run.
    fn output(&self) -> HostTensor;
}

/// Whether a row is one op or a whole network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A bench case of the op registry.
    Op,
    /// A network with random weights.
    Model,
}

impl Kind {
    /// Fewest timed runs of a row, however long one takes.
    pub fn min_runs(self) -> usize {
        match self {
            Kind::Op => 5,
            Kind::Model => 3,
        }
    }
}

/// One row of the bench, not yet prepared.
pub enum Row {
    /// A case of an op.
    Op(&'static OpEntry, Case),
    /// A network.
    Model(&'static ModelRow),
    /// A training step.
    Train(&'static TrainRow),
}

impl Row {
    /// `op/case`, or the model's name.
    pub fn name(&self) -> String {
        match self {
            Row::Op(entry, case) => format!("{}/{}", entry.name, case.name),
            Row::Model(m) => m.name.to_owned(),
            Row::Train(t) => t.name.to_owned(),
        }
    }

    /// Op or model.
    pub fn kind(&self) -> Kind {
        match self {
            Row::Op(..) => Kind::Op,
            Row::Model(_) | Row::Train(_) => Kind::Model,
        }
    }

    /// Allocates and fills everything that a run needs.
    pub fn prepare(&self, device: &Arc<CpuDevice>) -> Result<Box<dyn Work>> {
        Ok(match self {
            Row::Op(_, case) => Box::new(OpWork::new(case, device)?),
            Row::Model(m) => Box::new(ModelWork::new(m, device)?),
            Row::Train(t) => Box::new(TrainWork::new(t, device)?),
        })
    }
}

/// Every bench case of the op registry, then every model, then the training steps.
pub fn rows() -> Vec<Row> {
    let cases = |e: &'static OpEntry| (e.cases)().into_iter().filter(|c| c.bench).map(move |c| Row::Op(e, c));
    let models = MODELS.iter().map(Row::Model).chain(STEPS.iter().map(Row::Train));
    registry().flat_map(cases).chain(models).collect()
}
