//! Published upscaling networks ([`crate::models::upscaler`]): one file of weights, whose shapes give the sizes.
//!
//! | what | file |
//! |---|---|
//! | `RRDBNet` of Real-ESRGAN and BasicSR | `.pth` with `params_ema` or `params`, or only the weights; `.safetensors` |
//! | the same under the names of ESRGAN's first code (`model.1.sub.0.RDB1…`) | likewise |
//! | `SRVGGNetCompact` of Real-ESRGAN | likewise |

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::mapping::Mapping;
use super::weights::{Tensors, without_prefix};
use super::{ImportReport, name_of};
use crate::checkpoint::pytorch::{self, Archive};
use crate::checkpoint::stored;
use crate::error::Reason;
use crate::models::parameters::shapes;
use crate::models::upscaler::{CompactConfig, RrdbConfig, UpscalerConfig, UpscalerNet};
use crate::nn::Init;
use crate::{Error, Result, files};

/// A published upscaling network.
#[derive(Debug)]
pub struct PublishedUpscaler {
    /// What its file or repository is called.
    pub name: String,
    /// The network.
    pub net: UpscalerNet,
    /// What became of the tensors.
    pub report: ImportReport,
}

/// Where the weights are, the best first.
const INNER: [&str; 3] = ["params_ema", "params", "state_dict"];

/// What the names of weight files end with.
const EXTENSIONS: [&str; 4] = ["pth", "pt", "ckpt", "safetensors"];

/// The file of weights that a path is, or the only one that it holds.
fn weights_of(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
    let is_weights = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_weights)
        .collect();
    found.sort();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Error::Missing {
            what: "upscaler",
            path: path.to_owned(),
            hint: "expected a file such as RealESRGAN_x4plus.pth".into(),
        }),
        _ => Err(Error::bad_file(
            path,
            format!("has {} files of weights; give one of them", found.len()),
        )),
    }
}

/// Loads a file, or the only one of a folder, onto `device`.
///
/// # Errors
/// What does not fit is said by the file's own names.
pub fn load(path: &Path, device: &Device) -> Result<PublishedUpscaler> {
    let file = weights_of(path)?;
    let bytes = files::map(&file)?;
    let (net, report) = if pytorch::is_pytorch(&bytes) {
        let archive = Archive::parse(&file, &bytes, &[])?;
        let root = archive.root();
        let inner = INNER.iter().find_map(|key| root.get(key)).unwrap_or(root);
        map(&file, inner.tensors()?, device)?
    } else {
        let tensors = stored::safetensors(&file, &bytes)?;
        map(&file, tensors.into_iter().collect(), device)?
    };
    // A pulled one by its repository, any other by its file.
    let name = match name_of(path) {
        name if path.is_dir() => name,
        name => Path::new(&name)
            .file_stem()
            .map_or(name.clone(), |stem| stem.to_string_lossy().into_owned()),
    };
    Ok(PublishedUpscaler { name, net, report })
}

/// The names of the file by ours.
type Names = fn(&str, &UpscalerConfig) -> Option<String>;

fn map(path: &Path, tensors: Tensors<'_>, device: &Device) -> Result<(UpscalerNet, ImportReport)> {
    let tensors = without_prefix(tensors, "module.");
    let bad = |reason: Reason| Error::bad_file(path, reason);
    let (config, names) = sizes(&tensors).map_err(bad)?;
    config.validate().map_err(|e| bad(Reason::of(e)))?;
    let held: usize = tensors
        .values()
        .map(|tensor| tensor.shape().iter().product::<usize>())
        .sum();
    if config.parameters() > 2 * held as u64 + (1 << 16) {
        let described = config.parameters();
        return Err(bad(format!(
            "its shapes describe {described} parameters, it holds {held}"
        )
        .into()));
    }
    let net = config.init(&mut Init::empty(device));
    let mut mapping = Mapping::new(path, tensors, &net);
    for ours in shapes(&net).into_keys() {
        let theirs = names(&ours, &config)
            .ok_or_else(|| bad(format!("nothing is known that {ours} comes from").into()))?;
        mapping.same(&ours, &theirs)?;
    }
    mapping.finish(net)
}

