"""Writes tiny random ruDALL-E models in their published form, and what they make of captions and pictures.

    python reference/write_rudalle_goldens.py

Transformer, drawing, prompts of pictures and image tokenizer are the package's own (`rudalle` 1.1.3 from PyPI, installed
with `--no-deps` beside `more-itertools` and `PyWavelets`); `youtokentome` is built from source (`pip install
cython`, then `--no-build-isolation`). What the package wants of older libraries and does not use here is put in their
place.
"""

import contextlib
import io
import json
import shutil
import sys
import tempfile
import types
from collections import OrderedDict
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
import torch.nn.functional as F
import transformers
import youtokentome
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

OUT = Path(__file__).parent.parent / "crates/impasto/src/import/rudalle/goldens"
# Upper case, white space around, characters that the text tokenizer does not know.
CAPTIONS = ["красная черепаха на шляпе", "  Два КОТА, и Ёж?\t★ xyz "]
LONG = "кот и черепаха на шляпе " * 30
LEARNED = [*[caption.strip().lower() for caption in CAPTIONS], "кот на красной шляпе", "черепахи любят шляпы и котов", "черепаха, которую любит кот", "a red turtle on a hat"]


def package():
    """`rudalle` beside today's libraries."""
    huggingface_hub.cached_download = None
    # Greedy, whatever is asked for.
    transformers.top_k_top_p_filtering = lambda logits, top_k, top_p: logits.masked_fill(logits < logits.max(-1, keepdim=True).values, -torch.inf)
    for name in ["cv2", "matplotlib", "matplotlib.pyplot", "rudalle.realesrgan", "rudalle.emojich_unet"]:
        module = types.ModuleType(name)
        module.get_realesrgan = module.get_emojich_unet = None
        sys.modules[name] = module
    import rudalle
    from rudalle import dalle, image_prompts, pipelines, tokenizer, vae

    return types.SimpleNamespace(package=rudalle, model=dalle.model, prompts=image_prompts, pipelines=pipelines, tokenizer=tokenizer, vae=vae.model)


def randomise(model):
    """Random weights large enough that every part shows in the figures, exact in 16 bits."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or name.endswith("_mask"):
            continue
        if value.ndim == 1 and "norm" in name + ("norm" if name.startswith("to_logits.0") else "") and name.endswith("weight"):
            value.copy_(1 + 0.2 * torch.randn_like(value))
        elif value.ndim == 1:
            value.normal_(std=0.1)
        elif value.ndim == 4:
            value.normal_(std=1.2 / value[0].numel() ** 0.5)
        elif "embed" in name:
            value.normal_(std=0.6)
        else:
            value.normal_(std=1.3 / value.shape[1] ** 0.5)
        value.copy_(value.half().float())
    return model.eval()


def whole(model, text, images):
    """Logits of words and of codes in one pass, and what the words are."""
    length, rows = model.total_seq_length, model.vocab_size
    logits, _ = model(torch.cat([text, images], 1), torch.tril(torch.ones(1, 1, length, length)))
    padded = torch.where(text == 0, torch.arange(rows - text.shape[1], rows), text)
    if model.hf_version == "v2":
        return logits[:, : text.shape[1], :rows], padded, logits[:, text.shape[1] :, rows:]
    return logits[:, : text.shape[1] - 1, :rows], padded[:, 1:], logits[:, text.shape[1] - 1 : -1, rows:]


def apart(logits):
    best = logits.topk(2).values
    assert (best[..., 0] - best[..., 1]).min() > 1e-3, "too near a tie to compare"


def drawn(reference, model, tokenizer, caption, image_prompts=None):
    """Greedily, by the reference's loop: the ids that it decodes."""
    taken = []

    class Taking:
        def decode(self, ids):
            taken.append(ids)
            return torch.zeros(len(ids), 3, 8, 8)

    with contextlib.redirect_stderr(io.StringIO()):
        reference.pipelines.generate_images(caption, tokenizer, model, Taking(), top_k=1, top_p=1.0, images_num=1, image_prompts=image_prompts)
    text = tokenizer.encode_text(caption.lower().strip(), model.text_seq_length)[None]
    _, _, logits = whole(model, text, taken[0])
    known = image_prompts.image_prompts_idx if image_prompts else set()
    free = [place for place in range(taken[0].shape[1]) if place not in known]
    apart(logits[:, free])
    assert (logits.argmax(-1) == taken[0])[:, free].all()
    return taken[0]


