"""The Quo Vadis nets: sizes by hand, what they average and train on, the LSTM by NumPy, a gradient step by PyTorch."""

import functools
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vidjax import losses, models
from vidjax.models import quo_vadis
from vidjax.nn import BatchNorm, lowering

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TRUNK, HEAD = 5_599_904, 1024 * 400 + 400  # tests/backbones/test_inception.py; of 1024 features
FLOW = TRUNK + 17 * 49 * 64  # a first kernel for twenty channels instead of three
CONVS = ((3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512))
FCS = ((512 * 1 * 4 * 4, 4096), (4096, 4096))  # 16x112x112 halved five times, rounding up


@pytest.mark.parametrize(
    ("variant", "params", "published"),  # published: card 8
    [
        ("lstm", TRUNK + 2048 * (1024 + 512 + 2) + 512 * 400 + 400, 8_954_928),
        (
            "c3d",
            sum(i * o * 27 + 2 * o for i, o in CONVS) + sum(i * o + 2 * o for i, o in FCS) + 4096 * 400 + 400,
            None,
        ),
        ("two_stream", TRUNK + FLOW + 2 * HEAD, 12_073_120),
        ("fused", TRUNK + FLOW + 2048 * 512 * 27 + 512 + 512 * 400 + 400, None),
    ],
)
def test_sizes(variant, params, published):
    assert quo_vadis.SIZES[variant]["params"] == params
    assert published in (None, params)
    assert round(params / 1e6, 1) == {"lstm": 9.0, "c3d": 79.6, "two_stream": 12.1, "fused": 39.8}[variant]


def drawn(model, video):
    """Variables made from their paths alone."""

    def draw(path, leaf):
        name = "/".join(key.key for key in path)
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        if leaf.ndim == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) - ("mean" in name or "bias" in name)
        return (rng.randn(*leaf.shape) * np.sqrt(2 / math.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, models.shapes(model, video))


def stepper(model, variables, video, weights):
    """Training loss of params, labels 0, 1, 2, ..., compiled: -> ((loss, (logits, out)), gradient)."""
    targets = jnp.eye(model.num_classes)[: jax.tree.leaves(video)[0].shape[0]]

    def loss(params):
        with lowering("native"):  # compiles faster
            (logits, out), _ = model.apply(variables | {"params": params}, video, train=True, mutable=["batch_stats"])
        each, _ = losses.total(logits, out, targets, weights=weights, loss=losses.softmax_cross_entropy)
        return each.mean(), (logits, out)

    return jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)


def scores(variant, logits, out):
    """Asserts what the logits of a variant are made of."""
    if variant == "small_lstm":
        steps = out["aux_logits/steps"]
        assert steps.shape == (4, 8, 8)  # batch, frames, classes
        np.testing.assert_array_equal(logits, steps[:, -1])
    elif variant == "small_two_stream":
        streams = [special.softmax(out[f"aux_logits/{name}"], -1) for name in ("rgb", "flow")]
        assert streams[0].shape == (4, 2, 8)
        np.testing.assert_allclose(np.exp(logits), np.mean(streams, (0, 2)), rtol=1e-5)  # float32
    elif variant == "small_fused":
        assert out["fusion"].shape == (4, 4, 2, 2, 48)
        assert out["rgb/map"].shape == out["flow/map"].shape == (4, 4, 2, 2, 128)


@pytest.mark.parametrize(
    ("variant", "weights"),
    [
        ("small", {}),
        ("small_lstm", {"main": 0.0}),
        ("small_two_stream", {"main": 0.0}),
        ("small_fused", {}),
    ],
)
def test_loss_falls(variant, weights):
    """Three steps on four clips; every parameter has a gradient."""
    shapes = models.batched(quo_vadis.SIZES[variant]["input"], 4)
    rng = np.random.RandomState(0)
    cut = lambda s: rng.rand(s[0], s[1], 24, 24, s[4]).astype(np.float32)  # noqa: E731
    video = jax.tree.map(cut, shapes, is_leaf=lambda s: isinstance(s, tuple))
    model = models.build({"name": "quo_vadis", "variant": variant}, num_classes=8)
    variables = drawn(model, video)
    step, params, seen = stepper(model, variables, video, weights), variables["params"], []
    for i in range(4):
        (value, (logits, out)), gradient = step(params)
        seen.append(float(value))
        if i == 0:
            scores(variant, logits, out)
            assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
    assert seen[-1] < 0.9 * seen[0]


def test_one_gradient_step():
    """Loss before and after: PyTorch 2.13's, float64, with a net written from the paper and these weights."""
    video = np.random.RandomState(0).rand(3, 4, 16, 16, 3).astype(np.float32)
    fields = {"convs": ((4,), (6,), (8, 8)), "fcs": (10,)}
    model = models.build({"name": "quo_vadis", "variant": "small", **fields}, num_classes=3)
    variables = drawn(model, video)
    step = stepper(model, variables, video, {})
    (before, _), gradient = step(variables["params"])
    (after, _), _ = step(jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], gradient))
    np.testing.assert_allclose([before, after], [1.2658301841, 1.4651139250], rtol=1e-4)  # float32, norms over three


def test_lstm():
    """Gates i, f, g, o of normalised inputs, 1 added to f, against a loop in NumPy."""
    norm = functools.partial(BatchNorm, True, 0.99, 1e-3)
    x = np.random.RandomState(0).randn(2, 5, 3).astype(np.float32)
    net = quo_vadis.Lstm(4, norm)
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), x)
    rng = np.random.RandomState(1)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype(np.float32), shapes)
    params, stats = variables["params"], variables["batch_stats"]["input_bn"]
    h, c, expected = np.zeros((2, 4)), np.zeros((2, 4)), []
    for t in range(5):
        scale = params["input_bn"]["scale"] / np.sqrt(stats["var"] + 1e-3)
        z = (x[:, t] @ params["input"]["kernel"] - stats["mean"]) * scale + params["input_bn"]["bias"]
        i, f, g, o = np.split(z + h @ params["recurrent"], 4, axis=-1)
        c = special.expit(f + 1) * c + special.expit(i) * np.tanh(g)
        h = special.expit(o) * np.tanh(c)
        expected.append(h)
    np.testing.assert_allclose(jax.jit(net.apply)(variables, x), np.stack(expected, 1), rtol=1e-5)  # float32


def test_errors():
    rgb, flow = (1, 2, 16, 16, 3), (1, 3, 16, 16, 4)
    build = lambda **fields: models.build({"name": "quo_vadis", "variant": "small_fused", **fields})  # noqa: E731
    with pytest.raises(ValueError, match="net is one of lstm, c3d, two_stream, fused, not 'late'"):
        models.shapes(build(net="late"), rgb)
    with pytest.raises(ValueError, match=r"'fused' needs the inputs rgb and flow by name; there is \['rgb'\]"):
        models.shapes(build(), rgb)
    with pytest.raises(ValueError, match="needs a flow stack for each RGB frame, not 3 for 2"):
        models.shapes(build(), {"rgb": rgb, "flow": flow})
