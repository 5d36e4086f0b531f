//! The published files that `dreamclear fetch` knows.
//!
//! Addresses are those of the authors' own releases. Sizes and digests stand only where
//! several independent projects pin the same value; elsewhere a download is checked by
//! opening it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

const REAL_ESRGAN: &str = "https://github.com/xinntao/Real-ESRGAN/releases/download";
const KAIR: &str = "https://github.com/cszn/KAIR/releases/download/v1.0";
const SWINIR: &str = "https://github.com/JingyunLiang/SwinIR/releases/download/v0.0";
const DREAMCLEAR: &str = "https://huggingface.co/shallowdream204/DreamClear/resolve/main";
const PIXART: &str = "https://huggingface.co/PixArt-alpha/PixArt-alpha/resolve/main";
const DIFFBIR: &str = "https://huggingface.co/lxq007/DiffBIR/resolve/main";

/// A file to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Name of the model on the command line.
    pub model: Cow<'static, str>,
    /// Official address; the file keeps its last part as its name.
    pub url: Cow<'static, str>,
    /// Exact length in bytes, where known.
    pub size: Option<u64>,
    /// SHA-256 in lower-case hexadecimal, where known.
    pub sha256: Option<&'static str>,
    /// Licence of the weights.
    pub licence: &'static str,
    /// Folder below the cache that it goes to; empty for the cache itself.
    pub folder: &'static str,
}

impl Download {
    /// The name that the file has in the cache.
    pub fn file_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }

    /// Where it goes, relative to the cache.
    pub fn path(&self) -> PathBuf {
        Path::new(self.folder).join(self.file_name())
    }

    /// The machine that serves it.
    pub fn host(&self) -> &str {
        self.url.split('/').nth(2).unwrap_or(&self.url)
    }
}

