"""Writes a LlamaGen XL of captions in its exact sizes with random weights in bfloat16, with the encoder of flan-t5-xl.

    python reference/write_llamagen_shapes.py 256|512 FOLDER --llamagen PATH/TO/LlamaGen

In the hub's form (`model.safetensors` and `config.json`), 4.2 GB; the published files are pickles in 32 bits. For measuring
time and memory; what such a model draws is noise. The text tokenizer is the goldens' small one.
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import T5Config, T5EncoderModel

from write_janus_shapes import std_of, write_tensors

GOLDENS = Path(__file__).parent.parent / "crates/impasto/src/import/llamagen/goldens/t2i"
T5 = dict(vocab_size=32128, d_model=2048, d_ff=5120, d_kv=64, num_heads=32, num_layers=24, feed_forward_proj="gated-gelu", dropout_rate=0.0, tie_word_embeddings=False)


def write(size, folder, gpt, vq_model):
    folder.mkdir(parents=True, exist_ok=True)
    shapes = lambda model: {name: list(value.shape) for name, value in model.state_dict().items()}
    arguments = gpt.ModelArgs(n_layer=36, n_head=20, dim=1280, block_size=(size // 16) ** 2, vocab_size=16384, cls_token_num=120, model_type="t2i", caption_dim=2048)
    # Its constructor can't be run without numbers: one layer, as often as there are layers.
    one = shapes(gpt.Transformer(dataclasses.replace(arguments, n_layer=1)))
    layer = {name: shape for name, shape in one.items() if name.startswith("layers.0.")}
    transformer = {name: shape for name, shape in one.items() if name not in layer}
    for i in range(arguments.n_layer):
        transformer |= {name.replace("layers.0.", f"layers.{i}."): shape for name, shape in layer.items()}
    image = shapes(vq_model.VQ_16(codebook_size=16384, codebook_embed_dim=8))
    with torch.device("meta"):
        text = shapes(T5EncoderModel(T5Config(**T5)))
    (folder / "config.json").write_text(json.dumps(vars(arguments), indent=1) + "\n")
    write_tensors(folder / "model.safetensors", transformer, std_of)
    (folder / "vq-ds16").mkdir(exist_ok=True)
    image.pop("quantize.codebook_used", None)
    write_tensors(folder / "vq-ds16/model.safetensors", image, std_of)
    inner = folder / "flan-t5-xl"
    inner.mkdir(exist_ok=True)
    T5Config(**T5).save_pretrained(inner)
    shutil.copy(GOLDENS / "flan-t5/tokenizer.json", inner)
    text.pop("encoder.embed_tokens.weight", None)
    write_tensors(inner / "model.safetensors", text, std_of)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[sys.argv.index("--llamagen") + 1])
    from autoregressive.models import gpt
    from tokenizer.tokenizer_image import vq_model

    write(int(sys.argv[1]), Path(sys.argv[2]), gpt, vq_model)
