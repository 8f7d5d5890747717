//! `impasto import`: a published model as a folder of ours.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use impasto::checkpoint::image_tokenizer::{Architecture, ImageTokenizerModelConfig, save};
use impasto::checkpoint::weights::Precision;
use impasto::checkpoint::{ClipModel, ModelSource};
use impasto::import::{ImportReport, clip, dalle_mini, dalle_pytorch, image_tokenizer, name_of};
use impasto::{Error, device, files};
use serde::Serialize;

use crate::arguments::find_model;
use crate::failure::Usage;
use crate::terminal;

/// Turn a published model into a folder of ours; nothing in its files is executed
///
/// Published models run as they are, too: a folder of ours loads faster and says its licence.
#[derive(Args)]
pub struct Arguments {
    /// The model: a folder, a file, or the name of a pulled one
    model: String,
    /// The folder to write; one that holds a model is not replaced
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// What it is
    #[arg(long, value_enum, default_value = "auto")]
    kind: Kind,
    /// CLIP: open_clip's name of the architecture, for a checkpoint without its config [such as
    /// ViT-B-32-quickgelu]
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// CLIP: where the text tokenizer's files are [default: beside the weights]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// DALL·E mini: the folder of its VQGAN [default: vqgan/ inside or beside]
    #[arg(long, value_name = "DIR")]
    image_tokenizer: Option<PathBuf>,
    /// The model's name [default: that of its folder or file]
    #[arg(long)]
    name: Option<String>,
    /// The licence of the weights, an SPDX expression [default: what is known of it; DALL·E mini: Apache-2.0]
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
    /// Store the weights in half precision; DALL·E mini keeps the precision it has
    #[arg(long)]
    half: bool,
    /// Print one JSON document: what became of each tensor
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// By what is in the files
    Auto,
    /// CLIP: a Hugging Face or open_clip folder, an open_clip checkpoint, an archive of OpenAI, DALLE-pytorch's clip.pt
    Clip,
    /// DALL·E mini or mega: a folder of the original or of min-dalle
    DalleMini,
    /// DALLE-pytorch: dalle.pt
    DallePytorch,
    /// An image tokenizer: taming's .ckpt with its .yaml, OpenAI's encoder.pkl and decoder.pkl, DALLE-pytorch's vae.pt
    ImageTokenizer,
}

#[derive(Serialize)]
struct Imported<'a> {
    #[serde(serialize_with = "files::lossy")]
    output: &'a Path,
    kind: Kind,
    name: String,
    networks: Vec<Network>,
}

/// One file of weights.
#[derive(Serialize)]
struct Network {
    what: &'static str,
    tensors: ImportReport,
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
    let kind = match arguments.kind {
        Kind::Auto if path.is_dir() && dalle_mini::is_dalle_mini(path) => Kind::DalleMini,
        Kind::Auto if dalle_pytorch::is_published(path) => Kind::DallePytorch,
        Kind::Auto if dalle_pytorch::clip::is_published(path) => Kind::Clip,
        Kind::Auto if image_tokenizer::is_published(path) => Kind::ImageTokenizer,
        Kind::Auto => Kind::Clip,
        kind => kind,
    };
    let name = arguments.name.clone().unwrap_or_else(|| name_of(path));
    let networks = files::write_folder(output, |folder| {
        let work = Work {
            arguments: &arguments,
            path,
            name: &name,
            folder,
        };
        let done = match kind {
            Kind::DalleMini => work.dalle_mini(&source),
            Kind::DallePytorch => work.dalle_pytorch(),
            Kind::ImageTokenizer => work.image_tokenizer(),
            Kind::Auto | Kind::Clip if dalle_pytorch::clip::is_published(path) => {
                work.dalle_pytorch_clip()
            }
            Kind::Auto | Kind::Clip => work.clip(),
        };
        done.map_err(|mut error| {
            if let Some(error) = error.downcast_mut::<Error>() {
                error.rename(folder, output);
            }
            error
        })
    })?;
    if arguments.json {
        return terminal::json(&Imported {
            output,
            kind,
            name,
            networks,
        });
    }
    for Network { what, tensors } in networks {
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
}

fn networks(transformer: ImportReport, image_tokenizer: ImportReport) -> Vec<Network> {
    vec![
        Network {
            what: "transformer",
            tensors: transformer,
        },
        Network {
            what: "image tokenizer",
            tensors: image_tokenizer,
        },
    ]
}

/// One import.
struct Work<'a> {
    arguments: &'a Arguments,
    /// The published model.
    path: &'a Path,
    name: &'a str,
    /// Where the files are written.
    folder: &'a Path,
}

