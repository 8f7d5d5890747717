//! Janus and Janus-Pro: [`Janus`](models::Janus), which reads prompts in the template of its conversations, draws by
//! guidance against a prompt of padding, and sees pictures through an encoder of their pixels.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::captions::{check_beam, report_words, seeds};
use super::{
    Answer, Answerer, Captioner, ContinueRequest, Family, FamilyConfig, FamilyLoss, FamilyModel,
    GeneratedCaption, Inquiry, Language, ModelFiles, NetSizes, PictureEncoder, PublishedForm,
    Search, Transformer,
};
use crate::Result;
use crate::checkpoint::WeightFormat;
use crate::engine::{SampledText, beam_search, sample_texts};
use crate::image::Image;
use crate::import::janus as published;
use crate::models::clip::unit;
use crate::models::janus::{Conversation, Part};
use crate::models::{self, JanusConfig, image_tokenizer};
use crate::nn::Init;
use crate::observer::Observer;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::text::janus::{JanusTokenizer, Roles};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct Janus;

/// What only this family's configs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JanusOptions {
    /// What the two sides of a conversation are called.
    pub roles: Roles,
}

impl NetSizes for JanusConfig {
    type Net = models::Janus;

    fn validate(&self) -> Result<()> {
        JanusConfig::validate(self)
    }

    fn parameters(&self) -> u64 {
        JanusConfig::parameters(self)
    }

    fn init(&self, init: &mut Init) -> models::Janus {
        JanusConfig::init(self, init)
    }

    fn grid(&self) -> usize {
        self.grid
    }

    fn codebook_size(&self) -> usize {
        self.codebook_size
    }

    fn text_length(&self) -> usize {
        self.text_length
    }

    fn width(&self) -> usize {
        self.width
    }

    fn cache_bytes(&self, format: WeightFormat) -> u64 {
        let positions = self.text_length + self.image_length();
        (format.cache_width() * 2 * self.n_layers * positions * self.width) as u64
    }

    fn is_read_each_pass(&self, name: &str) -> bool {
        !name.starts_with("text_head.") && !name.starts_with("vision")
    }

    fn describe(&self) -> Transformer {
        Transformer {
            layers: format!(
                "{} layers x {}, {} heads; vision: {} layers x {}, {} heads",
                self.n_layers,
                self.width,
                self.n_heads,
                self.vision.n_layers,
                self.vision.width,
                self.vision.n_heads
            ),
            text_vocab_size: self.text_vocab_size,
            text_length: self.text_length,
        }
    }
}

impl Family for Janus {
    const NAME: &'static str = "janus";
    const TITLE: &'static str = "Janus";
    const SIZES: &'static str = "janus";
    const WEIGHTS: &'static str = "janus.safetensors";

    const PICTURE_ENCODER: Option<fn(&FamilyModel<Self>) -> &dyn PictureEncoder> =
        Some(|model| model);

    type Sizes = JanusConfig;
    type Options = JanusOptions;
    type Net = models::Janus;
    type Text = JanusTokenizer;

    fn load_text(files: &ModelFiles, config: &FamilyConfig<Self>) -> Result<JanusTokenizer> {
        JanusTokenizer::load(files.folder(), config.sizes.text_vocab_size)
    }

    fn save_text(text: &JanusTokenizer, dir: &Path) -> Result<()> {
        text.save(dir)
    }

    fn encode(
        text: &JanusTokenizer,
        config: &FamilyConfig<Self>,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>> {
        let limit = config.sizes.text_length;
        text.encode_prompt(config.options.roles, caption, limit, long.truncates())
    }

    /// As long as the caption: both are run side by side.
    fn unconditional(
        text: &JanusTokenizer,
        config: &FamilyConfig<Self>,
        caption: &[u32],
    ) -> Vec<u32> {
        text.unconditional(config.options.roles, caption)
    }

    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        Some(&published::Form)
    }

    fn captioner(model: &FamilyModel<Self>) -> Option<&dyn Captioner> {
        Some(model)
    }

    fn answerer(model: &FamilyModel<Self>) -> Option<&dyn Answerer> {
        Some(model)
    }

    /// The mean of −ln p of all ids of images after their prompts, as the report describes the training
    /// (arXiv:2410.13848, section 3.2; its code is not published).
    fn loss(
        net: &models::Janus,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
        _image_weight: f64,
    ) -> Result<FamilyLoss> {
        let prompts: Vec<(&[u32], usize)> =
            captions.iter().map(|ids| (ids.as_slice(), 1)).collect();
        let loss = net.image_nll(&prompts, image_ids)?.mean();
        Ok(FamilyLoss {
            metrics: vec![("image_nats", loss.clone())],
            loss,
        })
    }
}

/// How a caption is requested, in the two languages.
const DESCRIBE: [&str; 2] = [
    "Describe the image in one sentence.",
    "用一句话描述这张图片。",
];

impl FamilyModel<Janus> {
    /// What is said before an answer.
    fn conversation(&self, inquiry: Inquiry<'_>) -> Result<Conversation> {
        let Inquiry { question, image } = inquiry;
        let roles = self.config.options.roles;
        // What can be refused is, before anything is computed.
        let ids = self
            .text
            .encode_question(roles, question, image.is_some())?;
        let mut parts = vec![Part::Text(ids.before)];
        if let Some(image) = image {
            let (_, seen) = self.net.see(self.seen(std::slice::from_ref(image))?);
            parts.push(Part::Image(seen));
            // The answer does without the vision encoder; the rest is read again with its first word.
            crate::files::release_all_mapped();
        }
        parts.push(Part::Text(ids.after));
        Ok(Conversation { parts })
    }

