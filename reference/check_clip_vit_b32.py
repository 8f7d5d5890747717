"""Compares `impasto embed` and `impasto score` with PyTorch on CLIP models of ViT-B/32's shapes with random weights, too
large to be kept: a folder of transformers (safetensors, and .bin), one of open_clip, an archive of OpenAI.

    python reference/check_clip_vit_b32.py PATH/TO/impasto

Ends in an error where embeddings differ by more than 1e-4 of their largest value, or logits by more than 1e-3. The
thousand captions of the goldens are embedded through the published vocabulary of 49,408 ids, too: another id would be
another embedding.
"""

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, convert_weights_to_fp16
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from transformers import CLIPConfig, CLIPModel

from write_clip_goldens import Texts, picture

CAPTIONS = ["a red turtle on a yellow background", "two cats &amp; a dog’s “hat”", "夜空下的乌龟 🐢", "an armchair in the shape of an avocado"]
MERGES = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
SIZE = 224
GOLDENS = Path(__file__).parent.parent / "crates/impasto/src/text/clip/goldens/captions.json.gz"


def randomise(model, seed):
    """As wide as trained weights are, so that no layer drowns in another."""
    torch.manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 0:
            parameter.data = torch.tensor(4.6052)
        elif parameter.ndim == 1:
            parameter.data = torch.randn_like(parameter) * 0.1 + (1.0 if "weight" in name else 0.0)
        else:
            parameter.data = torch.randn_like(parameter) * parameter[0].numel() ** -0.5
    return model.eval()


def program(impasto, *arguments):
    out = subprocess.run([impasto, *arguments, "--json"], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def compare_captions(name, impasto, path, encode, tokenize):
    """`tokenize` gives ids without padding, `encode` embeddings of padded ones."""
    captions = [caption for caption in json.loads(gzip.decompress(GOLDENS.read_bytes()))["captions"] if caption.strip() and "\0" not in caption and len(tokenize(caption)) <= 77]
    furthest = 0.0
    for start in range(0, len(captions), 100):
        part = captions[start : start + 100]
        texts = [flag for caption in part for flag in ("--text=" + caption,)]
        printed = program(impasto, "embed", "--clip", str(path), *texts)["embeddings"]
        found = torch.tensor([each["embedding"] for each in printed])
        expected = F.normalize(encode(part), dim=-1)
        furthest = max(furthest, ((found - expected).abs().amax() / expected.abs().amax()).item())
    print(f"{name}: {len(captions)} captions within {furthest:.1e} of the largest value", flush=True)
    assert len(captions) >= 950 and furthest < 1e-4, name


def compare(name, impasto, path, pictures, image, text, scale):
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = scale * image @ text.T
    texts = [flag for caption in CAPTIONS for flag in ("--text", caption)]
    images = [flag for file in pictures for flag in ("--image", str(file))]
    printed = program(impasto, "embed", "--clip", str(path), *texts, *images)["embeddings"]
    found = torch.tensor([each["embedding"] for each in printed])
    expected = torch.cat([text, image])
    embeddings = ((found - expected).abs().amax() / expected.abs().amax()).item()
    furthest = 0.0
    for row, file in zip(logits, pictures):
        scored = program(impasto, "score", "--clip", str(path), "--image", str(file), *CAPTIONS)["scores"]
        for each in scored:
            furthest = max(furthest, abs(each["logit"] - row[CAPTIONS.index(each["what"])].item()))
    print(f"{name}: embeddings within {embeddings:.1e} of the largest value, logits within {furthest:.1e} (they span {logits.min():.2f} to {logits.max():.2f})", flush=True)
    assert embeddings < 1e-4 and furthest < 1e-3, name


def main(impasto):
    work = Path(tempfile.mkdtemp(dir=Path.cwd()))
    try:
        pictures = [work / "0.png", work / "1.png"]
        for seed, file in enumerate(pictures):
            picture(SIZE, SIZE, seed).save(file)
        from PIL import Image

        pixels = torch.stack([image_transform(SIZE, is_train=False)(Image.open(file)) for file in pictures])
        with torch.no_grad():
            openai = SimpleTokenizer()
            for name, old in [("transformers, safetensors", False), ("transformers, .bin", True)]:
                folder = work / ("bin" if old else "safetensors")
                folder.mkdir()
                model = randomise(CLIPModel(CLIPConfig()), 1)
                texts = Texts.__new__(Texts)
                names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
                texts.vocabulary = {names.get(word, word): id for word, id in openai.encoder.items()}
                texts.merges = list(openai.bpe_ranks)
                texts.save_old_files(folder)
                if old:
                    torch.save(model.state_dict(), folder / "pytorch_model.bin")
                    model.config.save_pretrained(folder)
                else:
                    model.save_pretrained(folder)
                from transformers import CLIPTokenizer

                tokenizer = CLIPTokenizer(vocab=texts.vocabulary, merges=texts.merges)
                inputs = tokenizer(CAPTIONS, return_tensors="pt", padding=True)
                image = model.visual_projection(model.vision_model(pixels).pooler_output)
                text = model.text_projection(model.text_model(**inputs).pooler_output)
                compare(name, impasto, folder, pictures, image, text, model.logit_scale.exp())
                if old:
                    encode = lambda part: model.text_projection(model.text_model(**tokenizer(part, return_tensors="pt", padding=True)).pooler_output)
                    compare_captions(name, impasto, folder, encode, lambda caption: tokenizer(caption)["input_ids"])
                shutil.rmtree(folder)
            vision = dict(layers=12, width=768, patch_size=32, image_size=SIZE)
            sizes = dict(context_length=77, vocab_size=49408, width=512, heads=8, layers=12)
            for name, quick_gelu in [("open_clip, ViT-B-32", False), ("OpenAI's archive, fp16", True)]:
                folder = work / "open"
                folder.mkdir()
                shutil.copy(MERGES, folder)
                model = randomise(CLIP(512, CLIPVisionCfg(**vision), CLIPTextCfg(**sizes), quick_gelu=quick_gelu), 2)
                if quick_gelu:
                    # Rounded to half precision, computed in single.
                    convert_weights_to_fp16(model)
                    model.float()
                inputs = openai(CAPTIONS, context_length=77)
                image, text = model.encode_image(pixels), model.encode_text(inputs)
                scale = model.logit_scale.exp().clone()
                path = folder
                if quick_gelu:
                    path = folder / "ViT-B-32.pt"
                    model.forward = lambda image, text: model.encode_image(image) @ model.encode_text(text).T
                    del model.context_length, model.vocab_size
                    for buffer, value in [("input_resolution", SIZE), ("context_length", 77), ("vocab_size", 49408)]:
                        model.register_buffer(buffer, torch.tensor(value))
                    traced = torch.jit.trace(model, (torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 77, dtype=torch.long)), check_trace=False)
                    convert_weights_to_fp16(model)
                    traced.save(str(path))
                else:
                    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
                    config = dict(model_cfg=dict(embed_dim=512, vision_cfg=vision, text_cfg=sizes), preprocess_cfg=dict(mean=list(open_clip.OPENAI_DATASET_MEAN), std=list(open_clip.OPENAI_DATASET_STD)))
                    (folder / "open_clip_config.json").write_text(json.dumps(config))
                compare(name, impasto, path, pictures, image, text, scale)
                if not quick_gelu:
                    encode = lambda part: model.encode_text(openai(part, context_length=77))
                    compare_captions(name, impasto, path, encode, lambda caption: [0, *openai.encode(caption), 0])
                shutil.rmtree(folder)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(str(Path(sys.argv[1]).resolve()))
