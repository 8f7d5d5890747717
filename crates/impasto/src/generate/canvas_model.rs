//! What drawing on what is there ([`crate::edit`]) needs of a model, of whichever family: it reads words once and then
//! fills canvases and judges pictures under them.
//!
//! Models of our own see what is known wherever it lies, if they were trained to ([`Conditioning::Prefix`]). Published
//! ones support raster order only; how they handle known ids after a hole is described in [`super::raster`].

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{InfillSpec, SampledTokens, dalle_mini, dalle_pytorch, log_likelihoods, sums};
use crate::canvas::{Caption, Conditioning};
use crate::checkpoint::Model;
use crate::checkpoint::dalle_mini::DalleMini;
use crate::checkpoint::dalle_pytorch::DallePytorchModel;
use crate::models::ImageTokenizer;
use crate::models::dalle::{Order, Part, image_part, shuffled};
use crate::models::dalle_bart::{CaptionRows, CrossAttentionKv};
use crate::nn::block::AttentionMask;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// A model that fills canvases.
pub trait InfillModel {
    /// Pixels ↔ image ids.
    fn image_tokenizer(&self) -> &ImageTokenizer;

    /// Where the weights are.
    fn device(&self) -> Device;

    /// How known ids condition it.
    fn conditioning(&self) -> Conditioning;

    /// Reads what pictures show; nothing in particular without a prompt.
    fn read<'a>(
        &'a self,
        prompt: Option<&str>,
        truncate: bool,
    ) -> Result<Box<dyn ConditionedModel + 'a>>;
}

/// How canvases are filled.
#[derive(Clone, Debug)]
pub struct FillOptions<'a> {
    /// Guidance, temperature, cuts.
    pub sampling: &'a SamplingOptions,
    /// In which order, and how many at a time, ids are drawn.
    pub order: Order,
    /// How known ids condition the model.
    pub conditioning: Conditioning,
    /// How many consecutive fillings are tries at one canvas.
    pub tries: usize,
}

/// Which words a picture is judged under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Those that were read.
    Prompt,
    /// None, as for guidance.
    Unconditional,
}

/// A model that has read a prompt.
pub trait ConditionedModel {
    /// What canvases have as their caption.
    fn caption(&self) -> Caption;

    /// Fills the masked ids of the canvases, each as it would be alone. `progress` gets the ids done and to do, and may
    /// stop the work.
    fn fill(
        &self,
        fillings: &[InfillSpec],
        options: &FillOptions<'_>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<SampledTokens>>;

    /// ln p of whole pictures in raster order, in nats.
    fn log_likelihoods(&self, condition: Condition, image_ids: &[Vec<u32>]) -> Result<Vec<f64>>;

    /// How unsure the model is of each id of a picture, in nats: its entropy given the prompt and the ids before it.
    /// Never quite 0, so that all ids can be drawn by it.
    fn entropies(&self, image_ids: &[u32], seed: u64) -> Result<Vec<f64>>;
}

/// Orders over which an id's entropy is averaged, where a model knows more than one.
const ORDERS: usize = 4;
/// What is added to entropies.
const LEAST: f64 = 1e-6;
/// Pictures judged in one pass: their logits are all in memory.
const ROWS: usize = 4;

impl InfillModel for Model {
    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.image
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn conditioning(&self) -> Conditioning {
        if self.config.any_order {
            Conditioning::Prefix
        } else {
            Conditioning::TeacherForced
        }
    }

    fn read<'a>(
        &'a self,
        prompt: Option<&str>,
        truncate: bool,
    ) -> Result<Box<dyn ConditionedModel + 'a>> {
        let length = self.config.dalle.text_length;
        let null_caption = self.text.null_caption(length);
        let text_ids = match prompt {
            Some(prompt) => self.text.encode_caption(prompt, length, truncate)?,
            None => null_caption.clone(),
        };
        Ok(Box::new(NativeConditioned {
            model: self,
            text_ids,
            null_caption,
        }))
    }
}

struct NativeConditioned<'a> {
    model: &'a Model,
    text_ids: Vec<u32>,
    null_caption: Vec<u32>,
}

