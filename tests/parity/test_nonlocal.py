"""Non-local blocks equal NumPy and PySlowFast, alone and in C2D and Slow under PySlowFast's names."""

import functools

import jax
import numpy as np
import pytest
from flax import traverse_util
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import slow
from vidjax.nn import BatchNorm, Conv3D

TINY = {"depths": (1, 2), "widths": (4, 6), "strides": ((1, 1), (1, 2)), "stem_width": 5, "num_classes": 5}
TINY |= {"stem_pool": False, "dropout": 0.0, "nonlocal_after": ((), (1,))}
KINDS = {"c2d": "softmax", "slow": "dot_product"}


def tiny(arch):
    fields = TINY | {"temporal": ((1,), (1,) if arch == "c2d" else (3,)), "nonlocal_kind": KINDS[arch]}
    return models.build({"name": "slow", "variant": f"{arch}_nln_r50"}, **fields)


def tiny_video():
    return np.random.RandomState(0).rand(4, 4, 20, 20, 3).astype(np.float32)


def pointwise(net, name, x, features):
    """A convolution 1x1x1 with a bias."""
    bias = net.draw(f"{name}.bias", (features,)).reshape(1, -1, 1, 1, 1)
    return net.conv(name, x, features, (1, 1, 1), (1, 1, 1)) + bias


