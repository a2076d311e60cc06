"""r3d equals its references: golden torchvision outputs, and tiny nets in training against NumPy and PyTorch."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import r3d

TINY = {"depths": (1, 2, 1), "widths": (4, 6, 8), "strides": (1, 2, 2), "mean": 0.45, "std": 0.225, "num_classes": 5}
CONVS = {"r3d": ("3d",) * 3, "mc3": ("3d", "2d", "2d"), "r2plus1d": ("2plus1d",) * 3}


def tiny(variant):
    return models.build({"name": "r3d", "variant": variant, "convs": CONVS[variant.split("_")[0]], **TINY})


def tiny_video():
    return np.random.RandomState(0).rand(4, 8, 24, 24, 3).astype(np.float32)


def unit(net, name, x, features, kernel, strides, kind, mid):
    """A convolution of torchvision's and its batch norm, which is module 1 (in a (2+1)-D stem, module 4)."""
    (t, h, w), (st, sh, sw) = kernel, strides
    if kind == "2plus1d":
        inner = name if name == "stem" else f"{name}.0"
        x = net.conv(f"{inner}.0", x, mid, (1, h, w), (1, sh, sw))
        x = np.maximum(net.norm(f"{inner}.1", x), 0)
        x = net.conv(f"{inner}.3", x, features, (t, 1, 1), (st, 1, 1))
        return net.norm("stem.4" if name == "stem" else f"{name}.1", x)
    if kind == "2d":
        kernel, strides = (1, h, w), (1, sh, sw)
    return net.norm(f"{name}.1", net.conv(f"{name}.0", x, features, kernel, strides))


def reference(net, video, kinds, rule, bottleneck=False):
    """Logits of the tiny VideoResNet of torchvision (`rule` "block") or VMZ ("conv")."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    stem = "2plus1d" if kinds[0] == "2plus1d" else "3d"
    x = np.maximum(unit(net, "stem", x, TINY["widths"][0], (3, 7, 7), (1, 2, 2), stem, 45), 0)
    for i, (depth, n, kind) in enumerate(zip(TINY["depths"], TINY["widths"], kinds, strict=True)):
        for j in range(depth):
            name, c = f"layer{i + 1}.{j}", x.shape[1]
            stride = 2 if i and not j else 1
            mids = [27 * c * n // (9 * c + 3 * n), 27 * n * n // (9 * n + 3 * n)]
            second = mids[0] if rule == "block" else mids[1]
            if bottleneck:
                y = np.maximum(unit(net, f"{name}.conv1", x, n, (1, 1, 1), (1, 1, 1), "3d", 0), 0)
                y = np.maximum(unit(net, f"{name}.conv2", y, n, (3, 3, 3), (stride,) * 3, kind, mids[1]), 0)
                y = unit(net, f"{name}.conv3", y, 4 * n, (1, 1, 1), (1, 1, 1), "3d", 0)
                if x.shape != y.shape:
                    x = unit(net, f"{name}.downsample", x, 4 * n, (1, 1, 1), (stride,) * 3, "3d", 0)
                x = np.maximum(x + y, 0)
                continue
            y = np.maximum(unit(net, f"{name}.conv1", x, n, (3, 3, 3), (stride,) * 3, kind, mids[0]), 0)
            y = unit(net, f"{name}.conv2", y, n, (3, 3, 3), (1, 1, 1), kind, second)
            if stride > 1:
                kind1 = "2d" if kind == "2d" else "3d"
                x = unit(net, f"{name}.downsample", x, n, (1, 1, 1), (stride,) * 3, kind1, 0)
            x = np.maximum(x + y, 0)
    return net.linear("fc", x.mean((2, 3, 4)), TINY["num_classes"])


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("arch", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_torchvision(golden, formula, arch):
    meta = json.loads((golden / "expected" / "ref_torchvision.json").read_text())[arch]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as clips:
        video = clips["clips"][:, : meta["input"]["T"]].astype(np.float32) / 255
    with np.load(golden / "expected" / "ref_torchvision.npz") as arrays:
        expected = {name.removeprefix(f"{arch}/"): arrays[name] for name in arrays if name.startswith(f"{arch}/")}

    variables = convert.from_reference("torchvision", arch, tensors)
    model = models.for_reference("torchvision", arch, meta["num_classes"]).clone(mean=0.45, std=0.225)
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    found = {f"{name}_mean": value.mean(axis=(1, 2, 3)) for name, value in out.items() if value.ndim == 5}
    found["logits"] = logits
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        near(found[name], value, name)


# First logits of the golden clips from the repository's own net (commit ca37de9, network/R2Plus1D_model.py, PyTorch
# 2.13) with the formula's weights, run by hand.
R2PLUS1D = [[-0.7329433, 0.3427735, -0.8482053, -1.1514789], [-1.2366239, 0.6493661, -1.6883744, -1.9188784]]


@pytest.mark.parametrize("arch", ["r3d", "r2plus1d"])
def test_jfzhang(golden, formula, arch):
    meta = json.loads((golden / "expected" / "ref_repos.json").read_text())[f"jfzhang_{arch}"]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    variables = convert.from_reference("jfzhang", arch, tensors)
    model = models.for_reference("jfzhang", arch, 16).clone(mean=0.45, std=0.225)
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as clips:
        video = clips["clips"][:, :16].astype(np.float32) / 255
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    if arch == "r2plus1d":
        near(logits[:, :4], np.array(R2PLUS1D), arch)
    else:
        with np.load(golden / "expected" / "ref_repos.npz") as arrays:
            near(logits, arrays["jfzhang_r3d/out"], arch)


@pytest.mark.parametrize(
    ("variant", "train"),
    [
        ("r3d_18", True),
        ("mc3_18", True),
        ("r2plus1d_18", True),
        ("r2plus1d_18_paper", True),
        ("r2plus1d_152_paper", False),
    ],
)
def test_numpy(variant, train):
    model, video = tiny(variant), tiny_video()
    net = Torch(train, eps=1e-3 if variant.endswith("paper") else 1e-5)
    expected = reference(net, video, model.convs, "conv" if variant.endswith("paper") else "block", model.bottleneck)
    table, shapes = r3d.TORCH_2PLUS1D if "plus" in variant else r3d.TORCH, models.shapes(model, video.shape)
    variables = convert.convert(table, net.tensors, shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    after = convert.convert(table, net.state_dict(), shapes)
    assert train == bool(net.after)
    stats = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after["batch_stats"]), strict=True)
    for (path, value), wanted in stats:
        near(value, wanted, jax.tree_util.keystr(path))


@pytest.mark.parametrize(("variant", "expected"), [("r3d_18", 1.07208095), ("r2plus1d_18_paper", 1.23576034)])
def test_pinned_step(variant, expected):
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video = tiny(variant), tiny_video()
    net, paper = Torch(train=True, eps=model.bn_epsilon), variant.endswith("paper")
    reference(net, video, model.convs, "conv" if paper else "block")
    table = r3d.TORCH_2PLUS1D if "plus" in variant else r3d.TORCH
    variables = convert.convert(table, net.tensors, models.shapes(model, video.shape))
    assert loss_after_step(model, variables, video) == pytest.approx(expected, rel=1e-5)
