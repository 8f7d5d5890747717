"""Writes a Janus-Pro in its exact sizes with random weights in bfloat16, in the Hugging Face form.

    python reference/write_janus_shapes.py 1b|7b FOLDER

For measuring time and memory; what such a model draws is noise. The tokenizer is the goldens' small one. A tensor is
written as soon as it is drawn, so that the script itself needs little memory.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

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
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        length = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + length]}
        end += length
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    torch.manual_seed(0)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        for name, shape in shapes.items():
            is_norm = "norm" in name and name.endswith("weight")
            std = 0.5 if "quantize" in name else 1.0 / max(1, torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) == 4 else 0.02
            left = torch.Size(shape).numel()
            while left:
                count = min(left, 1 << 24)
                values = torch.empty(count, dtype=torch.float32).normal_(std=std)
                if is_norm:
                    values += 1
                out.write(values.bfloat16().view(torch.uint8).numpy().tobytes())
                left -= count


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
