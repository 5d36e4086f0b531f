//! Degrades many pictures: `gt/`, `lr/` and `sr_bicubic/` in one directory, and how each came about.
//!
//! Every worker takes the next picture and works on it alone; nothing depends on which one does. After a
//! picture's three files are in place its line is added to `params.jsonl`: what was drawn, and from what. Drawing
//! anew tells on resuming whether a line is still true. When the job ends its lines are put in order.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::batch::{Stop, fails_all, guarded};
use super::naming;
use super::progress::Progress;
use crate::cancel::{Cancel, EXIT_INTERRUPTED};
use crate::data::degrade::{Config, Drawn, Framing, Key, Pair, apply};
use crate::data::image::{Channels, Format, Photo, Samples};
use crate::data::inputs::{Failure, Input, Inputs, Source};
use crate::data::pixels::{FloatImage, Rounding};
use crate::data::shard::Shard;
use crate::device::cpu::CpuDevice;
use crate::{Error, Result};

pub mod params;

use params::{Line, Params};

/// The folders of a paired data set, in the order of [`Pair`]'s fields.
pub const FOLDERS: [&str; 3] = ["gt", "lr", "sr_bicubic"];

/// What outputs are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Names {
    /// Numbers of seven digits from 1 on, over all passes: `0000001.png`.
    Numbers,
    /// As the inputs, with their tree.
    Source,
}

/// What to make of each picture.
#[derive(Clone, Debug)]
pub enum Work {
    /// Draw anew.
    Draw {
        /// Checked settings.
        config: Config,
        /// Seed of all draws.
        seed: u64,
        /// Passes over the inputs.
        epochs: u32,
        /// Whole pictures instead of crops: sides are reflected to multiples of the scale, and ground truth and
        /// `sr_bicubic` cut back.
        whole: bool,
        /// How outputs are called.
        names: Names,
    },
    /// Repeat what an earlier job noted.
    Replay(Vec<Line>),
}

/// How to run the job.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the three folders go.
    pub output: PathBuf,
    /// Go on where an earlier run stopped.
    pub resume: bool,
    /// This process's part of the job.
    pub shard: Shard,
    /// Pictures in work at a time; 0 takes all cores.
    pub threads: usize,
}

/// What a job did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Pairs written.
    pub done: usize,
    /// Pairs that an earlier run had written.
    pub skipped: usize,
    /// Pairs not reached because the job was stopped.
    pub left: usize,
    /// Pictures passed over because they or their files are too small.
    pub rejected: Vec<Failure>,
    /// What failed, and why.
    pub failed: Vec<Failure>,
    /// Whether Ctrl-C or SIGTERM ended the job.
    pub interrupted: bool,
    /// Why the job gave up before its end (full disk …).
    pub stopped: Option<String>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Pairs written in each of them.
    pub pairs_per_second: f64,
    /// The shard, as `I/N`.
    pub shard: String,
    /// Where the drawn parameters are.
    pub params: PathBuf,
}

impl Summary {
    /// The process's exit code: 0 all done, 1 the job gave up, 3 some inputs failed, 130 interrupted.
    pub fn exit_code(&self) -> i32 {
        match self {
            s if s.interrupted => EXIT_INTERRUPTED,
            s if s.stopped.is_some() => 1,
            s if !s.failed.is_empty() => 3,
            _ => 0,
        }
    }

    /// The closing words.
    pub fn message(&self) -> String {
        let mut text = format!("{} pairs written", self.done);
        if self.skipped > 0 {
            text += &format!(", {} already done", self.skipped);
        }
        for (list, word) in [(&self.rejected, "passed over"), (&self.failed, "failed")] {
            if !list.is_empty() {
                text += &format!(", {} {word}", list.len());
            }
        }
        text += &format!(" in {:.1} s ({:.2} a second)", self.seconds, self.pairs_per_second);
        for (list, word) in [(&self.rejected, "passed over"), (&self.failed, "failed")] {
            for Failure { name, reason } in list {
                text += &format!("\n  {word}: {name}: {reason}");
            }
        }
        if let Some(reason) = &self.stopped {
            text += &format!("\nstopped with {} left: {reason}", self.left);
        } else if self.interrupted {
            text += &format!("\ninterrupted with {} left", self.left);
        }
        if self.left > 0 {
            text += "; run the same command with --resume to go on";
        }
        text
    }
}

