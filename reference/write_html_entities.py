"""Writes the names of HTML's characters, which captions from the web are full of.

    python reference/write_html_entities.py

The names are those of the HTML standard (section 13.5) as Python's `html.entities` has them: a line a name, with its
semicolon where it needs one, and the characters' numbers.
"""

from html.entities import html5
from pathlib import Path

OUT = Path(__file__).parent.parent / "crates/impasto/src/text/clip/html_entities.txt"

if __name__ == "__main__":
    lines = [f"{name} {' '.join(f'{ord(char):x}' for char in chars)}\n" for name, chars in sorted(html5.items())]
    OUT.write_text("".join(lines))
