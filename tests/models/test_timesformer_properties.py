"""timesformer: sizes by formula, what each scheme of attention sees, blocks in loops, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import timesformer

TINY = {"width": 16, "depth": 1, "heads": 4, "hidden": 24, "patch": 8, "frames": 3, "size": 16, "num_classes": 3}
TINY |= {"drop_path": 0.0}


def tiny(attention="divided", **fields):
    return models.build({"name": "timesformer", "variant": "b", "attention": attention, **TINY | fields})


def video():
    return np.random.RandomState(0).rand(2, 3, 16, 16, 3).astype(np.float32)


def init(model):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video())


@pytest.mark.parametrize("variant", timesformer.VARIANTS)
def test_parameters_by_formula(variant):
    model = models.build({"name": "timesformer", "variant": variant})
    d, patches, classes = model.width, (model.size // model.patch) ** 2, timesformer.SIZES[variant]["classes"]
    attention, norm, mlp = 4 * d * (d + 1), 2 * d, 2 * d * model.hidden + d + model.hidden
    block = attention + mlp + 2 * norm
    block += attention + norm + d * (d + 1) if model.attention == "divided" else 0
    positions = d * (2 + patches) + (d * model.frames if model.attention != "space" else 0)
    total = d * (3 * model.patch**2 + 1) + positions + model.depth * block + norm + (d + 1) * classes
    assert timesformer.SIZES[variant]["params"] == total


# [P] table 1 of the paper and the reference's models: millions of parameters, of which the joint net's leaves its
# positions in time out; 10^9 multiply-adds.
@pytest.mark.parametrize(
    ("variant", "params", "flops"),
    [("b", 121.4, 196), ("b_space", 85.9, None), ("b_joint", 85.9, None), ("hr", None, 1703), ("l", None, 2380)],
)
def test_published_sizes(variant, params, flops):
    row = timesformer.SIZES[variant]
    assert params is None or abs(row["params"] / 1e6 - params) < 0.25  # of nets with other heads
    assert flops is None or abs(row["gmac"] - flops) < 0.5


def test_divided_attention_starts_in_space():
    """Its layer after attention in time is zero at first: a patch sees its frame, the class token all of them."""
    model, clip = tiny(), jnp.asarray(video())
    variables = init(model)
    seen = jax.jit(jax.jacrev(lambda x: model.apply(variables, x, train=False)[1]["block0"][0, :2].sum(-1)))(clip)
    frames = np.abs(seen[:, 0]).sum((2, 3, 4)) > 0
    np.testing.assert_array_equal(frames, [[True, True, True], [True, False, False]])


@pytest.mark.parametrize("attention", timesformer.ATTENTION)
def test_order_of_frames(attention):
    model, clip = tiny(attention), video()
    params = jax.tree.map(lambda x: x + 0.5 * np.random.RandomState(0).randn(*x.shape), init(model))  # no zeros
    apply = jax.jit(lambda x: model.apply(params, x, train=False)[0])
    there, back = apply(clip), apply(clip[:, ::-1])
    if attention == "space":
        np.testing.assert_allclose(there, back, atol=1e-5)
    else:
        assert np.abs(there - back).max() > 1e-3


@pytest.mark.parametrize("attention", timesformer.ATTENTION)
def test_scan_and_remat_change_nothing(attention):
    variables, grads = init(tiny(attention, depth=2)), []
    for ways in ({}, {"scan": True, "remat": True}):
        model = tiny(attention, depth=2, **ways)
        loss = lambda v, m=model: jnp.square(m.apply(v, video(), train=False)[0]).mean()  # noqa: E731
        grads.append(jax.jit(jax.grad(loss))(variables))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *grads)


def test_nearest():
    table = jnp.arange(4.0)[:, None]
    np.testing.assert_array_equal(timesformer.nearest(table, (8,))[:, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(timesformer.nearest(table, (3,))[:, 0], [0, 1, 2])  # floor(4 i / 3), as PyTorch's


def test_errors():
    with pytest.raises(ValueError, match="one of divided, joint, space, not 'axial'"):
        models.shapes(tiny("axial"), (1, 3, 16, 16, 3))
    with pytest.raises(ValueError, match="A clip of 3x12x16 does not divide into patches of 1x8x8"):
        models.shapes(tiny(), (1, 3, 12, 16, 3))
