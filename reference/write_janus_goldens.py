"""Writes tiny random Janus models in both published forms, and what they make of captions and pictures.

    python reference/write_janus_goldens.py

Models and figures are transformers' (`JanusForConditionalGeneration`). Two things are the original's (deepseek-ai/Janus)
and repeated here: the prompt (`janus/utils/conversation.py`, `janus/models/processing_vlm.py`), and the image
tokenizer's encoder, which compares normalised vectors with normalised codes (`VectorQuantizer` of
`janus/models/vq_model.py`); transformers compares them as they are, and finds other ids.
"""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer
from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

OUT = Path(__file__).parent.parent / "crates/impasto/src/import/janus/goldens"
CAPTIONS = ["a red turtle on a hat", "  Two cats! \u4e09\u53ea\u732b, isn't it? "]
QUESTIONS = ["What is on the hat?", "Describe the picture in detail."]
SYSTEM = "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, and assist the user with a variety of tasks using natural language."
SPECIAL = ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<\uff5c\u2581pad\u2581\uff5c>", "<image_placeholder>", "<begin_of_image>", "<end_of_image>"]
ROLES = ["<|User|>", "<|Assistant|>"]


# --- prompts ----------------------------------------------------------------------------------------------


def conversation(roles, message, system=""):
    """`Conversation.get_prompt` of the style DeepSeek: a message, and an empty answer."""
    text = system + "\n\n" if system else ""
    text += f"{roles[0]}: {message}\n\n" if message else f"{roles[0]}:"
    return text + f"{roles[1]}:"


