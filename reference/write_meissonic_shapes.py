"""Writes a Meissonic in its exact sizes with random weights in 16 bits, in the published folder form.

    python reference/write_meissonic_shapes.py CHECKOUT 1024|512 FOLDER

512 is Monetico, without down-sampling. CHECKOUT is as for write_meissonic_goldens.py. For measuring time and memory; what
such a model draws is noise. The tokenizer is the goldens' small one.
"""

import json
import sys
from pathlib import Path

import torch

from write_meissonic_goldens import VQModel, Transformer2DModel, clip, save, scheduling
from masked_goldens import END, tokenizer_of

TEXT = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, projection_dim=1024, eos_token_id=553)


def write(size, folder):
    torch.manual_seed(0)
    halved = size == 1024
    vqvae = VQModel(
        down_block_types=["DownEncoderBlock2D"] * 5, up_block_types=["UpDecoderBlock2D"] * 5, block_out_channels=[128, 256, 256, 512, 768], layers_per_block=2,
        latent_channels=64, num_vq_embeddings=8192, mid_block_add_attention=False, lookup_from_codebook=True, force_upcast=True,
    )
    vqvae.quantize.embedding.weight.data.normal_()
    save(vqvae, folder / "vqvae", "diffusion_pytorch_model", True)
    transformer = Transformer2DModel(
        num_layers=14, num_single_layers=28, num_attention_heads=8, joint_attention_dim=1024, pooled_projection_dim=1024, downsample=halved, upsample=halved,
    )
    save(transformer, folder / "transformer", "diffusion_pytorch_model", True)
    save(clip(dict(TEXT, vocab_size=49408), 77), folder / "text_encoder", "model", True)
    scheduling.Scheduler(mask_token_id=8255).save_pretrained(folder / "scheduler")
    tokenizer_of(folder / "tokenizer", 77, END)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline"}))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    write(int(sys.argv[2]), Path(sys.argv[3]))
