"""Drawing on a GPU: impasto beside min-dalle and transformers on the same card, random weights in exact sizes.

    python3 reference/bench_gpu_drawing.py --impasto target/release/impasto [--packages FOLDER] [--limit 75]
    python3 reference/bench_gpu_drawing.py --impasto target/release/impasto --device cpu --tiny    # a rehearsal

Prints one JSON line a row: DALL·E mini (256 ids) against min-dalle, Janus-Pro-1B (576 ids) against transformers; in f32 and
bf16, one picture and several at once. `seconds` are of a whole picture from the caption's ids to bytes on the host (of all
pictures of a row together), `ids` of its ids alone; a ratio above 1 says that impasto is quicker. No weight file is read:
`impasto bench --pictures-on` makes its own on the device, as this script does. What fails becomes a row with an "error",
and the others go on.

min-dalle is its own class and `generate_raw_image_stream`, with modules of random weights and given text ids; it draws
squares of pictures, so several are nine. transformers' are the steps of `generate(generation_mode="image")`, with
`DynamicCache`, both rows of guidance in one batch: some steps at the beginning, the middle and the end of a picture, whose
mean is taken 576 times. Everything is run once before it is timed, and the device is waited for.

FOLDER holds packages that this Python lacks (`pip download --no-deps -d FOLDER min-dalle==0.4.11`), wheels or source
archives of plain Python, which are imported as they are.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import types
import warnings
from pathlib import Path

BEGIN = time.perf_counter()
MINI_IDS, JANUS_IDS = 256, 576
# Some text ids, as `impasto bench` has them.
MINI_CAPTION, JANUS_CAPTION = list(range(3, 20)), list(range(100, 124))
# Layers stay as many; what is left is the host's time.
NARROW = 8 * 16
STEPS = 24


class Enough(Exception):
    """The limit is reached."""


class Clock:
    def __init__(self, limit):
        self.end = BEGIN + limit

    def left(self):
        return self.end - time.perf_counter()

    def check(self):
        if self.left() <= 0:
            raise Enough


def show(**row):
    print(json.dumps(row, ensure_ascii=False), flush=True)


def import_from(folder):
    for wheel in folder.glob("*.whl"):
        sys.path.append(str(wheel.resolve()))
    for archive in folder.glob("*.tar.gz"):
        unpacked = tempfile.mkdtemp()
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        sys.path.extend(str(inner) for inner in Path(unpacked).iterdir())


# impasto


def libraries():
    """Where LibTorch and CUDA's libraries of this Python are."""
    import torch

    folder = Path(torch.__file__).parent
    found = [folder / "lib", *sorted(folder.parent.glob("nvidia/*/lib"))]
    before = os.environ.get("LD_LIBRARY_PATH")
    return os.pathsep.join([*([before] if before else []), *map(str, found)])


LINE = re.compile(r"^(?P<model>.+?)\s+(?P<precision>f32|bf16)\s+(?P<batch>\d+)\s+(?P<ms>[\d.]+) ms a (?P<unit>picture's ids|picture)\s")


def impasto(options, clock, painter, precision, pictures, runs):
    """Seconds by (precision, pictures, unit), as far as they were measured before the limit."""
    device = "tch-cuda" if options.device == "cuda" else "tch"
    command = [options.impasto, "bench", "--pictures-on", device, "--painter", painter, "--precision", precision]
    command += ["--pictures", ",".join(map(str, pictures)), "--runs", str(runs)]
    if options.tiny:
        command.append("--narrow")
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries()}
    if options.tiny:
        environment["OMP_NUM_THREADS"] = "1"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    # Ends it at the limit, whatever it has printed until then.
    timer = threading.Timer(max(clock.left(), 0.1), process.kill)
    timer.start()
    seconds, said = {}, []
    for line in process.stderr:
        found = LINE.match(line.strip())
        if found:
            seconds[found["precision"], int(found["batch"]), found["unit"]] = float(found["ms"]) / 1000
        else:
            said.append(line.strip())
    process.wait()
    timer.cancel()
    if process.returncode:
        show(row=f"impasto {painter} {precision}", error=f"ended with {process.returncode}", said=said[-6:])
    return seconds


# Peers


def synchronize(options):
    if options.device == "cuda":
        import torch

        torch.cuda.synchronize()


def seconds_of(options, work):
    synchronize(options)
    begin = time.perf_counter()
    work()
    synchronize(options)
    return time.perf_counter() - begin


def import_min_dalle():
    # For downloads and for its tokenizer, neither of which is used here.
    for name, attributes in (("emoji", {"demojize": None}), ("requests", {})):
        try:
            __import__(name)
        except ImportError:
            module = types.ModuleType(name)
            module.__dict__.update(attributes)
            sys.modules[name] = module
    from min_dalle import MinDalle
    from min_dalle.models import DalleBartDecoder, DalleBartEncoder, VQGanDetokenizer

    return MinDalle, DalleBartEncoder, DalleBartDecoder, VQGanDetokenizer


