"""Writes tiny random Meissonics in the published folder form, and what they make of captions and pictures.

    python reference/write_meissonic_goldens.py CHECKOUT

CHECKOUT is one of https://github.com/viiika/Meissonic at aeba85e8db9cc4831f0766d226e82548b6ebe76a, whose
`src/transformer.py` (`Transformer2DModel`) and `src/scheduler.py` (`Scheduler`) are the reference; nothing of it is
copied. They need diffusers 0.33.1 (`pip install --no-deps --target FOLDER diffusers==0.33.1`, `PYTHONPATH=FOLDER`), whose
pipelines do not import beside transformers 5: `draw` is the loop of `src/pipeline.py` and `src/pipeline_inpaint.py`, and
`one_pass` that of `sample_Meissonic.py` of https://github.com/yuanzhi-zhu/DiMO at
24613741ec9ca730273a6ebc822327878d5a086b. Random numbers are impasto's (`Draws`), so that both have the same uniform
draws. Greedy pictures take the most probable ids, and no noise.
"""

import json
import shutil
import sys
from pathlib import Path

# Another version of it than diffusers expects would stop the import; nothing here is quantised.
sys.modules["torchao"] = None
sys.path.insert(0, sys.argv[1])

import src.scheduler as scheduling
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from safetensors.torch import save_file
from src.transformer import Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from masked_goldens import CAPTIONS, END, SOURCES, STEPS, Draws, pair, randomise, schedules, tokenizer_of, with_a_seed

OUT = SOURCES / "import/meissonic/goldens"
# Image tokenizers are aMUSEd's: the same class, and files that are stored once.
VQ = SOURCES / "import/amused/goldens"
# The stream of the codes that one pass starts from: `RandomStream::Start`.
START = 2**64 - 5


def save(part, folder, stem, half):
    part.save_pretrained(folder)
    path = folder / f"{stem}.safetensors"
    if half:
        path.unlink()
        path = path.with_name(f"{stem}.fp16.safetensors")
    save_file({key: value.half().contiguous() for key, value in part.state_dict().items()}, path, {"format": "pt"})


def places(side):
    """`_prepare_latent_image_ids` of pictures whose tokens have this side."""
    ids = torch.zeros(side, side, 3)
    ids[..., 1] += torch.arange(side)[:, None]
    ids[..., 2] += torch.arange(side)[None, :]
    return ids.view(-1, 3)


