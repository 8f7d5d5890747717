"""Kills a server at random moments while jobs are submitted, and starts it again. At the end every acknowledged job has
ended once, with the pixels of `impasto generate`, and the database is sound.

python3 kills.py IMPASTO [KILLS]
"""

import http.client
import io
import json
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

from PIL import Image

impasto = pathlib.Path(sys.argv[1]).resolve()
kills = int(sys.argv[2]) if len(sys.argv) > 2 else 100
chance = random.Random(1)
PROMPTS = ["two red cats", "a star under the night sky", "a turtle on a yellow background", "a hat"]


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def pixels(source):
    with Image.open(source) as image:
        return image.size, image.convert("RGB").tobytes()


SMALL = os.path.join(os.path.dirname(__file__), "../../../../models/impasto-mini")


def start(data):
    """The server, and its port once it answers."""
    server = subprocess.Popen([impasto, "serve", SMALL, "--port", "0", "--device", "cpu", "--quiet", "--data", data],
                              stdout=subprocess.PIPE, text=True)
    return server, int(server.stdout.readline().strip().rstrip("/").rsplit(":", 1)[1])


with tempfile.TemporaryDirectory() as folder:
    data = os.path.join(folder, "data")
    acknowledged, seed = {}, 0
    for number in range(kills):
        server, port = start(data)
        end = time.monotonic() + chance.uniform(0.02, 1.5)
        while time.monotonic() < end:
            seed += 10
            body = {"prompt": chance.choice(PROMPTS), "n": chance.choice([1, 1, 2, 5]), "seed": str(seed)}
            status, answer = ask(port, "POST", "/api/jobs", body)
            if status == 202:
                acknowledged[json.loads(answer)["id"]] = body
            else:
                assert status == 429, (status, answer)
            time.sleep(chance.uniform(0, 0.1))
        server.send_signal(signal.SIGKILL)
        server.wait()
        if number % 10 == 9:
            print(f"{number + 1} kills, {len(acknowledged)} jobs acknowledged", flush=True)

    server, port = start(data)
    ended, listed, start_time = {}, set(), time.monotonic()
    for job in acknowledged:
        while True:
            status, answer = ask(port, "GET", f"/api/jobs/{job}")
            assert status == 200, (job, status, answer)
            ended[job] = json.loads(answer)
            if ended[job]["status"] not in ("queued", "running"):
                break
            assert time.monotonic() - start_time < 600, ended[job]
            time.sleep(0.05)
    for job, body in acknowledged.items():
        assert ended[job]["status"] == "done", ended[job]
        assert len(ended[job]["pictures"]) == body["n"], ended[job]
        names = [picture["id"] for picture in ended[job]["pictures"]]
        assert not listed & set(names) and len(set(names)) == len(names), "a picture is listed twice"
        listed |= set(names)
    total = json.loads(ask(port, "GET", "/api/pictures?limit=1")[1])["total"]
    # A job that was written and not yet answered for when the server was killed is drawn, too.
    assert total >= len(listed), (total, len(listed))

    compared = 0
    for job, body in chance.sample(sorted(acknowledged.items()), min(25, len(acknowledged))):
        alone = os.path.join(folder, job)
        os.mkdir(alone)
        command = [impasto, "generate", body["prompt"], "-n", str(body["n"]), "--seed", body["seed"], "--device", "cpu"]
        written = subprocess.run(command, cwd=alone, check=True, capture_output=True, text=True).stdout.splitlines()
        for name, picture in zip(written, ended[job]["pictures"], strict=True):
            status, drawn = ask(port, "GET", f"/files/{picture['id']}.png")
            assert status == 200, (status, picture)
            assert pixels(io.BytesIO(drawn)) == pixels(os.path.join(alone, name)), (job, name)
            compared += 1
    server.send_signal(signal.SIGTERM)
    server.wait()
    with sqlite3.connect(os.path.join(data, "impasto.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    files = len(list(pathlib.Path(data, "pictures").rglob("*.png")))
    print(f"{kills} kills: {len(acknowledged)} acknowledged jobs, each done once with {len(listed)} pictures; {compared} of them "
          f"compared, equal; {files} files for {total} listed pictures; the database is sound")
    assert files == total, (files, total)
