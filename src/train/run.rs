//! A training run: samples in, updates, checkpoints, logs, until the last update or a signal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, Folder};
use super::config::{Batches, Config};
use super::log::{self, Log};
use super::reduce::Reduce;
use super::settings::Settings;
use super::step::{Tensors, Terms, TrainStep};
use super::trainers::{Inputs, Trainer};
use crate::cancel::Cancel;
use crate::data::dataset::{Loader, Share, Stream};
use crate::data::image::{Channels, Format, Photo, Samples};
use crate::data::pixels::{FloatImage, Rounding};
use crate::device::Device;
use crate::tensor::DType;
use crate::weights::{WeightSet, safetensors};
use crate::{Error, Result, atomic_file};

/// Threads that prepare samples, unless the settings say how many.
const MOST_WORKERS: usize = 8;

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At update 0; refused where there are checkpoints.
    No,
    /// At the newest whole checkpoint of its folder, or at update 0 if there is none.
    Auto,
    /// At this checkpoint.
    From(PathBuf),
}

impl std::str::FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "auto" { Resume::Auto } else { Resume::From(text.into()) })
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Updates made in all.
    pub step: u64,
    /// Whether a signal ended it before the last one; its checkpoint is written.
    pub interrupted: bool,
    /// Samples that were left out since it began or went on.
    pub skipped: usize,
}

/// Trains until the last update or until `cancel` is raised, which ends in a checkpoint after the update in work.
///
/// With `processes` each of these runs this with the same settings: they share every batch, the first one writes
/// logs and checkpoints and validates, all read the checkpoint to go on from, and all stop when one is asked to.
///
/// # Errors
/// If the data, the device, a checkpoint's writing at the end, another process, or the numbers fail: a loss or
/// gradient that is not finite names the first tensor that went bad.
pub fn run(
    settings: &Settings,
    trainer: &mut dyn Trainer,
    device: &Device,
    resume: &Resume,
    processes: Option<Box<dyn Reduce>>,
    cancel: &Cancel,
) -> Result<Finished> {
    let config = Config::read(settings)?;
    let (rank, world) = processes.as_ref().map_or((0, 1), |p| (p.rank(), p.world()));
    let batches = config.batches(world)?;
    let folder = Folder::new(config.output.join("checkpoints"), config.checkpoint.keep);
    let start = beginning(&folder, resume)?;
    let options = config.step_options(batches);
    let mut step = TrainStep::new(trainer.objective(), device, trainer.weights(), options)?;
    if let Some(processes) = processes {
        step = step.with_processes(processes)?;
    }
    let done = go_on(&mut step, start.as_ref(), &folder)?;
    let stream = Arc::new(Stream::new(trainer.source()?, config.seed));
    let log = if rank == 0 {
        let log = Log::open(&config.output, done, config.steps, config.log.every)?;
        announce(&log, &config, &step, &stream, start.as_ref(), settings);
        atomic_file::write(&config.output.join("settings.toml"), settings.to_toml().as_bytes())?;
        log
    } else {
        Log::silent()
    };

    let share = Share { rank, world, batch: batches.micro };
    let first = done * (batches.accumulate * batches.micro) as u64;
    let workers = match config.data.workers {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()).min(MOST_WORKERS),
        n => n,
    };
    let ahead = if config.data.ahead == 0 { 2 * batches.micro } else { config.data.ahead };
    let loader = Loader::start(stream.clone(), share, first, workers, ahead);
    let half = device.as_kernels().is_some_and(|k| k.compute == DType::F16);
    let notes = BTreeMap::from([("settings".to_owned(), settings.to_toml())]);
    let mut run =
        Run { config, batches, rank, trainer, step, done, loader, stream, log, folder, notes, half };
    let result = run.go(cancel);
    run.log.finish();
    let finished = result?;
    run.step.leave()?;
    Ok(finished)
}

/// Takes over a checkpoint's state, if there is one; gives the updates made.
fn go_on(step: &mut TrainStep, start: Option<&Checkpoint>, folder: &Folder) -> Result<u64> {
    if let Some(checkpoint) = start {
        step.restore_state(&checkpoint.tensors)?;
    }
    let done = start.map_or(0, |c| c.step);
    if !step.same(done)? {
        return Err(Error::Run(format!(
            "the processes would go on from different checkpoints (this one after update {done}); {} must be one \
             folder for all of them",
            folder.path().display()
        )));
    }
    Ok(done)
}

