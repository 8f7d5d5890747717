//! What the similarity of a picture and a caption rests on: Chefer et al. 2021, arXiv:2103.15679, "Generic
//! attention-model explainability for interpreting bi-modal and encoder-decoder transformers", for two towers without
//! attention between them (reference: hila-chefer/Transformer-MM-Explainability, `CLIP_explainability.ipynb`, from its
//! first layer on).

use burn::tensor::{Gradients, Tensor};

use super::Clip;
use crate::Result;
use crate::engine::to_host;
use crate::families::{AttentionRule, relevance};
use crate::nn::recorded::{LayerAttention, Recorded, recording};

/// How much each patch of a picture and each id of a caption counts for their similarity.
#[derive(Clone, Debug, PartialEq)]
pub struct PairRelevance {
    /// The cosine of the embeddings.
    pub cosine: f64,
    /// The logit whose gradient is taken: the cosine on the model's own scale.
    pub logit: f64,
    /// Of the picture's class token by each patch, row-major, `[patches]`.
    pub patches: Vec<f64>,
    /// Of the caption's end by each id between start and end.
    pub ids: Vec<f64>,
}

impl Clip {
    /// In each tower R begins as the identity and becomes `R + E_h[(∇A ⊙ A)⁺] · R` in each layer, with the gradient of
    /// the pair's logit (equations 5 and 6). The picture's row is that of the class token, the caption's that of its
    /// end. The net is copied to a device that records operations.
    ///
    /// # Shapes
    /// - `pixels`: `[1, 3, image_size, image_size]`
    ///
    /// # Errors
    /// A caption that the model can't read.
    pub fn relevance(&self, pixels: Tensor<4>, text_ids: &[u32]) -> Result<PairRelevance> {
        if !self.device().is_autodiff() {
            return recording(self).relevance(pixels.autodiff(), text_ids);
        }
        let (image, of_image) = self.image.attended(pixels, &self.config.image_tower());
        let (text, of_text, end) = self.text.attended(text_ids, &self.config.text_tower())?;
        let logit = self.logits(image, text);
        let gradients = logit.clone().sum().backward();
        let logit = f64::from(to_host(logit.inner())?[0]);
        let image = of_layers(of_image, &gradients)?;
        let text = of_layers(of_text, &gradients)?;
        let places = image.len().isqrt();
        let scale = f64::from(to_host(self.logit_scale().inner())?[0]);
        let bias = match &self.logit_bias {
            Some(bias) => f64::from(to_host(bias.val().inner())?[0]),
            None => 0.0,
        };
        Ok(PairRelevance {
            cosine: (logit - bias) / scale,
            logit,
            patches: image[1..places].to_vec(),
            ids: text[end * (end + 1)..][1.min(end)..end].to_vec(),
        })
    }
}

fn of_layers(layers: Vec<Recorded>, gradients: &Gradients) -> Result<Vec<f64>> {
    let layers = layers
        .into_iter()
        .map(|recorded| LayerAttention::of(recorded, Some(gradients)));
    relevance(layers.collect(), AttentionRule::Gradient)
}