class Text:
    def __init__(self, folder, with_roles):
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator([*CAPTIONS, *QUESTIONS, SYSTEM, "User: Assistant:"] * 4, vocab_size=300, show_progress=False)
        inner = bpe._tokenizer
        inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
        if with_roles:
            inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ROLES])
        inner.save(str(folder / "tokenizer.json"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.roles = ROLES if with_roles else ["User", "Assistant"]
        self.bos, self.eos, self.pad, self.image, self.boi, self.eoi = map(self.tokenizer.token_to_id, SPECIAL)

    def encode(self, text):
        return [self.bos, *self.tokenizer.encode(text, add_special_tokens=False).ids]

    def drawing(self, caption):
        return self.encode(conversation(self.roles, caption.strip()).strip() + "<begin_of_image>")

    def unconditional(self, ids):
        return [ids[0], *[self.pad] * (len(ids) - 2), ids[-1]]

    def question(self, question, positions):
        ids = self.encode(conversation(self.roles, f"<image_placeholder>\n{question}".strip(), SYSTEM).strip())
        at = ids.index(self.image)
        return [*ids[:at], self.boi, *[self.image] * positions, self.eoi, *ids[at + 1 :]]


# --- models -----------------------------------------------------------------------------------------------


def randomise(model):
    """Random weights large enough that every part shows in the figures."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if "norm" in name and name.endswith("weight"):
            value.copy_(1 + 0.2 * torch.randn_like(value))
        elif value.ndim == 1:
            value.normal_(std=0.1)
        elif value.ndim == 4:
            value.normal_(std=1.2 / (value[0].numel()) ** 0.5)
        elif "embed" in name or "embedding" in name:
            value.normal_(std=0.6)
        else:
            value.normal_(std=1.3 / value.shape[1] ** 0.5)
    return model


def image_states(model, rows, ids):
    """Hidden states that predict each id of images."""
    embed = model.get_input_embeddings()
    inputs = torch.cat([embed(rows), model.prepare_embeddings_for_image_generation(ids)], 1)
    states = model.model.language_model(inputs_embeds=inputs).last_hidden_state
    return states[:, rows.shape[1] - 1 :]


def greedy(model, prompt, null, scale, positions):
    rows = torch.tensor([prompt, null])
    ids = torch.empty(1, 0, dtype=torch.long)
    for _ in range(positions):
        logits = model.model.generation_head(image_states(model, rows, ids.repeat(2, 1))[:, -1])
        row = logits[1] + scale * (logits[0] - logits[1])
        best = row.topk(2).values
        assert best[0] - best[1] > 1e-3, "too near a tie to compare"
        ids = torch.cat([ids, row.argmax().view(1, 1)], 1)
    return ids


def nearest(model, pixels):
    """`VectorQuantizer.forward` of the original, with `l2_norm`."""
    vq = model.model.vqmodel
    vectors = vq.quant_conv(vq.encoder(pixels)).permute(0, 2, 3, 1).flatten(0, 2)
    vectors, codes = F.normalize(vectors, dim=-1), F.normalize(vq.quantize.embedding.weight, dim=-1)
    distances = (vectors**2).sum(1, keepdim=True) + (codes**2).sum(1) - 2 * vectors @ codes.T
    best = distances.topk(2, largest=False).values
    assert (best[:, 1] - best[:, 0]).min() > 1e-4, "too near a tie to compare"
    return distances.argmin(1).view(pixels.shape[0], -1)


def original_names(state):
    """The names of deepseek-ai's files."""
    renamed = {}
    levels = 1 + max(int(name.split(".")[4]) for name in state if name.startswith("model.vqmodel.decoder.up."))
    aligned = {"fc1": "layers.0", "hidden_layers.0": "layers.2"}
    for name, value in state.items():
        if name == "lm_head.weight":
            renamed["language_model.lm_head.weight"] = value
        elif name.startswith("model.language_model."):
            renamed[name.replace("model.language_model.", "language_model.model.", 1)] = value
        elif name.startswith("model.generation_head."):
            renamed[name.replace("model.generation_head.proj_out", "gen_head.output_mlp_projector").replace("model.generation_head.", "gen_head.")] = value
        elif name.startswith("model.generation_embeddings."):
            renamed[name.replace("model.generation_embeddings", "gen_embed")] = value
        elif name.startswith(("model.aligner.", "model.generation_aligner.")):
            new = name.replace("model.", "", 1).replace("generation_aligner", "gen_aligner")
            for old, other in aligned.items():
                new = new.replace(old, other)
            renamed[new] = value
        elif name.startswith("model.vision_model."):
            new = name.replace("model.vision_model.", "vision_model.vision_tower.", 1)
            if "position_embedding" in new:
                renamed["vision_model.vision_tower.pos_embed"] = value[None]
                continue
            if ".self_attn.q_proj." in new:
                parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                renamed[new.replace("encoder.layers", "blocks").replace("self_attn.q_proj", "attn.qkv")] = torch.cat(parts)
                continue
            if ".self_attn.k_proj." in new or ".self_attn.v_proj." in new:
                continue
            for old, other in [("embeddings.patch_embedding", "patch_embed.proj"), ("encoder.layers", "blocks"), ("layer_norm1", "norm1"), ("layer_norm2", "norm2"), ("self_attn.projection_layer", "attn.proj"), ("post_layernorm", "norm")]:
                new = new.replace(old, other)
            renamed[new] = value
        elif name.startswith("model.vqmodel."):
            new = name.replace("model.vqmodel.", "gen_vision_model.", 1)
            for old, other in [("mid.block_1", "mid.0"), ("mid.attn_1", "mid.1"), ("mid.block_2", "mid.2")]:
                new = new.replace(old, other)
            if ".down." in new or ".up." in new:
                new = new.replace(".down.", ".conv_blocks.").replace(".up.", ".conv_blocks.").replace(".block.", ".res.")
            renamed[new] = value
        else:
            raise SystemExit(f"{name}: no name")
    width = state["model.vision_model.post_layernorm.weight"].shape[0]
    for name, shape in [("latent", [1, 1, width]), ("q.weight", [width, width]), ("norm.bias", [width])]:
        renamed[f"vision_model.vision_tower.attn_pool.{name}"] = torch.randn(shape)
    renamed["gen_vision_model.quantize.codebook_used"] = torch.zeros(64)
    assert levels > 1
    return renamed


def original_config(config):
    text = config.text_config
    llama = {key: getattr(text, key) for key in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"]}
    return {
        "model_type": "multi_modality",
        "language_config": {"model_type": "llama", "torch_dtype": "bfloat16", "_attn_implementation_internal": "flash_attention_2", **llama},
        "vision_config": {"cls": "CLIPVisionTower", "model_type": "vision", "params": {"image_size": config.vision_config.image_size, "model_name": "siglip_large_patch16_384", "select_feature": "same", "select_layer": -1}},
        "aligner_config": {"cls": "MlpProjector", "model_type": "aligner", "params": {"depth": 2, "input_dim": config.vision_config.hidden_size, "n_embed": text.hidden_size, "projector_type": "mlp_gelu"}},
        "gen_vision_config": {"cls": "VQ-16", "model_type": "gen_vision", "params": {"image_token_size": config.vq_config.num_embeddings, "n_embed": config.vq_config.embed_dim}},
        "gen_aligner_config": {"cls": "MlpProjector", "model_type": "gen_aligner", "params": {"depth": 2, "input_dim": config.vq_config.embed_dim, "n_embed": text.hidden_size, "projector_type": "mlp_gelu"}},
        "gen_head_config": {"cls": "vision_head", "model_type": "gen_head", "params": {"image_token_embed": text.hidden_size, "image_token_size": config.vq_config.num_embeddings, "n_embed": text.hidden_size}},
    }


def save(model, folder, form):
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if form.startswith("hf"):
        model.save_pretrained(folder, max_shard_size="400KB" if form == "hf_sharded" else "1GB")
        for name in ["generation_config.json"]:
            (folder / name).unlink(missing_ok=True)
        return
    renamed = original_names(state)
    renamed = {name: value.to(next(iter(state.values())).dtype).contiguous() for name, value in renamed.items()}
    (folder / "config.json").write_text(json.dumps(original_config(model.config), indent=2) + "\n")
    if form == "original_safetensors":
        save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    elif form == "original_bin":
        torch.save(renamed, folder / "pytorch_model.bin")
    else:
        names = sorted(renamed)
        files, weight_map = [names[: len(names) // 2], names[len(names) // 2 :]], {}
        for number, part in enumerate(files, 1):
            file = f"pytorch_model-{number:05}-of-00002.bin"
            torch.save({name: renamed[name] for name in part}, folder / file)
            weight_map |= dict.fromkeys(part, file)
        total = sum(value.numel() * value.element_size() for value in renamed.values())
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1) + "\n")


def write(name, **options):
    """Draws weights again where two ids are too near each other to compare what is drawn."""
    for seed in range(60):
        torch.manual_seed(1000 * len(name) + seed)
        try:
            return write_once(name, **options)
        except AssertionError as error:
            print(name, seed, error)
    raise SystemExit(f"{name}: no seed without ties")


def write_once(name, form, llama, vision, vq, roles=True, half=True):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = Text(folder, roles)
    grid = vision["image_size"] // vision["patch_size"]
    positions, width = grid * grid, llama["hidden_size"]
    special = dict(bos_token_id=text.bos, eos_token_id=text.eos, pad_token_id=text.pad)
    config = JanusConfig(
        text_config=LlamaConfig(vocab_size=text.tokenizer.get_vocab_size() + 5, num_key_value_heads=llama["num_attention_heads"], max_position_embeddings=1024, rms_norm_eps=1e-6, **llama, **special),
        vision_config=JanusVisionConfig(num_image_tokens=positions, projection_dim=width, **vision),
        vq_config=JanusVQVAEConfig(projection_dim=width, image_token_embed_dim=width, **vq),
        image_token_id=text.image,
        tie_word_embeddings=False,
    )
    model = randomise(JanusForConditionalGeneration(config).eval())
    if half:
        for value in model.state_dict().values():
            value.copy_(value.bfloat16())
    # The model itself stays in 32 bits: its rotary frequencies would be rounded, too.
    save(copy.deepcopy(model).bfloat16() if half else model, folder, form)

    prompts = [text.drawing(caption) for caption in CAPTIONS]
    nulls = [text.unconditional(ids) for ids in prompts]
    image_ids = torch.randint(0, vq["num_embeddings"], (2, positions))
    tensors, logits, image_nll, greedy_ids, guided_ids = {"image_ids": image_ids.int()}, [], [], [], []
    for prompt, null, ids in zip(prompts, nulls, image_ids):
        rows = torch.tensor([prompt, null])
        found = model.model.generation_head(image_states(model, rows, ids[None].repeat(2, 1)[:, :-1]))
        logits.append(found)
        image_nll.append(F.cross_entropy(found[0], ids, reduction="sum"))
        greedy_ids.append(greedy(model, prompt, null, 1.0, positions))
        guided_ids.append(greedy(model, prompt, null, 5.0, positions))
        generation = GenerationConfig(do_sample=False, guidance_scale=5.0, max_length=len(prompt) + positions, generation_kwargs={"boi_token_id": text.boi}, **special)
        again = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), generation_mode="image", generation_config=generation)
        assert (again == guided_ids[-1]).all(), "transformers draws something else"
    tensors |= {"logits": torch.stack(logits), "image_nll": torch.stack(image_nll)}
    tensors |= {"greedy_ids": torch.cat(greedy_ids).int(), "guided_ids": torch.cat(guided_ids).int()}

    tensors["pixels"] = model.model.vqmodel.decode(image_ids)
    size = vision["image_size"]
    picture = torch.randint(0, 256, (1, 3, size, size))
    scaled = picture / 127.5 - 1
    tensors |= {"picture": picture.int(), "picture_ids": nearest(model, scaled).int()}

    # A picture that is not square goes through the processor.
    wide = np.random.default_rng(5).integers(0, 256, (size + 7, 2 * size + 3, 3), dtype=np.uint8)
    for _ in range(3):
        wide = ((wide.astype(int) + np.roll(wide, 1, 0) + np.roll(wide, 1, 1)) // 3).astype(np.uint8)
    processor = JanusImageProcessorPil(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3, min_size=1)
    seen = processor(images=wide, return_tensors="pt").pixel_values
    features = model.model.vision_model(seen).last_hidden_state
    tensors |= {"wide": torch.from_numpy(wide.astype(np.int32)), "seen": seen, "features": features, "aligned": model.model.aligner(features)}
    asked, answers = [], []
    for question in QUESTIONS:
        ids = torch.tensor([text.question(question, positions)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), pixel_values=seen, generation_mode="text", do_sample=False, max_new_tokens=12, output_scores=True, return_dict_in_generate=True, **special)
        scores = torch.stack([row[0] for row in out.scores])
        best = scores.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-3, "too near a tie to compare"
        asked.append(ids[0].tolist())
        answers.append(out.sequences[0, ids.shape[1] :].tolist())
        tensors[f"answer_logits_{len(answers)}"] = scores
    metadata = {"captions": CAPTIONS, "text_ids": prompts, "null_ids": nulls, "questions": QUESTIONS, "question_ids": asked, "answers": answers}
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors", {key: json.dumps(value) for key, value in metadata.items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    write("pro", form="hf", half=False, llama=dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4), vision=dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4), vq=dict(embed_dim=8, num_embeddings=128, base_channels=32, channel_multiplier=[1, 1, 1], num_res_blocks=1, latent_channels=32))
    write("sharded", form="hf_sharded", llama=dict(hidden_size=48, intermediate_size=84, num_hidden_layers=3, num_attention_heads=3), vision=dict(hidden_size=36, num_hidden_layers=1, num_attention_heads=3, image_size=20, patch_size=4, mlp_ratio=2.5), vq=dict(embed_dim=6, num_embeddings=75, base_channels=32, channel_multiplier=[1, 2, 1], num_res_blocks=1, latent_channels=24))
    write("original", form="original_sharded", llama=dict(hidden_size=56, intermediate_size=72, num_hidden_layers=2, num_attention_heads=2), vision=dict(hidden_size=128, num_hidden_layers=1, num_attention_heads=2, image_size=24, patch_size=8), vq=dict(embed_dim=8, num_embeddings=90, base_channels=32, channel_multiplier=[1, 1, 1, 1], num_res_blocks=1, latent_channels=16))
    write("old_roles", form="original_safetensors", roles=False, llama=dict(hidden_size=40, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2), vision=dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=12, patch_size=2), vq=dict(embed_dim=4, num_embeddings=50, base_channels=32, channel_multiplier=[1, 1], num_res_blocks=2, latent_channels=16))
    write("one_bin", form="original_bin", llama=dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4), vision=dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=2), vq=dict(embed_dim=4, num_embeddings=40, base_channels=32, channel_multiplier=[1, 1], num_res_blocks=1, latent_channels=16))
