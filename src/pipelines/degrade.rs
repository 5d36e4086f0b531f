//! Degrades many pictures: `gt/`, `lr/` and `sr_bicubic/` in one directory, and how each came about.
//!
//! Every worker takes the next picture and works on it alone; nothing depends on which one does. After a
//! picture's three files are in place its line is added to `params.jsonl`: what was drawn, and from what. Drawing
//! anew tells on resuming whether a line is still true. When the job ends its lines are put in order.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::batch::{Stop, fails_all, guarded};
use super::naming;
use super::progress::Progress;
use crate::atomic_file;
use crate::cancel::{Cancel, EXIT_INTERRUPTED};
use crate::data::degrade::{Config, Drawn, Framing, Key, Pair, apply};
use crate::data::image::{Channels, Format, MAX_PIXELS, Photo, Samples};
use crate::data::inputs::{Failure, Input, Inputs, Source};
use crate::data::pixels::{FloatImage, Rounding};
use crate::data::shard::Shard;
use crate::device::cpu::CpuDevice;
use crate::{Error, Result};

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
        config: Box<Config>,
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

/// A line of `params.jsonl`: one pair, and all that its bytes depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The files' name in the three folders.
    pub file: String,
    /// The input's name, and its size in bytes.
    pub source: String,
    #[allow(missing_docs)]
    pub source_bytes: u64,
    /// Which part of it the ground truth is.
    pub framing: Framing,
    /// Of a picture that was taken whole: its height and width, to which ground truth and `sr_bicubic` are cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<[usize; 2]>,
    /// What was done to it.
    pub drawn: Drawn,
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

/// One pair to make.
struct Item {
    file: String,
    input: Input,
    plan: Plan,
}

enum Plan {
    Draw(Key),
    Replay(Box<Line>),
}

/// Runs the job. Failures of single pictures, an interruption and a full disk are told in the summary.
///
/// # Errors
/// `Error::Usage` if there is nothing to do or two pairs would have one name, `Error::Io` if the output
/// directory or the parameters cannot be written.
pub fn run(inputs: Inputs, work: &Work, options: &Options, cancel: &Cancel) -> Result<Summary> {
    let start = Instant::now();
    let shard = options.shard;
    let (items, mut failed) = items(inputs, work)?;
    items.iter().try_for_each(|item| refuse_overwriting(item, &options.output))?;
    failed.retain(|f| shard.holds(&f.name));
    let mine: Vec<Item> = items.into_iter().filter(|i| shard.holds(&i.file)).collect();

    let params = Params::open(&options.output, shard, options.resume)?;
    let (done, todo): (Vec<Item>, Vec<Item>) =
        mine.into_iter().partition(|item| params.is_done(item, work, &options.output));
    let progress = Progress::new(todo.len());
    failed.iter().for_each(|f| progress.warn(&format!("{}: {}", f.name, f.reason)));
    let job = Job {
        work,
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
        params: params.path.clone(),
    };
    if summary.stopped.is_none() {
        params.put_in_order()?;
    }
    Ok(summary)
}

/// Reads the parameters that an earlier job noted.
///
/// # Errors
/// `Error::Io`, or `Error::File` naming the line that is not one, or that nothing could have drawn.
pub fn read_params(path: &Path) -> Result<Vec<Line>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut lines = Vec::new();
    for (number, text) in BufReader::new(file).lines().enumerate() {
        let text = text.map_err(|e| Error::io("read", path, e))?;
        if text.trim().is_empty() {
            continue;
        }
        let wrong = |what: String| Error::file(path, format!("line {}: {what}", number + 1));
        let line: Line = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        line.check().map_err(|e| wrong(e.to_string()))?;
        lines.push(line);
    }
    match lines.is_empty() {
        true => {
            Err(Error::file(path, "expected a line for each pair (params.jsonl of `degrade`), found none"))
        }
        false => Ok(lines),
    }
}

