"""Our own architectures once more, in plain PyTorch: what `models/dalle` and `models/vqgan.rs` compute, written
from their documentation, to check them against and to measure beside.

Weights are dictionaries under our names and layouts: linear weights are `[in, out]`.
"""

import math

import torch
import torch.nn.functional as F

PAD = 0
EOS = 2


def rms_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def rope_table(grid, head_width):
    """Cosines and sines by position, `[grid² + 1, head_width / 2]`; the last row does not turn."""
    half = head_width // 2
    per_axis = half // 2
    frequencies = 100.0 ** (-torch.arange(per_axis, dtype=torch.float64) / per_axis)
    places = torch.arange(grid * grid)
    rows = (places // grid)[:, None] * frequencies
    columns = (places % grid)[:, None] * frequencies
    angles = torch.cat([torch.cat([rows, columns], 1), torch.zeros(1, half, dtype=torch.float64)])
    return angles.cos().float(), angles.sin().float()


def turn(x, cos, sin):
    """`x`: [batch, seq, heads, head_width]; `cos`, `sin`: [batch, seq, head_width / 2]."""
    first, second = x.chunk(2, -1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Dalle:
    def __init__(self, config, weights):
        self.config = config
        self.w = weights
        width = config["width"]
        self.cos, self.sin = rope_table(config["grid"], width // config["n_heads"])

    def parts(self, parts):
        """Embeddings and positions of ("text", ids) and ("image", ids, own, target), each `[batch, n]`."""
        none = self.config["grid"] ** 2
        embedded, owns, targets = [], [], []
        for part in parts:
            if part[0] == "text":
                ids = part[1]
                places = torch.arange(ids.shape[1])
                embedded.append(self.w["text_embedding.weight"][ids] + self.w["text_position.weight"][places])
                owns.append(torch.full_like(ids, none))
                targets.append(torch.full_like(ids, none))
            else:
                _, ids, own, target = part
                embedded.append(
                    self.w["image_embedding.weight"][ids]
                    + self.w["own_position.weight"][own]
                    + self.w["target_position.weight"][target]
                )
                owns.append(own)
                targets.append(target)
        return torch.cat(embedded, 1), torch.cat(owns, 1), torch.cat(targets, 1)

    def states(self, parts):
        x, own, target = self.parts(parts)
        heads = self.config["n_heads"]
        batch, seq, width = x.shape
        for i in range(self.config["n_layers"]):
            p = lambda name: self.w[f"blocks.{i}.{name}.weight"]
            qkv = rms_norm(x, p("attention_norm")) @ p("qkv")
            q, k, v = qkv.view(batch, seq, 3, heads, width // heads).unbind(2)
            q = turn(rms_norm(q, p("query_norm")), self.cos[target], self.sin[target])
            k = turn(rms_norm(k, p("key_norm")), self.cos[own], self.sin[own])
            seen = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
            )
            x = x + seen.transpose(1, 2).reshape(batch, seq, width) @ p("attention_out")
            gate, up = (rms_norm(x, p("mlp_norm")) @ p("gate_up")).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ p("down")
        return rms_norm(x, self.w["final_norm.weight"])

    def image_part(self, image_ids, orders, whole):
        batch, positions = image_ids.shape
        start = torch.full((batch, 1), self.config["codebook_size"])
        none = torch.full((batch, 1), positions)
        known = image_ids.gather(1, orders)
        n = positions if whole else positions - 1
        own = torch.cat([none, orders[:, :n]], 1)
        target = torch.cat([orders, none], 1)[:, : n + 1]
        return ("image", torch.cat([start, known[:, :n]], 1), own, target)

    def losses(self, text_ids, image_ids, orders, captioned, weights):
        """The weighted sum that is trained, and its parts."""
        length = text_ids.shape[1]
        states = self.states([("text", text_ids), self.image_part(image_ids, orders, False)])
        image_logits = states[:, length:] @ self.w["image_head.weight"]
        text = self.text_mean(states[:, :length], text_ids)
        image = F.cross_entropy(image_logits.flatten(0, 1), image_ids.gather(1, orders).flatten())
        few = slice(0, captioned)
        behind = self.states([self.image_part(image_ids[few], orders[few], True), ("text", text_ids[few])])
        cut = image_ids.shape[1] + 1
        caption = self.text_mean(behind[:, cut:], text_ids[few])
        contrastive = self.contrastive(states[few, :length], behind[:, :cut], text_ids[few])
        total = (
            weights["text"] * text
            + weights["image"] * image
            + weights["caption"] * caption
            + weights["contrastive"] * contrastive
        )
        return total, text, image, caption, contrastive

    def text_mean(self, states, text_ids):
        logits = states[:, :-1] @ self.w["text_head.weight"]
        return F.cross_entropy(logits.flatten(0, 1), text_ids[:, 1:].flatten(), ignore_index=PAD)

    def contrastive(self, text, image, text_ids):
        ends = (text_ids == EOS).int().argmax(1)
        within = (torch.arange(text.shape[1]) <= ends[:, None]).float()
        text = (text * within[..., None]).sum(1) / within.sum(1, keepdim=True)
        unit = lambda x: F.normalize(x, dim=-1)
        text = unit(text @ self.w["contrastive.text_projection.weight"])
        image = unit(image.mean(1) @ self.w["contrastive.image_projection.weight"])
        scale = self.w["contrastive.logit_scale"].clamp(max=math.log(100)).exp()
        logits = scale * text @ image.T
        rows = torch.arange(len(logits))
        return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2


class Vqgan:
    def __init__(self, config, weights):
        self.config = config
        self.w = weights

    def conv(self, name, x):
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(self, name, x):
        groups = self.config["groups"]
        return F.silu(F.group_norm(x, groups, self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-6))

    def blocks(self, name, x):
        for i in range(self.config["n_res_blocks"]):
            p = f"{name}.blocks.{i}"
            inner = self.conv(f"{p}.conv1", self.norm(f"{p}.norm1", x))
            x = x + self.conv(f"{p}.conv2", self.norm(f"{p}.norm2", inner))
        return x

    def encode_vectors(self, pixels):
        x = self.conv("conv_in", F.pixel_unshuffle(pixels, self.config["patch"]))
        for i in range(len(self.config["widths"])):
            if i > 0:
                x = self.conv(f"encoder.{i}.resize", F.pixel_unshuffle(x, 2))
            x = self.blocks(f"encoder.{i}", x)
        x = self.conv("to_code", self.norm("encoder_norm", x))
        return F.normalize(x.permute(0, 2, 3, 1).flatten(0, 2), dim=-1)

    def encode(self, pixels):
        codes = F.normalize(self.w["codebook"], dim=-1)
        return (self.encode_vectors(pixels) @ codes.T).argmax(-1)

    def decode(self, ids):
        batch, positions = ids.shape
        side = math.isqrt(positions)
        codes = F.normalize(self.w["codebook"], dim=-1)[ids.flatten()]
        width = codes.shape[-1]
        x = codes.view(batch, side, side, width).permute(0, 3, 1, 2) * math.sqrt(width)
        x = self.conv("from_code", x)
        for i in range(len(self.config["widths"])):
            if i > 0:
                x = F.pixel_shuffle(self.conv(f"decoder.{i}.resize", x), 2)
            x = self.blocks(f"decoder.{i}", x)
        return F.pixel_shuffle(self.conv("conv_out", self.norm("decoder_norm", x)), self.config["patch"])


def dalle_weights(config, std=None):
    """Random weights under our names; `std` overrides the initial spread."""
    width, hidden, grid = config["width"], config["hidden"], config["grid"]
    w = {}
    normal = lambda *shape, s=0.02: torch.randn(*shape) * (std or s)
    w["text_embedding.weight"] = normal(config["text_vocab_size"], width)
    w["text_position.weight"] = normal(config["text_length"], width)
    w["image_embedding.weight"] = normal(config["codebook_size"] + 1, width)
    w["own_position.weight"] = normal(grid * grid + 1, width)
    w["target_position.weight"] = normal(grid * grid + 1, width)
    for i in range(config["n_layers"]):
        p = f"blocks.{i}."
        head_width = width // config["n_heads"]
        for norm, n in [("attention_norm", width), ("query_norm", head_width), ("key_norm", head_width), ("mlp_norm", width)]:
            w[f"{p}{norm}.weight"] = 1 + 0.1 * torch.randn(n)
        w[f"{p}qkv.weight"] = normal(width, 3 * width)
        w[f"{p}attention_out.weight"] = normal(width, width)
        w[f"{p}gate_up.weight"] = normal(width, 2 * hidden)
        w[f"{p}down.weight"] = normal(hidden, width)
    w["final_norm.weight"] = 1 + 0.1 * torch.randn(width)
    w["text_head.weight"] = normal(width, config["text_vocab_size"])
    w["image_head.weight"] = normal(width, config["codebook_size"])
    if config.get("contrastive_width"):
        space = config["contrastive_width"]
        w["contrastive.text_projection.weight"] = normal(width, space, s=width**-0.5)
        w["contrastive.image_projection.weight"] = normal(width, space, s=width**-0.5)
        w["contrastive.logit_scale"] = torch.tensor([math.log(1 / 0.07)])
    return w


def vqgan_weights(config):
    """Random weights under our names."""
    w = {}

    def conv(name, channels_in, channels_out, kernel):
        w[f"{name}.weight"] = torch.randn(channels_out, channels_in, kernel, kernel) / math.sqrt(channels_in * kernel**2)
        w[f"{name}.bias"] = 0.1 * torch.randn(channels_out)

    def norm(name, channels):
        w[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels)
        w[f"{name}.bias"] = 0.1 * torch.randn(channels)

    def blocks(name, width):
        for i in range(config["n_res_blocks"]):
            for k in "12":
                norm(f"{name}.blocks.{i}.norm{k}", width)
                conv(f"{name}.blocks.{i}.conv{k}", width, width, 3)

    widths, pixels = config["widths"], 3 * config["patch"] ** 2
    conv("conv_in", pixels, widths[0], 3)
    for i, width in enumerate(widths):
        if i > 0:
            conv(f"encoder.{i}.resize", 4 * widths[i - 1], width, 1)
        blocks(f"encoder.{i}", width)
    norm("encoder_norm", widths[-1])
    conv("to_code", widths[-1], config["code_width"], 1)
    w["codebook"] = torch.randn(config["codebook_size"], config["code_width"])
    conv("from_code", config["code_width"], widths[-1], 3)
    for i, width in enumerate(reversed(widths)):
        if i > 0:
            conv(f"decoder.{i}.resize", widths[len(widths) - i], 4 * width, 1)
        blocks(f"decoder.{i}", width)
    norm("decoder_norm", widths[0])
    conv("conv_out", widths[0], pixels, 3)
    return w
