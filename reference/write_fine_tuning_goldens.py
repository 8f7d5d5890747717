"""Writes ten training steps of tiny published models, as the reference implementations train them.

    python reference/write_fine_tuning_goldens.py

Each model is saved as it is published; its first gradients are saved the same way, as if they were its weights, so
that they go through the same importer. AdamW without decay, a constant learning rate, the same batch in all steps.
The loss of DALLE-pytorch is its own `forward(return_loss=True)`; that of DALL·E mini is the cross-entropy that
dalle-mini's `tools/train/train.py` trains by, of min-dalle's modules.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from dalle_pytorch import DALLE, DiscreteVAE
from safetensors.torch import save_file

import write_dalle_mini_goldens as mini
import write_dalle_pytorch_goldens as pytorch

OUT = Path(__file__).parent.parent / "crates/impasto/src/train/fine_tune/goldens"
STEPS, LEARNING_RATE = 10, 3e-3


def train(parameters, loss):
    """The losses before each step, and the gradients of the first."""
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses, first = [], None
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        first = first or {id(p): torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters}
        losses.append(value.item())
        optimizer.step()
    return torch.tensor(losses), first


def write_pytorch(name, seed, tokenizer, **options):
    torch.manual_seed(seed)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    encode, known = tokenizer(folder)
    params = dict(image_size=16, num_layers=2, num_tokens=20, codebook_dim=6, hidden_dim=4)
    with torch.no_grad():
        vae = pytorch.randomise(DiscreteVAE(**params))
        dalle = DALLE(vae=vae, num_text_tokens=known, **options)
        pytorch.scatter(dalle)

    def save(path, weights):
        hparams = dict(num_text_tokens=known, **options)
        saved = {"hparams": hparams, "vae_params": params, "version": "1.6.6", "vae_class_name": "DiscreteVAE", "weights": weights}
        torch.save(saved, path)

    before = {key: value.detach().clone() for key, value in dalle.state_dict().items()}
    save(folder / "dalle.pt", before)
    length = options["text_seq_len"]
    # The last caption is dropped.
    text_ids = [list(map(int, encode(caption)))[:length] for caption in pytorch.CAPTIONS] + [[]]
    text = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in text_ids])
    image = torch.randint(0, vae.num_tokens, (len(text_ids), dalle.image_seq_len))
    parameters = [p for p in dalle.parameters() if p.requires_grad]
    losses, first = train(parameters, lambda: dalle(text.clone(), image, return_loss=True))
    gradients = {key: first[id(p)] for key, p in dalle.named_parameters() if id(p) in first}
    # What is no weight stays as it is.
    save(folder / "gradients.pt", before | gradients)
    save_file({"losses": losses, "image_ids": image.int()}, folder / "expected.safetensors", {"text_ids": json.dumps(text_ids)})


def write_mini(name, seed):
    torch.manual_seed(seed)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    # The sizes, image tokenizer and words of the set `min_dalle`, which are not repeated here.
    sizes = dict(encoder_vocab_size=300, image_vocab_size=33, image_length=16, max_text_length=24, encoder_layers=1, encoder_ffn_dim=26, encoder_attention_heads=1, decoder_layers=1, decoder_ffn_dim=26, decoder_attention_heads=1, d_model=64)
    with torch.no_grad():
        model = mini.Transformer(sizes, 30)
    modules = {"encoder": model.encoder, "decoder": model.decoder}
    for module in modules.values():
        for key, p in module.named_parameters():
            if key.endswith("weight") and key.removesuffix(".weight").rsplit(".", 1)[-1] in mini.PRE_NORMS:
                # The published models have no such scale.
                p.requires_grad = False

    def save(path, values):
        torch.save(mini.without_unit_scales(values, False), path)

    for key, module in modules.items():
        save(folder / f"{key}.pt", {k: v.detach().half() for k, v in module.state_dict().items()})
    text_ids = [[0, 7, 9, 30, 2], [0, 2], [0, 5, 6, 7, 8, 9, 10, 11, 2]]
    image = torch.randint(0, 30, (len(text_ids), sizes["image_length"]))

    def loss():
        nats = [model.nats(text, ids) for text, ids in zip(text_ids, image.tolist())]
        return torch.stack(nats).mean()

    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    losses, first = train(parameters, loss)
    for key, module in modules.items():
        values = {k: first.get(id(p), p.detach()) for k, p in module.named_parameters()}
        save(folder / f"{key}_gradients.pt", values)
    save_file({"losses": losses, "image_ids": image.int()}, folder / "expected.safetensors", {"text_ids": json.dumps(text_ids)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    # One of the imports switches it off.
    torch.set_grad_enabled(True)
    write_pytorch("rotary", 1, pytorch.chinese_tokenizer, dim=20, depth=2, text_seq_len=12, heads=2, dim_head=12)
    write_pytorch("kinds", 2, pytorch.chinese_tokenizer, dim=14, depth=4, text_seq_len=9, heads=2, dim_head=8, rotary_emb=False, sandwich_norm=True, stable=True, attn_types=("axial_row", "axial_col", "conv_like", "full"))
    write_pytorch("reversible", 3, pytorch.chinese_tokenizer, dim=16, depth=2, text_seq_len=10, heads=1, dim_head=10, reversible=True, shift_tokens=False)
    write_mini("mini", 4)