/// The checkpoint to go on from.
fn beginning(folder: &Folder, resume: &Resume) -> Result<Option<Checkpoint>> {
    match resume {
        Resume::From(path) => Checkpoint::open(path).map(Some),
        Resume::Auto => {
            let (newest, damaged) = folder.newest()?;
            damaged.iter().for_each(|message| tracing::warn!("{message}"));
            match newest {
                None if !damaged.is_empty() => Err(Error::Run(format!(
                    "all checkpoints of this run are damaged, the newest: {}; remove them to begin anew",
                    damaged[0]
                ))),
                newest => Ok(newest),
            }
        }
        Resume::No => match folder.last_step()? {
            None => Ok(None),
            Some(step) => Err(Error::Usage(format!(
                "{} already holds a run of {step} updates; go on with --resume auto, or give another --output",
                folder.path().display()
            ))),
        },
    }
}

fn announce(
    log: &Log,
    config: &Config,
    step: &TrainStep,
    stream: &Stream,
    start: Option<&Checkpoint>,
    settings: &Settings,
) {
    let memory = step.memory();
    let (arena, state) = (memory.activations >> 20, memory.optimizer >> 20);
    log.say(&format!(
        "{} updates of {} samples out of {} items; {} tensors are trained; memory: {arena} MiB for activations, \
         {state} MiB for gradients and optimiser",
        config.steps,
        config.batch,
        stream.items(),
        step.trained().len()
    ));
    let Some(checkpoint) = start else { return };
    log.say(&format!("going on after update {} from {}", checkpoint.step, checkpoint.path.display()));
    let before = checkpoint.notes.get("settings").map(|text| settings.with_text(text));
    if let Some(Ok(before)) = before {
        for change in settings.changes_from(&before) {
            log.warn(&format!("changed since that checkpoint: {change}"));
        }
    }
}

/// A run in work.
struct Run<'a> {
    config: Config,
    batches: Batches,
    /// Number of this process; the first one, 0, writes.
    rank: usize,
    trainer: &'a mut dyn Trainer,
    step: TrainStep,
    /// Updates made.
    done: u64,
    loader: Loader,
    stream: Arc<Stream>,
    log: Log,
    folder: Folder,
    /// What checkpoints say beside their tensors.
    notes: BTreeMap<String, String>,
    /// Whether gradients are f16, of which some updates may overflow.
    half: bool,
}