impl Line {
    /// Refuses what only a damaged or hostile file can say.
    fn check(&self) -> Result<()> {
        self.drawn.check()?;
        let inside =
            self.file.split('/').all(|part| !matches!(part, "" | "." | "..")) && !self.file.contains('\\');
        if !inside {
            return Err(Error::Run(format!("the file {:?} would lie outside its folder", self.file)));
        }
        let Framing { top, left, height, width, .. } = self.framing;
        let pixels = height as u128 * width as u128;
        if pixels == 0 || pixels.max(top as u128).max(left as u128) > u128::from(MAX_PIXELS) {
            return Err(Error::Run(format!(
                "a framing of {width}×{height} pixels from {left}, {top} cannot be"
            )));
        }
        match self.cut {
            Some([h, w]) if h == 0 || w == 0 || h > height || w > width => {
                Err(Error::Run(format!("a picture of {width}×{height} cannot be cut to {w}×{h}")))
            }
            _ => Ok(()),
        }
    }
}

/// All pairs of the job, in order, and the inputs that can be none.
fn items(inputs: Inputs, work: &Work) -> Result<(Vec<Item>, Vec<Failure>)> {
    let Inputs { found, mut failed } = inputs;
    if found.is_empty() && failed.is_empty() {
        return Err(Error::Usage(
            "no pictures found: expected PNG, JPEG, WebP, TIFF or BMP files (directories below need -r)"
                .into(),
        ));
    }
    let items: Vec<Item> = match work {
        Work::Draw { seed, epochs, names, .. } => {
            let sources = match names {
                Names::Numbers => Vec::new(),
                Names::Source => source_names(&found)?,
            };
            let count = found.len();
            (0..*epochs)
                .flat_map(|epoch| (0..count).map(move |i| (epoch, i)))
                .map(|(epoch, i)| Item {
                    file: match names {
                        Names::Numbers => {
                            format!("{:07}.png", u64::from(epoch) * count as u64 + i as u64 + 1)
                        }
                        Names::Source => sources[i].clone(),
                    },
                    input: found[i].clone(),
                    plan: Plan::Draw(Key { seed: *seed, epoch, index: i as u64 }),
                })
                .collect()
        }
        Work::Replay(lines) => {
            let by_name: HashMap<&str, &Input> = found.iter().map(|i| (i.name.as_str(), i)).collect();
            let mut items = Vec::new();
            for line in lines {
                match by_name.get(line.source.as_str()) {
                    Some(input) => items.push(Item {
                        file: line.file.clone(),
                        input: (*input).clone(),
                        plan: Plan::Replay(Box::new(line.clone())),
                    }),
                    None => failed.push(Failure {
                        name: line.source.clone(),
                        reason: format!("no input has this name, of which {} is to be made again", line.file),
                    }),
                }
            }
            items
        }
    };
    let mut seen = HashMap::new();
    for item in &items {
        if let Some(other) = seen.insert(item.file.as_str(), &item.input.name) {
            return Err(Error::Usage(format!(
                "{other} and {} would both be written to {}; use --names numbers",
                item.input.name, item.file
            )));
        }
    }
    Ok((items, failed))
}

