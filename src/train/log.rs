//! What a run says: a progress bar or plain lines, JSON lines, and TensorBoard's event files.
//!
//! `log.jsonl` has one object an update (`"kind": "update"`), one a validation, one for each sample that was left
//! out. A run that goes on from a checkpoint cuts off what it wrote after that, so the file tells one
//! history.

use std::fs::{self, File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::tensorboard::EventWriter;
use crate::data::pixels::FloatImage;
use crate::{Error, Result, atomic_file};

/// From this part of the time on waiting for data is worth a word.
const WORTH_SAYING: f64 = 0.05;

/// Numbers by name, in the order in which they are shown.
pub type Scalars = Vec<(String, f64)>;

/// One update.
#[derive(Clone, Debug)]
pub struct Update {
    /// Updates made, this one included.
    pub step: u64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// The loss, mean of the batch's micro-batches.
    pub loss: f64,
    /// Its terms.
    pub terms: Scalars,
    /// Learning rate.
    pub rate: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Samples of all processes.
    pub images: usize,
    /// How long it waited for samples to be ready.
    pub waited: Duration,
    /// Whether it was left out because a gradient overflowed (f16): then nothing was updated.
    pub skipped: bool,
}

/// Where a run's words and numbers go.
pub struct Log {
    bar: Option<ProgressBar>,
    lines: Option<File>,
    events: Option<EventWriter>,
    path: PathBuf,
    total: u64,
    every: u64,
    window: Window,
    /// Writing has failed and was complained about: training goes on.
    muted: bool,
}

/// What has happened since the last line.
struct Window {
    since: Instant,
    updates: u64,
    images: usize,
    loss: f64,
    waited: Duration,
}

impl Window {
    fn new() -> Self {
        Window { since: Instant::now(), updates: 0, images: 0, loss: 0.0, waited: Duration::ZERO }
    }
}

impl Log {
    /// The log of a run in `folder` (made if missing) that has made `step` of `total` updates and shows a line
    /// every so many.
    ///
    /// # Errors
    /// If a file cannot be read or made.
    pub fn open(folder: &Path, step: u64, total: u64, every: u64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io("create directory", folder, e))?;
        let path = folder.join("log.jsonl");
        cut_back(&path, step)?;
        let lines = OpenOptions::new().create(true).append(true).open(&path);
        let lines = lines.map_err(|e| Error::io("write", &path, e))?;
        let events = EventWriter::create(folder, step + 1)?;
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_position(step);
            let template = "{bar:20} {pos}/{len} {elapsed} (left: {eta}) {wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.reset_eta();
            bar
        });
        let (window, every) = (Window::new(), every.max(1));
        Ok(Log { bar, lines: Some(lines), events: Some(events), path, total, every, window, muted: false })
    }

    /// A log that says nothing: of the ranks but the first.
    pub fn silent() -> Self {
        Log {
            bar: None,
            lines: None,
            events: None,
            path: PathBuf::new(),
            total: 0,
            every: u64::MAX,
            window: Window::new(),
            muted: true,
        }
    }

    /// Notes an update.
    pub fn update(&mut self, update: &Update) {
        let mut line = json!({
            "kind": "update",
            "step": update.step,
            "epoch": update.epoch,
            "loss": number(update.loss),
            "rate": update.rate,
            "grad_norm": number(update.grad_norm),
        });
        for (name, value) in &update.terms {
            line[name] = number(*value);
        }
        if update.skipped {
            line["skipped"] = json!(true);
        }
        let window = &mut self.window;
        window.updates += 1;
        window.images += update.images;
        window.loss += update.loss;
        window.waited += update.waited;
        let due = update.step.is_multiple_of(self.every) || update.step == self.total;
        let seconds = window.since.elapsed().as_secs_f64().max(1e-9);
        let speed = window.images as f64 / seconds;
        let waiting = (window.waited.as_secs_f64() / seconds).min(1.0);
        let mean = window.loss / window.updates as f64;
        let per_update = seconds / window.updates as f64;
        if due {
            line["images_per_second"] = json!(speed);
            line["waiting_for_data"] = json!(waiting);
        }
        self.line(&line);
        let mut text = format!(
            "loss {mean:.5}, rate {:.3e}, gradient {:.4}, {speed:.2} images/s",
            update.rate, update.grad_norm
        );
        if waiting > WORTH_SAYING {
            text += &format!(" ({:.0} % of the time waiting for data)", 100.0 * waiting);
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(update.step);
                bar.set_message(text);
            }
            None if due && self.lines.is_some() => {
                let left = self.total.saturating_sub(update.step) as f64;
                let (step, total) = (update.step, self.total);
                tracing::info!("{step}/{total} {text}, {} left", clock(per_update * left));
            }
            None => {}
        }
        if due {
            let mut scalars = vec![
                ("train/loss", mean),
                ("train/rate", update.rate),
                ("train/grad_norm", update.grad_norm),
                ("train/images_per_second", speed),
                ("train/waiting_for_data", waiting),
            ];
            let tags: Vec<_> = update.terms.iter().map(|(n, v)| (format!("train/{n}"), *v)).collect();
            scalars.extend(tags.iter().map(|(n, v)| (n.as_str(), *v)));
            self.events(|events| events.scalars(update.step, scalars));
            self.window = Window::new();
        }
    }

    /// Notes what the validation after `step` updates found: numbers, and pictures to look at.
    pub fn validation(&mut self, step: u64, scalars: &[(String, f64)], images: &[(String, FloatImage)]) {
        let mut line = json!({ "kind": "validation", "step": step });
        for (name, value) in scalars {
            line[name] = number(*value);
        }
        self.line(&line);
        let text: Vec<_> = scalars.iter().map(|(n, v)| format!("{n} {v:.4}")).collect();
        self.say(&format!("validation after {step}: {}", text.join(", ")));
        let tags: Vec<_> = scalars.iter().map(|(n, v)| (format!("validation/{n}"), *v)).collect();
        self.events(|events| {
            events.scalars(step, tags.iter().map(|(n, v)| (n.as_str(), *v)))?;
            images
                .iter()
                .try_for_each(|(name, image)| events.image(step, &format!("validation/{name}"), image))
        });
        // The time that validation took is none of training's.
        self.window.since = Instant::now();
    }

    /// Notes a training sample that was left out; `count` so far.
    pub fn skipped(&mut self, step: u64, name: &str, reason: &str, count: usize) {
        self.line(
            &json!({ "kind": "skipped", "step": step, "name": name, "reason": reason, "count": count }),
        );
        self.warn(&format!("left out of training ({count} so far): {reason}"));
    }

    /// A sentence for the person who watches.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tracing::info!("{text}")),
            None if self.lines.is_some() => tracing::info!("{text}"),
            None => {}
        }
    }

    /// A sentence of warning.
    pub fn warn(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tracing::warn!("{text}")),
            None => tracing::warn!("{text}"),
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, line: &Value) {
        let Some(file) = &mut self.lines else { return };
        if let Err(e) = file.write_all(format!("{line}\n").as_bytes()) {
            let e = Error::io("write", &self.path, e);
            self.mute(&e);
        }
    }

    fn events(&mut self, write: impl FnOnce(&mut EventWriter) -> Result<()>) {
        if let Some(events) = &mut self.events
            && let Err(e) = write(events)
        {
            self.mute(&e);
        }
    }

    /// A log that cannot be written is no reason to lose a run; one complaint is enough.
    fn mute(&mut self, error: &Error) {
        if !self.muted {
            self.warn(&format!("{error}; training goes on, its log has gaps"));
            self.muted = true;
        }
    }
}

