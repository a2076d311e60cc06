"""x3d equals its references: pytorchvideo's nets with golden weights, and tiny nets of both sources against NumPy."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import x3d
from vidjax.nn import lowering

TINY = {"depths": (1, 2), "widths": (4, 6), "strides": (2, 2), "stem_width": 4, "features": 7, "num_classes": 5}
TINY |= {"dropout": 0.0}
INNER = (9, 13)  # 2.25 times as wide, rounded down
TABLES = {"pytorchvideo": x3d.PYTORCHVIDEO, "pyslowfast": x3d.PYSLOWFAST}


def tiny(source, **fields):
    fields |= TINY | {"first_norm": source == "pyslowfast"}
    return models.build({"name": "x3d", "variant": "m"}, **fields)


def tiny_video():
    return np.random.RandomState(0).rand(4, 5, 20, 20, 3).astype(np.float32)


def names(source):
    """The source's names of the parts that the net below asks for, each with a stage, or a stage and a block."""
    if source == "pyslowfast":
        block = "s{}.pathway0_res{}"
        inner = {
            "a": "branch2.a branch2.a_bn",
            "b": "branch2.b branch2.b_bn",
            "c": "branch2.c branch2.c_bn",
            "shortcut": "branch1 branch1_bn",
            "se": "branch2.se.fc1 branch2.se.fc2",
        }
        found = {key: [f"{block}.{part}" for part in parts.split()] for key, parts in inner.items()}
        stem = ["s1.pathway0_stem.conv_xy", "s1.pathway0_stem.conv", "s1.pathway0_stem.bn"]
        head = ["head.conv_5", "head.conv_5_bn", "head.lin_5", "head.projection"]
        return found | {"stem": stem, "head": head, "first": 2}
    block = "blocks.{}.res_blocks.{}"
    inner = {key: f"branch2.conv_{key} branch2.norm_{key}" for key in "ac"}
    inner |= {"b": "branch2.conv_b branch2.norm_b.0", "shortcut": "branch1_conv branch1_norm"}
    inner |= {"se": "branch2.norm_b.1.block.0 branch2.norm_b.1.block.2"}
    found = {key: [f"{block}.{part}" for part in parts.split()] for key, parts in inner.items()}
    stem = ["blocks.0.conv.conv_t", "blocks.0.conv.conv_xy", "blocks.0.norm"]
    head = ["blocks.5.pool.pre_conv", "blocks.5.pool.pre_norm", "blocks.5.pool.post_conv", "blocks.5.proj"]
    return found | {"stem": stem, "head": head, "first": 1}


def depthwise(net, name, x, kernel, stride):
    """A convolution of each channel alone, with zero padding k // 2, strided in rows and columns."""
    weight, strides = net.draw(f"{name}.weight", (x.shape[1], 1, *kernel)), (1, stride, stride)
    out = [(n - 1) // s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]
    x, total = np.pad(x, [(0, 0), (0, 0), *((k // 2, k // 2) for k in kernel)]), 0
    for tap in np.ndindex(*kernel):
        where = [slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(tap, out, strides, strict=True)]
        total = total + x[(slice(None), slice(None), *where)] * weight[(None, slice(None), 0, *tap)][..., *[None] * 3]
    return total


def biased(net, name, x, features):
    """A pointwise convolution with a bias."""
    bias = net.draw(f"{name}.bias", (features,)).reshape(1, -1, 1, 1, 1)
    return net.conv(name, x, features, (1, 1, 1), (1, 1, 1)) + bias


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def block(net, name, x, i, j):
    """Block j of stage i; `name` gives the names of a part's layers."""
    one, stride, features = (1, 1, 1), 1 if j else 2, TINY["widths"][i]
    conv, norm = name("a")
    y = np.maximum(net.norm(norm, net.conv(conv, x, INNER[i], one, one)), 0)
    conv, norm = name("b")
    y = net.norm(norm, depthwise(net, conv, y, (3, 3, 3), stride))
    if j % 2 == 0:
        reduce, expand = name("se")
        weights = np.maximum(biased(net, reduce, y.mean((2, 3, 4), keepdims=True), 8), 0)
        y = y * sigmoid(biased(net, expand, weights, INNER[i]))
    conv, norm = name("c")
    y = net.norm(norm, net.conv(conv, y * sigmoid(y), features, one, one))
    if not j:
        conv, norm = name("shortcut")
        bare = x.shape[1] == features and norm.startswith("blocks")
        x = net.conv(conv, x, features, one, (1, stride, stride))
        x = x if bare else net.norm(norm, x)
    return np.maximum(x + y, 0)


def reference(net, video, source):
    """Logits of the tiny net under the source's names, whose head is block 5 whatever the number of stages."""
    part = names(source)
    spatial, temporal, norm = part["stem"]
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    x = net.conv(spatial, x, TINY["stem_width"], (1, 3, 3), (1, 2, 2))
    x = np.maximum(net.norm(norm, depthwise(net, temporal, x, (5, 1, 1), 1)), 0)
    for i, depth in enumerate(TINY["depths"]):
        for j in range(depth):
            name = lambda key, i=i, j=j: [text.format(i + part["first"], j) for text in part[key]]  # noqa: E731
            x = block(net, name, x, i, j)
    conv, norm, last, head = part["head"]
    x = np.maximum(net.norm(norm, net.conv(conv, x, INNER[-1], (1, 1, 1), (1, 1, 1))), 0)
    x = net.conv(last, x.mean((2, 3, 4), keepdims=True), TINY["features"], (1, 1, 1), (1, 1, 1))
    return net.linear(head, np.maximum(x, 0)[..., 0, 0, 0], TINY["num_classes"])


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# First logits of the first clip, from pytorchvideo (create_x3d of 112-pixel crops) run in PyTorch 2.13 on the golden
# formula's weights and clips.
LOGITS = {
    "x3d_xs": [0.42187354, 0.22764459, -0.84559029, 0.07991447],
    "x3d_l": [0.13498853, 2.58539009, -1.6679877, 0.48516101],
}


@pytest.mark.parametrize("arch", ["x3d_xs", "x3d_s", "x3d_l"])
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


@pytest.mark.parametrize(("source", "train"), [("pytorchvideo", True), ("pyslowfast", True), ("pyslowfast", False)])
def test_numpy(source, train):
    model, video, net = tiny(source), tiny_video(), Torch(train)
    expected = reference(net, video, source)
    shapes = models.shapes(model, video.shape)
    variables = convert.convert(TABLES[source], net.tensors, shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    with lowering("native"):  # compiles faster
        (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    after = convert.convert(TABLES[source], net.state_dict(), shapes)
    assert train == bool(net.after)
    stats = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after["batch_stats"]), strict=True)
    for (path, value), wanted in stats:
        near(value, wanted, jax.tree_util.keystr(path))


@pytest.mark.parametrize(("source", "expected"), [("pytorchvideo", 1.63134554), ("pyslowfast", 1.471001)])
def test_pinned_step(source, expected):
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video, net = tiny(source), tiny_video(), Torch(train=True)
    reference(net, video, source)
    variables = convert.convert(TABLES[source], net.tensors, models.shapes(model, video.shape))
    with lowering("native"):  # compiles faster
        assert loss_after_step(model, variables, video) == pytest.approx(expected, rel=1e-5)
