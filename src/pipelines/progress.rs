//! Progress of a batch: a bar on a terminal, plain log lines elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Steps of the bar for one image, so that a single large one moves it too.
const STEPS: u64 = 1000;

/// Shared by the threads of a batch.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        let bar = (std::io::stderr().is_terminal() && total > 0).then(|| {
            let bar = ProgressBar::new(total as u64 * STEPS);
            if let Ok(style) =
                ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} (left: {eta}) {wide_msg}")
            {
                bar.set_style(style);
            }
            bar
        });
        Progress { bar, total }
    }

    /// Image `index` (from 0) of this name is `fraction` restored.
    pub(super) fn at(&self, index: usize, name: &str, fraction: f32) {
        if let Some(bar) = &self.bar {
            bar.set_position(index as u64 * STEPS + (fraction.clamp(0.0, 1.0) * STEPS as f32) as u64);
            if fraction == 0.0 {
                bar.set_message(format!("{}/{} {name}", index + 1, self.total));
            }
        }
    }

    /// Image `index` is on disk; `text` says how it went.
    pub(super) fn done(&self, index: usize, name: &str, text: &str) {
        if self.bar.is_none() {
            tracing::info!("{}/{} {name}: {text}", index + 1, self.total);
        }
    }

    /// Something worth a line even while a bar is shown.
    pub(super) fn warn(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tracing::warn!("{text}")),
            None => tracing::warn!("{text}"),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
