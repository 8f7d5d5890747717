"""Writes tiny random DALL·E minis in the published formats, and what the reference implementations make of them.

    python reference/write_dalle_mini_goldens.py DALLE_MINI_CHECKOUT

The transformer is computed by min-dalle's modules (with the original's start id and captions), the VQGAN by
taming-transformers', captions by dalle-mini's own `model/text.py` out of a checkout of
github.com/borisdayma/dalle-mini, with `ftfy`, `emoji` and `unidecode`. Flax is not needed: its files are
MessagePack around raw numbers, written here after `flax/serialization.py`.
"""

import contextlib
import io
import json
import struct
import sys
import types
from pathlib import Path

import numpy as np
import torch
from min_dalle.models import dalle_bart_decoder
from min_dalle.models.dalle_bart_decoder import DalleBartDecoder
from min_dalle.models.dalle_bart_encoder import DalleBartEncoder
from safetensors.torch import save_file
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import VectorQuantizer
from tokenizers import ByteLevelBPETokenizer

OUT = Path(__file__).parent.parent / "crates/impasto/src/import/dalle_mini/goldens"
START, PAD, END = 0, 1, 2
PRE_NORMS = ("pre_self_attn_layer_norm", "pre_encoder_attn_layer_norm", "ln0", "ln1", "final_ln")


# --- MessagePack, as far as Flax needs it ---------------------------------------------------------------


def pack(value):
    if isinstance(value, dict):
        head = bytes([0x80 | len(value)]) if len(value) < 16 else b"\xde" + struct.pack(">H", len(value))
        return head + b"".join(pack(key) + pack(item) for key, item in value.items())
    if isinstance(value, str):
        data = value.encode()
        return (bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)])) + data
    if isinstance(value, (list, tuple)):
        return bytes([0x90 | len(value)]) + b"".join(map(pack, value))
    if isinstance(value, int):
        return bytes([value]) if value < 128 else b"\xcd" + struct.pack(">H", value)
    if isinstance(value, bytes):
        if len(value) < 256:
            return b"\xc4" + bytes([len(value)]) + value
        if len(value) < 65536:
            return b"\xc5" + struct.pack(">H", len(value)) + value
        return b"\xc6" + struct.pack(">I", len(value)) + value
    assert isinstance(value, np.ndarray)
    payload = pack((value.shape, value.dtype.name, value.tobytes()))
    if len(payload) < 256:
        return b"\xc7" + bytes([len(payload)]) + b"\x01" + payload
    if len(payload) < 65536:
        return b"\xc8" + struct.pack(">H", len(payload)) + b"\x01" + payload
    return b"\xc9" + struct.pack(">I", len(payload)) + b"\x01" + payload


def nested(flat):
    tree = {}
    for name, value in sorted(flat.items()):
        *way, leaf = name.split(".")
        branch = tree
        for step in way:
            branch = branch.setdefault(step, {})
        branch[leaf] = value
    return tree


# --- the models -----------------------------------------------------------------------------------------


def randomise(module, std, scaled_norms=True):
    """Random weights that are exact in 16 bits, norms near 1; a norm in front of a product without scale."""
    for name, value in module.state_dict().items():
        owner, leaf = name.rsplit(".", 1)
        is_norm = value.ndim == 1 and ("norm" in owner or "ln" in owner)
        if is_norm and leaf == "weight":
            if not scaled_norms and owner.rsplit(".", 1)[-1] in PRE_NORMS:
                value.fill_(1.0)
            else:
                value.copy_(1 + 0.2 * torch.randn_like(value))
        elif value.ndim == 1:
            value.normal_(std=0.1)
        elif value.ndim == 4:
            value.normal_(std=1.2 / value[0].numel() ** 0.5)
        else:
            value.normal_(std=std)
        value.copy_(value.half().float())
    return module.eval()


def transformer(sizes):
    positions = sizes["image_length"]
    dalle_bart_decoder.IMAGE_TOKEN_COUNT = positions
    encoder = DalleBartEncoder(
        layer_count=sizes["encoder_layers"],
        embed_count=sizes["d_model"],
        attention_head_count=sizes["encoder_attention_heads"],
        text_vocab_count=sizes["encoder_vocab_size"],
        text_token_count=sizes["max_text_length"],
        glu_embed_count=sizes["encoder_ffn_dim"],
        device="cpu",
    )
    decoder = DalleBartDecoder(
        image_vocab_count=sizes["image_vocab_size"],
        embed_count=sizes["d_model"],
        attention_head_count=sizes["decoder_attention_heads"],
        glu_embed_count=sizes["decoder_ffn_dim"],
        layer_count=sizes["decoder_layers"],
        device="cpu",
    )
    scaled = sizes.get("force_ln_scale", False)
    return randomise(encoder, 0.25, scaled), randomise(decoder, 0.25, scaled)


