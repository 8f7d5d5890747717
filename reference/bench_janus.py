"""Times drawing with a Janus in transformers, in turn with `impasto generate`, and prints the ratio.

    python reference/bench_janus.py FOLDER IMPASTO [--steps 32] [--rounds 2] [--dtype bfloat16] [-- IMPASTO'S OPTIONS]

FOLDER is a model of `write_janus_shapes.py` or a published one in the Hugging Face form; IMPASTO the program. transformers
takes some steps of the loop of `generate(generation_mode="image")`, with a cache and both rows of guidance; impasto draws
the whole picture, and the time of its 576 steps with reading the prompt (`timings.decode` of `--json`) is taken.
"""

import argparse
import json
import subprocess
import time

import torch
from transformers import DynamicCache, JanusForConditionalGeneration


def steps(model, count, prompt=24):
    rows = torch.randint(0, 300, (2, prompt))
    cache = DynamicCache(config=model.config.text_config)
    x, times = model.get_input_embeddings()(rows), []
    for _ in range(count + 1):
        start = time.perf_counter()
        states = model.model.language_model(inputs_embeds=x, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        logits = model.model.generation_head(states).float()
        probs = (logits[1] + 5 * (logits[0] - logits[1])).softmax(-1)
        token = torch.multinomial(probs, 1)
        x = model.prepare_embeddings_for_image_generation(token.repeat(2, 1))
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[count // 2]


def impasto(program, options):
    """Seconds of the steps, and of the whole command."""
    command = [program, "generate", "a red turtle on a hat", "--seed", "1", "--json", "--output", "/tmp/janus-bench.png", *options]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True)
    return json.loads(done.stdout)["timings"]["decode"], time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("program")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--model", action="append", help="what impasto draws with, FOLDER if not given")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    model = JanusForConditionalGeneration.from_pretrained(arguments.folder, dtype=getattr(torch, arguments.dtype)).eval()
    for _ in range(arguments.rounds):
        reference = steps(model, arguments.steps)
        print(f"transformers {arguments.dtype}: {1000 * reference:.0f} ms a step", flush=True)
        for folder in arguments.model or [arguments.folder]:
            steps_of_all, whole = impasto(arguments.program, ["--model", folder, "--device", "cpu"])
            step = steps_of_all / 576
            print(f"{folder}: {1000 * step:.0f} ms a step, {reference / step:.2f} times as quick; {whole:.1f} s the whole command", flush=True)
