//! DALL·E mini and mega in the two forms they were published in, as checkpoint folders of ours.
//!
//! - *Flax* (github.com/borisdayma/dalle-mini): `flax_model.msgpack`, `config.json` and the tokenizer, and the
//!   VQGAN (github.com/patil-suraj/vqgan-jax) as `flax_model.msgpack` and `config.json` in a folder of its own;
//! - *min-dalle* (github.com/kuprel/min-dalle): `encoder.pt`, `decoder.pt`, `detoker.pt` with `vocab.json` and
//!   `merges.txt`. It has no encoder of pictures.
//!
//! Such a folder is loaded as it is. The numbers that an import writes keep their precision: what the file has in 16
//! bits is written in 16 bits. Tensors are converted one after the other, so that beside the file no more than one of
//! them (when loading: than the model) is in memory.

pub mod flax;
mod mapping;
mod transformer;
mod vqgan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::mapping::Source;
use self::transformer::FlaxConfig;
use super::ImportReport;
use crate::checkpoint::pytorch::Archive;
use crate::checkpoint::weights::{self, LazyTensor};
use crate::checkpoint::{IMAGE_TOKENIZER, config_file};
use crate::error::Reason;
use crate::families::{
    DalleMini, DalleMiniOptions, DalleMiniText, Family, FamilyConfig, FamilyModel, ImportOptions,
    NetworkReport, Published, PublishedFiles, PublishedForm,
};
use crate::files::FileAccess;
use crate::models::ImageTokenizerConfig;
use crate::models::parameters::shapes;
use crate::nn::Init;
use crate::nn::ops::packed::WeightFormat;
use crate::sampling::SamplingOptions;
use crate::text::bart::BartTokenizer;
use crate::{Error, Result, files};
use burn::tensor::Device;
use bytes::Bytes;

const FLAX: &str = "flax_model.msgpack";
const CONFIG: &str = "config.json";

/// Whether a folder looks like one of the two forms; `config` is what its `config.json` says.
fn is_dalle_mini(folder: &Path, config: Option<&[u8]>) -> bool {
    min_dalle_file(folder, "decoder", "pt").is_some()
        || folder.join(FLAX).is_file()
            && config
                .and_then(|bytes| serde_json::from_slice::<FlaxConfig>(bytes).ok())
                .is_some_and(|config| config.is_dalle_bart())
}

/// What a published model turned out to be, its numbers still in its files.
struct Inspected<'a> {
    config: FamilyConfig<DalleMini>,
    text: DalleMiniText,
    transformer: Part<'a>,
    image_tokenizer: Part<'a>,
}

/// One of the two networks.
struct Part<'a> {
    /// The file, for errors.
    path: PathBuf,
    tensors: Vec<LazyTensor<'a>>,
    report: ImportReport,
    /// The file's length, or the files'.
    bytes: u64,
}

/// Folders of both forms. The VQGAN is looked for in the folder that is given for it, else in the model's, in `vqgan/`
/// inside it and in `vqgan/` beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form;

impl PublishedForm<DalleMini> for Form {
    fn is_published(&self, path: &Path, config: Option<&[u8]>) -> bool {
        path.is_dir() && is_dalle_mini(path, config)
    }

