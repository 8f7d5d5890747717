//! The whole way with a model of DALLE-pytorch: prompt → ids → picture, and picture → ids → likelihood.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::batches::Batches;
use super::{AnyPipeline, GenerateRequest, GeneratedImage, Likelihood, Progress, Timings};
use crate::caption::{ContinueRequest, GeneratedCaption, Search};
use crate::checkpoint::dalle_pytorch::{
    self as checkpoint, DallePytorchModel, DallePytorchModelConfig,
};
use crate::checkpoint::{ModelSource, WeightFormat};
use crate::generate::InfillModel;
use crate::generate::dalle_pytorch::{continue_text, draw};
use crate::image::Picture;
use crate::import::dalle_pytorch as published;
use crate::models::ImageTokenizer;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};
use burn::tensor::Device;

/// Such a model, ready to run.
#[derive(Debug)]
pub struct DallePytorchPipeline {
    pub(crate) model: DallePytorchModel,
    device: Device,
    load_time: Duration,
}

/// Whether a model is of this family, in our format or as it was published.
pub fn is_dalle_pytorch(source: &ModelSource) -> bool {
    checkpoint::is_dalle_pytorch(source) || source.folder().is_some_and(published::is_published)
}

/// The path of a published one.
fn published_path(source: &ModelSource) -> Option<&Path> {
    source
        .folder()
        .filter(|_| !checkpoint::is_dalle_pytorch(source))
}

/// What a model is, and the bytes of its weight files. A published one is read for it: its file has everything.
pub fn describe(source: &ModelSource) -> Result<(DallePytorchModelConfig, u64)> {
    match published_path(source) {
        Some(path) => {
            let published = published::load(path, &Device::flex())?;
            Ok((published.model.config, published.bytes))
        }
        None => Ok((
            checkpoint::config(source)?,
            checkpoint::weight_bytes(source)?,
        )),
    }
}

impl DallePytorchPipeline {
    /// Loads a model onto `device`, the transformer's weights held as `wanted`; without, as they are stored.
    pub fn load_in(
        source: &ModelSource,
        device: &Device,
        wanted: Option<WeightFormat>,
    ) -> Result<Self> {
        let started = Instant::now();
        let model = match published_path(source) {
            Some(path) => published::load_in(path, device, wanted.unwrap_or_default())?.model,
            None => DallePytorchModel::load_in(source, device, wanted)?,
        };
        Ok(DallePytorchPipeline {
            model,
            device: device.clone(),
            load_time: started.elapsed(),
        })
    }

    /// Writes a checkpoint of ours of the model from `source`, the weights as they are held.
    pub fn save_as_held(&self, source: &ModelSource, dir: &Path) -> Result<()> {
        let path = source.folder().unwrap_or(Path::new(""));
        let tokenizer = published::tokenizer_folder(path);
        self.model.save_as_held(dir, &tokenizer)
    }

    fn encode_caption(&self, caption: &str, truncate: bool) -> Result<Vec<u32>> {
        let length = self.model.dalle.config().text_length;
        self.model.text.encode_caption(caption, length, truncate)
    }
}

impl AnyPipeline for DallePytorchPipeline {
    fn name(&self) -> &str {
        &self.model.config.name
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.model.image
    }

    fn sampling(&self) -> &SamplingOptions {
        &self.model.config.sampling
    }

    fn check_prompt(&self, prompt: &str, truncate: bool) -> Result<()> {
        self.encode_caption(prompt, truncate).map(drop)
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<GeneratedImage>, Timings)> {
        let batches = Batches::begin(request, self.load_time)?.in_raster_order("DALLE-pytorch")?;
        let caption = self.encode_caption(&request.prompt, request.truncate)?;
        batches.draw(
            &self.model.image,
            |seeds, progress| {
                let (beginning, sampling) = (&request.beginning, &request.sampling);
                draw(
                    &self.model.dalle,
                    &caption,
                    beginning,
                    seeds,
                    sampling,
                    progress,
                )
            },
            progress,
        )
    }