    /// Pictures as the vision encoder takes them, whole: `[pictures, 3, size, size]`.
    fn seen(&self, pictures: &[Image]) -> Result<Tensor<4>> {
        let size = self.config.sizes.vision.image_size;
        let whole = pictures
            .iter()
            .map(|picture| picture.fit_whole_bicubic(size, PADDING, smallest_side(size)));
        let whole: Vec<Image> = whole.collect::<Result<_>>()?;
        image_tokenizer::pixels(&whole, size, &self.device)
    }

    fn described(&self, generated: &SampledText) -> Result<GeneratedCaption> {
        Ok(GeneratedCaption {
            text: self.text.decode(&generated.text_ids)?.trim().to_owned(),
            log_likelihood: generated.log_likelihood,
            picture_log_likelihood: None,
            tokens: generated.tokens,
            seed: generated.seed,
        })
    }
}

/// What pads pictures to squares: the truncated middle of the range (`preprocessor_config.json`, `image_mean`).
const PADDING: [u8; 3] = [127; 3];

/// The shortest that a side becomes: 14 pixels of 384 (`preprocessor_config.json`, `min_size`).
fn smallest_side(size: usize) -> usize {
    (size * 14 / 384).max(1)
}

/// The published examples answer greedily; sampled answers are plain samples.
fn text_sampling() -> SamplingOptions {
    SamplingOptions {
        guidance_scale: 1.0,
        temperature: 1.0,
        top_k: None,
        top_p: None,
    }
}

impl FamilyModel<Janus> {
    fn watch(&self, observer: &mut dyn Observer) -> impl FnMut(&SampledText) -> ControlFlow<()> {
        report_words(|ids| self.text.decode(ids), observer)
    }
}

impl Answerer for FamilyModel<Janus> {
    fn answer_sampling(&self) -> SamplingOptions {
        text_sampling()
    }

    fn answer(
        &self,
        inquiry: Inquiry<'_>,
        sampling: &SamplingOptions,
        seed: u64,
        observer: &mut dyn Observer,
    ) -> Result<Answer> {
        let conversation = self.conversation(inquiry)?;
        let (seen, watch) = (Some(&conversation), &mut self.watch(observer));
        let mut texts = sample_texts(&self.net, seen, &[], &[seed], sampling, None, watch)?;
        let text = texts.swap_remove(0);
        Ok(Answer {
            text: self.text.decode(&text.text_ids)?.trim().to_owned(),
            log_likelihood: text.log_likelihood,
            tokens: text.tokens,
            ended: text.ended,
        })
    }
}

/// The mean of the patches' last states. The pooling that SigLIP has there was not trained on with the encoder, and no
/// published program of Janus uses it.
impl PictureEncoder for FamilyModel<Janus> {
    fn embed_pictures(&self, pictures: &[Image]) -> Result<Tensor<2>> {
        let (features, _) = self.net.see(self.seen(pictures)?);
        let [pictures, _, width] = features.dims();
        Ok(unit(features.mean_dim(1).reshape([pictures, width])))
    }
}

impl Captioner for FamilyModel<Janus> {
    fn text_sampling(&self) -> SamplingOptions {
        text_sampling()
    }

    fn ranks_captions(&self) -> bool {
        false
    }

    /// Each row more is a cache more.
    fn beam(&self) -> usize {
        1
    }

    /// Any text, outside of a conversation.
    fn continue_text(
        &self,
        request: &ContinueRequest,
        observer: &mut dyn Observer,
    ) -> Result<Vec<GeneratedCaption>> {
        let seeds = seeds(request.n, request.seed)?;
        let (start, prefix) = self.text.encode_text(&request.prefix)?;
        let start = Conversation {
            parts: vec![Part::Text(vec![start])],
        };
        let texts = sample_texts(
            &self.net,
            Some(&start),
            &prefix,
            &seeds,
            &request.sampling,
            None,
            &mut self.watch(observer),
        )?;
        texts.iter().map(|text| self.described(text)).collect()
    }

    /// Answers to the request to describe the image, in `language`.
    fn captions(
        &self,
        image: &Image,
        n: usize,
        search: &Search,
        language: Option<Language>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<GeneratedCaption>> {
        let seeds_of = |seed| seeds(n, seed);
        seeds_of(0)?;
        let [english, chinese] = DESCRIBE;
        let conversation = self.conversation(Inquiry {
            question: match language {
                Some(Language::Chinese) => chinese,
                _ => english,
            },
            image: Some(image),
        })?;
        let (seen, watch) = (Some(&conversation), &mut self.watch(observer));
        let mut found = match search {
            Search::Beam { width } => {
                check_beam(*width, n)?;
                beam_search(&self.net, seen, *width, *width, None, watch)?
            }
            Search::Sampling { options, seed } => sample_texts(
                &self.net,
                seen,
                &[],
                &seeds_of(*seed)?,
                options,
                None,
                watch,
            )?,
        };
        found.sort_by(|a, b| b.log_likelihood.total_cmp(&a.log_likelihood));
        found.truncate(n);
        found.iter().map(|text| self.described(text)).collect()
    }
}
