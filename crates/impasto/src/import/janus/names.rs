//! The names of Janus's tensors in its two forms.

use crate::import::taming;

/// The forms in which Janus is published: they differ in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Of transformers: `JanusForConditionalGeneration`.
    HuggingFace,
    /// Of github.com/deepseek-ai/Janus: `MultiModalityCausalLM`.
    Original,
}

/// The names of one form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names(pub Form);

impl Names {
    fn of(self, hugging_face: &str, original: &str) -> String {
        match self.0 {
            Form::HuggingFace => hugging_face.to_owned(),
            Form::Original => original.to_owned(),
        }
    }

    /// Of the language model: "embed_tokens.weight", "layers.0.self_attn.q_proj.weight".
    pub fn text(self, name: &str) -> String {
        let place = self.of("model.language_model", "language_model.model");
        format!("{place}.{name}")
    }

    pub fn text_head(self) -> String {
        self.of("lm_head.weight", "language_model.lm_head.weight")
    }

    pub fn image_embedding(self) -> String {
        self.of("model.generation_embeddings.weight", "gen_embed.weight")
    }

    pub fn image_aligner(self, layer: usize, leaf: &str) -> String {
        let place = self.of("model.generation_aligner", "gen_aligner");
        self.aligner(&place, layer, leaf)
    }

    pub fn vision_aligner(self, layer: usize, leaf: &str) -> String {
        let place = self.of("model.aligner", "aligner");
        self.aligner(&place, layer, leaf)
    }

    fn aligner(self, place: &str, layer: usize, leaf: &str) -> String {
        match (self.0, layer) {
            (Form::HuggingFace, 0) => format!("{place}.fc1.{leaf}"),
            (Form::HuggingFace, layer) => format!("{place}.hidden_layers.{}.{leaf}", layer - 1),
            // There are GELUs between them.
            (Form::Original, layer) => format!("{place}.layers.{}.{leaf}", 2 * layer),
        }
    }

    pub fn image_head_inner(self, leaf: &str) -> String {
        let place = self.of(
            "model.generation_head.proj_out",
            "gen_head.output_mlp_projector",
        );
        format!("{place}.{leaf}")
    }

    pub fn image_head_out(self, leaf: &str) -> String {
        let place = self.of("model.generation_head.vision_head", "gen_head.vision_head");
        format!("{place}.{leaf}")
    }

    /// "patch.weight", "positions", "norm.weight".
    pub fn vision(self, name: &str) -> String {
        let name = match (self.0, name) {
            (Form::HuggingFace, "positions") => "embeddings.position_embedding.weight".to_owned(),
            (Form::Original, "positions") => "pos_embed".to_owned(),
            (Form::HuggingFace, name) => name
                .replace("patch.", "embeddings.patch_embedding.")
                .replace("norm.", "post_layernorm."),
            (Form::Original, name) => name.replace("patch.", "patch_embed.proj."),
        };
        format!("{}.{name}", self.vision_place())
    }

    fn vision_place(self) -> String {
        self.of("model.vision_model", "vision_model.vision_tower")
    }

    /// "norm1.weight", "q.weight" or "qkv.weight", "proj.weight", "norm2.weight", "fc1.weight".
    pub fn vision_layer(self, layer: usize, name: &str) -> String {
        let (part, leaf) = name.split_once('.').unwrap_or((name, ""));
        let (layers, part) = match self.0 {
            Form::HuggingFace => (
                "encoder.layers",
                match part {
                    "norm1" => "layer_norm1",
                    "norm2" => "layer_norm2",
                    "q" => "self_attn.q_proj",
                    "k" => "self_attn.k_proj",
                    "v" => "self_attn.v_proj",
                    "proj" => "self_attn.projection_layer",
                    "fc1" => "mlp.fc1",
                    _ => "mlp.fc2",
                },
            ),
            Form::Original => (
                "blocks",
                match part {
                    "norm1" => "norm1",
                    "norm2" => "norm2",
                    "qkv" => "attn.qkv",
                    "proj" => "attn.proj",
                    "fc1" => "mlp.fc1",
                    _ => "mlp.fc2",
                },
            ),
        };
        format!("{}.{layers}.{layer}.{part}.{leaf}", self.vision_place())
    }

    /// What stands before the names of the image tokenizer's tensors.
    pub fn image_prefix(self) -> &'static str {
        match self.0 {
            Form::HuggingFace => "model.vqmodel.",
            Form::Original => "gen_vision_model.",
        }
    }

    /// The name of a parameter of [`crate::models::taming_vqgan::TamingVqgan`] with this many levels.
    pub fn image(self, ours: &str, levels: usize) -> String {
        let name = match self.0 {
            Form::HuggingFace => taming::coarsest_first(ours, levels),
            Form::Original => taming::of_llamagen(ours, levels),
        };
        format!("{}{name}", self.image_prefix())
    }

    /// Whether a tensor is part of the published files and of no use: the pooling head of SigLIP, how often codes were
    /// used, frequencies that are computed.
    pub fn is_unused(self, name: &str) -> bool {
        name.starts_with("vision_model.vision_tower.attn_pool.")
            || name == "gen_vision_model.quantize.codebook_used"
            || name.ends_with(".rotary_emb.inv_freq")
            || name.ends_with(".embeddings.position_ids")
    }
}
