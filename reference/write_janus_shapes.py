"""Writes a Janus-Pro in its exact sizes with random weights in bfloat16, in the Hugging Face form.

    python reference/write_janus_shapes.py 1b|7b FOLDER
    python reference/write_janus_shapes.py 7b-int4 FOLDER SMALLER

For measuring time and memory; what such a model draws is noise. The tokenizer is the goldens' small one. A tensor is
written as soon as it is drawn, so that the script itself needs little memory.

The second form writes 7B in four bits as `impasto quantize --to int4` would, without the 15 GB of bfloat16 before it
(docs/quantisation.md, crates/kernels/src/quantised/mod.rs). SMALLER is a quantised 1B, whose image tokenizer, text
tokenizer and config it takes.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

GOLDENS = Path(__file__).parent.parent / "crates/impasto/src/import/janus/goldens/pro"
SIZES = {
    "1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16),
    "7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=30, num_attention_heads=32, num_key_value_heads=32),
}


def config(size):
    tokenizer = json.loads((GOLDENS / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    bos, eos, pad, image = [next(id for token, id in ids.items() if part in token) for part in ["begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "pad", "image_placeholder"]]
    llama = SIZES[size]
    width = llama["hidden_size"]
    return JanusConfig(
        text_config=LlamaConfig(vocab_size=102400, max_position_embeddings=16384, rms_norm_eps=1e-6, bos_token_id=bos, eos_token_id=eos, pad_token_id=pad, **llama),
        vision_config=JanusVisionConfig(projection_dim=width),
        vq_config=JanusVQVAEConfig(projection_dim=width, image_token_embed_dim=width),
        image_token_id=image,
        tie_word_embeddings=False,
    )


def write(size, folder):
    folder.mkdir(parents=True, exist_ok=True)
    made = config(size)
    with torch.device("meta"):
        model = JanusForConditionalGeneration(made)
    made.dtype = "bfloat16"
    made.architectures = ["JanusForConditionalGeneration"]
    made.save_pretrained(folder)
    shutil.copy(GOLDENS / "tokenizer.json", folder)
    write_tensors(folder / "model.safetensors", {name: list(value.shape) for name, value in model.state_dict().items()}, std_of)


def std_of(name, shape):
    return 0.5 if "quantize" in name else 1.0 / max(1, torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) == 4 else 0.02


def write_tensors(path, shapes, std_of):
    """Random tensors in bfloat16; scales of norms are around 1."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        length = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + length]}
        end += length
    torch.manual_seed(0)
    with open(path, "wb") as out:
        out.write(head_of(header))
        for name, shape in shapes.items():
            is_norm = "norm" in name and name.endswith("weight")
            left = torch.Size(shape).numel()
            while left:
                count = min(left, 1 << 24)
                values = torch.empty(count, dtype=torch.float32).normal_(std=std_of(name, shape))
                if is_norm:
                    values += 1
                out.write(values.bfloat16().view(torch.uint8).numpy().tobytes())
                left -= count


def head_of(header):
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head


# --- four bits --------------------------------------------------------------------------------------------

# A block of 64 inputs of 16 outputs: 32 scales in bfloat16, then half a byte each.
BLOCK = 64 + 512


