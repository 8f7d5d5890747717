"""Writes tiny random aMUSEd pipelines in the published folder form, and what they make of captions and pictures.

    python reference/write_amused_goldens.py

Models and figures are diffusers' (`AmusedPipeline`, `AmusedInpaintPipeline`, `UVit2DModel`, `VQModel`,
`AmusedScheduler`) and transformers' (`CLIPTextModelWithProjection`). The pipelines run as they are, but for their random
numbers: `Draws` puts impasto's in their place, so that both have the same uniform draws. Greedy pictures take the most
probable ids, and no noise.
"""

import json
import shutil
import warnings

import diffusers.schedulers.scheduling_amused as scheduling
import torch
from diffusers import AmusedInpaintPipeline, AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from masked_goldens import CAPTIONS, END, SOURCES, STEPS, Draws, randomise, schedules, tokenizer_of, with_a_seed

OUT = SOURCES / "import/amused/goldens"


# --- models -----------------------------------------------------------------------------------------------


def save(pipeline, folder, half):
    """As published: a folder a part."""
    for name in ("transformer", "vqvae", "text_encoder"):
        part = getattr(pipeline, name)
        part.save_pretrained(folder / name)
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        path = folder / name / f"{stem}.safetensors"
        if half:
            path.unlink()
            path = path.with_name(f"{stem}.fp16.safetensors")
        save_file({key: value.half().contiguous() for key, value in part.state_dict().items()}, path, {"format": "pt"})
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    classes = {
        "scheduler": ["diffusers", "AmusedScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "UVit2DModel"],
        "vqvae": ["diffusers", "VQModel"],
    }
    index = {"_class_name": "AmusedPipeline", "_diffusers_version": "0.42.1", **classes}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))


# --- figures ----------------------------------------------------------------------------------------------


def steps_of(pipeline, draws, **arguments):
    """The ids after each step of a pipeline, -1 where they are masked: `[steps, positions]`."""
    found = []
    mask = pipeline.scheduler.config.mask_token_id

    def callback(step, timestep, ids):
        ids = ids.flatten()
        found.append(torch.where(ids == mask, -1, ids))

    with draws, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline(num_inference_steps=STEPS, callback=callback, output_type="latent", **arguments)
    return torch.stack(found).int()


