"""Writes tiny random image tokenizers in their published formats, and what the reference implementations make of them.

    python reference/write_image_tokenizer_goldens.py

VQGANs are taming-transformers' own classes, saved as PyTorch Lightning does; `DiscreteVAE` is DALLE-pytorch's. The
classes of OpenAI's dVAE are written here after github.com/openai/DALL-E, under the names of its package, since whole
modules are pickled by the names of their classes.
"""

import contextlib
import io
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytorch_lightning
import torch
import torch.nn.functional as F
import yaml
from dalle_pytorch import DiscreteVAE
from safetensors.torch import save_file
from taming.models.vqgan import GumbelVQ, VQModel
from torch import nn

OUT = Path(__file__).parent.parent / "crates/impasto/src/import/image_tokenizer/goldens"
LOSS = {"target": "taming.modules.losses.vqperceptual.DummyLoss"}


def randomise(module):
    """Random weights that are exact in 16 bits, norms near 1."""
    for name, value in module.state_dict().items():
        owner, leaf = name.rsplit(".", 1)
        if "norm" in owner and leaf == "weight":
            value.copy_(1 + 0.2 * torch.randn_like(value))
        elif value.ndim == 1:
            value.normal_(std=0.1)
        else:
            value.normal_(std=1.2 / (value[0].numel() ** 0.5 if value.ndim == 4 else 1))
        value.copy_(value.half().float())
    return module.eval()


def expected(folder, size, codes, grid, scores, decode):
    """`scores` of pixels in 0..1 are largest at the id; `decode` gives pixels in -1..1."""
    picture = torch.randint(0, 256, (1, 3, size, size))
    best = scores(picture / 255).flatten(2).topk(2, 1)
    assert (best.values[:, 0] - best.values[:, 1]).min() > 2e-4, "too near a tie to compare"
    picture_ids = best.indices[:, 0]
    ids = torch.randint(0, codes, (2, grid * grid))
    tensors = {
        "picture": picture.int(),
        "picture_ids": picture_ids.int(),
        "picture_decoded": decode(picture_ids),
        "ids": ids.int(),
        "decoded": decode(ids),
    }
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "expected.safetensors")


# --- taming-transformers ----------------------------------------------------------------------------------


