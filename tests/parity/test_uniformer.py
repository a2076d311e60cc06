"""uniformer equals the authors' code with golden formula weights; every table is whole."""

import importlib.util

import jax
import numpy as np
import pytest
from reference import near

from vidjax import convert, models
from vidjax.models import uniformer

# First logits of both clips, all that (T, H, W) leave of them from above and left, from Sense-X/UniFormer's class
# Uniformer in PyTorch 2.13 on the golden formula's weights.
LOGITS = {
    ("uniformer_small", (8, 64, 64), 16): (
        [[3.6192231, -1.7648937, 1.0964754, 0.69793123], [3.2807395, -1.5197571, 0.50575918, 1.0516233]],
        4.018277,  # the largest of all
    ),
}


def shapes(model, source):
    """{name: shape} of all tensors in `source`, as its code names and makes them."""
    prefix, head = ("", "head") if source == "sense_x" else ("backbone.", "cls_head.fc_cls")
    found = {f"{head}.weight": (model.num_classes, model.widths[-1]), f"{prefix}norm.weight": (model.widths[-1],)}
    norms, before = [f"{prefix}norm"], 3
    for i, (depth, d) in enumerate(zip(model.depths, model.widths, strict=True), 1):
        kernel = (3, 4, 4) if i == 1 else (1, 2, 2)
        found |= {
            f"{prefix}patch_embed{i}.proj.weight": (d, before, *kernel),
            f"{prefix}patch_embed{i}.norm.weight": (d,),
        }
        one, before = (1, 1, 1) if i < 3 else (), d
        for j in range(depth):
            at = f"{prefix}blocks{i}.{j}"
            found |= {f"{at}.pos_embed.weight": (d, 1, 3, 3, 3), f"{at}.norm1.weight": (d,), f"{at}.norm2.weight": (d,)}
            found |= {f"{at}.mlp.fc1.weight": (4 * d, d, *one), f"{at}.mlp.fc2.weight": (d, 4 * d, *one)}
            if i < 3:
                found |= {f"{at}.conv{n}.weight": (d, d, 1, 1, 1) for n in (1, 2)} | {
                    f"{at}.attn.weight": (d, 1, 5, 5, 5)
                }
                norms += [f"{at}.norm1", f"{at}.norm2"]
            else:
                found |= {f"{at}.attn.qkv.weight": (3 * d, d), f"{at}.attn.proj.weight": (d, d)}
    found |= {name.removesuffix("weight") + "bias": shape[:1] for name, shape in found.items()}
    return found | {f"{name}.running_{stat}": found[f"{name}.weight"] for name in norms for stat in ("mean", "var")}


@pytest.mark.parametrize(("arch", "shape", "classes"), LOGITS)
def test_sense_x(golden, arch, shape, classes):
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)
    model = models.for_reference("sense_x", arch, classes)
    tensors = {name: formula.torch_tensor(name, shape) for name, shape in shapes(model, "sense_x").items()}
    t, h, w = shape
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as arrays:
        video = arrays["clips"][:, :t, :h, :w].astype(np.float32) / 255
    variables = convert.from_reference("sense_x", arch, tensors)
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    expected, largest = LOGITS[arch, shape, classes]
    assert np.abs(logits).max() == pytest.approx(largest, rel=1e-5)
    near(logits[:, :4], np.array(expected), "logits")
    assert out["stage3"].shape == (2, 4, 4, 4, 320)


@pytest.mark.parametrize("key", uniformer.REFERENCES)
def test_all_names_of_the_sources_convert(key):
    model = models.for_reference(*key, 7)
    names = shapes(model, key[0])
    tensors = {name: np.broadcast_to(np.float32(1), shape) for name, shape in names.items()}
    counts = {
        name.replace("running_mean", "num_batches_tracked"): np.int64(3) for name in names if "running_mean" in name
    }
    variables = convert.from_reference(*key, tensors | counts)
    assert len(jax.tree.leaves(variables)) == len(names)