/// Which network, its sizes, and whose names the tensors have.
fn sizes(tensors: &Tensors<'_>) -> Result<(UpscalerConfig, Names), Reason> {
    let size = |name: &str, axis: usize| -> Result<usize, Reason> {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| format!("lacks the tensor {name}"))?;
        match tensor.shape() {
            shape if shape.len() == 4 => Ok(shape[axis]),
            shape => Err(format!("{name} has shape {shape:?}, expected four dimensions").into()),
        }
    };
    let count = |name: &dyn Fn(usize) -> String| {
        let mut known = 0;
        while tensors.contains_key(&name(known)) {
            known += 1;
        }
        known
    };
    let old = tensors.contains_key("model.0.weight");
    if old || tensors.contains_key("conv_first.weight") {
        let names: Names = if old { esrgan_name } else { rrdb_name };
        let (first, grown): (_, fn(usize) -> String) = match old {
            true => ("model.0.weight", |i| {
                format!("model.1.sub.{i}.RDB1.conv1.0.weight")
            }),
            false => ("conv_first.weight", |i| {
                format!("body.{i}.rdb1.conv1.weight")
            }),
        };
        let scale = match size(first, 1)? {
            3 => 4,
            12 => 2,
            inputs => {
                return Err(format!(
                    "{first} takes {inputs} channels, expected 3 (four times as large) or 12 (twice)"
                )
                .into());
            }
        };
        let config = RrdbConfig {
            scale,
            width: size(first, 0)?,
            n_blocks: count(&grown),
            growth: size(&grown(0), 0)?,
        };
        return Ok((UpscalerConfig::Rrdb(config), names));
    }
    if !tensors.contains_key("body.0.weight") {
        return Err(
            "is no upscaler: expected the tensors of RRDBNet (conv_first.weight, or model.0.weight) or SRVGGNetCompact (body.0.weight)"
                .into(),
        );
    }
    if !tensors.contains_key("body.1.weight") {
        return Err(
            "lacks the tensor body.1.weight: an SRVGGNetCompact with an activation other than PReLU, which is not read"
                .into(),
        );
    }
    let convolutions = count(&|i| format!("body.{}.weight", 2 * i));
    let last = format!("body.{}.weight", 2 * convolutions.max(1) - 2);
    let outputs = size(&last, 0)?;
    let scale = (outputs / 3).isqrt();
    if scale * scale * 3 != outputs {
        return Err(format!(
            "{last} makes {outputs} channels, expected three times a square number"
        )
        .into());
    }
    let config = CompactConfig {
        scale,
        width: size("body.0.weight", 0)?,
        n_convolutions: convolutions.saturating_sub(2),
    };
    Ok((UpscalerConfig::Compact(config), compact_name))
}

fn rrdb_name(ours: &str, _: &UpscalerConfig) -> Option<String> {
    Some(ours.strip_prefix("Rrdb.").unwrap_or(ours).to_owned())
}

/// `body.0.rdb1.conv1.weight` → `model.1.sub.0.RDB1.conv1.0.weight`.
fn esrgan_name(ours: &str, config: &UpscalerConfig) -> Option<String> {
    let ours = rrdb_name(ours, config)?;
    let parts: Vec<&str> = ours.split('.').collect();
    let outer = |place: &str, leaf: &str| Some(format!("model.{place}.{leaf}"));
    match parts[..] {
        ["body", block, dense, conv, leaf] => {
            let dense = dense.to_uppercase();
            Some(format!("model.1.sub.{block}.{dense}.{conv}.0.{leaf}"))
        }
        ["conv_first", leaf] => outer("0", leaf),
        // Counted after the blocks.
        ["conv_body", leaf] => match config {
            UpscalerConfig::Rrdb(config) => outer(&format!("1.sub.{}", config.n_blocks), leaf),
            UpscalerConfig::Compact(_) => None,
        },
        ["conv_up1", leaf] => outer("3", leaf),
        ["conv_up2", leaf] => outer("6", leaf),
        ["conv_hr", leaf] => outer("8", leaf),
        ["conv_last", leaf] => outer("10", leaf),
        _ => None,
    }
}

/// `convolutions.2.weight` → `body.4.weight`, `slopes.2.weight` → `body.5.weight`.
fn compact_name(ours: &str, config: &UpscalerConfig) -> Option<String> {
    let UpscalerConfig::Compact(config) = config else {
        return None;
    };
    let ours = ours.strip_prefix("Compact.").unwrap_or(ours);
    let parts: Vec<&str> = ours.split('.').collect();
    let (place, leaf) = match parts[..] {
        ["convolutions", i, leaf] => (2 * i.parse::<usize>().ok()?, leaf),
        ["slopes", i, leaf] => (2 * i.parse::<usize>().ok()? + 1, leaf),
        ["last", leaf] => (2 * config.n_convolutions + 2, leaf),
        _ => return None,
    };
    Some(format!("body.{place}.{leaf}"))
}
