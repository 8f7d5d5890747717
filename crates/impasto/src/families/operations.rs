//! What is done with models of any family: open, quantise, import.

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::checkpoint::check_new;
use super::files::ModelKind;
use super::{
    AnyModel, Family, FamilyModel, FamilyVisitor, ModelFiles, Native, NativeModel, NetworkReport,
    SaveAs, adapted, visit,
};
use crate::checkpoint::weights::Precision;
use crate::checkpoint::{WeightFormat, image_tokenizer};
use crate::import::image_tokenizer as published_image_tokenizer;
use crate::nn::precision::convolutions_in_bf16;
use crate::{Error, Result, files};

/// Loads a model onto `device`, to be run. The net's weights are held as `precision` says; without, as they are stored.
/// With those in bf16 the image tokenizer computes in bf16, too, where that is quicker. An adapter's folder is put
/// beside them.
pub fn open(
    files: &ModelFiles,
    device: &Device,
    precision: Option<WeightFormat>,
    adapter: Option<&Path>,
) -> Result<Box<dyn AnyModel>> {
    struct Open<'a> {
        files: &'a ModelFiles,
        device: &'a Device,
        precision: Option<WeightFormat>,
        adapter: Option<&'a Path>,
    }
    impl FamilyVisitor for Open<'_> {
        type Output = Result<Box<dyn AnyModel>>;

        fn visit<F: Family>(self) -> Self::Output {
            let Open {
                files,
                device,
                precision,
                adapter,
            } = self;
            let mut model = match adapter {
                None => FamilyModel::<F>::load(files, device, precision)?,
                Some(adapter) => adapted::load::<F>(files, device, precision, adapter)?,
            };
            if model.config.precision == WeightFormat::Bf16 {
                model.image = convolutions_in_bf16(model.image);
            }
            Ok(Box::new(model))
        }
    }
    let ModelKind::Family(name) = files.kind else {
        if adapter.is_some() {
            return Err(adapted::not_adapted());
        }
        refuse_other_weights(precision)?;
        return Ok(Box::new(image_tokenizer::load(files, device)?));
    };
    let open = Open {
        files,
        device,
        precision,
        adapter,
    };
    visit(name, open).ok_or_else(|| unknown(name))?
}

/// Loads a model of impasto's own family.
///
/// # Errors
/// Where it is of another one.
pub fn open_native(
    files: &ModelFiles,
    device: &Device,
    precision: Option<WeightFormat>,
) -> Result<NativeModel> {
    if !files.is_native() {
        return Err(Error::invalid(
            "model",
            "is a published model, expected one that impasto trained",
        ));
    }
    FamilyModel::<Native>::load(files, device, precision)
}

fn unknown(name: &str) -> Error {
    Error::invalid(
        "model",
        format!("is of the family {name}, which is not known"),
    )
}

/// Image tokenizers have their weights in f32 alone.
fn refuse_other_weights(wanted: Option<WeightFormat>) -> Result<()> {
    match wanted {
        None | Some(WeightFormat::F32) => Ok(()),
        Some(format) => Err(Error::invalid(
            "precision",
            format!("image tokenizers are held in f32 only, not in {format}"),
        )),
    }
}

/// Writes a model as a checkpoint whose weights are in `format`. Beside the packed model one tensor at a time is in
/// memory.
pub fn quantise(model: &ModelFiles, format: WeightFormat, dir: &Path) -> Result<()> {
    struct Quantise<'a>(&'a ModelFiles, WeightFormat, &'a Path);
    impl FamilyVisitor for Quantise<'_> {
        type Output = Result<()>;

        fn visit<F: Family>(self) -> Result<()> {
            let Quantise(model, format, dir) = self;
            // Packed weights are held on the CPU only.
            let model = FamilyModel::<F>::load(model, &Device::flex(), Some(format))?;
            files::write_folder(dir, |dir| model.save(dir, SaveAs::Held))
        }
    }
    check_new(dir)?;
    match model.kind {
        ModelKind::Family(name) => {
            visit(name, Quantise(model, format, dir)).ok_or_else(|| unknown(name))?
        }
        ModelKind::ImageTokenizer => {
            refuse_other_weights(Some(format))?;
            let tokenizer = image_tokenizer::load(model, &Device::flex())?;
            files::write_folder(dir, |dir| tokenizer.save(dir, Precision::F32))
        }
    }
}

/// How a published model is written as a folder in our format.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The model's name; that of its folder or file, if not given.
    pub name: Option<String>,
    /// SPDX expression of the licence; that with which it was pulled, or what is known of it, if not given.
    pub licence: Option<String>,
    /// The folder of the image tokenizer, for models that come without one.
    pub image_tokenizer: Option<PathBuf>,
    /// How the weights are stored; families whose weights are converted one after the other keep what they have.
    pub precision: Precision,
}

/// What an import made.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The model's name.
    pub name: String,
    /// What became of the tensors of each of its networks.
    pub networks: Vec<NetworkReport>,
}

/// Writes a published model into `dir`, a folder in our format.
pub fn import(model: &ModelFiles, options: &ImportOptions, dir: &Path) -> Result<Imported> {
    struct Import<'a>(&'a ModelFiles, &'a ImportOptions, &'a Path);
    impl FamilyVisitor for Import<'_> {
        type Output = Result<Imported>;

        fn visit<F: Family>(self) -> Result<Imported> {
            let Import(model, options, dir) = self;
            let (Some(mut published), Some(form)) = (model.published(), F::published()) else {
                return Err(in_our_format());
            };
            if let Some(name) = &options.name {
                published.name = name;
            }
            if let Some(folder) = &options.image_tokenizer {
                published.image_tokenizer = Some(folder);
            }
            Ok(Imported {
                name: published.name.to_owned(),
                networks: form.import(published, options, dir)?,
            })
        }
    }
    let recorded = || crate::hub::recorded_licence(model.source.folder()?);
    let options = &ImportOptions {
        licence: options.licence.clone().or_else(recorded),
        ..options.clone()
    };
    match model.kind {
        ModelKind::Family(name) => {
            visit(name, Import(model, options, dir)).ok_or_else(|| unknown(name))?
        }
        ModelKind::ImageTokenizer => {
            let Some(published) = model.published() else {
                return Err(in_our_format());
            };
            let name = options.name.as_deref().unwrap_or(published.name);
            let found = published_image_tokenizer::load(published.path, &Device::flex())?;
            let report = found.report.clone();
            let mut tokenizer = found.into_model(&Device::flex());
            name.clone_into(&mut tokenizer.config.name);
            if let Some(licence) = &options.licence {
                tokenizer.config.licence.clone_from(licence);
            }
            tokenizer.save(dir, options.precision)?;
            Ok(Imported {
                name: name.to_owned(),
                networks: vec![NetworkReport {
                    what: "image tokenizer",
                    tensors: report,
                }],
            })
        }
    }
}

fn in_our_format() -> Error {
    Error::invalid("model", "is in our own format, expected a published one")
}