    fn load(
        &self,
        files: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<DalleMini>> {
        inspect(files, |model| {
            let mut init = Init::empty(device);
            let mut config = model.config;
            config.precision = format;
            let bytes = model.transformer.bytes + model.image_tokenizer.bytes;
            let part = model.transformer;
            let net = config.sizes.init(&mut init);
            let net = weights::load_lazily(net, &part.path, part.tensors, format)?;
            let transformer = part.report;
            let part = model.image_tokenizer;
            let image = config.image_tokenizer.init(&mut init);
            let image = weights::load_lazily(image, &part.path, part.tensors, WeightFormat::F32)?;
            Ok(Published {
                model: FamilyModel {
                    config,
                    text: model.text,
                    image,
                    net,
                    device: device.clone(),
                },
                networks: NetworkReport::of(transformer, part.report),
                bytes,
            })
        })
    }

    fn describe(&self, files: PublishedFiles<'_>) -> Result<(FamilyConfig<DalleMini>, u64)> {
        inspect(files, |model| {
            let bytes = model.transformer.bytes + model.image_tokenizer.bytes;
            Ok((model.config, bytes))
        })
    }

    /// The weights keep the precision that they have.
    fn import(
        &self,
        files: PublishedFiles<'_>,
        options: &ImportOptions,
        dir: &Path,
    ) -> Result<Vec<NetworkReport>> {
        // Everything is understood before anything is written.
        inspect(files, |mut model| {
            std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
            let parts = [
                (DalleMini::WEIGHTS, model.transformer),
                (IMAGE_TOKENIZER, model.image_tokenizer),
            ];
            let mut reports = Vec::with_capacity(parts.len());
            for (file, part) in parts {
                weights::write_lazily(&dir.join(file), &part.path, part.tensors)?;
                reports.push(part.report);
            }
            DalleMini::save_text(&model.text, dir)?;
            if let Some(licence) = &options.licence {
                model.config.licence.clone_from(licence);
            }
            config_file::save(dir, &model.config)?;
            let [transformer, image_tokenizer] = <[ImportReport; 2]>::try_from(reports)
                .map_err(|_| Error::invalid("import", "expected two networks"))?;
            Ok(NetworkReport::of(transformer, image_tokenizer))
        })
    }
}

/// The VQGAN's weight file. A folder with the transformer has a file of the same name, which is not it.
fn image_file(folder: &Path, image_tokenizer: Option<&Path>) -> Result<PathBuf> {
    let places: Vec<PathBuf> = match image_tokenizer {
        Some(place) => vec![place.to_owned()],
        None => vec![
            folder.to_owned(),
            folder.join("vqgan"),
            folder.join("../vqgan"),
        ],
    };
    let found = places.iter().find_map(|place| {
        let flax = place.join(FLAX);
        // The model's own folder has the transformer in a file of this name.
        let config = || files::read(place.join(CONFIG)).ok();
        let own = place != folder && flax.is_file() && !is_dalle_mini(place, config().as_deref());
        own.then_some(flax)
            .or_else(|| min_dalle_file(place, "detoker", "pt"))
    });
    found.ok_or_else(|| Error::Missing {
        what: "the VQGAN (flax_model.msgpack with config.json, or detoker.pt)",
        path: places.into_iter().next().unwrap_or_default(),
        hint: "put it into a folder vqgan/ beside the model's files".into(),
    })
}

/// Reads the files and passes on what they are, once everything is known to fit.
fn inspect<T>(
    files: PublishedFiles<'_>,
    then: impl FnOnce(Inspected<'_>) -> Result<T>,
) -> Result<T> {
    let (folder, image_tokenizer) = (files.path, files.image_tokenizer);
    let text = tokenizer(folder)?;
    let bytes = if folder.join(FLAX).is_file() {
        WeightFiles::read(&[("", folder.join(FLAX))], files.access)?
    } else {
        let encoder = min_dalle_file(folder, "encoder", "pt");
        let decoder = min_dalle_file(folder, "decoder", "pt");
        let parts = [
            ("encoder.", found(folder, encoder, "encoder.pt")?),
            ("decoder.", found(folder, decoder, "decoder.pt")?),
        ];
        WeightFiles::read(&parts, files.access)?
    };
    let image_file = image_file(folder, image_tokenizer)?;
    let image_bytes = WeightFiles::read(&[("", image_file.clone())], files.access)?;

    let archives = bytes.archives()?;
    let image_archives = image_bytes.archives()?;
    let config_path = folder.join(CONFIG);
    let flax_config: Option<FlaxConfig> = read_json(&config_path)?;
    let source = bytes.source(&archives)?;
    let image_source = image_bytes.source(&image_archives)?;
    let image_length = transformer::image_length(&source, flax_config.as_ref(), folder)?;
    let vqgan = vqgan::config(&image_source, &image_file, image_length)?;
    let dalle = transformer::config(&source, flax_config.as_ref(), &vqgan, folder)?;
    let config = FamilyConfig::<DalleMini> {
        name: files.name.to_owned(),
        licence: "Apache-2.0".to_owned(),
        options: DalleMiniOptions {
            normalize_text: flax_config.as_ref().is_none_or(FlaxConfig::normalizes),
        },
        image_tokenizer: ImageTokenizerConfig::TamingVqgan(vqgan.clone()),
        sizes: dalle.clone(),
        sampling: SamplingOptions {
            // The published demo's (`tools/inference/inference_pipeline.ipynb`): guidance alone.
            guidance_scale: 10.0,
            temperature: 1.0,
            top_k: None,
            top_p: None,
        },
        precision: WeightFormat::F32,
    };
    config
        .validate()
        .map_err(|e| Error::bad_file(&config_path, Reason::of(e)))?;
    text.check(dalle.text_vocab_size)
        .map_err(|e| Error::bad_file(folder, Reason::of(e)))?;

    let sizes = [
        (bytes.path(), dalle.parameters(), bytes.length()),
        (&image_file, vqgan.parameters(), image_bytes.length()),
    ];
    for (path, numbers, length) in sizes {
        if numbers > length {
            let reason = format!("has {length} bytes, its config describes {numbers} numbers");
            return Err(Error::bad_file(path, reason));
        }
    }

    let mut init = Init::empty(&Device::flex());
    let (tensors, report) = transformer::plan(&source, &dalle, shapes(&dalle.init(&mut init)));
    complete(bytes.path(), &report)?;
    let transformer = Part {
        path: bytes.path().to_owned(),
        tensors,
        report,
        bytes: bytes.length(),
    };
    let (tensors, report) = vqgan::plan(&image_source, shapes(&vqgan.init(&mut init)));
    complete(&image_file, &report)?;
    let image_tokenizer = Part {
        path: image_file,
        tensors,
        report,
        bytes: image_bytes.length(),
    };
    let text = DalleMiniText::new(text, config.options.normalize_text, folder)?;
    then(Inspected {
        config,
        text,
        transformer,
        image_tokenizer,
    })
}

fn complete(path: &Path, report: &ImportReport) -> Result<()> {
    if report.is_complete() {
        return Ok(());
    }
    let reason = format!("does not fit: {}", report.summary());
    Err(Error::bad_file(path, reason))
}

fn tokenizer(folder: &Path) -> Result<BartTokenizer> {
    let vocabulary = min_dalle_file(folder, "vocab", "json");
    let merges = min_dalle_file(folder, "merges", "txt");
    let read = |path: &Path| files::read(path);
    match (vocabulary, merges) {
        (Some(vocabulary), Some(merges)) => {
            BartTokenizer::from_vocabulary(&read(&vocabulary)?, &read(&merges)?)
                .map_err(|e| Error::bad_file(vocabulary, Reason::of(e)))
        }
        _ => {
            let path = folder.join("tokenizer.json");
            if !path.is_file() {
                return Err(Error::Missing {
                    what: "the text tokenizer (vocab.json with merges.txt, or tokenizer.json)",
                    path: folder.to_owned(),
                    hint: "put it beside the model's weights".into(),
                });
            }
            BartTokenizer::from_bytes(&read(&path)?)
                .map_err(|e| Error::bad_file(path, Reason::of(e)))
        }
    }
}

/// min-dalle's files of the smaller model have `_mini` after their names where they are published.
fn min_dalle_file(folder: &Path, stem: &str, extension: &str) -> Option<PathBuf> {
    ["", "_mini"]
        .iter()
        .map(|suffix| folder.join(format!("{stem}{suffix}.{extension}")))
        .find(|path| path.is_file())
}

fn found(folder: &Path, path: Option<PathBuf>, name: &str) -> Result<PathBuf> {
    path.ok_or_else(|| Error::Missing {
        what: "a file of the model",
        path: folder.join(name),
        hint: "give a folder with flax_model.msgpack and config.json, or with min-dalle's encoder.pt and decoder.pt".into(),
    })
}

fn read_json(path: &Path) -> Result<Option<FlaxConfig>> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = files::read(path)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::bad_file(path, Reason::because("not a DALL·E mini config", e)))
}

