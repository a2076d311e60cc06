"""csn equals its references: pytorchvideo's nets with golden weights, and tiny nets in training against NumPy."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import csn

TINY = {"depths": (1, 2), "widths": (4, 6), "strides": (1, 2), "stem_width": 5, "mean": 0.45, "std": 0.225}
TINY |= {"expansion": 2, "num_classes": 5}


def tiny(variant):
    return models.build({"name": "csn", "variant": variant, **TINY})


def tiny_video():
    return np.random.RandomState(0).rand(4, 6, 20, 20, 3).astype(np.float32)


def unit(net, name, x, features, kernel, stride):
    """A convolution of mmaction2's and its batch norm."""
    return net.norm(f"{name}.bn", net.conv(f"{name}.conv", x, features, kernel, (stride,) * 3))


def depthwise(net, name, x, stride):
    """The same, 3x3x3, each channel alone."""
    weight = net.draw(f"{name}.conv.weight", (x.shape[1], 1, 3, 3, 3))
    out = [(n - 1) // stride + 1 for n in x.shape[2:]]
    x, total = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (1, 1)]), 0
    for tap in np.ndindex(3, 3, 3):
        where = [slice(i, i + (n - 1) * stride + 1, stride) for i, n in zip(tap, out, strict=True)]
        total = total + x[(slice(None), slice(None), *where)] * weight[(None, slice(None), 0, *tap)][..., *[None] * 3]
    return net.norm(f"{name}.bn", total)


def max_pool(x):
    """1x3x3, stride 2, of values that a ReLU made: zero padding is as good as none."""
    x = np.pad(x, [(0, 0), (0, 0), (0, 0), (1, 1), (1, 1)])
    h, w = ((n - 3) // 2 + 1 for n in x.shape[3:])
    return np.max([x[..., i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2] for i, j in np.ndindex(3, 3)], axis=0)


def reference(net, video, kind):
    """Logits of the tiny CSN under mmaction2's names; `kind` is "ir" or "ip"."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    x = net.norm("backbone.conv1.bn", net.conv("backbone.conv1.conv", x, TINY["stem_width"], (3, 7, 7), (1, 2, 2)))
    x = max_pool(np.maximum(x, 0))
    for i, (depth, n) in enumerate(zip(TINY["depths"], TINY["widths"], strict=True)):
        for j in range(depth):
            name, stride = f"backbone.layer{i + 1}.{j}", 2 if i and not j else 1
            y = np.maximum(unit(net, f"{name}.conv1", x, n, (1, 1, 1), 1), 0)
            if kind == "ip":
                y = unit(net, f"{name}.conv2.0", y, n, (1, 1, 1), 1)
            y = np.maximum(depthwise(net, f"{name}.conv2.{int(kind == 'ip')}", y, stride), 0)
            y = unit(net, f"{name}.conv3", y, 2 * n, (1, 1, 1), 1)
            if not j:
                x = unit(net, f"{name}.downsample", x, 2 * n, (1, 1, 1), stride)
            x = np.maximum(x + y, 0)
    return net.linear("cls_head.fc_cls", x.mean((2, 3, 4)), TINY["num_classes"])


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# First logits of the first clip, from pytorchvideo run in PyTorch 2.13 on the golden formula's weights and clips.
LOGITS = {"csn_r101": [0.6896279, 1.4481708, -1.5091469, 2.353373]}


@pytest.mark.parametrize("arch", ["csn_r50", "csn_r101"])
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


@pytest.mark.parametrize(("kind", "train"), [("ir", True), ("ip", True), ("ip", False)])
def test_numpy(kind, train):
    model, video, net = tiny(f"{kind}_50"), tiny_video(), Torch(train, eps=1e-3)
    expected = reference(net, video, kind)
    table, shapes = csn.MMACTION2[kind], models.shapes(model, video.shape)
    variables = convert.convert(table, net.tensors, shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    after = convert.convert(table, net.state_dict(), shapes)
    assert train == bool(net.after)
    stats = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after["batch_stats"]), strict=True)
    for (path, value), wanted in stats:
        near(value, wanted, jax.tree_util.keystr(path))


@pytest.mark.parametrize(("kind", "expected"), [("ir", 0.93064802), ("ip", 1.28918688)])
def test_pinned_step(kind, expected):
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video, net = tiny(f"{kind}_50"), tiny_video(), Torch(train=True, eps=1e-3)
    reference(net, video, kind)
    variables = convert.convert(csn.MMACTION2[kind], net.tensors, models.shapes(model, video.shape))
    assert loss_after_step(model, variables, video) == pytest.approx(expected, rel=1e-5)
