"""Writes what open_clip, transformers and OpenAI's code make of small CLIP models with random weights, in the formats
that each of them publishes.

    python reference/write_clip_goldens.py

- `crates/impasto/src/text/clip/goldens/`: a small vocabulary of our own in CLIP's format, a thousand captions, and
  their ids by open_clip's and transformers' tokenizers;
- `crates/impasto/src/image/goldens/`: pictures, scaled and cut by Pillow and torchvision;
- `crates/impasto/src/import/clip/goldens/`: a folder a model, and `expected.safetensors` in it: captions' ids, pixels,
  embeddings, logits; of one model also the losses of ten training steps.
"""

import collections
import gzip
import itertools
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, convert_weights_to_fp16
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import CenterCrop
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from clip_captions import captions

SOURCES = Path(__file__).parent.parent / "crates/impasto/src"
TEXT, IMAGE, MODELS = SOURCES / "text/clip/goldens", SOURCES / "image/goldens", SOURCES / "import/clip/goldens"
PROMPTS = ["a red turtle", "TWO cats &amp; a dog's “hat”", "夜空下的乌龟 🐢", ""]


def train_merges(texts, count):
    """Merges in the order in which they are learnt, the same at every run, from texts cleaned as OpenAI's code does."""
    whole = SimpleTokenizer()
    words = collections.Counter(
        tuple(whole.byte_encoder[byte] for byte in piece.encode()) for text in texts for piece in whole.pat.findall(whole.clean_fn(text))
    )
    words = collections.Counter({(*word[:-1], word[-1] + "</w>"): times for word, times in words.items()})
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged = collections.Counter()
        for word, times in words.items():
            symbols = list(word)
            for i in range(len(word) - 2, -1, -1):
                if symbols[i : i + 2] == list(best):
                    symbols[i : i + 2] = ["".join(best)]
            merged[tuple(symbols)] += times
        words = merged
    return merges


class Texts:
    """The two tokenizers of one vocabulary."""

    def __init__(self, merges, folder):
        # No newline at the end: open_clip would take what follows for a merge.
        lines = "\n".join(["#version: small", *(" ".join(pair) for pair in merges)])
        self.list = folder / "bpe_simple_vocab_16e6.txt.gz"
        self.list.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
        self.openai = SimpleTokenizer(str(self.list))
        self.size = len(self.openai.encoder)
        names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        vocabulary = {names.get(name, name): id for name, id in self.openai.encoder.items()}
        self.transformers = CLIPTokenizer(vocab=vocabulary, merges=merges)
        self.vocabulary, self.merges = vocabulary, merges

    def save_old_files(self, folder):
        """As transformers did it before its fifth version."""
        (folder / "vocab.json").write_text(json.dumps(self.vocabulary, ensure_ascii=False))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in self.merges))


def write_text_goldens():
    TEXT.mkdir(exist_ok=True)
    texts, left_out = captions()
    tokenizers = Texts(train_merges(texts, 500), TEXT)
    openai = [tokenizers.openai.encode(text) for text in texts]
    transformers = [tokenizers.transformers(text, add_special_tokens=False)["input_ids"] for text in texts]
    print(f"{len(texts)} captions, {left_out} left out, {sum(map(list.__eq__, openai, transformers))} alike in both tokenizers")
    different = {i: ids for i, ids in enumerate(transformers) if ids != openai[i]}
    data = {"vocab_size": tokenizers.size, "captions": texts, "openai": openai, "transformers": different}
    packed = gzip.compress(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(), 9, mtime=0)
    (TEXT / "captions.json.gz").write_bytes(packed)
    with tempfile.TemporaryDirectory() as folder:
        tokenizers.transformers.save_pretrained(folder)
        shutil.copy(Path(folder) / "tokenizer.json", TEXT / "tokenizer.json")
    tokenizers.save_old_files(TEXT)
    return texts


