"""slow equals pytorchvideo's nets with golden weights, and tiny nets in training equal NumPy."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import slow

TINY = {"depths": (1, 2), "widths": (4, 6), "stem_width": 5, "num_classes": 5, "dropout": 0.0}
TINY |= {"stem_pool": False}
CASES = {  # variant: fields that have one value per stage
    "i3d_r50": {"temporal": ((3,), (1, 3)), "strides": ((1, 1), (1, 2))},
    "r2plus1d_r50": {"temporal": ((1,), (1,)), "strides": ((1, 2), (2, 2))},
}


def tiny(variant):
    return models.build({"name": "slow", "variant": variant, **TINY, **CASES[variant]})


def tiny_video():
    return np.random.RandomState(0).rand(4, 6, 20, 20, 3).astype(np.float32)


def block(net, name, x, features, temporal, stride, core):
    """A bottleneck of pytorchvideo's; its shortcut is `branch1_*`."""
    inner, (st, s), one = f"{name}.branch2", stride, (1, 1, 1)
    y = net.conv(f"{inner}.conv_a", x, features, (temporal, 1, 1), one)
    y = np.maximum(net.norm(f"{inner}.norm_a", y), 0)
    if core == "2plus1d":
        y = net.conv(f"{inner}.conv_b.conv_t", y, features, (3, 1, 1), (st, 1, 1))
        y = np.maximum(net.norm(f"{inner}.conv_b.norm", y), 0)
        y = net.conv(f"{inner}.conv_b.conv_xy", y, features, (1, 3, 3), (1, s, s))
    else:
        y = net.conv(f"{inner}.conv_b", y, features, (1, 3, 3), (st, s, s))
    y = np.maximum(net.norm(f"{inner}.norm_b", y), 0)
    y = net.norm(f"{inner}.norm_c", net.conv(f"{inner}.conv_c", y, 4 * features, one, one))
    if stride != (1, 1) or x.shape[1] != 4 * features:
        x = net.norm(f"{name}.branch1_norm", net.conv(f"{name}.branch1_conv", x, 4 * features, one, (st, s, s)))
    return np.maximum(x + y, 0)


def reference(net, video, variant):
    """Logits of the tiny net under pytorchvideo's names; a temporal pool after stage 1 of I3D is block 2."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    stem, pooled = ((5, 7, 7), True) if variant == "i3d_r50" else ((1, 7, 7), False)
    x = np.maximum(net.norm("blocks.0.norm", net.conv("blocks.0.conv", x, TINY["stem_width"], stem, (1, 2, 2))), 0)
    case, number = CASES[variant], 1
    for i, (depth, n) in enumerate(zip(TINY["depths"], TINY["widths"], strict=True)):
        for j in range(depth):
            temporal, stride = case["temporal"][i], (1, 1) if j else case["strides"][i]
            name, core = f"blocks.{number}.res_blocks.{j}", "2plus1d" if variant.startswith("r2") else "2d"
            x = block(net, name, x, n, temporal[j % len(temporal)], stride, core)
        number += 2 if pooled and i == 0 else 1
        if pooled and i == 0:
            x = np.maximum(x[:, :, ::2], x[:, :, 1::2])
    return net.linear(f"blocks.{number}.proj", x.mean((2, 3, 4)), TINY["num_classes"])


def table(variant):
    """The conversion table of the tiny net, which has two stages."""
    return slow.stage_table((1, 3) if variant == "i3d_r50" else (1, 2), factored=variant.startswith("r2"))


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# First logits of the first clip, from pytorchvideo run in PyTorch 2.13 on the golden formula's weights and clips, with
# heads that pool the whole map and without the softmax that r2plus1d_r50 ends in.
LOGITS = {
    "i3d_r50": [1.2203807, 0.16253027, 0.01788603, -0.76112133],
    "r2plus1d_r50": [0.10004091, -0.13928115, -0.4299236, 0.08021498],
}


@pytest.mark.parametrize("arch", ["slow_r50", "c2d_r50", "i3d_r50", "r2plus1d_r50"])
def test_pytorchvideo(golden, formula, arch):
    meta = json.loads((golden / "expected" / "ref_pytorchvideo.json").read_text())[arch]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as clips:
        video = clips["clips"][:, : meta["input"]["T"]].astype(np.float32) / 255
    variables = convert.from_reference("pytorchvideo", arch, tensors)
    model = models.for_reference("pytorchvideo", arch, meta["num_classes"])
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    with np.load(golden / "expected" / "ref_pytorchvideo.npz") as arrays:
        if arch in LOGITS:
            assert f"{arch}/out" not in arrays  # else compare with that
            near(logits[0, :4], np.array(LOGITS[arch]), "logits")
        else:
            near(logits, arrays[f"{arch}/out"], "logits")


@pytest.mark.parametrize("variant", CASES)
def test_numpy(variant):
    model, video, net = tiny(variant), tiny_video(), Torch(train=True)
    expected = reference(net, video, variant)
    shapes = models.shapes(model, video.shape)
    variables = convert.convert(table(variant), net.tensors, shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    after = convert.convert(table(variant), net.state_dict(), shapes)
    stats = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after["batch_stats"]), strict=True)
    for (path, value), wanted in stats:
        near(value, wanted, jax.tree_util.keystr(path))


@pytest.mark.parametrize(("variant", "expected"), [("i3d_r50", 1.03724607), ("r2plus1d_r50", 1.45062442)])
def test_pinned_step(variant, expected):
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video, net = tiny(variant), tiny_video(), Torch(train=True)
    reference(net, video, variant)
    variables = convert.convert(table(variant), net.tensors, models.shapes(model, video.shape))
    assert loss_after_step(model, variables, video) == pytest.approx(expected, rel=1e-5)
