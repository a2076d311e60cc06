"""VGG and CNN-M against published sizes, Caffe's pools, and a tiny net of each kind in NumPy."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.reference import Torch, near

from vidjax import backbones, convert
from vidjax.backbones import vgg

TORCHVISION = {  # published parameter counts with 1000 classes
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
}
TINY = {"pads": (1, 1), "strides": (1, 1), "kernels": (3, 3), "widths": (4, 6), "fc": (7, 5)}
VGG = TINY | {"depths": (1, 2), "pools": (1, 2), "window": 2}
CNN_M = TINY | {"depths": (1, 1), "pools": (1, 2), "window": 3, "norms": (1,), "strides": (2, 1), "pads": (0, 1)}


class Alone(nn.Module):
    """A backbone under the name that tables take by default."""

    fields: tuple

    @nn.compact
    def __call__(self, x, **kw):
        return vgg.Backbone(**dict(self.fields), name="backbone")(x, **kw)


def shapes(net, channels=3, **kw):
    """(activations, variables) of a net on one frame of 224x224, as shapes."""
    frame = jax.ShapeDtypeStruct((1, 1, 224, 224, channels), jnp.float32)
    return jax.eval_shape(
        lambda x: backbones.build(net).init_with_output(jax.random.key(0), x, train=False, **kw), frame
    )


def drawn(net, frames):
    """Random variables of a net."""
    rng, shape = np.random.RandomState(1), jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), frames)
    return jax.tree.map(lambda s: (0.3 * rng.randn(*s.shape)).astype(np.float32), shape)


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree["params"]))


@pytest.mark.parametrize("net", TORCHVISION)
def test_torchvisions_sizes(net):
    out, variables = shapes(net)
    assert size(variables) + (out["features"].shape[-1] + 1) * 1000 == TORCHVISION[net]
    assert out["map"].shape == (1, 1, 7, 7, 512)


def test_cnn_m_by_hand():
    """Chatfield et al., table 1; Simonyan & Zisserman, NIPS 2014, figure 1: fc6 sees 6 * 6 * 512 = 18,432 numbers."""
    out, variables = shapes("cnn_m_2048")
    kernels = [
        7 * 7 * 3 * 96,
        5 * 5 * 96 * 256,
        9 * 256 * 512,
        9 * 512 * 512,
        9 * 512 * 512,
        18_432 * 4096,
        4096 * 2048,
    ]
    assert size(variables) == sum(kernels) + 96 + 256 + 3 * 512 + 4096 + 2048
    sides = {name: out[name].shape[2] for name in ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")}
    assert sides == {"conv1": 109, "pool1": 54, "conv2": 26, "pool2": 13, "conv5": 13, "pool5": 6}
    assert out["features"].shape == (1, 1, 2048)
    assert "norm2" in out
    temporal, _ = shapes("cnn_m_2048_temporal", channels=20)
    assert out.keys() - temporal.keys() == {"norm2"}


def conv(net, name, x, features, stride, pad):
    """A 3x3 convolution with bias on (N, C, H, W) and ReLU; `conv` of the oracle pads by one itself."""
    weight = net.draw(f"{name}.weight", (features, x.shape[1], 3, 3))
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::stride, ::stride]
    bias = net.draw(f"{name}.bias", (features,)).reshape(-1, 1, 1)
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias


def pool(x, window):
    """Max pool of stride 2 over (N, C, H, W), rounded up as in Caffe where it overlaps."""
    out = [-(-(n - window) // 2) + 1 if window > 2 else n // 2 for n in x.shape[2:]]
    rows = [
        [x[:, :, 2 * i : 2 * i + window, 2 * j : 2 * j + window].max((2, 3)) for j in range(out[1])]
        for i in range(out[0])
    ]
    return np.array(rows).transpose(2, 3, 0, 1)


def fc(net, names, x):
    """Fully connected layers with ReLU on the flattened (C, h, w)."""
    x = x.reshape(len(x), -1)
    for name, n in zip(names, TINY["fc"], strict=True):
        x = np.maximum(net.linear(name, x, n), 0)
    return x


def tiny_vgg(net, x):
    """torchvision's make_layers and classifier, with batch norm."""
    at = 0
    for i, depth in enumerate(VGG["depths"]):
        for _ in range(depth):
            x = conv(net, f"features.{at}", x, VGG["widths"][i], 1, 1)
            x = np.maximum(net.norm(f"features.{at + 1}", x[:, :, None])[:, :, 0], 0)
            at += 3
        x, at = pool(x, 2), at + 1
    return x, fc(net, ("classifier.0", "classifier.3"), x)