def blocks(inputs, outputs):
    return -(-inputs // 64) * -(-outputs // 16)


def write_int4(folder, smaller):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "image_tokenizer.safetensors"):
        shutil.copy(smaller / name, folder)
    made = json.loads((smaller / "config.json").read_text())
    sizes, llama = made["janus"], SIZES["7b"]
    width, hidden, layers = (llama[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    sizes |= dict(width=width, hidden=hidden, n_layers=layers, n_heads=llama["num_attention_heads"])
    made |= dict(name="janus-pro-7b-random", precision="int4")
    (folder / "config.json").write_text(json.dumps(made, indent=2))
    eyes, text, codes = sizes["vision"], sizes["text_vocab_size"], sizes["codebook_size"]

    linear, floats = {}, {}

    def layer(name, inputs, outputs, bias):
        linear[f"{name}.weight"] = (inputs, outputs)
        if bias:
            floats[f"{name}.bias"] = [outputs]

    def norm(name, size, bias):
        floats[f"{name}.weight"] = [size]
        if bias:
            floats[f"{name}.bias"] = [size]

    for i in range(layers):
        norm(f"blocks.{i}.attention_norm", width, False)
        norm(f"blocks.{i}.mlp_norm", width, False)
        for name, inputs, outputs in [("qkv", width, 3 * width), ("attention_out", width, width), ("gate_up", width, 2 * hidden), ("down", hidden, width)]:
            layer(f"blocks.{i}.{name}", inputs, outputs, False)
    norm("norm", width, False)
    layer("text_head", width, text, False)
    layer("image_head.inner", width, width, True)
    layer("image_head.out", width, codes, True)
    for name, inputs in [("image_aligner", sizes["code_width"]), ("vision_aligner", eyes["width"])]:
        layer(f"{name}.layers.0", inputs, width, True)
        layer(f"{name}.layers.1", width, width, True)
    seen = eyes["width"]
    for i in range(eyes["n_layers"]):
        norm(f"vision.layers.{i}.attention_norm", seen, True)
        norm(f"vision.layers.{i}.mlp_norm", seen, True)
        for name, inputs, outputs in [("qkv", seen, 3 * seen), ("attention_out", seen, seen), ("up", seen, eyes["hidden"]), ("down", eyes["hidden"], seen)]:
            layer(f"vision.layers.{i}.{name}", inputs, outputs, True)
    norm("vision.norm", seen, True)
    floats["vision.patch_embedding.weight"] = [seen, 3, eyes["patch_size"], eyes["patch_size"]]
    floats["vision.patch_embedding.bias"] = [seen]
    floats["vision.position_embedding.weight"] = [(eyes["image_size"] // eyes["patch_size"]) ** 2, seen]
    floats["image_embedding.weight"] = [codes, sizes["code_width"]]

    header = {}
    order, end_of_floats = list(floats), 0
    for name in order:
        length = 2 * torch.Size(floats[name]).numel()
        header[name] = {"dtype": "F16", "shape": floats[name], "data_offsets": [end_of_floats, end_of_floats + length]}
        end_of_floats += length
    length = 2 * text * width
    header["text_embedding.weight"] = {"dtype": "BF16", "shape": [text, width], "data_offsets": [end_of_floats, end_of_floats + length]}
    end = end_of_floats + length
    for name, (inputs, outputs) in linear.items():
        length = BLOCK * blocks(inputs, outputs)
        header[name] = {"dtype": "U8", "shape": [length], "data_offsets": [end, end + length]}
        end += length

    generator = np.random.default_rng(0)
    # Numbers from -7 to 7 have a standard deviation of 4.3.
    pool = generator.integers(1, 16, (1 << 17, BLOCK), dtype=np.uint8) | generator.integers(1, 16, (1 << 17, BLOCK), dtype=np.uint8) << 4
    scale = torch.tensor([0.02 / 4.32]).bfloat16().view(torch.uint8).numpy()
    pool[:, :64] = np.tile(scale, 32)
    with open(folder / "janus.safetensors", "wb") as out:
        head = head_of(header)
        # The numbers begin at a multiple of 64 bytes.
        pad = -len(head) % 64
        out.write(struct.pack("<Q", len(head) - 8 + pad) + head[8:] + b" " * pad)
        for name in order:
            values = generator.standard_normal(torch.Size(floats[name]).numel(), dtype=np.float32) * 0.02
            if "norm" in name and name.endswith("weight"):
                values += 1
            out.write(values.astype(np.float16).tobytes())
        for start in range(0, text, 1024):
            rows = torch.randn(min(1024, text - start), width) * 0.02
            out.write(rows.bfloat16().view(torch.uint8).numpy().tobytes())
        for inputs, outputs in linear.values():
            left = blocks(inputs, outputs)
            while left:
                start = int(generator.integers(0, len(pool)))
                part = pool[start : start + left]
                if inputs < 64:
                    # What fills a block up counts as zero.
                    part = part.copy()
                    part[:, 64 + 8 * inputs :] = 0x88
                out.write(part.tobytes())
                left -= len(part)


if __name__ == "__main__":
    if sys.argv[1] == "7b-int4":
        write_int4(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        write(sys.argv[1], Path(sys.argv[2]))
