"""movinet: sizes by formula, streams equal whole clips however they are cut, causality, states, choices of a block."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import movinet


def build(variant, **fields):
    return models.build({"name": "movinet", "variant": variant}, **fields)


def tiny(**fields):
    """A net of three small blocks, one of which sees a single frame."""
    net = {"widths": (4, 6), "expansions": ((8, 8), (12,)), "kernels": (((1, 5), (3, 3)), ((5, 3),)), "strides": (1, 2)}
    return build("small", **net, stem_width=4, project_width=8, hidden_width=8, num_classes=3, **fields)


def variables(model, video):
    """Random ones; the scales of blocks and positions, which begin at 0, are 1."""
    found = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)
    one = lambda x: jnp.ones_like(x) if x.ndim == 0 else x  # noqa: E731
    return found | {"params": jax.tree.map(one, found["params"])}


def clip(frames, height=13, width=18, batch=2):
    return np.random.RandomState(0).rand(batch, frames, height, width, 3).astype(np.float32)


def counts(variant, frames, size, classes=600):
    """(trained parameters, multiply-adds) from the tables of blocks; a depthwise kernel counts per channel."""
    model = build(variant)
    stream, n = model.conv_type != "3d", -(-size // 2)
    params, macs, c = 29 * model.stem_width, 27 * model.stem_width * frames * n * n, model.stem_width
    for *_, width, e, (t, k), stride in model.blocks():
        inner, n = n, -(-n // stride)
        split = stream and t > 1
        taps = k * k + t if split else t * k * k
        means, gates = 2 * e if stream else e, frames if stream else 1
        squeezed = 8 * math.floor(means / 32 + 0.5) or 8
        squeezed += 8 * (squeezed < 0.9 * means / 4)
        params += (c + 2) * e + (taps + 2 + 2 * split) * e + (e + 2) * width + 1 + model.positions
        params += (means + 1) * squeezed + (squeezed + 1) * e
        macs += frames * (inner * inner * c * e + n * n * (taps * e + e * width)) + gates * squeezed * (means + e)
        if c != width or stride > 1:
            params, macs = params + (c + 2) * width, macs + frames * n * n * c * width
        c = width
    params += (c + 2) * model.project_width + (model.project_width + 1) * 2048 + 2049 * classes
    return params, macs + frames * n * n * c * model.project_width + 2048 * (model.project_width + classes)


@pytest.mark.parametrize("variant", [v for v in movinet.VARIANTS if v != "small"])
def test_sizes_by_formula(variant):
    row = movinet.SIZES[variant]
    params, macs = counts(variant, *row["input"][:2])
    assert row["params"] == params
    assert abs(row["gmac"] - macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals


# GFLOPs of table 1 of the paper and megabytes of TF Garden's checkpoints (its README): four bytes a number.
PUBLISHED = {"a0": (2.71, 12), "a1": (6.02, 18), "a3": (56.9, 29), "a4": (105, 44), "a5": (281, 72)}


@pytest.mark.parametrize("net", PUBLISHED)
def test_published_sizes(net):
    gflops, megabytes = PUBLISHED[net]
    row = movinet.SIZES[f"{net}_base"]
    assert 0.97 * gflops < row["gmac"] < gflops  # theirs count norms, activations and pools too
    assert abs(4 * row["params"] / 2**20 - megabytes) < 0.04 * megabytes  # theirs have the norms' statistics too


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"conv_type": "3d", "positions": True},
        {"se_type": "3d", "activation": "swish", "gating": "sigmoid"},
        {"se_type": "2d"},
    ],
)
def test_stream_equals_clip_however_it_is_cut(fields):
    model, video = tiny(**fields), clip(7)
    weights = variables(model, video)
    step = jax.jit(lambda v, x, s: model.apply(v, x, s, method="stream"), donate_argnums=2)
    whole = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(weights, video)
    rng = np.random.RandomState(len(fields))
    for cuts in (tuple(range(1, 7)), tuple(sorted(rng.choice(range(1, 7), 2, replace=False)))):
        state = model.initial_state(2, 13, 18)
        kinds = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        for part in np.split(video, cuts, axis=1):
            logits, state = step(weights, part, state)
        np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-5 * np.abs(whole).max())
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == kinds  # so that it can be donated
        counters = [x for name, x in state.items() if name.endswith("frame_count")]
        assert all(np.array_equal(x, [7]) for x in counters)


def test_a_stream_does_not_see_the_future_and_a_base_net_does():
    video = clip(5)
    later = video.copy()
    later[:, 3:] = 0
    for causal in (True, False):
        model = tiny(causal=causal)
        weights = variables(model, video)
        out = jax.jit(lambda v, x, m=model: m.apply(v, x, train=False)[1]["stage1_block0"])
        same = np.abs(np.asarray(out(weights, video) - out(weights, later))[:, :3]).max() == 0
        assert same == causal


def test_base_nets_have_no_state():
    with pytest.raises(ValueError, match="choose a stream variant such as a0_stream"):
        build("a0_base").initial_state(1, 8, 8)


def test_convolution_in_two_has_one_name_more():
    """3d_2plus1d is 2plus1d: the same variables and the same logits."""
    video = clip(4)
    model, other = tiny(), tiny(conv_type="3d_2plus1d")
    weights = variables(model, video)
    logits = [jax.jit(lambda v, x, m=m: m.apply(v, x, train=False)[0])(weights, video) for m in (model, other)]
    np.testing.assert_array_equal(*logits)


def test_hard_activations():
    x = np.linspace(-5, 5, 41, dtype=np.float32)
    table = {name: np.asarray(f(jnp.asarray(x))) for name, f in movinet.ACTIVATIONS.items()}
    np.testing.assert_allclose(table["hard_sigmoid"], np.clip(x + 3, 0, 6) * 0.16667, rtol=1e-6)
    np.testing.assert_allclose(table["hard_swish"], x * np.clip(x + 3, 0, 6) / 6, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(table["keras_hard_sigmoid"], np.clip(0.2 * x + 0.5, 0, 1), rtol=1e-6, atol=1e-7)


def test_frame_positions_by_hand():
    found = np.asarray(movinet.frame_positions(jnp.array([3]), 2, 4)).reshape(2, 4)
    wanted = [[math.sin(n), math.sin(n / 100), math.cos(n), math.cos(n / 100)] for n in (3, 4)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)  # float32 angles


def test_running_mean_by_hand():
    frames = np.random.RandomState(0).rand(2, 5, 1, 1, 3).astype(np.float32)
    mean, state = movinet.running_mean(jnp.asarray(frames), {})
    for t in range(5):
        np.testing.assert_allclose(mean[:, t], frames[:, : t + 1].mean(1), rtol=1e-6)
    np.testing.assert_allclose(state["pool_buffer"][:, 0], frames.sum(1), rtol=1e-6)


def test_drop_path_leaves_inputs_of_blocks():
    """At a rate of 1 the last block is its input, in training; in evaluation it is not."""
    model, video = tiny(drop_path=1.0).clone(widths=(4, 4), strides=(1, 1)), clip(2)  # the last adds to its input
    weights = variables(model, video)

    def last(train):
        apply = lambda v, x, k: model.apply(v, x, train=train, rngs={"dropout": k}, mutable=["batch_stats"])  # noqa: E731
        (_, out), _ = jax.jit(apply)(weights, video, jax.random.key(1))
        return np.array_equal(out["stage1_block0"], out["stage0_block1"])

    assert last(True)
    assert not last(False)


def test_loss_falls():
    """Ten steps of gradient descent, at a rate of 1, on three clips: every scale that begins at 0 moves."""
    model, video = tiny(dropout=0.0), clip(3, 12, 12, batch=3)
    state = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)

    @jax.jit
    def step(params):
        def loss(params):
            (logits, _), _ = model.apply(state | {"params": params}, video, train=True, mutable=["batch_stats"])
            return -jnp.diagonal(jax.nn.log_softmax(logits)).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - g, params, grads)

    params, losses = state["params"], []
    for _ in range(10):
        value, params = step(params)
        losses.append(float(value))
    assert losses[0] == pytest.approx(math.log(3), rel=0.2)  # classes are as likely
    assert losses[-1] < 0.7 * losses[0]
    assert all(params[name]["scale"] != 0 for name in params if name.startswith("stage"))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"widths": (4,)}, "of one length"),
        ({"conv_type": "4d"}, "conv_type is one of 3d, 2plus1d, 3d_2plus1d, not '4d'"),
        ({"se_type": "1d"}, "not '1d'"),
        ({"activation": "relu"}, "not 'relu'"),
    ],
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), (1, 2, 8, 8, 3))
