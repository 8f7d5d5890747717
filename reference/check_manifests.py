#!/usr/bin/env python3
"""Reads files that impasto signed with c2pa-python, as they are and with changed bytes.

    impasto generate "a cat" --sign -o a.png        # built with --features c2pa
    pip install c2pa-python && python reference/check_manifests.py a.png …

Each file has to be valid but for the unknown signer, and no longer so with any byte outside of the manifest changed.
(Bytes in the manifest that only fill it up are covered by no hash, by design of C2PA.)
"""
import io
import json
import random
import struct
import sys

import c2pa

CHANGES = 300


def read(data, kind):
    try:
        with c2pa.Reader(kind, io.BytesIO(data)) as reader:
            return json.loads(reader.json())
    except Exception as error:  # whatever the library raises: the file is not valid
        return {"validation_state": f"error: {type(error).__name__}"}


def manifest(data):
    """Where the manifest stands: media type, and ranges of bytes."""
    if data.startswith(b"\x89PNG"):
        kind, at, ranges = "image/png", 8, []
        while at < len(data):
            length = 12 + struct.unpack(">I", data[at:at + 4])[0]
            ranges += [(at, at + length)] * (data[at + 4:at + 8] == b"caBX")
            at += length
    elif data.startswith(b"\xff\xd8"):
        kind, at, ranges = "image/jpeg", 2, []
        while data[at + 1] != 0xDA:
            length = 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
            ranges += [(at, at + length)] * (data[at + 1] == 0xEB)
            at += length
    else:
        kind, at, ranges = "image/webp", 12, []
        while at < len(data):
            length = struct.unpack("<I", data[at + 4:at + 8])[0]
            ranges += [(at, at + 8 + length + length % 2)] * (data[at:at + 4] == b"C2PA")
            at += 8 + length + length % 2
    return kind, ranges


def main():
    wrong = 0
    for path in sys.argv[1:]:
        data = open(path, "rb").read()
        kind, ranges = manifest(data)
        store = read(data, kind)
        state = store["validation_state"]
        problems = [status["code"] for status in store.get("validation_status", [])]
        outside = [i for i in range(len(data)) if not any(a <= i < b for a, b in ranges)]
        draw = random.Random(path)
        tally = {}
        for at in draw.sample(outside, min(CHANGES, len(outside))):
            changed = bytearray(data)
            changed[at] ^= draw.randint(1, 255)
            after = read(bytes(changed), kind)["validation_state"]
            tally[after] = tally.get(after, 0) + 1
        good = state in ("Valid", "Trusted") and problems in ([], ["signingCredential.untrusted"])
        wrong += not good or "Valid" in tally or "Trusted" in tally
        print(f"{path}: {state} {problems}; with one changed byte outside of the manifest: {tally}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
