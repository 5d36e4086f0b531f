//! `dreamclear info`: devices, libraries, caches.

use std::collections::HashMap;

use serde_json::json;

use crate::device::cpu::CpuDevice;
use crate::device::{cuda, fatbin};
use crate::error::Result;
use crate::weights::hub;

/// Show devices, libraries found and where, embedded kernels and caches.
///
/// Example: dreamclear info --json
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Prints what the program found on this machine.
pub fn run(args: &Args) -> Result<()> {
    let cpu = CpuDevice::new(0)?;
    let simd = crate::device::cpu::simd::Level::best().name();
    let driver = cuda::driver_found();
    let cache = hub::cache_dir();
    let mut models = Vec::new();
    if let Ok(dir) = &cache
        && let Ok(entries) = std::fs::read_dir(dir)
    {
        models.extend(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()));
        models.sort();
    }
    models.retain(|name| name != "kernels" && name != cuda::MEASURED_CALLS); // no models
    let nvrtc = match cuda::nvrtc::Nvrtc::load() {
        Ok(found) => found.map(|n| n.version()),
        Err(e) => Some(e.to_string()),
    };
    let cache = cache.map_or_else(|e| e.to_string(), |p| p.display().to_string());
    let name = cpu_name();
    let libraries = cuda::libraries_found();
    let text = if args.json {
        let document = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": { "name": name, "threads": cpu.threads(), "simd": simd },
            "cuda": {
                "driver_found": driver,
                "nvrtc": nvrtc,
                "build": fatbin::summary(),
                "embedded_kernels": fatbin::fatbins().iter().map(|f| f.0).collect::<Vec<_>>(),
                "libraries": libraries.iter().map(|(n, v)| (*n, v.as_ref().ok())).collect::<HashMap<_, _>>(),
            },
            "cache": { "path": cache, "files": models },
        });
        format!("{document:#}\n")
    } else {
        let listed = if models.is_empty() { "empty".to_owned() } else { models.join(", ") };
        format!(
            "dreamclear {}\ncpu      {name}, {} threads, {simd}\ncuda     driver {}; NVRTC {}; {}\n         {}\ncache    {cache}: {listed}\n",
            env!("CARGO_PKG_VERSION"),
            cpu.threads(),
            if driver { "found" } else { "not found" },
            nvrtc.as_deref().unwrap_or("not found"),
            fatbin::summary(),
            libraries
                .iter()
                .map(|(name, version)| match version {
                    Ok(v) => format!("{name} {v}"),
                    Err(_) => format!("{name} not found"),
                })
                .collect::<Vec<_>>()
                .join(", "),
        )
    };
    super::print(&text)
}

/// The processor's name as the system tells it.
fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|l| l.starts_with("model name"));
    line.and_then(|l| l.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, n)| n.trim().to_owned())
}
