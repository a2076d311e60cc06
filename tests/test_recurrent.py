"""Recurrent layers against their equations in NumPy, masks against loops over samples, pieces against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import recurrent

B, T, D, H = 3, 7, 5, 4
LENGTHS = np.array([7, 3, 5])
MASK = (np.arange(T) < LENGTHS[:, None]).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x):
    """Keras 2's."""
    return np.clip(0.2 * x + 0.5, 0, 1)


def draw(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def drawn(layer, x):
    """Random variables of a layer, biases included."""
    shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x), x)
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [0.5 * draw(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])


def run(layer, variables, x, mask=None, state=None):
    return jax.jit(layer.apply)(variables, x, mask, state)


def rnn(p, x):
    h, found = np.zeros(H), []
    for x_t in x:
        h = np.tanh(x_t @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"])
        found.append(h)
    return np.array(found)


def lstm(p, x, gate=sigmoid):
    """The six equations of S1, section 3.1.3, gate by gate."""
    (wi, wf, wg, wo), (ui, uf, ug, uo) = (np.split(p[k], 4, -1) for k in ("kernel", "recurrent_kernel"))
    bi, bf, bg, bo = np.split(p["bias"], 4)
    h, c, found = np.zeros(H), np.zeros(H), []
    for x_t in x:
        i = gate(x_t @ wi + h @ ui + bi)
        f = gate(x_t @ wf + h @ uf + bf)
        o = gate(x_t @ wo + h @ uo + bo)
        g = np.tanh(x_t @ wg + h @ ug + bg)
        c = f * c + i * g
        h = o * np.tanh(c)
        found.append(h)
    return np.array(found)


def gru(p, x, reset):
    (wr, wz, wn), (ur, uz, un) = (np.split(p[k], 3, -1) for k in ("kernel", "recurrent_kernel"))
    br, bz, bn = np.split(p["bias"], 3)
    cr, cz, cn = np.split(p.get("recurrent_bias", np.zeros(3 * H)), 3)
    h, found = np.zeros(H), []
    for x_t in x:
        r = sigmoid(x_t @ wr + br + h @ ur + cr)
        z = sigmoid(x_t @ wz + bz + h @ uz + cz)
        seen = r * (h @ un + cn) if reset == "after" else (r * h) @ un
        h = (1 - z) * np.tanh(x_t @ wn + bn + seen) + z * h
        found.append(h)
    return np.array(found)


CASES = [
    (recurrent.RNN(H), rnn),
    (recurrent.LSTM(H), lstm),
    (recurrent.LSTM(H, gate="hard_sigmoid"), lambda p, x: lstm(p, x, hard_sigmoid)),
    (recurrent.GRU(H), lambda p, x: gru(p, x, "after")),
    (recurrent.GRU(H, reset="before"), lambda p, x: gru(p, x, "before")),
]


@pytest.mark.parametrize(("layer", "oracle"), CASES)
def test_equations(layer, oracle):
    x = draw(B, T, D)
    variables = drawn(layer, x)
    hidden, state = run(layer, variables, x)
    params = {name: value.astype(np.float64) for name, value in variables["params"].items()}
    np.testing.assert_allclose(hidden, [oracle(params, one) for one in x], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state[0], hidden[:, -1])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("layer", "oracle"), CASES)