def tiny_cnn_m(net, x):
    """Caffe's layers: response norm of MatConvNet's parameters 5, 2, 1e-4, 0.75 after the first convolution."""
    x = np.maximum(conv(net, "conv1", x, 4, 2, 0), 0)
    squares = np.pad(np.square(x), [(0, 0), (2, 2), (0, 0), (0, 0)])
    x = pool(x / (2 + 1e-4 * sum(squares[:, i : i + 4] for i in range(5))) ** 0.75, 3)
    x = pool(np.maximum(conv(net, "conv2", x, 6, 1, 1), 0), 3)
    return x, fc(net, ("fc6", "fc7"), x)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("name", "fields", "oracle"),
    [("vgg_tiny", VGG | {"batch_norm": True}, tiny_vgg), ("cnn_m_tiny", CNN_M, tiny_cnn_m)],
)
def test_equals_the_papers_layers(monkeypatch, name, fields, oracle, train):
    monkeypatch.setitem(vgg.VARIANTS, name, fields)
    frames = np.random.RandomState(0).randn(2, 3, 14, 14, 3).astype(np.float32)
    net = Torch(train)
    last, features = oracle(net, 100 * frames.reshape(6, 14, 14, 3).transpose(0, 3, 1, 2).astype(np.float64))
    model = Alone(tuple((fields | {"dropout": 0.0}).items()))
    shape = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), frames)
    variables = convert.convert(vgg.table(net=name), net.tensors, shape)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    out, stats = apply(variables, 100 * frames)  # so large that the response norm matters
    near(out["map"].reshape(6, *out["map"].shape[2:]).transpose(0, 3, 1, 2), last, "map")
    near(out["features"].reshape(6, -1), features, "features")
    after = convert.convert(vgg.table(net=name), net.state_dict(), shape).get("batch_stats", {})
    jax.tree.map(lambda x, y: near(x, y, "statistics"), stats.get("batch_stats", {}), after)


def test_a_part_of_a_net():
    net = vgg.Backbone(**VGG)
    frames = np.random.RandomState(0).rand(1, 2, 8, 8, 3).astype(np.float32)
    variables = drawn(net, frames)
    apply = jax.jit(lambda x, **kw: net.apply(variables, x, train=False, **kw), static_argnames=("after", "until"))
    whole, first = apply(frames), apply(frames, until="conv2")
    assert vgg.layers(net) == ["conv1_1", "pool1", "conv2_1", "conv2_2", "pool2", "fc6", "fc7"]
    assert list(first) == sorted(["conv1_1", "pool1", "conv2_1", "conv2_2", "map"])  # jit sorts a dictionary
    rest = apply(first["conv2_2"], after="conv2")
    assert rest.keys() == {"pool2", "fc6", "fc7", "map", "features"}
    for name, value in (first | rest).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-6)  # compiled apart
    np.testing.assert_array_equal(whole["features"], whole["fc7"])


def test_without_fc_features_are_the_mean():
    net = vgg.Backbone(**VGG | {"fc": ()})
    frames = np.random.RandomState(0).rand(1, 2, 8, 8, 3).astype(np.float32)
    out = jax.jit(lambda v, x: net.apply(v, x, train=False))(drawn(net, frames), frames)
    np.testing.assert_allclose(out["features"], np.asarray(out["map"]).mean((2, 3)), rtol=1e-6)  # order of a sum


def test_dropout_of_each_fc():
    net = vgg.Backbone(**VGG | {"fc": (64, 64), "dropout": (0.0, 0.9)})
    frames = np.random.RandomState(0).rand(4, 2, 8, 8, 3).astype(np.float32)
    variables, keys = drawn(net, frames), {"dropout": jax.random.key(1)}
    apply = jax.jit(lambda x, train: net.apply(variables, x, train=train, rngs=keys), static_argnums=1)
    alive, kept = apply(frames, True), apply(frames, False)
    np.testing.assert_allclose(alive["fc6"], kept["fc6"], rtol=1e-6)  # compiled apart
    share = (np.asarray(alive["fc7"]) > 0).sum() / (np.asarray(kept["fc7"]) > 0).sum()
    assert 0.02 < share < 0.25


@pytest.mark.parametrize(
    ("fields", "kw", "sentence"),
    [
        ({"depths": (1, 1, 1)}, {}, r"one length \(the stages\), not \[3, 2, 2, 2, 2\]"),
        ({}, {"until": "conv3"}, "no layer 'conv3'; there are conv1_1, pool1"),
    ],
)
def test_errors(fields, kw, sentence):
    net = vgg.Backbone(**VGG | fields)
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False, **kw), jnp.zeros((1, 1, 8, 8, 3)))