class Transformer:
    def __init__(self, sizes, start_id):
        self.sizes, self.start_id = sizes, start_id
        self.encoder, self.decoder = transformer(sizes)

    def logits(self, text_ids, inputs):
        """Of one caption (ids without padding) and one row of decoder inputs, start id included."""
        padded = torch.full((2, self.sizes["max_text_length"]), PAD)
        padded[:, : len(text_ids)] = torch.tensor(text_ids)
        states = self.encoder(padded)
        positions = self.sizes["image_length"]
        cache = torch.zeros(self.sizes["decoder_layers"], 4, positions, self.sizes["d_model"])
        tokens = torch.tensor([inputs])
        # A single token is computed from the cache, so one is always computed as two.
        if len(inputs) == 1:
            tokens = torch.cat([tokens, tokens], 1)
        logits, _ = self.decoder(
            attention_mask=padded.not_equal(PAD)[:, None, None, :],
            encoder_state=states,
            attention_state=cache,
            prev_tokens=tokens,
            token_index=torch.arange(tokens.shape[1]),
        )
        return logits[0, : len(inputs)]

    def nats(self, text_ids, image_ids):
        logits = self.logits(text_ids, [self.start_id, *image_ids[:-1]])
        return -torch.log_softmax(logits, -1).gather(1, torch.tensor(image_ids)[:, None])[:, 0]

    def greedy(self, text_ids, codes, guidance):
        ids = []
        for _ in range(self.sizes["image_length"]):
            row = self.logits(text_ids, [self.start_id, *ids])[-1, :codes]
            if guidance != 1:
                null = self.logits([START, END], [self.start_id, *ids])[-1, :codes]
                row = null + (row - null) * guidance
            best = row.topk(2).values
            assert best[0] - best[1] > 1e-3, "too near a tie to compare"
            ids.append(int(row.argmax()))
        return ids


class Vqgan(torch.nn.Module):
    def __init__(self, sizes):
        super().__init__()
        with contextlib.redirect_stdout(io.StringIO()):
            self.encoder = Encoder(**sizes)
            self.decoder = Decoder(**sizes)
        self.quantize = VectorQuantizer(sizes["n_embed"], sizes["embed_dim"], 0.25)
        self.quant_conv = torch.nn.Conv2d(sizes["z_channels"], sizes["embed_dim"], 1)
        self.post_quant_conv = torch.nn.Conv2d(sizes["embed_dim"], sizes["z_channels"], 1)
        randomise(self, 1.0)

    def encode(self, pixels):
        vectors = self.quant_conv(self.encoder(pixels))
        flat = vectors.permute(0, 2, 3, 1).reshape(-1, vectors.shape[1])
        distances = torch.cdist(flat, self.quantize.embedding.weight).topk(2, largest=False).values
        assert (distances[:, 1] - distances[:, 0]).min() > 1e-4, "too near a tie to compare"
        return self.quantize(vectors)[2][2].view(len(pixels), -1)

    def decode(self, ids):
        side = int(ids.shape[1] ** 0.5)
        codes = self.quantize.embedding(ids).view(len(ids), side, side, -1).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(codes))


# --- the formats ----------------------------------------------------------------------------------------

MODULES = {
    "pre_self_attn_layer_norm": "LayerNorm_0",
    "self_attn_layer_norm": "LayerNorm_1",
    "pre_encoder_attn_layer_norm": "LayerNorm_2",
    "encoder_attn_layer_norm": "LayerNorm_3",
    "self_attn": "FlaxBartAttention_0",
    "encoder_attn": "FlaxBartAttention_1",
    "glu.ln0": "GLU_0.LayerNorm_0",
    "glu.ln1": "GLU_0.LayerNorm_1",
    "glu.fc0": "GLU_0.Dense_0",
    "glu.fc1": "GLU_0.Dense_1",
    "glu.fc2": "GLU_0.Dense_2",
}


def without_unit_scales(state, scaled):
    if scaled:
        return state
    drop = {f"{norm}.weight" for norm in PRE_NORMS}
    return {name: value for name, value in state.items() if ".".join(name.split(".")[-2:]) not in drop and name not in drop}