def test_masked_lengths_equal_a_loop_over_samples(layer, oracle, reverse):
    layer, x = layer.clone(reverse=reverse), draw(B, T, D)
    variables = drawn(layer, x)
    hidden, state = run(layer, variables, np.where(MASK[..., None] > 0, x, np.float32(1e3)), MASK)
    params = {name: value.astype(np.float64) for name, value in variables["params"].items()}
    for n, one, found, last in zip(LENGTHS, x, hidden, state[0], strict=True):
        expected = oracle(params, one[:n][::-1])[::-1] if reverse else oracle(params, one[:n])
        np.testing.assert_allclose(found[:n], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(last, found[0] if reverse else found[n - 1])
        np.testing.assert_array_equal(found[n:], np.zeros((T - n, H)) if reverse else np.tile(last, (T - n, 1)))


def test_a_masked_step_in_the_middle_carries_the_state():
    layer, x = recurrent.LSTM(H), draw(1, 4, D)
    variables = drawn(layer, x)
    hidden, _ = run(layer, variables, x, np.array([[1, 0, 0, 1]], np.float32))
    expected, _ = run(layer, variables, x[:, [0, 3]])
    np.testing.assert_allclose(hidden[:, [0, 1, 2, 3]], expected[:, [0, 0, 0, 1]], rtol=1e-6)  # compiled apart


def conv_lstm(p, x, gate, same):
    """(T, H, W, C) -> (T, H', W', F), a convolution being a sum over taps."""

    def conv(x, kernel, same):
        x = np.pad(x, ((1, 1), (1, 1), (0, 0))) if same else x
        h, w = x.shape[0] - 2, x.shape[1] - 2
        return sum(x[i : i + h, j : j + w] @ kernel[0, i, j] for i in range(3) for j in range(3))

    c, h, found = 0.0, None, []
    for x_t in x:
        gates = conv(x_t, p["kernel"], same) + p["bias"]
        if h is not None:
            gates = gates + conv(h, p["recurrent_kernel"], True)
        i, f, g, o = np.split(gates, 4, -1)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        found.append(h)
    return np.array(found)


@pytest.mark.parametrize(("gate", "padding"), [("sigmoid", "VALID"), ("hard_sigmoid", "SAME")])
def test_conv_lstm(gate, padding):
    layer, x = recurrent.ConvLSTM(H, padding=padding, gate=gate), draw(B, T, 6, 5, D)
    variables = drawn(layer, x)
    hidden, state = run(layer, variables, np.where(MASK[..., None, None, None] > 0, x, np.float32(1e3)), MASK)
    params = {name: value.astype(np.float64) for name, value in variables["params"].items()}
    squash = {"sigmoid": sigmoid, "hard_sigmoid": hard_sigmoid}[gate]
    for n, one, found, last in zip(LENGTHS, x, hidden, state[0], strict=True):
        expected = conv_lstm(params, one[:n], squash, padding == "SAME")
        np.testing.assert_allclose(found[:n], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(last, found[n - 1])


def test_a_conv_lstm_of_1x1_is_an_lstm_of_every_place():
    x = draw(2, T, 3, 2, D)
    layer = recurrent.ConvLSTM(H, kernel_size=1)
    variables = drawn(layer, x)
    dense = jax.tree.map(lambda k: k.reshape(k.shape[-2:]) if k.ndim == 5 else k, variables)
    hidden, _ = run(layer, variables, x)
    places = np.moveaxis(x, 1, 3).reshape(12, T, D)
    expected, _ = run(recurrent.LSTM(H), dense, places)
    np.testing.assert_allclose(np.moveaxis(hidden, 1, 3).reshape(12, T, H), expected, rtol=1e-5, atol=1e-6)


STACKS = [recurrent.Stack(kind, H, layers=2) for kind in recurrent.LAYERS]


@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.kind)
def test_pieces_of_a_video_equal_the_whole(stack):
    x = draw(2, T, *((3, 3) if stack.kind == "convlstm" else ()), D)
    variables, rng, apply = drawn(stack, x), np.random.RandomState(1), jax.jit(stack.apply)
    whole, last = apply(variables, x)
    for _ in range(3):
        cuts = np.sort(rng.choice(np.arange(1, T), 2, replace=False))
        state, found = jax.tree.map(jnp.zeros_like, last), []
        for piece in np.split(x, cuts, axis=1):
            hidden, state = apply(variables, piece, None, state)
            found.append(hidden)
        np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=1e-5, atol=1e-6)  # compiled apart
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, last)


def test_both_ways():
    stack, x = recurrent.Stack("gru", H, layers=2, both=True), draw(B, T, D)
    variables = drawn(stack, x)
    padded = np.where(MASK[..., None] > 0, x, np.float32(1e3))
    hidden, states = run(stack, variables, padded, MASK)
    last = recurrent.final(states)
    assert hidden.shape == (B, T, 2 * H)
    for i, n in enumerate(LENGTHS):
        alone, own = run(stack, variables, x[i : i + 1, :n])
        np.testing.assert_allclose(hidden[i, :n], alone[0], rtol=1e-5, atol=1e-6)  # compiled apart
        np.testing.assert_allclose(last[i], recurrent.final(own)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(last[i], np.concatenate([hidden[i, n - 1, :H], hidden[i, 0, H:]]))
    with pytest.raises(ValueError, match="it takes no state"):
        stack.apply(variables, x, None, states)


def test_the_recurrence_is_compiled_once_whatever_the_length():
    layer = recurrent.LSTM(H)
    count = lambda t: str(jax.make_jaxpr(layer.apply)(drawn(layer, draw(1, t, D)), draw(1, t, D))).count("tanh")  # noqa: E731
    assert count(3) == count(50) == 2  # of g and of c


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_gradients_vanish_in_an_rnn_and_last_in_an_lstm(kind):
    """The reason for LSTMs: what the first of 60 steps does to the last, with small weights and an open forget gate."""
    layer, x = recurrent.LAYERS[kind](H), draw(1, 60, D)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    params = jax.tree.map(lambda k: 0.5 * k, variables["params"])
    if kind == "lstm":
        params["bias"] = params["bias"].at[H : 2 * H].set(8.0)
    grad = jax.jit(jax.grad(lambda x: layer.apply({"params": params}, x)[1][-1].sum()))(jnp.asarray(x))
    assert (np.abs(grad[0, 0]).max() > 1e-3) == (kind == "lstm")


def test_gradients_by_finite_differences():
    layer, x = recurrent.Stack("gru", H, both=True), draw(1, 4, D)
    variables = drawn(layer, x)
    value = jax.jit(lambda x: jnp.sum(jnp.square(layer.apply(variables, x, MASK[1:2, :4])[0])))
    direction = draw(*x.shape, seed=1)
    step = 1e-2  # float32: larger than the rounding, and the cubic error stays under a per cent
    numeric = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert np.vdot(jax.jit(jax.grad(value))(x), direction) == pytest.approx(float(numeric), rel=1e-2)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (recurrent.Stack("lstn", H), "one of rnn, lstm, gru, convlstm, not 'lstn'"),
        (recurrent.LSTM(H, gate="relu"), "one of sigmoid, hard_sigmoid, not 'relu'"),
        (recurrent.GRU(H, reset="never"), "'after' or 'before', not 'never'"),
    ],
)
def test_errors(layer, sentence):
    with pytest.raises(ValueError, match=sentence):
        layer.init(jax.random.key(0), draw(1, 2, D))
