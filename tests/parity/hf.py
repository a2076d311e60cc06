"""Golden nets of Hugging Face transformers: tensors by formula, the clips they saw, what the originals gave.

And the same for nets without a manifest: `drawn` finds the reference's names by reading a conversion table backwards.
"""

import importlib.util
import json

import jax
import numpy as np

from vidjax import convert, models
from vidjax.convert import export


def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clips(golden, frames, size=112):
    """The two golden clips: float32 (2, frames, size, size, 3) in [0, 1], their middle."""
    edge = (112 - size) // 2
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as arrays:
        return arrays["clips"][:, :frames, edge : edge + size, edge : edge + size].astype(np.float32) / 255


def run(golden, arch):
    """(logits, activations, {name: golden array}) of a golden net; its references saw (x - 0.45) / 0.225."""
    meta = json.loads((golden / "expected" / "ref_hf.json").read_text())[arch]
    draw = formula(golden).torch_tensor
    tensors = {name: draw(name, shape, meta.get("gamma", (0.5, 1.5))) for name, shape in meta["manifest"]}
    variables = convert.from_reference("hf", arch, tensors)
    model = models.for_reference("hf", arch, 16).clone(mean=0.45, std=0.225)
    video = clips(golden, meta["input"]["T"])
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    with np.load(golden / "expected" / "ref_hf.npz") as arrays:
        expected = {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"{arch}/")}
    return logits, out, expected


def drawn(golden, table, model, video, prepare=lambda x: x, restore=lambda x: x):
    """Variables of `model` from tensors that the golden formula draws for the reference's names."""
    shapes = models.shapes(model, video.shape)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    names = restore(export.invert(table, zeros, "the reference"))
    draw = formula(golden).torch_tensor
    return convert.convert(table, prepare({name: draw(name, x.shape) for name, x in names.items()}), shapes)
