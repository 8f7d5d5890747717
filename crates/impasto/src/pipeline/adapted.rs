//! Published models with an adapter: beside their weights, or merged into them.

use std::path::Path;

use burn::tensor::Device;

use super::AnyPipeline;
use super::any::check_new;
use super::dalle_mini::{DalleMiniPipeline, is_dalle_mini};
use super::dalle_pytorch::{DallePytorchPipeline, is_dalle_pytorch};
use crate::checkpoint::weights::Precision;
use crate::checkpoint::{ModelSource, WeightFormat, adapter};
use crate::import::dalle_pytorch::tokenizer_folder;
use crate::nn::{Adapt, lora};
use crate::sampling::SamplingOptions;
use crate::{Error, Result, files};

/// [`super::open`] with the adapter in a folder beside the model's weights, which stay as they are held.
pub fn open_adapted(
    source: &ModelSource,
    device: &Device,
    wanted: Option<WeightFormat>,
    adapter: &Path,
) -> Result<Box<dyn AnyPipeline>> {
    // Before the time that loading a model takes.
    adapter::config(adapter)?;
    if is_dalle_mini(source) {
        return Ok(Box::new(mini(source, device, wanted, adapter)?));
    }
    if is_dalle_pytorch(source) {
        return Ok(Box::new(pytorch(source, device, wanted, adapter)?));
    }
    Err(not_adapted())
}

/// Writes a model of ours in which the adapter is part of the weights. What it changes is stored in 32 bits.
pub fn merge(source: &ModelSource, adapter: &Path, dir: &Path) -> Result<()> {
    check_new(dir)?;
    adapter::config(adapter)?;
    let device = Device::flex();
    if is_dalle_mini(source) {
        let mut model = mini(source, &device, Some(WeightFormat::F32), adapter)?.model;
        lora::merge(model.dalle.linears())?;
        return files::write_folder(dir, |dir| model.save_as_held(source, dir));
    }
    if is_dalle_pytorch(source) {
        let mut model = pytorch(source, &device, Some(WeightFormat::F32), adapter)?.model;
        lora::merge(model.dalle.linears())?;
        let folder = source.folder().map(tokenizer_folder).unwrap_or_default();
        return files::write_folder(dir, |dir| model.save(dir, &folder, Precision::F32));
    }
    Err(not_adapted())
}

fn not_adapted() -> Error {
    Error::invalid(
        "adapter",
        "is for DALL·E mini or a model of DALLE-pytorch; expected the one that it was trained on as the model",
    )
}

fn mini(
    source: &ModelSource,
    device: &Device,
    wanted: Option<WeightFormat>,
    adapter: &Path,
) -> Result<DalleMiniPipeline> {
    let mut pipeline = DalleMiniPipeline::load_in(source, device, wanted)?;
    let model = &mut pipeline.model;
    let config = &mut model.config;
    let about = (&mut config.name, &mut config.licence, &mut config.sampling);
    adapt(&mut model.dalle, about, adapter, device)?;
    Ok(pipeline)
}

fn pytorch(
    source: &ModelSource,
    device: &Device,
    wanted: Option<WeightFormat>,
    adapter: &Path,
) -> Result<DallePytorchPipeline> {
    let mut pipeline = DallePytorchPipeline::load_in(source, device, wanted)?;
    let model = &mut pipeline.model;
    let config = &mut model.config;
    let about = (&mut config.name, &mut config.licence, &mut config.sampling);
    adapt(&mut model.dalle, about, adapter, device)?;
    Ok(pipeline)
}

/// Attaches the adapter, whose name, licence and settings take the place of the model's.
fn adapt(
    dalle: &mut impl Adapt,
    (name, licence, sampling): (&mut String, &mut String, &mut SamplingOptions),
    adapter: &Path,
    device: &Device,
) -> Result<()> {
    let adapted = adapter::attach(adapter, dalle, name, device)?;
    (*name, *licence) = (adapted.name, adapted.licence);
    if let Some(usual) = adapted.sampling {
        *sampling = usual;
    }
    Ok(())
}
