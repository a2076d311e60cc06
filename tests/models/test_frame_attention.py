"""Attention: maps that sum to 1, hard choices with soft gradients, equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import frame_attention
from vidjax.models.frame_attention import Attention, AttentiveLSTM, choose

RGB = np.random.RandomState(0).rand(2, 5, 16, 16, 3).astype(np.float32)
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.float32)
TINY = {"backbone": "small", "backbone_fields": (("widths", (4, 8)), ("strides", (2, 2))), "width": 4, "num_classes": 3}


def draw(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("fields", [{}, {"recurrent": "lstm", "hidden": 6}, {"recurrent": "convlstm", "hidden": 6}])
def test_maps(kind, fields):
    model = frame_attention.Model(**TINY | fields, kind=kind)
    video = {"rgb": RGB, "frame_mask": MASK}
    shapes = models.shapes(model, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), video))
    variables = jax.tree.map(lambda s: np.abs(0.3 * draw(*s.shape, seed=s.size)), shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False))
    logits, out = apply(variables, video)
    frames, regions = np.asarray(out["attention/frames"]), np.asarray(out["attention/regions"])
    assert regions.shape == (2, 5, 4, 4)
    np.testing.assert_allclose(frames.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(regions[MASK > 0].sum((1, 2)), 1, rtol=1e-6)
    np.testing.assert_array_equal(frames[0, 3:], 0)
    ones = kind == "hard"
    assert (sorted(set(frames.ravel().tolist())) == [0.0, 1.0]) == ones
    assert (sorted(set(regions.ravel().tolist())) == [0.0, 1.0]) == ones
    short, _ = apply(variables, RGB[:1, :3])
    np.testing.assert_allclose(logits[:1], short, rtol=1e-5, atol=1e-6)  # compiled apart


def test_a_hard_choice_has_the_soft_gradient():
    scores, values = jnp.asarray(draw(3, 7)), draw(3, 7, seed=1)
    assert (choose(scores, "hard") == jax.nn.one_hot(scores.argmax(-1), 7)).all()
    hard, soft = (jax.grad(lambda s, k=kind: (choose(s, k) * values).sum())(scores) for kind in ("hard", "soft"))
    np.testing.assert_allclose(hard, soft, rtol=1e-6)
    assert np.abs(soft).max() > 0.01


def test_noise_draws_from_the_softmax():
    scores = jnp.broadcast_to(jnp.log(jnp.array([[0.6, 0.3, 0.1]])), (4000, 3))
    picked = choose(scores, "hard", jax.random.gumbel(jax.random.key(0), scores.shape)).mean(0)
    np.testing.assert_allclose(picked, [0.6, 0.3, 0.1], atol=0.03)  # three standard deviations of 4000 draws are .023


def test_attention_in_numpy():
    layer, x = Attention(4), draw(2, 6, 5)
    params = jax.tree.map(lambda p: draw(*p.shape, seed=p.size), layer.init(jax.random.key(0), x)["params"])
    found, weights = layer.apply({"params": params}, x)
    scores = np.tanh(x @ params["key"]["kernel"] + params["key"]["bias"]) @ params["score"]["kernel"][:, 0]
    np.testing.assert_allclose(weights, softmax(scores), rtol=1e-5)
    np.testing.assert_allclose(found, (softmax(scores)[..., None] * x).sum(1), rtol=1e-4, atol=1e-6)  # float32 sums


def test_attentive_lstm_in_numpy():
    layer, x = AttentiveLSTM(3, 4), draw(2, 6, 5, 7)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))["params"]
    params = jax.tree.map(lambda p: 0.5 * draw(*p.shape, seed=p.size), shapes)
    hidden, weights = jax.jit(layer.apply)({"params": params}, x)
    for one, states, maps in zip(x, hidden, weights, strict=True):
        h, c = np.zeros(3), np.zeros(3)
        for x_t, state, found in zip(one, states, maps, strict=True):
            seen = np.tanh(x_t @ params["key"]["kernel"] + params["key"]["bias"] + h @ params["query"])
            share = softmax((seen @ params["score"])[:, 0])
            gates = np.concatenate([share @ x_t, h]) @ params["kernel"] + params["bias"]
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            np.testing.assert_allclose(found, share, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(state, h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "firm"}, "'soft' or 'hard', not 'firm'"),
        ({"recurrent": "gru", "hidden": 3}, "'', 'convlstm' or 'lstm', not 'gru'"),
        ({"recurrent": "lstm"}, "go together"),
    ],
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(frame_attention.Model(**TINY | fields), RGB.shape)


def test_sizes_by_hand():
    resnet50 = 25_557_032 - 1000 * 2049  # [P] torchvision, without its classifier
    attention = (2048 * 256 + 256 + 256), (512 * 256 + 256 + 256)
    size = {name: row["params"] for name, row in frame_attention.SIZES.items()}
    assert size["pool"] == size["hard"] == resnet50 + 2 * attention[0] + 2049 * 101
    lstm = 4 * ((2048 + 512) * 512 + 512)
    assert size["lstm"] == resnet50 + attention[0] + 512 * 256 + lstm + attention[1] + 513 * 101
