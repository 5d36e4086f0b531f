//! `dreamclear fetch MODEL…`: official weights into the cache.

use std::path::PathBuf;

use crate::weights::hub;
use crate::{Error, Result};

/// Download official weights, check size and SHA-256, resume what was interrupted.
///
/// `dreamclear` is the official set of its four networks.
/// Example: dreamclear fetch realesrgan-x4plus swinir
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Models to fetch; --list names them.
    #[arg(value_name = "MODEL", required_unless_present = "list")]
    pub models: Vec<String>,
    /// List what can be fetched, with licences and addresses.
    #[arg(long)]
    pub list: bool,
    /// Folder to fill, instead of $DREAMCLEAR_CACHE or ~/.cache/dreamclear.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Fetches every model; one that fails does not keep the others from coming.
///
/// # Errors
/// If a name is unknown (then nothing is fetched), or a download failed.
pub fn run(args: &Args) -> Result<()> {
    let cache = args.cache.clone().map_or_else(hub::cache_dir, Ok)?;
    if args.list {
        let mut text = String::new();
        for d in hub::downloads() {
            let state = if cache.join(d.path()).is_file() { "cached" } else { "" };
            let size = d.size.map_or_else(String::new, |s| indicatif::HumanBytes(s).to_string());
            text += &format!("{:27} {:6}  {:12} {:>10}  {}\n", d.model, state, d.licence, size, d.url);
        }
        let set = hub::DREAMCLEAR_SET.join(", ");
        text += &format!("{:27} the official set: {set} (about 28 GiB)\n", "dreamclear");
        return super::print(&text);
    }
    let items: Vec<_> =
        args.models.iter().map(|m| hub::find(m)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let mut failed = Vec::new();
    for item in &items {
        match fetch_one(&cache, item) {
            Ok(()) => {}
            Err(e) if items.len() == 1 => return Err(e),
            Err(e) => failed.push(format!("{}: {e}", item.model)),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Run(format!(
        "{} of {} files were not fetched: {}",
        failed.len(),
        items.len(),
        failed.join("; ")
    )))
}

#[cfg(feature = "fetch")]
fn fetch_one(cache: &std::path::Path, item: &hub::Download) -> Result<()> {
    use indicatif::{ProgressBar, ProgressStyle};

    // Draws on a terminal only.
    let bar = ProgressBar::no_length().with_message(item.file_name().to_owned());
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let fetched = hub::Fetcher::new(cache).fetch(item, &mut |done, total| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let fetched = fetched?;
    let verb = if fetched.downloaded { "fetched" } else { "already there" };
    tracing::info!("{}: {verb}, {}", item.model, fetched.path.display());
    Ok(())
}

#[cfg(not(feature = "fetch"))]
fn fetch_one(_cache: &std::path::Path, item: &hub::Download) -> Result<()> {
    Err(Error::Usage(format!(
        "this build has no network code: build it with `--features fetch`, use `tools/fetch-weights {}`, or download {}",
        item.model, item.url
    )))
}
