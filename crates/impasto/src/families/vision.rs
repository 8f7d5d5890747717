//! Pictures as vectors, by the vision encoder of a model that draws.

use burn::tensor::Tensor;

use crate::Result;
use crate::image::Image;

/// A model with an encoder that understands pictures. Unlike a CLIP it has no embeddings of words beside them.
pub trait PictureEncoder {
    /// Embeddings of pictures, of length one: `[pictures, width]`.
    fn embed_pictures(&self, pictures: &[Image]) -> Result<Tensor<2>>;
}