class MinDallePeer:
    """Its own class, whose modules have random weights instead of downloaded ones."""

    name = "min-dalle"

    def __init__(self, options, clock, precision):
        import torch

        MinDalle, Encoder, Decoder, Detokenizer = import_min_dalle()
        self.options, self.clock = options, clock
        if options.tiny:
            # Importing it sets as many as there are cores.
            torch.set_num_threads(1)
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[precision]
        width, hidden = (NARROW, NARROW) if options.tiny else (1024, 2730)
        painter = MinDalle.__new__(MinDalle)
        painter.device, painter.dtype, painter.is_reusable = options.device, dtype, True
        painter.is_verbose, painter.is_mega = False, False
        painter.text_token_count, painter.layer_count = 64, 12
        painter.attention_head_count, painter.embed_count = 16, width
        painter.tokenizer = types.SimpleNamespace(tokenize=lambda text, is_verbose: [0, *MINI_CAPTION[1:-1], 2])
        with torch.device(options.device):
            painter.encoder = Encoder(12, width, 16, 50264, 64, hidden, options.device).to(dtype).eval()
            painter.decoder = Decoder(16384, width, 16, hidden, 12, options.device).to(dtype).eval()
            painter.detokenizer = Detokenizer().eval()
        self.painter, self.stamps = painter, []
        inner = painter.decoder.sample_tokens

        def sample_tokens(*arguments, **named):
            clock.check()
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return inner(*arguments, **named)

        painter.decoder.sample_tokens = sample_tokens
        detokenize = painter.image_grid_from_tokens

        def image_grid_from_tokens(*arguments, **named):
            synchronize(options)
            self.ids_known = time.perf_counter()
            # Its pixels have one size.
            return torch.zeros(1) if options.tiny else detokenize(*arguments, **named)

        painter.image_grid_from_tokens = image_grid_from_tokens

    def draw(self, pictures, ids):
        import torch

        self.left = ids
        side = round(pictures**0.5)
        stream = self.painter.generate_raw_image_stream("", 1, side, temperature=1, top_k=16384, supercondition_factor=3)
        try:
            image = next(stream)
        except (StopIteration, RuntimeError) as error:
            # A generator turns the one into the other.
            if isinstance(error, RuntimeError) and not isinstance(error.__cause__, StopIteration):
                raise
            return
        image.to(torch.uint8).cpu()

    def seconds(self, pictures):
        """Of a picture and of its ids."""
        self.draw(pictures, 16)
        # The pixels' warm-up.
        import torch

        if not self.options.tiny:
            some = torch.zeros(pictures, MINI_IDS, dtype=torch.long, device=self.options.device)
            self.painter.detokenizer.forward(False, some)
        begin = time.perf_counter()
        whole = seconds_of(self.options, lambda: self.draw(pictures, MINI_IDS))
        return whole, self.ids_known - begin


