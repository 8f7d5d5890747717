"""Writes tiny random LlamaGen models in their published forms, and what they make of captions, classes and pictures.

    python reference/write_llamagen_goldens.py --llamagen PATH/TO/LlamaGen

Transformer, loop and image tokenizer are the reference's own (github.com/FoundationVision/LlamaGen ce98ec4,
`autoregressive/models/gpt.py`, `generate.py`, `tokenizer/tokenizer_image/vq_model.py`), the text encoder is transformers'
`T5EncoderModel`, captions are cleaned by `T5Embedder.clean_caption` (`language/t5.py`), which needs ftfy and bs4;
sentencepiece makes the normaliser of one text tokenizer.
"""

import argparse
import functools
import io
import json
import shutil
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

OUT = Path(__file__).parent.parent / "crates/impasto/src/import/llamagen/goldens"
CAPTIONS = ["A red turtle on a hat", "  Two cats, isn't it? (photo by @someone) <b>nice</b> &amp; small...wow m\u00b2"]
# Longer than any other, with what cleaning takes out.
LONG = "a very long caption about many things: " + ", ".join(f"thing {i} of the list" for i in range(40))
CLEANED = [
    *CAPTIONS,
    LONG,
    "see https://example.com/a.png and www.shop.net/x now",
    'a%20hat+and a "quoted" word',
    "\u7ea2\u8272\u7684\u4e4c\u9f9f red turtle \u2014 \u201cfine\u201d 100% wool #123 #12345 1234567",
    "free shipping! download free page 12 jc6640 6640vc231 3x4 10:30 click on it, a/b.c",
    "a_b-c_d-e_f dashes and picture.jpg image 1.2.3.4 \\n end",
    "caf\u00e9 \ufb01ne na\u00efve \uff21\uff22 x\u00b2 \u00bd cup &lt;tag&gt; &copy; 5 > 4 < 6",
]


def randomise(model):
    """Random weights large enough that every part shows in the figures."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if "norm" in name and value.ndim == 1 and name.endswith("weight"):
            value.copy_(1 + 0.2 * torch.randn_like(value))
        elif value.ndim == 1:
            value.normal_(std=0.1)
        elif value.ndim == 4:
            value.normal_(std=1.2 / value[0].numel() ** 0.5)
        elif "embed" in name or "shared" in name or "bias" in name:
            value.normal_(std=0.6)
        else:
            value.normal_(std=1.3 / value.shape[1] ** 0.5)
    return model.eval()


def in_bf16(model):
    for value in model.state_dict().values():
        value.copy_(value.bfloat16())
    return model


# --- the text encoder -------------------------------------------------------------------------------------


def sentencepiece_map():
    """The normaliser that SentencePiece gives to its models, T5's among them (`nmt_nfkc`)."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CLEANED * 3), model_writer=written, vocab_size=200, model_type="unigram", hard_vocab_limit=False, minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(written.getvalue())
    return model.normalizer_spec.precompiled_charsmap


def write_tokenizer(folder, clean, precompiled):
    """A vocabulary like T5's: padding, end and unknown first, metaspaces, an end after each text."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Precompiled(sentencepiece_map()) if precompiled else normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([clean(caption) for caption in CLEANED] * 3, trainer)
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    tokenizer.save(str(folder / "tokenizer.json"))
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=10**9)


def embedded(tokenizer, encoder, captions, clean, length):
    """`T5Embedder.get_text_embeddings`, and the left padding of `sample_t2i.py`."""
    tokens = tokenizer([clean(clean(caption)) for caption in captions], max_length=length, padding="max_length", truncation=True, add_special_tokens=True, return_tensors="pt")
    states = encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    masks = tokens["attention_mask"]
    left = torch.stack([torch.cat([state[mask.sum() :], state[: mask.sum()]]) for state, mask in zip(states, masks)])
    left_masks = torch.flip(masks, dims=[-1])
    ids = [row[: mask.sum()].tolist() for row, mask in zip(tokens["input_ids"], masks)]
    return ids, states, left * left_masks[:, :, None], left_masks


# --- the transformer --------------------------------------------------------------------------------------


class Recorder:
    """The logits of every step, as `sample` gets them."""

    def __init__(self, generate):
        self.module, self.steps = generate, []

    def __enter__(self):
        self.original = self.module.sample

        def recorded(logits, **options):
            row = logits[:, -1]
            best = row.topk(2).values
            assert (best[:, 0] - best[:, 1]).min() > 1e-3, "too near a tie to compare"
            self.steps.append(row.clone())
            return self.original(logits, **options)

        self.module.sample = recorded
        return self

    def __exit__(self, *_):
        self.module.sample = self.original


def drawn(generate, model, condition, mask, positions, scale):
    """Greedily, by the reference's loop; and the logits that it chose from."""
    with Recorder(generate) as recorder:
        ids = generate.generate(model, condition, positions, mask, cfg_scale=scale, temperature=1.0, top_k=0, top_p=1.0, sample_logits=False)
    for layer in model.layers:
        layer.attention.kv_cache = None
    return ids, torch.stack(recorder.steps, 1)


