"""Writes small files of PyTorch in each container that `crates/impasto/src/checkpoint/pytorch` reads.

    python reference/write_pytorch_goldens.py

`expected.json` says what is in them: for each tensor its shape and its numbers.
"""

import collections
import json
from pathlib import Path

import torch

OUT = Path(__file__).parent.parent / "crates/impasto/src/checkpoint/pytorch/goldens"


def tree():
    torch.manual_seed(1)
    base = torch.randn(4, 6)
    shared = torch.arange(12, dtype=torch.float32)
    weights = collections.OrderedDict(
        [
            ("f32", base.clone()),
            ("f16", base.half()),
            ("bf16", base.bfloat16()),
            ("f64", base.double()),
            ("i64", torch.tensor([[-3, 1 << 33], [5, 7]])),
            ("i32", torch.tensor([-70000, 2], dtype=torch.int32)),
            ("i16", torch.tensor([-300, 2], dtype=torch.int16)),
            ("i8", torch.tensor([-3, 2], dtype=torch.int8)),
            ("u8", torch.tensor([250, 2], dtype=torch.uint8)),
            ("bool", torch.tensor([True, False])),
            ("scalar", torch.tensor(2.5)),
            ("empty", torch.zeros(0, 3)),
            ("transposed", base.t()),
            ("part", shared[4:10].view(2, 3)),
            ("whole", shared),
            ("columns", base[:, 1::2]),
            ("parameter", torch.nn.Parameter(base[0].clone())),
        ]
    )
    return {
        "epoch": 7,
        "name": "caf\u00e9",
        "rate": 0.5,
        "flags": [True, None, (1, 2, 3, -4, 70000, 1 << 40)],
        "size": torch.Size([2, 3]),
        "weights": weights,
        "optimiser": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 1e-3}]},
    }


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("steps", torch.tensor([4, 5]))
        self.label = "inner"
        self.sizes = [1, 2]

    def forward(self, x):
        return self.linear(x) * 0.5


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.Sequential(Inner(), torch.nn.LayerNorm(2))
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.blocks(x) * self.scale


def numbers(tensors):
    return {
        name: {"shape": list(tensor.shape), "values": tensor.detach().double().flatten().tolist()}
        for name, tensor in tensors.items()
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    torch.save(tree(), OUT / "archive.pt")
    torch.save(tree(), OUT / "protocol_4.pt", pickle_protocol=4)
    torch.save(tree(), OUT / "row.pt", _use_new_zipfile_serialization=False)
    torch.manual_seed(2)
    # Half precision with a few parts in single, as OpenAI's archives are.
    module = Outer().half()
    module.blocks[1].float()
    torch.jit.script(module).save(str(OUT / "torchscript.pt"))
    expected = {"weights": numbers(tree()["weights"]), "torchscript": numbers(module.state_dict())}
    (OUT / "expected.json").write_text(json.dumps(expected))
