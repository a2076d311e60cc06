"""vjepa2: sizes by formula, the angles of its rotations, what its pooler asks, blocks in loops, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models, transformer
from vidjax.models import vjepa2

TINY = {"width": 32, "depth": 2, "heads": 2, "hidden": 24, "tubelet": (2, 8, 8), "pooler": 0, "num_classes": 3}


def tiny(**fields):
    return models.build({"name": "vjepa2", "variant": "l", **TINY | fields})


def video():
    return np.random.RandomState(0).rand(2, 4, 16, 24, 3).astype(np.float32)


def init(model):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video())


@pytest.mark.parametrize("variant", vjepa2.VARIANTS)
def test_parameters_by_formula(variant):
    model = models.build({"name": "vjepa2", "variant": variant})
    d, classes = model.width, vjepa2.SIZES[variant].get("classes", 0)
    block = lambda hidden: 4 * d * (d + 1) + 2 * d * hidden + d + hidden + 4 * d  # noqa: E731
    total = d * (3 * np.prod(model.tubelet) + 1) + model.depth * block(model.hidden) + 2 * d + (d + 1) * classes
    if model.pooler is not None:
        total += model.pooler * block(4 * d) + block(4 * d) - d * (d + 1) + d  # no projection, but a query
    assert vjepa2.SIZES[variant]["params"] == total


# [P] table 1 of the paper: ViT-L, H and g of 300 M, 600 M and 1 B parameters; transformers' classes of L with the
# predictor of 22.1 M have 326.0 M, and with the pooler and a head for 174 classes 375.5 M.
@pytest.mark.parametrize(
    ("variant", "params"), [("l", 326.0 - 22.1), ("l_attentive", 375.5 - 22.1), ("h", 632), ("g", 1012)]
)
def test_published_sizes(variant, params):
    assert abs(vjepa2.SIZES[variant]["params"] / 1e6 - params) < 0.5


def test_angles():
    """Ten channels each of 32 for time, rows and columns: five rates, twice; the last two rest."""
    by = vjepa2.angles((2, 3, 4), 32)
    assert by.shape == (24, 32)
    rates = 10000 ** (-np.arange(5) / 5)
    np.testing.assert_allclose(by[1 * 12 + 2 * 4 + 3, :10], np.tile(rates, 2), rtol=1e-6)
    np.testing.assert_allclose(by[1 * 12 + 2 * 4 + 3, 10:20], 2 * np.tile(rates, 2), rtol=1e-6)
    np.testing.assert_allclose(by[1 * 12 + 2 * 4 + 3, 20:30], 3 * np.tile(rates, 2), rtol=1e-6)
    assert not by[:, 30:].any()
    assert not by[0].any()


def test_rotate():
    """Each pair of channels in its plane: a quarter turn takes (a, b) to (-b, a)."""
    x = np.random.RandomState(0).randn(2, 3, 2, 8).astype(np.float32)
    turned = vjepa2.rotate(jnp.asarray(x), np.full((3, 8), np.pi / 2, np.float32))
    expected = np.stack([-x[..., 1::2], x[..., 0::2]], -1).reshape(x.shape)
    np.testing.assert_allclose(turned, expected, atol=1e-6)
    np.testing.assert_array_equal(vjepa2.rotate(jnp.asarray(x), np.zeros((3, 8), np.float32)), x)


def test_places_are_seen():
    """Without rotations the net would not tell a clip from the same patches elsewhere; with them it does."""
    model, clip = tiny(), video()
    variables = jax.tree.map(lambda p: 10 * p, init(model))  # as they begin, all tokens are attended to alike
    apply = jax.jit(lambda x: model.apply(variables, x, train=False)[0])
    moved = np.concatenate([clip[:, :, 8:], clip[:, :, :8]], axis=2)
    assert np.abs(apply(clip) - apply(moved)).max() > 1e-4


@pytest.mark.parametrize("depth", [0, 1])
def test_pooler_ignores_the_order_of_tokens(depth):
    pooler, tokens = transformer.AttentivePooler(2, depth), np.random.RandomState(0).randn(2, 7, 8).astype(np.float32)
    variables = jax.jit(lambda x: pooler.init(jax.random.key(0), x))(tokens)
    apply = jax.jit(lambda x: pooler.apply(variables, x))
    pooled = apply(tokens)
    assert (pooled.shape, pooled.dtype) == ((2, 8), jnp.float32)
    np.testing.assert_allclose(apply(tokens[:, ::-1]), pooled, atol=1e-5)
    assert np.abs(apply(2 * tokens[:, :4]) - pooled).max() > 1e-3


def test_scan_and_remat_change_nothing():
    variables, grads = init(tiny()), []
    for ways in ({}, {"scan": True, "remat": True}):
        model = tiny(**ways)
        loss = lambda v, m=model: jnp.square(m.apply(v, video(), train=False)[0]).mean()  # noqa: E731
        grads.append(jax.jit(jax.grad(loss))(variables))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *grads)


def test_mean_without_a_pooler():
    model = tiny(pooler=None, num_classes=0)
    features, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(init(model), video())
    np.testing.assert_allclose(features, out["tokens"].mean(1), atol=1e-6)


def test_error():
    with pytest.raises(ValueError, match="A clip of 3x16x16 does not divide into patches of 2x8x8"):
        models.shapes(tiny(), (1, 3, 16, 16, 3))