def flax_transformer(model, stacked, dtype):
    flat, scaled = {}, model.sizes.get("force_ln_scale", False)
    for stack, module in (("encoder", model.encoder), ("decoder", model.decoder)):
        layers = {}
        for name, value in without_unit_scales(module.state_dict(), scaled).items():
            owner, leaf = name.rsplit(".", 1)
            is_norm = value.ndim == 1
            value = value.numpy().astype(dtype)
            if owner.startswith("embed_"):
                flat[f"model.{stack}.{owner}.embedding"] = value
            elif owner == "lm_head":
                flat["lm_head.kernel"] = np.ascontiguousarray(value.T)
            elif owner in ("layernorm_embedding", "final_ln"):
                flat[f"model.{stack}.{owner}.{'scale' if leaf == 'weight' else leaf}"] = value
            else:
                _, number, rest = owner.split(".", 2)
                head, _, tail = rest.partition(".")
                module_name = MODULES[rest] if rest in MODULES else f"{MODULES[head]}.{tail}"
                leaf = {"weight": "scale" if is_norm else "kernel", "bias": "bias"}[leaf]
                value = value if is_norm else np.ascontiguousarray(value.T)
                layers.setdefault(f"{module_name}.{leaf}", {})[int(number)] = value
        kind = f"FlaxBart{stack.capitalize()}Layer"
        for name, values in layers.items():
            if stacked:
                flat[f"model.{stack}.layers.{kind}s.{name}"] = np.stack([values[i] for i in range(len(values))])
            else:
                for i, value in values.items():
                    flat[f"model.{stack}.layers.{kind}_{i}.{name}"] = value
    return flat


def flax_vqgan(model, dtype):
    flat = {}
    for name, value in model.state_dict().items():
        parts, flax = name.split("."), []
        for part in parts[:-1]:
            if part.isdigit():
                flax[-1] += f"_{part}"
            else:
                flax.append(part)
        value = value.numpy().astype(dtype)
        if "embedding" in flax:
            leaf = "embedding"
        elif parts[-1] == "weight" and value.ndim == 1:
            leaf = "scale"
        else:
            leaf = {"weight": "kernel"}.get(parts[-1], parts[-1])
        if value.ndim == 4:
            value = np.ascontiguousarray(value.transpose(2, 3, 1, 0))
        flat[".".join([*flax, leaf])] = value
    return flat


def normaliser(checkout):
    """`TextNormalizer` of dalle-mini, with a short list of words in the place of Wikipedia's."""
    words = OUT / "enwiki-words-frequency.txt"
    words.write_text("\n".join(f"{word} {1000 - i}" for i, word in enumerate(WORDS)) + "\n")
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda *_, **__: str(words)
    sys.modules["huggingface_hub"] = hub
    source = (Path(checkout) / "src/dalle_mini/model/text.py").read_text()
    module = types.ModuleType("text")
    exec(compile(source, "text.py", "exec"), module.__dict__)
    # Its one random choice, by its likeliest outcome, as ours.
    module.random.choices = lambda names, _: [names[0]]
    return module.TextNormalizer()


WORDS = "the of and a in cat dog sunset love is it insta gram nature hood neighbor on beach with 2021 red".split()

CAPTIONS = [
    "a red turtle",
    "Two  cats on a BEACH, at sunset!!",
    "#sunset #catlove #instagram #no_filter #2021beach #love2021",
    "It's the dog's bone; they'll say 'hello' & \"good-bye\" won't they?",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m \u2014 \u201cquoted\u201d \u2026 50\u00b0",
    "\u043a\u0440\u0430\u0441\u043d\u044b\u0439 \u043a\u043e\u0442 \u0438 \u03ba\u03cc\u03ba\u03ba\u03b9\u03bd\u03b7 \u03b3\u03ac\u03c4\u03b1",
    "&lt;b&gt;bold&lt;/b&gt; <i>text</i> &amp;amp; more < 5 > 3",
    "<PERSON> and <PERSON>, <PERSON> with <person> at http://example.com/a?b=c today",
    "[12] a wiki caption with 1,234,567 people, 3.14 and 12/05/2020 [3]",
    "well-known state-of-the-art a.b.c U.S.A. no.5 1/2 and/or 100% $5 *star*",
    "soooooo coooool!!!! ........ ----- VIII 10000000",
    "\U0001f422 turtle \U0001f44d\U0001f3fd and \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1eb\U0001f1f7 1\ufe0f\u20e3",
    ", leading and trailing ,",
    "tabs\tand\nnewlines   here",
    "''quotes'' ``ticks`` \" \" mixed",
    "<>> <a <b> c> <> http https:// #",
    "a_b \\ c|d {e} (f) [g] ~h =i +j ^k",
    "\ufb01ne \uff46\uff55\uff4c\uff4c width \u00bd \u2122 \u00a9 na\u0308ive",
    "",
    "  ",
]


def tokenizer(folder):
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([f" {c.lower()}" for c in CAPTIONS[:3] * 5], vocab_size=290, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False)
    with contextlib.redirect_stdout(io.StringIO()):
        bpe.save_model(str(folder))
    return bpe


def encode(bpe, caption, limit):
    ids = [START, *bpe.encode(caption).ids]
    return [*ids[: limit - 1], END]


