"""Times drawing and inpainting with an aMUSEd in diffusers, in turn with `impasto generate` and `impasto edit`.

    python reference/bench_amused.py FOLDER IMPASTO [--rounds 2] [--dtype float32] [--model MODEL ...] [--precision P ...]

FOLDER is a model of `write_amused_shapes.py` or a published one; IMPASTO the program. Both take 12 passes with guidance 10
for one picture, on two threads of the CPU; the hole is the middle quarter. Seconds are without loading. On a machine that
others use, compare the processor's seconds, impasto's of which are of the whole command.
"""

import argparse
import json
import resource
import subprocess
import time
import warnings

import numpy as np
import torch
from diffusers import AmusedInpaintPipeline, AmusedPipeline
from PIL import Image

PROMPT = "a red turtle on a hat"


def impasto(program, arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([program, *arguments, "--seed", "1", "--json", "--device", "cpu", "--threads", "2"], check=True, capture_output=True)
    after, report = resource.getrusage(resource.RUSAGE_CHILDREN), json.loads(ran.stdout)
    timings = report.get("timings")
    seconds = report["seconds"] if timings is None else timings["text"] + timings["decode"] + timings["pixels"]
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(work):
    start, processor = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work()
    return time.perf_counter() - start, time.process_time() - processor


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", action="append", help="what impasto draws with, FOLDER if not given")
    parser.add_argument("--precision", action="append", help="in what impasto has the weights, f32 if not given")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    pipeline = AmusedPipeline.from_pretrained(arguments.folder, torch_dtype=getattr(torch, arguments.dtype), variant="fp16")
    pipeline.set_progress_bar_config(disable=True)
    size = pipeline.transformer.config.sample_size * 16
    picture = np.random.default_rng(1).integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8)
    picture = Image.fromarray(picture).resize((size, size), Image.BILINEAR)
    mask = Image.new("L", (size, size))
    mask.paste(255, (size // 4, size // 4, 3 * size // 4, 3 * size // 4))
    picture.save("/tmp/amused-bench.png")
    area = f"{size // 4},{size // 4},{size // 2},{size // 2}"
    generate = ["generate", PROMPT, "--output", "/tmp/amused-drawn.png"]
    edit = ["edit", "/tmp/amused-bench.png", "--box", area, "--prompt", PROMPT, "--output", "/tmp/amused-edited.png"]
    for _ in range(arguments.rounds):
        for what, command in ("draw", generate), ("inpaint", edit):
            if what == "draw":
                reference = timed(lambda: pipeline(PROMPT))
            else:
                parts = {name: getattr(pipeline, name) for name in ("vqvae", "tokenizer", "text_encoder", "transformer", "scheduler")}
                inpaint = AmusedInpaintPipeline(**parts)
                inpaint.set_progress_bar_config(disable=True)
                reference = timed(lambda: inpaint(PROMPT, picture, mask))
                pipeline.scheduler.register_to_config(masking_schedule="cosine")
            print(f"{what}, diffusers {arguments.dtype}: {reference[0]:.1f} s, processor {reference[1]:.1f} s", flush=True)
            for model in arguments.model or [arguments.folder]:
                for precision in arguments.precision or ["f32"]:
                    seconds, processor = impasto(arguments.program, [*command, "--model", model, "--precision", precision])
                    print(f"{what}, {precision}: {seconds:.1f} s, processor {processor:.1f} s; {reference[0] / seconds:.2f} and {reference[1] / processor:.2f} times as quick", flush=True)
