"""Writes ten training steps of tiny published models, whole and by additions of low rank, as the reference
implementations train them.

    python reference/write_fine_tuning_goldens.py

Each model is saved as it is published; its first gradients are saved the same way, as if they were its weights, so
that they go through the same importer; of ruDALL-E the transformer alone, to be put beside the other files of the sets of
`write_rudalle_goldens.py`. AdamW without decay, a constant learning rate, the same batch in all steps.
The losses of DALLE-pytorch and ruDALL-E are their own `forward(return_loss=True)`, without dropout; that of DALL·E mini is the cross-entropy that
dalle-mini's `tools/train/train.py` trains by, of min-dalle's modules.

Additions of low rank (arXiv:2106.09685) go beside `nn.Linear`s of the same models, with weight decay; `b` begins at
random numbers, not at zero, so that the first gradients of `a` are none.
"""

import json
from pathlib import Path

import torch
from dalle_pytorch import DALLE, DiscreteVAE
from safetensors.torch import save_file
from torch import nn

import write_dalle_mini_goldens as mini
import write_dalle_pytorch_goldens as pytorch

OUT = Path(__file__).parent.parent / "crates/impasto/src/train/fine_tune/goldens"
STEPS, LEARNING_RATE = 10, 3e-3


def train(parameters, loss, weight_decay=0.0):
    """The losses before each step, and the gradients of the first."""
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)
    losses, first = [], None
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        first = first or {id(p): torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters}
        losses.append(value.item())
        optimizer.step()
    return torch.tensor(losses), first


# --- low rank -----------------------------------------------------------------------------------------------

# The ends of the modules' names, and what the parts of their columns are called.
PYTORCH_PARTS = {
    "to_qkv": ("attention.q", "attention.k", "attention.v"),
    "to_out.0": ("attention.out",),
    "net.0": ("feed_forward.up", "feed_forward.gate"),
    "net.3": ("feed_forward.down",),
}
MINI_PARTS = {
    "encoder.self_attn": "encoder.attention",
    "decoder.self_attn": "decoder.attention",
    "decoder.encoder_attn": "decoder.caption_attention",
    "encoder.glu": "encoder.glu",
    "decoder.glu": "decoder.glu",
}
MINI_LEAVES = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out", "fc0": "gate", "fc1": "up", "fc2": "down"}


RUDALLE_PARTS = {
    "attention.query_key_value": ("attention.q", "attention.k", "attention.v"),
    "attention.dense": ("attention.out",),
    "mlp.dense_h_to_4h": ("mlp.up",),
    "mlp.dense_4h_to_h": ("mlp.down",),
}


def rudalle_parts(name):
    return next((parts for end, parts in RUDALLE_PARTS.items() if name.endswith("." + end)), ())


def pytorch_parts(name):
    return next((parts for end, parts in PYTORCH_PARTS.items() if name.endswith("." + end)), ())


def mini_parts(name):
    *way, module, leaf = name.split(".")
    stack = way[0] if way else ""
    known = MINI_PARTS.get(f"{stack}.{module}")
    return (f"{known}.{MINI_LEAVES[leaf]}",) if known else ()


class Adapted(nn.Module):
    """A layer and the additions to some of its parts."""

    def __init__(self, layer, parts, additions, scale):
        super().__init__()
        self.layer, self.parts, self.additions, self.scale = layer, parts, additions, scale

    def forward(self, x):
        out = self.layer(x)
        width = out.shape[-1] // len(self.parts)
        zeros = torch.zeros(*out.shape[:-1], width)
        added = [x @ pair[0] @ pair[1] * self.scale if pair else zeros for pair in self.additions]
        return out + torch.cat(added, -1)


def adapt(model, parts_of, rank, alpha, targets):
    """Puts additions into all targets; returns them by the names that impasto's files have for them."""
    seen, named = {}, {}
    for name, layer in list(model.named_modules()):
        parts = parts_of(name) if isinstance(layer, nn.Linear) else ()
        additions = []
        for part in parts:
            place = f"{part}.{seen.setdefault(part, 0)}"
            seen[part] += 1
            pair = None
            if part in targets:
                columns = layer.out_features // len(parts)
                a = torch.randn(layer.in_features, rank) / layer.in_features**0.5
                pair = nn.Parameter(a), nn.Parameter(0.2 * torch.randn(rank, columns))
                named[f"{place}.a"], named[f"{place}.b"] = pair
            additions.append(pair)
        if any(additions):
            way, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(way), leaf, Adapted(layer, parts, additions, alpha / rank))
    return named


def write_lora(folder, model, parts_of, loss, **lora):
    named = adapt(model, parts_of, **lora)
    before = {f"before.{name}": value.detach().clone() for name, value in named.items()}
    losses, first = train(list(named.values()), loss, weight_decay=0.1)
    gradients = {f"gradient.{name}": first[id(value)] for name, value in named.items()}
    save_file({"losses": losses} | before | gradients, folder / "lora.safetensors", {"lora": json.dumps(lora)})


