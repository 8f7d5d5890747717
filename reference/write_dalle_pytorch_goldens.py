"""Writes tiny random models of DALLE-pytorch as it saves them, and what it makes of them.

    python reference/write_dalle_pytorch_goldens.py

Everything is computed by `dalle_pytorch` itself; only the drawing is repeated here without its noise.
"""

import gzip
import json
import shutil
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from dalle_pytorch import DALLE, DiscreteVAE, OpenAIDiscreteVAE, VQGanVAE
from dalle_pytorch.tokenizer import HugTokenizer, SimpleTokenizer
from dalle_pytorch.tokenizer import tokenizer as openais_tokenizer
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import BertTokenizer

from write_image_tokenizer_goldens import Decoder, Encoder, packaged, randomise

OUT = Path(__file__).parent.parent / "crates/impasto/src/import/dalle_pytorch/goldens"
CAPTIONS = ["a red turtle on a hat", "Two cats! \u4e09\u53ea\u732b, isn't it?"]


# --- tokenizers -------------------------------------------------------------------------------------------


def json_tokenizer(folder):
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(CAPTIONS * 4, vocab_size=280, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    bpe.save(str(folder / "tokenizer.json"))
    made = HugTokenizer(str(folder / "tokenizer.json"))
    return made.encode, made.vocab_size


def clip_tokenizer(folder):
    merges = ["t u", "r e", "re d</w>", "c a", "ca t", "cat s</w>", "o n</w>", "h a"]
    path = folder / "bpe_simple_vocab_16e6.txt"
    path.write_text("\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *merges]))
    made = SimpleTokenizer(str(path))
    return made.encode, len(made.encoder)


def chinese_tokenizer(folder):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] \u4e09 \u53ea a red tur ##tle on Two cats ! , isn ' t it ##t hat ?".split()
    path = folder / "vocab.txt"
    path.write_text("\n".join(words) + "\n")
    made = BertTokenizer(str(path), do_lower_case=False)
    return lambda text: made.encode(text, add_special_tokens=False), len(words)


def packages_own_tokenizer(folder):
    """What the package takes where nothing else is named; nothing is saved."""
    return openais_tokenizer.encode, openais_tokenizer.vocab_size


# --- image tokenizers -------------------------------------------------------------------------------------


def openai_vae(codes):
    vae = OpenAIDiscreteVAE.__new__(OpenAIDiscreteVAE)
    nn.Module.__init__(vae)
    vae.enc, vae.dec = Encoder(4, 1, 4, codes), Decoder(4, 1, 4, codes, 6)
    vae.channels, vae.num_layers, vae.image_size, vae.num_tokens = 3, 3, 256, codes
    return vae


def vqgan_vae(codes):
    from taming.models.vqgan import VQModel

    vae = VQGanVAE.__new__(VQGanVAE)
    nn.Module.__init__(vae)
    sizes = dict(ch=32, out_ch=3, in_channels=3, num_res_blocks=1, resolution=256, z_channels=8, ch_mult=[1, 1, 1, 1], attn_resolutions=[], dropout=0.0, double_z=False)
    vae.model = randomise(VQModel(ddconfig=sizes, lossconfig={"target": "torch.nn.Identity"}, n_embed=codes, embed_dim=6))
    vae.channels, vae.num_layers, vae.image_size, vae.num_tokens, vae.is_gumbel = 3, 3, 256, codes, False
    return vae


# --- the models -------------------------------------------------------------------------------------------


def scatter(dalle):
    """Random weights large enough that every option shows in the figures."""
    for name, value in dalle.state_dict().items():
        if name.startswith("vae.") or name.endswith("pos_emb"):
            continue
        if name.endswith(".scale"):
            value.copy_(0.6 + 0.2 * torch.randn_like(value))
        elif "norm" in name and name.endswith("weight") or name == "to_logits.0.weight":
            value.copy_(1 + 0.2 * torch.randn_like(value))
        elif value.ndim == 1:
            value.normal_(std=0.1)
        else:
            value.normal_(std=0.25)


def repeat(dalle):
    """Lets the rows of the two large matrices come again, but for the image ids': 6 MB that gzip makes small."""
    words = dalle.total_tokens - dalle.num_image_tokens
    for values in (dalle.text_emb.weight.data, dalle.to_logits[1].weight.data[:words], dalle.to_logits[1].bias.data[:words]):
        values.copy_(values[torch.arange(len(values)) % 251])


def greedy(dalle, text, scale):
    """`generate_images` without its noise."""
    ids = torch.empty(1, 0, dtype=torch.long)
    for _ in range(dalle.image_seq_len):
        row = dalle.forward_with_cond_scale(text.clone(), ids, cond_scale=scale)[0, -1, dalle.num_text_tokens :]
        best = row.topk(2).values
        assert best[0] - best[1] > 2e-4, "too near a tie to compare"
        ids = torch.cat([ids, row.argmax().view(1, 1)], 1)
    return ids


BEGINNINGS = ["", "a red"]


def greedy_text(dalle, beginning):
    """The likeliest words after a beginning as `forward` predicts them, up to the longest caption; -1 is their end."""
    ids = list(beginning)
    while len(ids) < dalle.text_seq_len:
        text = torch.tensor([[*ids, *[0] * (dalle.text_seq_len - len(ids))]])
        row = dalle(text)[0, len(ids), : dalle.num_text_tokens]
        best = row.topk(2).values
        assert best[0] - best[1] > 2e-4 and row.argmax() > 0, "too near a tie to compare"
        ids.append(int(row.argmax()))
        if ids[-1] >= dalle.num_text_tokens - dalle.text_seq_len:
            ids[-1] = -1
            break
    return ids


def generated_text(dalle, beginning):
    """`generate_texts` itself, which neither begins with the start nor shifts."""

    class Tokenizer:
        tokenizer = None

        def encode(self, text):
            return beginning

        def decode(self, *_, **__):
            return ""

    Tokenizer.tokenizer = Tokenizer()
    torch.Tensor.cuda = lambda self: self
    ids, _ = dalle.generate_texts(Tokenizer(), "text" if beginning else "", filter_thres=1.0)
    return ids[0].tolist()


def write(name, *arguments, **options):
    """Draws weights again where two ids are too near each other to compare what is drawn."""
    for seed in range(20):
        torch.manual_seed(1000 * len(name) + seed)
        try:
            return write_once(name, *arguments, **options)
        except AssertionError:
            pass
    raise SystemExit(f"{name}: no seed without ties")


def write_once(name, vae, vae_params, tokenizer, draws=True, half=False, large=False, **options):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    encode, known = tokenizer(folder)
    hparams = dict(num_text_tokens=known, **options)
    dalle = DALLE(vae=vae, **hparams).eval()
    scatter(dalle)
    if large:
        repeat(dalle)
    if half:
        for value in dalle.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half().float())
    weights = {key: value.half() if half and key != "transformer.pos_emb" else value for key, value in dalle.state_dict().items()}
    saved = {"hparams": hparams, "vae_params": vae_params, "epoch": 1, "version": "1.6.6", "vae_class_name": type(vae).__name__, "weights": weights, "opt_state": {"state": {}, "param_groups": [{"lr": 3e-4, "betas": (0.9, 0.999)}]}, "scheduler_state": None}
    torch.save(saved, folder / "dalle.pt")
    if large:
        (folder / "dalle.pt.gz").write_bytes(gzip.compress((folder / "dalle.pt").read_bytes(), 9, mtime=0))
        (folder / "dalle.pt").unlink()
    if name == "rotary":
        (OUT / "sparse").mkdir(exist_ok=True)
        torch.save(saved | {"hparams": hparams | {"attn_types": ("full", "sparse")}}, OUT / "sparse/dalle.pt")
        shutil.copy(folder / "tokenizer.json", OUT / "sparse")

    length = options["text_seq_len"]
    text_ids = [list(map(int, encode(caption)))[:length] for caption in CAPTIONS]
    text = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in text_ids])
    image = torch.randint(0, vae.num_tokens, (2, dalle.image_seq_len))
    logits = dalle(text.clone(), image)
    words = logits[:, :length, : dalle.num_text_tokens]
    codes = logits[:, length:, dalle.num_text_tokens :]
    filled = torch.where(text == 0, torch.arange(length) + dalle.num_text_tokens - length, text)
    tensors = {
        "image_ids": image.int(),
        "text_logits": words,
        "logits": codes,
        "text_nats": F.cross_entropy(words.transpose(1, 2), filled, reduction="none").sum(1),
        "image_nats": F.cross_entropy(codes.transpose(1, 2), image, reduction="none").sum(1),
    }
    if draws:
        tensors["greedy_ids"] = torch.cat([greedy(dalle, row[None], 1) for row in text]).int()
        tensors["guided_ids"] = torch.cat([greedy(dalle, row[None], 3) for row in text]).int()
        size = vae.image_size
        picture = torch.randint(0, 256, (1, 3, size, size))
        ids = vae.get_codebook_indices(picture / 255)
        tensors |= {"picture": picture.int(), "picture_ids": ids.int()}
        picture_logits = dalle(text[:1].clone(), ids)[:, length:, dalle.num_text_tokens :]
        tensors["picture_nats"] = F.cross_entropy(picture_logits.transpose(1, 2), ids, reduction="none").sum(1)
    # Words that come again are equally likely.
    if draws and not large:
        beginnings = [list(map(int, encode(text)))[:length] for text in BEGINNINGS]
        texts = {"best_text_ids": [greedy_text(dalle, ids) for ids in beginnings]}
        if not options.get("shift_tokens", True):
            texts["generated_text_ids"] = [generated_text(dalle, ids) for ids in beginnings]
    if large:
        del tensors["text_logits"]
    metadata = {"captions": json.dumps(CAPTIONS), "text_ids": json.dumps(text_ids)}
    if draws and not large:
        metadata |= {"beginnings": json.dumps(beginnings), **{key: json.dumps(value) for key, value in texts.items()}}
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors", metadata)


