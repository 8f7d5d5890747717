"""Writes DALL·E mini or mega in their exact sizes with random weights in 16 bits, as they are published for Flax.

    python reference/write_dalle_mini_shapes.py mini|mega FOLDER

For measuring time and memory; what such a model draws is noise. The tokenizer is the goldens' small one. An array is
written as soon as it is drawn, so that the script itself needs little memory.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).parent.parent / "crates/impasto/src/import/dalle_mini/goldens/flax_stacked"
SIZES = {
    "mini": dict(layers=12, width=1024, heads=16, hidden=2730, text_vocab=50264, image_vocab=16384),
    "mega": dict(layers=24, width=2048, heads=32, hidden=4096, text_vocab=50272, image_vocab=16415),
}
VQGAN = dict(ch=128, out_ch=3, in_channels=3, num_res_blocks=2, resolution=256, z_channels=256, ch_mult=[1, 1, 2, 2, 4], attn_resolutions=[16], n_embed=16384, embed_dim=256, dropout=0.0, double_z=False, resamp_with_conv=True, give_pre_end=False)
RANDOM = np.random.default_rng(0)


# --- MessagePack: sizes first, numbers when they are due -------------------------------------------------


def write_map(out, tree):
    out.write(b"\xde" + struct.pack(">H", len(tree)))
    for key, value in tree.items():
        data = key.encode()
        out.write(b"\xd9" + bytes([len(data)]) + data)
        if isinstance(value, dict):
            write_map(out, value)
        else:
            write_array(out, *value)


def write_array(out, shape, std, mean):
    count = int(np.prod(shape))
    head = b"\x93" + bytes([0x90 | len(shape)])
    head += b"".join(b"\xce" + struct.pack(">I", size) for size in shape)
    head += b"\xa7float16" + b"\xc6" + struct.pack(">I", 2 * count)
    out.write(b"\xc9" + struct.pack(">I", len(head) + 2 * count) + b"\x01" + head)
    for start in range(0, count, 1 << 22):
        values = RANDOM.standard_normal(min(1 << 22, count - start), dtype=np.float32)
        out.write((mean + std * values).astype(np.float16).tobytes())


# --- the models: shape, standard deviation and mean of each array -----------------------------------------


def matrix(*shape):
    return shape, 0.02, 0.0


def bias(*shape):
    return shape, 0.02, 0.0


def norm(*shape):
    return {"bias": bias(*shape), "scale": (shape, 0.02, 1.0)}


def stack(s, kind):
    n, d, h = s["layers"], s["width"], s["hidden"]
    attention = {f"{name}_proj": {"kernel": matrix(n, d, d)} for name in "kqv"} | {"out_proj": {"kernel": matrix(n, d, d)}}
    # A norm in front of a product has no scale.
    pre = lambda size: {"bias": bias(n, size)}
    layers = {"FlaxBartAttention_0": attention, "LayerNorm_0": pre(d), "LayerNorm_1": norm(n, d)}
    if kind == "Decoder":
        layers |= {"FlaxBartAttention_1": attention, "LayerNorm_2": pre(d), "LayerNorm_3": norm(n, d)}
    layers["GLU_0"] = {
        "LayerNorm_0": pre(d),
        "LayerNorm_1": pre(h),
        "Dense_0": {"kernel": matrix(n, d, h)},
        "Dense_1": {"kernel": matrix(n, d, h)},
        "Dense_2": {"kernel": matrix(n, h, d)},
    }
    tokens, positions = (s["image_vocab"] + 1, 256) if kind == "Decoder" else (s["text_vocab"], 64)
    return {
        "embed_tokens": {"embedding": matrix(tokens, d)},
        "embed_positions": {"embedding": matrix(positions, d)},
        "layernorm_embedding": norm(d),
        "final_ln": {"bias": bias(d)},
        "layers": {f"FlaxBart{kind}Layers": layers},
    }


def conv(side, inputs, outputs):
    shape = (side, side, inputs, outputs)
    return {"kernel": (shape, 1 / (side * side * inputs) ** 0.5, 0.0), "bias": bias(outputs)}


def block(inputs, outputs):
    made = {"norm1": norm(inputs), "conv1": conv(3, inputs, outputs), "norm2": norm(outputs), "conv2": conv(3, outputs, outputs)}
    return made | ({"nin_shortcut": conv(1, inputs, outputs)} if inputs != outputs else {})


def attention(width):
    return {"norm": norm(width)} | {name: conv(1, width, width) for name in ("q", "k", "v", "proj_out")}


def coder(encoder):
    widths = [VQGAN["ch"] * m for m in VQGAN["ch_mult"]]
    last, latent = len(widths) - 1, VQGAN["z_channels"]
    made = {"mid": {"block_1": block(widths[last], widths[last]), "attn_1": attention(widths[last]), "block_2": block(widths[last], widths[last])}}
    made["conv_in"] = conv(3, 3, widths[0]) if encoder else conv(3, latent, widths[last])
    made["conv_out"] = conv(3, widths[last], latent) if encoder else conv(3, widths[0], 3)
    made["norm_out"] = norm(widths[last] if encoder else widths[0])
    for i, width in enumerate(widths):
        before = (widths[max(i - 1, 0)]) if encoder else widths[min(i + 1, last)]
        level = {}
        for j in range(VQGAN["num_res_blocks"] + (not encoder)):
            level[f"block_{j}"] = block(before if j == 0 else width, width)
            if i == last:
                level[f"attn_{j}"] = attention(width)
        if encoder and i < last:
            level["downsample"] = {"conv": conv(3, width, width)}
        if not encoder and i > 0:
            level["upsample"] = {"conv": conv(3, width, width)}
        made[f"{'down' if encoder else 'up'}_{i}"] = level
    return made


def write(folder, tree, config):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "flax_model.msgpack", "wb") as out:
        write_map(out, tree)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    s, folder = SIZES[sys.argv[1]], Path(sys.argv[2])
    config = dict(
        model_type="dallebart", normalize_text=True, activation_function="gelu", d_model=s["width"],
        encoder_layers=s["layers"], decoder_layers=s["layers"], encoder_attention_heads=s["heads"], decoder_attention_heads=s["heads"],
        encoder_ffn_dim=s["hidden"], decoder_ffn_dim=s["hidden"], encoder_vocab_size=s["text_vocab"], image_vocab_size=s["image_vocab"],
        image_length=256, max_text_length=64, decoder_start_token_id=16384, use_scan=True, tie_word_embeddings=False,
    )
    head = {"kernel": matrix(s["width"], s["image_vocab"] + 1)}
    write(folder, {"model": {"encoder": stack(s, "Encoder"), "decoder": stack(s, "Decoder")}, "lm_head": head}, config)
    vqgan = {
        "encoder": coder(True),
        "decoder": coder(False),
        "quant_conv": conv(1, VQGAN["z_channels"], VQGAN["embed_dim"]),
        "post_quant_conv": conv(1, VQGAN["embed_dim"], VQGAN["z_channels"]),
        "quantize": {"embedding": {"embedding": ((VQGAN["n_embed"], VQGAN["embed_dim"]), 1.0, 0.0)}},
    }
    write(folder / "vqgan", vqgan, VQGAN)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(GOLDENS / name, folder / name)