impl ConditionedModel for NativeConditioned<'_> {
    fn caption(&self) -> Caption {
        Caption::Known(self.text_ids.clone())
    }

    fn fill(
        &self,
        fillings: &[InfillSpec],
        options: &FillOptions<'_>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<SampledTokens>> {
        super::fill(
            &self.model.dalle,
            fillings,
            &self.null_caption,
            options.sampling,
            options.order,
            options.conditioning,
            progress,
        )
    }

    fn log_likelihoods(&self, condition: Condition, image_ids: &[Vec<u32>]) -> Result<Vec<f64>> {
        let text_ids = match condition {
            Condition::Prompt => &self.text_ids,
            Condition::Unconditional => &self.null_caption,
        };
        log_likelihoods(&self.model.dalle, text_ids, image_ids)
    }

    /// Over a few random orders.
    fn entropies(&self, image_ids: &[u32], seed: u64) -> Result<Vec<f64>> {
        let config = &self.model.config.dalle;
        let positions = image_ids.len();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Ids have streams from 0 on, what else is drawn the last ones.
        random.set_stream(u64::MAX - 2);
        let orders: Vec<Vec<u32>> = (0..ORDERS)
            .map(|_| shuffled(positions, &mut random))
            .collect();
        let text = Part::Text {
            ids: self.text_ids.repeat(ORDERS),
            start: 0,
        };
        let pictures = vec![image_ids.to_vec(); ORDERS];
        let image = image_part(&pictures, &orders, config.codebook_size, false);
        let dalle = &self.model.dalle;
        let states = dalle
            .forward(&[text, image], ORDERS, None, AttentionMask::Causal)
            .narrow(1, config.text_length, positions);
        let told = entropies(dalle.image_logits(states), config.codebook_size)?;
        let mut entropies = vec![0.0; positions];
        for (&position, entropy) in orders.iter().flatten().zip(told) {
            entropies[position as usize] += entropy / ORDERS as f64;
        }
        Ok(entropies)
    }
}

impl FillOptions<'_> {
    /// Refuses what models of one order can't do.
    fn check_raster(&self, family: &str) -> Result<()> {
        if self.order != Order::Raster {
            return Err(Error::invalid(
                "order",
                format!("{family} draws in raster order, got {}", self.order),
            ));
        }
        if self.conditioning != Conditioning::TeacherForced {
            return Err(Error::invalid(
                "telling",
                format!("{family} supports raster order only"),
            ));
        }
        Ok(())
    }
}

impl InfillModel for DallePytorchModel {
    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.image
    }

    fn device(&self) -> Device {
        self.dalle.device()
    }

    fn conditioning(&self) -> Conditioning {
        Conditioning::TeacherForced
    }

    fn read<'a>(
        &'a self,
        prompt: Option<&str>,
        truncate: bool,
    ) -> Result<Box<dyn ConditionedModel + 'a>> {
        let length = self.dalle.config().text_length;
        let text_ids = match prompt {
            Some(prompt) => self.text.encode_caption(prompt, length, truncate)?,
            None => Vec::new(),
        };
        Ok(Box::new(DallePytorchConditioned {
            model: self,
            text_ids,
        }))
    }
}

struct DallePytorchConditioned<'a> {
    model: &'a DallePytorchModel,
    text_ids: Vec<u32>,
}

impl ConditionedModel for DallePytorchConditioned<'_> {
    /// It is read already.
    fn caption(&self) -> Caption {
        Caption::Asked
    }

    fn fill(
        &self,
        fillings: &[InfillSpec],
        options: &FillOptions<'_>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<SampledTokens>> {
        options.check_raster("DALLE-pytorch")?;
        dalle_pytorch::fill(
            &self.model.dalle,
            &self.text_ids,
            fillings,
            options.tries,
            options.sampling,
            &mut |done, all, _| progress(done, all),
        )
    }

    fn log_likelihoods(&self, condition: Condition, image_ids: &[Vec<u32>]) -> Result<Vec<f64>> {
        let text_ids = match condition {
            Condition::Prompt => &self.text_ids[..],
            Condition::Unconditional => &[],
        };
        let of = |ids: &Vec<u32>| {
            let (_, nats) = self.model.dalle.nats(text_ids, ids)?;
            Ok(sums(nats, 1)?[0])
        };
        image_ids.iter().map(of).collect()
    }

    fn entropies(&self, image_ids: &[u32], _seed: u64) -> Result<Vec<f64>> {
        let dalle = &self.model.dalle;
        let (_, logits) =
            dalle.logits(std::slice::from_ref(&self.text_ids), &[image_ids.to_vec()])?;
        entropies(logits, dalle.config().codebook_size)
    }
}