def taming(name, gumbel, sizes, n_embed, embed_dim, half=True, extension="yaml"):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    params = dict(embed_dim=embed_dim, n_embed=n_embed, ddconfig=sizes, lossconfig=LOSS)
    if gumbel:
        params |= dict(kl_weight=1e-8, temperature_scheduler_config={"target": "torch.nn.Identity"})
    with contextlib.redirect_stdout(io.StringIO()):
        model = randomise((GumbelVQ if gumbel else VQModel)(**params))
    target = f"taming.models.vqgan.{'GumbelVQ' if gumbel else 'VQModel'}"
    config = {"model": {"base_learning_rate": 4.5e-06, "target": target, "params": params}, "data": {"target": "main.DataModuleFromConfig"}}
    (folder / f"model.{extension}").write_text(yaml.safe_dump(config))
    state = {key: value.half() if half else value for key, value in model.state_dict().items()}
    # What training leaves beside them.
    state["loss.discriminator.main.0.weight"] = torch.zeros(4, 3, 4, 4)
    state["loss.logvar"] = torch.tensor(0.0)
    callbacks = {pytorch_lightning.callbacks.ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "best_model_path": "x"}}
    torch.save({"epoch": 3, "global_step": 9, "pytorch-lightning_version": "1.0.8", "callbacks": callbacks, "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-4}]}], "lr_schedulers": [], "state_dict": OrderedDict(state)}, folder / "last.ckpt")

    def scores(pixels):
        vectors = model.quant_conv(model.encoder(2 * pixels - 1))
        if gumbel:
            return model.quantize.proj(vectors)
        flat = vectors.permute(0, 2, 3, 1).reshape(-1, embed_dim)
        distances = torch.cdist(flat, model.quantize.embedding.weight) ** 2
        ids = model.quantize(vectors)[2][2]
        assert (ids.flatten() == distances.argmin(1)).all()
        return -distances.view(1, -1, n_embed).permute(0, 2, 1)

    def decode(ids):
        table = model.quantize.embed if gumbel else model.quantize.embedding
        side = int(ids.shape[1] ** 0.5)
        return model.decode(table(ids).view(len(ids), side, side, -1).permute(0, 3, 1, 2))

    grid = sizes["resolution"] >> (len(sizes["ch_mult"]) - 1)
    expected(folder, sizes["resolution"], n_embed, grid, scores, decode)


# --- OpenAI's dVAE ----------------------------------------------------------------------------------------


class Conv2d(nn.Module):
    def __init__(self, n_in, n_out, kw):
        super().__init__()
        self.n_in, self.n_out, self.kw, self.device = n_in, n_out, kw, torch.device("cpu")
        self.w = nn.Parameter(torch.randn(n_out, n_in, kw, kw) / (n_in * kw * kw) ** 0.5)
        self.b = nn.Parameter(torch.randn(n_out) * 0.1)

    def forward(self, x):
        return F.conv2d(x, self.w, self.b, padding=(self.kw - 1) // 2)


class Block(nn.Module):
    def __init__(self, n_in, n_out, n_layers, kernels):
        super().__init__()
        hidden = n_out // 4
        self.post_gain = 1 / n_layers**2
        self.id_path = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        widths = [n_in, hidden, hidden, hidden, n_out]
        steps = []
        for i, kernel in enumerate(kernels):
            steps += [(f"relu_{i + 1}", nn.ReLU()), (f"conv_{i + 1}", Conv2d(widths[i], widths[i + 1], kernel))]
        self.res_path = nn.Sequential(OrderedDict(steps))

    def forward(self, x):
        return self.id_path(x) + self.post_gain * self.res_path(x)


class EncoderBlock(Block):
    def __init__(self, n_in, n_out, n_layers):
        super().__init__(n_in, n_out, n_layers, [3, 3, 3, 1])


class DecoderBlock(Block):
    def __init__(self, n_in, n_out, n_layers):
        super().__init__(n_in, n_out, n_layers, [1, 3, 3, 3])


def group(block, n_in, n_out, blocks, n_layers, resample):
    steps = [(f"block_{i + 1}", block(n_in if i == 0 else n_out, n_out, n_layers)) for i in range(blocks)]
    return nn.Sequential(OrderedDict(steps + ([resample] if resample else [])))


class Encoder(nn.Module):
    def __init__(self, groups, blocks, width, codes):
        super().__init__()
        self.group_count, self.n_hid, self.n_blk_per_group, self.vocab_size = groups, width, blocks, codes
        steps, n_in = [("input", Conv2d(3, width, 7))], width
        for i in range(groups):
            pool = ("pool", nn.MaxPool2d(kernel_size=2)) if i < groups - 1 else None
            steps.append((f"group_{i + 1}", group(EncoderBlock, n_in, width << i, blocks, groups * blocks, pool)))
            n_in = width << i
        output = [("relu", nn.ReLU()), ("conv", Conv2d(n_in, codes, 1))]
        self.blocks = nn.Sequential(OrderedDict(steps + [("output", nn.Sequential(OrderedDict(output)))]))

    def forward(self, x):
        return self.blocks(x)


class Decoder(nn.Module):
    def __init__(self, groups, blocks, width, codes, initial):
        super().__init__()
        self.group_count, self.n_init, self.n_hid, self.n_blk_per_group = groups, initial, width, blocks
        steps, n_in = [("input", Conv2d(codes, initial, 1))], initial
        for i in range(groups):
            n_out = width << (groups - 1 - i)
            enlarge = ("upsample", nn.Upsample(scale_factor=2, mode="nearest")) if i < groups - 1 else None
            steps.append((f"group_{i + 1}", group(DecoderBlock, n_in, n_out, blocks, groups * blocks, enlarge)))
            n_in = n_out
        output = [("relu", nn.ReLU()), ("conv", Conv2d(n_in, 6, 1))]
        self.blocks = nn.Sequential(OrderedDict(steps + [("output", nn.Sequential(OrderedDict(output)))]))

    def forward(self, x):
        return self.blocks(x)


def packaged():
    """The classes above as those of the package `dall_e`."""
    for module, classes in {"dall_e": [], "dall_e.utils": [Conv2d], "dall_e.encoder": [EncoderBlock, Encoder], "dall_e.decoder": [DecoderBlock, Decoder]}.items():
        sys.modules[module] = types.ModuleType(module)
        for made in classes:
            made.__module__ = module
            setattr(sys.modules[module], made.__name__, made)


def openai(name, groups, blocks, width, codes, initial, legacy):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    encoder, decoder = Encoder(groups, blocks, width, codes), Decoder(groups, blocks, width, codes, initial)
    for file, module in (("encoder.pkl", encoder), ("decoder.pkl", decoder)):
        torch.save(module, folder / file, _use_new_zipfile_serialization=not legacy)

    def decode(ids):
        side = int(ids.shape[1] ** 0.5)
        one_hot = F.one_hot(ids.view(-1, side, side), codes).permute(0, 3, 1, 2).float()
        unit = ((torch.sigmoid(decoder(one_hot)[:, :3]) - 0.1) / 0.8).clamp(0, 1)
        return 2 * unit - 1

    # The files have no size; theirs is 256, here it is a small one except for what the executable is tested with.
    expected(folder, 32, codes, 32 >> (groups - 1), lambda pixels: encoder(0.8 * pixels + 0.1), decode)
    whole(folder, lambda pixels: encoder(0.8 * pixels + 0.1), decode)


def whole(folder, scores, decode):
    """At 256 px, a picture of 16 px enlarged, and every eighth pixel of what becomes of it."""
    margin = 0
    while margin < 2e-5:
        small = torch.randint(0, 256, (1, 3, 16, 16))
        best = scores(F.interpolate(small.float(), size=256) / 255).flatten(2).topk(2, 1)
        margin = (best.values[:, 0] - best.values[:, 1]).min()
    ids = best.indices[:, 0]
    tensors = {"picture": small.int(), "picture_ids": ids.int(), "picture_decoded": decode(ids)[:, :, ::8, ::8]}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "expected_256.safetensors")


# --- DALLE-pytorch ----------------------------------------------------------------------------------------


def discrete_vae(name, **hparams):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    vae = randomise(DiscreteVAE(**hparams))
    torch.save({"hparams": hparams, "weights": vae.state_dict()}, folder / "vae.pt")

    def decode(ids):
        out = vae.decode(ids)
        if vae.normalization is None:
            return 2 * out - 1
        mean, deviation = (torch.tensor(part)[None, :, None, None] for part in vae.normalization)
        return 2 * (out * deviation + mean) - 1

    grid = hparams["image_size"] >> hparams["num_layers"]
    expected(folder, hparams["image_size"], hparams["num_tokens"], grid, lambda pixels: vae(pixels, return_logits=True), decode)


def main():
    sizes = dict(ch=32, out_ch=3, in_channels=3, num_res_blocks=1, resolution=16, z_channels=24, ch_mult=[1, 1], attn_resolutions=[8], dropout=0.0, double_z=False)
    torch.manual_seed(1)
    taming("taming_plain", False, sizes, n_embed=50, embed_dim=12)
    torch.manual_seed(2)
    taming("taming_gumbel", True, sizes | dict(z_channels=16, attn_resolutions=[], ch_mult=[1, 1]), n_embed=37, embed_dim=16, extension="yml")
    torch.manual_seed(3)
    taming("taming_one_level", False, sizes | dict(ch=32, ch_mult=[1], resolution=6, attn_resolutions=[6], num_res_blocks=2, z_channels=5), n_embed=9, embed_dim=7, half=False)

    packaged()
    torch.manual_seed(4)
    openai("openai", groups=4, blocks=2, width=8, codes=20, initial=6, legacy=False)
    torch.manual_seed(5)
    openai("openai_legacy", groups=3, blocks=1, width=8, codes=11, initial=24, legacy=True)
    torch.manual_seed(6)
    openai("openai_wide", groups=4, blocks=1, width=12, codes=33, initial=5, legacy=False)

    torch.manual_seed(8)
    discrete_vae("discrete_vae", image_size=32, num_layers=2, num_tokens=40, codebook_dim=24, hidden_dim=16, num_resnet_blocks=2)
    torch.manual_seed(9)
    discrete_vae("discrete_vae_plain", image_size=16, num_layers=3, num_tokens=17, codebook_dim=11, hidden_dim=13, num_resnet_blocks=0, temperature=0.5, straight_through=True, kl_div_loss_weight=0.1)
    torch.manual_seed(10)
    discrete_vae("discrete_vae_normalised", image_size=8, num_layers=1, num_tokens=30, codebook_dim=8, hidden_dim=9, num_resnet_blocks=1, smooth_l1_loss=True, normalization=((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    main()
