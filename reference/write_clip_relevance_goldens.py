"""Writes the relevance of patches and of words (Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6) in the small CLIP
models that `write_clip_goldens.py` wrote, computed by their own libraries with PyTorch's gradients.

    python reference/write_clip_relevance_goldens.py

`crates/impasto/src/import/clip/goldens/FOLDER/relevance.safetensors`: for picture p and caption c of `expected.safetensors`
the relevance `p.c.patches` of the class token by each patch, and `p.c.ids` of the caption's end by each id after the start.
"""

import json
from pathlib import Path

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

MODELS = Path(__file__).parent.parent / "crates/impasto/src/import/clip/goldens"


def rule(weights, gradients, row):
    """R = R + E_h[(∇A ⊙ A)⁺] R from the first layer to the last; a row of R."""
    relevance = torch.eye(weights[0].shape[-1], dtype=torch.float64)
    for weight, gradient in zip(weights, gradients):
        layer = (gradient * weight).clamp(min=0)[0].mean(0).double()
        relevance = relevance + layer @ relevance
    return relevance[row]


def hugging_face(folder):
    model = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()

    def attended(pixels, ids):
        out = model(pixel_values=pixels, input_ids=ids, output_attentions=True)
        image, text = out.vision_model_output.attentions, out.text_model_output.attentions
        gradients = torch.autograd.grad(out.logits_per_image.sum(), [*image, *text], allow_unused=True)
        return image, gradients[: len(image)], text, gradients[len(image) :]

    return attended


def open_clip(folder, quick_gelu):
    """open_clip's model, whose attention is one operation; here it is written out."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    path = folder / "open_clip_pytorch_model.bin"
    state = torch.load(path, weights_only=True) if path.is_file() else load_file(folder / "open_clip_model.safetensors")
    state = {name.removeprefix("module."): tensor for name, tensor in state.get("state_dict", state).items()}
    bias = 0.0 if "logit_bias" in state else None
    model = CLIP(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"]), quick_gelu=quick_gelu, init_logit_bias=bias)
    model.load_state_dict(state)
    model.eval()
    kept = []

    def written_out(attention):
        def forward(query, key, value, need_weights=False, attn_mask=None):
            batch, length, width = query.shape
            heads = attention.num_heads
            parts = torch.nn.functional.linear(query, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
            q, k, v = (part.view(batch, length, heads, width // heads).transpose(1, 2) for part in parts)
            scores = q @ k.transpose(-1, -2) / (width // heads) ** 0.5
            if attn_mask is not None:
                scores = scores + attn_mask
            weights = scores.softmax(-1)
            kept.append(weights)
            return attention.out_proj((weights @ v).transpose(1, 2).reshape(batch, length, width)), None

        return forward

    for module in model.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            module.forward = written_out(module)

    def attended(pixels, ids):
        kept.clear()
        ids = torch.nn.functional.pad(ids, (0, model.context_length - ids.shape[1]))
        image, text, scale = model(pixels, ids)[:3]
        logit = scale * (image * text).sum()
        gradients = torch.autograd.grad(logit, kept, allow_unused=True)
        layers = config["vision_cfg"]["layers"]
        return kept[:layers], gradients[:layers], kept[layers:], gradients[layers:]

    return attended


def main():
    models = {
        "hugging_face": hugging_face(MODELS / "hugging_face"),
        "hugging_face_bin": hugging_face(MODELS / "hugging_face_bin"),
        "open_clip": open_clip(MODELS / "open_clip", False),
        "open_clip_quickgelu": open_clip(MODELS / "open_clip_quickgelu", True),
    }
    for name, attended in models.items():
        expected = load_file(MODELS / name / "expected.safetensors")
        tensors = {}
        for p, pixels in enumerate(expected["pixels"]):
            for c, row in enumerate(expected["text_ids"]):
                ids = row[row >= 0].long()
                end = len(ids) - 1
                image, of_image, text, of_text = attended(pixels[None], ids[None])
                tensors[f"{p}.{c}.patches"] = rule(image, of_image, 0)[1:].float().contiguous()
                tensors[f"{p}.{c}.ids"] = rule(text, of_text, end)[1:end].float().contiguous()
        save_file(tensors, MODELS / name / "relevance.safetensors")
        print(name, tensors["0.0.patches"][:4].tolist(), tensors["0.0.ids"].tolist())


main()