class Model:
    """The parts, and how the reference calls them."""

    def __init__(self, transformer, text_encoder, tokenizer, vqvae, scheduler, side):
        self.transformer, self.text_encoder, self.tokenizer, self.vqvae, self.scheduler, self.side = transformer, text_encoder, tokenizer, vqvae, scheduler, side
        self.scale = 2 ** (len(vqvae.config.block_out_channels) - 1)

    def ids(self, captions):
        length = self.text_encoder.config.max_position_embeddings
        return self.tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids

    def read(self, captions):
        read = self.text_encoder(self.ids(captions), output_hidden_states=True)
        return read.hidden_states[-2], read.text_embeds

    def logits(self, canvas, states, pooled, timestep):
        """`[rows, codes, side, side]` of canvases `[rows, side, side]`."""
        rows, size = len(canvas), self.side * self.scale
        halved = self.transformer.config.downsample
        conditions = torch.tensor([[size, size, 0, 0, 6]], dtype=torch.float32).expand(rows, -1)
        return self.transformer(
            hidden_states=canvas, micro_conds=conditions, pooled_projections=pooled, encoder_hidden_states=states,
            img_ids=places(self.side // 2 if halved else self.side), txt_ids=torch.zeros(states.shape[1], 3), timestep=torch.tensor([timestep], dtype=torch.long),
        )

    def draw(self, draws, caption, negative="", guidance=1.0, temperature=(2, 0), canvas=None):
        """The ids after each step, -1 where they are masked: `[steps, positions]`."""
        mask, scheduler = self.scheduler.config.mask_token_id, self.scheduler
        arguments = {}
        if canvas is None:
            canvas = torch.full((1, self.side, self.side), mask)
        else:
            arguments["starting_mask_ratio"] = (canvas == mask).sum() / canvas.numel()
        captions = [negative, caption] if guidance > 1 else [caption]
        states, pooled = self.read(captions)
        scheduler.set_timesteps(STEPS, temperature)
        found = []
        with draws:
            for timestep in scheduler.timesteps:
                output = self.logits(torch.cat([canvas] * len(captions)), states, pooled, timestep)
                if guidance > 1:
                    unconditional, conditional = output.chunk(2)
                    output = unconditional + guidance * (conditional - unconditional)
                canvas = scheduler.step(model_output=output, timestep=timestep, sample=canvas, **arguments).prev_sample
                ids = canvas.flatten()
                found.append(torch.where(ids == mask, -1, ids))
        return torch.stack(found).int()


def clip(text, length):
    sizes = {"vocab_size": 554, **text}
    return CLIPTextModelWithProjection(CLIPTextConfig(max_position_embeddings=length, bos_token_id=552, pad_token_id=1, hidden_act="gelu", **sizes))


def write(name, seed, text, net, vq, side, mask_id=None, schedule="cosine", half=False, pad=END, length=13):
    torch.manual_seed(seed)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = tokenizer_of(folder / "tokenizer", length, pad)
    shutil.copytree(VQ / vq / "vqvae", folder / "vqvae")
    vqvae = VQModel.from_pretrained(folder / "vqvae").eval()
    heads, head = net["num_attention_heads"], sum(net["axes_dims_rope"])
    codes = vqvae.config.num_vq_embeddings
    transformer = Transformer2DModel(
        attention_head_dim=head, joint_attention_dim=text["hidden_size"], pooled_projection_dim=heads * head, codebook_size=codes, **net,
    )
    scheduler = scheduling.Scheduler(mask_token_id=mask_id or net["vocab_size"] - 1, masking_schedule=schedule)
    transformer, text_encoder = randomise(transformer), randomise(clip({**text, "projection_dim": heads * head}, length))
    save(transformer, folder / "transformer", "diffusion_pytorch_model", half)
    save(text_encoder, folder / "text_encoder", "model", half)
    scheduler.save_pretrained(folder / "scheduler")
    # As `Pipeline` asks for it; published configs have none, for 1024 or 512 pixels.
    path = folder / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": side}, indent=1))
    index = {"_class_name": "Pipeline", "_diffusers_version": "0.33.1", "transformer": ["src.transformer", "Transformer2DModel"], "scheduler": ["src.scheduler", "Scheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))

    model = Model(transformer, text_encoder, tokenizer, vqvae, scheduler, side)
    positions, mask = side * side, scheduler.config.mask_token_id
    prompts = model.ids([*CAPTIONS, ""])
    states, pooled = model.read([*CAPTIONS, ""])
    tensors = {"text_states": states, "text_embeds": pooled}

    # Logits of a half-masked and of a wholly masked picture, at a late and at an early pass.
    image_ids = torch.randint(0, codes, (2, positions))
    canvas = image_ids.clone()
    canvas[0, torch.rand(positions) < 0.5] = mask
    canvas[1] = mask
    logits = []
    for row in range(1, 3):
        for of, left in enumerate((1, 40)):
            found = model.logits(canvas[of : of + 1].view(1, side, side), states[row : row + 1], pooled[row : row + 1], left)
            logits.append(found.flatten(2).transpose(1, 2))
    tensors |= {"image_ids": image_ids.int(), "canvas": torch.where(canvas == mask, -1, canvas).int(), "logits": torch.cat(logits)}

    tensors["pixels"] = vqvae.decode(image_ids[:1], force_not_quantize=True, shape=(1, side, side, vqvae.config.latent_channels)).sample
    size = side * model.scale
    picture = torch.randint(0, 256, (1, 3, size, size))
    vectors = vqvae.encode(picture / 255).latents
    distances = torch.cdist(vectors.permute(0, 2, 3, 1).flatten(0, 2), vqvae.quantize.embedding.weight)
    best = distances.topk(2, largest=False).values
    assert (best[:, 1] - best[:, 0]).min() > 1e-4, "too near a tie to compare"
    picture_ids = vqvae.quantize(vectors)[2][2].view(1, -1)
    tensors |= {"picture": picture.int(), "picture_ids": picture_ids.int()}

    greedy = dict(temperature=(0, 0))
    draws = lambda seed: Draws(scheduling, seed, STEPS, positions)
    caption, other = CAPTIONS
    tensors["greedy_steps"] = model.draw(draws(None), caption, **greedy)
    tensors["guided_steps"] = model.draw(draws(None), caption, guidance=4.0, **greedy)
    tensors["negative_steps"] = model.draw(draws(None), caption, negative=other, guidance=4.0, **greedy)
    tensors["sampled_steps"] = model.draw(draws(7), caption)
    tensors["sampled_guided_steps"] = model.draw(draws(8), caption, guidance=4.0)

    # A hole.
    hole = torch.zeros(side, side)
    hole[side // 4 : side // 4 + side // 2, side // 3 :] = 1
    holed = torch.where(hole.flatten() == 1, mask, picture_ids).view(1, side, side)
    # As `InpaintPipeline` sets it.
    model.scheduler = scheduling.Scheduler(mask_token_id=mask, masking_schedule="linear")
    tensors["hole"] = hole.flatten().int()
    tensors["inpaint_greedy_steps"] = model.draw(draws(None), other, guidance=4.0, canvas=holed, **greedy)
    tensors["inpaint_steps"] = model.draw(draws(9), other, guidance=4.0, canvas=holed)

    metadata = {"captions": [*CAPTIONS, ""], "text_ids": prompts.tolist(), "steps": STEPS}
    if name == "plain":
        metadata["schedules"] = schedules(scheduling.Scheduler)
    write_expected(folder, tensors, metadata)


def write_expected(folder, tensors, metadata):
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors", {key: json.dumps(value) for key, value in metadata.items()})
    print(folder.name, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) >> 10, "KiB")


def one_pass(name, seed, of):
    """A student in the place that Di[M]O's repository has it in; its other parts are those of the set `of`."""
    torch.manual_seed(seed)
    folder, parts = OUT / name, OUT / of
    shutil.rmtree(folder, ignore_errors=True)
    transformer = randomise(Transformer2DModel.from_pretrained(parts / "transformer", variant="fp16"))
    config = json.loads((parts / "transformer/config.json").read_text())
    save(transformer, folder / "meissonic/transformer", "diffusion_pytorch_model", True)
    (folder / "meissonic/transformer/config.json").write_text(json.dumps(config, indent=1))
    text_encoder = CLIPTextModelWithProjection.from_pretrained(parts / "text_encoder", variant="fp16")
    length = text_encoder.config.max_position_embeddings
    shutil.rmtree("/tmp/tokenizer-of-one-pass", ignore_errors=True)
    tokenizer = tokenizer_of(Path("/tmp/tokenizer-of-one-pass"), length, END)
    vqvae = VQModel.from_pretrained(parts / "vqvae").eval()
    side, codes, mask = config["sample_size"], config["codebook_size"], config["vocab_size"] - 1
    model = Model(transformer, text_encoder, tokenizer, vqvae, None, side)
    positions = side * side
    states, pooled = model.read(CAPTIONS[:1])

    # Half of the ids are masked, those with the lowest numbers; the others are random codes.
    start, sample = 3, 3
    numbers = torch.tensor([pair(start, START, position) for position in range(positions)], dtype=torch.float64)
    canvas = (numbers[:, 1] * codes).long()
    canvas[numbers[:, 0].argsort()[: positions // 2]] = mask
    # `torch.tensor([fixed_ratio], dtype=torch.long) * 1000`
    logits = model.logits(canvas.view(1, side, side), states, pooled, 0).flatten(2).transpose(1, 2)
    best = logits[0].topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 1e-4, "too near a tie to compare"
    draws = Draws(scheduling, sample, 1, positions)
    tensors = {"start": torch.where(canvas == mask, -1, canvas)[None].int(), "logits": logits}
    tensors["greedy"] = logits[0].argmax(-1)[None].int()
    tensors["sampled"] = draws.multinomial(logits[0].softmax(-1), 1)[:, 0][None].int()
    write_expected(folder, tensors, {"captions": CAPTIONS[:1], "text_ids": model.ids(CAPTIONS[:1]).tolist(), "seed": start})


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with_a_seed(
        write,
        "plain",
        text=dict(hidden_size=32, intermediate_size=52, num_hidden_layers=3, num_attention_heads=4, eos_token_id=553),
        net=dict(num_attention_heads=2, axes_dims_rope=(4, 8, 8), num_layers=2, num_single_layers=1, vocab_size=56),
        vq="plain", side=6,
    )
    with_a_seed(
        write,
        "halved",
        text=dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2, eos_token_id=2),
        net=dict(num_attention_heads=3, axes_dims_rope=(2, 4, 6), num_layers=1, num_single_layers=3, vocab_size=60, downsample=True, upsample=True),
        vq="plain", side=8, half=True,
    )
    with_a_seed(
        write,
        "odd",
        text=dict(hidden_size=40, intermediate_size=44, num_hidden_layers=2, num_attention_heads=5, eos_token_id=553),
        # One head, nothing of it without turns, three by three tokens.
        net=dict(num_attention_heads=1, axes_dims_rope=(0, 10, 14), num_layers=3, num_single_layers=1, vocab_size=61, downsample=True, upsample=True),
        vq="odd", side=6, mask_id=50, schedule="linear", pad="!", length=17,
    )
    with_a_seed(one_pass, "student", of="halved")