    /// The original's: `filter_thres` 0.5 keeps half of the joint vocabulary.
    fn text_sampling(&self) -> SamplingOptions {
        let config = self.model.dalle.config();
        let kept = (config.text_rows() + config.codebook_size) / 2;
        SamplingOptions {
            guidance_scale: 1.0,
            temperature: 1.0,
            top_k: (kept < config.text_rows()).then_some(kept.max(1)),
            top_p: None,
        }
    }

    fn continue_text(&self, request: &ContinueRequest) -> Result<Vec<GeneratedCaption>> {
        let seeds = request.seeds()?;
        let beginning = match request.beginning.trim() {
            "" => Vec::new(),
            beginning => self.encode_caption(beginning, false)?,
        };
        let told = continue_text(&self.model.dalle, &beginning, &seeds, &request.sampling)?;
        told.into_iter()
            .map(|told| {
                Ok(GeneratedCaption {
                    text: self.model.text.decode(&told.text_ids)?,
                    log_likelihood: told.log_likelihood,
                    picture_log_likelihood: None,
                    tokens: told.tokens,
                    seed: Some(told.seed),
                })
            })
            .collect()
    }

    fn canvas_model(&self) -> Result<&dyn InfillModel> {
        Ok(&self.model)
    }

    fn ranks_captions(&self) -> bool {
        true
    }

    /// Captions come before pictures here: they are drawn without the picture, and then it decides, by Bayes' rule,
    /// how likely each is of those that were drawn.
    fn captions(
        &self,
        picture: &Picture,
        n: usize,
        search: &Search,
    ) -> Result<Vec<GeneratedCaption>> {
        let Search::Sampling { options, seed } = search else {
            let reason = format!(
                "{} generates captions before pictures: they can be sampled and ranked, not found by beam search",
                self.name()
            );
            return Err(Error::invalid("search", reason));
        };
        let request = ContinueRequest {
            beginning: String::new(),
            n,
            seed: *seed,
            sampling: options.clone(),
        };
        let image_ids = self.encode(picture)?;
        let dalle = &self.model.dalle;
        let mut seen = BTreeSet::new();
        let mut ranked = Vec::new();
        for told in continue_text(dalle, &[], &request.seeds()?, options)? {
            if !seen.insert(told.text_ids.clone()) {
                continue;
            }
            let (text, image) = dalle.nats(&told.text_ids, &image_ids)?;
            let of_picture = super::negative_sum(image)?;
            let joint = super::negative_sum(text)? + of_picture;
            ranked.push(GeneratedCaption {
                text: self.model.text.decode(&told.text_ids)?,
                log_likelihood: joint,
                picture_log_likelihood: Some(of_picture),
                tokens: told.tokens,
                seed: Some(told.seed),
            });
        }
        ranked.sort_by(|a, b| b.log_likelihood.total_cmp(&a.log_likelihood));
        let highest = ranked.first().map_or(0.0, |told| told.log_likelihood);
        let sum = ranked
            .iter()
            .map(|told| (told.log_likelihood - highest).exp())
            .sum::<f64>();
        for told in &mut ranked {
            told.log_likelihood -= highest + sum.ln();
        }
        Ok(ranked)
    }

    /// The caption's likelihood counts what fills it up, as the training did.
    fn likelihood(&self, caption: &str, picture: &Picture, truncate: bool) -> Result<Likelihood> {
        let caption = self.encode_caption(caption, truncate)?;
        let image_ids = self.encode(picture)?;
        let (text, image) = self.model.dalle.nats(&caption, &image_ids)?;
        Ok(Likelihood {
            text_log_likelihood: super::negative_sum(text)?,
            image_log_likelihood: super::negative_sum(image)?,
            text_tokens: self.model.dalle.config().text_length,
            image_tokens: image_ids.len(),
        })
    }
}
