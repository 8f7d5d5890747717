//! Meissonic as it is published (`MeissonFlow/Meissonic`, `Collov-Labs/Monetico` and fine-tunes of them): a pipeline's
//! folder, as [`super::amused`], with a transformer of its own. Of Di\[M\]O (`Yuanzhi/DiMO`) there is the transformer alone,
//! in the folder `meissonic/transformer`: it is known by that place, and its other parts are Meissonic's.

mod config;

use std::path::Path;

use burn::tensor::Device;

use self::config::Parts;
use super::clip::hugging_face;
use super::diffusers::{self, PipelineWeights};
use super::mapping::Mapping;
use crate::checkpoint::WeightFormat;
use crate::error::Reason;
use crate::families::{
    FamilyConfig, FamilyModel, Meissonic as MeissonicFamily, MeissonicOptions, NetworkReport,
    Published, PublishedFiles, PublishedForm,
};
use crate::models::meissonic::STEPS;
use crate::models::{ImageTokenizerConfig, MeissonicConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::clip::ClipTokenizer;
use crate::{Error, Result};

/// Of the code and the weights of Meissonic and Monetico.
const LICENCE: &str = "Apache-2.0";
/// Of that of Di[M]O nothing is said.
const LICENCE_OF_STUDENTS: &str = "unknown";

/// Folders of diffusers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form;

/// The files of a published model, its numbers still in them.
struct Opened {
    config: FamilyConfig<MeissonicFamily>,
    text: ClipTokenizer,
    weights: PipelineWeights,
}

impl Opened {
    fn new(published: PublishedFiles<'_>) -> Result<Self> {
        let parts = Parts::find(published)?;
        let sizes = config::read(&parts)?;
        let (text, pad_id) = diffusers::tokenizer(&parts.others, &sizes.net.text)?;
        let one_pass = sizes.net.masked_at_start.is_some();
        let config = FamilyConfig::<MeissonicFamily> {
            name: published.name.to_owned(),
            licence: match parts.is_student {
                true => LICENCE_OF_STUDENTS,
                false => LICENCE,
            }
            .to_owned(),
            image_tokenizer: ImageTokenizerConfig::TamingVqgan(sizes.image),
            sizes: sizes.net,
            // The defaults of `Pipeline`; one pass is drawn without guidance.
            sampling: SamplingOptions {
                guidance_scale: if one_pass { 1.0 } else { 9.0 },
                temperature: 1.0,
                top_k: None,
                top_p: None,
            },
            options: MeissonicOptions {
                pad_id,
                steps: if one_pass { 1 } else { STEPS },
            },
            precision: WeightFormat::F32,
        };
        config
            .validate()
            .map_err(|e| Error::bad_file(published.path, Reason::of(e)))?;
        let weights = PipelineWeights::open(&parts.transformer, &parts.others, published.access)?;
        weights.check_room(
            config.sizes.parameters(),
            config.sizes.text.parameters(),
            config.image_tokenizer.parameters(),
        )?;
        Ok(Opened {
            config,
            text,
            weights,
        })
    }
}

impl PublishedForm<MeissonicFamily> for Form {
    fn is_published(&self, path: &Path, _config: Option<&[u8]>) -> bool {
        Parts::are_in(path)
    }

    fn load(
        &self,
        files: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<MeissonicFamily>> {
        let Opened {
            mut config,
            text,
            weights,
        } = Opened::new(files)?;
        config.precision = format;
        let mut init = Init::empty(device);
        let net = config.sizes.init(&mut init);
        let sizes = &config.sizes;
        let (net, report) =
            weights.load_net(files.path, net, format, |mapping| map(mapping, sizes))?;
        let (image, image_report) = weights.load_image(&config.image_tokenizer, &mut init)?;
        Ok(Published {
            model: FamilyModel {
                config,
                text,
                image,
                net,
                device: device.clone(),
            },
            networks: NetworkReport::of(report, image_report),
            bytes: weights.bytes(),
        })
    }

    fn describe(&self, files: PublishedFiles<'_>) -> Result<(FamilyConfig<MeissonicFamily>, u64)> {
        let opened = Opened::new(files)?;
        let bytes = opened.weights.bytes();
        Ok((opened.config, bytes))
    }
}

/// A layer with its bias.
fn linear(mapping: &mut Mapping<'_>, ours: &str, theirs: &str) -> Result<()> {
    mapping.transposed(&format!("{ours}.weight"), &format!("{theirs}.weight"))?;
    mapping.same(&format!("{ours}.bias"), &format!("{theirs}.bias"))
}

/// Gives the tensors of transformer and text encoder our names and layouts.
fn map(mapping: &mut Mapping<'_>, sizes: &MeissonicConfig) -> Result<()> {
    hugging_face::map_text(mapping, sizes.text.tower.n_layers)?;
    diffusers::map_ends(mapping, sizes.halved)?;
    for (ours, theirs) in [
        ("caption", "context_embedder"),
        ("time_in", "time_text_embed.timestep_embedder.linear_1"),
        ("time_out", "time_text_embed.timestep_embedder.linear_2"),
        ("pooled_in", "time_text_embed.text_embedder.linear_1"),
        ("pooled_out", "time_text_embed.text_embedder.linear_2"),
    ] {
        linear(mapping, ours, theirs)?;
    }
    for i in 0..sizes.n_double_layers {
        let theirs = format!("transformer_blocks.{i}");
        map_stream(
            mapping,
            sizes,
            &format!("doubles.{i}.image"),
            &theirs,
            &Names {
                modulation: "norm1.linear",
                heads: ["to_q", "to_k", "to_v"],
                norms: ["norm_q", "norm_k"],
                attention_out: "to_out.0",
                feed_forward: "ff",
            },
        )?;
        map_stream(
            mapping,
            sizes,
            &format!("doubles.{i}.text"),
            &theirs,
            &Names {
                modulation: "norm1_context.linear",
                heads: ["add_q_proj", "add_k_proj", "add_v_proj"],
                norms: ["norm_added_q", "norm_added_k"],
                attention_out: "to_add_out",
                feed_forward: "ff_context",
            },
        )?;
    }
    for i in 0..sizes.n_single_layers {
        let (ours, theirs) = (
            format!("singles.{i}"),
            format!("single_transformer_blocks.{i}"),
        );
        for (part, of) in [
            ("modulation", "norm.linear"),
            ("up", "proj_mlp"),
            ("out", "proj_out"),
        ] {
            linear(
                mapping,
                &format!("{ours}.{part}"),
                &format!("{theirs}.{of}"),
            )?;
        }
        map_heads(
            mapping,
            sizes,
            &format!("{ours}.heads"),
            &format!("{theirs}.attn"),
            (["to_q", "to_k", "to_v"], ["norm_q", "norm_k"]),
        )?;
    }
    Ok(())
}

/// What the parts of a stream are called in a double layer.
struct Names {
    modulation: &'static str,
    heads: [&'static str; 3],
    norms: [&'static str; 2],
    attention_out: &'static str,
    feed_forward: &'static str,
}

fn map_stream(
    mapping: &mut Mapping<'_>,
    sizes: &MeissonicConfig,
    ours: &str,
    theirs: &str,
    names: &Names,
) -> Result<()> {
    let Names {
        modulation,
        heads,
        norms,
        attention_out,
        feed_forward,
    } = names;
    for (part, of) in [
        ("modulation", (*modulation).to_owned()),
        ("attention_out", format!("attn.{attention_out}")),
        ("up", format!("{feed_forward}.net.0.proj")),
        ("down", format!("{feed_forward}.net.2")),
    ] {
        linear(
            mapping,
            &format!("{ours}.{part}"),
            &format!("{theirs}.{of}"),
        )?;
    }
    let attention = format!("{theirs}.attn");
    map_heads(
        mapping,
        sizes,
        &format!("{ours}.heads"),
        &attention,
        (*heads, *norms),
    )
}

/// Queries, keys and values, and the norms of the first two.
fn map_heads(
    mapping: &mut Mapping<'_>,
    sizes: &MeissonicConfig,
    ours: &str,
    theirs: &str,
    (heads, norms): ([&str; 3], [&str; 2]),
) -> Result<()> {
    let (width, head) = (sizes.width(), sizes.head_width());
    // There rotated pairs are neighbours; ours has the first of each pair, then the second ones. Values stay.
    let order = move |i: usize| {
        if i >= 2 * width {
            return i;
        }
        let (start, i) = (i / head * head, i % head);
        let (half, pair) = (i / (head / 2), i % (head / 2));
        start + 2 * pair + half
    };
    for part in ["weight", "bias"] {
        let theirs = heads.map(|name| format!("{theirs}.{name}.{part}"));
        mapping.sorted(
            &format!("{ours}.qkv.{part}"),
            &theirs.each_ref().map(String::as_str),
            order,
        )?;
    }
    for (ours_norm, norm) in ["q_norm", "k_norm"].into_iter().zip(norms) {
        mapping.sorted(
            &format!("{ours}.{ours_norm}.weight"),
            &[&format!("{theirs}.{norm}.weight")],
            order,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
