"""video_swin equals torchvision: swin3d_t with golden weights, a tiny net at sizes that windows do not divide."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import near

from vidjax import convert, models
from vidjax.models import video_swin

TINY = {"width": 12, "depths": (2, 2), "heads": (2, 4), "window": (4, 3, 3), "mean": 0.45, "std": 0.225}

# Logits of both clips, cut to (T, H, W) from above and left, of torchvision 0.29's SwinTransformer3d with these fields
# in PyTorch 2.13, on the golden formula's weights: windows padded, shifted and, in the last, shrunk in time.
LOGITS = {
    (20, 64, 48): [
        [-0.17414115, -0.14705835, -0.64332289, -0.75405920, -1.12648332],
        [0.08866487, -0.00105892, 0.79726326, 0.86442447, -0.83158523],
    ],
    (7, 50, 61): [
        [-0.08838371, 0.24021886, -0.06876516, -0.12724048, -1.03743386],
        [-0.22791018, 0.09716864, 0.97892171, 0.83109343, -0.54552329],
    ],
    (3, 26, 30): [
        [-0.69974601, 0.43893763, -1.37167740, -0.06820654, -0.81527764],
        [-0.18433313, 0.00007259, 1.57694793, 1.17103445, -0.02927939],
    ],
}


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clips(golden, t, h, w):
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as arrays:
        return arrays["clips"][:, :t, :h, :w].astype(np.float32) / 255


def shapes(model, source):
    """{name: shape} of all tensors in `source`, as its code names and makes them."""
    stages, width, last = len(model.depths), model.width, model.width * 2 ** (len(model.depths) - 1)
    prefix = "" if source == "torchvision" else "backbone."
    fc1, fc2 = ("mlp.0", "mlp.3") if source == "torchvision" else ("mlp.fc1", "mlp.fc2")
    norm, head = {
        "torchvision": ("norm", "head"),
        "video_swin": ("backbone.norm", "cls_head.fc_cls"),
        "mmaction2": ("backbone.norm3", "cls_head.fc_cls"),
    }[source]
    found = {f"{prefix}patch_embed.proj.weight": (width, 3, *model.patch), f"{prefix}patch_embed.norm.weight": (width,)}
    found |= {f"{norm}.weight": (last,), f"{head}.weight": (model.num_classes, last)}
    rows = np.prod([2 * w - 1 for w in model.window])
    for i, (depth, heads) in enumerate(zip(model.depths, model.heads, strict=True)):
        n = width * 2**i
        for j in range(depth):
            at = f"features.{2 * i}.{j}" if source == "torchvision" else f"backbone.layers.{i}.blocks.{j}"
            found |= {f"{at}.norm1.weight": (n,), f"{at}.norm2.weight": (n,), f"{at}.attn.proj.weight": (n, n)}
            found |= {f"{at}.attn.qkv.weight": (3 * n, n), f"{at}.attn.relative_position_bias_table": (rows, heads)}
            found |= {f"{at}.{fc1}.weight": (4 * n, n), f"{at}.{fc2}.weight": (n, 4 * n)}
        if i + 1 < stages:
            at = f"features.{2 * i + 1}" if source == "torchvision" else f"backbone.layers.{i}.downsample"
            found |= {f"{at}.norm.weight": (4 * n,), f"{at}.reduction.weight": (2 * n, 4 * n)}
    biased = [name for name in found if name.endswith(".weight") and "reduction" not in name]
    return found | {name.removesuffix("weight") + "bias": found[name][:1] for name in biased}


def test_torchvision(golden, formula):
    meta = json.loads((golden / "expected" / "ref_torchvision.json").read_text())["swin3d_t"]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    model = models.for_reference("torchvision", "swin3d_t", meta["num_classes"]).clone(mean=0.45, std=0.225)
    assert {name: tuple(shape) for name, shape in meta["manifest"]} == shapes(model, "torchvision")
    variables = convert.from_reference("torchvision", "swin3d_t", tensors)
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, clips(golden, 8, 112, 112))
    with np.load(golden / "expected" / "ref_torchvision.npz") as arrays:
        near(logits, arrays["swin3d_t/logits"], "logits")
    sizes = {"stage1": (4, 28, 28, 96), "stage2": (4, 14, 14, 192), "stage3": (4, 7, 7, 384)}
    sizes |= {"stage4": (4, 4, 4, 768)}  # seven rows are merged as eight
    assert {name: out[name].shape[1:] for name in sizes} == sizes


@pytest.mark.parametrize("shape", LOGITS)
def test_sizes_that_windows_do_not_divide(golden, formula, shape):
    model = video_swin.Model(**TINY, num_classes=5)
    tensors = {name: formula.torch_tensor(name, shape) for name, shape in shapes(model, "torchvision").items()}
    video = clips(golden, *shape)
    variables = convert.convert(video_swin.TORCHVISION, tensors, models.shapes(model, video.shape))
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    near(logits, np.array(LOGITS[shape]), "logits")


@pytest.mark.parametrize("key", video_swin.REFERENCES)
def test_all_names_of_the_sources_convert(key):
    row = video_swin.REFERENCES[key]
    model = models.for_reference(*key, 7)
    names = shapes(model, key[0])
    tensors = {name: np.broadcast_to(np.float32(1), shape) for name, shape in names.items()}
    buffers = row["constants"](model)
    assert len(buffers) == sum(model.depths)
    variables = convert.from_reference(*key, tensors | buffers)
    assert len(jax.tree.leaves(variables)) == len(names)


@pytest.mark.parametrize("window", [(8, 7, 7), (2, 3, 4)])
def test_relative_index_is_that_of_the_references(window):
    """The buffer as the references define it, position by position."""
    index, at = video_swin.relative_index(window), list(np.ndindex(*window))
    assert index.shape == (len(at), len(at))
    for p, q in np.random.default_rng(0).integers(len(at), size=(200, 2)):
        t, h, w = (a - b + n - 1 for a, b, n in zip(at[p], at[q], window, strict=True))
        assert index[p, q] == (t * (2 * window[1] - 1) + h) * (2 * window[2] - 1) + w
