//! Runs a restorer over many pictures: one bad file never stops the job, a killed job resumes.
//!
//! Three stages overlap, each a thread: pictures are loaded and made ready ([`Restorer::preparer`]), restored,
//! finished ([`Finish`]) and written. Between two stages one picture may wait, so that a device always has a
//! next one; beside a batch in work, at most two are on either side.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use serde_json::{Map, Value};

use super::compare::side_by_side;
use super::journal::{Entry, Journal, settings_key};
use super::naming::{Planned, Target, plan};
use super::progress::Progress;
use super::report::{ImageReport, Seconds, Status, Summary};
use crate::cancel::Cancel;
use crate::data::encode::JPEG_QUALITY;
use crate::data::image::{Format, Photo};
use crate::data::inputs::{Failure, Inputs};
use crate::data::shard::Shard;
use crate::{Error, Result, trace};

/// Something that makes a better picture out of a picture: all that a batch knows of a model.
pub trait Restorer {
    /// Every setting that changes the output (model, weights, seed, tiles …) as one line. Results
    /// made under another line are not reused by `--resume`.
    fn settings(&self) -> String;

    /// Restores one picture.
    ///
    /// # Errors
    /// `Error::Interrupted` soon after `job.cancel` is raised; any other error fails this one
    /// picture and the batch goes on.
    fn restore(&mut self, job: &Job<'_>) -> Result<Restored>;

    /// How many pictures [`Restorer::restore_all`] likes to get at a time.
    fn batch(&self) -> usize {
        1
    }

    /// Restores up to [`Restorer::batch`] pictures together, with the same bytes as one by one;
    /// each comes to an end of its own, in the order of `jobs`. What the host can do beside the next
    /// pictures is left to [`Finish`].
    fn restore_all(&mut self, jobs: &[Job<'_>]) -> Vec<Result<Finish>> {
        jobs.iter().map(|job| self.restore(job).map(finished)).collect()
    }

    /// What makes pictures ready on the thread that loads them, beside the restoration of earlier ones.
    fn preparer(&self) -> Option<Preparer> {
        None
    }
}

/// The end of a picture's restoration, given the input: runs on the thread that writes.
pub type Finish = Box<dyn FnOnce(&Photo) -> Result<Restored> + Send>;

/// Nothing is left to do.
fn finished(restored: Restored) -> Finish {
    Box::new(move |_| Ok(restored))
}

/// Makes pictures ready: what it returns is the job's [`Job::prepared`].
pub type Preparer = Box<dyn Fn(&Photo) -> Result<Prepared> + Send + Sync>;

/// A picture as its restorer made it ready.
pub type Prepared = Box<dyn Any + Send + Sync>;

/// One picture to restore.
pub struct Job<'a> {
    /// The input's relative name, for captions and noise keyed by image.
    pub name: &'a str,
    /// The picture, upright.
    pub photo: &'a Photo,
    /// What the restorer's own [`Preparer`] made of it.
    pub prepared: Option<&'a Prepared>,
    /// To be checked at least every second or so.
    pub cancel: &'a Cancel,
    /// To be told how much is done, 0..=1.
    pub progress: &'a (dyn Fn(f32) + Sync),
}

/// What became of a picture.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The result.
    pub photo: Photo,
    /// An intermediate worth seeing beside it (DreamClear's degradation-removed reference).
    pub reference: Option<Photo>,
    /// Sentences for the report.
    pub notes: Vec<String>,
    /// What else the report should say of this picture.
    pub details: Map<String, Value>,
}

/// How to run a batch.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where results go.
    pub target: Target,
    /// Their file format.
    pub format: Format,
    /// Quality of JPEG output, 1..=100.
    pub quality: u8,
    /// Also write input, reference and result side by side (PNG, `NAME.compare.png`).
    pub compare: bool,
    /// Skip what an earlier run with the same settings has finished.
    pub resume: bool,
    /// Which part of the inputs is this process's.
    pub shard: Shard,
    /// Where to write the report, if anywhere.
    pub report: Option<PathBuf>,
}

