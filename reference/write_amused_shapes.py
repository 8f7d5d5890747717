"""Writes an aMUSEd in its exact sizes with random weights in 16 bits, in the published folder form.

    python reference/write_amused_shapes.py 256|512 FOLDER

For measuring time and memory; what such a model draws is noise. The tokenizer is the goldens' small one.
"""

import sys
from pathlib import Path

import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from masked_goldens import tokenizer_of
from write_amused_goldens import save

CLIP = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768, vocab_size=49408)


def write(size, folder):
    torch.manual_seed(0)
    halved = size == 512
    widths = [128, 256, 256, 512, 768]
    vqvae = VQModel(
        down_block_types=["DownEncoderBlock2D"] * 5, up_block_types=["UpDecoderBlock2D"] * 5, block_out_channels=widths, layers_per_block=2, latent_channels=64,
        num_vq_embeddings=8192, mid_block_add_attention=False, lookup_from_codebook=True, force_upcast=True,
    )
    vqvae.quantize.embedding.weight.data.normal_()
    transformer = UVit2DModel(downsample=halved, upsample=halved, sample_size=size // 16)
    text = CLIPTextModelWithProjection(CLIPTextConfig(bos_token_id=552, eos_token_id=553, pad_token_id=1, **CLIP))
    tokenizer = tokenizer_of(folder / "tokenizer", 77, "<|endoftext|>")
    pipeline = AmusedPipeline(vqvae=vqvae, tokenizer=tokenizer, text_encoder=text, transformer=transformer, scheduler=AmusedScheduler(mask_token_id=8255))
    save(pipeline, folder, half=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    write(int(sys.argv[1]), Path(sys.argv[2]))
