//! Captions that models write: of an image, or continued from the first words.
//!
//! A model that predicts captions after images ranks what it finds by ln p(caption | image) + ln p(image | caption):
//! it predicts both, and their errors differ. The second is the noisy channel's (Brown et al. 1993). A model that
//! predicts captions before images samples them without the image, which then decides, by Bayes' rule, how likely each
//! is of those that were sampled.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Family, FamilyConfig, FamilyModel, Language};
use crate::engine::{
    Allowed, AutoregressiveModel, SampledText, TextModel, beam_search, image_log_likelihoods,
    likelihood, sample_texts, sums,
};
use crate::image::Image;
use crate::observer::{Event, Observer};
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// How captions are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Search {
    /// The likeliest ones, as far as a beam of this many sees.
    Beam {
        /// Captions kept at each step; at least the number of captions requested.
        width: usize,
    },
    /// Sampled; caption number i has the seed `seed + i`. Guidance is not used.
    Sampling {
        /// Temperature and cuts.
        options: SamplingOptions,
        /// Seed of the first one.
        seed: u64,
    },
}

/// A generated caption.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GeneratedCaption {
    /// The words.
    pub text: String,
    /// ln p(caption | image), its end included, in nats; where captions are sampled without the image and ranked by
    /// it, among those that were sampled.
    pub log_likelihood: f64,
    /// ln p(image | caption), in nats, by models that predict both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture_log_likelihood: Option<f64>,
    /// Tokens counted, the end among them.
    pub tokens: usize,
    /// What it was sampled with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A request to continue a caption by sampling; number i has the seed `seed + i`. Guidance is not used.
#[derive(Clone, Debug)]
pub struct ContinueRequest {
    /// Its first words; empty for whole captions.
    pub prefix: String,
    /// Captions.
    pub n: usize,
    /// Seed of the first one.
    pub seed: u64,
    /// Temperature and cuts.
    pub sampling: SamplingOptions,
}

/// More than anybody reads.
const MAX_CAPTIONS: usize = 256;

/// A model that writes captions.
pub trait Captioner {
    /// The default sampling options for text.
    fn text_sampling(&self) -> SamplingOptions;

    /// Whether captions of an image are sampled without it and ranked by it: in the model's sequence captions come
    /// first.
    fn ranks_captions(&self) -> bool;

    /// Captions that a search keeps at each step, unless a request says otherwise.
    fn beam(&self) -> usize {
        8
    }

    /// Captions with a common prefix, in the order of their seeds; their likelihood is that of the generated ids.
    /// Reports each that grew as [`Event::Text`].
    fn continue_text(
        &self,
        request: &ContinueRequest,
        observer: &mut dyn Observer,
    ) -> Result<Vec<GeneratedCaption>>;

    /// `n` captions of an image of any size, the best first; there may be fewer. In `language`, if it is given: of those
    /// that the model was trained on. Reports each that grew, or the likeliest of a beam, as [`Event::Text`].
    fn captions(
        &self,
        image: &Image,
        n: usize,
        search: &Search,
        language: Option<Language>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<GeneratedCaption>>;

    /// Whether it says of an image how well a caption describes it ([`Captioner::caption_nats`]).
    fn judges_captions(&self) -> bool {
        false
    }

    /// −ln p(caption | image) per text id, the caption's end included, in nats, of each of some images of any size; none
    /// by a model that does not predict captions after images.
    fn caption_nats(
        &self,
        _caption: &str,
        _long: LongCaption,
        _images: &[Image],
    ) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }
}

/// A family whose models write captions.
pub trait TextFamily: Family<Net: TextModel<Seen = [u32]>> {
    /// Whether its models predict captions after images; else before them.
    const AFTER_IMAGE: bool;
    /// Whether its models are trained on several languages; others know one, whichever is requested.
    const MULTILINGUAL: bool;

    /// Whether a model was trained to write captions of images; otherwise it only continues texts.
    fn captions_images(_config: &FamilyConfig<Self>) -> bool {
        true
    }

    /// The ids that a text starts with.
    fn prefix_ids(text: &Self::Text, config: &FamilyConfig<Self>, prefix: &str)
    -> Result<Vec<u32>>;

    /// A generated text as the ids of a caption, as the net reads them.
    fn caption_ids(config: &FamilyConfig<Self>, generated: &SampledText) -> Vec<u32>;