impl Options {
    /// PNG into `target`, the whole job, from the start, no extras.
    pub fn new(target: Target) -> Self {
        Options {
            target,
            format: Format::Png,
            quality: JPEG_QUALITY,
            compare: false,
            resume: false,
            shard: Shard::default(),
            report: None,
        }
    }
}

/// Restores `inputs`. Failures of single pictures, an interruption and a full disk are told in
/// the summary; [`Summary::exit_code`] is the process's.
///
/// When `cancel` is raised the picture in work is given up, one already restored is still
/// written, and no temporary file remains.
///
/// # Errors
/// `Error::Usage` if there is nothing to do or outputs would collide, `Error::Io` if the output
/// directory, journal or report cannot be written.
pub fn run(
    inputs: Inputs,
    restorer: &mut dyn Restorer,
    options: &Options,
    cancel: &Cancel,
) -> Result<Summary> {
    let start = Instant::now();
    if inputs.found.is_empty() && inputs.failed.is_empty() {
        return Err(Error::Usage(
            "no pictures found: expected PNG, JPEG, WebP, TIFF or BMP files (directories below need -r)"
                .into(),
        ));
    }
    let description = format!(
        "{} format={} quality={} compare={}",
        restorer.settings(),
        options.format.extension(),
        options.quality,
        options.compare
    );
    let settings = settings_key(&description);
    let shard = options.shard;
    let (planned, notes) = plan(inputs.found, &options.target, options.format, options.compare)?;
    let mut journal = match &options.target {
        Target::Directory(directory) => Some(Journal::open(directory, shard, options.resume)?),
        Target::File(_) => None,
    };

    let mut summary =
        Summary { notes, shard: shard.to_string(), settings: description, ..Summary::default() };
    for Failure { name, reason } in inputs.failed.into_iter().filter(|f| shard.holds(&f.name)) {
        summary.images.push(ImageReport { error: Some(reason), ..ImageReport::new(&name, Status::Failed) });
    }
    let mut work = Vec::new();
    for item in planned.into_iter().filter(|p| shard.holds(&p.input.name)) {
        if journal.as_ref().is_some_and(|j| j.is_done(&item, &settings)) {
            let report = ImageReport::new(&item.input.name, Status::Skipped);
            summary.images.push(ImageReport { output: Some(item.output), ..report });
        } else {
            work.push(item);
        }
    }

    let progress = Progress::new(work.len());
    summary.notes.iter().for_each(|n| progress.warn(n));
    for failed in &summary.images {
        if let Some(error) = &failed.error {
            progress.warn(&format!("{}: {error}", failed.name));
        }
    }
    let stage =
        Stage { options, settings: &settings, work: &work, progress: &progress, stop: Stop::new(cancel) };
    let (images, stopped) = {
        let _range = trace::range(|| "run");
        stage.run(restorer, &mut journal)
    };
    progress.finish();

    let reached = images.len();
    summary.images.extend(images);
    summary.images.sort_by(|a, b| a.name.cmp(&b.name));
    let count = |status| summary.images.iter().filter(|i| i.status == status).count();
    (summary.done, summary.skipped) = (count(Status::Done), count(Status::Skipped));
    summary.failed = summary
        .images
        .iter()
        .filter(|i| i.status == Status::Failed)
        .map(|i| Failure { name: i.name.clone(), reason: i.error.clone().unwrap_or_default() })
        .collect();
    summary.left = work.len() - reached;
    summary.interrupted = cancel.is_cancelled() && summary.left > 0;
    summary.stopped = stopped;
    summary.seconds = start.elapsed().as_secs_f64();
    if let Some(path) = &options.report {
        summary.write_json(path)?;
    }
    Ok(summary)
}

/// Why the whole job ends early: the user's wish, or a fault that would fail every picture.
pub(super) struct Stop {
    cancel: Cancel,
    reason: Mutex<Option<String>>,
}

impl Stop {
    pub(super) fn new(cancel: &Cancel) -> Self {
        Stop { cancel: cancel.child(), reason: Mutex::new(None) }
    }

