"""Writes what the references' nets make of captions in chunks, for the tiny models of the other goldens.

    python reference/write_long_caption_goldens.py amused
    python reference/write_long_caption_goldens.py meissonic PATH/TO/Meissonic
    python reference/write_long_caption_goldens.py llamagen PATH/TO/LlamaGen

Chunks are cut at the ends of words, each with the begin and end of a caption; the text encoder of transformers reads each
apart, and its states stand one after the other. The embedding of the whole caption is that of the first chunk, as in
AUTOMATIC1111's `FrozenCLIPEmbedderWithCustomWords`. Nets, versions and checkouts are those of `write_amused_goldens.py`,
`write_meissonic_goldens.py` and `write_llamagen_goldens.py`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SOURCES = Path(__file__).parent.parent / "crates/impasto/src/import"
CAPTION = "a red turtle on a hat and two yellow dogs in front of a small house with an antidisestablishmentarian roof, it's raining"


def cut(pieces, room, last):
    """`last(i)`: whether a chunk may end with the piece of this number."""
    chunks = []
    while len(pieces) > room:
        ends = [end for end in range(1, room + 1) if last(pieces, end)]
        end = ends[-1] if ends else room
        chunks.append(pieces[:end])
        pieces = pieces[end:]
    return [*chunks, pieces]


def save(family, name, tensors, **metadata):
    folder = SOURCES / family / "chunk_goldens" / name
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {key: json.dumps(value) for key, value in metadata.items()}
    save_file({key: value.float().contiguous() for key, value in tensors.items()}, folder / "expected.safetensors", metadata)


# --- CLIP -------------------------------------------------------------------------------------------------


def read_by_clip(folder, half):
    """The ids of the caption's chunks, the states of all of them, and the embedding of the first."""
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder", **({"variant": "fp16"} if half else {})).float().eval()
    length = encoder.config.max_position_embeddings
    begin, *ids, end = tokenizer(CAPTION).input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    pieces = list(zip(ids, tokens))
    chunks = cut(pieces, length - 2, lambda rest, at: rest[at - 1][1].endswith("</w>"))
    rows = [[begin, *(id for id, _ in chunk), end] for chunk in chunks]
    rows = [row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]
    assert len(rows) > 2
    read = encoder(torch.tensor(rows), output_hidden_states=True)
    states = read.hidden_states[-2]
    return rows, states.reshape(1, -1, states.shape[-1]), read.text_embeds[:1]


def canvases(folder, mask):
    """The half-masked and the wholly masked picture of the other goldens."""
    canvas = load_file(folder / "expected.safetensors")["canvas"].long()
    return torch.where(canvas < 0, mask, canvas)


def amused():
    from diffusers import UVit2DModel

    for name, half in [("plain", False), ("odd", False), ("halved", True)]:
        folder = SOURCES / "amused/goldens" / name
        net = UVit2DModel.from_pretrained(folder / "transformer", **({"variant": "fp16"} if half else {})).float().eval()
        rows, states, pooled = read_by_clip(folder, half)
        mask = json.loads((folder / "scheduler/scheduler_config.json").read_text())["mask_token_id"]
        canvas = canvases(folder, mask)
        side = int(canvas.shape[1] ** 0.5)
        levels = len(json.loads((folder / "vqvae/config.json").read_text())["block_out_channels"])
        size = side << (levels - 1)
        conditions = torch.tensor([[size, size, 0, 0, 6]], dtype=torch.float32).expand(2, -1)
        both = lambda value: value.expand(2, *value.shape[1:])
        logits = net(canvas.view(2, side, side), encoder_hidden_states=both(states), pooled_text_emb=both(pooled), micro_conds=conditions)
        save("amused", name, {"logits": logits.flatten(2).transpose(1, 2)}, caption=CAPTION, text_ids=sum(rows, []))


def meissonic(path):
    sys.modules["torchao"] = None
    sys.path.insert(0, path)
    sys.argv[1] = path
    from write_meissonic_goldens import Model, Transformer2DModel, VQModel

    for name, half in [("plain", False), ("halved", True), ("odd", False)]:
        folder = SOURCES / "meissonic/goldens" / name
        net = Transformer2DModel.from_pretrained(folder / "transformer", **({"variant": "fp16"} if half else {})).float().eval()
        rows, states, pooled = read_by_clip(folder, half)
        side = json.loads((folder / "transformer/config.json").read_text())["sample_size"]
        mask = json.loads((folder / "scheduler/scheduler_config.json").read_text())["mask_token_id"]
        model = Model(net, None, None, VQModel.from_pretrained(folder / "vqvae").eval(), None, side)
        canvas = canvases(folder, mask)
        logits = [model.logits(canvas[row : row + 1].view(1, side, side), states, pooled, left).flatten(2).transpose(1, 2) for row, left in enumerate((1, 40))]
        save("meissonic", name, {"logits": torch.cat(logits)}, caption=CAPTION, text_ids=sum(rows, []))


# --- T5 ---------------------------------------------------------------------------------------------------


def llamagen(path):
    sys.path.insert(0, path)
    import functools

    from autoregressive.models import gpt
    from language.t5 import T5Embedder
    from tokenizers import Tokenizer
    from transformers import T5EncoderModel

    from write_llamagen_goldens import whole_logits

    folder = SOURCES / "llamagen/goldens/t2i_half"
    limit = 24
    cleaner = T5Embedder.__new__(T5Embedder)
    caption = cleaner.clean_caption(cleaner.clean_caption(CAPTION))
    tokenizer = Tokenizer.from_file(str(folder / "flan-t5/tokenizer.json"))
    found = tokenizer.encode(caption, add_special_tokens=False)
    pieces = list(zip(found.ids, found.tokens))
    chunks = cut(pieces, limit - 1, lambda rest, at: rest[at][1].startswith("\u2581"))
    rows = [[*(id for id, _ in chunk), tokenizer.token_to_id("</s>")] for chunk in chunks]
    assert len(rows) > 2
    encoder = T5EncoderModel.from_pretrained(folder / "flan-t5").float().eval()
    features = torch.cat([encoder(torch.tensor([row])).last_hidden_state for row in rows], 1)
    # As many places as all chunks have.
    places = features.shape[1]
    arguments = gpt.ModelArgs(**{**json.loads((folder / "config.json").read_text()), "cls_token_num": places})
    gpt.CaptionEmbedder = functools.partial(gpt.CaptionEmbedder, token_num=limit)
    model = gpt.Transformer(arguments)
    weights = torch.load(folder / "t2i_tiny_256.pt", weights_only=False)["model"]
    missing = model.load_state_dict({key: value.float() for key, value in weights.items() if key != "freqs_cis"}, strict=False)
    assert not missing.unexpected_keys, missing
    ids = load_file(folder / "expected.safetensors")["image_ids"].long()
    logits = whole_logits(model.eval(), features.expand(len(ids), -1, -1), None, ids)
    save("llamagen", "t2i_half", {"logits": logits, "features": features}, caption=CAPTION, text_ids=rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    globals()[sys.argv[1]](*sys.argv[2:])
