"""The shapes of `impasto bench` in PyTorch, in turn with it, so that what else the machine does slows both.

Peers are other projects' own modules where there are any (min-dalle, DALLE-pytorch, transformers), with random
weights in their published sizes, and plain PyTorch of our own architecture elsewhere. Each round measures
impasto, then the peer; the printed ratio is the median over the rounds of (peer's time / impasto's time).

    .venv/bin/python reference/bench_peers.py --impasto target/release/impasto [--what decode,pixels] [--json]
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

warnings.filterwarnings("ignore")
PARTS = ["decode", "pixels", "clip", "training", "cold"]


def seconds(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def median_of(work, runs):
    work()
    return statistics.median(seconds(work) for _ in range(runs))


def int8(model):
    """PyTorch's own dynamic quantisation of the linear layers."""
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


class Layer(nn.Module):
    """A layer of our own transformer; see native.py."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.RMSNorm(width, 1e-5) for _ in range(2)])
        self.qk_norms = nn.ModuleList([nn.RMSNorm(width // heads, 1e-5) for _ in range(2)])
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin, cache=None, known=0):
        batch, seq, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(batch, seq, 3, self.heads, -1).unbind(2)

        def turned(x, norm):
            first, second = norm(x).chunk(2, -1)
            return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

        q, k = turned(q, self.qk_norms[0]).transpose(1, 2), turned(k, self.qk_norms[1]).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is not None:
            cache[0][:, :, known : known + seq] = k
            cache[1][:, :, known : known + seq] = v
            k, v = cache[0][:, :, : known + seq], cache[1][:, :, : known + seq]
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=seq > 1)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, seq, width))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Dalle(nn.Module):
    """Our own transformer in plain PyTorch; text and image ids share one table, which costs nothing."""

    def __init__(self, width, layers, heads, hidden, text_ids, codes, length):
        super().__init__()
        self.embedding = nn.Embedding(text_ids + codes, width)
        self.layers = nn.ModuleList([Layer(width, heads, hidden) for _ in range(layers)])
        self.norm = nn.RMSNorm(width, 1e-5)
        self.text_head = nn.Linear(width, text_ids, bias=False)
        self.image_head = nn.Linear(width, codes, bias=False)
        self.length, self.heads, self.head_width = length, heads, width // heads
        angles = torch.rand(length, 1, self.head_width // 2)
        self.cos, self.sin = angles.cos(), angles.sin()

    def states(self, ids, caches=None, known=0):
        x = self.embedding(ids)
        places = slice(known, known + ids.shape[1])
        for i, layer in enumerate(self.layers):
            cache = caches[i] if caches else None
            x = layer(x, self.cos[places], self.sin[places], cache, known)
        return self.norm(x)

    @torch.inference_mode()
    def token_time(self, pictures, guided, prefix, tokens):
        rows = pictures * (2 if guided else 1)
        shape = (rows, self.heads, self.length, self.head_width)
        caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in self.layers]
        ids, known, times = torch.zeros(rows, prefix, dtype=torch.long), 0, []
        for _ in range(tokens):
            begin = time.perf_counter()
            logits = self.image_head(self.states(ids, caches, known)[:, -1])
            if guided:
                conditional, without = logits.chunk(2)
                logits = without + 3 * (conditional - without)
            drawn = torch.multinomial(logits.softmax(-1), 1)
            known += ids.shape[1]
            ids = drawn.repeat(2 if guided else 1, 1)
            times.append(time.perf_counter() - begin)
        return statistics.median(times[1:])


def own_decode():
    return Dalle(768, 12, 12, 2048, 8192, 8192, 64 + 1 + 256).eval()


def bart_decoder():
    from min_dalle.models import DalleBartDecoder

    return DalleBartDecoder(
        image_vocab_count=16384,
        embed_count=1024,
        attention_head_count=16,
        glu_embed_count=2730,
        layer_count=12,
        device="cpu",
    ).eval()


@torch.inference_mode()
def bart_token_time(decoder, pictures, tokens):
    """A step as `MinDalle.generate_raw_image_stream` takes it."""
    encoder_state = torch.randn(2 * pictures, 64, 1024)
    mask = torch.arange(64)[None, None, None].repeat(2 * pictures, 1, 1, 1) < 20
    state = torch.zeros(12, 4 * pictures, 256, 1024)
    settings = torch.tensor([1.0, 256, 16])
    drawn, times = torch.full((pictures, 1), 16384), []
    for i in range(tokens):
        begin = time.perf_counter()
        ids, state = decoder.sample_tokens(
            settings=settings,
            attention_mask=mask,
            encoder_state=encoder_state,
            attention_state=state,
            prev_tokens=drawn,
            token_index=torch.tensor([i]),
        )
        drawn = ids[:, None]
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def dalle_pytorch_model(width, layers, heads, text_ids, text_length, codes, side, downs):
    with contextlib.redirect_stdout(io.StringIO()):
        from dalle_pytorch import DALLE, DiscreteVAE
    vae = DiscreteVAE(image_size=side, num_layers=downs, num_tokens=codes, codebook_dim=64, hidden_dim=64)
    return DALLE(
        dim=width,
        vae=vae,
        num_text_tokens=text_ids,
        text_seq_len=text_length,
        depth=layers,
        heads=heads,
        dim_head=width // heads,
    ).eval()


def dalle_pytorch_time(model):
    text = torch.randint(1, 100, (1, model.text_seq_len))
    draw = lambda: model.generate_images(text, cond_scale=3.0, use_cache=True)
    return seconds(draw) / model.image_seq_len


def pixels_models():
    from min_dalle.models.vqgan_detokenizer import Decoder

    model = Decoder().eval()
    z = torch.randn(1, 256, 16, 16)
    last = torch.channels_last
    return [(model, z), (Decoder().eval().to(memory_format=last), z.to(memory_format=last))]


def clip_model():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=512)).eval()


class TrainingStep:
    def __init__(self):
        # min-dalle turns gradients off for the whole process.
        torch.set_grad_enabled(True)
        self.model = Dalle(384, 6, 6, 1024, 4096, 1024, 320)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.text = torch.randint(0, 4096, (8, 63))
        self.image = torch.randint(0, 1024, (8, 256))

    def __call__(self):
        start = torch.full((8, 1), 4096)
        ids = torch.cat([self.text, start, 4096 + self.image[:, :-1]], 1)
        states = self.model.states(torch.cat([ids], 1))
        text = self.model.text_head(states[:, :62]).flatten(0, 1)
        image = self.model.image_head(states[:, 63:]).flatten(0, 1)
        loss = F.cross_entropy(text, self.text[:, 1:].flatten())
        loss = loss + F.cross_entropy(image, self.image.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


COLD = """
import sys, torch
torch.set_num_threads(int(sys.argv[2]))
from dalle_pytorch import DALLE, DiscreteVAE
saved = torch.load(sys.argv[1])
vae = DiscreteVAE(**saved["vae_params"])
dalle = DALLE(vae=vae, **saved["hparams"])
dalle.load_state_dict(saved["weights"])
images = dalle.generate_images(torch.randint(1, 100, (1, dalle.text_seq_len)), cond_scale=1.5, use_cache=True)
from PIL import Image
picture = (images[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
Image.fromarray(picture).save(sys.argv[3])
"""


class Bench:
    def __init__(self, options):
        self.options, self.rows = options, []

    def impasto(self, *arguments):
        program = [self.options.impasto, "bench", "--json", "--threads", str(self.options.threads)]
        found = subprocess.run([*program, *arguments], capture_output=True, text=True)
        if found.returncode:
            sys.exit(f"impasto bench failed: {found.stderr.strip()}")
        return json.loads(found.stdout)

    def compare(self, arguments, peers):
        """`peers`: (model, precision, batch, name, time of one unit) of figures that impasto has, too."""
        ours, theirs = [{} for _ in range(self.options.rounds)], {}
        machine = []
        for round in range(self.options.rounds):
            report = self.impasto(*arguments)
            machine.append((report["bandwidth"], report["operations"]))
            for figure in report["figures"]:
                if figure["unit"] != "first token":
                    key = (figure["model"], figure["precision"], figure["batch"])
                    ours[round][key] = figure
            for model, precision, batch, name, time_of in peers:
                taken = time_of()
                theirs.setdefault((model, precision, batch, name), []).append(taken)
                print(f"{model}, {precision}, {batch}: {name} {1e3 * taken:.2f} ms", file=sys.stderr)
        for (model, precision, batch, name), times in theirs.items():
            figures = [of_round[(model, precision, batch)] for of_round in ours]
            ratios = [taken / figure["seconds"] for taken, figure in zip(times, figures)]
            fractions = [figure["fraction"] for figure in figures if figure["fraction"] is not None]
            self.rows.append(
                {
                    "model": model,
                    "precision": precision,
                    "batch": batch,
                    "impasto_ms": 1e3 * statistics.median(figure["seconds"] for figure in figures),
                    "fraction": statistics.median(fractions) if fractions else None,
                    "bound": figures[0]["bound"],
                    "peer": name,
                    "peer_ms": 1e3 * statistics.median(times),
                    "ratio": statistics.median(ratios),
                    "ratio_least": min(ratios),
                    "ratio_most": max(ratios),
                }
            )

    def decode(self):
        tokens = self.options.tokens
        own, bart = own_decode(), bart_decoder()
        guided = "Dalle 12 x 768, guided"
        mini = "DALL·E mini, guided"
        plain = "plain PyTorch"
        peers = []
        for precision, own, bart in [("f32", own, bart), ("int8", int8(own), int8(bart))]:
            name = "" if precision == "f32" else ", dynamic int8"
            time_of = lambda pictures, guided, own=own: lambda: own.token_time(pictures, guided, 65, tokens)
            peers += [
                ("Dalle 12 x 768", precision, 1, plain + name, time_of(1, False)),
                (guided, precision, 1, plain + name, time_of(1, True)),
                (guided, precision, 8, plain + name, time_of(8, True)),
            ]
            for pictures in [1, 8]:
                time_of = lambda bart=bart, pictures=pictures: bart_token_time(bart, pictures, tokens)
                peers.append((mini, precision, pictures, "min-dalle" + name, time_of))
                if precision == "int8":
                    # Against min-dalle as it is, too.
                    time_of = lambda bart=bart_decoder(), n=pictures: bart_token_time(bart, n, tokens)
                    peers.append((mini, precision, pictures, "min-dalle", time_of))
        if not self.options.quick:
            model = dalle_pytorch_model(768, 12, 12, 8192, 64, 8192, 128, 3)
            peers.append((guided, "f32", 1, "DALLE-pytorch generate_images", lambda: dalle_pytorch_time(model)))
        self.compare(["--what", "decode", "--precision", "f32,int8", "--tokens", str(tokens)], peers)

    def pixels(self):
        models = pixels_models()

        def best():
            with torch.inference_mode():
                return min(median_of(lambda: model(z), self.options.runs) for model, z in models)

        name = "min-dalle's decoder, the better of two memory formats"
        peers = [("VQGAN f16 to 256 px", "f32", 1, name, best)]
        self.compare(["--what", "pixels", "--runs", str(self.options.runs)], peers)

    def clip(self):
        model, peers = clip_model(), []

        @torch.inference_mode()
        def time_of(batch):
            pixels = torch.full((batch, 3, 224, 224), 0.5)
            return median_of(lambda: model(pixel_values=pixels), self.options.runs)

        for batch in [1, 8]:
            peers.append(("CLIP ViT-B/32", "f32", batch, "transformers", lambda batch=batch: time_of(batch)))
        self.compare(["--what", "clip", "--runs", str(self.options.runs)], peers)

    def training(self):
        step = TrainingStep()
        time_of = lambda: median_of(step, self.options.runs)
        peers = [("Dalle 6 x 384, 320 tokens", "f32", 8, "plain PyTorch, fused AdamW", time_of)]
        self.compare(["--what", "training", "--runs", str(self.options.runs)], peers)

    def cold(self):
        """From the start of the process to the picture's file, at the shapes of the embedded model."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            hparams = dict(num_text_tokens=1024, text_seq_len=32, dim=192, depth=6, heads=3, dim_head=64)
            vae_params = dict(image_size=64, num_layers=3, num_tokens=1024, codebook_dim=8, hidden_dim=64)
            with contextlib.redirect_stdout(io.StringIO()):
                from dalle_pytorch import DALLE, DiscreteVAE
            weights = DALLE(vae=DiscreteVAE(**vae_params), **hparams).state_dict()
            model = folder / "dalle.pt"
            torch.save({"hparams": hparams, "vae_params": vae_params, "weights": weights}, model)
            threads = str(self.options.threads)
            prompt = "a turtle on a yellow background"
            ours, theirs, ratios = [], [], []
            quiet = dict(check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for round in range(self.options.rounds + 1):
                flags = ["--seed", "1", "--threads", threads, "--device", "cpu"]
                drawing = [self.options.impasto, "generate", prompt, "-o", folder / f"{round}.png", *flags]
                peer = [sys.executable, "-c", COLD, model, threads, folder / "peer.png"]
                times = [seconds(lambda: subprocess.run(work, **quiet)) for work in (drawing, peer)]
                if round:
                    ours.append(times[0])
                    theirs.append(times[1])
                    ratios.append(times[1] / times[0])
        self.rows.append(
            {
                "model": "impasto-mini, process to file",
                "precision": "f32",
                "batch": 1,
                "impasto_ms": 1e3 * statistics.median(ours),
                "fraction": None,
                "bound": None,
                "peer": "DALLE-pytorch: import, load, generate",
                "peer_ms": 1e3 * statistics.median(theirs),
                "ratio": statistics.median(ratios),
                "ratio_least": min(ratios),
                "ratio_most": max(ratios),
            }
        )

    def table(self):
        print("| model | weights | batch | impasto, ms | of the machine | peer | its ms | ratio (least to most) |")
        print("|---|---|---|---|---|---|---|---|")
        for row in self.rows:
            share = f"{row['fraction']:.0%} of {row['bound']}" if row["fraction"] else ""
            ratio = f"**{row['ratio']:.2f}** ({row['ratio_least']:.2f} to {row['ratio_most']:.2f})"
            cells = [row["model"], row["precision"], row["batch"], f"{row['impasto_ms']:.1f}", share]
            cells += [row["peer"], f"{row['peer_ms']:.1f}", ratio]
            print("| " + " | ".join(map(str, cells)) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impasto", default="target/release/impasto", help="the program, built with --release")
    parser.add_argument("--what", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=33, help="decoding: tokens of each run")
    parser.add_argument("--runs", type=int, default=5, help="everything else: runs in each round")
    parser.add_argument("--quick", action="store_true", help="without what takes a minute a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    bench = Bench(options)
    for part in options.what.split(","):
        if part not in PARTS:
            parser.error(f"--what: expected some of {', '.join(PARTS)}, got {part}")
        getattr(bench, part)()
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": options.threads, "rows": bench.rows}, indent=2))
    else:
        bench.table()


if __name__ == "__main__":
    main()
