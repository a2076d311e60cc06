"""Golden nets of Hugging Face transformers: tensors by formula, the clips they saw, what the originals gave.

And the same for nets without a manifest: `drawn` finds the reference's names by reading a conversion table backwards.
"""

import importlib.util
import json
import re

import jax
import numpy as np
from flax import traverse_util

from vidjax import convert, models


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


def manifest(table, target):
    """{reference's name: zeros of its shape} of every leaf of `target` (nested ShapeDtypeStructs)."""
    found = {}
    for path, leaf in traverse_util.flatten_dict(target, sep="/").items():
        ((name, way),) = [(name, way) for source, ours, way in table if (name := name_of(path, source, ours))]
        inverse = (convert.TRANSFORMS[way] if isinstance(way, str) else way)[2] if way else lambda x: x
        found[name] = inverse(np.zeros(leaf.shape, np.float32))
    return found


def name_of(path, source, ours):
    """The name that the regex `source` gives for our `path`, or None where the rule is for others."""
    literals = re.split(r"\\(\d)", ours or "")  # group numbers are at odd places
    pattern = "".join("([^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(literals))
    if not (match := re.fullmatch(pattern, path)):
        return None
    groups = dict(zip(literals[1::2], match.groups(), strict=True))
    parts = re.split(r"(\([^()]*\))", source)  # groups are at odd places
    name = "".join(groups[str(i // 2 + 1)] if i % 2 else part for i, part in enumerate(parts)).replace("\\.", ".")
    return name if re.fullmatch(source, name) else None


def drawn(golden, table, model, video, prepare=lambda x: x, restore=lambda x: x):
    """Variables of `model` from tensors that the golden formula draws for the reference's names."""
    shapes = models.shapes(model, video.shape)
    names = restore(manifest(table, shapes))
    draw = formula(golden).torch_tensor
    return convert.convert(table, prepare({name: draw(name, x.shape) for name, x in names.items()}), shapes)