/// The pairs of a job by their numbers: each is put together when it is asked for, as there may be millions.
struct Pairs<'a> {
    work: &'a Work,
    inputs: Vec<Input>,
    /// Names of outputs that are called like their inputs.
    sources: Vec<String>,
    /// Inputs (by position) and lines of a replay.
    replayed: Vec<(usize, &'a Line)>,
}

/// One pair to make.
struct Item<'a> {
    file: String,
    input: &'a Input,
    plan: Plan<'a>,
}

enum Plan<'a> {
    Draw { config: &'a Config, key: Key, whole: bool },
    Replay(&'a Line),
}

impl<'a> Pairs<'a> {
    /// Also gives the lines of a replay that have no input.
    fn new(inputs: Vec<Input>, work: &'a Work) -> Result<(Self, Vec<Failure>)> {
        let (mut sources, mut replayed, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        match work {
            Work::Draw { names: Names::Source, .. } => sources = source_names(&inputs)?,
            Work::Draw { names: Names::Numbers, .. } => {}
            Work::Replay(lines) => {
                let by_name: HashMap<&str, usize> =
                    inputs.iter().enumerate().map(|(i, input)| (input.name.as_str(), i)).collect();
                let mut seen = HashSet::new();
                for line in lines {
                    if !seen.insert(&line.file) {
                        return Err(Error::Usage(format!(
                            "two lines of the parameters are about {}; remove one of them",
                            line.file
                        )));
                    }
                    match by_name.get(line.source.as_str()) {
                        Some(i) => replayed.push((*i, line)),
                        None => failed.push(Failure {
                            name: line.source.clone(),
                            reason: format!(
                                "no input has this name, of which {} is to be made again",
                                line.file
                            ),
                        }),
                    }
                }
            }
        }
        Ok((Pairs { work, inputs, sources, replayed }, failed))
    }

    fn len(&self) -> usize {
        match self.work {
            Work::Draw { epochs, .. } => self.inputs.len() * *epochs as usize,
            Work::Replay(_) => self.replayed.len(),
        }
    }

    fn get(&self, number: usize) -> Item<'_> {
        match self.work {
            Work::Draw { config, seed, whole, .. } => {
                let (epoch, i) = (number / self.inputs.len(), number % self.inputs.len());
                Item {
                    file: self.sources.get(i).cloned().unwrap_or_else(|| format!("{:07}.png", number + 1)),
                    input: &self.inputs[i],
                    plan: Plan::Draw {
                        config,
                        key: Key { seed: *seed, epoch: epoch as u32, index: i as u64 },
                        whole: *whole,
                    },
                }
            }
            Work::Replay(_) => {
                let (i, line) = self.replayed[number];
                Item { file: line.file.clone(), input: &self.inputs[i], plan: Plan::Replay(line) }
            }
        }
    }
}

impl Item<'_> {
    /// Whether the pair was made from the same file by the same draws, and its files are there.
    fn is_done(&self, params: &Params, output: &Path) -> bool {
        let Some(line) = params.line(&self.file) else { return false };
        let same = match self.plan {
            Plan::Draw { config, key, whole } => {
                let size = config.picture().size;
                let framed = match line.cut {
                    Some([h, w]) => whole && line.framing == Framing::whole(h, w, config.multiple()),
                    None => !whole && (line.framing.height, line.framing.width) == (size, size),
                };
                framed && line.drawn == Drawn::draw(config, key)
            }
            Plan::Replay(wanted) => *wanted == line,
        };
        same && (&line.source, line.source_bytes) == (&self.input.name, self.input.size)
            && FOLDERS.iter().all(|folder| output.join(folder).join(&self.file).is_file())
    }

    /// An output may not take the place of the picture it is made from.
    fn refuse_overwriting(&self, output: &Path) -> Result<()> {
        let Source::File(input) = &self.input.source else { return Ok(()) };
        for folder in FOLDERS {
            let path = output.join(folder).join(&self.file);
            if path.exists() && fs::canonicalize(&path).ok() == fs::canonicalize(input).ok() {
                return Err(Error::Usage(format!(
                    "the output {} would overwrite its input; choose another directory with -o",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

/// Outputs called like their inputs.
fn source_names(inputs: &[Input]) -> Result<Vec<String>> {
    // Into no directory: what lies in gt/, lr/ and sr_bicubic/ is looked at elsewhere.
    let nowhere = naming::Target::Directory(PathBuf::new());
    let (planned, _) = naming::plan(inputs.to_vec(), &nowhere, Format::Png, false)?;
    Ok(planned.into_iter().map(|p| p.output).collect())
}

/// Runs the job. Failures of single pictures, an interruption and a full disk are told in the summary.
///
/// # Errors
/// `Error::Usage` if there is nothing to do or two pairs would have one name, `Error::Io` if the output
/// directory or the parameters cannot be written.
pub fn run(inputs: Inputs, work: &Work, options: &Options, cancel: &Cancel) -> Result<Summary> {
    let start = Instant::now();
    let shard = options.shard;
    let Inputs { found, mut failed } = inputs;
    if found.is_empty() && failed.is_empty() {
        return Err(Error::Usage(
            "no pictures found: expected PNG, JPEG, WebP, TIFF or BMP files (directories below need -r)"
                .into(),
        ));
    }
    let (pairs, missing) = Pairs::new(found, work)?;
    failed.extend(missing);
    failed.retain(|f| shard.holds(&f.name));
    let mine: Vec<usize> = (0..pairs.len()).filter(|n| shard.holds(&pairs.get(*n).file)).collect();
    mine.iter().try_for_each(|n| pairs.get(*n).refuse_overwriting(&options.output))?;

    let params = Params::open(&options.output, shard, options.resume)?;
    let (done, todo): (Vec<usize>, Vec<usize>) =
        mine.into_iter().partition(|n| pairs.get(*n).is_done(&params, &options.output));
    let progress = Progress::new(todo.len());
    failed.iter().for_each(|f| progress.warn(&format!("{}: {}", f.name, f.reason)));
    let job = Job {
        pairs: &pairs,
        output: &options.output,
        todo: &todo,
        next: AtomicUsize::new(0),
        reached: AtomicUsize::new(0),
        progress: &progress,
        stop: Stop::new(cancel),
        params: Mutex::new(params),
        tally: Mutex::default(),
    };
    job.run(options.threads)?;
    progress.finish();

    let Job { reached, stop, params, tally, .. } = job;
    let params = params.into_inner().unwrap_or_else(|e| e.into_inner());
    let tally = tally.into_inner().unwrap_or_else(|e| e.into_inner());
    let left = todo.len() - reached.into_inner();
    failed.extend(tally.failed);
    let by_name = |a: &Failure, b: &Failure| a.name.cmp(&b.name);
    failed.sort_by(by_name);
    let mut rejected = tally.rejected;
    rejected.sort_by(by_name);
    let seconds = start.elapsed().as_secs_f64();
    let summary = Summary {
        done: tally.done,
        skipped: done.len(),
        left,
        rejected,
        failed,
        interrupted: cancel.is_cancelled() && left > 0,
        stopped: stop.into_reason(),
        seconds,
        pairs_per_second: tally.done as f64 / seconds.max(1e-9),
        shard: shard.to_string(),
        params: params.path().to_owned(),
    };
    if summary.stopped.is_none() {
        params.put_in_order()?;
    }
    Ok(summary)
}

#[derive(Default)]
struct Tally {
    done: usize,
    rejected: Vec<Failure>,
    failed: Vec<Failure>,
}

struct Job<'a> {
    pairs: &'a Pairs<'a>,
    output: &'a Path,
    todo: &'a [usize],
    next: AtomicUsize,
    /// Items that came to an end of any kind.
    reached: AtomicUsize,
    progress: &'a Progress,
    stop: Stop,
    params: Mutex<Params>,
    tally: Mutex<Tally>,
}

/// How a picture ended that is no failure.
enum Made {
    Pair(Box<Line>),
    Rejected(String),
}

impl Job<'_> {
    fn run(&self, threads: usize) -> Result<()> {
        let cores = if threads > 0 { threads } else { CpuDevice::new(0)?.threads() };
        let workers = cores.min(self.todo.len()).max(1);
        // A pool of one thread for each: what is parallel inside a picture stays on its worker.
        let pools = (0..workers).map(|_| CpuDevice::new(1)).collect::<Result<Vec<_>>>()?;
        std::thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| pool.run(|| self.work()));
            }
        });
        Ok(())
    }

    fn work(&self) {
        while !self.stop.is_raised() {
            let Some(number) = self.todo.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            let item = self.pairs.get(*number);
            let start = Instant::now();
            let made = guarded("degrading", || self.make(&item)).and_then(|made| match made {
                Made::Pair(line) => self.note(&line).map(|()| None),
                Made::Rejected(reason) => Ok(Some(reason)),
            });
            let reached = self.reached.fetch_add(1, Ordering::Relaxed);
            let mut tally = self.tally.lock().unwrap_or_else(|e| e.into_inner());
            let name = item.input.name.clone();
            match made {
                Ok(None) => {
                    tally.done += 1;
                    let text = format!("{} in {:.2} s", item.file, start.elapsed().as_secs_f64());
                    self.progress.done(reached, &name, &text);
                }
                Ok(Some(reason)) => {
                    self.progress.done(reached, &name, &reason);
                    tally.rejected.push(Failure { name, reason });
                }
                Err(e) => {
                    if fails_all(&e) {
                        self.stop.because(e.to_string());
                    }
                    self.progress.warn(&format!("{name}: {e}"));
                    tally.failed.push(Failure { name, reason: e.to_string() });
                }
            }
            self.progress.at(reached + 1, &item.file, 0.0);
        }
    }

    fn note(&self, line: &Line) -> Result<()> {
        self.params.lock().unwrap_or_else(|e| e.into_inner()).add(line)
    }

    fn make(&self, item: &Item) -> Result<Made> {
        let input = item.input;
        if let Plan::Draw { config, .. } = item.plan {
            let least = config.picture().min_bytes;
            if input.size < least {
                let reason = format!("its file has {} bytes, fewer than min_bytes = {least}", input.size);
                return Ok(Made::Rejected(reason));
            }
        }
        let photo = Photo::load_bytes(&input.read()?, input.location())?;
        let (height, width) = (photo.height, photo.width);
        let (framing, cut, drawn) = match item.plan {
            Plan::Draw { config, key, whole } => {
                let least = config.picture().min_pixels;
                let pixels = (height * width) as u64;
                if pixels < least {
                    let reason = format!("it has {pixels} pixels, fewer than min_pixels = {least}");
                    return Ok(Made::Rejected(reason));
                }
                let framing = match whole {
                    true => Framing::whole(height, width, config.multiple()),
                    false => Framing::draw(config.picture(), key, height, width),
                };
                (framing, whole.then_some([height, width]), Drawn::draw(config, key))
            }
            Plan::Replay(line) if line.source_bytes != input.size => {
                return Err(Error::file(
                    input.location(),
                    format!(
                        "expected the file of {} bytes that {} was made from, found one of {}",
                        line.source_bytes, line.file, input.size
                    ),
                ));
            }
            Plan::Replay(line) => (line.framing, line.cut, line.drawn.clone()),
        };
        let pair = apply(&drawn, &framing.cut(&photo.rgb_f32()))?;
        self.save(&item.file, &pair, cut)?;
        Ok(Made::Pair(Box::new(Line {
            file: item.file.clone(),
            source: input.name.clone(),
            source_bytes: input.size,
            framing,
            cut,
            drawn,
        })))
    }

    fn save(&self, file: &str, pair: &Pair, cut: Option<[usize; 2]>) -> Result<()> {
        // The ground truth last: where it is, the others are.
        for (folder, image, cut) in
            [(FOLDERS[1], &pair.lr, None), (FOLDERS[2], &pair.sr_bicubic, cut), (FOLDERS[0], &pair.gt, cut)]
        {
            let cut = cut
                .map(|[height, width]| Framing { mirror: false, top: 0, left: 0, height, width }.cut(image));
            eight_bits(cut.as_ref().unwrap_or(image))?.save(
                self.output.join(folder).join(file),
                Format::Png,
                100,
            )?;
        }
        Ok(())
    }
}

/// Rounded to the nearest level, ties to even, as OpenCV does.
fn eight_bits(image: &FloatImage) -> Result<Photo> {
    let empty = Photo::new(0, 0, Channels::Rgb, Samples::U8(Vec::new()));
    empty.with_pixels(image, None, Rounding::HalfEven)
}