def golden(name, model, vqgan, codes, bpe, normalise):
    """What the references make of a set."""
    sizes = model.sizes
    limit, positions = sizes["max_text_length"], sizes["image_length"]
    captions = [CAPTIONS[0], CAPTIONS[1]]
    text_ids = [encode(bpe, normalise(caption), limit) for caption in captions]
    side = 2 * int(positions**0.5)
    image_ids = torch.randint(0, codes, (2, positions))
    tensors = {
        "image_ids": image_ids.int(),
        "logits": torch.stack([model.logits(text, [model.start_id, *ids[:-1]]) for text, ids in zip(text_ids, image_ids.tolist())]),
        "nats": torch.stack([model.nats(text, ids) for text, ids in zip(text_ids, image_ids.tolist())]),
        "greedy_ids": torch.tensor([model.greedy(text, codes, 1) for text in text_ids]).int(),
        "guided_ids": torch.tensor([model.greedy(text, codes, 3) for text in text_ids]).int(),
        "decoded": vqgan.decode(image_ids),
    }
    if hasattr(vqgan, "encoder"):
        picture = torch.randint(0, 256, (1, 3, side, side))
        ids = vqgan.encode(picture / 255)
        tensors |= {
            "picture": picture.int(),
            "picture_ids": ids.int(),
            "picture_decoded": vqgan.decode(ids),
            "picture_nats": torch.stack([model.nats(text_ids[0], ids[0].tolist())]),
        }
    metadata = {"captions": json.dumps(captions), "text_ids": json.dumps(text_ids)}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, OUT / name / "expected.safetensors", metadata)


def write_flax(folder, flat, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flax_model.msgpack").write_bytes(pack(nested(flat)))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    OUT.mkdir(parents=True, exist_ok=True)
    normalise = normaliser(sys.argv[1])
    texts = [[caption, normalise(caption)] for caption in CAPTIONS]
    (OUT / "captions.json").write_text(json.dumps(texts, indent=1) + "\n")

    odd = dict(encoder_vocab_size=300, image_vocab_size=45, image_length=16, max_text_length=24, encoder_layers=2, encoder_ffn_dim=50, encoder_attention_heads=3, decoder_layers=3, decoder_ffn_dim=41, decoder_attention_heads=2, d_model=36)
    vqgan_sizes = dict(ch=32, out_ch=3, in_channels=3, num_res_blocks=1, resolution=8, z_channels=20, ch_mult=[1, 1], attn_resolutions=[4], n_embed=40, embed_dim=12, dropout=0.0, double_z=False, resamp_with_conv=True, give_pre_end=False)
    common = dict(model_type="dallebart", normalize_text=True, activation_function="gelu", scale_embedding=False, tie_word_embeddings=False)

    torch.manual_seed(1)
    model, vqgan = Transformer(odd, 40), Vqgan(vqgan_sizes)
    folder = OUT / "flax_stacked"
    write_flax(folder, flax_transformer(model, True, np.float16), common | odd | dict(decoder_start_token_id=40))
    write_flax(folder / "vqgan", flax_vqgan(vqgan, np.float16), vqgan_sizes)
    bpe = tokenizer(folder)
    golden("flax_stacked", model, vqgan, 40, bpe, normalise)

    torch.manual_seed(2)
    scaled = odd | dict(encoder_layers=1, decoder_layers=1, d_model=20, encoder_attention_heads=5, decoder_attention_heads=4, encoder_ffn_dim=27, decoder_ffn_dim=33, image_vocab_size=40, max_text_length=9, force_ln_scale=True)
    model = Transformer(scaled, 40)
    folder = OUT / "flax_unrolled"
    write_flax(folder, flax_transformer(model, False, np.float32), common | scaled | dict(use_scan=False))
    tokenizer(folder)
    golden("flax_unrolled", model, vqgan, 40, bpe, normalise)

    torch.manual_seed(3)
    plain = odd | dict(encoder_layers=2, decoder_layers=1, d_model=64, encoder_attention_heads=1, decoder_attention_heads=1, encoder_ffn_dim=70, decoder_ffn_dim=70, image_vocab_size=33)
    model, vqgan = Transformer(plain, 30), Vqgan(vqgan_sizes | dict(ch_mult=[2, 1], n_embed=30, attn_resolutions=[]))
    del vqgan.encoder
    folder = OUT / "min_dalle"
    folder.mkdir(exist_ok=True)
    tokenizer(folder)
    for name, module in (("encoder", model.encoder), ("decoder", model.decoder)):
        state = without_unit_scales(module.state_dict(), False)
        torch.save({key: value.half() for key, value in state.items()}, folder / f"{name}.pt")
    state = {key.removeprefix("quantize."): value.half() for key, value in vqgan.state_dict().items() if not key.startswith("quant_conv")}
    torch.save(state, folder / "detoker.pt")
    golden("min_dalle", model, vqgan, 30, bpe, normalise)