def discrete(**params):
    return randomise(DiscreteVAE(**params)), params


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    packaged()

    torch.manual_seed(1)
    vae, params = discrete(image_size=16, num_layers=2, num_tokens=30, codebook_dim=12, hidden_dim=8)
    write("rotary", vae, params, json_tokenizer, dim=24, depth=2, text_seq_len=24, heads=3, dim_head=20)

    torch.manual_seed(2)
    vae, params = discrete(image_size=32, num_layers=3, num_tokens=21, codebook_dim=9, hidden_dim=7, num_resnet_blocks=1)
    write("learned", vae, params, chinese_tokenizer, dim=22, depth=4, text_seq_len=15, heads=2, dim_head=11, rotary_emb=False, shift_tokens=False, sandwich_norm=True, stable=True, share_input_output_emb=True, attn_types=("axial_row", "axial_col", "full"))

    torch.manual_seed(3)
    vae, params = discrete(image_size=32, num_layers=2, num_tokens=25, codebook_dim=8, hidden_dim=6)
    write("reversible", vae, params, clip_tokenizer, dim=17, depth=4, text_seq_len=37, heads=2, dim_head=16, reversible=True, attn_types=("conv_like", "full"), shared_attn_ids=(0, 1), shared_ff_ids=(0, 1, 0, 2), loss_img_weight=3, attn_dropout=0.1, ff_dropout=0.1)

    torch.manual_seed(4)
    vae, params = discrete(image_size=16, num_layers=2, num_tokens=19, codebook_dim=8, hidden_dim=6)
    write("axial", vae, params, json_tokenizer, dim=18, depth=3, text_seq_len=20, heads=1, dim_head=15, attn_types=("axial_col", "axial_row", "conv_like"), share_input_output_emb=True, stable=True, sandwich_norm=True)

    torch.manual_seed(5)
    write("openai", openai_vae(14), None, json_tokenizer, draws=False, dim=12, depth=1, text_seq_len=20, heads=1, dim_head=12, attn_types=("conv_like",))

    torch.manual_seed(6)
    write("vqgan", vqgan_vae(11), None, json_tokenizer, draws=False, half=True, dim=12, depth=2, text_seq_len=20, heads=2, dim_head=8, rotary_emb=False, attn_types=("axial_row", "full"))

    torch.manual_seed(7)
    vae, params = discrete(image_size=16, num_layers=2, num_tokens=23, codebook_dim=8, hidden_dim=6)
    write("alone", vae, params, packages_own_tokenizer, large=True, dim=16, depth=1, text_seq_len=16, heads=2, dim_head=12)
