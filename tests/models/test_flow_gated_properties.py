"""flow_gated by its definition: sizes layer by layer, standardised clips, gates, and a loss that falls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidjax import models
from vidjax.models import flow_gated
from vidjax.nn import lowering


def build(variant="small", **fields):
    return models.build({"name": "flow_gated", "variant": variant}, **fields)


def tiny(**fields):
    return build(**{"widths": (3, 4), "merge_widths": (5,), "merge_pools": ((2, 2, 2),), "num_classes": 3} | fields)


def clips(batch=2, frames=4, size=16):
    rng = np.random.default_rng(0)
    draw = lambda c: rng.random((batch, frames, size, size, c), np.float32)  # noqa: E731
    return {"rgb": draw(3), "flow": 2 * draw(2) - 1}


@pytest.fixture(autouse=True)
def compiled_fast():
    with lowering("native"):
        yield


def init(model, inputs):
    """Random weights without XLA, which compiles every random kernel for seconds."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return np.float32(rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape))
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    shapes = models.shapes(model, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), inputs))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def run(model):
    return jax.jit(functools.partial(model.apply, train=False))


def formula(row, frames, size, classes):
    """(parameters, multiply-adds) of a variant, layer after layer."""
    totals = np.zeros(2, np.int64)

    def pair(c, n, frames, size):
        for weights in (9 * c * n, 3 * n * n):
            totals[:] += [weights + n + 2 * n * row.get("norm", False), weights * frames * size * size]

    for c in (3, 2):
        side = size
        for n in row["widths"]:
            pair(c, n, frames, side)
            c, side = n, side // 2
    frames //= row["pool"]
    for n, (t, k, _) in zip(row["merge_widths"], row["merge_pools"], strict=True):
        pair(c, n, frames, side)
        c, frames, side = n, frames // t, side // k
    c *= frames * side * side
    for n in (*row["hidden"], classes):
        totals[:] += [c * n + n, c * n]
        c = n
    return totals


@pytest.mark.parametrize("variant", flow_gated.VARIANTS)
def test_sizes_by_formula(variant):
    row = flow_gated.SIZES[variant]
    params, macs = formula(flow_gated.VARIANTS[variant], *row["input"]["rgb"][:2], row["classes"])
    model, shape = build(variant, num_classes=row["classes"]), models.batched(row["input"])
    assert models.parameters(model, shape) == params == row["params"]
    assert models.macs(model, shape) == macs
    assert abs(macs / 1e9 - row["gmac"]) <= 5e-4  # printed to three decimals


def test_neither_range_nor_offset_of_an_input_matters():
    """So bytes of the reference and our [0, 1] and [-1, 1] are the same to it."""
    model, inputs = tiny(), clips()
    variables = init(model, inputs)
    bytes_ = {"rgb": 255 * inputs["rgb"], "flow": 127.5 * inputs["flow"] + 127.5}
    expected, found = (run(model)(variables, x)[0] for x in (inputs, bytes_))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())  # float32 of 255 times the range


def test_clips_are_standardised_one_by_one():
    video = np.random.default_rng(0).normal(3, 7, (2, 3, 4, 5, 2)).astype(np.float32)
    found = flow_gated.standardised(jnp.asarray(video))
    for clip, expected in zip(np.asarray(found), video, strict=True):
        np.testing.assert_allclose(clip, (expected - expected.mean()) / expected.std(), atol=1e-5)  # float32