def whole_logits(model, condition, mask, ids):
    """All logits in one pass without caches."""
    places, positions = model.cls_token_num, ids.shape[1]
    length = places + positions - 1
    allowed = torch.tril(torch.ones(length, length, dtype=torch.bool)).repeat(len(ids), 1, 1)
    if mask is not None:
        allowed[:, :, :places] &= mask[:, None].bool()
    allowed |= torch.eye(length, dtype=torch.bool)
    logits, _ = model(ids[:, :-1], condition, torch.arange(length), mask=allowed[:, None])
    return logits[:, places - 1 :]


# --- files ------------------------------------------------------------------------------------------------


def nearest(vq, pixels):
    vectors = F.normalize(vq.quant_conv(vq.encoder(pixels)).permute(0, 2, 3, 1).flatten(0, 2), dim=-1)
    distances = -vectors @ F.normalize(vq.quantize.embedding.weight, dim=-1).T
    best = distances.topk(2, largest=False).values
    assert (best[:, 1] - best[:, 0]).min() > 1e-4, "too near a tie to compare"
    ids = vq.encode(pixels)[2][2]
    assert (ids == distances.argmin(1)).all()
    return ids.view(len(pixels), -1)


def write(name, reference, **options):
    """Draws weights again where two ids are too near each other to compare what is drawn."""
    for seed in range(80):
        torch.manual_seed(1000 * len(name) + seed)
        try:
            return write_once(name, reference, **options)
        except AssertionError as error:
            print(name, seed, error)
    raise SystemExit(f"{name}: no seed without ties")