    /// −ln p of each id of a caption after its first, of padding 0, after each of some images, and how many ids of the
    /// caption count, by a net that predicts captions after images: `[images · (ids − 1)]`.
    ///
    /// # Shapes
    /// - `image_ids`: `[images][positions]`, row-major
    fn caption_nll(
        _net: &Self::Net,
        _caption: &[u32],
        _image_ids: &[Vec<u32>],
    ) -> Option<(Tensor<1>, usize)> {
        None
    }

    /// The words of ids.
    fn decode(text: &Self::Text, ids: &[u32]) -> Result<String>;

    /// The default sampling options for text.
    fn text_sampling(config: &FamilyConfig<Self>) -> SamplingOptions;
}

impl<F: TextFamily> Captioner for FamilyModel<F> {
    fn text_sampling(&self) -> SamplingOptions {
        F::text_sampling(&self.config)
    }

    fn ranks_captions(&self) -> bool {
        !F::AFTER_IMAGE
    }

    fn judges_captions(&self) -> bool {
        F::AFTER_IMAGE && F::captions_images(&self.config)
    }

    fn continue_text(
        &self,
        request: &ContinueRequest,
        observer: &mut dyn Observer,
    ) -> Result<Vec<GeneratedCaption>> {
        let seeds = seeds(request.n, request.seed)?;
        let prefix = F::prefix_ids(&self.text, &self.config, &request.prefix)?;
        let sampling = &request.sampling;
        let watch = &mut self.watch(observer);
        let texts = sample_texts(&self.net, None, &prefix, &seeds, sampling, None, watch)?;
        texts.iter().map(|text| self.caption(text)).collect()
    }

    /// Of the image's middle square, which the image tokenizer reads.
    fn captions(
        &self,
        image: &Image,
        n: usize,
        search: &Search,
        language: Option<Language>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<GeneratedCaption>> {
        if !F::captions_images(&self.config) {
            let reason = format!(
                "{} cannot caption images: it was trained without captions after images (captioning_share 0); train it \
                 with a share of them, or take another model",
                self.config.name
            );
            return Err(Error::invalid("model", reason));
        }
        let square = image.fit_square(self.image.config().picture_size())?;
        let image_ids = self.image.encode(&[square], &self.device)?.swap_remove(0);
        let image_ids = image_ids.as_slice();
        let sizes = self.net.sizes();
        crate::canvas::Canvas::of(image_ids).check(sizes.positions, sizes.codebook_size)?;
        let vocabulary = self.net.text_sizes().vocabulary as u32;
        let language = language.filter(|_| F::MULTILINGUAL);
        let allowed = language.map(|language| -> Result<Vec<bool>> {
            let of = |id| Ok(language.has(&F::decode(&self.text, &[id])?));
            (0..vocabulary).map(of).collect()
        });
        let allowed = allowed.transpose()?;
        match F::AFTER_IMAGE {
            true => self.captions_after(image_ids, n, search, allowed.as_deref(), observer),
            false => self.captions_before(image_ids, n, search, allowed.as_deref(), observer),
        }
    }

    /// Of the ids that the image tokenizer reads in the images' middle squares.
    fn caption_nats(
        &self,
        caption: &str,
        long: LongCaption,
        images: &[Image],
    ) -> Result<Option<Vec<f64>>> {
        let caption = self.encode_caption(caption, long)?;
        let side = self.image.config().picture_size();
        let mut nats = Vec::with_capacity(images.len());
        for images in images.chunks(self.net.nll_rows().max(1)) {
            let squares: Result<Vec<Image>> =
                images.iter().map(|image| image.fit_square(side)).collect();
            let image_ids = self.image.encode(&squares?, &self.device)?;
            let Some((nll, tokens)) = F::caption_nll(&self.net, &caption, &image_ids) else {
                return Ok(None);
            };
            let likelihoods = sums(nll, images.len())?.into_iter();
            nats.extend(likelihoods.map(|likelihood| -likelihood / tokens.max(1) as f64));
        }
        Ok(Some(nats))
    }
}

/// The seeds of this many captions, once their number is known to be possible.
pub(super) fn seeds(n: usize, seed: u64) -> Result<Vec<u64>> {
    if n == 0 || n > MAX_CAPTIONS {
        let reason = format!("expected 1 to {MAX_CAPTIONS} captions, got {n}");
        return Err(Error::invalid("n", reason));
    }
    Ok((0..n as u64).map(|i| seed.wrapping_add(i)).collect())
}

/// Refuses a beam that is narrower than the number of captions, or beyond all use.
pub(super) fn check_beam(width: usize, n: usize) -> Result<()> {
    if (n..=MAX_CAPTIONS).contains(&width) {
        return Ok(());
    }
    let reason = format!("expected {n} (the captions requested) to {MAX_CAPTIONS}, got {width}");
    Err(Error::invalid("beam", reason))
}

/// Reports the words of each text that grew.
pub(super) fn report_words(
    decode: impl Fn(&[u32]) -> Result<String>,
    observer: &mut dyn Observer,
) -> impl FnMut(&SampledText) -> ControlFlow<()> {
    move |text| match decode(&text.text_ids) {
        Ok(words) => observer.event(&Event::Text(&words)),
        // Ids that make no words yet, as half a character. The whole text is decoded in the end, where it can be refused.
        Err(_) => ControlFlow::Continue(()),
    }
}

impl<F: TextFamily> FamilyModel<F> {
    fn watch(&self, observer: &mut dyn Observer) -> impl FnMut(&SampledText) -> ControlFlow<()> {
        report_words(|ids| F::decode(&self.text, ids), observer)
    }

