"""Damages published models of real sizes, one place at a time, and looks at what the program makes of them.

    python reference/check_damaged_files.py PATH/TO/impasto FILE...

FILE is a weight file in a folder with all that its model needs (see docs/published-models.md); it is changed, and put right
again. Bytes near the beginning, near the end and anywhere become 0x10, 0x7f or 0xff, and the end is cut off. Ends in an
error where the program does anything but work or refuse, or takes more than four times the memory of the folder's files.
Linux only, as is the measure of memory.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

TRIES = 8


def run(impasto, arguments):
    """The exit code, the peak of memory in bytes, and the last line of stderr."""
    process = subprocess.Popen([impasto, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    printed = process.stderr.read().strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024, printed[-1] if printed else ""


def check(impasto, path, work):
    ids = work / "ids.json"
    ids.write_text("[1]")
    folder = str(path.parent)
    config = path.parent / "config.json"
    is_clip = "clip" in path.name or (config.exists() and json.loads(config.read_text()).get("model_type") == "clip")
    if is_clip:
        arguments = ["embed", "--text", "a", "--clip", folder]
    else:
        # One id is too few: an error that comes once everything was read.
        arguments = ["tokens", "decode", str(ids), "-o", str(work / "out.png"), "--model", folder]
    size = path.stat().st_size
    files = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    code, worst, printed = run(impasto, arguments)
    assert code == 0 or "expected" in printed, printed
    chosen = random.Random(1)
    with path.open("r+b", buffering=0) as file:
        for attempt in range(TRIES):
            kind = attempt % 4
            at = [chosen.randrange(min(size, 3000)), size - 1 - chosen.randrange(min(size, 100_000)), chosen.randrange(size), chosen.randrange(size // 2, size)][kind]
            file.seek(at)
            old = file.read() if kind == 3 else file.read(8)
            try:
                file.seek(at)
                if kind == 3:
                    file.truncate(at)
                else:
                    file.write(bytes([chosen.choice([0x10, 0x7F, 0xFF])] * chosen.randrange(1, len(old) + 1)))
                code, peak, printed = run(impasto, arguments)
            finally:
                file.seek(at)
                file.write(old)
            worst = max(worst, peak)
            assert code in (0, 1) and "panicked" not in printed, (path, at, code, printed)
    print(f"{path}: {files / 1e6:.0f} MB, at most {worst / files:.2f} times that in memory", flush=True)
    assert worst <= 4 * files, path


def main(impasto, paths):
    with tempfile.TemporaryDirectory() as work:
        for path in paths:
            check(impasto, Path(path), Path(work))


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()), sys.argv[2:])