    /// Ends the job; the first reason is kept.
    pub(super) fn because(&self, reason: String) {
        self.reason.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(reason);
        self.cancel.cancel();
    }

    /// Whether nothing more is to be begun.
    pub(super) fn is_raised(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Why the job gave up, if it did.
    pub(super) fn into_reason(self) -> Option<String> {
        self.reason.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}

/// A picture between loading and restoring.
struct Loaded {
    index: usize,
    photo: Result<(Photo, Option<Prepared>)>,
    seconds: f64,
}

/// A picture between restoring and writing.
struct Finished {
    index: usize,
    input: Option<Photo>,
    restored: Result<Finish>,
    seconds: Seconds,
}

struct Stage<'a> {
    options: &'a Options,
    settings: &'a str,
    work: &'a [Planned],
    progress: &'a Progress,
    stop: Stop,
}

impl Stage<'_> {
    /// Returns the report of every picture that came to an end, and why the job gave up if so.
    fn run(
        &self,
        restorer: &mut dyn Restorer,
        journal: &mut Option<Journal>,
    ) -> (Vec<ImageReport>, Option<String>) {
        // Each stage holds one picture, and one may wait in between.
        let (to_restore, loaded) = sync_channel(1);
        let (to_write, finished) = sync_channel(1);
        let preparer = restorer.preparer();
        let reports = std::thread::scope(|scope| {
            scope.spawn(move || self.load_all(to_restore, preparer));
            let writer = scope.spawn(move || self.write_all(finished, journal));
            self.restore_all(restorer, loaded, to_write);
            writer.join()
        });
        let reports = reports.unwrap_or_else(|panic| {
            self.stop.because(format!("internal error while writing: {}", panic_text(&*panic)));
            Vec::new()
        });
        let reason = self.stop.reason.lock().unwrap_or_else(|e| e.into_inner()).take();
        (reports, reason)
    }

    fn load_all(&self, next: SyncSender<Loaded>, preparer: Option<Preparer>) {
        for (index, item) in self.work.iter().enumerate() {
            if self.stop.cancel.is_cancelled() {
                return;
            }
            let _range = trace::range(|| format!("load {}", item.input.name));
            let start = Instant::now();
            let photo = guarded("reading", || {
                let photo = Photo::load_bytes(&item.input.read()?, item.input.location())?;
                let prepared = preparer.as_ref().map(|prepare| prepare(&photo)).transpose()?;
                Ok((photo, prepared))
            });
            let loaded = Loaded { index, photo, seconds: start.elapsed().as_secs_f64() };
            if next.send(loaded).is_err() {
                return;
            }
        }
    }

    fn restore_all(&self, restorer: &mut dyn Restorer, loaded: Receiver<Loaded>, next: SyncSender<Finished>) {
        while let Ok(first) = loaded.recv() {
            if self.stop.cancel.is_cancelled() {
                return;
            }
            let more = restorer.batch().saturating_sub(1);
            let group: Vec<Loaded> = std::iter::once(first).chain(loaded.iter().take(more)).collect();
            let readable: Vec<&Loaded> = group.iter().filter(|l| l.photo.is_ok()).collect();
            let start = Instant::now();
            let results = self.restore_group(restorer, &readable);
            let restore = start.elapsed().as_secs_f64() / readable.len().max(1) as f64;
            let mut results = results.into_iter();
            for Loaded { index, photo, seconds: load } in group {
                let (input, restored, restore) = match photo {
                    Err(e) => (None, Err(e), 0.0),
                    Ok((photo, _)) => (Some(photo), results.next().expect("one result a picture"), restore),
                };
                if matches!(restored, Err(Error::Interrupted)) && self.stop.cancel.is_cancelled() {
                    continue; // others of the group may be done
                }
                let seconds = Seconds { load, restore, write: 0.0 };
                if next.send(Finished { index, input, restored, seconds }).is_err() {
                    return;
                }
            }
        }
    }