    fn caption(&self, generated: &SampledText) -> Result<GeneratedCaption> {
        Ok(GeneratedCaption {
            text: F::decode(&self.text, &generated.text_ids)?,
            log_likelihood: generated.log_likelihood,
            picture_log_likelihood: None,
            tokens: generated.tokens,
            seed: generated.seed,
        })
    }

    /// Captions found under the image, ranked by both directions.
    fn captions_after(
        &self,
        image_ids: &[u32],
        n: usize,
        search: &Search,
        allowed: Allowed<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<GeneratedCaption>> {
        seeds(n, 0)?;
        let watch = &mut self.watch(observer);
        let found = match search {
            Search::Beam { width } => {
                check_beam(*width, n)?;
                beam_search(&self.net, Some(image_ids), *width, *width, allowed, watch)?
            }
            Search::Sampling { options, seed } => sample_texts(
                &self.net,
                Some(image_ids),
                &[],
                &seeds(n, *seed)?,
                options,
                allowed,
                watch,
            )?,
        };
        let prompts: Vec<<F::Net as AutoregressiveModel>::Prompt> = found
            .iter()
            .map(|text| self.net.read(&F::caption_ids(&self.config, text)))
            .collect::<Result<_>>()?;
        let prompts: Vec<_> = prompts.iter().collect();
        let images = vec![image_ids.to_vec(); found.len()];
        let of_image = image_log_likelihoods(&self.net, &prompts, &images)?;
        let mut captions = Vec::with_capacity(found.len());
        for (text, of_image) in found.iter().zip(of_image) {
            captions.push(GeneratedCaption {
                picture_log_likelihood: Some(of_image),
                ..self.caption(text)?
            });
        }
        let score = |caption: &GeneratedCaption| {
            caption.log_likelihood + caption.picture_log_likelihood.unwrap_or(0.0)
        };
        captions.sort_by(|a, b| score(b).total_cmp(&score(a)));
        captions.truncate(n);
        Ok(captions)
    }

    /// Captions sampled without the image, ranked by it.
    fn captions_before(
        &self,
        image_ids: &[u32],
        n: usize,
        search: &Search,
        allowed: Allowed<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<GeneratedCaption>> {
        let Search::Sampling { options, seed } = search else {
            let reason = format!(
                "{} generates captions before pictures: they can be sampled and ranked, not found by beam search",
                self.config.name
            );
            return Err(Error::invalid("search", reason));
        };
        let mut seen = BTreeSet::new();
        let mut ranked = Vec::new();
        let (seeds, watch) = (seeds(n, *seed)?, &mut self.watch(observer));
        for text in sample_texts(&self.net, None, &[], &seeds, options, allowed, watch)? {
            if !seen.insert(text.text_ids.clone()) {
                continue;
            }
            let prompt = self.net.read(&F::caption_ids(&self.config, &text))?;
            let pair = likelihood(&self.net, &prompt, image_ids)?;
            ranked.push(GeneratedCaption {
                log_likelihood: pair.text_log_likelihood + pair.image_log_likelihood,
                picture_log_likelihood: Some(pair.image_log_likelihood),
                ..self.caption(&text)?
            });
        }
        ranked.sort_by(|a, b| b.log_likelihood.total_cmp(&a.log_likelihood));
        let highest = ranked.first().map_or(0.0, |caption| caption.log_likelihood);
        let sum = ranked
            .iter()
            .map(|caption| (caption.log_likelihood - highest).exp())
            .sum::<f64>();
        for caption in &mut ranked {
            caption.log_likelihood -= highest + sum.ln();
        }
        Ok(ranked)
    }
}
