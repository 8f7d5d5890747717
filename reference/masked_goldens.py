"""What the scripts that write goldens of masked transformers (aMUSEd, Meissonic) share: impasto's random numbers in the
place of a scheduler's, random weights, a small tokenizer."""

import json
import shutil
from pathlib import Path
from unittest import mock

import torch
from transformers import CLIPTokenizer

SOURCES = Path(__file__).parent.parent / "crates/impasto/src"
CAPTIONS = ["a red turtle on a hat", "TWO cats, isn't it?"]
START, END = "<|startoftext|>", "<|endoftext|>"
STEPS = 5


# --- random numbers ---------------------------------------------------------------------------------------


def key_of(seed):
    """`SeedableRng::seed_from_u64` of the crate rand_core: eight words of a PCG."""
    words, state = [], seed
    for _ in range(8):
        state = (state * 6364136223846793005 + 11634580027462260723) % 2**64
        word, rotation = (((state >> 18) ^ state) >> 27) % 2**32, state >> 59
        words.append((word >> rotation | word << (32 - rotation)) % 2**32)
    return words


def chacha8(key, counter, stream):
    """A block of sixteen words (`ChaCha8Rng` of the crate rand_chacha)."""
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *key, counter, 0, stream % 2**32, stream >> 32]
    state = list(start)

    def quarter(a, b, c, d):
        for p, q, r, turn in (a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7):
            state[p] = (state[p] + state[q]) % 2**32
            word = state[r] ^ state[p]
            state[r] = (word << turn | word >> (32 - turn)) % 2**32

    for _ in range(4):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(a + b) % 2**32 for a, b in zip(state, start)]


def uniforms(seed, position, step):
    """The two numbers of a position in a pass: words 4 · step to 4 · step + 3 of its stream."""
    return pair(seed, position, step)


def pair(seed, stream, number):
    """Two numbers of a stream, of words 4 · number to 4 · number + 3."""
    block = chacha8(key_of(seed), 4 * number // 16, stream)
    words = block[4 * number % 16 :][:4]
    return [((low | high << 32) >> 11) * 2**-53 for low, high in (words[:2], words[2:])]


class Draws:
    """In the place of the scheduler's random numbers: impasto's of a seed, or, without one, no chance at all."""

    def __init__(self, scheduling, seed, steps, positions):
        """`scheduling` is the module of the scheduler."""
        self.scheduling, self.table, self.step = scheduling, None, 0
        if seed is not None:
            rows = [[uniforms(seed, position, step) for position in range(positions)] for step in range(steps)]
            self.table = torch.tensor(rows, dtype=torch.float64)

    def multinomial(self, probs, count, generator=None):
        best = probs.topk(2).values
        if self.table is None:
            assert (best[:, 0] - best[:, 1]).min() > 1e-5, "too near a tie to compare"
            return probs.argmax(-1, keepdim=True)
        reached = probs.double().cumsum(-1)
        uniform = self.table[self.step, :, :1] * reached[:, -1:]
        assert (reached - uniform).abs().min() > 1e-7, "too near a border to compare"
        return (reached <= uniform).sum(-1, keepdim=True)

    def random_top(self, mask_len, probs, temperature=1.0, generator=None):
        """`mask_by_random_topk` with the noise of the table; ends a step."""
        noise = torch.zeros_like(probs)
        if self.table is not None:
            uniform = self.table[self.step, :, 1].clamp(1e-20)
            noise = (-(-uniform.log()).clamp(1e-20).log()).view(probs.shape)
        self.step += 1
        confidence = probs.double().clamp(1e-20).log() + temperature * noise
        order = confidence.sort(dim=-1).values
        cut_off = order.gather(1, mask_len.long())
        below = order.gather(1, mask_len.long() - 1)
        assert (cut_off - below).min() > 1e-4, "too near a tie to compare"
        return confidence < cut_off

    def __enter__(self):
        self.patches = [mock.patch.object(torch, "multinomial", self.multinomial), mock.patch.object(self.scheduling, "mask_by_random_topk", self.random_top)]
        for patch in self.patches:
            patch.start()

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()


# --- models -----------------------------------------------------------------------------------------------


def randomise(model):
    """Random weights large enough that every part shows in the figures; of 16 bits, so that files are small."""
    for name, value in sorted(model.state_dict().items()):
        if not value.is_floating_point():
            continue
        if "norm" in name and name.endswith("weight"):
            value.copy_(1 + 0.2 * torch.randn_like(value))
        elif "channelwise_norm" in name:
            value.normal_(std=0.3)
        elif value.ndim == 1:
            value.normal_(std=0.1)
        elif "embed" in name:
            value.normal_(std=0.6)
        else:
            value.normal_(std=1.2 / value[0].numel() ** 0.5)
        value.copy_(value.half())
    return model.eval()


def tokenizer_of(folder, length, pad):
    """The small CLIP tokenizer of the other goldens."""
    source = SOURCES / "import/clip/goldens/hugging_face_bin"
    vocabulary = json.loads((source / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (source / "merges.txt").read_text().splitlines()[1:]]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, pad_token=pad)
    # The files of the published folders; transformers 5 writes others.
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / name, folder / name)
    config = {"model_max_length": length, "pad_token": pad, "bos_token": START, "eos_token": END, "unk_token": END, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    token = {"content": START, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {"bos_token": token, "eos_token": {**token, "content": END}, "pad_token": pad, "unk_token": {**token, "content": END}}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    return tokenizer


# --- figures ----------------------------------------------------------------------------------------------


def schedules(Scheduler):
    """How many ids are masked after each step, by the scheduler, for many numbers of steps and ids."""
    rows = []
    for schedule in "cosine", "linear":
        for side in 4, 6, 16, 32:
            for known in sorted({0, 1, side * side // 3, side * side - 2}):
                for steps in 1, 2, 3, 5, 8, 12, 16, 24:
                    scheduler = Scheduler(mask_token_id=3, masking_schedule=schedule)
                    scheduler.set_timesteps(steps, (2, 0))
                    ids = torch.full((1, side, side), 3)
                    ids.view(-1)[:known] = 0
                    start = (ids == 3).sum() / ids.numel()
                    logits = torch.zeros(1, 2, side, side)
                    masked = [int((ids == 3).sum())]
                    for timestep in scheduler.timesteps:
                        ids = scheduler.step(logits, timestep, ids, starting_mask_ratio=start).prev_sample
                        masked.append(int((ids == 3).sum()))
                    rows.append({"schedule": schedule, "positions": side * side, "steps": steps, "masked": masked})
    return rows


def with_a_seed(write, name, **settings):
    """`write` with the first seed whose figures can be compared."""
    for seed in range(100):
        try:
            return write(name, seed, **settings)
        except AssertionError as error:
            print(f"{name}, seed {seed}: {error}")
    raise RuntimeError(f"{name}: no seed whose figures can be compared")
