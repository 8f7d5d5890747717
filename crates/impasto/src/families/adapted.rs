//! Models with an adapter: beside their weights, or merged into them.

use std::path::Path;

use burn::tensor::Device;

use super::checkpoint::check_new;
use super::files::ModelKind;
use super::{Family, FamilyModel, FamilyVisitor, ModelFiles, SaveAs, visit};
use crate::checkpoint::{WeightFormat, adapter};
use crate::nn::{Adapt, lora};
use crate::{Error, Result, files};

/// Loads a model and the adapter in a folder beside its weights, which stay as they are held. The adapter's name,
/// licence and settings take the place of the model's.
pub(super) fn load<F: Family>(
    files: &ModelFiles,
    device: &Device,
    wanted: Option<WeightFormat>,
    adapter: &Path,
) -> Result<FamilyModel<F>> {
    // Before the time that loading a model takes.
    adapter::config(adapter)?;
    let mut model = FamilyModel::<F>::load(files, device, wanted)?;
    let adapted = adapter::attach(adapter, &mut model.net, &model.config.name, device)?;
    let config = &mut model.config;
    (config.name, config.licence) = (adapted.name, adapted.licence);
    if let Some(sampling) = adapted.sampling {
        config.sampling = sampling;
    }
    Ok(model)
}

/// Writes a model of ours in which the adapter is part of the weights. What it changes is stored in 32 bits.
pub fn merge(model: &ModelFiles, adapter: &Path, dir: &Path) -> Result<()> {
    struct Merge<'a>(&'a ModelFiles, &'a Path, &'a Path);
    impl FamilyVisitor for Merge<'_> {
        type Output = Result<()>;

        fn visit<F: Family>(self) -> Result<()> {
            let Merge(files, adapter, dir) = self;
            let device = Device::flex();
            let mut model = load::<F>(files, &device, Some(WeightFormat::F32), adapter)?;
            lora::merge(model.net.linears())?;
            files::write_folder(dir, |dir| model.save(dir, SaveAs::Held))
        }
    }
    check_new(dir)?;
    let ModelKind::Family(name) = model.kind else {
        return Err(not_adapted());
    };
    visit(name, Merge(model, adapter, dir)).ok_or_else(not_adapted)?
}

pub(super) fn not_adapted() -> Error {
    Error::invalid(
        "adapter",
        "is for a model with a transformer; expected the one that it was trained on as the model",
    )
}
