"""Writes the names of emoji for `crates/impasto/src/text/normalizer/emoji.rs`.

    python reference/write_emoji_names.py

From the `emoji` package (BSD; its data is Unicode's `emoji-test.txt` and CLDR). Left out is what the code
makes itself: skin tones are suffixes, and sequences are looked up without their variation selectors.
"""

from pathlib import Path

import emoji

OUT = Path(__file__).parent.parent / "crates/impasto/src/text/normalizer/emoji_names.txt"
TONES = {
    "\U0001f3fb": "_light_skin_tone",
    "\U0001f3fc": "_medium-light_skin_tone",
    "\U0001f3fd": "_medium_skin_tone",
    "\U0001f3fe": "_medium-dark_skin_tone",
    "\U0001f3ff": "_dark_skin_tone",
}


def plain(sequence):
    return sequence.replace("\ufe0f", "")


if __name__ == "__main__":
    names = {}
    for sequence, data in emoji.EMOJI_DATA.items():
        if not any(tone in sequence[1:] for tone in TONES):
            names.setdefault(plain(sequence), data["en"].strip(":"))
    odd = 0
    for sequence, data in emoji.EMOJI_DATA.items():
        bare, suffix = sequence[0], ""
        for character in plain(sequence)[1:]:
            suffix += TONES.get(character, "")
            bare += "" if character in TONES else character
        if names.get(bare, "") + suffix != data["en"].strip(":"):
            names[plain(sequence)] = data["en"].strip(":")
            odd += 1
    lines = [f"{sequence} {name}" for sequence, name in sorted(names.items())]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf8")
    print(f"{len(lines)} sequences, {odd} of them with skin tones")
