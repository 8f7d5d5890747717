//! The CLIP of DALLE-pytorch (`dalle_pytorch.py`, class `CLIP`): the same layers as its DALL·E, without shift, rotary
//! angles and order, over words and over patches, each tower's mean projected into one space.
//!
//! Captions are filled up with zeros that count for the mean, as `DALLE.generate_images` gives them to its `clip`;
//! the mask that its training may have is not looked at there either. Pixels are those from 0 to 1.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::attention::AttentionKind;
use super::layers::{Layer, LayerSizes};
use crate::image::Image;
use crate::models::ids::{check_ids, ids};
use crate::nn::{Embedding, Init, Linear};
use crate::{Error, Result};

/// The width of attention heads, which the original fixes.
const HEAD_WIDTH: usize = 64;

/// The sizes of a [`DallePytorchClip`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DallePytorchClipConfig {
    /// Side of the pictures in pixels (`visual_image_size`).
    pub image_size: usize,
    /// Side of a patch in pixels (`visual_patch_size`); divides `image_size`.
    pub patch_size: usize,
    /// The tower of pictures.
    pub image: DallePytorchTower,
    /// Ids of words (`num_text_tokens`).
    pub text_vocab_size: usize,
    /// The longest caption (`text_seq_len`).
    pub text_length: usize,
    /// The tower of captions.
    pub text: DallePytorchTower,
    /// Width of the common space (`dim_latent`).
    pub projection_width: usize,
}

/// The sizes of a tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DallePytorchTower {
    /// Width of the residual stream.
    pub width: usize,
    /// Layers.
    pub n_layers: usize,
    /// Attention heads, each 64 wide.
    pub n_heads: usize,
}

impl DallePytorchTower {
    /// The heads of an attention whose queries, keys and values are this many numbers together.
    pub fn heads_of(rows: usize) -> Option<usize> {
        let one = 3 * HEAD_WIDTH;
        (rows > 0 && rows.is_multiple_of(one)).then_some(rows / one)
    }

    /// How many numbers its layers have, norms and biases left out.
    fn parameters(&self) -> u64 {
        let (width, inner) = (self.width as u64, (self.n_heads * HEAD_WIDTH) as u64);
        self.n_layers as u64 * (4 * width * inner + 12 * width * width)
    }

    fn init(&self, init: &mut Init) -> Vec<Layer> {
        let sizes = LayerSizes {
            width: self.width,
            n_heads: self.n_heads,
            head_width: HEAD_WIDTH,
            sandwich_norm: false,
            shift_tokens: false,
        };
        let layers = 0..self.n_layers;
        layers
            .map(|_| Layer::new(init, &sizes, AttentionKind::Full))
            .collect()
    }
}

