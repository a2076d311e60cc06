"""uniformer: sizes by formula and as published, scanned and rematerialised blocks, what a local block sees, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import uniformer


def build(variant, **fields):
    return models.build({"name": "uniformer", "variant": variant}, **fields)


def counts(model, frames, size):
    """(parameters, multiply-adds) from section 3 of the paper."""
    t, s, before, params, macs = frames // 2, size, 3, 2 * model.widths[-1], 0
    for i, (depth, d) in enumerate(zip(model.depths, model.widths, strict=True)):
        patch = before * (4 * 4 * 3 if i == 0 else 2 * 2)
        s //= 4 if i == 0 else 2
        n, before = t * s * s, d
        params, macs = params + d * patch + 3 * d, macs + n * d * patch
        if i < 2:  # convolutions of 3x3x3 and 5x5x5, two pointwise ones, an MLP, their biases, two norms
            params += depth * (27 * d + 125 * d + 10 * d * d + 13 * d)
            macs += depth * n * (27 * d + 125 * d + 10 * d * d)
        else:
            params += depth * (27 * d + 12 * d * d + 14 * d)
            macs += depth * n * (27 * d + 12 * d * d + 2 * n * d)
    return params + (d + 1) * model.num_classes, macs + d * model.num_classes


@pytest.mark.parametrize("variant", ["uniformer_s", "uniformer_b"])
def test_sizes_by_formula(variant):
    params, macs = counts(build(variant), 16, 224)
    assert uniformer.SIZES[variant]["params"] == params
    assert abs(uniformer.SIZES[variant]["gmac"] - macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize(
    ("variant", "frames", "params", "gmac"),
    [("uniformer_s", 16, 21.4, 41.8), ("uniformer_b", 16, 49.8, 96.7), ("uniformer_b", 32, 49.8, 259)],
)
def test_published_sizes(variant, frames, params, gmac):
    """The paper's table; its tool counts norms too, half a percent at most."""
    found, macs = counts(build(variant), frames, 224)
    assert round(found / 1e6, 1) == params
    assert 0.995 * gmac < macs / 1e9 < gmac


def test_scan_and_remat_change_nothing():
    model = uniformer.Model((1, 2), widths=(8, 16), blocks=("local", "global"), head_width=8, num_classes=3)
    video = np.random.RandomState(0).rand(2, 4, 16, 16, 3).astype(np.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)

    def loss(params, model):
        tree = variables | {"params": params}
        rngs = {"dropout": jax.random.key(1)}  # rematerialised rates are traced, and drawn with even where they are 0
        (logits, _), _ = model.apply(tree, video, train=True, mutable=["batch_stats"], rngs=rngs)
        return (logits**2).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain = gradient(variables["params"], model)
    other = gradient(variables["params"], model.clone(scan=True, remat=True))
    largest = max(jax.tree.leaves(jax.tree.map(lambda g: float(np.abs(g).max()), plain)))
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)  # noqa: E731 -- another order
    jax.tree.map(near, plain, other)


def test_a_local_block_sees_two_more_than_its_positions():
    block = uniformer.LocalBlock(8)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 9, 9, 4)), jnp.float32)
    variables = jax.jit(lambda x: block.init(jax.random.key(0), x))(x)
    apply = jax.jit(lambda x: block.apply(variables, x))
    changed = np.abs(apply(x.at[0, 4, 4, 4, 0].add(1.0)) - apply(x))[0].max(-1) > 1e-7
    expected = np.zeros((9, 9, 9), bool)
    expected[1:8, 1:8, 1:8] = True  # 1 by the positions' convolution, 2 by that of the mix
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize(
    ("fields", "shape", "sentence"),
    [
        ({"widths": (8, 8)}, (1, 8, 40, 40, 3), "of one length"),
        ({"blocks": ("local", "wide", "global", "global")}, (1, 8, 40, 40, 3), "'wide'"),
        ({}, (1, 8, 42, 40, 3), "A clip of 8x42x40 does not divide into patches of 2x4x4"),
    ],
)
def test_errors(fields, shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), shape)