impl Work<'_> {
    fn clip(&self) -> Result<Vec<Network>> {
        let Work {
            arguments,
            path,
            name,
            ..
        } = *self;
        let options = clip::Options {
            architecture: arguments.architecture.clone(),
            tokenizer: arguments.tokenizer.clone(),
        };
        // Reading takes no computing.
        let (device, _) = device::select("cpu")?;
        let published = clip::load(path, &options, &device)?;
        let tensors = published.report.clone();
        let mut model = ClipModel::from(published);
        name.clone_into(&mut model.config.name);
        if let Some(licence) = &arguments.licence {
            model.config.licence.clone_from(licence);
        }
        model.save(self.folder, arguments.precision())?;
        Ok(vec![Network {
            what: "clip",
            tensors,
        }])
    }

    fn dalle_pytorch_clip(&self) -> Result<Vec<Network>> {
        let Work {
            arguments,
            path,
            name,
            ..
        } = *self;
        let (device, _) = device::select("cpu")?;
        let mut published = dalle_pytorch::clip::load(path, &device)?;
        let config = &mut published.model.config;
        name.clone_into(&mut config.name);
        if let Some(licence) = &arguments.licence {
            config.licence.clone_from(licence);
        }
        let tokenizer = dalle_pytorch::clip::tokenizer_folder(path);
        let (output, precision) = (self.folder, arguments.precision());
        published.model.save(output, &tokenizer, precision)?;
        Ok(vec![Network {
            what: "clip",
            tensors: published.report,
        }])
    }

    fn dalle_pytorch(&self) -> Result<Vec<Network>> {
        let Work {
            arguments,
            path,
            name,
            ..
        } = *self;
        let (device, _) = device::select("cpu")?;
        let mut published = dalle_pytorch::load(path, &device)?;
        let config = &mut published.model.config;
        name.clone_into(&mut config.name);
        if let Some(licence) = &arguments.licence {
            config.licence.clone_from(licence);
        }
        let tokenizer = dalle_pytorch::tokenizer_folder(path);
        let (output, precision) = (self.folder, arguments.precision());
        published.model.save(output, &tokenizer, precision)?;
        Ok(networks(published.report, published.image_report))
    }

    fn image_tokenizer(&self) -> Result<Vec<Network>> {
        let Work {
            arguments,
            path,
            name,
            ..
        } = *self;
        let (device, _) = device::select("cpu")?;
        let published = image_tokenizer::load(path, &device)?;
        let config = ImageTokenizerModelConfig {
            architecture: Architecture::ImageTokenizer,
            name: name.to_owned(),
            licence: arguments.licence.clone().unwrap_or(published.licence),
            image_tokenizer: published.model.config(),
        };
        save(
            self.folder,
            &config,
            &published.model,
            arguments.precision(),
        )?;
        Ok(vec![Network {
            what: "image tokenizer",
            tensors: published.report,
        }])
    }

    fn dalle_mini(&self, source: &ModelSource) -> Result<Vec<Network>> {
        let Work {
            arguments,
            path,
            name,
            ..
        } = *self;
        let given = arguments.image_tokenizer.as_deref();
        let needed = source.needs().first().map(PathBuf::as_path);
        let imported = dalle_mini::import(path, given.or(needed), name, self.folder)?;
        Ok(networks(imported.transformer, imported.image_tokenizer))
    }
}
