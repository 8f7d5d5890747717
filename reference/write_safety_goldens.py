"""Writes what diffusers and transformers make of small picture checkers with random weights, in the published forms.

    PYTHONPATH=... python reference/write_safety_goldens.py

`crates/impasto/src/import/safety/goldens/`: a folder a model, pictures in it, and `expected.safetensors`:

- `checker*`: `StableDiffusionSafetyChecker` of diffusers, in the names of transformers 5 and in those of the published
  files; cosines, the scores that its `forward` computes within, what it finds;
- `vit*`: `ViTForImageClassification` of transformers; pixels, logits, probabilities.
"""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy
import torch
from diffusers.pipelines.stable_diffusion import safety_checker
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

GOLDENS = Path(__file__).parent.parent / "crates/impasto/src/import/safety/goldens"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(width, height, seed):
    """Smooth and sharp parts, so that every step of a filter shows."""
    generator = numpy.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=numpy.uint8)).resize((width, height), Image.BILINEAR)
    pixels = numpy.asarray(coarse).astype(int)
    pixels[height // 3 : height // 2] += generator.integers(-90, 90, (height // 2 - height // 3, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))


def randomise(model, seed):
    torch.manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        parameter.data = torch.randn_like(parameter) * (0.25 if parameter.ndim > 1 else 0.1)
        if parameter.ndim == 1 and "weight" in name and "embeds" not in name:
            parameter.data += 1
    return model.eval()


def published_names(name):
    """The published file was saved while `CLIPVisionModel` had its model within."""
    if name.startswith("vision_model.") and not name.startswith("vision_model.vision_model."):
        return "vision_model." + name
    return name


def within(model, pixels, images):
    """What `forward` knows when it returns: its scores are not passed on."""
    found = []

    def look(frame, event, _):
        if event == "return" and frame.f_code.co_name == "forward" and frame.f_code.co_filename == safety_checker.__file__:
            found.append(frame.f_locals["result"])

    sys.setprofile(look)
    _, flagged = model(clip_input=pixels, images=images)
    sys.setprofile(None)
    return found[-1], flagged


def checker(name, vision, projection, concepts, seed, old):
    folder = GOLDENS / name
    folder.mkdir()
    config = CLIPConfig(projection_dim=projection, vision_config=vision)
    model = StableDiffusionSafetyChecker(config)
    model.concept_embeds = torch.nn.Parameter(torch.ones(concepts[0], projection))
    model.special_care_embeds = torch.nn.Parameter(torch.ones(concepts[1], projection))
    model.concept_embeds_weights = torch.nn.Parameter(torch.ones(concepts[0]))
    model.special_care_embeds_weights = torch.nn.Parameter(torch.ones(concepts[1]))
    randomise(model, seed)
    size = vision["image_size"]
    images = [picture(size + 9, size + 4, 11), picture(size, size, 12), picture(3 * size, size + 1, 13), picture(size, 2 * size, 14), picture(2 * size, 2 * size, 15)]
    transform = image_transform(size, is_train=False, mean=MEAN, std=STD)
    pixels = torch.stack([transform(image) for image in images])
    with torch.no_grad():
        embeds = model.visual_projection(model.vision_model(pixels)[1])
        special = safety_checker.cosine_distance(embeds, model.special_care_embeds)
        cosines = safety_checker.cosine_distance(embeds, model.concept_embeds)
        # Thresholds among the cosines, so that each decision is made both ways; one within the adjustment of a cosine.
        model.special_care_embeds_weights.data = special.max(0).values - 0.02
        if concepts[1] > 1:
            # One is nearly reached: the adjustment by an earlier one would count.
            model.special_care_embeds_weights.data[1] = special[:, 1].max() + 0.005
        model.concept_embeds_weights.data = cosines.max(0).values + 0.004
        model.concept_embeds_weights.data[::3] = cosines.max(0).values[::3] + 0.3
    if old:
        state = {published_names(n): t for n, t in model.state_dict().items()}
        state["vision_model.vision_model.embeddings.position_ids"] = torch.arange((size // vision["patch_size"]) ** 2 + 1)[None]
        torch.save(state, folder / "pytorch_model.bin")
        saved = {"_name_or_path": "clip-vit-large-patch14", "architectures": ["StableDiffusionSafetyChecker"], "model_type": "clip",
                 "projection_dim": projection, "logit_scale_init_value": 2.6592, "text_config_dict": None, "vision_config": vision}
        (folder / "config.json").write_text(json.dumps(saved, indent=1))
        processor = dict(crop_size=size, do_center_crop=True, do_normalize=True, do_resize=True, feature_extractor_type="CLIPFeatureExtractor",
                         image_mean=MEAN, image_std=STD, resample=3, size=size)
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
    else:
        model.save_pretrained(folder)
        CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    result, flagged = within(model, pixels, pixels.clone())
    scores = torch.tensor([[row["concept_scores"][i] for i in range(concepts[0])] for row in result])
    special_scores = torch.tensor([[row["special_scores"][i] for i in range(concepts[1])] for row in result])
    print(name, "flagged", flagged, "special", [len(row["special_care"]) for row in result], "bad", [row["bad_concepts"] for row in result])
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    save_file(
        {"pixels": pixels, "special": special, "cosines": cosines, "special_scores": special_scores.float(), "scores": scores.float(), "flagged": torch.tensor(flagged).float()},
        folder / "expected.safetensors",
    )


def vit(name, config, processor, seed, old):
    folder = GOLDENS / name
    folder.mkdir()
    labels = config.pop("labels")
    config = dict(config, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    model = randomise(ViTForImageClassification(ViTConfig(**config)), seed)
    size = config["image_size"]
    model.save_pretrained(folder)
    if old:
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
        saved = dict(processor, size=size, feature_extractor_type="ViTFeatureExtractor")
        (folder / "preprocessor_config.json").write_text(json.dumps(saved, indent=1))
    else:
        ViTImageProcessor(**processor).save_pretrained(folder)
    images = [picture(size + 9, size + 4, 11), picture(size, size, 12), picture(3 * size, size + 1, 13), picture(size, 2 * size, 14)]
    # Pillow's filters, with which the published models were trained; torchvision's round differently.
    resample = processor["resample"]
    mean, std = (torch.tensor(processor[key])[:, None, None] for key in ("image_mean", "image_std"))
    def prepare(image):
        scaled = numpy.asarray(image.resize((size, size), resample)).copy()
        return (torch.from_numpy(scaled).permute(2, 0, 1).float() / 255 - mean) / std
    pixels = torch.stack([prepare(image) for image in images])
    theirs = ViTImageProcessor(**processor)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(pixel_values=pixels).logits
    print(f"{name}: transformers' pixels differ by {(theirs - pixels).abs().max():.4f}; probabilities {logits.softmax(-1).tolist()}")
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    save_file({"pixels": pixels, "logits": logits, "probabilities": logits.softmax(-1)}, folder / "expected.safetensors")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    shutil.rmtree(GOLDENS, ignore_errors=True)
    GOLDENS.mkdir(parents=True)
    base = dict(num_channels=3, layer_norm_eps=1e-5)
    checker("checker", dict(base, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=7, hidden_act="quick_gelu"), 24, (17, 3), 1, False)
    checker("checker_published", dict(base, hidden_size=36, intermediate_size=60, num_hidden_layers=3, num_attention_heads=3, image_size=30, patch_size=6, hidden_act="quick_gelu"), 20, (17, 3), 2, True)
    checker("checker_gelu", dict(base, hidden_size=20, intermediate_size=30, num_hidden_layers=1, num_attention_heads=5, image_size=21, patch_size=3, hidden_act="gelu"), 15, (6, 1), 3, True)
    half = dict(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])
    vit("vit", dict(labels=["normal", "nsfw"], hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8), dict(half, size={"height": 32, "width": 32}, resample=2), 4, False)
    vit("vit_published", dict(labels=["drawings", "hentai", "neutral", "porn", "sexy"], hidden_size=30, intermediate_size=50, num_hidden_layers=3, num_attention_heads=2, image_size=27, patch_size=9, layer_norm_eps=1e-6), dict(half, size={"height": 27, "width": 27}, resample=2), 5, True)
    vit("vit_bicubic", dict(labels=["sfw", "nsfw", "other"], hidden_size=28, intermediate_size=36, num_hidden_layers=1, num_attention_heads=4, image_size=40, patch_size=5, qkv_bias=False), dict(image_mean=[0.4, 0.5, 0.6], image_std=[0.3, 0.25, 0.2], size={"height": 40, "width": 40}, resample=3), 6, False)