def picture(width, height, seed):
    """Smooth and sharp parts, so that every step of a filter shows."""
    generator = numpy.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=numpy.uint8)).resize((width, height), Image.BILINEAR)
    pixels = numpy.asarray(coarse).astype(int)
    pixels[height // 3 : height // 2] += generator.integers(-90, 90, (height // 2 - height // 3, width, 3))
    pixels[:, width // 2 :: 7] = 255
    return Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))


def write_image_goldens():
    IMAGE.mkdir(exist_ok=True)
    tensors = {}
    for i, (width, height, size) in enumerate([(53, 38, 16), (31, 64, 24), (9, 7, 20), (200, 61, 32), (16, 16, 16), (40, 33, 33)]):
        image = picture(width, height, i)
        # Columns first, as Pillow up to 12 and with it all the networks' training did it; 13 begins with the rows of
        # some tall pictures, which differs by some units here and there.
        short = min(width, height)
        columns, rows = (size if side == short else int(size * side / short) for side in (width, height))
        scaled = CenterCrop(size)(image.resize((columns, height), Image.BICUBIC).resize((columns, rows), Image.BICUBIC))
        # Resize and crop, without the steps that make numbers and normalise them.
        whole = image
        for step in image_transform(size, is_train=False).transforms[:2]:
            whole = step(whole)
        apart = numpy.abs(numpy.asarray(whole).astype(int) - numpy.asarray(scaled)).max()
        print(f"{width}x{height} to {size}: this Pillow differs by {apart}")
        tensors[f"{i}.picture"] = torch.from_numpy(numpy.asarray(image).copy())
        tensors[f"{i}.square"] = torch.from_numpy(numpy.asarray(scaled).copy())
    save_file(tensors, IMAGE / "bicubic.safetensors")


def randomise(model, seed):
    """Spread wider than fresh weights, so that every part of the model counts."""
    torch.manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        width = 0.25 if parameter.ndim > 1 else 0.1
        parameter.data = torch.randn_like(parameter) * width
        if parameter.ndim == 1 and "weight" in name:
            parameter.data += 1
        if parameter.ndim == 0:
            parameter.data += 2.3
    return model.eval()


def unpadded(ids, tokenizer):
    return [tokenizer.sot_token_id, *ids, tokenizer.eot_token_id]


def expected(folder, ids, pixels, images, texts, logits, more={}):
    length = max(map(len, ids))
    rows = torch.tensor([row + [-1] * (length - len(row)) for row in ids], dtype=torch.int32)
    tensors = {"text_ids": rows, "pixels": pixels, "image": images, "text": texts, "logits": logits, **more}
    tensors = {name: tensor.detach().float().contiguous() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "expected.safetensors", {"captions": json.dumps(PROMPTS, ensure_ascii=False)})


