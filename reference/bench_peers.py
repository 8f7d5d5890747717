"""The shapes of `impasto bench` in PyTorch, beside it: alternating runs on the same threads, medians, ratios.

    python reference/bench_peers.py --impasto target/release/impasto --threads 2

- decode: min-dalle's own modules with random weights, in f32 and in int8 (the better of PyTorch's dynamic one and of
  torchao's, where torchao is installed); DALLE-pytorch's `generate_images` with its cache;
- prefill: the blocks of a plain transformer with fused attention, in f32 and in bf16 (autocast, or bf16 weights:
  the quicker);
- pixels: taming-transformers' decoder, in the better of PyTorch's two memory formats, in f32 and in bf16 (autocast);
- clip: `CLIPVisionModelWithProjection` of transformers, likewise;
- training: a plain transformer with fused attention and a fused AdamW, likewise;
- cold: `impasto generate` with the embedded model, from the start of the process to the picture's file, against
  the import, loading and drawing of DALLE-pytorch at the same sizes.

A ratio above 1 says that impasto is quicker. Needs what requirements.txt has, and min-dalle, dalle-pytorch and
taming-transformers-rom1504.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Enough(Exception):
    """Ends a run after some tokens."""


def median_of(times):
    return statistics.median(times)


def timed(work, runs):
    """Seconds of a run, the median, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return median_of(times)


# decode


