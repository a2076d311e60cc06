"""slowfast equals its references: pytorchvideo's net with golden weights, and tiny nets of both against NumPy."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import slowfast

TINY = {"depths": (1, 2), "widths": (8, 12), "strides": (1, 2), "stem_width": 8, "beta": 4, "num_classes": 5}
TINY |= {"temporal": (((1,), (3,)), ((3,), (3, 1))), "dropout": 0.0, "alpha": 4, "fusion_kernel": 5}
TABLES = {"pytorchvideo": slowfast.PYTORCHVIDEO, "pyslowfast": slowfast.PYSLOWFAST}
SAMPLING = {"pytorchvideo": "stride", "pyslowfast": "linspace"}


def tiny(source):
    fields = TINY | {"slow_sampling": SAMPLING[source]}
    return models.build({"name": "slowfast", "variant": "8x8_r50"}, **fields)


def tiny_video():
    return np.random.RandomState(0).rand(4, 8, 24, 24, 3).astype(np.float32)


def names(source):
    """The source's names: conv and norm of a stem, a fusion, a block's three convolutions and its shortcut."""
    if source == "pyslowfast":
        inner = {part: f"branch2.{part} branch2.{part}_bn" for part in "abc"} | {"shortcut": "branch1 branch1_bn"}
        found = {key: [f"s{{0}}.pathway{{1}}_res{{2}}.{part}" for part in text.split()] for key, text in inner.items()}
        found |= {"stem": ["s1.pathway{1}_stem.conv", "s1.pathway{1}_stem.bn"], "head": "head.projection"}
        return found | {"fuse": ["s{0}_fuse.conv_f2s", "s{0}_fuse.bn"], "first": 1}
    inner = {part: f"branch2.conv_{part} branch2.norm_{part}" for part in "abc"}
    inner |= {"shortcut": "branch1_conv branch1_norm"}
    block = "blocks.{0}.multipathway_blocks.{1}"
    found = {key: [f"{block}.res_blocks.{{2}}.{part}" for part in text.split()] for key, text in inner.items()}
    fuse = [f"blocks.{{0}}.multipathway_fusion.{part}" for part in ("conv_fast_to_slow", "norm")]
    return found | {"stem": [f"{block}.conv", f"{block}.norm"], "fuse": fuse, "head": "blocks.6.proj", "first": 0}


def max_pool(x):
    """1x3x3, stride 2, of values that a ReLU made: zero padding is as good as none."""
    x = np.pad(x, [(0, 0), (0, 0), (0, 0), (1, 1), (1, 1)])
    h, w = ((n - 3) // 2 + 1 for n in x.shape[3:])
    return np.max([x[..., i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2] for i, j in np.ndindex(3, 3)], axis=0)


def unit(net, layer, x, features, kernel, strides):
    conv, norm = layer
    return net.norm(norm, net.conv(conv, x, features, kernel, strides))


def block(net, part, x, features, temporal, stride):
    """Bottleneck; `part` gives the names of a layer."""
    one, strides = (1, 1, 1), (1, stride, stride)
    y = np.maximum(unit(net, part("a"), x, features, (temporal, 1, 1), one), 0)
    y = np.maximum(unit(net, part("b"), y, features, (1, 3, 3), strides), 0)
    y = unit(net, part("c"), y, 4 * features, one, one)
    if stride != 1 or x.shape[1] != 4 * features:
        x = unit(net, part("shortcut"), x, 4 * features, one, strides)
    return np.maximum(x + y, 0)


def reference(net, video, source):
    """Logits of the tiny net under the source's names."""
    name = names(source)
    part = lambda key, stage, path=0, j=0: [n.format(stage + name["first"], path, j) for n in name[key]]  # noqa: E731
    fast = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    paths = [fast[:, :, [0, 4] if source == "pytorchvideo" else [0, 7]], fast]
    widths, share = TINY["widths"], (1, TINY["beta"])
    for p, x in enumerate(paths):
        kernel, width = ((1, 7, 7), (5, 7, 7))[p], TINY["stem_width"] // share[p]
        paths[p] = max_pool(np.maximum(unit(net, part("stem", 0, p), x, width, kernel, (1, 2, 2)), 0))
    for i, (depth, n) in enumerate(zip(TINY["depths"], widths, strict=True)):
        lateral = unit(net, part("fuse", i), paths[1], 2 * paths[1].shape[1], (5, 1, 1), (4, 1, 1))
        paths[0] = np.concatenate([paths[0], np.maximum(lateral, 0)], axis=1)
        for p in (0, 1):
            extents = TINY["temporal"][p][i]
            for j in range(depth):
                layer = lambda key, i=i, p=p, j=j: part(key, i + 1, p, j)  # noqa: E731
                stride = 1 if j else TINY["strides"][i]
                paths[p] = block(net, layer, paths[p], n // share[p], extents[j % len(extents)], stride)
    x = np.concatenate([x.mean((2, 3, 4)) for x in paths], axis=1)
    return net.linear(name["head"], x, TINY["num_classes"])


def test_pytorchvideo(golden):
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)
    meta = json.loads((golden / "expected" / "ref_pytorchvideo.json").read_text())["slowfast_r50_8x8"]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as clips:
        video = clips["clips"][:, : meta["input"]["T_fast"]].astype(np.float32) / 255
    variables = convert.from_reference("pytorchvideo", "slowfast_r50_8x8", tensors)
    model = models.for_reference("pytorchvideo", "slowfast_r50_8x8", meta["num_classes"])
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    with np.load(golden / "expected" / "ref_pytorchvideo.npz") as arrays:
        near(logits, arrays["slowfast_r50_8x8/out"], "logits")


@pytest.mark.parametrize("source", TABLES)
def test_numpy(source):
    model, video, net = tiny(source), tiny_video(), Torch(train=True)
    expected = reference(net, video, source)
    shapes = models.shapes(model, video.shape)
    variables = convert.convert(TABLES[source], net.tensors, shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    after = convert.convert(TABLES[source], net.state_dict(), shapes)["batch_stats"]
    for (path, value), wanted in zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after), strict=True):
        near(value, wanted, jax.tree_util.keystr(path))


def test_pinned_step():
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video, net = tiny("pyslowfast"), tiny_video(), Torch(train=True)
    reference(net, video, "pyslowfast")
    variables = convert.convert(TABLES["pyslowfast"], net.tensors, models.shapes(model, video.shape))
    assert loss_after_step(model, variables, video) == pytest.approx(0.90532797, rel=1e-5)


# What PyTorch 2.13 gives for torch.linspace(0, T - 1, T // alpha).long(), PySlowFast's pack_pathway_output.
LINSPACE = {
    (32, 8): [0, 10, 20, 31],
    (32, 4): [0, 4, 8, 13, 17, 22, 26, 31],
    (64, 4): [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63],
    (8, 4): [0, 7],
    (4, 4): [0],
}


@pytest.mark.parametrize(("frames", "alpha"), LINSPACE)
def test_slow_frames(frames, alpha):
    assert slowfast.slow_frames(frames, alpha, "linspace").tolist() == LINSPACE[frames, alpha]
    assert slowfast.slow_frames(frames, alpha, "stride").tolist() == list(range(frames))[::alpha]
