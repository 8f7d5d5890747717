#!/usr/bin/env python3
"""How often the invisible watermark is found, and how often it is where there is none.

Makes seeded sets of pictures (drawn by the embedded model, composed scenes, photographs of other packages, noise), marks
them with `examples/watermark.rs`, changes them as in ATTACKS with Pillow, and prints tables. With invisible-watermark
installed, its `dwtDct` and `dwtDctSvd` are measured on the same pictures. Works in blocks of 100 pictures of all kinds and
keeps what is done, so that it can be ended and started again. See README.md for how to run it.
"""
import argparse
import functools
import io
import json
import random
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

BLOCK = 100
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


@functools.cache
def pictures_in(folder):
    return sorted(Path(folder).rglob("*.png"))


@functools.cache
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


def source(arguments, size, kind, i):
    """The i-th picture of a kind, seeded."""
    draw = random.Random(f"{kind} {size} {i}")
    if kind == "noise":
        return noise(draw, size)
    if kind == "photographs":
        picture = photographs(arguments.wheels)[PHOTOGRAPHS[i % len(PHOTOGRAPHS)]]
        shorter = min(picture.size)
        side = max(int(shorter * draw.uniform(0.3, 1)), min(size, shorter))
        x, y = draw.randint(0, picture.width - side), draw.randint(0, picture.height - side)
        return picture.crop((x, y, x + side, y + side)).resize((size, size), Image.LANCZOS)
    paths = pictures_in({"drawn": arguments.drawn, "scenes": arguments.scenes}[kind])
    # A picture alone, scaled, or several side by side.
    tiles = 1 if i % 2 else max(1, size // 128)
    tile = size // tiles
    picture = Image.new("RGB", (size, size))
    for k in range(tiles * tiles):
        path = draw.choice(paths) if size > 128 else paths[i % len(paths)]
        part = Image.open(path).convert("RGB").resize((tile, tile), Image.LANCZOS)
        if size <= 128 and i >= len(paths):
            part = part.transpose(Image.FLIP_LEFT_RIGHT)
        picture.paste(part, (k % tiles * tile, k // tiles * tile))
    return picture


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


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def measure_block(arguments, size, shares, block):
    """Marks, changes and searches the pictures of a block: what its lines in the report are made of."""
    work = Path(arguments.work) / f"{size}"
    original, marked = fresh(work / "original"), work / "marked"
    names = []
    for kind, part in shares.items():
        each = round(part * BLOCK)
        for i in range(block * each, (block + 1) * each):
            names.append(f"{kind}-{i:05}.png")
            source(arguments, size, kind, i).save(original / names[-1])
    shutil.rmtree(marked, ignore_errors=True)
    rows = {line["name"]: line for line in lines([arguments.tool, "mark", "measured", original, marked])}
    kept = {name: {"psnr": rows[name]["psnr"], "seconds": rows[name]["seconds"], "scores": {}} for name in names}
    for attack, change in ATTACKS.items():
        folder = fresh(work / "attacked")
        draw = random.Random(f"{attack} {size} {block}")
        for name in names:
            change(Image.open(marked / name).convert("RGB"), draw).save(folder / name, compress_level=1)
        for line in lines([arguments.tool, "score", "measured", "--", folder]):
            kept[line["name"]]["scores"][attack] = line["scores"][0]
    every = max(1, arguments.count // max(1, arguments.unmarked))
    some = fresh(work / "some")
    for name in names[::every]:
        shutil.copy(original / name, some / name)
    keys = ["measured", *(f"wrong {i}" for i in range(arguments.keys))]
    unmarked = [line["scores"] for line in lines([arguments.tool, "score", *keys, "--", some])]
    return {"pictures": kept, "unmarked": unmarked}


def report(size, shares, blocks, keys):
    """Prints the tables of a size, and returns their numbers."""
    rows = {name: row for block in blocks for name, row in block["pictures"].items()}
    kinds = np.array([name.split("-")[0] for name in rows])
    ratios = np.array([row["psnr"] for row in rows.values()])
    seconds = np.array([row["seconds"] for row in rows.values()])
    print(f"\n{size} px, {len(rows)} pictures: PSNR at least {ratios.min():.2f} dB, mean {ratios.mean():.2f} dB "
          f"({', '.join(f'{kind} {ratios[kinds == kind].mean():.1f}' for kind in shares)}); marking "
          f"{seconds.mean() * 1000:.0f} ms")
    print("| change | found at 1e-3 false positives | at 1e-6 | " + " | ".join(f"{kind} (1e-3)" for kind in shares) + " |")
    print("|---|---|---|" + "---|" * len(shares))
    attacks = {}
    for attack in ATTACKS:
        scores = np.array([row["scores"][attack] for row in rows.values()])
        attacks[attack] = {kind: share(scores[kinds == kind], 3) for kind in shares}
        row = [share(scores, 3), share(scores, 6), *attacks[attack].values()]
        print(f"| {attack} | " + " | ".join(f"{value:.2%}" for value in row) + " |", flush=True)
    scores = np.array([scores for block in blocks for scores in block["unmarked"]])
    for name, values in [("the key", scores[:, 0]), (f"{keys} other keys", scores[:, 1:].ravel())]:
        if not len(values):
            continue
        above = [f"{(values >= t).mean():.2e}" for t in (1, 2, 3)] + [int((values >= 6).sum())]
        print(f"unmarked, {name}: {len(values)} searches; share with a score of 1, 2, 3 or more, number of 6 or more: {above}; highest {values.max():.2f}")
    return {"pictures": len(rows), "psnr": {"least": ratios.min(), "mean": ratios.mean()}, "attacks": attacks}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool", required=True, help="the program of examples/watermark.rs")
    parser.add_argument("--drawn", required=True, help="a folder of pictures that a model drew")
    parser.add_argument("--scenes", required=True, help="a folder of composed scenes")
    parser.add_argument("--wheels", required=True, help="a folder with the wheels of scikit-image and scikit-learn")
    parser.add_argument("--work", required=True, help="where pictures are written")
    parser.add_argument("--count", type=int, default=2000, help="pictures of each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--keys", type=int, default=64, help="wrong keys in each unmarked picture")
    parser.add_argument("--unmarked", type=int, default=2000, help="pictures of each size that are searched unmarked")
    parser.add_argument("--report", action="store_true", help="tables of the blocks that are done, without measuring more")
    parser.add_argument("--noise", action="store_true", help="noise alone: the hardest pictures")
    parser.add_argument("--peers", type=int, default=0, help="pictures of each size that invisible-watermark gets")
    arguments = parser.parse_args()
    shares = {"drawn": 0.4, "scenes": 0.4, "photographs": 0.2}
    if arguments.noise:
        shares = {"noise": 1.0}
    numbers = {}
    for size in arguments.sizes:
        done = Path(arguments.work) / f"{size}" / "done"
        done.mkdir(parents=True, exist_ok=True)
        for block in range(0 if arguments.report else -(-arguments.count // BLOCK)):
            path = done / f"{block:03}.json"
            if not path.exists():
                found = measure_block(arguments, size, shares, block)
                path.with_suffix(".part").write_text(json.dumps(found))
                path.with_suffix(".part").rename(path)
        blocks = [json.loads(path.read_text()) for path in sorted(done.glob("*.json"))]
        if blocks:
            numbers[size] = report(size, shares, blocks, arguments.keys)
        if arguments.peers:
            original = fresh(Path(arguments.work) / f"{size}" / "peers")
            some = [f"{kind}-{i:05}.png" for kind, part in shares.items() for i in range(round(part * arguments.peers))]
            for name in some:
                kind, i = name.removesuffix(".png").split("-")
                source(arguments, size, kind, int(i)).save(original / name)
            for method in ("dwtDct", "dwtDctSvd"):
                try:
                    print(f"invisible-watermark {method}, {len(some)} pictures:", json.dumps(peer(method, original, some, size)))
                except Exception as error:
                    print(f"invisible-watermark {method}: does not run: {type(error).__name__}: {error}")
    (Path(arguments.work) / "report.json").write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
