"""Writes ten training steps of a tiny LlamaGen of captions, whole and by additions of low rank, as the reference trains it.

    python reference/write_llamagen_fine_tuning_goldens.py PATH/TO/LlamaGen

The model is the set `t2i` of `write_llamagen_goldens.py`, which is not repeated here; its text encoder is no part of what is
trained. Losses are those of `Transformer.forward` in training (`autoregressive/train/train_t2i.py`), without its dropouts;
steps are those of `write_fine_tuning_goldens.py`. One caption is dropped: it has the learned vectors of no caption, which
the reference keeps as a buffer and does not train.
"""

import json
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

sys.path.insert(0, sys.argv[1])
from autoregressive.models import gpt

from write_fine_tuning_goldens import OUT, adapt, train
from write_llamagen_goldens import OUT as PUBLISHED

PARTS = {
    "attention.wqkv": ("attention.q", "attention.k", "attention.v"),
    "attention.wo": ("attention.out",),
    "feed_forward.w1": ("feed_forward.gate",),
    "feed_forward.w3": ("feed_forward.up",),
    "feed_forward.w2": ("feed_forward.down",),
    "cap_proj.fc1": ("caption.in",),
    "cap_proj.fc2": ("caption.out",),
    "output": ("head",),
}
NO_CAPTION = 2**32 - 1
DROPPED = 9


def parts(name):
    return next((parts for end, parts in PARTS.items() if name == end or name.endswith("." + end)), ())


def main():
    folder, published = OUT / "llamagen", PUBLISHED / "t2i"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    arguments = json.loads((published / "config.json").read_text())
    dropouts = {key: 0.0 for key in ("token_dropout_p", "attn_dropout_p", "resid_dropout_p", "ffn_dropout_p", "class_dropout_prob")}
    model = gpt.Transformer(gpt.ModelArgs(**{**arguments, **dropouts}))
    before = torch.load(published / "t2i_tiny_256.pt", weights_only=False)["model"]
    load = lambda: model.load_state_dict(before)
    load()
    model.train()

    # Captions on the right of their places, the rest masked, as `sample_t2i.py` and the data of the training have them.
    text_ids = [[5, 9, 30, 7, 1], [4, 11, 12, 6, 8, 20, 33, 1], [NO_CAPTION] * DROPPED]
    encoder = T5EncoderModel.from_pretrained(published / "flan-t5").eval()
    places, positions = arguments["cls_token_num"], arguments["block_size"]
    condition = torch.zeros(len(text_ids), places, arguments["caption_dim"])
    allowed = torch.tril(torch.ones(places + positions - 1, places + positions - 1, dtype=torch.bool)).repeat(len(text_ids), 1, 1)
    with torch.no_grad():
        for row, ids in enumerate(text_ids):
            dropped = ids[0] == NO_CAPTION
            states = model.cls_embedding.uncond_embedding[-len(ids) :] if dropped else encoder(torch.tensor([ids])).last_hidden_state[0]
            condition[row, -len(ids) :] = states
            allowed[row, :, : places - len(ids)] = False
    allowed |= torch.eye(allowed.shape[1], dtype=torch.bool)
    image = torch.randint(0, arguments["vocab_size"], (len(text_ids), positions))
    loss = lambda: model(idx=image[:, :-1], cond_idx=condition, targets=image, mask=allowed[:, None])[1]

    losses, first = train(list(model.parameters()), loss)
    gradients = {key: first[id(value)] for key, value in model.named_parameters()}
    # What is no parameter of the reference's stays as it is.
    torch.save({"model": before | gradients}, folder / "gradients.pt")
    save_file({"losses": losses, "image_ids": image.int()}, folder / "expected.safetensors", {"text_ids": json.dumps(text_ids)})

    load()
    lora = dict(rank=2, alpha=3.0, targets=["attention.q", "attention.v", "attention.out", "feed_forward.gate", "feed_forward.down", "caption.in", "head"])
    named = adapt(model, parts, **lora)
    # Ours has the first of each pair of a head, then the second ones.
    head = arguments["dim"] // arguments["n_head"]
    order = [start + 2 * pair + half for start in range(0, arguments["dim"], head) for half in range(2) for pair in range(head // 2)]
    sort = lambda name, value: value[:, order] if name.startswith(("attention.q", "attention.k")) and name.endswith(".b") else value
    begun = {f"before.{name}": sort(name, value.detach().clone()).contiguous() for name, value in named.items()}
    losses, first = train(list(named.values()), loss, weight_decay=0.1)
    gradients = {f"gradient.{name}": sort(name, first[id(value)]).contiguous() for name, value in named.items()}
    save_file({"losses": losses} | begun | gradients, folder / "lora.safetensors", {"lora": json.dumps(lora)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    main()