/// JSON has no word for NaN and infinity: they are written as text.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// Removes the lines of later updates than `step`, and a last line that a kill has cut short.
fn cut_back(path: &Path, step: u64) -> Result<()> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| Error::io("read", path, e))?,
    };
    let mut kept = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        let of = serde_json::from_slice::<Value>(line).ok().and_then(|v| v["step"].as_u64());
        if of.is_some_and(|of| of <= step) && line.ends_with(b"\n") {
            kept.extend_from_slice(line);
        }
    }
    if kept.len() == bytes.len() { Ok(()) } else { atomic_file::write(path, &kept) }
}

/// `2 d 03:04`, `3:04:05` or `4:05`.
fn clock(seconds: f64) -> String {
    let s = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).as_secs();
    let (d, h, m, s) = (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60);
    match (d, h) {
        (0, 0) => format!("{m}:{s:02}"),
        (0, _) => format!("{h}:{m:02}:{s:02}"),
        _ => format!("{d} d {h:02}:{m:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(step: u64, loss: f64) -> Update {
        let terms = vec![("mse".to_owned(), loss / 2.0)];
        let waited = Duration::ZERO;
        Update {
            step,
            epoch: 0.5,
            loss,
            terms,
            rate: 1e-4,
            grad_norm: 2.0,
            images: 4,
            waited,
            skipped: false,
        }
    }

    fn lines(folder: &Path) -> Vec<Value> {
        let text = fs::read_to_string(folder.join("log.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn a_resumed_log_tells_one_history() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), 0, 4, 2).unwrap();
        (1..=3).for_each(|s| log.update(&update(s, s as f64)));
        log.validation(3, &[("psnr".into(), 20.0)], &[("0".into(), FloatImage::zeros(2, 2, 3))]);
        drop(log);
        let path = dir.path().join("log.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(b"{\"kind\": \"upda");
        fs::write(&path, bytes).unwrap();

        let mut log = Log::open(dir.path(), 2, 4, 2).unwrap();
        log.update(&update(3, 30.0));
        log.update(&update(4, f64::NAN));
        let lines = lines(dir.path());
        let steps: Vec<_> = lines.iter().map(|l| l["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        assert_eq!(
            (&lines[2]["loss"], &lines[2]["mse"], &lines[3]["loss"]),
            (&json!(30.0), &json!(15.0), &json!("NaN"))
        );
        assert!(lines[1]["images_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(lines[0]["images_per_second"], Value::Null);
        let events = fs::read_dir(dir.path()).unwrap();
        let events =
            events.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("tfevents"));
        assert_eq!(events.count(), 2);
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(clock(61.4), "1:01");
        assert_eq!(clock(3.0 * 3600.0 + 65.0), "3:01:05");
        assert_eq!(clock(2.0 * 86_400.0 + 3.0 * 3600.0 + 240.0), "2 d 03:04");
        assert!(!clock(f64::INFINITY).is_empty());
    }
}