# --- the models -----------------------------------------------------------------------------------------------


def write_pytorch(name, seed, tokenizer, lora, **options):
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
    loss = lambda: dalle(text.clone(), image, return_loss=True)
    losses, first = train(parameters, loss)
    gradients = {key: first[id(p)] for key, p in dalle.named_parameters() if id(p) in first}
    # What is no weight stays as it is.
    save(folder / "gradients.pt", before | gradients)
    save_file({"losses": losses, "image_ids": image.int()}, folder / "expected.safetensors", {"text_ids": json.dumps(text_ids)})
    dalle.load_state_dict(before)
    write_lora(folder, dalle, pytorch_parts, loss, **lora)


def write_mini(name, seed, lora):
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

    both = nn.ModuleDict(modules)
    before = {key: value.detach().clone() for key, value in both.state_dict().items()}
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
    both.load_state_dict(before)
    write_lora(folder, both, mini_parts, loss, **lora)


def write_rudalle(name, seed, version, codes, lora, **sizes):
    import write_rudalle_goldens as rudalle

    torch.manual_seed(seed)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    dropouts = dict(embedding_dropout_prob=0.1, output_dropout_prob=0.1, attention_dropout_prob=0.1)
    with torch.no_grad():
        model = rudalle.randomise(rudalle.package().model.DalleModel(device="cpu", hf_version=version, image_vocab_size=codes, cogview_sandwich_layernorm=True, cogview_pb_relax=True, **dropouts, **sizes))
    torch.set_grad_enabled(True)
    before = {key: value.detach().clone() for key, value in model.state_dict().items() if not key.endswith("_mask")}
    torch.save(before, folder / f"pytorch_model_{version}.bin")
    length = sizes["text_seq_length"]
    # The last caption is dropped.
    text_ids = [[2, 20, 30, 7, 3], [2, *range(5, length + 1), 3][:length], [2, 3]]
    text = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in text_ids])
    image = torch.randint(0, codes, (len(text_ids), model.image_seq_length))
    mask = torch.tril(torch.ones(1, 1, model.total_seq_length, model.total_seq_length))
    loss = lambda: model(torch.cat([text, image], 1), mask, return_loss=True)[0]
    losses, first = train(list(model.parameters()), loss)
    torch.save({key: first[id(p)] for key, p in model.named_parameters()}, folder / "gradients.bin")
    save_file({"losses": losses, "image_ids": image.int()}, folder / "expected.safetensors", {"text_ids": json.dumps(text_ids)})
    model.load_state_dict(before, strict=False)
    write_lora(folder, model, rudalle_parts, loss, **lora)


if __name__ == "__main__":
    torch.set_num_threads(1)
    # One of the imports switches it off.
    torch.set_grad_enabled(True)
    queries_values = dict(rank=2, alpha=3.0, targets=["attention.q", "attention.v"])
    everything = dict(rank=3, alpha=1.5, targets=["attention.k", "attention.out", "feed_forward.up", "feed_forward.gate", "feed_forward.down"])
    outer = dict(rank=1, alpha=2.0, targets=["attention.q", "attention.k", "attention.v", "feed_forward.gate"])
    stacks = [f"{stack}.{part}" for stack in ("encoder.attention", "decoder.attention", "decoder.caption_attention") for part in ("q", "v", "out")]
    mini_lora = dict(rank=2, alpha=4.0, targets=[*stacks, "encoder.glu.up", "decoder.glu.gate", "decoder.glu.down"])
    write_pytorch("rotary", 1, pytorch.chinese_tokenizer, queries_values, dim=20, depth=2, text_seq_len=12, heads=2, dim_head=12)
    write_pytorch("kinds", 2, pytorch.chinese_tokenizer, everything, dim=14, depth=4, text_seq_len=9, heads=2, dim_head=8, rotary_emb=False, sandwich_norm=True, stable=True, attn_types=("axial_row", "axial_col", "conv_like", "full"))
    write_pytorch("reversible", 3, pytorch.chinese_tokenizer, outer, dim=16, depth=2, text_seq_len=10, heads=1, dim_head=10, reversible=True, shift_tokens=False)
    write_mini("mini", 4, mini_lora)
    heads = dict(rank=2, alpha=3.0, targets=["attention.q", "attention.v", "mlp.up"])
    others = dict(rank=1, alpha=2.0, targets=["attention.k", "attention.out", "mlp.down"])
    write_rudalle("rudalle_v3", 5, "v3", 60, heads, num_layers=3, hidden_size=16, num_attention_heads=2, text_seq_length=12, image_tokens_per_dim=8, vocab_size=104 + 12)
    write_rudalle("rudalle_v2", 6, "v2", 45, others, num_layers=3, hidden_size=12, num_attention_heads=3, text_seq_length=9, image_tokens_per_dim=13, vocab_size=80 + 9)