impl DallePytorchClipConfig {
    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("dalle_pytorch_clip config", reason));
        let sizes = [
            ("image_size", self.image_size, 1 << 12),
            ("patch_size", self.patch_size, 1 << 12),
            ("text_vocab_size", self.text_vocab_size, 1 << 20),
            ("text_length", self.text_length, 1 << 14),
            ("projection_width", self.projection_width, 1 << 16),
            ("image.width", self.image.width, 1 << 16),
            ("image.n_layers", self.image.n_layers, 1 << 10),
            ("image.n_heads", self.image.n_heads, 1 << 10),
            ("text.width", self.text.width, 1 << 16),
            ("text.n_layers", self.text.n_layers, 1 << 10),
            ("text.n_heads", self.text.n_heads, 1 << 10),
        ];
        for (name, value, most) in sizes {
            if value == 0 || value > most {
                return bad(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return bad(format!(
                "image_size is {}, expected a multiple of patch_size {}",
                self.image_size, self.patch_size
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let patch = 3 * of(self.patch_size).pow(2);
        let image = (patch + of(self.patches()) + of(self.projection_width)) * of(self.image.width);
        let rows = of(self.text_vocab_size) + of(self.text_length) + of(self.projection_width);
        image + rows * of(self.text.width) + self.image.parameters() + self.text.parameters()
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> DallePytorchClip {
        let (image, text) = (&self.image, &self.text);
        let patch = 3 * self.patch_size * self.patch_size;
        DallePytorchClip {
            text_embedding: Embedding::new(init, self.text_vocab_size, text.width, 0.02),
            text_positions: Embedding::new(init, self.text_length, text.width, 0.02),
            text_layers: text.init(init),
            text_projection: Linear::new(init, text.width, self.projection_width, 0.02),
            patch_embedding: Linear::with_bias(init, patch, image.width, 0.02),
            image_positions: Embedding::new(init, self.patches(), image.width, 0.02),
            image_layers: image.init(init),
            image_projection: Linear::new(init, image.width, self.projection_width, 0.02),
            temperature: init.constant([1], 1.0),
            config: self.clone(),
        }
    }
}

/// Both towers.
#[derive(Module, Debug)]
pub struct DallePytorchClip {
    text_embedding: Embedding,
    text_positions: Embedding,
    text_layers: Vec<Layer>,
    text_projection: Linear,
    patch_embedding: Linear,
    image_positions: Embedding,
    image_layers: Vec<Layer>,
    image_projection: Linear,
    /// The logarithm of what cosines are multiplied by, `[1]`.
    temperature: Param<Tensor<1>>,
    #[module(skip)]
    config: DallePytorchClipConfig,
}

impl DallePytorchClip {
    /// The sizes.
    pub fn config(&self) -> &DallePytorchClipConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.temperature.val().device()
    }

    /// What cosines are multiplied by, `[1]`.
    pub fn logit_scale(&self) -> Tensor<1> {
        self.temperature.val().exp()
    }

    /// Embeddings of captions, of any length: each one's ids without what fills it up.
    ///
    /// # Shapes
    /// - returns: `[batch, projection_width]`
    pub fn encode_text(&self, captions: &[Vec<u32>]) -> Result<Tensor<2>> {
        let length = self.config.text_length;
        if captions.is_empty() {
            return Err(Error::invalid("captions", "expected 1 or more, got 0"));
        }
        let mut flat = Vec::with_capacity(captions.len() * length);
        for caption in captions {
            check_ids("text ids", caption, self.config.text_vocab_size)?;
            if caption.len() > length {
                return Err(Error::invalid(
                    "text ids",
                    format!("expected {length} ids or fewer, got {}", caption.len()),
                ));
            }
            flat.extend_from_slice(caption);
            flat.resize(flat.len() + length - caption.len(), 0);
        }
        let rows: Vec<&[u32]> = flat.chunks(length).collect();
        let ids = ids(&rows, &self.device());
        let positions = self.text_positions.weight.val().unsqueeze::<3>();
        let x = self.text_embedding.forward(ids) + positions;
        Ok(self.text_projection.forward(mean(x, &self.text_layers)))
    }

    /// Embeddings of pictures, of any length.
    ///
    /// # Shapes
    /// - returns: `[batch, projection_width]`
    pub fn encode_pictures(&self, pictures: &[Image]) -> Result<Tensor<2>> {
        let (size, patch) = (self.config.image_size, self.config.patch_size);
        let side = size / patch;
        if pictures.is_empty() {
            return Err(Error::invalid("pictures", "expected 1 or more, got 0"));
        }
        let mut values = Vec::with_capacity(pictures.len() * 3 * size * size);
        for picture in pictures {
            let picture = picture.fit_square(size)?;
            // Rows of patches, patches, rows of pixels, pixels, channels.
            for at in 0..side * side * patch {
                let (patches, row) = (at / patch, at % patch);
                let (y, x) = (patches / side * patch + row, patches % side * patch);
                let start = 3 * (y * size + x);
                let pixels = &picture.rgb[start..start + 3 * patch];
                values.extend(pixels.iter().map(|&value| f32::from(value) / 255.0));
            }
        }
        let shape = [pictures.len(), side * side, 3 * patch * patch];
        let patches = Tensor::<3>::from_data(TensorData::new(values, shape), &self.device());
        let positions = self.image_positions.weight.val().unsqueeze::<3>();
        let x = self.patch_embedding.forward(patches) + positions;
        Ok(self.image_projection.forward(mean(x, &self.image_layers)))
    }
}

/// `[batch, n, width]` → `[batch, width]`.
fn mean(x: Tensor<3>, layers: &[Layer]) -> Tensor<2> {
    let mut x = x;
    for layer in layers {
        x = layer.encode(x);
    }
    x.mean_dim(1).squeeze_dim::<2>(1)
}
