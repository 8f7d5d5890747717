//! The two families that can be trained on: what their captions are, their losses, how they draw and are saved.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor};

use crate::checkpoint::ModelSource;
use crate::checkpoint::dalle_mini::DalleMini;
use crate::checkpoint::dalle_pytorch::DallePytorchModel;
use crate::checkpoint::weights::Precision;
use crate::generate;
use crate::import::dalle_pytorch::tokenizer_folder;
use crate::models::dalle_bart::CaptionRows;
use crate::models::{DalleBart, DallePytorch, ImageTokenizer};
use crate::nn::{Adapt, Init};
use crate::sampling::SamplingOptions;
use crate::train::encoded::Captions;
use crate::train::engine::Pass;
use crate::{Error, Result};

/// What a model is besides its weights.
#[derive(Clone, Debug)]
pub struct About {
    pub name: String,
    pub licence: String,
    pub sampling: SamplingOptions,
}

/// A published model whose transformer is elsewhere, being trained.
pub trait Published: Captions {
    /// The transformer.
    type Transformer: Adapt;

    /// Pixels ↔ image ids.
    fn image(&self) -> &ImageTokenizer;

    /// What it is.
    fn about(&self) -> About;

    /// What stands for a caption that was dropped.
    fn null_caption(&self) -> Vec<u32>;

    /// The transformer with what is no weight untrained.
    fn for_training(transformer: Self::Transformer) -> Self::Transformer {
        transformer
    }

    /// The family's loss of pictures after their captions.
    fn losses(
        &self,
        transformer: &Self::Transformer,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<Pass>;

    /// The ids of a picture.
    fn draw(
        &self,
        transformer: &Self::Transformer,
        caption: &[u32],
        seed: u64,
        sampling: &SamplingOptions,
    ) -> Result<Vec<u32>>;

    /// Writes the whole model, called and drawn with as `about` says.
    fn save(&self, transformer: &Self::Transformer, about: About, dir: &Path) -> Result<()>;
}

/// DALL·E mini or mega.
pub struct Mini {
    /// Its transformer is an empty one.
    model: DalleMini,
    source: ModelSource,
}

impl Mini {
    /// The model, and its transformer.
    pub fn new(mut model: DalleMini, source: &ModelSource) -> (Self, DalleBart) {
        let nothing = model
            .config
            .dalle_bart
            .init(&mut Init::empty(&model.device));
        let transformer = std::mem::replace(&mut model.dalle, nothing);
        let source = source.clone();
        (Mini { model, source }, transformer)
    }
}

impl Captions for Mini {
    fn ids(&self, caption: &str) -> Result<Vec<u32>> {
        self.model.encode_caption(caption, true)
    }

    fn is_cut(&self, caption: &str) -> Result<bool> {
        is_cut(self.model.encode_caption(caption, false))
    }