class JanusPeer:
    """The loop of `generate(generation_mode="image")`."""

    name = "transformers"

    def __init__(self, options, clock, precision):
        import torch
        from transformers import JanusForConditionalGeneration

        sys.path.insert(0, str(Path(__file__).parent))
        from write_janus_shapes import config

        self.options, self.clock = options, clock
        sizes = config("1b")
        # What sees pictures has no part in drawing.
        sizes.vision_config.num_hidden_layers = 1
        if options.tiny:
            text = sizes.text_config
            text.hidden_size = text.intermediate_size = NARROW
            text.head_dim = NARROW // text.num_attention_heads
            sizes.vision_config.projection_dim = sizes.vq_config.projection_dim = NARROW
            sizes.vq_config.image_token_embed_dim = NARROW
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(options.device):
                self.model = JanusForConditionalGeneration(sizes).eval()
        finally:
            torch.set_default_dtype(before)
        self.model = self.model.to(device=options.device, dtype=dtype)

    def steps(self, pictures, known, count):
        """Seconds of the prefill of `known` positions and of each of `count` steps after it."""
        import torch
        from transformers import DynamicCache

        model, device = self.model, self.options.device
        rows = torch.tensor([JANUS_CAPTION] * (2 * pictures), device=device)
        x = model.get_input_embeddings()(rows)
        x = x.repeat(1, -(-known // x.shape[1]), 1)[:, :known]
        cache, times = DynamicCache(config=model.config.text_config), []
        for _ in range(count + 1):
            self.clock.check()

            def step():
                nonlocal x
                outputs = model.model.language_model(inputs_embeds=x, past_key_values=cache, use_cache=True)
                scores = model.model.generation_head(outputs.last_hidden_state[:, -1, :].clone())
                given, alone = scores[:pictures], scores[pictures:]
                token = torch.multinomial((alone + 5 * (given - alone)).softmax(-1), 1).squeeze(-1)
                x = model.prepare_embeddings_for_image_generation(torch.cat([token, token]).unsqueeze(-1))

            times.append(seconds_of(self.options, step))
        return times[0], times[1:]

    def seconds(self, pictures):
        import torch

        self.steps(pictures, len(JANUS_CAPTION), 4)
        means = []
        for known in (0, JANUS_IDS // 2, JANUS_IDS - STEPS):
            prefill, times = self.steps(pictures, len(JANUS_CAPTION) + known, STEPS)
            if known == 0:
                first = prefill
            means.append(sum(times) / len(times))
        ids = first + (JANUS_IDS - 1) * sum(means) / len(means)
        tokens = torch.zeros(pictures, JANUS_IDS, dtype=torch.long, device=self.options.device)

        def pixels():
            self.model.decode_image_tokens(tokens).float().cpu()

        if self.options.tiny:
            return ids, ids
        pixels()
        return ids + seconds_of(self.options, pixels), ids


# Rows


def measure(options, clock, model, painter, Peer, precision, pictures, ours, peers):
    """A row, both sides of which are known by now or measured now."""
    key = f"{model}, {precision}, {pictures}"
    try:
        clock.check()
        if (painter, precision) not in peers:
            # The last one's memory is given back.
            peers.clear()
            peers[painter, precision] = Peer(options, clock, precision)
        peer = peers[painter, precision]
        whole, ids = peer.seconds(pictures)
    except Enough:
        show(row=key, error="the limit was reached")
        return
    except Exception as error:
        said = traceback.format_exc().strip().splitlines()
        show(row=key, error=f"{Peer.name}: {type(error).__name__}: {str(error)[:300]}", at=said[-4:])
        whole = ids = None
    own, own_ids = (ours.get((precision, pictures, unit)) for unit in ("picture", "picture's ids"))
    ratio = lambda peer, own: round(peer / own, 2) if peer and own else None
    rounded = lambda seconds: seconds and round(seconds, 4)
    show(
        model=model,
        precision=precision,
        pictures=pictures,
        impasto_seconds=rounded(own),
        impasto_ids=rounded(own_ids),
        peer=Peer.name,
        peer_seconds=rounded(whole),
        peer_ids=rounded(ids),
        ratio=ratio(whole, own),
        ratio_ids=ratio(ids, own_ids),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impasto", default="target/release/impasto")
    parser.add_argument("--packages", type=Path, help="a folder of packages that this Python lacks")
    parser.add_argument("--limit", type=float, default=75, help="seconds of all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="as many layers, narrow: a rehearsal of what the host does")
    parser.add_argument("--runs", type=int, default=1, help="impasto's runs of a row, after one that does not count")
    parser.add_argument("--only", choices=["mini", "janus"], help="one of the models alone")
    options = parser.parse_args()
    clock = Clock(options.limit)
    warnings.filterwarnings("ignore")
    if options.packages:
        import_from(options.packages)
    import torch

    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    if options.tiny:
        torch.set_num_threads(1)
    card = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    show(device=card, torch=torch.__version__, tiny=options.tiny, threads=torch.get_num_threads())
    mini = ("DALL·E mini", "dalle-mini", MinDallePeer)
    janus = ("Janus-Pro-1B", "janus", JanusPeer)
    # The most important rows first; impasto's of a model in one process.
    plan = [
        (mini, "f32,bf16", [1, 9], [("f32", 1), ("bf16", 1)]),
        (janus, "bf16", [1, 8], [("bf16", 1), ("bf16", 8)]),
        (mini, None, [], [("f32", 9), ("bf16", 9)]),
        (janus, "f32", [1], [("f32", 1)]),
    ]
    measured, peers = {}, {}
    for (model, painter, Peer), precisions, pictures, rows in plan:
        if options.only and options.only not in painter:
            continue
        ours = measured.setdefault(painter, {})
        if precisions and clock.left() > 2:
            try:
                # The peers' memory is free meanwhile.
                peers.clear()
                new = impasto(options, clock, painter, precisions, pictures, options.runs)
                ours.update(new)
                for (precision, count, unit), seconds in new.items():
                    if unit == "picture":
                        show(impasto=painter, precision=precision, pictures=count, seconds=round(seconds, 4))
            except Exception as error:
                show(row=f"impasto {painter}", error=f"{type(error).__name__}: {error}")
        for precision, count in rows:
            measure(options, clock, model, painter, Peer, precision, count, ours, peers)
    show(seconds_of_all=round(time.perf_counter() - BEGIN, 1))


if __name__ == "__main__":
    main()
