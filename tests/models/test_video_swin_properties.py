"""video_swin: sizes by formula and as published, what windows see and a shift connects, errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import video_swin


def build(variant, **fields):
    return models.build({"name": "video_swin", "variant": variant}, **fields)


def counts(model, frames, size):
    """(parameters, multiply-adds) from section 3 of the paper; windows are padded to whole ones."""
    d, t, s = model.width, frames // 2, size // 4
    rows, positions = math.prod(2 * w - 1 for w in model.window), math.prod(model.window)
    params, macs = 3 * 32 * d + d + 2 * d, 3 * 32 * d * t * s * s
    for i, (depth, heads) in enumerate(zip(model.depths, model.heads, strict=True)):
        if i:
            params, s = params + 2 * 4 * d + 8 * d * d, s // 2
            macs, d = macs + 8 * d * d * t * s * s, 2 * d
        padded = math.prod(math.ceil(n / w) * w for n, w in zip((t, s, s), model.window, strict=True))
        params += depth * (12 * d * d + 13 * d + rows * heads)  # biases of 3 d, d, 4 d, d and two norms of 2 d
        macs += depth * (padded * (4 * d * d + 2 * positions * d) + t * s * s * 8 * d * d)
    return params + 2 * d + (d + 1) * model.num_classes, macs + d * model.num_classes


@pytest.mark.parametrize("variant", [v for v in video_swin.VARIANTS if v != "small"])
def test_sizes_by_formula(variant):
    row = video_swin.SIZES[variant]
    params, macs = counts(build(variant, num_classes=row["classes"]), 32, 224)
    assert row["params"] == params
    assert abs(row["gmac"] - macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize(
    ("variant", "params", "gmac"),
    [("swin3d_t", 28_158_070, 43.882), ("swin3d_s", 49_816_678, 82.841), ("swin3d_b", 88_048_984, 140.667)],
)
def test_published_sizes(variant, params, gmac):
    """num_params and _ops of torchvision's weights; its operations are those of 16 frames, attention included."""
    assert video_swin.SIZES[variant]["params"] == params
    assert round(counts(build(variant), 16, 224)[1] / 1e9, 3) == gmac


def block(shifted, size, window):
    """(apply(x), x) of one random block on a video (1, T, H, W, 4)."""
    net = video_swin.Block(2, window, shifted)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, *size, 4)), jnp.float32)
    variables = jax.jit(lambda x: net.init(jax.random.key(0), x))(x)
    return jax.jit(lambda x: net.apply(variables, x)), x


def seen(shifted, size, window, at):
    """Which positions' outputs change with the input at `at`."""
    apply, x = block(shifted, size, window)
    changed = apply(x.at[(0, *at, 0)].add(1.0)) - apply(x)
    return {tuple(map(int, p)) for p in np.argwhere(np.abs(changed[0]).max(-1) > 1e-7)}


def box(*spans):
    return {(t, h, w) for t in spans[0] for h in spans[1] for w in spans[2]}


@pytest.mark.parametrize(
    ("shifted", "at", "expected"),
    [
        (False, (0, 0, 0), box(range(2), range(2), range(2))),
        (False, (3, 5, 2), box(range(2, 4), range(4, 6), range(2, 4))),
        (True, (0, 0, 0), box([0], [0], [0])),  # the corner's window wraps around, and the mask cuts it in eight
        (True, (1, 1, 1), box([1, 2], [1, 2], [1, 2])),
        (True, (3, 5, 2), box([3], [5], [1, 2])),
    ],
)
def test_windows(shifted, at, expected):
    assert seen(shifted, (4, 6, 6), (2, 2, 2), at) == expected


def test_a_window_as_large_as_the_clip_is_not_shifted():
    apply, x = block(True, (2, 6, 6), (2, 2, 2))
    expected = box([0, 1], [0], [0])  # in time all, in space as above
    assert seen(True, (2, 6, 6), (2, 2, 2), (0, 0, 0)) == expected
    plain, _ = block(False, (2, 2, 2), (2, 2, 2))
    shifted, _ = block(True, (2, 2, 2), (2, 2, 2))
    np.testing.assert_array_equal(plain(x[:, :, :2, :2]), shifted(x[:, :, :2, :2]))


@pytest.mark.parametrize("window", [(2, 3, 2), (4, 6, 4)])
def test_partition_and_merge(window):
    x = np.arange(2 * 4 * 6 * 4 * 3).reshape(2, 4, 6, 4, 3)
    parts = video_swin.partition(x, window)
    assert parts.shape == (2, 96 // math.prod(window), math.prod(window), 3)
    np.testing.assert_array_equal(parts[1, 0], x[1, : window[0], : window[1], : window[2]].reshape(-1, 3))
    np.testing.assert_array_equal(video_swin.merge(parts, (4, 6, 4), window), x)


def test_bias_depends_on_the_distance_alone():
    table = np.random.default_rng(0).normal(size=(3 * 5 * 5, 2))
    bias = video_swin.relative_bias(table, (2, 3, 3), (2, 3, 3)).reshape(2, 2, 3, 3, 2, 3, 3)
    np.testing.assert_array_equal(bias[:, 0, 0, 1, 1, 1, 2], bias[:, 0, 1, 0, 1, 2, 1])
    assert len(np.unique(bias)) == table.size  # every row is used


def test_remat_and_drop_path():
    video = np.random.RandomState(0).rand(2, 4, 12, 12, 3).astype(np.float32)
    model = video_swin.Model(8, (2,), (2,), (2, 2, 2), num_classes=3)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)

    def loss(variables, model):
        rngs = {"dropout": jax.random.key(1)}
        return (model.apply(variables, video, train=True, rngs=rngs)[0] ** 2).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    one, two = gradient(variables, model), gradient(variables, model.clone(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, two)  # another order
    value = jax.jit(loss, static_argnums=1)
    assert value(variables, model.clone(drop_path=0.9)) != value(variables, model)


def test_field_errors():
    with pytest.raises(ValueError, match="of one length"):
        models.shapes(build("small", depths=(1, 1, 1)), (1, 2, 8, 8, 3))