def guided(model, text, nothing, scale):
    """The same with guidance, which the reference has not got: in one pass for each id, without caches."""
    ids = torch.zeros(1, model.image_seq_length, dtype=torch.long)
    for place in range(model.image_seq_length):
        _, _, with_text = whole(model, text, ids)
        _, _, without = whole(model, nothing, ids)
        logits = without + scale * (with_text - without)
        apart(logits[:, place])
        ids[:, place] = logits[:, place].argmax(-1)
    return ids


def write(name, reference, **options):
    """Draws weights again where two ids are too near each other to compare what is drawn."""
    for seed in range(80):
        torch.manual_seed(1000 * len(name) + seed)
        try:
            return write_once(name, reference, **options)
        except AssertionError as error:
            print(name, seed, error)
    raise SystemExit(f"{name}: no seed without ties")


def write_once(name, reference, version, file, sizes, vq, words, borders, masks=False, half=False, wrapped=None, config=(), legacy=False):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as data:
        data.write("\n".join(LEARNED * 3) + "\n")
        data.flush()
        youtokentome.BPE.train(data=data.name, model=str(folder / "bpe.model"), vocab_size=words, coverage=0.99, n_threads=1)
    tokenizer = reference.tokenizer.YTTMTokenizerWrapper(youtokentome.BPE(str(folder / "bpe.model"), n_threads=1))
    dropouts = dict(embedding_dropout_prob=0.1, output_dropout_prob=0.1, attention_dropout_prob=0.1)
    model = randomise(reference.model.DalleModel(device="cpu", hf_version=version, image_vocab_size=vq["n_embed"], **dropouts, **sizes))
    state = OrderedDict((key, value) for key, value in model.state_dict().items() if masks or not key.endswith("_mask"))
    if half:
        state = OrderedDict((key, value.half() if value.is_floating_point() else value) for key, value in state.items())
    torch.save({wrapped: state, "step": 9} if wrapped else state, folder / file, _use_new_zipfile_serialization=not legacy)
    entry = dict(model_params=dict(num_attention_heads=sizes["num_attention_heads"]), **dict(config))
    (folder / "config.json").write_text(json.dumps(entry, indent=1) + "\n")

    vae_config = OmegaConf.create({"model": {"params": dict(vq, kl_weight=1e-8)}})
    with contextlib.redirect_stdout(io.StringIO()):
        vae = reference.vae.VQGanGumbelVAE(vae_config)
    randomise(vae.model)
    stored = OrderedDict((key, value.half()) for key, value in vae.model.state_dict().items())
    stored["loss.logvar"] = torch.tensor(0.0)
    torch.save({"state_dict": stored, "epoch": 3}, folder / "vqgan.gumbelf8-sber.model.ckpt")

    length, positions = sizes["text_seq_length"], model.image_seq_length
    text = torch.stack([tokenizer.encode_text(caption.lower().strip(), length) for caption in CAPTIONS])
    nothing = tokenizer.encode_text("", length)[None]
    long = tokenizer.encode_text(LONG.lower().strip(), length)
    ids = lambda row: [token for token in row.tolist() if token != 0]
    metadata = {"captions": CAPTIONS, "text_ids": [ids(row) for row in text], "long": LONG, "long_ids": ids(long), "nothing": ids(nothing[0]), "borders": borders}

    images = torch.randint(0, vq["n_embed"], (2, positions))
    text_logits, labels, logits = whole(model, text, images)
    nats = lambda logits, ids: F.cross_entropy(logits.transpose(1, 2), ids, reduction="none").sum(1)
    loss, parts = model(torch.cat([text, images], 1), torch.tril(torch.ones(1, 1, model.total_seq_length, model.total_seq_length)), return_loss=True)
    tensors = {
        "image_ids": images.int(),
        "text_logits": text_logits,
        "logits": logits,
        "text_nats": nats(text_logits, labels),
        "image_nats": nats(logits, images),
        "loss": torch.stack([loss, parts["text"], parts["image"]]),
        "greedy_ids": torch.cat([drawn(reference, model, tokenizer, caption) for caption in CAPTIONS]).int(),
        "guided_ids": torch.cat([guided(model, row[None], nothing, 3.0) for row in text]).int(),
        "pixels": vae.decode(images) * 2 - 1,
    }
    # Pictures, and what is drawn around and inside their borders.
    side = sizes["image_tokens_per_dim"] << (len(vq["ddconfig"]["ch_mult"]) - 1)
    picture = torch.randint(0, 256, (1, 3, side, side))
    pixels = picture / 127.5 - 1
    scores = vae.model.quantize.proj(vae.model.quant_conv(vae.model.encoder(pixels))).flatten(2).transpose(1, 2)
    apart(scores)
    whole_picture = Image.fromarray(picture[0].permute(1, 2, 0).numpy().astype(np.uint8))
    prompts = [reference.prompts.ImagePrompts(whole_picture, dict(dict(up=0, down=0, left=0, right=0), **border), vae) for border in borders]
    assert (prompts[0].image_prompts == scores.argmax(-1)).all()
    tensors |= {
        "picture": picture.int(),
        "picture_ids": prompts[0].image_prompts.int(),
        "prompted_ids": torch.cat([drawn(reference, model, tokenizer, CAPTIONS[0], prompt) for prompt in prompts]).int(),
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors", {key: json.dumps(value) for key, value in metadata.items()})


def coders(ch_mult, z, codes, resolution, attention, blocks):
    return dict(embed_dim=z, n_embed=codes, ddconfig=dict(double_z=False, z_channels=z, resolution=resolution, in_channels=3, out_ch=3, ch=32, ch_mult=ch_mult, num_res_blocks=blocks, attn_resolutions=attention, dropout=0.0))


def main():
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    reference = package()
    relaxed = dict(cogview_sandwich_layernorm=True, cogview_pb_relax=True)
    # Malevich as it is today: rows, a column, a window at the end.
    write("v3", reference, version="v3", file="pytorch_model_v3.bin", words=100, borders=[dict(up=3), dict(up=1, left=2, down=1)], sizes=dict(relaxed, num_layers=4, hidden_size=32, num_attention_heads=4, text_seq_length=24, image_tokens_per_dim=8, vocab_size=104 + 24), vq=coders([1, 1], 16, 60, 16, [8], 1))
    # Emojich: a start, a window around the edges, in 16 bits, with the masks that a fine-tune saves.
    write("v2", reference, version="v2", file="pytorch_model.bin", words=70, masks=True, half=True, borders=[dict(up=5), dict(left=3, right=1)], sizes=dict(relaxed, num_layers=3, hidden_size=24, num_attention_heads=3, text_seq_length=17, image_tokens_per_dim=13, vocab_size=70 + 17), vq=coders([1, 1], 8, 45, 26, [13], 1))
    # Neither norms behind parts nor a window; masks of floats; older container.
    write("plain", reference, version="v3", file="tuned.pt", words=60, masks=True, wrapped="model", legacy=True, config=dict(hf_version="v3"), borders=[dict(up=1), dict(up=2, right=1)], sizes=dict(num_layers=2, hidden_size=30, num_attention_heads=5, text_seq_length=9, image_tokens_per_dim=5, vocab_size=61 + 9, is_bool_mask=False, mlp_activation="gelu"), vq=coders([1, 1, 1], 12, 30, 20, [5], 1))


if __name__ == "__main__":
    main()
