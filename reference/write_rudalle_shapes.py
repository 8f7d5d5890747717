"""Writes a ruDALL-E of the published sizes (Malevich, 1.3 billion parameters) with random weights in 16 bits.

    python reference/write_rudalle_shapes.py FOLDER

For measuring time and memory; what such a model draws is noise. The text tokenizer is the goldens' small one. Wants what
`write_rudalle_goldens.py` wants.
"""

import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from omegaconf import OmegaConf

import write_rudalle_goldens as goldens

LAYERS, WIDTH, TEXT, WORDS, CODES, GRID = 24, 2048, 128, 16384, 8192, 32


def shapes():
    yield "text_embeddings.weight", [WORDS + TEXT, WIDTH]
    yield "image_embeddings.weight", [CODES, WIDTH]
    yield "text_pos_embeddings.weight", [TEXT + 1, WIDTH]
    for axis in ["row", "col"]:
        yield f"image_{axis}_embeddings.weight", [GRID, WIDTH]
    linears = {"attention.query_key_value": (WIDTH, 3 * WIDTH), "attention.dense": (WIDTH, WIDTH), "mlp.dense_h_to_4h": (WIDTH, 4 * WIDTH), "mlp.dense_4h_to_h": (4 * WIDTH, WIDTH)}
    norms = ["input_layernorm", "before_first_addition_layernorm", "post_attention_layernorm", "before_second_addition_layernorm"]
    for layer in range(LAYERS):
        start = f"transformer.layers.{layer}."
        for name in norms:
            yield start + name + ".weight", [WIDTH]
            yield start + name + ".bias", [WIDTH]
        for name, (inputs, outputs) in linears.items():
            yield start + name + ".weight", [outputs, inputs]
            yield start + name + ".bias", [outputs]
    for name in ["transformer.final_layernorm", "to_logits.0"]:
        yield name + ".weight", [WIDTH]
        yield name + ".bias", [WIDTH]
    yield "to_logits.1.weight", [WORDS + TEXT + CODES, WIDTH]
    yield "to_logits.1.bias", [WORDS + TEXT + CODES]


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    state = OrderedDict()
    for name, shape in shapes():
        value = torch.empty(shape, dtype=torch.float16)
        state[name] = value.normal_(std=0.02) if len(shape) == 2 else value.fill_(float(name.endswith("weight")))
    torch.save(state, folder / "pytorch_model_v3.bin")
    reference = goldens.package()
    config = OmegaConf.load(Path(reference.vae.__file__).parent / "vqgan.gumbelf8-sber.config.yml")
    vae = reference.vae.VQGanGumbelVAE(config)
    torch.save({"state_dict": vae.model.state_dict()}, folder / "vqgan.gumbelf8-sber.model.ckpt")
    shutil.copy(goldens.OUT / "v3/bpe.model", folder)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    write(Path(sys.argv[1]))