impl Run<'_> {
    fn go(&mut self, cancel: &Cancel) -> Result<Finished> {
        let mut saved = self.done;
        let mut interrupted = false;
        while self.done < self.config.steps {
            if self.step.any(cancel.is_cancelled())? {
                interrupted = true;
                break;
            }
            self.update()?;
            let last = self.done == self.config.steps;
            if (last || due(self.done, self.config.validation.every))
                && let Err(e) = self.validate()
            {
                // What was learned outlasts a validation that fails.
                if saved < self.done {
                    self.save()?;
                }
                return Err(e);
            }
            if !last && due(self.done, self.config.checkpoint.every) {
                // A run is worth more than a checkpoint: the disk may have room by the next one.
                match self.save() {
                    Ok(()) => saved = self.done,
                    Err(e) => self.log.warn(&format!("{e}; training goes on")),
                }
            }
        }
        if saved < self.done {
            self.save()?;
        }
        self.export()?;
        let skipped = self.stream.skipped_count();
        Ok(Finished { step: self.done, interrupted, skipped })
    }

    /// One update: all micro-batches forward and backward, then the optimiser.
    fn update(&mut self) -> Result<()> {
        let _range = crate::trace::range(|| format!("update {}", self.done + 1));
        let rate = self.config.rate(self.done);
        let mut waited = Duration::ZERO;
        let (mut loss, mut terms): (f64, Vec<(String, f64)>) = (0.0, Vec::new());
        let mut given = Vec::with_capacity(self.batches.accumulate);
        for _ in 0..self.batches.accumulate {
            let asked = Instant::now();
            let samples = (0..self.batches.micro).map(|_| self.loader.next_sample());
            let samples = samples.collect::<Result<Vec<_>>>()?;
            waited += asked.elapsed();
            let inputs = self.trainer.inputs(&samples)?;
            let found = self.step.accumulate(&inputs)?;
            if !found.loss.is_finite() {
                return Err(self.bad(&[inputs], &format!("the loss is {}", found.loss)));
            }
            loss += found.loss;
            for (name, value) in found.terms {
                match terms.iter_mut().find(|(n, _)| *n == name) {
                    Some((_, sum)) => *sum += value,
                    None => terms.push((name, value)),
                }
            }
            given.push(inputs);
        }
        let update = self.step.update(rate)?;
        if update.skipped && !self.half {
            return Err(self.bad(&given, &format!("the norm of the gradients is {}", update.grad_norm)));
        }
        self.done += 1;
        let n = self.batches.accumulate as f64;
        terms.iter_mut().for_each(|(_, sum)| *sum /= n);
        let Terms { loss, terms } = self.step.mean(Terms { loss: loss / n, terms })?;
        self.log.update(&log::Update {
            step: self.done,
            epoch: (self.done * self.config.batch as u64) as f64 / self.stream.items() as f64,
            loss,
            terms,
            rate,
            grad_norm: update.grad_norm,
            images: self.config.batch,
            waited,
            skipped: update.skipped,
        });
        let count = self.stream.skipped_count();
        for skipped in self.stream.skipped() {
            self.log.skipped(self.done, &skipped.name, &skipped.reason, count);
        }
        Ok(())
    }

    /// The error for numbers that went bad: which tensor did so first.
    fn bad(&mut self, batches: &[Inputs], what: &str) -> Error {
        let first = batches.iter().find_map(|inputs| self.step.check(inputs).err());
        let where_ = first.map_or_else(
            || {
                "each tensor here is finite; their squares overflow, or another process has one that is not"
                    .to_owned()
            },
            |e| format!("the first tensor that went bad: {e}"),
        );
        Error::Run(format!(
            "update {}: {what}; {where_}. Go on from the last checkpoint (--resume auto) with a lower optimizer.lr, or \
             with optimizer.clip",
            self.done + 1
        ))
    }

    /// Weights as they are to be used: the moving average where there is one.
    fn weights(&self) -> Result<Tensors> {
        match self.step.ema()? {
            Some(averages) => Ok(averages),
            None => self.step.parameters(),
        }
    }

    fn validate(&mut self) -> Result<()> {
        if self.rank > 0 {
            return Ok(());
        }
        let weights = WeightSet::from_tensors(self.weights()?);
        let findings = match self.trainer.validate(&weights) {
            Ok(Some(findings)) => findings,
            // Whoever asked to stop gets a checkpoint, not the rest of a validation.
            Ok(None) | Err(Error::Interrupted) => return Ok(()),
            Err(e) => return Err(e),
        };
        self.log.validation(self.done, &findings.scalars, &findings.images);
        let folder = self.config.output.join("validation");
        for (name, image) in &findings.images {
            let path = folder.join(format!("step-{:08}-{name}.png", self.done));
            if let Err(e) = write_picture(&path, image) {
                self.log.warn(&format!("{e}; training goes on"));
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        if self.rank > 0 {
            return Ok(());
        }
        let path = self.folder.save(self.done, &self.notes, &self.step.state()?)?;
        self.log.say(&format!("checkpoint {}", path.display()));
        Ok(())
    }

    /// Weights under the official keys with the hyper-parameters beside them: what `restore` and `forward` take.
    fn export(&mut self) -> Result<()> {
        if self.rank > 0 {
            return Ok(());
        }
        let folder = self.config.output.join("export");
        let name = self.trainer.name();
        let path = folder.join(format!("{name}.safetensors"));
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create directory", &folder, e))?;
        let mut weights = self.weights()?;
        weights.retain(|(key, _)| self.trainer.objective().of_network(key));
        let notes = BTreeMap::from([("updates".to_owned(), self.done.to_string())]);
        safetensors::write(&path, weights.iter().map(|(n, t)| (n.as_str(), t)), &notes, None)?;
        let json = format!("{:#}\n", self.trainer.hyper_parameters());
        atomic_file::write(&folder.join(format!("{name}.json")), json.as_bytes())?;
        self.log.say(&format!("weights after {} updates: {}", self.done, path.display()));
        Ok(())
    }
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn write_picture(path: &Path, image: &FloatImage) -> Result<()> {
    let (height, width) = (image.height, image.width);
    let blank = Photo::new(height, width, Channels::Rgb, Samples::U8(vec![0; 3 * height * width]));
    blank.with_pixels(image, None, Rounding::HalfEven)?.save(path, Format::Png, 100)?;
    Ok(())
}
