"""Writes tiny random CLIPs of DALLE-pytorch as their state is saved, and what it makes of them.

    python reference/write_dalle_pytorch_clip_goldens.py

Captions are filled up with zeros that count, as `DALLE.generate_images` gives them to its `clip`.
"""

import json

import torch
import torch.nn.functional as F
from dalle_pytorch import CLIP
from safetensors.torch import save_file

from write_dalle_pytorch_goldens import CAPTIONS, OUT, chinese_tokenizer, clip_tokenizer, json_tokenizer, scatter

OUT = OUT.parent / "clip_goldens"
MORE = ["a cat", "two cats"]


def write(name, seed, tokenizer, wrapped=False, half=False, **options):
    torch.manual_seed(seed)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    encode, known = tokenizer(folder)
    clip = CLIP(num_text_tokens=known, **options).eval()
    scatter(clip)
    clip.temperature.fill_(1.3)
    if half:
        for value in clip.state_dict().values():
            value.copy_(value.half().float())
    state = {key: value.half() if half else value for key, value in clip.state_dict().items()}
    torch.save({"weights": state, "epoch": 3} if wrapped else state, folder / "clip.pt")

    captions = CAPTIONS + MORE
    length, size = options["text_seq_len"], options["visual_image_size"]
    text_ids = [list(map(int, encode(caption)))[:length] for caption in captions]
    text = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in text_ids])
    pictures = torch.randint(0, 256, (3, 3, size, size))
    embedded = {}
    for part in ["to_text_latent", "to_visual_latent"]:
        getattr(clip, part).register_forward_hook(lambda _, __, out, part=part: embedded.__setitem__(part, out))
    logits = torch.stack([torch.stack([clip(row[None], picture[None] / 255)[0] for row in text]) for picture in pictures])
    clip(text, pictures[:1].expand(len(text), -1, -1, -1) / 255)
    texts = F.normalize(embedded["to_text_latent"], dim=-1)
    clip(text[:1].expand(len(pictures), -1), pictures / 255)
    tensors = {"pictures": pictures.int(), "texts": texts, "images": F.normalize(embedded["to_visual_latent"], dim=-1), "logits": logits}
    metadata = {"captions": json.dumps(captions), "text_ids": json.dumps(text_ids)}
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors", metadata)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    write("even", 1, json_tokenizer, dim_text=32, dim_image=32, dim_latent=16, text_enc_depth=2, text_seq_len=24, text_heads=1, visual_enc_depth=2, visual_heads=1, visual_image_size=16, visual_patch_size=4)
    write("odd", 2, chinese_tokenizer, wrapped=True, dim_text=19, dim_image=27, dim_latent=11, text_enc_depth=1, text_seq_len=15, text_heads=2, visual_enc_depth=3, visual_heads=1, visual_image_size=15, visual_patch_size=5)
    write("half", 3, clip_tokenizer, half=True, dim_text=24, dim_image=16, dim_latent=31, text_enc_depth=3, text_seq_len=37, text_heads=1, visual_enc_depth=1, visual_heads=2, visual_image_size=14, visual_patch_size=7)