/// An output may not take the place of the picture it is made from.
fn refuse_overwriting(item: &Item, output: &Path) -> Result<()> {
    let Source::File(input) = &item.input.source else { return Ok(()) };
    for folder in FOLDERS {
        let path = output.join(folder).join(&item.file);
        if path.exists() && fs::canonicalize(&path).ok() == fs::canonicalize(input).ok() {
            return Err(Error::Usage(format!(
                "the output {} would overwrite its input; choose another directory with -o",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Outputs called like their inputs.
fn source_names(found: &[Input]) -> Result<Vec<String>> {
    // Into no directory: an input is overwritten only by what lies in gt/, lr/ or sr_bicubic/.
    let nowhere = naming::Target::Directory(PathBuf::new());
    let (planned, _) = naming::plan(found.to_vec(), &nowhere, Format::Png, false)?;
    Ok(planned.into_iter().map(|p| p.output).collect())
}

#[derive(Default)]
struct Tally {
    done: usize,
    rejected: Vec<Failure>,
    failed: Vec<Failure>,
}

struct Job<'a> {
    work: &'a Work,
    output: &'a Path,
    todo: &'a [Item],
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
            let Some(item) = self.todo.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            let start = Instant::now();
            let made = guarded("degrading", || self.make(item)).and_then(|made| match made {
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
        let input = &item.input;
        if let Work::Draw { config, .. } = self.work {
            let least = config.picture().min_bytes;
            if input.size < least {
                let reason = format!("its file has {} bytes, fewer than min_bytes = {least}", input.size);
                return Ok(Made::Rejected(reason));
            }
        }
        let photo = Photo::load_bytes(&input.read()?, input.location())?;
        let (height, width) = (photo.height, photo.width);
        let (framing, cut, drawn) = match (&item.plan, self.work) {
            (Plan::Draw(key), Work::Draw { config, whole, .. }) => {
                let least = config.picture().min_pixels;
                let pixels = (height * width) as u64;
                if pixels < least {
                    let reason = format!("it has {pixels} pixels, fewer than min_pixels = {least}");
                    return Ok(Made::Rejected(reason));
                }
                let framing = match whole {
                    true => Framing::whole(height, width, config.multiple()),
                    false => Framing::draw(config.picture(), *key, height, width),
                };
                (framing, whole.then_some([height, width]), Drawn::draw(config, *key))
            }
            (Plan::Replay(line), _) => {
                if line.source_bytes != input.size {
                    return Err(Error::file(
                        input.location(),
                        format!(
                            "expected the file of {} bytes that {} was made from, found {}",
                            line.source_bytes, line.file, input.size
                        ),
                    ));
                }
                (line.framing, line.cut, line.drawn.clone())
            }
            (Plan::Draw(_), Work::Replay(_)) => unreachable!("a replay has lines only"),
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

/// `params.jsonl` while the job runs: only ever appended to.
struct Params {
    path: PathBuf,
    file: File,
    /// What is noted already, by file.
    lines: HashMap<String, Line>,
}

impl Params {
    /// Opens the file of a shard. With `resume` lines are kept that are whole; else it starts empty.
    fn open(output: &Path, shard: Shard, resume: bool) -> Result<Self> {
        fs::create_dir_all(output).map_err(|e| Error::io("create directory", output, e))?;
        let name = match shard.count() {
            1 => "params.jsonl".to_owned(),
            n => format!("params-{}-of-{n}.jsonl", shard.index()),
        };
        let path = output.join(name);
        let fail = |e| Error::io("open", &path, e);
        let mut lines = HashMap::new();
        if resume && path.exists() {
            for text in fs::read(&path).map_err(fail)?.split(|b| *b == b'\n') {
                if let Ok(line) = serde_json::from_slice::<Line>(text) {
                    lines.insert(line.file.clone(), line);
                }
            }
        }
        // Whole lines only, also after a job that was killed while it wrote one.
        atomic_file::write(&path, &ordered(&lines)?)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(fail)?;
        Ok(Params { path, file, lines })
    }

    /// Whether a pair was made from the same file by the same draws, and its files are there.
    fn is_done(&self, item: &Item, work: &Work, output: &Path) -> bool {
        let Some(line) = self.lines.get(&item.file) else { return false };
        let same = match (&item.plan, work) {
            (Plan::Draw(key), Work::Draw { config, whole, .. }) => {
                let size = config.picture().size;
                let framed = match line.cut {
                    Some([h, w]) => *whole && line.framing == Framing::whole(h, w, config.multiple()),
                    None => !whole && (line.framing.height, line.framing.width) == (size, size),
                };
                framed && line.drawn == Drawn::draw(config, *key)
            }
            (Plan::Replay(wanted), _) => **wanted == *line,
            (Plan::Draw(_), Work::Replay(_)) => false,
        };
        same && (&line.source, line.source_bytes) == (&item.input.name, item.input.size)
            && FOLDERS.iter().all(|folder| output.join(folder).join(&item.file).is_file())
    }

    fn add(&mut self, line: &Line) -> Result<()> {
        self.file.write_all(&text(line)?).map_err(|e| Error::io("write", &self.path, e))?;
        self.lines.insert(line.file.clone(), line.clone());
        Ok(())
    }

    /// Sorts the lines by file, whatever order the workers finished in.
    fn put_in_order(&self) -> Result<()> {
        atomic_file::write(&self.path, &ordered(&self.lines)?)
    }
}

fn text(line: &Line) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line).map_err(|e| Error::Run(format!("drawn parameters: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn ordered(lines: &HashMap<String, Line>) -> Result<Vec<u8>> {
    let mut all: Vec<&Line> = lines.values().collect();
    all.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(all.into_iter().map(text).collect::<Result<Vec<_>>>()?.concat())
}
