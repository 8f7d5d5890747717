"""Writes the goldens that `crates/impasto/src/models/goldens.rs` holds our models to.

    python reference/write_native_goldens.py

One file for each model: its config and weights, an input, and what PyTorch makes of it in f32.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import native

OUT = Path(__file__).parent.parent / "crates/impasto/src/models/goldens"


def write(name, config, tensors):
    tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
    save_file(tensors, OUT / f"{name}.safetensors", {"config": json.dumps(config)})


def dalle(name, config, seed):
    torch.manual_seed(seed)
    # Spread wider than a fresh model's, so that every part of it counts.
    weights = native.dalle_weights(config, std=0.15)
    for tensor in weights.values():
        tensor.requires_grad_()
    model = native.Dalle(config, weights)
    batch, positions, length = 4, config["grid"] ** 2, config["text_length"]
    text_ids = torch.randint(3, config["text_vocab_size"], (batch, length))
    for row, end in enumerate([length - 1, length // 2, 2, length - 2]):
        text_ids[row, 0] = 1
        text_ids[row, end] = native.EOS
        text_ids[row, end + 1 :] = native.PAD
    image_ids = torch.randint(0, config["codebook_size"], (batch, positions))
    orders = torch.stack([torch.arange(positions), *(torch.randperm(positions) for _ in range(batch - 1))])
    states = model.states([("text", text_ids), model.image_part(image_ids, orders, False)])
    loss_weights = {"text": 0.125, "image": 0.875, "caption": 0.25, "contrastive": 0.1}
    losses = model.losses(text_ids, image_ids, orders, 3, loss_weights)
    losses[0].backward()
    tensors = {f"model.{key}": value for key, value in weights.items()}
    # Norms of all gradients say as much as the gradients, and are small.
    tensors |= {f"gradient_norm.{key}": value.grad.norm().reshape(1) for key, value in weights.items()}
    tensors |= {
        "text_ids": text_ids.int(),
        "image_ids": image_ids.int(),
        "orders": orders.int(),
        "text_logits": states[:, :length] @ weights["text_head.weight"],
        "image_logits": states[:, length:] @ weights["image_head.weight"],
        "losses": torch.stack(losses),
    }
    write(name, config, tensors)


def vqgan(name, config, seed):
    torch.manual_seed(seed)
    weights = native.vqgan_weights(config)
    model = native.Vqgan(config, weights)
    pixels = torch.rand(2, 3, config["picture_size"], config["picture_size"]) * 2 - 1
    ids = model.encode(pixels).view(2, -1)
    tensors = {f"model.{key}": value for key, value in weights.items()}
    tensors |= {
        "pixels": pixels,
        "vectors": model.encode_vectors(pixels),
        "ids": ids.int(),
        "decoded": model.decode(ids),
    }
    write(name, config, tensors)


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    common = {"contrastive_width": 8}
    dalle("dalle_square", common | dict(text_vocab_size=40, text_length=10, codebook_size=24, grid=4, width=32, n_layers=2, n_heads=2, hidden=64), 1)
    dalle("dalle_odd", common | dict(text_vocab_size=37, text_length=7, codebook_size=19, grid=3, width=36, n_layers=3, n_heads=3, hidden=50), 2)
    vqgan("vqgan_two_levels", dict(picture_size=16, patch=2, widths=[8, 16], n_res_blocks=1, groups=4, codebook_size=32, code_width=4), 3)
    vqgan("vqgan_three_levels", dict(picture_size=24, patch=1, widths=[6, 9, 12], n_res_blocks=2, groups=3, codebook_size=21, code_width=5), 4)