impl InfillModel for DalleMini {
    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.image
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn conditioning(&self) -> Conditioning {
        Conditioning::TeacherForced
    }

    fn read<'a>(
        &'a self,
        prompt: Option<&str>,
        truncate: bool,
    ) -> Result<Box<dyn ConditionedModel + 'a>> {
        let nothing = self.dalle.encode(&self.text.null_caption())?;
        let caption = match prompt {
            Some(prompt) => self.dalle.encode(&self.encode_caption(prompt, truncate)?)?,
            None => nothing.clone(),
        };
        Ok(Box::new(DalleMiniConditioned {
            model: self,
            caption,
            nothing,
        }))
    }
}

struct DalleMiniConditioned<'a> {
    model: &'a DalleMini,
    caption: CrossAttentionKv,
    nothing: CrossAttentionKv,
}

impl ConditionedModel for DalleMiniConditioned<'_> {
    /// It is read already.
    fn caption(&self) -> Caption {
        Caption::Asked
    }

    fn fill(
        &self,
        fillings: &[InfillSpec],
        options: &FillOptions<'_>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<SampledTokens>> {
        options.check_raster("DALL·E mini")?;
        dalle_mini::fill(
            &self.model.dalle,
            [&self.caption, &self.nothing],
            fillings,
            options.tries,
            options.sampling,
            &mut |done, all, _| progress(done, all),
        )
    }

    fn log_likelihoods(&self, condition: Condition, image_ids: &[Vec<u32>]) -> Result<Vec<f64>> {
        let caption = match condition {
            Condition::Prompt => &self.caption,
            Condition::Unconditional => &self.nothing,
        };
        let mut likelihoods = Vec::with_capacity(image_ids.len());
        for pictures in image_ids.chunks(ROWS) {
            let rows = pictures.len();
            let caption_rows = [CaptionRows { caption, rows }];
            let nats = self.model.dalle.image_nats(pictures, &caption_rows)?;
            likelihoods.extend(sums(nats, rows)?);
        }
        Ok(likelihoods)
    }

    fn entropies(&self, image_ids: &[u32], _seed: u64) -> Result<Vec<f64>> {
        let dalle = &self.model.dalle;
        let caption_rows = [CaptionRows {
            caption: &self.caption,
            rows: 1,
        }];
        let logits = dalle.logits(&[image_ids.to_vec()], &caption_rows)?;
        entropies(logits, dalle.config().codebook_size)
    }
}

/// The entropy of each row of logits, the first `codes` of it, and a little more.
fn entropies<const D: usize>(logits: Tensor<D>, codes: usize) -> Result<Vec<f64>> {
    let vocabulary = logits.dims()[D - 1];
    let logits: Vec<f32> = logits
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
    let rows = logits.chunks(vocabulary);
    rows.map(|row| Ok(entropy(&row[..codes])? + LEAST))
        .collect()
}

/// −Σ p ln p of a row of logits.
fn entropy(logits: &[f32]) -> Result<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let shifted = logits.iter().map(|&logit| f64::from(logit) - largest);
    let sum: f64 = shifted.clone().map(f64::exp).sum();
    let mean: f64 = shifted.map(|logit| logit * logit.exp()).sum::<f64>() / sum;
    let entropy = sum.ln() - mean;
    if entropy.is_finite() {
        Ok(entropy)
    } else {
        Err(Error::NonFinite {
            what: "logits",
            detail: format!("their entropy is {entropy}"),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entropies_of_known_distributions() {
        assert!((entropy(&[2.0; 8]).unwrap() - 8f64.ln()).abs() < 1e-12);
        assert!(entropy(&[100.0, 0.0, 0.0]).unwrap() < 1e-12);
        let halves = entropy(&[0.0, 0.0, -1e30]).unwrap();
        assert!((halves - 2f64.ln()).abs() < 1e-12);
        assert!(entropy(&[f32::NAN, 0.0]).is_err());
    }
}
