"""LRCN's CaffeNet hybrid: sizes of the prototxt, parameters by hand, layers against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import backbones
from vidjax.backbones import caffenet


def test_sizes_and_parameters():
    net = backbones.build("caffenet")
    video = jax.ShapeDtypeStruct((2, 3, 227, 227, 3), jnp.float32)
    out, variables = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x, train=False), video)
    sizes = {name: x.shape[2:] for name, x in out.items()}
    assert sizes == {  # 227 -> 111 -> 55, 26 -> 13, 6 by Caffe's rounding up
        "conv1": (55, 55, 96),
        "conv2": (13, 13, 384),
        "conv3": (13, 13, 512),
        "conv4": (13, 13, 512),
        "conv5": (6, 6, 384),
        "map": (6, 6, 384),
        "fc6": (4096,),
        "features": (4096,),
    }
    by_hand = {  # kernel and bias, groups of half the channels
        "conv1": 7 * 7 * 3 * 96 + 96,
        "conv2": 5 * 5 * 48 * 384 + 384,
        "conv3": 3 * 3 * 384 * 512 + 512,
        "conv4": 3 * 3 * 256 * 512 + 512,
        "conv5": 3 * 3 * 256 * 384 + 384,
        "fc6": 6 * 6 * 384 * 4096 + 4096,
    }
    found = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in variables["params"].items()}
    assert found == by_hand


def grouped(x, kernel, bias, s, pad, groups):
    """Convolution, bias and ReLU of pictures (N, H, W, C) in NumPy, one tap at a time."""
    _, k, _, channels, features = kernel.shape
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    n = (x.shape[1] - k) // s + 1
    parts = []
    for g in range(groups):
        mine, theirs = (
            slice(g * channels, (g + 1) * channels),
            slice(g * features // groups, (g + 1) * features // groups),
        )
        total = 0.0
        for i, j in np.ndindex(k, k):
            piece = x[:, i : i + (n - 1) * s + 1 : s, j : j + (n - 1) * s + 1 : s, mine]
            total = total + piece @ kernel[0, i, j, :, theirs]
        parts.append(total)
    return np.maximum(np.concatenate(parts, -1) + bias, 0)


def pooled(x):
    n = -(-(x.shape[1] - 3) // 2) + 1
    rows = [[x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(n)] for i in range(n)]
    return np.moveaxis(np.array(rows), 2, 0)


def normed(x):
    """Caffe's LRN across 5 channels: alpha 1e-4 / 5, beta 0.75, k 1."""
    square = np.pad(x**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    total = sum(square[..., i : i + x.shape[-1]] for i in range(5))
    return x / (1 + 1e-4 / 5 * total) ** 0.75


def test_layers_against_numpy():
    net, rng = caffenet.Backbone(), np.random.RandomState(0)
    video = 60 * rng.randn(1, 2, 67, 67, 3).astype(np.float32)
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), video)
    draw = lambda s: (rng.randn(*s.shape) / np.sqrt(np.prod(s.shape[:-1]))).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, shapes["params"])
    out = jax.device_get(jax.jit(lambda p, x: net.apply({"params": p}, x, train=False))(params, video))
    x = video[0].astype(np.float64)
    for name, _, _, s, pad, groups, pools, norms in caffenet._LAYERS:
        x = grouped(x, params[name]["kernel"].astype(np.float64), params[name]["bias"], s, pad, groups)
        x = pooled(x) if pools else x
        x = normed(x) if norms else x
        np.testing.assert_allclose(
            out[name][0], x, rtol=1e-4, atol=1e-4 * np.abs(x).max(), err_msg=name
        )  # sums of 4608
    fc6 = np.maximum(x.reshape(2, -1) @ params["fc6"]["kernel"] + params["fc6"]["bias"], 0)
    np.testing.assert_allclose(out["features"][0], fc6, rtol=1e-4, atol=1e-5 * fc6.max())  # likewise