def write(name, seed, text, net, vq, mask_id=None, schedule="cosine", half=False, pad=END, length=13):
    torch.manual_seed(seed)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = tokenizer_of(folder / "tokenizer", length, pad)
    config = CLIPTextConfig(vocab_size=554, max_position_embeddings=length, bos_token_id=552, pad_token_id=1, **text)
    levels = len(vq["block_out_channels"])
    vqvae = VQModel(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels, mid_block_add_attention=False,
        lookup_from_codebook=True, force_upcast=True, num_vq_embeddings=net["codebook_size"], **vq,
    )
    transformer = UVit2DModel(encoder_hidden_size=text["hidden_size"], cond_embed_dim=text["projection_dim"], micro_cond_embed_dim=5 * net["micro_cond_encode_dim"], **net)
    scheduler = AmusedScheduler(mask_token_id=mask_id or net["vocab_size"] - 1, masking_schedule=schedule)
    parts = dict(vqvae=randomise(vqvae), tokenizer=tokenizer, text_encoder=randomise(CLIPTextModelWithProjection(config)), transformer=randomise(transformer), scheduler=scheduler)
    pipeline = AmusedPipeline(**parts)
    save(pipeline, folder, half)

    side, scale = net["sample_size"], pipeline.vae_scale_factor
    positions, codes, mask = side * side, net["codebook_size"], scheduler.config.mask_token_id
    prompts = tokenizer([*CAPTIONS, ""], padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    read = pipeline.text_encoder(prompts, output_hidden_states=True)
    tensors = {"text_states": read.hidden_states[-2], "text_embeds": read.text_embeds}

    # Logits of a half-masked and of a wholly masked picture.
    image_ids = torch.randint(0, codes, (2, positions))
    canvas = image_ids.clone()
    canvas[0, torch.rand(positions) < 0.5] = mask
    canvas[1] = mask
    size = side * scale
    conditions = torch.tensor([[size, size, 0, 0, 6]], dtype=torch.float32).expand(2, -1)
    logits = []
    for row in range(3):
        states, pooled = (value[row : row + 1].expand(2, *value.shape[1:]) for value in (read.hidden_states[-2], read.text_embeds))
        found = transformer(canvas.view(2, side, side), encoder_hidden_states=states, pooled_text_emb=pooled, micro_conds=conditions)
        logits.append(found.flatten(2).transpose(1, 2))
    tensors |= {"image_ids": image_ids.int(), "canvas": torch.where(canvas == mask, -1, canvas).int(), "logits": torch.stack(logits[1:])}

    tensors["pixels"] = vqvae.decode(image_ids[:1], force_not_quantize=True, shape=(1, side, side, vq["latent_channels"])).sample
    picture = torch.randint(0, 256, (1, 3, size, size))
    vectors = vqvae.encode(picture / 255).latents
    distances = torch.cdist(vectors.permute(0, 2, 3, 1).flatten(0, 2), vqvae.quantize.embedding.weight)
    best = distances.topk(2, largest=False).values
    assert (best[:, 1] - best[:, 0]).min() > 1e-4, "too near a tie to compare"
    picture_ids = vqvae.quantize(vectors)[2][2].view(1, -1)
    tensors |= {"picture": picture.int(), "picture_ids": picture_ids.int()}

    caption = dict(prompt=CAPTIONS[0], height=size, width=size)
    greedy = dict(temperature=(0, 0))
    nothing = lambda: Draws(scheduling, None, STEPS, positions)
    tensors["greedy_steps"] = steps_of(pipeline, nothing(), guidance_scale=1.0, **caption, **greedy)
    tensors["guided_steps"] = steps_of(pipeline, nothing(), guidance_scale=4.0, **caption, **greedy)
    tensors["negative_steps"] = steps_of(pipeline, nothing(), guidance_scale=4.0, negative_prompt=CAPTIONS[1], **caption, **greedy)
    tensors["sampled_steps"] = steps_of(pipeline, Draws(scheduling, 7, STEPS, positions), guidance_scale=1.0, **caption)
    tensors["sampled_guided_steps"] = steps_of(pipeline, Draws(scheduling, 8, STEPS, positions), guidance_scale=4.0, **caption)

    # A hole of whole patches.
    hole = torch.zeros(side, side)
    hole[side // 4 : side // 4 + side // 2, side // 3 :] = 1
    inpaint = AmusedInpaintPipeline(**parts)
    masks = hole.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    holed = dict(prompt=CAPTIONS[1], image=picture / 255, mask_image=masks[None, None])
    tensors["hole"] = hole.flatten().int()
    tensors["inpaint_greedy_steps"] = steps_of(inpaint, nothing(), guidance_scale=4.0, **holed, **greedy)
    tensors["inpaint_steps"] = steps_of(inpaint, Draws(scheduling, 9, STEPS, positions), guidance_scale=4.0, **holed)

    metadata = {"captions": [*CAPTIONS, ""], "text_ids": prompts.tolist(), "steps": STEPS}
    if name == "plain":
        metadata["schedules"] = schedules(AmusedScheduler)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors", {key: json.dumps(value) for key, value in metadata.items()})
    print(name, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) >> 10, "KiB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with_a_seed(
        write,
        "plain",
        text=dict(hidden_size=32, intermediate_size=52, num_hidden_layers=3, num_attention_heads=4, projection_dim=20, eos_token_id=553, hidden_act="quick_gelu"),
        net=dict(hidden_size=48, micro_cond_encode_dim=16, vocab_size=56, codebook_size=48, in_channels=36, block_out_channels=36, num_res_blocks=2, block_num_heads=3, num_hidden_layers=2, num_attention_heads=4, intermediate_size=72, sample_size=6),
        vq=dict(block_out_channels=[32, 32], layers_per_block=1, latent_channels=8),
    )
    with_a_seed(
        write,
        "halved",
        text=dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2, projection_dim=24, eos_token_id=2, hidden_act="quick_gelu"),
        net=dict(hidden_size=40, micro_cond_encode_dim=10, vocab_size=72, codebook_size=64, in_channels=28, block_out_channels=24, num_res_blocks=1, downsample=True, upsample=True, block_num_heads=2, num_hidden_layers=3, num_attention_heads=2, intermediate_size=56, sample_size=8),
        vq=dict(block_out_channels=[32, 32], layers_per_block=2, latent_channels=12),
        half=True,
    )
    with_a_seed(
        write,
        "odd",
        text=dict(hidden_size=40, intermediate_size=44, num_hidden_layers=2, num_attention_heads=5, projection_dim=12, eos_token_id=553, hidden_act="gelu"),
        # As wide inside as outside: the blocks read the caption as it is.
        net=dict(hidden_size=36, micro_cond_encode_dim=8, vocab_size=61, codebook_size=50, in_channels=20, block_out_channels=36, num_res_blocks=1, downsample=True, upsample=True, block_num_heads=1, num_hidden_layers=1, num_attention_heads=3, intermediate_size=60, sample_size=8),
        vq=dict(block_out_channels=[32, 64, 32], layers_per_block=1, latent_channels=16),
        mask_id=50, schedule="linear", pad="!", length=17,
    )