def test_a_blank_clip_has_finite_scores_and_gradients():
    """What could not be read is all zero and masked: a NaN would survive the mask."""
    model, inputs = tiny(stretch=True), jax.tree.map(np.zeros_like, clips())
    variables = init(model, inputs)
    loss = lambda v, x: jnp.square(model.apply(v, x, train=False)[0]).sum()  # noqa: E731
    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_stretched_fields_fill_their_range():
    flow = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 2)).astype(np.float32)
    flow[1, 2, ..., 0] = 0.3  # no motion along x
    found = np.asarray(flow_gated.stretched(jnp.asarray(flow)))
    low, high = found.min((2, 3)), found.max((2, 3))
    assert not low.any()
    expected = np.ones((2, 3, 2))
    expected[1, 2, 0] = 0
    np.testing.assert_allclose(high, expected, rtol=1e-6)  # a quotient in float32
    model, inputs = tiny(stretch=True), clips()
    variables = init(model, inputs)
    doubled = inputs | {"flow": 2 * inputs["flow"] * np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1, 1) + 1}
    expected, found = (run(model)(variables, x)[0] for x in (inputs, doubled))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())  # float32 of scaled fields


def test_the_flow_opens_gates_for_the_pixels():
    model, inputs = tiny(norm=False), clips()
    variables = init(model, inputs)
    logits, out = run(model)(variables, inputs)
    gates = np.asarray(out["flow2"])
    assert gates.shape == out["rgb2"].shape == (2, 4, 4, 4, 4)
    assert 0 < gates.min() < gates.max() < 1
    product = (gates * out["rgb2"]).reshape(2, 2, 2, 4, 4, 4).max(2)  # of two frames
    np.testing.assert_allclose(out["gated"], product, rtol=1e-6)  # float32
    variables["params"]["flow2"]["temporal"]["bias"] -= 200  # every gate closed
    closed = [run(model)(variables, x)[0] for x in (inputs, inputs | {"rgb": inputs["rgb"][::-1]})]
    np.testing.assert_array_equal(*closed)
    assert np.abs(logits - closed[0]).max() > 1e-3


def test_channels_may_come_reversed():
    inputs = clips()
    model, fields = tiny(), {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}
    variables = init(model, inputs)
    expected = run(model.clone(mean=(0.3, 0.2, 0.1), std=(3.0, 2.0, 1.0)))(variables, inputs)[0]
    reversed_ = inputs | {"rgb": inputs["rgb"][..., ::-1]}
    variables["params"]["rgb1"]["spatial"]["kernel"] = variables["params"]["rgb1"]["spatial"]["kernel"][..., ::-1, :]
    found = run(model.clone(**fields))(variables, reversed_)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # float32, added up in another order
    bgr = run(model.clone(order="BGR", **fields))(variables, inputs)[0]
    np.testing.assert_allclose(bgr, found, rtol=1e-5)  # compiled apart


def test_it_learns():
    """Which way a pattern drifts: told by the flow alone, the pixels are noise."""
    rng, model = np.random.default_rng(0), tiny(norm=True, num_classes=2)
    labels = np.arange(8) % 2
    inputs = clips(8)
    inputs["flow"][..., 0] *= 0.1
    inputs["flow"][..., 0] += (labels * 2 - 1).reshape(8, 1, 1, 1) * rng.random((16, 16))
    tx = optax.adam(1e-2)
    variables = init(model, inputs)
    params, stats = variables["params"], variables["batch_stats"]

    @jax.jit
    def step(params, stats, opt_state, key):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            keys = {"dropout": key}
            (logits, _), state = model.apply(variables, inputs, train=True, rngs=keys, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state, value

    opt_state, values = tx.init(params), []
    for key in jax.random.split(jax.random.key(0), 30):
        params, stats, opt_state, value = step(params, stats, opt_state, key)
        values.append(float(value))
    assert values[0] > 0.5
    assert np.mean(values[-5:]) < 0.2


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (np.zeros((1, 4, 16, 16, 3), np.float32), "an rgb and a flow input; set data.modalities"),
        ({"rgb": np.zeros((1, 4, 16, 16, 3), np.float32)}, "an rgb and a flow input"),
        (clips(1, frames=2), r"nothing of clips of \(2, 16, 16\): use longer or larger clips"),
        (clips(1, size=4), r"nothing of clips of \(4, 4, 4\)"),
    ],
)
def test_errors(inputs, sentence):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    with pytest.raises(ValueError, match=sentence):
        models.shapes(tiny(), shapes)