def hugging_face(name, texts, config, processor, old, seed):
    folder = MODELS / name
    folder.mkdir()
    model = randomise(CLIPModel(CLIPConfig(**config)), seed)
    if old:
        # As transformers did it before its fifth version.
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps({"model_type": "clip", "architectures": ["CLIPModel"], "text_config_dict": None, **config}, indent=1))
        texts.save_old_files(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
    else:
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        texts.transformers.save_pretrained(folder)
        (folder / "tokenizer_config.json").unlink()
        CLIPImageProcessor(**processor).save_pretrained(folder)
    # transformers scales with torchvision, which rounds differently, and cuts an odd rest differently.
    size = processor["crop_size"] if isinstance(processor["crop_size"], int) else processor["crop_size"]["height"]
    images = [picture(size + 9, size + 4, 11), picture(size, size, 12)]
    transform = image_transform(size, is_train=False, mean=tuple(processor["image_mean"]), std=tuple(processor["image_std"]))
    pixels = torch.stack([transform(image) for image in images])
    theirs = CLIPImageProcessor(**processor)(images, return_tensors="pt")["pixel_values"]
    print(f"{name}: transformers' pixels differ from Pillow's by {(theirs - pixels).abs().amax((1, 2, 3)).tolist()}")
    ids = [texts.transformers(text)["input_ids"] for text in PROMPTS]
    inputs = texts.transformers(PROMPTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(pixel_values=pixels, **inputs)
        image = model.visual_projection(model.vision_model(pixels).pooler_output)
        text = model.text_projection(model.text_model(**inputs).pooler_output)
        logits = out.logits_per_image
    for i, saved in enumerate(images):
        saved.save(folder / f"{i}.png")
    expected(folder, ids, pixels, image, text, logits)


def open_clip_outputs(model, texts, size, mean=None, std=None):
    images = [picture(size + 9, size + 4, 11), picture(size, size, 12)]
    transform = image_transform(size, is_train=False, mean=mean, std=std)
    pixels = torch.stack([transform(image) for image in images])
    ids = [unpadded(texts.openai.encode(text), texts.openai) for text in PROMPTS]
    inputs = texts.openai(PROMPTS, context_length=model.context_length)
    with torch.no_grad():
        image, text = model.encode_image(pixels), model.encode_text(inputs)
        logits = model.logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        if model.logit_bias is not None:
            logits += model.logit_bias
    return images, (ids, pixels, image, text, logits)


def build(embed_dim, vision, text, quick_gelu, seed, bias=None):
    model = CLIP(embed_dim, CLIPVisionCfg(**vision), CLIPTextCfg(**text), quick_gelu=quick_gelu, init_logit_bias=bias)
    return randomise(model, seed)


def ten_steps(model, size, vocab_size, seed):
    """Losses of AdamW on one batch; the initial weights are the model's."""
    torch.manual_seed(seed)
    pixels = torch.randn(6, 3, size, size)
    ids = torch.randint(1, vocab_size - 2, (6, model.context_length))
    ids[:, 0] = vocab_size - 2
    for row in range(6):
        ids[row, 4 + row :] = vocab_size - 1
    own = {name: name for name, _ in model.named_parameters()}
    # Our rule: matrices that are no embeddings; the patches' projection is called one.
    decays = [p for n, p in model.named_parameters() if p.ndim > 1 and "embedding" not in own[n] and "conv1" not in n]
    others = [p for n, p in model.named_parameters() if not any(p is d for d in decays)]
    optimiser = torch.optim.AdamW([{"params": decays, "weight_decay": 0.2}, {"params": others, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.98), eps=1e-8)
    losses = []
    for _ in range(10):
        image, text = (F.normalize(x, dim=-1) for x in (model.encode_image(pixels), model.encode_text(ids)))
        logits = model.logit_scale.exp() * image @ text.T
        pairs = torch.arange(6)
        loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=numpy.log(100))
        losses.append(loss.item())
    print("losses", losses)
    return {"train.pixels": pixels, "train.text_ids": ids.int(), "train.losses": torch.tensor(losses)}


def open_clip(name, texts, embed_dim, vision, text, quick_gelu, seed, train=False, bias=None, safetensors=False):
    folder = MODELS / name
    folder.mkdir()
    text = {**text, "vocab_size": texts.size}
    model = build(embed_dim, vision, text, quick_gelu, seed, bias)
    mean, std = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)) if safetensors else (None, None)
    config = {"model_cfg": {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, **({"quick_gelu": True} if quick_gelu else {})}}
    if mean:
        config["preprocess_cfg"] = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
    if safetensors:
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / "open_clip_model.safetensors")
        shutil.copy(texts.list, folder)
    else:
        # As open_clip's training saves it, and as distributed training names it.
        state = {f"module.{n}": t for n, t in model.state_dict().items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": state}, folder / "open_clip_pytorch_model.bin")
        texts.save_old_files(folder)
    images, outputs = open_clip_outputs(model, texts, vision["image_size"], mean, std)
    for i, saved in enumerate(images):
        saved.save(folder / f"{i}.png")
    expected(folder, *outputs, ten_steps(model, vision["image_size"], texts.size, 21) if train else {})


class OpenAisTexts:
    """The vocabulary of the published models, which their packages hold; no file of it is written."""

    def __init__(self):
        self.openai = SimpleTokenizer()
        self.size = len(self.openai.encoder)
        self.list = None


def openai(name, texts, seed):
    """The archive that OpenAI's code loads: traced, fp16 but for norms and embeddings, sizes as tensors."""
    folder = MODELS / name
    folder.mkdir()
    vision = dict(layers=1, width=64, patch_size=5, image_size=15)
    model = build(24, vision, dict(context_length=24, vocab_size=texts.size, width=64, heads=1, layers=1), True, seed)
    if texts.list is None:
        # Rows come again: 12 MB that gzip makes small.
        rows = model.token_embedding.weight.data
        rows.copy_(rows[torch.arange(len(rows)) % 101])
    # Rounded to half precision, computed in single.
    convert_weights_to_fp16(model)
    model.float()
    images, outputs = open_clip_outputs(model, texts, 15)
    model.forward = lambda image, text: model.encode_image(image) @ model.encode_text(text).T
    del model.context_length, model.vocab_size
    for buffer, value in [("input_resolution", 15), ("context_length", 24), ("vocab_size", texts.size)]:
        model.register_buffer(buffer, torch.tensor(value))
    traced = torch.jit.trace(model, (torch.zeros(1, 3, 15, 15), torch.zeros(1, 24, dtype=torch.long)), check_trace=False)
    # Parameters are shared with the traced module, which is only saved from here on.
    convert_weights_to_fp16(model)
    traced.save(str(folder / "small.pt"))
    if texts.list:
        shutil.copy(texts.list, folder)
    else:
        (folder / "ViT-B-32.pt.gz").write_bytes(gzip.compress((folder / "small.pt").read_bytes(), 9, mtime=0))
        (folder / "small.pt").unlink()
    for i, saved in enumerate(images):
        saved.save(folder / f"{i}.png")
    expected(folder, *outputs)


def write_model_goldens(texts):
    shutil.rmtree(MODELS, ignore_errors=True)
    MODELS.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        small = Texts(train_merges(texts, 40), Path(folder))
        processor = dict(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
        hugging_face(
            "hugging_face",
            small,
            dict(
                projection_dim=20,
                text_config=dict(vocab_size=small.size, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=32, eos_token_id=small.size - 1, bos_token_id=small.size - 2, hidden_act="gelu"),
                vision_config=dict(hidden_size=30, intermediate_size=50, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=4, hidden_act="gelu"),
            ),
            processor,
            False,
            31,
        )
        processor = dict(processor, size=21, crop_size=21, resample=3, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.4, 0.3])
        hugging_face(
            "hugging_face_bin",
            small,
            dict(
                projection_dim=12,
                # The end's wrong number of all configs of that time.
                text_config=dict(vocab_size=small.size, hidden_size=20, intermediate_size=36, num_hidden_layers=3, num_attention_heads=5, max_position_embeddings=33, eos_token_id=2, hidden_act="quick_gelu"),
                vision_config=dict(hidden_size=24, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4, image_size=21, patch_size=7, hidden_act="quick_gelu"),
            ),
            processor,
            True,
            32,
        )
        open_clip("open_clip", small, 14, dict(layers=2, width=24, head_width=8, patch_size=6, image_size=18), dict(context_length=31, width=20, heads=4, layers=2), False, 33, train=True)
        open_clip("open_clip_quickgelu", small, 18, dict(layers=1, width=28, head_width=14, mlp_ratio=3.0, patch_size=5, image_size=20), dict(context_length=30, width=16, heads=2, layers=3), True, 34, bias=-3.0, safetensors=True)
        openai("openai", small, 35)
    openai("alone", OpenAisTexts(), 36)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    texts = write_text_goldens()
    write_image_goldens()
    write_model_goldens(texts)
