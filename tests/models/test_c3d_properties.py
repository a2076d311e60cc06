"""c3d: sizes against the paper's definition and figures, Caffe's rounding, first values, dropout, errors that help."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import c3d
from vidjax.nn import lowering

TINY = {"stages": ((3,), (4,), (5, 6)), "depths": (3, 3, 3), "hidden": (300, 200), "num_classes": 5}


def build(variant, **fields):
    return models.build({"name": "c3d", "variant": variant}, **fields)


def formula(row, frames, size, classes):
    """(parameters, multiply-adds) of a variant from the paper's definition alone."""
    params = macs = 0
    channels = 3
    for i, (widths, depth) in enumerate(zip(row["stages"], row["depths"], strict=True)):
        for width in widths:
            weights = depth * 9 * channels * width
            params += weights + width * (3 if row.get("batch_norm") else 1)
            macs += weights * frames * size * size
            channels = width
        frames = frames // 2 if i else frames
        size = size // 2 if row.get("rounding") == "floor" else -(-size // 2)
    features = frames * size * size * channels
    for width in (*row["hidden"], classes):
        params, macs, features = params + (features + 1) * width, macs + features * width, width
    return params, macs


@pytest.mark.parametrize("variant", c3d.VARIANTS)
def test_sizes_by_formula(variant):
    row = c3d.SIZES[variant]
    params, macs = formula(c3d.VARIANTS[variant], *row["input"][:2], row["classes"])
    assert params == row["params"]
    assert abs(macs / 1e9 - row["gmac"]) <= 5e-4 + 1e-9  # printed to three decimals


def test_published_sizes():
    millions = {variant: row["params"] / 1e6 for variant, row in c3d.SIZES.items()}
    published = {"study_d3": 17.5, "study_64": 11.1, "study_256": 34.8, "c3d_bn": 64.9}  # [P]
    for variant, value in published.items():
        assert abs(millions[variant] - value) < 0.1  # one decimal, now rounded up, now down
    assert [round(c3d.SIZES[variant]["gmac"], 1) for variant in ("c3d", "c3d_bn")] == [38.5, 38.5]  # [P] VMZ


def test_spread_of_the_study():
    """Section 3.2 counts 17 K per two frames of depth, 51 K in all: a filter there has one input channel, ours all."""
    widths = [64, 128, 256, 256, 256]
    assert (2 * 9 * sum(widths), 6 * 9 * sum(widths)) == (17_280, 51_840)  # [P]
    pairs = sum(c * n for c, n in zip([3, *widths], widths, strict=False))
    sizes = [c3d.SIZES[f"study_d{d}"]["params"] for d in (1, 3, 5, 7)]
    assert np.diff(sizes).tolist() == [2 * 9 * pairs] * 3


def activations(variant, **fields):
    model, row = build(variant, **fields), c3d.SIZES[variant]
    example = jax.ShapeDtypeStruct((1, *row["input"]), jnp.float32)
    _, out = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], example)
    return {name: value.shape[1:] for name, value in out.items()}


def test_shapes_of_card_4():
    shapes = activations("c3d")
    sizes = [(16, 112), (8, 28), (4, 14), (2, 7)]  # after conv1a, pool2, pool3, pool4
    assert [shapes[name][:2] for name in ("conv1a", "pool2", "pool3", "pool4")] == sizes
    assert shapes["pool1"] == (16, 56, 56, 64)
    convs = [name for name in shapes if name.startswith("conv")]
    assert convs == ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]
    assert shapes["pool5"] == (1, 4, 4, 512)  # Caffe rounds 7 / 2 up
    assert math.prod(shapes["pool5"]) == 8192
    assert (shapes["fc6"], shapes["fc7"], shapes["pre_logits"]) == ((4096,),) * 3
    assert activations("c3d_bn")["pool5"] == (1, 3, 3, 512)
    assert activations("study_64")["pool5"] == (1, 2, 2, 256)
    assert activations("study_256")["pool5"] == (1, 7, 7, 256)


@pytest.mark.parametrize(
    ("rounding", "expected"), [("ceil", [1, 3, 5, 6]), ("floor", [1, 3, 5]), ("symmetric", [0, 2, 4, 6])]
)
def test_windows_of_a_pool(rounding, expected):
    """Seven columns numbered 0 to 6: the largest of each window says where it ends."""
    x = np.broadcast_to(np.arange(7, dtype=np.float32)[:, None], (1, 2, 7, 7, 1))
    y = np.asarray(c3d._pool(jnp.asarray(x), 2, rounding))
    assert y.shape == (1, 1, len(expected), len(expected), 1)
    assert y[0, 0, 0, :, 0].tolist() == expected


def test_first_values_are_caffes():
    model, video = build("c3d", **TINY | {"stages": ((64,), (64,), (64, 64))}), jnp.zeros((1, 4, 16, 16, 3))
    with lowering("native"):  # compiles faster, as do the keys of rbg
        params = jax.jit(lambda k, x: model.init(k, x, train=False))(jax.random.key(0, impl="rbg"), video)["params"]
    biases = {name: np.unique(layer["bias"]).item() for name, layer in params.items()}
    assert biases == {"conv1a": 0, "conv2a": 1, "conv3a": 1, "conv3b": 1, "fc6": 1, "fc7": 1, "head": 0}
    for name, std in {"conv2a": 0.01, "conv3b": 0.01, "fc6": 0.005, "fc7": 0.005}.items():
        assert params[name]["kernel"].std() == pytest.approx(std, rel=0.02)  # of 60,000 and more numbers


def test_dropout_after_both_layers():
    model, video = build("c3d", **TINY | {"stages": ((3,),), "depths": (1,)}), jnp.ones((1, 1, 6, 6, 3))

    @jax.jit
    def features(x):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = model.init(keys, x, train=False)
        return [model.apply(variables, x, train=train, rngs=keys)[1] for train in (False, True)]

    with lowering("native"):  # compiles faster
        kept, dropped = features(video)
    np.testing.assert_allclose(dropped["fc6"], kept["fc6"], rtol=1e-6)  # before its dropout
    assert not np.allclose(dropped["fc7"], kept["fc7"], rtol=1e-3)
    assert (kept["pre_logits"] > 0).all()  # biases of 1
    assert 0.35 < (dropped["pre_logits"] > 0).mean() < 0.65  # half of 200, four deviations


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"depths": (3, 3)}, "one depth for each of its 4 stages, but field depths has 2"),
        ({"rounding": "floor", "depths": (1,) * 4}, "clip of 8x14x14 is too small for this c3d net's pools"),
        ({"rounding": "up"}, "rounding is one of ceil, floor, symmetric, not 'up'"),
        ({"kernel_init": "torch"}, "kernel_init is one of caffe, he, not 'torch'"),
    ],
)
def test_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), (1, 8, 14, 14, 3))


def test_a_flattened_layer_keeps_its_meaning():
    rank, forward, inverse = c3d.flattened(4)
    rng = np.random.RandomState(0)
    weight, x = rng.rand(5, 4 * 2 * 3 * 3), rng.rand(4, 2, 3, 3)
    assert rank == 2
    expected = weight @ x.ravel()
    np.testing.assert_allclose(x.transpose(1, 2, 3, 0).ravel() @ forward(weight), expected, rtol=1e-12)
    np.testing.assert_array_equal(inverse(forward(weight)), weight)
