//! Published weights and the cache that holds them.

#[cfg(feature = "fetch")]
mod http;
mod table;

use std::path::{Path, PathBuf};

#[cfg(feature = "fetch")]
pub use http::{Fetched, Fetcher};
pub use table::{DREAMCLEAR_SET, Download, downloads};

use crate::{Error, Result};

/// The folder for downloaded weights: `$DREAMCLEAR_CACHE`, else `$XDG_CACHE_HOME/dreamclear`,
/// else `~/.cache/dreamclear`.
///
/// # Errors
/// If none of the three is set.
pub fn cache_dir() -> Result<PathBuf> {
    choose_cache(|name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from))
}

fn choose_cache(env: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    env("DREAMCLEAR_CACHE")
        // The XDG specification ignores relative paths.
        .or_else(|| env("XDG_CACHE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("dreamclear")))
        .or_else(|| env("HOME").map(|p| p.join(".cache/dreamclear")))
        .ok_or_else(|| Error::Usage("no cache folder: set DREAMCLEAR_CACHE to one".into()))
}

/// The files of that model; `dreamclear` is the official set of its four networks.
///
/// # Errors
/// If it is not known; the sentence names what is.
pub fn find(model: &str) -> Result<Vec<Download>> {
    let names: &[&str] = if model == "dreamclear" { &DREAMCLEAR_SET } else { &[model] };
    let files: Vec<_> = downloads().filter(|d| names.contains(&d.model.as_ref())).collect();
    if !files.is_empty() {
        return Ok(files);
    }
    let head = model.split('-').next().unwrap_or(model).to_lowercase();
    let like: Vec<_> = downloads().map(|d| d.model).filter(|m| m.starts_with(&head)).take(8).collect();
    let hint =
        if like.is_empty() { String::new() } else { format!("; did you mean one of {}?", like.join(", ")) };
    Err(Error::Usage(format!("no model `{model}` to fetch: `dreamclear fetch --list` names them all{hint}")))
}

/// Weights of `model` in `cache`, if they are there: as downloaded, or converted to
/// `MODEL.safetensors` (which `tools/fetch-weights` leaves).
pub fn cached(cache: &Path, model: &str) -> Option<PathBuf> {
    let converted = cache.join(format!("{model}.safetensors"));
    let official = downloads().find(|d| d.model == model).map(|d| cache.join(d.path()));
    [official, Some(converted)].into_iter().flatten().find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_the_environment() {
        let with = |vars: &[(&str, &str)]| {
            choose_cache(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)))
        };
        let all = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("DREAMCLEAR_CACHE", "/d")];
        assert_eq!(with(&all).unwrap(), Path::new("/d"));
        assert_eq!(with(&all[..2]).unwrap(), Path::new("/x/dreamclear"));
        assert_eq!(with(&all[..1]).unwrap(), Path::new("/h/.cache/dreamclear"));
        assert_eq!(with(&[("XDG_CACHE_HOME", "x"), all[0]]).unwrap(), Path::new("/h/.cache/dreamclear"));
        assert!(with(&[]).is_err());
    }

    #[test]
    fn an_unknown_model_gets_neighbours() {
        let error = find("realesrgan-x8").unwrap_err().to_string();
        assert!(error.contains("realesrgan-x4plus"), "{error}");
        assert_eq!(find("bsrgan").unwrap()[0].file_name(), "BSRGAN.pth");
        assert_eq!(find("bsrgan").unwrap()[0].host(), "github.com");
        let set = find("dreamclear").unwrap();
        assert!(set.iter().any(|d| d.path() == Path::new("t5-v1_1-xxl/spiece.model")), "{set:?}");
    }

    #[test]
    fn both_kinds_of_cached_file_are_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cached(dir.path(), "bsrgan"), None);
        std::fs::write(dir.path().join("bsrgan.safetensors"), "x").unwrap();
        assert_eq!(cached(dir.path(), "bsrgan").unwrap(), dir.path().join("bsrgan.safetensors"));
        std::fs::write(dir.path().join("BSRGAN.pth"), "x").unwrap();
        assert_eq!(cached(dir.path(), "bsrgan").unwrap(), dir.path().join("BSRGAN.pth"));
    }
}
