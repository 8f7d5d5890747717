"""Trains a small YouTokenToMe model and writes what it makes of captions.

    python reference/write_youtokentome_goldens.py

Wants the package `youtokentome`, which is built from source (`pip install cython`, then `--no-build-isolation`).
"""

import json
import random
import tempfile
from pathlib import Path

import youtokentome

OUT = Path(__file__).parent.parent / "crates/impasto/src/text/youtokentome_goldens"
CAPTIONS = ["a red turtle on a hat", "Two cats! \u4e09\u53ea\u732b, isn't it?", "a cat on a red hat", "turtles like hats and cats", "the turtle that the cat likes"]
MORE = ["", "  spaces \t tab\nnew  ", "xyz \u2603 turtles", "\u2581a\u2581 cat", "a\u00a0cat \u0085 \u001c x", "turtleturtletu", "catscatscat", "aaaa", "\U0001f422 \U0001f422\U0001f422"]


def main():
    OUT.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as data:
        data.write("\n".join(CAPTIONS * 3) + "\n")
        data.flush()
        youtokentome.BPE.train(data=data.name, model=str(OUT / "bpe.model"), vocab_size=90, coverage=0.99, n_threads=1)
    bpe = youtokentome.BPE(str(OUT / "bpe.model"), n_threads=1)
    choose = random.Random(1)
    letters = sorted(set("".join(CAPTIONS))) + ["\u2603", "x", " ", " "]
    captions = CAPTIONS + MORE + ["".join(choose.choices(letters, k=choose.randrange(40))) for _ in range(400)]
    written = []
    for caption in captions:
        ids = bpe.encode([caption], output_type=youtokentome.OutputType.ID)[0]
        written.append({"caption": caption, "ids": ids, "text": bpe.decode([ids], ignore_ids={0})[0]})
    (OUT / "expected.json").write_text(json.dumps(written, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main()
