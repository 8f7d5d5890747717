#!/usr/bin/env python3
"""How often the invisible watermark is found, and how often it is where there is none.

Makes seeded sets of pictures (drawn by the embedded model, composed scenes, photographs of other packages, noise), marks
them with `examples/watermark.rs`, changes them as in ATTACKS with Pillow, and prints tables. With invisible-watermark
installed, its `dwtDct` and `dwtDctSvd` are measured on the same pictures. See README.md for how to run it.
"""
import argparse
import io
import json
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

PHOTOGRAPHS = "astronaut brick camera chelsea coffee coins grass gravel hubble_deep_field ihc moon motorcycle_left " \
    "retina rocket china flower page".split()


def jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def webp(picture):
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    return Image.open(file).convert("RGB")


def scaled(picture, factor):
    size = [max(1, round(side * factor)) for side in picture.size]
    return picture.resize(size, Image.BICUBIC)


def cropped(picture, share, draw):
    """Removes a share of the width and of the height, at random places."""
    width, height = (round(side * (1 - share)) for side in picture.size)
    x, y = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
    return picture.crop((x, y, x + width, y + height))


ATTACKS = {
    "none": lambda p, r: p,
    "JPEG 75": lambda p, r: jpeg(p, 75),
    "half size": lambda p, r: scaled(p, 0.5),
    "double size": lambda p, r: scaled(p, 2),
    "crop 10 %": lambda p, r: cropped(p, 0.1, r),
    "blur": lambda p, r: p.filter(ImageFilter.GaussianBlur(1)),
    "WebP 80": lambda p, r: webp(p),
}


