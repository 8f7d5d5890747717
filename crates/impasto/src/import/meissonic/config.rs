//! The sizes of a published Meissonic: the small files of its folders.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::Reason;
use crate::families::PublishedFiles;
use crate::import::diffusers::{self, expect, json};
use crate::models::MeissonicConfig;
use crate::models::taming_vqgan::TamingVqganConfig;
use crate::{Error, Result, files};

/// The transformer of a pipeline.
const TRANSFORMER: &str = "transformer";
/// That of a student, in the repository of Di[M]O.
const STUDENT: &str = "meissonic/transformer";
/// The share of ids that are masked when Di[M]O draws (`fixed_ratio` in its training).
const STUDENT_MASKED: f64 = 0.5;
/// Side of the pictures where the config has no `sample_size`: of nets that see squares of two by two ids as one, and of
/// others.
const PICTURE_SIZES: [usize; 2] = [1024, 512];

/// Fields and defaults of the reference's `Transformer2DModel`.
#[derive(Deserialize)]
#[serde(default)]
struct Transformer {
    patch_size: usize,
    num_layers: usize,
    num_single_layers: usize,
    attention_head_dim: usize,
    num_attention_heads: usize,
    joint_attention_dim: usize,
    pooled_projection_dim: usize,
    guidance_embeds: bool,
    axes_dims_rope: [usize; 3],
    vocab_size: usize,
    codebook_size: usize,
    downsample: bool,
    upsample: bool,
    /// Ids along a side, which the reference's pipeline asks for and published configs have not got.
    sample_size: Option<usize>,
    /// Of students: ours, not the reference's.
    masked_at_start: Option<f64>,
}

impl Default for Transformer {
    fn default() -> Self {
        Transformer {
            patch_size: 1,
            num_layers: 19,
            num_single_layers: 38,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 4096,
            pooled_projection_dim: 768,
            guidance_embeds: false,
            axes_dims_rope: [16, 56, 56],
            vocab_size: 8256,
            codebook_size: 8192,
            downsample: false,
            upsample: false,
            sample_size: None,
            masked_at_start: None,
        }
    }
}

/// Whether a folder has a transformer of this class: other models of diffusers call theirs `Transformer2DModel`, too, but
/// have no layers of two kinds over a codebook.
fn has_transformer(folder: &Path) -> bool {
    let config = folder.join("config.json");
    let config = config.is_file().then(|| files::read(config).ok()).flatten();
    let config: Option<Value> = config.and_then(|config| serde_json::from_slice(&config).ok());
    config.is_some_and(|config| {
        config.get("_class_name").and_then(Value::as_str) == Some("Transformer2DModel")
            && config.get("num_single_layers").is_some()
            && config.get("codebook_size").is_some()
    })
}

/// Where the parts of a model are.
pub(super) struct Parts {
    /// The folder of the transformer.
    pub transformer: PathBuf,
    /// The folder of the others.
    pub others: PathBuf,
    /// Whether it is a student, which draws in one pass.
    pub is_student: bool,
}

impl Parts {
    /// The transformer's folder, and whether it is a student's.
    fn transformer(path: &Path) -> Option<(PathBuf, bool)> {
        let mut places = [(TRANSFORMER, false), (STUDENT, true)]
            .into_iter()
            .map(|(name, is_student)| (path.join(name), is_student));
        places.find(|(folder, _)| has_transformer(folder))
    }

    /// Whether a folder looks like one.
    pub fn are_in(path: &Path) -> bool {
        path.is_dir() && Parts::transformer(path).is_some()
    }

    /// Finds them: a student's others may be in the folder of the model that it learned from.
    pub fn find(published: PublishedFiles<'_>) -> Result<Self> {
        let folder = published.path;
        let (transformer, is_student) =
            Parts::transformer(folder).ok_or_else(|| Error::Missing {
                what: "the transformer",
                path: folder.join(TRANSFORMER),
                hint: "expected a folder with config.json of the class Transformer2DModel".into(),
            })?;
        let here = [Some(folder), published.image_tokenizer];
        let mut here = here.into_iter().flatten();
        let others = here.find(|folder| folder.join("vqvae").is_dir());
        let others = others.ok_or_else(|| Error::Missing {
            what: "the image tokenizer",
            path: folder.join("vqvae"),
            hint: match is_student {
                true => "put vqvae, text_encoder, tokenizer and scheduler of MeissonFlow/Meissonic into the folder; `impasto pull dimo` brings both".into(),
                false => "expected the folders of a pipeline: transformer, vqvae, text_encoder, tokenizer, scheduler".into(),
            },
        })?;
        Ok(Parts {
            others: others.to_owned(),
            transformer,
            is_student,
        })
    }
}

/// What the small files say.
pub(super) struct Sizes {
    pub net: MeissonicConfig,
    pub image: TamingVqganConfig,
}

/// The sizes of a published model.
pub(super) fn read(parts: &Parts) -> Result<Sizes> {
    let folder = parts.others.as_path();
    let image = diffusers::image(folder)?;
    let text = diffusers::text(folder)?;
    let scheduler = diffusers::scheduler(folder)?;
    let path = parts.transformer.join("config.json");
    let net: Transformer = json(&path)?;
    expect(&path, "patch_size", &net.patch_size, &1)?;
    expect(&path, "guidance_embeds", &net.guidance_embeds, &false)?;
    expect(&path, "upsample", &net.upsample, &net.downsample)?;
    let heads = net.axes_dims_rope.into_iter();
    let head = heads.fold(0usize, |sum, width| sum.saturating_add(width));
    let width = head.saturating_mul(net.num_attention_heads);
    for (name, found, expected) in [
        ("codebook_size", net.codebook_size, image.codebook_size),
        (
            "joint_attention_dim",
            net.joint_attention_dim,
            text.tower.width,
        ),
        ("attention_head_dim", net.attention_head_dim, head),
        ("pooled_projection_dim", net.pooled_projection_dim, width),
        ("pooled_projection_dim", width, text.projection_width),
    ] {
        expect(&path, name, &found, &expected)?;
    }
    let scale = diffusers::scale(&image);
    let [large, small] = PICTURE_SIZES;
    let usual = if net.downsample { large } else { small };
    let grid = net.sample_size.unwrap_or(usual / scale);
    let picture_size = grid.saturating_mul(scale);
    let masked = parts.is_student.then_some(STUDENT_MASKED);
    let net = MeissonicConfig {
        text,
        codebook_size: net.codebook_size,
        embedding_rows: net.vocab_size,
        mask_id: scheduler.mask_token_id,
        grid,
        picture_size,
        halved: net.downsample,
        head_widths: net.axes_dims_rope,
        n_heads: net.num_attention_heads,
        n_double_layers: net.num_layers,
        n_single_layers: net.num_single_layers,
        schedule: scheduler.masking_schedule,
        masked_at_start: net.masked_at_start.or(masked),
    };
    net.validate()
        .map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
    Ok(Sizes {
        net,
        image: diffusers::of_pictures(folder, image, picture_size)?,
    })
}