    /// Restores pictures that could be read; a panic fails all of them.
    fn restore_group(&self, restorer: &mut dyn Restorer, group: &[&Loaded]) -> Vec<Result<Finish>> {
        let name = |l: &Loaded| self.work[l.index].input.name.as_str();
        let _range = trace::range(|| group.iter().map(|l| name(l)).collect::<Vec<_>>().join(" "));
        let progress: Vec<_> = group
            .iter()
            .map(|l| {
                let (index, name) = (l.index, name(l));
                self.progress.at(index, name, 0.0);
                move |fraction: f32| self.progress.at(index, name, fraction)
            })
            .collect();
        let jobs: Vec<Job> = group
            .iter()
            .zip(&progress)
            .filter_map(|(l, progress)| {
                let (photo, prepared) = l.photo.as_ref().ok()?;
                let prepared = prepared.as_ref();
                Some(Job { name: name(l), photo, prepared, cancel: &self.stop.cancel, progress })
            })
            .collect();
        guarded("restoring", || Ok(restorer.restore_all(&jobs)))
            .unwrap_or_else(|e| jobs.iter().map(|_| Err(Error::Run(e.to_string()))).collect())
    }

    fn write_all(&self, finished: Receiver<Finished>, journal: &mut Option<Journal>) -> Vec<ImageReport> {
        let mut reports = Vec::new();
        for Finished { index, input, restored, mut seconds } in finished {
            let item = &self.work[index];
            let _range = trace::range(|| format!("write {}", item.input.name));
            let mut report = ImageReport::new(&item.input.name, Status::Done);
            report.input_size = input.as_ref().map(|p| [p.width, p.height]);
            let start = Instant::now();
            let written = restored.and_then(|finish| {
                let input = input.as_ref().expect("only a picture that could be read is restored");
                let restored = guarded("finishing", || finish(input))?;
                report.output_size = Some([restored.photo.width, restored.photo.height]);
                report.details = restored.details.clone();
                guarded("writing", || self.write(item, input, &restored, journal))
            });
            seconds.write = start.elapsed().as_secs_f64();
            report.seconds = seconds;
            match written {
                Ok(notes) => {
                    report.output = Some(item.output.clone());
                    let time = format!("restored in {:.1} s", seconds.restore);
                    self.progress.done(index, &item.input.name, &[&[time][..], &notes].concat().join("; "));
                    report.notes = notes;
                }
                Err(e) => {
                    if fails_all(&e) {
                        self.stop.because(e.to_string());
                    }
                    self.progress.warn(&format!("{}: {e}", item.input.name));
                    (report.status, report.error) = (Status::Failed, Some(e.to_string()));
                }
            }
            reports.push(report);
        }
        reports
    }

    fn write(
        &self,
        item: &Planned,
        input: &Photo,
        restored: &Restored,
        journal: &mut Option<Journal>,
    ) -> Result<Vec<String>> {
        let directory = self.options.target.directory();
        let mut notes = restored.notes.clone();
        if let Some(name) = &item.compare {
            let panels: Vec<_> =
                [input].into_iter().chain(&restored.reference).chain([&restored.photo]).collect();
            match side_by_side(&panels) {
                Ok(picture) => drop(picture.save(directory.join(name), Format::Png, self.options.quality)?),
                Err(e) => notes.push(e.to_string()),
            }
        }
        let path = directory.join(&item.output);
        let written = restored.photo.save(&path, self.options.format, self.options.quality)?;
        notes.extend(written);
        if let Some(journal) = journal {
            let output_size = std::fs::metadata(&path).map_err(|e| Error::io("look at", &path, e))?.len();
            journal.record(&Entry {
                name: item.input.name.clone(),
                size: item.input.size,
                modified: item.input.modified,
                settings: self.settings.to_owned(),
                output: item.output.clone(),
                output_size,
            })?;
        }
        Ok(notes)
    }
}

/// Whether every further picture would fail like this one.
pub(super) fn fails_all(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error {
        Error::Io { source, .. } => {
            matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        }
        Error::Device(_) => true,
        _ => false,
    }
}

/// Turns a panic (a fault in a decoder, say) into an error of this one picture.
pub(super) fn guarded<T>(doing: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::Run(format!("internal error while {doing}: {}", panic_text(&*panic))))
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic")
}