def photographs(wheels):
    found = {}
    for wheel in sorted(Path(wheels).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                stem, _, kind = name.split("/")[-1].rpartition(".")
                if stem in PHOTOGRAPHS and kind in ("png", "jpg"):
                    found[stem] = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
    return found


def noise(draw, size):
    """Coloured noise with a 1/f^a spectrum and a random contrast."""
    generator = np.random.default_rng(draw.getrandbits(32))
    steepness, contrast = draw.uniform(0.6, 1.8), draw.uniform(10, 60)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        spectrum = np.fft.fft2(generator.normal(size=(size, size))) / frequency**steepness
        spectrum[0, 0] = 0
        plane = np.fft.ifft2(spectrum).real
        channels.append(draw.uniform(60, 195) + contrast * plane / plane.std())
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


def sources(arguments, size, kind, count):
    """Pictures of a kind, seeded."""
    draw = random.Random(f"{kind} {size}")
    if kind == "noise":
        for _ in range(count):
            yield noise(draw, size)
    elif kind == "photographs":
        found = photographs(arguments.wheels)
        for i in range(count):
            picture = found[PHOTOGRAPHS[i % len(PHOTOGRAPHS)]]
            shorter = min(picture.size)
            side = max(int(shorter * draw.uniform(0.3, 1)), min(size, shorter))
            x, y = draw.randint(0, picture.width - side), draw.randint(0, picture.height - side)
            yield picture.crop((x, y, x + side, y + side)).resize((size, size), Image.LANCZOS)
    else:
        folder = {"drawn": arguments.drawn, "scenes": arguments.scenes}[kind]
        paths = sorted(Path(folder).rglob("*.png"))
        across = {64: 1, 256: 2, 512: 4}[size]
        for i in range(count):
            # A picture alone, scaled, or several side by side.
            tiles = 1 if i % 2 else across
            tile = size // tiles
            picture = Image.new("RGB", (size, size))
            for k in range(tiles * tiles):
                path = paths[i % len(paths)] if size == 64 else draw.choice(paths)
                part = Image.open(path).convert("RGB").resize((tile, tile), Image.LANCZOS)
                if size == 64 and i >= len(paths):
                    part = part.transpose(Image.FLIP_LEFT_RIGHT)
                picture.paste(part, (k % tiles * tile, k // tiles * tile))
            yield picture


def lines(command):
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def share(values, threshold):
    return float(np.mean(np.asarray(values) >= threshold))


def peer(name, folder, names, draw_seed):
    """Bits of invisible-watermark that survive each attack: a mark counts as found where P(as many right bits) ≤ 1e-3."""
    import cv2
    from imwatermark import WatermarkDecoder, WatermarkEncoder
    from math import comb
    bits = [random.Random(7).getrandbits(1) for _ in range(32)]
    enough = next(k for k in range(33) if sum(comb(32, j) for j in range(k, 33)) / 2**32 <= 1e-3)
    encoder, decoder = WatermarkEncoder(), WatermarkDecoder("bits", 32)
    encoder.set_watermark("bits", bits)
    found, ratios = {attack: [] for attack in ATTACKS}, []
    for name_of_picture in names:
        picture = Image.open(folder / name_of_picture).convert("RGB")
        array = np.asarray(picture)[:, :, ::-1].copy()
        try:
            marked = encoder.encode(array, name)
        except RuntimeError as error:
            return f"refuses: {error}"
        difference = np.mean((marked.astype(float) - array) ** 2)
        ratios.append(10 * np.log10(255**2 / max(difference, 1e-9)))
        marked = Image.fromarray(np.ascontiguousarray(marked[:, :, ::-1]))
        draw = random.Random(draw_seed)
        for attack, change in ATTACKS.items():
            changed = np.asarray(change(marked, draw))[:, :, ::-1].copy()
            try:
                decoded = decoder.decode(changed, name)
            except RuntimeError:
                found[attack].append(False)
                continue
            found[attack].append(sum(int(a) == b for a, b in zip(decoded, bits)) >= enough)
    return {"psnr": float(np.mean(ratios)), "least": float(np.min(ratios)), **{k: float(np.mean(v)) for k, v in found.items()}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool", required=True, help="the program of examples/watermark.rs")
    parser.add_argument("--drawn", required=True, help="a folder of pictures that a model drew, 64 px")
    parser.add_argument("--scenes", required=True, help="a folder of composed scenes, 64 px or more")
    parser.add_argument("--wheels", required=True, help="a folder with the wheels of scikit-image and scikit-learn")
    parser.add_argument("--work", required=True, help="where pictures are written")
    parser.add_argument("--count", type=int, default=2000, help="pictures of each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--keys", type=int, default=64, help="wrong keys in each unmarked picture")
    parser.add_argument("--unmarked", type=int, default=2000, help="pictures of each size that are searched unmarked")
    parser.add_argument("--noise", action="store_true", help="noise alone: the hardest pictures")
    parser.add_argument("--peers", type=int, default=0, help="pictures of each size that invisible-watermark gets")
    arguments = parser.parse_args()
    work = Path(arguments.work)
    shares = {"drawn": 0.4, "scenes": 0.4, "photographs": 0.2}
    if arguments.noise:
        shares = {"noise": 1.0}
    report = {}
    for size in arguments.sizes:
        original, marked = work / f"{size}/original", work / f"{size}/marked"
        original.mkdir(parents=True, exist_ok=True)
        names = []
        for kind, part in shares.items():
            for i, picture in enumerate(sources(arguments, size, kind, round(part * arguments.count))):
                names.append(f"{kind}-{i:05}.png")
                if not (original / names[-1]).exists():
                    picture.save(original / names[-1])
        kinds = np.array([name.split("-")[0] for name in names])
        rows = {line["name"]: line for line in lines([arguments.tool, "mark", "measured", original, marked])}
        ratios = np.array([rows[name]["psnr"] for name in names])
        seconds = np.array([rows[name]["seconds"] for name in names])
        report[size] = {"pictures": len(names), "psnr": {"least": ratios.min(), "mean": ratios.mean()}, "attacks": {}}
        print(f"\n{size} px, {len(names)} pictures: PSNR at least {ratios.min():.2f} dB, mean {ratios.mean():.2f} dB "
              f"({', '.join(f'{kind} {ratios[kinds == kind].mean():.1f}' for kind in shares)}); marking "
              f"{seconds.mean() * 1000:.0f} ms")
        print("| change | found at 1e-3 false positives | at 1e-6 | " + " | ".join(f"{kind} (1e-3)" for kind in shares) + " |")
        print("|---|---|---|" + "---|" * len(shares))
        for attack, change in ATTACKS.items():
            folder = work / f"{size}/attacked"
            folder.mkdir(exist_ok=True)
            draw = random.Random(f"{attack} {size}")
            for name in names:
                change(Image.open(marked / name).convert("RGB"), draw).save(folder / name, compress_level=1)
            scores = {line["name"]: line["scores"][0] for line in lines([arguments.tool, "score", "measured", "--", folder])}
            scores = np.array([scores[name] for name in names])
            report[size]["attacks"][attack] = {kind: share(scores[kinds == kind], 3) for kind in shares}
            row = [share(scores, 3), share(scores, 6), *(share(scores[kinds == kind], 3) for kind in shares)]
            print(f"| {attack} | " + " | ".join(f"{value:.2%}" for value in row) + " |", flush=True)
        keys = ["measured", *(f"wrong {i}" for i in range(arguments.keys))]
        some = work / f"{size}/some"
        some.mkdir(exist_ok=True)
        for name in names[:: max(1, len(names) // arguments.unmarked)]:
            (some / name).write_bytes((original / name).read_bytes())
        scores = np.array([line["scores"] for line in lines([arguments.tool, "score", *keys, "--", some])])
        for name, values in [("the key", scores[:, 0]), (f"{arguments.keys} other keys", scores[:, 1:].ravel())]:
            above = [f"{(values >= t).mean():.2e}" for t in (1, 2, 3)] + [int((values >= 6).sum())]
            print(f"unmarked, {name}: {len(values)} searches; share with a score of 1, 2, 3 or more, number of 6 or more: {above}; highest {values.max():.2f}")
        if arguments.peers:
            some = names[:: max(1, len(names) // arguments.peers)]
            for method in ("dwtDct", "dwtDctSvd"):
                try:
                    print(f"invisible-watermark {method}, {len(some)} pictures:", json.dumps(peer(method, original, some, size)))
                except Exception as error:
                    print(f"invisible-watermark {method}: does not run: {type(error).__name__}: {error}")
    (work / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
