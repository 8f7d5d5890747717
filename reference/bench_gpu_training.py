"""A training step of our transformer's shapes in PyTorch on a GPU: bf16 autocast, flash attention, fused AdamW.

    python reference/bench_gpu_training.py [--steps 20] [--compile] SHAPE...

SHAPE is LAYERSxWIDTHxHEADSxHIDDENxBATCH, e.g. 12x384x6x1024x256; text of 128 ids of 4,096, 16 x 16 image ids of 4,096.
Prints one JSON line a shape: milliseconds a step (median), samples a second, TFLOP/s counted as
`DalleConfig::training_operations` does. The peer of `impasto train dalle` with "precision": "bf16".
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn

TEXT, GRID, VOCAB = 128, 16, 4096
IMAGE = GRID * GRID


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        head = width // heads
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.head_norms = nn.ModuleList([nn.RMSNorm(head), nn.RMSNorm(head)])
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, width // self.heads)
        q = rotate(self.head_norms[0](qkv[:, :, 0]), cos, sin).transpose(1, 2)
        k = rotate(self.head_norms[1](qkv[:, :, 1]), cos, sin).transpose(1, 2)
        seen = F.scaled_dot_product_attention(q, k, qkv[:, :, 2].transpose(1, 2), is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Dalle(nn.Module):
    def __init__(self, layers, width, heads, hidden):
        super().__init__()
        self.text, self.image = nn.Embedding(VOCAB, width), nn.Embedding(VOCAB + 1, width)
        self.text_position = nn.Embedding(TEXT, width)
        self.own, self.target = nn.Embedding(IMAGE + 1, width), nn.Embedding(IMAGE + 1, width)
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(layers)])
        self.norm = nn.RMSNorm(width)
        self.text_head = nn.Linear(width, VOCAB, bias=False)
        self.image_head = nn.Linear(width, VOCAB, bias=False)
        angles = torch.rand(TEXT + IMAGE, 1, width // heads // 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, text, image):
        places = torch.arange(IMAGE, device=image.device)
        begin = torch.full_like(image[:, :1], VOCAB)
        x = torch.cat(
            [
                self.text(text) + self.text_position.weight,
                self.image(torch.cat([begin, image[:, :-1]], 1)) + self.own(places) + self.target(places),
            ],
            1,
        ).to(torch.bfloat16)
        cos, sin = self.cos.to(torch.bfloat16), self.sin.to(torch.bfloat16)
        for block in self.blocks:
            x = block(x, cos, sin)
        x = self.norm(x)
        text_loss = F.cross_entropy(self.text_head(x[:, : TEXT - 1]).flatten(0, 1).float(), text[:, 1:].flatten())
        image_loss = F.cross_entropy(self.image_head(x[:, TEXT:]).flatten(0, 1).float(), image.flatten())
        return text_loss / 8 + image_loss * 7 / 8


def operations(layers, width, hidden):
    sequence = TEXT + IMAGE
    block = 4 * width**2 + 3 * width * hidden
    return 6 * (layers * block * sequence + width * VOCAB * sequence + layers * sequence**2 * width)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="+")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    for shape in options.shapes:
        layers, width, heads, hidden, batch = map(int, shape.split("x"))
        model = Dalle(layers, width, heads, hidden).to(options.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=options.device == "cuda")
        forward = torch.compile(model) if options.compile else model
        text = torch.randint(1, VOCAB, (batch, TEXT), device=options.device)
        image = torch.randint(0, VOCAB, (batch, IMAGE), device=options.device)
        times = []
        for _ in range(options.steps + 3):
            begin = time.perf_counter()
            optimizer.zero_grad()
            with torch.autocast(options.device, dtype=torch.bfloat16):
                loss = forward(text, image)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss.item()
            times.append(time.perf_counter() - begin)
        seconds = sorted(times[3:])[options.steps // 2]
        rate = batch * operations(layers, width, hidden) / seconds / 1e12
        row = dict(shape=shape, compiled=options.compile, ms=round(seconds * 1e3, 2))
        print(json.dumps(row | dict(samples_per_second=round(batch / seconds), tflops=round(rate, 1))), flush=True)


if __name__ == "__main__":
    main()