    fn limit(&self) -> usize {
        self.model.config.dalle_bart.text_length
    }
}

/// Whether a caption was refused for its length.
fn is_cut(encoded: Result<Vec<u32>>) -> Result<bool> {
    match encoded {
        Ok(_) => Ok(false),
        Err(Error::CaptionTooLong { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

impl Published for Mini {
    type Transformer = DalleBart;

    fn image(&self) -> &ImageTokenizer {
        &self.model.image
    }

    fn about(&self) -> About {
        let config = &self.model.config;
        About {
            name: config.name.clone(),
            licence: config.licence.clone(),
            sampling: config.sampling.clone(),
        }
    }

    fn null_caption(&self) -> Vec<u32> {
        self.model.text.null_caption()
    }

    fn losses(
        &self,
        transformer: &DalleBart,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<Pass> {
        mini_loss(transformer, captions, image_ids)
    }

    fn draw(
        &self,
        transformer: &DalleBart,
        caption: &[u32],
        seed: u64,
        sampling: &SamplingOptions,
    ) -> Result<Vec<u32>> {
        let caption = transformer.encode(caption)?;
        let null = transformer.encode(&self.null_caption())?;
        let on = &mut |_, _, _: &[Vec<u32>]| ControlFlow::Continue(());
        let drawn =
            generate::dalle_mini::draw(transformer, &caption, &null, &[], &[seed], sampling, on)?;
        Ok(drawn
            .into_iter()
            .flat_map(|drawn| drawn.image_ids)
            .collect())
    }

    fn save(&self, transformer: &DalleBart, about: About, dir: &Path) -> Result<()> {
        let mut config = self.model.config.clone();
        (config.name, config.licence, config.sampling) =
            (about.name, about.licence, about.sampling);
        let model = DalleMini {
            config,
            text: self.model.text.clone(),
            normalizer: None,
            image: self.model.image.clone(),
            dalle: transformer.clone(),
            device: self.model.device.clone(),
        };
        model.save_rounded(&self.source, dir)
    }
}

/// The mean of −log p of all ids of pictures after their captions.
pub fn mini_loss(
    transformer: &DalleBart,
    captions: &[Vec<u32>],
    image_ids: &[Vec<u32>],
) -> Result<Pass> {
    let captions: Vec<&[u32]> = captions.iter().map(Vec::as_slice).collect();
    let read = transformer.encode_all(&captions)?;
    let caption_rows: Vec<CaptionRows<'_>> = read
        .iter()
        .map(|caption| CaptionRows { caption, rows: 1 })
        .collect();
    let loss = transformer.image_nats(image_ids, &caption_rows)?.mean();
    Ok(Pass {
        metrics: vec![("image_nats", loss.clone())],
        loss,
    })
}

/// A model of DALLE-pytorch.
pub struct Pytorch {
    /// Its transformer is an empty one.
    model: DallePytorchModel,
    source: ModelSource,
    image_loss_weight: f64,
}

impl Pytorch {
    /// The model, and its transformer.
    pub fn new(
        mut model: DallePytorchModel,
        source: &ModelSource,
        image_loss_weight: f64,
    ) -> (Self, DallePytorch) {
        let mut nothing = Init::empty(&Device::flex());
        let nothing = model.config.dalle_pytorch.init(&mut nothing);
        let transformer = std::mem::replace(&mut model.dalle, nothing);
        let pytorch = Pytorch {
            model,
            source: source.clone(),
            image_loss_weight,
        };
        (pytorch, transformer)
    }
}

impl Captions for Pytorch {
    fn ids(&self, caption: &str) -> Result<Vec<u32>> {
        self.model.text.encode_caption(caption, self.limit(), true)
    }

    fn is_cut(&self, caption: &str) -> Result<bool> {
        is_cut(self.model.text.encode_caption(caption, self.limit(), false))
    }

    fn limit(&self) -> usize {
        self.model.config.dalle_pytorch.text_length
    }
}

impl Published for Pytorch {
    type Transformer = DallePytorch;

    fn image(&self) -> &ImageTokenizer {
        &self.model.image
    }

    fn about(&self) -> About {
        let config = &self.model.config;
        About {
            name: config.name.clone(),
            licence: config.licence.clone(),
            sampling: config.sampling.clone(),
        }
    }

    /// The reference's: nothing but what fills up.
    fn null_caption(&self) -> Vec<u32> {
        Vec::new()
    }

    fn for_training(transformer: DallePytorch) -> DallePytorch {
        transformer.for_training()
    }

    fn losses(
        &self,
        transformer: &DallePytorch,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<Pass> {
        pytorch_loss(transformer, captions, image_ids, self.image_loss_weight)
    }

    fn draw(
        &self,
        transformer: &DallePytorch,
        caption: &[u32],
        seed: u64,
        sampling: &SamplingOptions,
    ) -> Result<Vec<u32>> {
        let on = &mut |_, _, _: &[Vec<u32>]| ControlFlow::Continue(());
        let drawn =
            generate::dalle_pytorch::draw(transformer, caption, &[], &[seed], sampling, on)?;
        Ok(drawn
            .into_iter()
            .flat_map(|drawn| drawn.image_ids)
            .collect())
    }

    fn save(&self, transformer: &DallePytorch, about: About, dir: &Path) -> Result<()> {
        let mut config = self.model.config.clone();
        (config.name, config.licence, config.sampling) =
            (about.name, about.licence, about.sampling);
        let model = DallePytorchModel {
            config,
            text: self.model.text.clone(),
            image: self.model.image.clone(),
            dalle: transformer.clone(),
        };
        let folder = self.source.folder().map(tokenizer_folder);
        model.save(dir, &folder.unwrap_or_default(), Precision::F16)
    }
}

/// The mean of −log p of words, and `image_weight` times that of the picture's ids, over 1 + `image_weight`.
pub fn pytorch_loss(
    transformer: &DallePytorch,
    captions: &[Vec<u32>],
    image_ids: &[Vec<u32>],
    image_weight: f64,
) -> Result<Pass> {
    let (text, image) = transformer.all_nats(captions, image_ids)?;
    let (text, image): (Tensor<1>, Tensor<1>) = (text.mean(), image.mean());
    let loss = text.clone() + image.clone().mul_scalar(image_weight);
    Ok(Pass {
        loss: loss.div_scalar(1.0 + image_weight),
        metrics: vec![("text_nats", text), ("image_nats", image)],
    })
}