/// Model, path below the release, size, digest.
type Row = (&'static str, &'static str, Option<u64>, Option<&'static str>);

/// What `fetch dreamclear` brings: the official set, as its authors' `test.py` wants it.
pub const DREAMCLEAR_SET: [&str; 4] = ["dreamclear-1024", "swinir", "sd-vae-ft-ema", "t5-v1_1-xxl"];

const DREAMCLEAR_FILES: &[Row] = &[(
    "dreamclear-1024",
    "DreamClear-1024.pth",
    None,
    Some("8a6c0b58c3ec7da27bd722a95fde3dd4b6f6f87a5c65ab58384a208fd620aa33"),
)];

const VAE_FILES: &[Row] = &[
    ("sd-vae-ft-ema", "config.json", None, None),
    (
        "sd-vae-ft-ema",
        "diffusion_pytorch_model.bin",
        Some(334_707_217),
        Some("7c98ebcd7ca5cb69d47b2ae287feba0695689fbf2c8fead2fab05fd3e0c28303"),
    ),
];

const T5_FILES: &[Row] = &[
    ("t5-v1_1-xxl", "config.json", None, None),
    ("t5-v1_1-xxl", "spiece.model", None, None),
    ("t5-v1_1-xxl", "pytorch_model.bin.index.json", None, None),
    ("t5-v1_1-xxl", "pytorch_model-00001-of-00002.bin", None, None),
    ("t5-v1_1-xxl", "pytorch_model-00002-of-00002.bin", None, None),
];

const REAL_ESRGAN_FILES: &[Row] = &[
    (
        "realesrgan-x4plus",
        "v0.1.0/RealESRGAN_x4plus.pth",
        Some(67_040_989),
        Some("4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1"),
    ),
    (
        "realesrgan-x2plus",
        "v0.2.1/RealESRGAN_x2plus.pth",
        Some(67_061_725),
        Some("49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb"),
    ),
    (
        "realesrgan-x4plus-anime",
        "v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
        Some(17_938_799),
        Some("f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da"),
    ),
    (
        "realesrnet-x4plus",
        "v0.1.1/RealESRNet_x4plus.pth",
        Some(67_040_989),
        Some("a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df"),
    ),
    (
        "realesr-general-x4v3",
        "v0.2.5.0/realesr-general-x4v3.pth",
        Some(4_885_111),
        Some("8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292"),
    ),
    (
        "realesr-general-wdn-x4v3",
        "v0.2.5.0/realesr-general-wdn-x4v3.pth",
        Some(4_885_111),
        Some("1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca"),
    ),
    (
        "realesr-animevideov3",
        "v0.2.5.0/realesr-animevideov3.pth",
        Some(2_504_012),
        Some("b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d"),
    ),
];

const KAIR_FILES: &[Row] = &[
    ("bsrgan", "BSRGAN.pth", None, Some("5d505a0766160921e0388d76e1ddf08cb114303990f9080432bf2b1c988b1c54")),
    ("bsrgan-x2", "BSRGANx2.pth", None, None),
    ("bsrnet", "BSRNet.pth", None, None),
    ("esrgan", "ESRGAN.pth", None, Some("65fece06e1ccb48853242aa972bdf00ad07a7dd8938d2dcbdf4221b59f6372ce")),
    ("rrdb", "RRDB.pth", None, None),
];

const DIFFBIR_FILES: &[Row] = &[(
    "swinir",
    "general_swinir_v1.ckpt",
    Some(90_208_287),
    Some("577b8f84815d324e5ee17ef3c85d8bc9b7ebd05b20a6d61a5452b66e7e24dcaf"),
)];

const SWINIR_FILES: &[Row] = &[
    (
        "swinir-real-x4",
        "003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth",
        Some(67_129_861),
        Some("b9afb61e65e04eb7f8aba5095d070bbe9af28df76acd0c9405aeb33b814bcfc6"),
    ),
    ("swinir-real-x4-psnr", "003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_PSNR.pth", None, None),
    (
        "swinir-real-x2",
        "003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x2_GAN.pth",
        Some(66_974_517),
        Some("f397408977a3e07eb06afb7238d453a12ef35ebab7328a54241f307860dbe342"),
    ),
    (
        "swinir-real-large-x4",
        "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",
        Some(142_473_939),
        Some("99adfa91350a84c99e946c1eb3d8fce34bc28f57d807b09dc8fe40a316328c0a"),
    ),
    ("swinir-real-large-x4-psnr", "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_PSNR.pth", None, None),
    ("swinir-classical-x2", "001_classicalSR_DF2K_s64w8_SwinIR-M_x2.pth", None, None),
    ("swinir-classical-x3", "001_classicalSR_DF2K_s64w8_SwinIR-M_x3.pth", None, None),
    (
        "swinir-classical-x4",
        "001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth",
        Some(67_869_037),
        Some("4e78e33f22c1aa8a773db0cf4a7381bae97c2362c717f155439ebc690cbd9215"),
    ),
    ("swinir-classical-x8", "001_classicalSR_DF2K_s64w8_SwinIR-M_x8.pth", None, None),
    ("swinir-classical-div2k-x2", "001_classicalSR_DIV2K_s48w8_SwinIR-M_x2.pth", None, None),
    ("swinir-classical-div2k-x3", "001_classicalSR_DIV2K_s48w8_SwinIR-M_x3.pth", None, None),
    ("swinir-classical-div2k-x4", "001_classicalSR_DIV2K_s48w8_SwinIR-M_x4.pth", None, None),
    ("swinir-classical-div2k-x8", "001_classicalSR_DIV2K_s48w8_SwinIR-M_x8.pth", None, None),
    ("swinir-light-x2", "002_lightweightSR_DIV2K_s64w8_SwinIR-S_x2.pth", None, None),
    ("swinir-light-x3", "002_lightweightSR_DIV2K_s64w8_SwinIR-S_x3.pth", None, None),
    ("swinir-light-x4", "002_lightweightSR_DIV2K_s64w8_SwinIR-S_x4.pth", None, None),
    ("swinir-gray-noise15", "004_grayDN_DFWB_s128w8_SwinIR-M_noise15.pth", None, None),
    ("swinir-gray-noise25", "004_grayDN_DFWB_s128w8_SwinIR-M_noise25.pth", None, None),
    ("swinir-gray-noise50", "004_grayDN_DFWB_s128w8_SwinIR-M_noise50.pth", None, None),
    ("swinir-noise15", "005_colorDN_DFWB_s128w8_SwinIR-M_noise15.pth", None, None),
    ("swinir-noise25", "005_colorDN_DFWB_s128w8_SwinIR-M_noise25.pth", None, None),
    ("swinir-noise50", "005_colorDN_DFWB_s128w8_SwinIR-M_noise50.pth", None, None),
    ("swinir-gray-jpeg10", "006_CAR_DFWB_s126w7_SwinIR-M_jpeg10.pth", None, None),
    ("swinir-gray-jpeg20", "006_CAR_DFWB_s126w7_SwinIR-M_jpeg20.pth", None, None),
    ("swinir-gray-jpeg30", "006_CAR_DFWB_s126w7_SwinIR-M_jpeg30.pth", None, None),
    ("swinir-gray-jpeg40", "006_CAR_DFWB_s126w7_SwinIR-M_jpeg40.pth", None, None),
    ("swinir-jpeg10", "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg10.pth", None, None),
    ("swinir-jpeg20", "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg20.pth", None, None),
    ("swinir-jpeg30", "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg30.pth", None, None),
    ("swinir-jpeg40", "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg40.pth", None, None),
];

/// Every file known, grouped by project; a model may have several.
pub fn downloads() -> impl Iterator<Item = Download> {
    let projects = [
        (DREAMCLEAR, "", "Apache-2.0", DREAMCLEAR_FILES),
        (DIFFBIR, "", "Apache-2.0", DIFFBIR_FILES),
        (PIXART, "sd-vae-ft-ema", "MIT", VAE_FILES),
        (PIXART, "t5-v1_1-xxl", "Apache-2.0", T5_FILES),
        (REAL_ESRGAN, "", "BSD-3-Clause", REAL_ESRGAN_FILES),
        (KAIR, "", "MIT", KAIR_FILES),
        (SWINIR, "", "Apache-2.0", SWINIR_FILES),
    ];
    projects.into_iter().flat_map(|(base, folder, licence, rows)| {
        let slash = if folder.is_empty() { "" } else { "/" };
        rows.iter().map(move |&(model, path, size, sha256)| Download {
            model: model.into(),
            url: format!("{base}/{folder}{slash}{path}").into(),
            size,
            sha256,
            licence,
            folder,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn files_are_unique_and_digests_well_formed() {
        let (mut models, mut files) = (HashSet::new(), HashSet::new());
        assert!(DREAMCLEAR_SET.iter().all(|name| downloads().any(|d| d.model == *name)));
        for d in downloads() {
            models.insert(d.model.clone());
            assert!(files.insert(d.path()), "{}", d.url);
            assert!(d.url.starts_with("https://"));
            if let Some(sha) = d.sha256 {
                assert!(
                    sha.len() == 64 && sha.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                    "{}",
                    d.model
                );
            }
        }
    }
}