def write_once(name, reference, form, gpt, vq, t5=None, places=1, half=False, precompiled=False):
    gpt_module, generate, vq_module, clean = reference
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind = "t2i" if t5 else "c2i"
    positions = gpt["block_size"]
    grid = int(positions**0.5)
    arguments = gpt_module.ModelArgs(model_type=kind, cls_token_num=places, caption_dim=t5["d_model"] if t5 else 2048, vocab_size=vq["codebook_size"], **gpt)
    # The published models have 120 places.
    gpt_module.CaptionEmbedder = functools.partial(gpt_module.PublishedEmbedder, token_num=places)
    model = randomise(gpt_module.Transformer(arguments))
    tokenizer_vq = randomise(vq_module.VQModel(vq_module.ModelArgs(**vq)))
    if half:
        in_bf16(model), in_bf16(tokenizer_vq)
    # What the released files are: of plain loops, of FSDP, of the hub.
    stored = {key: value.bfloat16() if half else value for key, value in model.state_dict().items()}
    of_vq = {key: value.bfloat16() if half else value for key, value in tokenizer_vq.state_dict().items()}
    (folder / "config.json").write_text(json.dumps(vars(arguments), indent=1) + "\n")
    if form == "hub":
        save_file({key: value.contiguous() for key, value in stored.items()}, folder / "model.safetensors", {"format": "pt"})
        (folder / "vq-ds16").mkdir()
        save_file({key: value.contiguous() for key, value in of_vq.items()}, folder / "vq-ds16/model.safetensors", {"format": "pt"})
    else:
        args = argparse.Namespace(gpt_model="GPT-XL", image_size=256)
        torch.save({"model": stored, "steps": 7, "args": args} if form == "loop" else stored, folder / f"{kind}_tiny_256.pt")
        torch.save({"model": of_vq}, folder / f"vq_ds16_{kind}.pt")

    image_ids = torch.randint(0, vq["codebook_size"], (2, positions))
    tensors, metadata = {"image_ids": image_ids.int()}, {}
    if t5:
        inner = folder / "flan-t5"
        inner.mkdir()
        text = write_tokenizer(inner, clean, precompiled)
        encoder = randomise(T5EncoderModel(T5Config(vocab_size=len(text) + 4, feed_forward_proj="gated-gelu", dropout_rate=0.0, **t5)))
        if half:
            in_bf16(encoder)
        encoder.save_pretrained(inner)
        cut, _, _, _ = embedded(text, encoder, [LONG], clean, places)
        ids, states, condition, mask = embedded(text, encoder, CAPTIONS, clean, places)
        metadata |= {"captions": CAPTIONS, "text_ids": ids, "long": LONG, "long_ids": cut[0], "raw": CLEANED, "cleaned": [clean(clean(caption)) for caption in CLEANED]}
        for number, (state, row) in enumerate(zip(states, ids), 1):
            tensors[f"features_{number}"] = state[: len(row)]
        nothing = torch.zeros_like(condition) + model.cls_embedding.uncond_embedding
    else:
        classes = [3, gpt["num_classes"] - 1]
        condition, mask = torch.tensor(classes), None
        metadata |= {"captions": [str(label) for label in classes], "text_ids": [[label] for label in classes]}
        nothing = torch.full_like(condition, gpt["num_classes"])
    logits = [whole_logits(model, condition, mask, image_ids), whole_logits(model, nothing, mask, image_ids)]
    tensors["logits"] = torch.stack(logits, 1)
    tensors["image_nll"] = torch.stack([F.cross_entropy(row, ids, reduction="sum") for row, ids in zip(logits[0], image_ids)])
    for label, scale in [("greedy", 1.0), ("guided", 5.0)]:
        # One by one, as all rows of the reference have one scale of padding.
        found = [drawn(generate, model, condition[i : i + 1], None if mask is None else mask[i : i + 1], positions, scale) for i in range(2)]
        tensors[f"{label}_ids"] = torch.cat([ids for ids, _ in found]).int()
        tensors[f"{label}_logits"] = torch.cat([steps for _, steps in found])
    shape = [2, vq["codebook_embed_dim"], grid, grid]
    tensors["pixels"] = tokenizer_vq.decode_code(image_ids.flatten(), shape)
    side = grid << (len(vq["decoder_ch_mult"]) - 1)
    picture = torch.randint(0, 256, (1, 3, side, side))
    tensors |= {"picture": picture.int(), "picture_ids": nearest(tokenizer_vq, picture / 127.5 - 1).int()}
    save_file({key: value.float().contiguous() if value.is_floating_point() else value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors", {key: json.dumps(value) for key, value in metadata.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llamagen", required=True, help="a checkout of FoundationVision/LlamaGen")
    sys.path.insert(0, parser.parse_args().llamagen)
    from autoregressive.models import generate, gpt
    from language.t5 import T5Embedder
    from tokenizer.tokenizer_image import vq_model

    # The published width is 128 channels.
    vq_model.Encoder = functools.partial(vq_model.Encoder, ch=32, num_res_blocks=1)
    vq_model.Decoder = functools.partial(vq_model.Decoder, ch=32, num_res_blocks=1)
    gpt.PublishedEmbedder = gpt.CaptionEmbedder
    embedder = T5Embedder.__new__(T5Embedder)
    reference = (gpt, generate, vq_model, embedder.clean_caption)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    t5 = dict(d_model=24, d_ff=40, d_kv=5, num_heads=3, num_layers=2, relative_attention_num_buckets=32, relative_attention_max_distance=128)
    mult = dict(encoder_ch_mult=[1, 1], decoder_ch_mult=[1, 1])
    write("t2i", reference, form="loop", places=120, precompiled=True, t5=t5, gpt=dict(dim=48, n_layer=2, n_head=3, block_size=16, multiple_of=8), vq=dict(codebook_size=60, codebook_embed_dim=8, z_channels=16, **mult))
    write("t2i_half", reference, form="loop", half=True, places=24, t5=dict(t5, d_model=20, d_kv=8, num_heads=2, num_layers=1, d_ff=28, relative_attention_num_buckets=12, relative_attention_max_distance=20), gpt=dict(dim=40, n_layer=1, n_head=2, block_size=9, multiple_of=4), vq=dict(codebook_size=45, codebook_embed_dim=6, z_channels=12, **mult))
    write("c2i", reference, form="fsdp", half=True, gpt=dict(dim=32, n_layer=2, n_head=2, block_size=25, multiple_of=16, num_classes=7), vq=dict(codebook_size=50, codebook_embed_dim=4, z_channels=8, encoder_ch_mult=[1, 1, 1], decoder_ch_mult=[1, 1, 1]))
    write("hub", reference, form="hub", gpt=dict(dim=24, n_layer=3, n_head=1, block_size=16, multiple_of=4, num_classes=5, rope_base=500, norm_eps=1e-4), vq=dict(codebook_size=40, codebook_embed_dim=8, z_channels=16, **mult))


if __name__ == "__main__":
    main()
