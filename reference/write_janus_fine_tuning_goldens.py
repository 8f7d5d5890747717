"""Writes ten training steps of a tiny Janus, whole and by additions of low rank, as PyTorch trains it.

    python reference/write_janus_fine_tuning_goldens.py

The model is the set `pro` of `write_janus_goldens.py`, which is not repeated here; its modules are those of transformers
(`JanusForConditionalGeneration`). The training's own code is not published: the loss is the report's (arXiv:2410.13848,
section 3.2), the cross-entropy of all image ids after their prompts. Prompts are padded on the left, as the processor
pads them; padding is masked, and takes no places. The padding within dropped prompts is read and trained like any id:
the original's config names none, transformers' does and would keep its row as it is. Steps are those of `write_fine_tuning_goldens.py`.
"""

import json
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import JanusForConditionalGeneration

from write_fine_tuning_goldens import OUT, adapt, train
from write_janus_goldens import OUT as PUBLISHED, SPECIAL

PARTS = {
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.out",
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
    "generation_aligner.fc1": "image_aligner",
    "generation_aligner.hidden_layers.0": "image_aligner",
    "generation_head.proj_out": "image_head.inner",
    "generation_head.vision_head": "image_head.out",
}
DRAWING = ("language_model.", "generation_")


def parts(name):
    drawing = name.startswith(tuple(f"model.{start}" for start in DRAWING))
    return tuple(part for end, part in PARTS.items() if drawing and name.endswith("." + end))


def main():
    folder, published = OUT / "janus", PUBLISHED / "pro"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(8)
    load = lambda: JanusForConditionalGeneration.from_pretrained(published, dtype=torch.float32)
    model = load()
    tokenizer = Tokenizer.from_file(str(published / "tokenizer.json"))
    bos, pad, boi = (tokenizer.token_to_id(SPECIAL[i]) for i in (0, 2, 4))
    # The last caption is dropped.
    text_ids = [[bos, 20, 31, 9, 44, 60, boi], [bos, 80, 15, 17, 90, 33, 21, 42, 7, 66, boi], [bos, pad, pad, pad, boi]]
    longest = max(map(len, text_ids))
    image = torch.randint(0, model.config.vq_config.num_embeddings, (len(text_ids), model.model.vision_model.config.num_image_tokens))
    prompts = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in text_ids])
    seen = torch.tensor([[0] * (longest - len(ids)) + [1] * (len(ids) + image.shape[1] - 1) for ids in text_ids])
    places = (seen.cumsum(1) - 1).clamp(min=0)

    def loss_of(model):
        model.get_input_embeddings().padding_idx = None

        def loss():
            codes = model.prepare_embeddings_for_image_generation(image[:, :-1])
            inputs = torch.cat([model.get_input_embeddings()(prompts), codes], 1)
            states = model.model.language_model(inputs_embeds=inputs, attention_mask=seen, position_ids=places, use_cache=False).last_hidden_state
            logits = model.model.generation_head(states[:, longest - 1 :])
            return F.cross_entropy(logits.flatten(0, 1), image.flatten())

        return loss

    losses, first = train(list(model.parameters()), loss_of(model))
    gradients = {name: first[id(value)] for name, value in model.named_parameters()}
    gradients = {name: value.contiguous() for name, value in gradients.items() if value.any()}
    save_file(gradients, folder / "gradients.safetensors")
    save_file({"losses": losses, "image_ids": image.int()}, folder / "expected.safetensors", {"text_ids": json.dumps(text_ids)})

    model = load()
    lora = dict(rank=2, alpha=3.0, targets=["attention.q", "attention.k", "attention.out", "feed_forward.up", "feed_forward.down", "image_aligner", "image_head.inner", "image_head.out"])
    named = adapt(model, parts, **lora)
    begun = {f"before.{name}": value.detach().clone() for name, value in named.items()}
    losses, first = train(list(named.values()), loss_of(model), weight_decay=0.1)
    gradients = {f"gradient.{name}": first[id(value)] for name, value in named.items()}
    save_file({"losses": losses} | begun | gradients, folder / "lora.safetensors", {"lora": json.dumps(lora)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    main()