def in_precision(precision):
    """What PyTorch computes in within it: bf16 by autocast."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


class MinDalle:
    """Token by token as `MinDalle.generate_raw_image_stream` does it."""

    def __init__(self, int8=None):
        from min_dalle.models.dalle_bart_decoder import DalleBartDecoder

        self.decoder = DalleBartDecoder(
            image_vocab_count=16384,
            embed_count=1024,
            attention_head_count=16,
            glu_embed_count=2730,
            layer_count=12,
            device="cpu",
        ).eval()
        if int8 == "dynamic":
            self.decoder = torch.ao.quantization.quantize_dynamic(self.decoder, {nn.Linear}, dtype=torch.qint8)
        if int8 == "torchao":
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            quantize_(self.decoder, Int8DynamicActivationInt8WeightConfig())

    def seconds(self, pictures, tokens):
        with torch.inference_mode():
            encoder_state = torch.randn(2 * pictures, 64, 1024)
            attention_mask = torch.zeros(2 * pictures, 1, 1, 64, dtype=torch.bool)
            attention_mask[:pictures, ..., :20] = True
            attention_mask[pictures:, ..., :2] = True
            attention_state = torch.zeros(12, 4 * pictures, 256, 1024)
            settings = torch.tensor([1.0, 16384, 3.0])
            newest = torch.full((pictures, 1), 16384)
            times = []
            for position in range(tokens):
                begin = time.perf_counter()
                ids, attention_state = self.decoder.sample_tokens(
                    settings=settings,
                    attention_mask=attention_mask,
                    encoder_state=encoder_state,
                    attention_state=attention_state,
                    prev_tokens=newest,
                    token_index=torch.tensor([position]),
                )
                newest = ids[:, None]
                times.append(time.perf_counter() - begin)
        return median_of(times[1:])


class DallePytorch:
    """`generate_images`, stopped after some tokens."""

    def __init__(self):
        from dalle_pytorch import DALLE, DiscreteVAE

        vae = DiscreteVAE(image_size=256, num_layers=4, num_tokens=8192, codebook_dim=64, hidden_dim=16)
        self.model = DALLE(
            dim=768, depth=12, heads=12, dim_head=64, num_text_tokens=8192, text_seq_len=64, vae=vae
        ).eval()

    def seconds(self, pictures, tokens, guidance):
        stamps = []
        inner = type(self.model).forward_with_cond_scale

        def stamped(*arguments, **named):
            logits = inner(self.model, *arguments, **named)
            stamps.append(time.perf_counter())
            if len(stamps) == tokens:
                raise Enough
            return logits

        self.model.forward_with_cond_scale = stamped
        text = torch.randint(1, 8192, (pictures, 64))
        try:
            with torch.inference_mode():
                self.model.generate_images(text, cond_scale=guidance, use_cache=True)
        except Enough:
            pass
        return median_of([after - before for before, after in zip(stamps, stamps[1:])])


# pixels


class TamingDecoder:
    def __init__(self):
        from taming.modules.diffusionmodules.model import Decoder

        self.decoder = Decoder(
            ch=128,
            out_ch=3,
            ch_mult=(1, 1, 2, 2, 4),
            num_res_blocks=2,
            attn_resolutions=[16],
            in_channels=3,
            resolution=256,
            z_channels=256,
            dropout=0.0,
        ).eval()

    def seconds(self, runs, precision):
        best = float("inf")
        with torch.inference_mode(), in_precision(precision):
            for memory in (torch.contiguous_format, torch.channels_last):
                decoder = self.decoder.to(memory_format=memory)
                z = torch.randn(1, 256, 16, 16).contiguous(memory_format=memory)
                best = min(best, timed(lambda: decoder(z), runs))
        return best


# clip


class ClipTower:
    def __init__(self):
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        # transformers' defaults are ViT-B/32.
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig()).eval()

    def seconds(self, batch, runs, precision):
        pixels = torch.full((batch, 3, 224, 224), 0.5)
        with torch.inference_mode(), in_precision(precision):
            return timed(lambda: self.model(pixel_values=pixels), runs)


# prefill and training


class QkNormRope(nn.Module):
    """Normalised heads, rotated by their positions in pairs (i, i + half)."""

    def __init__(self, dim, length=320):
        super().__init__()
        self.norm = nn.RMSNorm(dim)
        angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(dim // 2) / (dim // 2)))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x):
        first, second = self.norm(x).chunk(2, -1)
        return torch.cat([first * self.cos - second * self.sin, first * self.sin + second * self.cos], -1)


class Block(nn.Module):
    """Our `Block`: pre-RMSNorm, normalised and rotated queries and keys, SwiGLU, no biases."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.qk_norm_rope = nn.ModuleList([QkNormRope(width // heads), QkNormRope(width // heads)])
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.qkv(self.norms[0](x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = self.qk_norm_rope[0](q), self.qk_norm_rope[1](k)
        self.keep(k, v)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def keep(self, keys, values):
        """What a cache does with them; none in training."""


class CachingBlock(Block):
    """With a static cache."""

    def keep(self, keys, values):
        if not hasattr(self, "keys") or self.keys.shape != keys.shape or self.keys.dtype != keys.dtype:
            self.keys, self.values = torch.zeros_like(keys), torch.zeros_like(values)
        self.keys.copy_(keys)
        self.values.copy_(values)


class Prefill:
    """A caption of 64 ids and the 256 of an image, through all blocks, into the caches."""

    def __init__(self):
        self.blocks = {"f32": nn.Sequential(*[CachingBlock(768, 12, 2048) for _ in range(12)]).eval()}
        self.blocks["bf16"] = copy.deepcopy(self.blocks["f32"]).bfloat16()

    def seconds(self, batch, runs, precision):
        x = torch.randn(batch, 320, 768)
        with torch.inference_mode():
            if precision == "f32":
                return timed(lambda: self.blocks["f32"](x), runs)
            whole = timed(lambda: self.blocks["bf16"](x.bfloat16()), runs)
            with in_precision(precision):
                return min(whole, timed(lambda: self.blocks["f32"](x), runs))


class Training:
    def __init__(self):
        # min-dalle turns gradients off for the whole process.
        torch.set_grad_enabled(True)
        self.text, self.image = nn.Embedding(4096, 384), nn.Embedding(1025, 384)
        self.blocks = nn.Sequential(*[Block(384, 6, 1024) for _ in range(6)])
        self.text_head = nn.Linear(384, 4096, bias=False)
        self.image_head = nn.Linear(384, 1024, bias=False)
        parts = [self.text, self.image, self.blocks, self.text_head, self.image_head]
        parameters = [parameter for part in parts for parameter in part.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def loss(self):
        text = torch.arange(3, 66).repeat(8, 1)
        image = torch.arange(256).repeat(8, 1)
        begin = torch.full((8, 1), 1024)
        x = torch.cat([self.text(text), self.image(torch.cat([begin, image[:, :-1]], 1))], 1)
        # 63 + 1 + 256: the first position stands for the beginning of the text.
        x = self.blocks(torch.cat([x[:, :1], x], 1))
        text_loss = F.cross_entropy(self.text_head(x[:, :63]).flatten(0, 1), text.flatten())
        image_loss = F.cross_entropy(self.image_head(x[:, 64:]).flatten(0, 1), image.flatten())
        return text_loss / 8 + image_loss * 7 / 8

    def step(self, precision):
        with in_precision(precision):
            loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def seconds(self, runs, precision):
        return timed(lambda: self.step(precision), runs)


# cold

COLD = """
import sys, torch
torch.set_num_threads(int(sys.argv[2]))
from dalle_pytorch import DALLE, DiscreteVAE
saved = torch.load(sys.argv[1])
dalle = DALLE(vae=DiscreteVAE(**saved["vae"]), **saved["dalle"])
dalle.load_state_dict(saved["weights"])
text = torch.randint(1, 100, (1, dalle.text_seq_len))
images = dalle.generate_images(text, cond_scale=1.5, use_cache=True)
from PIL import Image
picture = (images[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
Image.fromarray(picture).save(sys.argv[3])
"""


def cold(options):
    """From the start of the process to the picture's file, both with the embedded model's sizes."""
    from dalle_pytorch import DALLE, DiscreteVAE

    sizes = {"num_text_tokens": 1024, "text_seq_len": 32, "dim": 192, "depth": 6, "heads": 3, "dim_head": 64}
    vae = {"image_size": 64, "num_layers": 3, "num_tokens": 1024, "codebook_dim": 8, "hidden_dim": 64}
    weights = DALLE(vae=DiscreteVAE(**vae), **sizes).state_dict()
    threads = str(options.threads)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        torch.save({"dalle": sizes, "vae": vae, "weights": weights}, folder / "dalle.pt")
        for number in range(options.rounds + 1):
            drawing = [options.impasto, "generate", "a turtle on a yellow background", "--seed", "1"]
            drawing += ["--model", Path(__file__).parent.parent / "models/impasto-mini", "--threads", threads, "--device", "cpu", "-o", folder / f"{number}.png"]
            peer = [sys.executable, "-c", COLD, folder / "dalle.pt", threads, folder / "peer.png"]
            times = []
            for command in (drawing, peer):
                begin = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                times.append(time.perf_counter() - begin)
            pairs.append(tuple(times))
    # The first pair fills the system's caches.
    key = ("impasto-mini, cold", "f32", 1, "picture")
    return {(key, "DALLE-pytorch: import, load, draw"): pairs[1:]}


def ours(program, part, options, precisions=None):
    """The figures of `impasto bench` by (model, precision, batch, unit)."""
    command = [program, "bench", "--json", "--what", part, "--threads", str(options.threads)]
    command += ["--tokens", str(options.tokens), "--runs", str(options.runs)]
    command += ["--precision", ",".join(precisions or ["f32"])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    report = json.loads(done.stdout)
    figures = report["figures"]
    return {(f["model"], f["precision"], f["batch"], f["unit"]): f["seconds"] for f in figures}, report


def decode_rows(options):
    guided, mini = "Dalle 12 x 768, guided", "DALL·E mini, guided"
    plain = MinDalle()
    kinds = ["dynamic"]
    try:
        import torchao  # noqa: F401

        kinds.append("torchao")
    except ImportError:
        pass
    # What PyTorch does with int8, each by its name.
    int8 = {kind: MinDalle(kind) for kind in kinds}
    other = DallePytorch()
    tokens = options.tokens
    rows = []
    for pictures in (1, 8):
        f32 = lambda pictures=pictures: plain.seconds(pictures, tokens)
        rows.append(((mini, "f32", pictures, "token"), "min-dalle f32", f32))
        rows.append(((mini, "int8", pictures, "token"), "min-dalle f32", f32))
        better = lambda pictures=pictures: min(peer.seconds(pictures, tokens) for peer in int8.values())
        name = "min-dalle int8, " + " or ".join(int8)
        rows.append(((mini, "int8", pictures, "token"), name, better))
        images = lambda pictures=pictures: other.seconds(pictures, tokens, 3.0)
        rows.append(((guided, "f32", pictures, "token"), "DALLE-pytorch f32", images))
    return rows


def pixel_rows(options):
    decoder = TamingDecoder()
    return [
        (
            ("VQGAN f16 to 256 px", precision, 1, "picture"),
            f"taming-transformers {precision}",
            lambda precision=precision: decoder.seconds(options.runs, precision),
        )
        for precision in ("f32", "bf16")
    ]


def clip_rows(options):
    tower = ClipTower()
    return [
        (
            ("CLIP ViT-B/32", precision, batch, "picture"),
            f"transformers {precision}",
            lambda batch=batch, precision=precision: tower.seconds(batch, options.runs, precision),
        )
        for precision in ("f32", "bf16")
        for batch in (1, 8)
    ]


def prefill_rows(options):
    prefill = Prefill()
    return [
        (
            ("Dalle 12 x 768, 320 ids", precision, batch, "pass"),
            f"plain PyTorch {precision}",
            lambda batch=batch, precision=precision: prefill.seconds(batch, options.runs, precision),
        )
        for precision in ("f32", "bf16")
        for batch in (1, 8)
    ]


def training_rows(options):
    training = Training()
    return [
        (
            ("Dalle 6 x 384, 320 tokens", precision, 8, "step"),
            f"plain PyTorch {precision}",
            lambda precision=precision: training.seconds(options.runs, precision),
        )
        for precision in ("f32", "bf16")
    ]


PARTS = {
    "decode": decode_rows,
    "prefill": prefill_rows,
    "pixels": pixel_rows,
    "clip": clip_rows,
    "training": training_rows,
}

# In what impasto is run; rows of bf16 are left out where it has none, as on processors that do not multiply it.
PRECISIONS = {part: ["f32", "int8"] if part == "decode" else ["f32", "bf16"] for part in PARTS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impasto", required=True, help="the program")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--what", default=",".join([*PARTS, "cold"]), help="parts, by comma")
    parser.add_argument("--rounds", type=int, default=3, help="times that both are run in turn")
    parser.add_argument("--tokens", type=int, default=17)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = []
    for part in options.what.split(","):
        rows = PARTS[part](options) if part != "cold" else []
        measured = {} if part != "cold" else cold(options)
        for _ in range(options.rounds if rows else 0):
            figures, report = ours(options.impasto, part, options, PRECISIONS[part])
            peers = {}
            for key, name, work in rows:
                if key not in figures:
                    continue
                batch = key[2]
                if (name, batch) not in peers:
                    peers[name, batch] = work()
                measured.setdefault((key, name), []).append((figures[key], peers[name, batch]))
        for (key, name), pairs in measured.items():
            model, precision, batch, unit = key
            ratios = [peer / own for own, peer in pairs]
            results.append(
                {
                    "model": model,
                    "precision": precision,
                    "batch": batch,
                    "unit": unit,
                    "impasto_seconds": median_of([own for own, _ in pairs]),
                    "peer": name,
                    "peer_seconds": median_of([peer for _, peer in pairs]),
                    "ratio": median_of(ratios),
                    "ratios": ratios,
                }
            )
            if not options.json:
                last = results[-1]
                print(
                    f"{model:<26} {precision:<5} {batch:>3}  {1000 * last['impasto_seconds']:>9.1f} ms a {unit:<8}"
                    f" {name:<24} {1000 * last['peer_seconds']:>9.1f} ms  x {last['ratio']:.2f}"
                    f"  [{min(ratios):.2f}, {max(ratios):.2f}]",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": options.threads, "results": results}, indent=2))


if __name__ == "__main__":
    main()
