"""Inception-v1: its size by hand, its maps, TF-slim's names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vidjax import backbones, convert
from vidjax.backbones import inception


def shapes(net="inception_v1", size=224, **fields):
    model, x = backbones.build(net, **fields), jax.ShapeDtypeStruct((1, 2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), x)


def by_hand(norms):
    """Parameters of the trunk from table 1 of the paper: kernels and `norms` numbers per channel."""
    units = [(3, 64, 49), (64, 64, 1), (64, 192, 9)]
    c = 192
    for w0, r1, w1, r2, w2, w3 in [b for stage in inception.BLOCKS for b in stage]:
        units += [(c, w0, 1), (c, r1, 1), (r1, w1, 9), (c, r2, 1), (r2, w2, 9), (c, w3, 1)]
        c = w0 + w1 + w2 + w3
    return sum(i * o * k + norms * o for i, o, k in units)


@pytest.mark.parametrize("use_scale", [True, False])
def test_size(use_scale):
    _, variables = shapes(use_scale=use_scale)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert count == by_hand(1 + use_scale)
    assert count == {True: 5_599_904, False: 5_592_624}[use_scale]  # 7,280 channels; [C]


def test_maps():
    out, _ = shapes()
    found = {name: out[name].shape[2:] for name in out}
    assert found["conv_1a"] == (112, 112, 64)
    assert found["conv_2c"] == (56, 56, 192)
    assert [found[f"mixed_{b}"] for b in ("3b", "3c")] == [(28, 28, 256), (28, 28, 480)]
    assert [found[f"mixed_4{b}"][2] for b in "bcdef"] == [512, 512, 512, 528, 832]
    assert found["map"] == found["mixed_5c"] == (7, 7, 1024)
    assert found["features"] == (1024,)


def slim():
    """Names and shapes of TF-slim's inception_v1 below `InceptionV1/InceptionV1/`."""
    convs = {"Conv2d_1a_7x7": (7, 3, 64), "Conv2d_2b_1x1": (1, 64, 64), "Conv2d_2c_3x3": (3, 64, 192)}
    c = 192
    names = [f"Mixed_{i}{letter}" for i, n in ((3, 2), (4, 5), (5, 2)) for letter in "bcdef"[:n]]
    for name, (w0, r1, w1, r2, w2, w3) in zip(names, [b for s in inception.BLOCKS for b in s], strict=True):
        last = "0a" if name == "Mixed_5b" else "0b"  # the checkpoint's own slip
        convs |= {
            f"{name}/Branch_0/Conv2d_0a_1x1": (1, c, w0),
            f"{name}/Branch_1/Conv2d_0a_1x1": (1, c, r1),
            f"{name}/Branch_1/Conv2d_0b_3x3": (3, r1, w1),
            f"{name}/Branch_2/Conv2d_0a_1x1": (1, c, r2),
            f"{name}/Branch_2/Conv2d_{last}_3x3": (3, r2, w2),
            f"{name}/Branch_3/Conv2d_0b_1x1": (1, c, w3),
        }
        c = w0 + w1 + w2 + w3
    names = {f"{name}/weights": (k, k, i, o) for name, (k, i, o) in convs.items()}
    for name, (_, _, o) in convs.items():
        names |= {f"{name}/BatchNorm/{part}": (o,) for part in ("beta", "moving_mean", "moving_variance")}
    return {f"InceptionV1/InceptionV1/{name}": shape for name, shape in names.items()}


def test_slim_names():
    tensors = {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(slim().items())}
    target = {kind: {"net": tree} for kind, tree in shapes(use_scale=False)[1].items()}
    variables = convert.convert(inception.table("InceptionV1/InceptionV1/", "net"), tensors, target)
    flat = traverse_util.flatten_dict(variables, sep="/")
    assert len(flat) == len(tensors) == 57 * 4
    number = list(tensors).index
    prefix = "InceptionV1/InceptionV1/Mixed_5b/Branch_2"
    assert flat["params/net/mixed_5b/b2b/conv/kernel"].flat[0] == number(f"{prefix}/Conv2d_0a_3x3/weights")
    assert flat["batch_stats/net/mixed_5b/b2a/bn/var"][0] == number(f"{prefix}/Conv2d_0a_1x1/BatchNorm/moving_variance")
