//! `impasto import`: a published model as a folder of ours.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use impasto::checkpoint::ClipModel;
use impasto::checkpoint::weights::Precision;
use impasto::families::{self, ImportOptions, ModelFiles, NetworkReport};
use impasto::import::{clip, dalle_pytorch, name_of};
use impasto::{device, files};
use serde::Serialize;

use crate::arguments::find_model;
use crate::failure::Usage;
use crate::terminal;

/// Convert a published model to a folder in impasto's format; nothing in its files is executed
///
/// Published models also run without conversion; the converted folder loads faster and states its licence.
#[derive(Args)]
pub struct Arguments {
    /// The model: a folder, a file, or the name of a pulled one
    model: String,
    /// Output folder; an existing model is not replaced
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Kind of model
    #[arg(long, value_enum, default_value = "auto")]
    kind: Kind,
    /// CLIP: open_clip's name of the architecture, for a checkpoint without config, such as ViT-B-32-quickgelu
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// CLIP: folder of the text tokenizer's files [default: beside the weights]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// DALL·E mini: folder of its VQGAN [default: vqgan/ inside or beside]; ruDALL-E: folder of the files of rudalle-utils
    #[arg(long, value_name = "DIR")]
    image_tokenizer: Option<PathBuf>,
    /// Name of the model [default: the name of its folder or file]
    #[arg(long)]
    name: Option<String>,
    /// Licence of the weights, an SPDX expression [default: as known; DALL·E mini: Apache-2.0]
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
    /// Store the weights in half precision; DALL·E mini keeps its own precision
    #[arg(long)]
    half: bool,
    /// Print one JSON document: the result for each tensor
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Detected from the files
    Auto,
    /// CLIP: a Hugging Face or open_clip folder, an open_clip checkpoint, an archive of OpenAI, DALLE-pytorch's clip.pt
    Clip,
    /// DALL·E mini or mega: a folder of the original or of min-dalle
    DalleMini,
    /// DALLE-pytorch: dalle.pt
    DallePytorch,
    /// Janus or Janus-Pro: a folder of the original or of transformers
    Janus,
    /// aMUSEd: a folder of diffusers with model_index.json
    Amused,
    /// Meissonic, Monetico: a folder of diffusers; DiMO: its meissonic/transformer, beside the others of Meissonic
    Meissonic,
    /// LlamaGen: c2i_….pt or t2i_….pt, its vq_….pt, and for t2i the folder of the T5 encoder
    #[value(name = "llamagen")]
    LlamaGen,
    /// ruDALL-E: pytorch_model….bin, vqgan.gumbelf8-sber.model.ckpt and bpe.model
    #[value(name = "rudalle")]
    #[serde(rename = "rudalle")]
    RuDalle,
    /// An image tokenizer: taming's .ckpt with its .yaml, OpenAI's encoder.pkl and decoder.pkl, DALLE-pytorch's vae.pt
    ImageTokenizer,
}

#[derive(Serialize)]
struct Imported<'a> {
    #[serde(serialize_with = "files::lossy")]
    output: &'a Path,
    kind: Kind,
    name: String,
    networks: Vec<NetworkReport>,
}

/// Reads, checks, writes.
pub fn run(arguments: Arguments) -> Result<()> {
    let output = arguments.output.as_path();
    if output.join("config.json").exists() || output.is_file() {
        return Err(Usage::new(
            format!("{} is there already", output.display()),
            "choose another folder, or remove it first",
        )
        .into());
    }
    files::check_writable(files::folder_of(output))?;
    let source = find_model(&arguments.model)?;
    let Some(path) = source.folder() else {
        return Err(Usage::new(
            format!(
                "{} is inside the program, in our own format",
                arguments.model
            ),
            "name a published model",
        )
        .into());
    };
    // What is not a model that draws is taken for a CLIP.
    let is_clip = |path: &Path| dalle_pytorch::clip::is_published(path);
    let model = match arguments.kind {
        Kind::Clip => None,
        Kind::Auto if is_clip(path) => None,
        Kind::Auto => ModelFiles::find(&source)
            .ok()
            .filter(ModelFiles::is_published_form),
        _ => Some(ModelFiles::find(&source)?),
    };
    let kind = match &model {
        None => Kind::Clip,
        Some(model) => Kind::of(model)?,
    };
    if arguments.kind != Kind::Auto && arguments.kind != kind {
        return Err(Usage::new(
            format!("{} is of another kind: {kind:?}", arguments.model),
            "leave --kind out",
        )
        .into());
    }
    let mut name = arguments.name.clone().unwrap_or_else(|| name_of(path));
    let networks = files::write_folder(output, |folder| {
        let Some(model) = &model else {
            return arguments.import_clip(path, &name, folder);
        };
        let options = ImportOptions {
            name: arguments.name.clone(),
            licence: arguments.licence.clone(),
            image_tokenizer: arguments.image_tokenizer.clone(),
            precision: arguments.precision(),
        };
        let imported = families::import(model, &options, folder)?;
        name = imported.name;
        Ok(imported.networks)
    })?;
    if arguments.json {
        return terminal::json(&Imported {
            output,
            kind,
            name,
            networks,
        });
    }
    for NetworkReport { what, tensors } in networks {
        terminal::note(format_args!(
            "{what}: {} tensors applied, none missing, none left over, {} of no use",
            tensors.applied.len(),
            tensors.ignored.len()
        ));
    }
    terminal::result(terminal::shown(output))
}

impl Arguments {
    fn precision(&self) -> Precision {
        if self.half {
            Precision::F16
        } else {
            Precision::F32
        }
    }

    /// A CLIP of any published form.
    fn import_clip(
        &self,
        path: &Path,
        name: &str,
        folder: &Path,
    ) -> impasto::Result<Vec<NetworkReport>> {
        // Reading takes no computing.
        let (device, _) = device::select("cpu")?;
        let stated = self
            .licence
            .clone()
            .or_else(|| impasto::hub::recorded_licence(path));
        let licence = |known: &mut String| {
            if let Some(licence) = &stated {
                known.clone_from(licence);
            }
        };
        let tensors = if dalle_pytorch::clip::is_published(path) {
            let mut published = dalle_pytorch::clip::load(path, &device)?;
            let config = &mut published.model.config;
            name.clone_into(&mut config.name);
            licence(&mut config.licence);
            published.model.save(folder, self.precision())?;
            published.report
        } else {
            let options = clip::Options {
                architecture: self.architecture.clone(),
                tokenizer: self.tokenizer.clone(),
            };
            let published = clip::load(path, &options, &device)?;
            let report = published.report.clone();
            let mut model = ClipModel::from(published);
            name.clone_into(&mut model.config.name);
            licence(&mut model.config.licence);
            model.save(folder, self.precision())?;
            report
        };
        Ok(vec![NetworkReport {
            what: "clip",
            tensors,
        }])
    }
}

impl Kind {
    /// The kind of a model that is no CLIP.
    fn of(model: &ModelFiles) -> Result<Self> {
        use families::ModelKind::{Family, ImageTokenizer};
        Ok(match model.kind {
            ImageTokenizer => Kind::ImageTokenizer,
            Family(name) => {
                Kind::from_str(&name.replace('_', "-"), false).map_err(anyhow::Error::msg)?
            }
        })
    }
}
