"""2-D nets: published sizes, kernels that can be inflated, any number of channels; shift and rounding by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vidjax import backbones, nn
from vidjax.backbones import alexnet, mobilenet
from vidjax.nn import lowering

NETS = {  # parameters without the classifier of 1000 classes over D features; [P] torchvision, TSN for bn_inception
    "resnet18": (11_689_512, 1000, 512),
    "resnet34": (21_797_672, 1000, 512),
    "resnet50": (25_557_032, 1000, 2048),
    "resnet101": (44_549_160, 1000, 2048),
    "resnet152": (60_192_808, 1000, 2048),
    "alexnet": (61_100_840, 1000, 4096),
    "mobilenet_v2": (3_504_872, 1000, 1280),
    "shufflenet_v2_x0_5": (1_366_792, 1000, 1024),
    "shufflenet_v2_x1_0": (2_278_604, 1000, 1024),
    "shufflenet_v2_x1_5": (3_503_624, 1000, 1024),
    "shufflenet_v2_x2_0": (7_393_996, 1000, 2048),
    "bn_inception": (10_373_765, 101, 1024),
}


def shapes(net, channels=3, **fields):
    model = backbones.build(net, **fields)
    video = jax.ShapeDtypeStruct((2, 3, 224, 224, channels), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), video)


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("net", NETS)
def test_sizes(net):
    params, classes, width = NETS[net]
    out, variables = shapes(net)
    assert count(variables) == params - (width + 1) * classes
    assert (out["features"].shape, out["features"].dtype) == ((2, 3, width), jnp.float32)
    side = 6 if net == "alexnet" else 7
    assert out["map"].shape[:4] == (2, 3, side, side)


@pytest.mark.parametrize("net", ["small", "resnet18", "alexnet", "bn_inception", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_kernels_are_flat_and_take_any_channels(net):
    _, rgb = shapes(net)
    _, flow = shapes(net, channels=10)
    rgb, flow = (traverse_util.flatten_dict(variables["params"]) for variables in (rgb, flow))
    kernels = [leaf for path, leaf in rgb.items() if path[-1] == "kernel" and leaf.ndim == 5]
    assert {leaf.shape[0] for leaf in kernels} == {1}
    changed = [(rgb[path].shape[3], flow[path].shape[3]) for path in rgb if rgb[path].shape != flow[path].shape]
    assert changed == [(3, 10)]  # the first convolution alone


def test_caffe_strides():
    """The same parameters; the stride on the first 1x1 leaves less to do for the 3x3 convolution."""
    (late, first), (early, second) = shapes("resnet50"), shapes("resnet50", stride_first=True)
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, second)
    assert late["map"].shape == early["map"].shape
    x = np.random.RandomState(0).randn(1, 1, 32, 32, 3).astype(np.float32)
    nets = [backbones.build("resnet50", depths=(1, 1), widths=(4, 4), strides=(1, 2), stride_first=f) for f in (0, 1)]
    with lowering("native"):  # compiles faster
        variables = jax.jit(lambda x: nets[0].init(jax.random.key(0), x, train=False))(x)
        outs = [jax.jit(lambda v, x, n=n: n.apply(v, x, train=False))(variables, x) for n in nets]
    np.testing.assert_array_equal(outs[0]["layer1"], outs[1]["layer1"])
    assert np.abs(outs[0]["layer2"] - outs[1]["layer2"]).max() > 0.01


def test_shift():
    x = np.random.RandomState(0).rand(2, 4, 3, 2, 16).astype(np.float32)
    y = np.zeros_like(x)
    y[:, :3, ..., :2] = x[:, 1:, ..., :2]
    y[:, 1:, ..., 2:4] = x[:, :3, ..., 2:4]
    y[..., 4:] = x[..., 4:]
    np.testing.assert_array_equal(nn.shifted(x, 8), y)


@pytest.mark.parametrize(
    ("net", "count"),
    [("resnet50", 3 + 4 + 6 + 3), ("resnet101", 2 + 2 + 12 + 2), ("mobilenet_v2", 1 + 2 + 3 + 2 + 2)],
)
def test_shifted_blocks(net, count, monkeypatch):
    """TSM shifts every block, every second where a stage has 23, and in MobileNetV2 those that add their input."""
    calls = []
    monkeypatch.setattr(nn, "shifted", lambda x, parts: calls.append(parts) or x)
    shapes(net, shift=8)
    assert calls == [8] * count


def test_widths_of_mobilenet():
    """Table of the reference's rounding: to multiples of 8, never down by more than a tenth."""
    assert [mobilenet.channels_of(n, 0.75) for n in (16, 24, 32, 64, 96, 160, 320)] == [16, 24, 24, 48, 72, 120, 240]
    assert [mobilenet.channels_of(n, 1.4) for n in (16, 24, 32, 64, 96, 160, 320)] == [24, 32, 48, 88, 136, 224, 448]
    assert [mobilenet.channels_of(n, 0.35) for n in (16, 24, 32, 64, 96, 160, 320)] == [8, 8, 16, 24, 32, 56, 112]
    assert shapes("mobilenet_v2_x0_5")[0]["features"].shape[-1] == 1280
    assert shapes("mobilenet_v2_x1_4")[0]["features"].shape[-1] == 1792


def test_regions():
    x = np.random.RandomState(0).rand(2, 3, 2, 13, 4).astype(np.float32)
    y = alexnet.regions(x, 6)
    assert y.shape == (2, 3, 6, 6, 4)
    np.testing.assert_allclose(y[:, :, 0, 0], x[:, :, 0, :3].mean(2), rtol=1e-6)  # columns 0 to ceil(13 / 6)
    np.testing.assert_allclose(y[:, :, 5, 3], x[:, :, 1, 6:9].mean(2), rtol=1e-6)  # columns 6 to 9, a sum's rounding
    np.testing.assert_array_equal(alexnet.regions(y, 6), y)


def test_dropout_of_alexnet():
    model = backbones.build("alexnet", widths=(4,) * 5, fc=(64, 64), dropout=0.5)
    x = np.random.RandomState(0).rand(1, 2, 64, 64, 3).astype(np.float32)

    @jax.jit
    def features(x):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        still, variables = model.init_with_output(keys, x, train=False)
        nets = (model.clone(dropout=0.0), model)
        return [still["features"], *(m.apply(variables, x, train=True, rngs=keys)["features"] for m in nets)]

    with lowering("native"):  # compiles faster
        still, kept, dropped = features(x)
    np.testing.assert_allclose(kept, still, rtol=1e-5, atol=1e-6)  # fused differently
    assert np.abs(dropped - still).max() > 0.01


@pytest.mark.parametrize(
    ("net", "fields", "sentence"),
    [
        ("resnet18", {"widths": (4, 8)}, "of one length"),
        ("resnet18", {"block": "plain"}, "not 'plain'"),
        ("resnet18", {"shift": 1}, "not 1"),
        ("small", {"widths": (4, 8)}, "widths"),
        ("resnet51", {}, "the nearest is 'resnet50'"),
    ],
)
def test_errors(net, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        shapes(net, **fields)
