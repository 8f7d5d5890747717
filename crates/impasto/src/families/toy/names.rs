//! The published form: `toy.safetensors` in PyTorch's layout, and `toy.json`.

use std::path::Path;

use burn::tensor::Device;
use serde::Deserialize;

use super::Toy;
use super::net::ToySizes;
use crate::checkpoint::WeightFormat;
use crate::checkpoint::stored::safetensors;
use crate::error::Reason;
use crate::families::{
    FamilyConfig, FamilyModel, NetSizes, NetworkReport, NoOptions, Published, PublishedFiles,
    PublishedForm,
};
use crate::import::{ImportReport, mapping::Mapping};
use crate::models::ImageTokenizerConfig;
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::TextTokenizer;
use crate::{Error, Result, files};

#[derive(Debug)]
pub(super) struct Form;

#[derive(Deserialize)]
struct ToyConfig {
    net: ToySizes,
    image_tokenizer: ImageTokenizerConfig,
}

impl PublishedForm<Toy> for Form {
    fn is_published(&self, path: &Path, _config: Option<&[u8]>) -> bool {
        path.join("toy.safetensors").is_file()
    }

    fn load(
        &self,
        published: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<Toy>> {
        let path = published.path.join("toy.json");
        let config: ToyConfig = serde_json::from_slice(&files::read(&path)?)
            .map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
        let mut init = Init::empty(device);
        let file = published.path.join("toy.safetensors");
        let bytes = files::bytes_of(&file, published.access)?;
        let tensors = safetensors(&file, &bytes)?.into_iter().collect();
        let net = config.net.init(&mut init);
        let mut mapping = Mapping::new(&file, tensors, &net);
        for (ours, theirs) in [
            ("words", "word_emb"),
            ("codes", "code_emb"),
            ("positions", "pos"),
        ] {
            mapping.same(&format!("{ours}.weight"), &format!("{theirs}.weight"))?;
        }
        mapping.side_by_side("qkv.weight", &["q.weight", "k.weight", "v.weight"])?;
        mapping.transposed("out.weight", "o.weight")?;
        mapping.transposed("head.weight", "logits.weight")?;
        let (net, tensors) = mapping.finish_in(net, format)?;
        // Nobody trained the image tokenizer of a toy.
        let image = config.image_tokenizer.init(&mut Init::new(2, device));
        Ok(Published {
            model: FamilyModel {
                config: FamilyConfig {
                    name: published.name.to_owned(),
                    licence: "CC0-1.0".to_owned(),
                    image_tokenizer: config.image_tokenizer,
                    sizes: config.net,
                    sampling: SamplingOptions::default(),
                    options: NoOptions {},
                    precision: format,
                },
                text: TextTokenizer::load(published.path)?,
                image,
                net,
                device: device.clone(),
            },
            networks: NetworkReport::of(tensors, ImportReport::default()),
            bytes: bytes.len() as u64,
        })
    }
}