/// The weight files of a model, mapped, each with what is put before its tensors' names: min-dalle's
/// encoder and decoder have the same names.
struct WeightFiles {
    files: Vec<(&'static str, PathBuf, Bytes)>,
}

impl WeightFiles {
    fn read(paths: &[(&'static str, PathBuf)], access: FileAccess) -> Result<Self> {
        let files = paths
            .iter()
            .map(|(prefix, path)| {
                let bytes = files::bytes_of(path, access)?;
                Ok((*prefix, path.clone(), bytes))
            })
            .collect::<Result<_>>()?;
        Ok(WeightFiles { files })
    }

    /// The path that errors about all of them name.
    fn path(&self) -> &Path {
        self.files
            .last()
            .map_or(Path::new(""), |(_, path, _)| path.as_path())
    }

    fn length(&self) -> u64 {
        self.files
            .iter()
            .map(|(.., bytes)| bytes.len() as u64)
            .sum()
    }

    fn is_flax(&self) -> bool {
        self.path()
            .extension()
            .is_some_and(|extension| extension == "msgpack")
    }

    fn archives(&self) -> Result<Vec<Archive<'_>>> {
        if self.is_flax() {
            return Ok(Vec::new());
        }
        self.files
            .iter()
            .map(|(_, path, bytes)| Archive::parse(path, bytes, &[]))
            .collect()
    }

    fn source<'a>(&'a self, archives: &'a [Archive<'a>]) -> Result<Source<'a>> {
        if self.is_flax() {
            let mut arrays = BTreeMap::new();
            for (_, path, bytes) in &self.files {
                arrays.extend(flax::parse(path, bytes)?);
            }
            return Ok(Source::Flax(arrays));
        }
        let mut tensors = BTreeMap::new();
        for (archive, (prefix, ..)) in archives.iter().zip(&self.files) {
            for (name, tensor) in archive.root().tensors()? {
                tensors.insert(format!("{prefix}{name}"), tensor);
            }
        }
        Ok(Source::Torch(tensors))
    }
}

#[cfg(test)]
mod tests;
