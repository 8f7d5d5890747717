//! OpenAI's discrete VAE (github.com/openai/DALL-E, `encoder.py`, `decoder.py`, `utils.py`): two files, each a
//! whole pickled module. Sizes follow from the tensors.

use std::path::Path;

use burn::tensor::Device;

use super::check_size;
use crate::checkpoint::pytorch::Archive;
use crate::error::Reason;
use crate::import::ImportReport;
use crate::import::mapping::Mapping;
use crate::import::weights::Tensors;
use crate::models::ImageTokenizer;
use crate::models::dvae::DvaeConfig;
use crate::models::parameters::shapes;
use crate::nn::Init;
use crate::{Error, Result, files};

/// The classes of the pickled modules, whose objects are read as plain data.
const CLASSES: [&str; 6] = [
    "dall_e.",
    "torch.nn.modules.",
    "torch.nn.parameter.",
    "__builtin__.set",
    "builtins.set",
    "functools.partial",
];

/// The side of the pictures that it was made for; it is convolutional and the files do not say.
const PICTURE_SIZE: usize = 256;

pub fn load(
    encoder: &Path,
    decoder: &Path,
    device: &Device,
) -> Result<(ImageTokenizer, ImportReport)> {
    let files = [encoder, decoder].map(|path| files::read(path).map(|bytes| (path, bytes)));
    let [encoder, decoder] = files;
    let ((encoder_path, encoder), (decoder_path, decoder)) = (encoder?, decoder?);
    let encoder = Archive::parse(encoder_path, &encoder, &CLASSES)?;
    let decoder = Archive::parse(decoder_path, &decoder, &CLASSES)?;
    let mut tensors = Tensors::new();
    for (prefix, archive) in [("enc.", &encoder), ("dec.", &decoder)] {
        for (name, tensor) in archive.root().tensors()? {
            // A module keeps what it has in three dictionaries, which its own names leave out.
            let parts = name
                .split('.')
                .filter(|part| !["_modules", "_parameters", "_buffers"].contains(part));
            let name = parts.collect::<Vec<_>>().join(".");
            tensors.insert(format!("{prefix}{name}"), tensor);
        }
    }
    map_state(encoder_path, tensors, device)
}

/// The model of a state dict with `enc.` and `dec.` before the two parts, as DALLE-pytorch keeps it.
pub fn map_state(
    path: &Path,
    tensors: Tensors<'_>,
    device: &Device,
) -> Result<(ImageTokenizer, ImportReport)> {
    let config = sizes(&tensors).map_err(|reason| Error::bad_file(path, reason))?;
    config
        .validate()
        .map_err(|e| Error::bad_file(path, Reason::of(e)))?;
    check_size(path, parameters(&config), &tensors)?;
    let model = config.init(&mut Init::empty(device));
    let ours: Vec<String> = shapes(&model).into_keys().collect();
    let mut mapping = Mapping::new(path, tensors, &model);
    for name in ours {
        let theirs = theirs(&name, &config).ok_or_else(|| {
            Error::bad_file(path, format!("nothing is known that {name} comes from"))
        })?;
        mapping.same(&name, &theirs)?;
    }
    let (model, report) = mapping.finish(model)?;
    Ok((ImageTokenizer::Dvae(model), report))
}

fn sizes(tensors: &Tensors<'_>) -> Result<DvaeConfig, Reason> {
    let size = |name: &str, axis: usize| {
        let shape = tensors.get(name).map(|tensor| tensor.shape());
        shape
            .and_then(|shape| shape.get(axis).copied())
            .ok_or_else(|| format!("lacks the tensor {name}"))
    };
    let count = |name: &dyn Fn(usize) -> String| {
        (1..64)
            .take_while(|&i| tensors.contains_key(&name(i)))
            .count()
    };
    let n_groups = count(&|i| format!("enc.blocks.group_{i}.block_1.res_path.conv_1.w"));
    let n_blocks = count(&|j| format!("enc.blocks.group_1.block_{j}.res_path.conv_1.w"));
    if n_groups > 12 {
        return Err(format!("has {n_groups} groups, expected at most 12").into());
    }
    Ok(DvaeConfig {
        picture_size: PICTURE_SIZE,
        n_groups,
        n_blocks,
        width: size("enc.blocks.input.w", 0)?,
        code_width: size("dec.blocks.input.w", 0)?,
        codebook_size: size("enc.blocks.output.conv.w", 0)?,
    })
}

/// About how many numbers the model has.
fn parameters(config: &DvaeConfig) -> u64 {
    let widest = (config.width as u64) << (config.n_groups - 1);
    let ends = config.codebook_size as u64 * (widest + config.code_width as u64);
    ends + widest * widest / 4
}

/// `encoder.3.res_path.1.weight` → `enc.blocks.group_2.block_2.res_path.conv_2.w`.
fn theirs(ours: &str, config: &DvaeConfig) -> Option<String> {
    let (module, leaf) = ours.rsplit_once('.')?;
    let leaf = match leaf {
        "weight" => "w",
        "bias" => "b",
        _ => return None,
    };
    let whole = match module {
        "encoder_in" => "enc.blocks.input".to_owned(),
        "encoder_out" => "enc.blocks.output.conv".to_owned(),
        "decoder_in" => "dec.blocks.input".to_owned(),
        "decoder_out" => "dec.blocks.output.conv".to_owned(),
        _ => {
            let (coder, rest) = module.split_once('.')?;
            let (number, rest) = rest.split_once('.')?;
            let number: usize = number.parse().ok()?;
            let path = match rest.split_once('.') {
                None => rest.to_owned(),
                Some((path, conv)) => format!("{path}.conv_{}", conv.parse::<usize>().ok()? + 1),
            };
            format!(
                "{}.blocks.group_{}.block_{}.{path}",
                coder.get(..3)?,
                number / config.n_blocks + 1,
                number % config.n_blocks + 1
            )
        }
    };
    Some(format!("{whole}.{leaf}"))
}
