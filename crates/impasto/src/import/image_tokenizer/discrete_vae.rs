//! `vae.pt` of DALLE-pytorch (`train_vae.py`): `{"hparams": …, "weights": …}`, the first what its constructor was
//! given.

use std::path::Path;

use burn::tensor::Device;

use super::check_size;
use crate::checkpoint::pytorch::{Archive, Item};
use crate::error::Reason;
use crate::import::ImportReport;
use crate::import::mapping::Mapping;
use crate::import::weights::Tensors;
use crate::models::ImageTokenizer;
use crate::models::discrete_vae::{DiscreteVaeConfig, Normalization};
use crate::models::parameters::shapes;
use crate::nn::Init;
use crate::{Error, Result, files};

/// Sets are no part of weights, but of what DeepSpeed keeps beside them.
const CLASSES: [&str; 2] = ["__builtin__.set", "builtins.set"];

/// Understands a file of DALLE-pytorch.
pub fn archive<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Archive<'a>> {
    Archive::parse(path, bytes, &CLASSES)
}

/// What the constructor was given.
pub struct Hyperparameters<'a>(pub Item<'a>);

impl Hyperparameters<'_> {
    fn size(&self, name: &str, default: usize) -> Result<usize, Reason> {
        match self.0.get(name) {
            None => Ok(default),
            Some(item) => item
                .integer()
                .and_then(|value| usize::try_from(value).ok())
                .ok_or_else(|| format!("hparams.{name} is no size").into()),
        }
    }

    /// With the constructor's defaults.
    pub fn config(&self) -> Result<DiscreteVaeConfig, Reason> {
        if self.size("channels", 3)? != 3 {
            return Err("hparams.channels is not 3, which is not read".into());
        }
        Ok(DiscreteVaeConfig {
            picture_size: self.size("image_size", 256)?,
            codebook_size: self.size("num_tokens", 512)?,
            code_width: self.size("codebook_dim", 512)?,
            n_layers: self.size("num_layers", 3)?,
            n_res_blocks: self.size("num_resnet_blocks", 0)?,
            width: self.size("hidden_dim", 64)?,
            normalization: self.normalization()?,
        })
    }

    /// `((means), (deviations))`, three or more each; none leaves pixels in 0..1.
    fn normalization(&self) -> Result<Normalization, Reason> {
        let Some(item) = self.0.get("normalization") else {
            return Ok(Normalization::default());
        };
        if item.is_none() {
            return Ok(Normalization {
                mean: [0.0; 3],
                deviation: [1.0; 3],
            });
        }
        let channels = |item: Option<&Item<'_>>| -> Option<[f32; 3]> {
            let values = item?.items();
            let mut found = [0.0; 3];
            for (i, to) in found.iter_mut().enumerate() {
                *to = values.get(i)?.float()? as f32;
            }
            Some(found)
        };
        let pair = item.items();
        match (channels(pair.first()), channels(pair.get(1))) {
            (Some(mean), Some(deviation)) => Ok(Normalization { mean, deviation }),
            _ => Err("hparams.normalization is not means and deviations of three channels".into()),
        }
    }
}

pub fn load(path: &Path, device: &Device) -> Result<(ImageTokenizer, ImportReport)> {
    let bytes = files::map(path)?;
    let archive = archive(path, &bytes)?;
    let root = archive.root();
    let (Some(hyperparameters), Some(weights)) = (root.get("hparams"), root.get("weights")) else {
        return Err(Error::bad_file(
            path,
            "expected a checkpoint of DALLE-pytorch's train_vae.py, with hparams and weights",
        ));
    };
    let config = Hyperparameters(hyperparameters)
        .config()
        .map_err(|reason| Error::bad_file(path, reason))?;
    let tensors = super::super::weights::without_prefix(weights.tensors()?, "module.");
    map(path, tensors, &config, device)
}

/// The model of a state dict.
pub fn map(
    path: &Path,
    tensors: Tensors<'_>,
    config: &DiscreteVaeConfig,
    device: &Device,
) -> Result<(ImageTokenizer, ImportReport)> {
    config
        .validate()
        .map_err(|e| Error::bad_file(path, Reason::of(e)))?;
    check_size(path, config.parameters(), &tensors)?;
    let model = config.init(&mut Init::empty(device));
    let ours: Vec<String> = shapes(&model).into_keys().collect();
    let mut mapping = Mapping::new(path, tensors, &model);
    for name in ours {
        let theirs = theirs(&name).ok_or_else(|| {
            Error::bad_file(path, format!("nothing is known that {name} comes from"))
        })?;
        mapping.same(&name, &theirs)?;
    }
    let (model, report) = mapping.finish(model)?;
    Ok((ImageTokenizer::DiscreteVae(model), report))
}

/// `encoder.2.Residual.net.1.weight` → `encoder.2.net.2.weight`: activations are counted.
fn theirs(ours: &str) -> Option<String> {
    let parts: Vec<&str> = ours.split('.').collect();
    Some(match parts[..] {
        ["codebook", "weight"] => ours.to_owned(),
        [coder, number, "Down" | "Up", leaf] => format!("{coder}.{number}.0.{leaf}"),
        [coder, number, "Pointwise", leaf] => format!("{coder}.{number}.{leaf}"),
        [coder, number, "Residual", "net", conv, leaf] => {
            let conv = 2 * conv.parse::<usize>().ok()?;
            format!("{coder}.{number}.net.{conv}.{leaf}")
        }
        _ => return None,
    })
}
