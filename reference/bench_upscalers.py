"""Enlarging a picture in PyTorch and by `impasto upscale` in turn; prints the ratio.

    python reference/bench_upscalers.py --impasto target/release/impasto --side 384 --threads 2

The networks have the published sizes and random weights. PyTorch's time is that of the network alone, in the better of
its two memory formats; impasto's is that of the picture, with reading and writing its files, in float32 and in bfloat16.
A ratio above 1 says that impasto is quicker; beside it stands that of the processor's seconds, for machines with other
work, impasto's with starting and loading.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from upscalers import Compact, RrdbNet  # noqa: E402

NETS = {
    "RealESRGAN_x4plus": lambda: RrdbNet(4),
    "RealESRGAN_x2plus": lambda: RrdbNet(2),
    "RealESRGAN_x4plus_anime_6B": lambda: RrdbNet(4, blocks=6),
    "realesr-general-x4v3": lambda: Compact(convolutions=32),
    "realesr-animevideov3": lambda: Compact(convolutions=16),
}


@torch.inference_mode()
def in_pytorch(net, side, precision):
    x = torch.rand(1, 3, side, side)
    seconds = []
    for layout in (torch.contiguous_format, torch.channels_last):
        placed, input = net.to(memory_format=layout), x.to(memory_format=layout)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            start, used = time.perf_counter(), time.process_time()
            placed(input)
        seconds.append((time.perf_counter() - start, time.process_time() - used))
    return min(seconds, key=lambda one: one[1])


def in_impasto(arguments, weights, picture, precision):
    def of_children():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = of_children()
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.impasto, "upscale", picture, "--model", weights, "--precision", precision]
        command += ["--threads", str(arguments.threads), "--device", "cpu", "--json", "-o", f"{folder}/large.png"]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)["pictures"][0]["seconds"], of_children() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--impasto", default="target/release/impasto")
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--precisions", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/picture.png"
        from PIL import Image

        Image.effect_noise((arguments.side,) * 2, 64).convert("RGB").save(picture)
        for name in arguments.nets:
            net = NETS[name]().eval()
            weights = f"{folder}/{name}.pth"
            torch.save({"params_ema": net.state_dict()}, weights)
            for precision in arguments.precisions:
                theirs, ours = [], []
                for _ in range(arguments.rounds):
                    theirs.append(in_pytorch(net, arguments.side, precision))
                    ours.append(in_impasto(arguments, weights, picture, precision))
                (theirs, theirs_used), (ours, ours_used) = (map(statistics.median, zip(*runs)) for runs in (theirs, ours))
                print(
                    f"{name} {precision}: PyTorch {theirs:.2f} s, impasto {ours:.2f} s, ratio {theirs / ours:.2f}; "
                    f"of the processor {theirs_used:.2f} s, {ours_used:.2f} s, ratio {theirs_used / ours_used:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
