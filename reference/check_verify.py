#!/usr/bin/env python3
"""`impasto verify` over 1,000 files of other programs and damaged ones: no crash, and nothing claimed that is not so.

    python reference/check_verify.py target/release/impasto FOLDER

needs Pillow and numpy, and reads fuzz/corpus. Files are seeded. Nothing of what is made here has a watermark, and of the
manifests only those in the untouched files of fuzz/corpus/provenance hold.
"""
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

COUNT = 1000
CORPUS = Path(__file__).parent.parent / "fuzz/corpus"
FORMATS = ["png", "jpg", "webp", "gif", "bmp", "tif"]
VALID = {"valid_unknown_signer", "valid_trusted_signer"}


def foreign(draw, generator, path):
    """A picture as Pillow writes it, with texts, XMP and Exif of other programs."""
    width, height = draw.randint(1, 300), draw.randint(1, 300)
    kind = draw.choice(["noise", "slope", "flat", "blocks"])
    if kind == "noise":
        array = generator.integers(0, 256, (height, width, 3))
    elif kind == "slope":
        array = np.add.outer(np.arange(height), np.arange(width))[:, :, None] % 256 * np.ones(3)
    elif kind == "flat":
        array = np.ones((height, width, 3)) * draw.randint(0, 255)
    else:
        array = np.kron(generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))[:height, :width]
    picture = Image.fromarray(array.astype(np.uint8)).convert(draw.choice(["RGB", "L", "RGB", "RGB"]))
    xmp = draw.choice([b"", b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>not XML", "<a>乌龟</a>".encode(), b"\xff\xfe\0<"])
    options = {}
    if path.suffix == ".png":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("parameters", draw.choice(["", "a cat\nSteps: 20, Sampler: Euler a", "Seed: \0"]).replace("\0", " "))
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("latin-1"))
        options["pnginfo"] = texts
    elif path.suffix in (".jpg", ".webp") and xmp:
        options["xmp"] = xmp
    if path.suffix == ".jpg":
        exif = Image.Exif()
        exif[0x0112] = draw.randint(0, 9)
        options["exif"] = exif
    picture.save(path, **options)


def damaged(draw, whole):
    data = bytearray(whole)
    for _ in range(draw.choice([1, 1, 3, 20])):
        at = draw.randrange(len(data))
        change = draw.randrange(4)
        if change == 0:
            data[at] = draw.randrange(256)
        elif change == 1:
            del data[at:at + draw.randint(1, 40)]
        elif change == 2:
            data[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 40)))
        else:
            del data[at:]
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def main():
    program, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    draw, generator = random.Random(1), np.random.default_rng(1)
    signed = sorted((CORPUS / "provenance").iterdir())
    wholes = [path.read_bytes() for path in signed + sorted((CORPUS / "picture").iterdir())]
    paths, untouched = [], set()
    for i in range(COUNT):
        path = folder / f"{i:04}.{draw.choice(FORMATS)}"
        kind = draw.randrange(10)
        if kind < 5:
            foreign(draw, generator, path)
        elif kind == 5:
            path = folder / f"{i:04}{draw.choice(signed).suffix}"
            path.write_bytes(next(s for s in signed if s.suffix == path.suffix).read_bytes())
            untouched.add(str(path))
        elif kind == 6 and paths:
            path.write_bytes(damaged(draw, Path(draw.choice(paths)).read_bytes()))
        else:
            path.write_bytes(damaged(draw, draw.choice(wholes)))
        paths.append(str(path))
    ran = subprocess.run([program, "verify", "--json", "--watermark", "a key", *paths], capture_output=True, text=True)
    assert ran.returncode in (0, 1) and "panicked" not in ran.stderr, (ran.returncode, ran.stderr[-2000:])
    reports = json.loads(ran.stdout)
    assert len(reports) == COUNT
    unread = [report for report in reports if "error" in report]
    read = [report for report in reports if "error" not in report]
    marks = [report for report in read for mark in report["watermarks"] if mark["found"]]
    states = {}
    for report in read:
        states[report["manifest"]["state"]] = states.get(report["manifest"]["state"], 0) + 1
    # Damage to what only fills a manifest up, or to another place that no hash covers, leaves it valid: that is true.
    false = [r["path"] for r in read if r["manifest"]["state"] in VALID and r["path"] not in untouched]
    missed = [r["path"] for r in read if r["path"] in untouched and r["manifest"]["state"] not in VALID | {"not_checked"}]
    longest = max(mark["score"] for report in read for mark in report["watermarks"])
    print(f"{COUNT} files: {len(read)} read, {len(unread)} refused with a reason; manifests: {states}; "
          f"{sum(len(r['watermarks']) for r in read)} searches for watermarks, {len(marks)} found, highest score {longest:.2f}; "
          f"valid after damage: {false}; untouched but not valid: {missed}")
    sys.exit(bool(marks or missed))


if __name__ == "__main__":
    main()
