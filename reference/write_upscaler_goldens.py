"""Writes tiny random upscaling networks in their published forms, and what the references make of pictures.

    python reference/write_upscaler_goldens.py

A network's output is before any cut to 0..1. What `RealESRGANer.enhance` (`realesrgan/utils.py`) does around it with a
picture that has transparency is written here once more: reflected padding to whole steps of `pixel_unshuffle`, and the
transparency as a grey picture through the same network.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from upscalers import Compact, RrdbNet  # noqa: E402

OUT = Path(__file__).parent.parent / "crates/impasto/src/import/upscaler/goldens"


def randomise(net):
    """Random weights that are exact in 16 bits, with outputs that stay near 0..1."""
    for name, value in net.state_dict().items():
        if value.ndim == 4:
            value.normal_(std=1.2 / value[0].numel() ** 0.5)
        elif value.ndim == 1 and name.endswith("bias"):
            value.normal_(std=0.1)
        else:
            # PReLU's slopes, some of them negative.
            value.uniform_(-0.3, 0.8)
        value.copy_(value.half().float())
    return net.eval()


@torch.no_grad()
def enhanced(net, rgba):
    """RGBA in 0..1, `[4, height, width]`, as `RealESRGANer.enhance` makes it."""

    def through(rgb):
        height, width = rgb.shape[1:]
        more = [-side % 2 if net.scale == 2 and isinstance(net, RrdbNet) else 0 for side in (width, height)]
        padded = F.pad(rgb[None], (0, more[0], 0, more[1]), "reflect")
        return net(padded)[0, :, : net.scale * height, : net.scale * width].clamp(0, 1)

    colours, opacity = through(rgba[:3]), through(rgba[3:].expand(3, -1, -1))
    grey = torch.tensor([0.299, 0.587, 0.114]) @ opacity.flatten(1)
    return torch.cat([colours, grey.view(1, *opacity.shape[1:])])


def old_names(state, blocks):
    """The names of ESRGAN's first code, which many models on the net still have."""
    outer = {"conv_first": "0", "conv_body": f"1.sub.{blocks}", "conv_up1": "3", "conv_up2": "6", "conv_hr": "8", "conv_last": "10"}
    renamed = {}
    for name, value in state.items():
        *path, leaf = name.split(".")
        if path[0] == "body":
            new = f"model.1.sub.{path[1]}.{path[2].upper()}.{path[3]}.0.{leaf}"
        else:
            new = f"model.{outer[path[0]]}.{leaf}"
        renamed[new] = value
    return renamed


@torch.no_grad()
def write(name, net, side, save):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    save(folder, randomise(net).state_dict())
    height, width = side
    picture = torch.randint(0, 256, (4, height, width))
    # Not only noise: the lower half goes smoothly from colour to colour.
    ramp = torch.linspace(0, 255, width).round().int().expand(4, height // 2, width)
    picture[:, height - height // 2 :] = ramp
    step = 2 if net.scale == 2 and isinstance(net, RrdbNet) else 1
    whole = picture[:3, : height // step * step, : width // step * step]
    tensors = {
        "picture": picture.int(),
        "input": whole[None].int(),
        "output": net(whole[None] / 255),
        "enhanced": enhanced(net, picture / 255),
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors")


def main():
    torch.manual_seed(7)
    half = lambda state: {key: value.half() for key, value in state.items()}
    ema = lambda folder, state: torch.save({"params_ema": state}, folder / "RealESRGAN_x4plus.pth")
    # Some files have both; the average is the better one.
    both = lambda folder, state: torch.save(
        {"params": {key: 0 * value for key, value in state.items()}, "params_ema": state}, folder / "RealESRGAN_x2plus.pth"
    )
    plain = lambda file: lambda folder, state: torch.save({"params": state}, folder / file)
    write("rrdb_x4", RrdbNet(4, features=16, blocks=2, growth=6), (11, 14), ema)
    write("rrdb_x2", RrdbNet(2, features=12, blocks=1, growth=8), (15, 13), both)
    write("rrdb_wide", RrdbNet(4, features=34, blocks=1, growth=32), (18, 17), lambda folder, state: torch.save({"params_ema": half(state)}, folder / "RealESRGAN_x4plus_anime_6B.pth"))
    write("rrdb_old_names", RrdbNet(4, features=10, blocks=2, growth=5), (9, 10), lambda folder, state: torch.save(old_names(state, 2), folder / "4x_old.pth"))
    write("compact_x4", Compact(features=33, convolutions=3, scale=4), (13, 10), plain("realesr-general-x4v3.pth"))
    write("compact_x3", Compact(features=10, convolutions=2, scale=3), (8, 9), plain("realesr-animevideov3.pth"))
    write("safetensors", Compact(features=16, convolutions=1, scale=2), (10, 7), lambda folder, state: save_file(half(state), folder / "compact.safetensors"))


if __name__ == "__main__":
    main()