def pooled(x, window):
    """Max pool without overlap; what does not fill a window is left out."""
    t, h, w = window
    taps = [x[:, :, i : x.shape[2] // t * t : t, j : x.shape[3] // h * h : h] for i in range(t) for j in range(h)]
    return np.max([y[..., k : x.shape[4] // w * w : w] for y in taps for k in range(w)], axis=0)


def affine(net, name, x, kind, window):
    """Equation 1 of the paper, place by place: (N, C, T, H, W) -> same before the residual sum and its norm."""
    n, c, t, h, w = x.shape
    y = pooled(x, window)
    theta, phi, g = (
        pointwise(net, f"{name}.conv_{part}", z, c // 2).reshape(n, c // 2, -1)
        for part, z in (("theta", x), ("phi", y), ("g", y))
    )
    likeness = np.einsum("nci,ncj->nij", theta, phi)
    if kind == "softmax":
        likeness = np.exp(likeness / np.sqrt(c // 2))
        likeness = likeness / likeness.sum(-1)[..., None]
    else:
        likeness = likeness / phi.shape[2]
    y = np.einsum("nij,ncj->nci", likeness, g).reshape(n, c // 2, t, h, w)
    return pointwise(net, f"{name}.conv_out", y, c)


def nonlocal_block(net, name, x, kind, window=(1, 2, 2)):
    return x + net.norm(f"{name}.bn", affine(net, name, x, kind, window))


def bottleneck(net, name, x, features, temporal, stride):
    """PySlowFast's BottleneckTransform and its shortcut."""
    one = (1, 1, 1)
    layers = (("a", features, (temporal, 1, 1), one), ("b", features, (1, 3, 3), (1, stride, stride)))
    y = x
    for part, width, kernel, strides in layers:
        part = f"{name}.branch2.{part}"
        y = np.maximum(net.norm(f"{part}_bn", net.conv(part, y, width, kernel, strides)), 0)
    part = f"{name}.branch2.c"
    y = net.norm(f"{part}_bn", net.conv(part, y, 4 * features, one, one))
    if stride != 1 or x.shape[1] != 4 * features:
        shortcut = net.conv(f"{name}.branch1", x, 4 * features, one, (1, stride, stride))
        x = net.norm(f"{name}.branch1_bn", shortcut)
    return np.maximum(x + y, 0)


def reference(net, video, arch):
    """Logits of the tiny net under PySlowFast's names."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    x = net.conv("s1.pathway0_stem.conv", x, TINY["stem_width"], (1, 7, 7), (1, 2, 2))
    x = np.maximum(net.norm("s1.pathway0_stem.bn", x), 0)
    for i, (depth, n) in enumerate(zip(TINY["depths"], TINY["widths"], strict=True)):
        for j in range(depth):
            temporal, stride = 3 if arch == "slow" and i else 1, 1 if j else TINY["strides"][i][1]
            x = bottleneck(net, f"s{i + 2}.pathway0_res{j}", x, n, temporal, stride)
            if j in TINY["nonlocal_after"][i]:
                x = nonlocal_block(net, f"s{i + 2}.pathway0_nonlocal{j}", x, KINDS[arch])
        if arch == "c2d" and not i:
            x = pooled(x, (2, 1, 1))
    return net.linear("head.projection", x.mean((2, 3, 4)), TINY["num_classes"])


def converted(arch, net, shape):
    return convert.convert(slow.PYSLOWFAST, net, models.shapes(tiny(arch), shape))


@pytest.mark.parametrize("arch", KINDS)
def test_numpy(arch):
    model, video, net = tiny(arch), tiny_video(), Torch(train=True)
    expected = reference(net, video, arch)
    variables = converted(arch, net.tensors, video.shape)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    after = converted(arch, net.state_dict(), video.shape)["batch_stats"]
    for (path, value), wanted in zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after), strict=True):
        near(value, wanted, jax.tree_util.keystr(path))


@pytest.mark.parametrize(("arch", "expected"), [("c2d", 1.99577), ("slow", 1.16735708)])
def test_pinned_step(arch, expected):
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video, net = tiny(arch), tiny_video(), Torch(train=True)
    reference(net, video, arch)
    variables = converted(arch, net.tensors, video.shape)
    assert loss_after_step(model, variables, video) == pytest.approx(expected, rel=1e-5)


def alone(kind, window):
    norm = functools.partial(BatchNorm, True)
    return slow.NonLocal(kind, window, functools.partial(Conv3D), norm)


def maps():
    return np.random.RandomState(1).randn(2, 3, 5, 4, 6)


def drawn(kind, window):
    """(variables of a block alone, what NumPy makes of the maps)."""
    net = Torch(train=False)
    expected = nonlocal_block(net, "nln", maps().transpose(0, 4, 1, 2, 3), kind, window).transpose(0, 2, 3, 4, 1)
    leaves = {"bn/scale": "bn.weight", "bn/bias": "bn.bias"}
    params = {path: net.tensors[f"nln.{name}"] for path, name in leaves.items()}
    for part in ("theta", "phi", "g", "out"):
        params[f"{part}/kernel"] = net.tensors[f"nln.conv_{part}.weight"].transpose(2, 3, 4, 1, 0)
        params[f"{part}/bias"] = net.tensors[f"nln.conv_{part}.bias"]
    stats = {f"bn/{name}": net.tensors[f"nln.bn.running_{name}"] for name in ("mean", "var")}
    unflatten = functools.partial(traverse_util.unflatten_dict, sep="/")
    return {"params": unflatten(params), "batch_stats": unflatten(stats)}, expected


# First channels of the first place, from PySlowFast's Nonlocal run in PyTorch 2.13 on the same weights and maps.
VALUES = {
    ("softmax", (1, 2, 2)): [6.9923782, 3.2316358, 3.973594],
    ("dot_product", (1, 2, 2)): [32.2532196, 21.0259781, 24.8664551],
    ("dot_product", (2, 2, 2)): [58.2287674, 34.6457634, 47.9653397],
    ("softmax", (1, 1, 1)): [3.1613331, 1.5793219, 0.5101542],
}


@pytest.mark.parametrize(("kind", "window"), VALUES)
def test_block(kind, window):
    variables, expected = drawn(kind, window)
    value = jax.jit(alone(kind, window).apply)(variables, maps().astype(np.float32))
    near(value, expected, "block")
    near(value[0, 0, 0, 0, :3], np.array(VALUES[kind, window]), "first place")


def test_begins_as_the_identity():
    x = maps().astype(np.float32)
    value, variables = jax.jit(alone("softmax", (1, 2, 2)).init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(value, x)
    assert np.abs(variables["params"]["out"]["kernel"]).min() > 0


def test_sees_every_place():
    """A change at one place moves the sum at every other; without the block it would move none."""
    variables, _ = drawn("softmax", (1, 1, 1))
    apply, x = jax.jit(alone("softmax", (1, 1, 1)).apply), maps().astype(np.float32)
    change = np.abs(apply(variables, x) - apply(variables, x + np.eye(60)[7].reshape(1, 3, 5, 4, 1).astype(np.float32)))
    assert (change.max(-1) > 0).all()
