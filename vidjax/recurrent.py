"""Recurrent layers over time under `lax.scan`: vanilla RNN, LSTM, GRU and convolutional LSTM.

Each is called as `layer(x, mask=None, state=None) -> (hidden, state)`: x (B, T, ...) and hidden (B, T, ...) of every
step, state after the last one. `mask` (B, T) is 1 where a step is real; a masked step carries the state on, so padding
changes nothing, and with `reverse`, which goes from the last step to the first, only the real part is reversed.
A state that comes out can be passed in again: pieces of a video, one after another, give what the whole gives.
Inputs are projected for all steps at once; the recurrence and its state are float32, products are of the dtype asked.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax.nn import conv3d

GATES = {
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": lambda x: jnp.clip(0.2 * x + 0.5, 0, 1),  # of Keras 2; jax.nn's is another
}
glorot, orthogonal, zeros = nn.initializers.glorot_uniform(), nn.initializers.orthogonal(), nn.initializers.zeros


def unroll(step, state, x, mask=None, reverse=False):
    """Applies `step(state, x_t) -> state` along axis 1 of x: -> (the states' first part (B, T, ...), last state).

    x and the parts of a state are arrays or trees of them.
    """

    def body(state, at):
        x, real = at
        new = step(state, x)
        if real is not None:
            keep = lambda n, o: jnp.where(real.reshape(-1, *[1] * (n.ndim - 1)) > 0, n, o)  # noqa: E731
            new = jax.tree.map(keep, new, state)
        return new, new[0]

    swap = lambda x: jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), x)  # noqa: E731
    last, hidden = jax.lax.scan(body, state, swap((x, mask)), reverse=reverse)
    return swap(hidden), last


def forget_one(key, shape, dtype=jnp.float32):
    """Biases of an LSTM's gates: 1 for the forget gate, else 0 (Jozefowicz et al., ICML 2015)."""
    n = shape[0] // 4
    return jnp.zeros(shape, dtype).at[n : 2 * n].set(1)


class RNN(nn.Module):
    """Elman's net: h_t = tanh(W x_t + U h_(t-1) + b): (B, T, D) -> (B, T, features); the state is (h,)."""

    features: int
    reverse: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, state=None):
        kernel, recurrent, bias = _parameters(self, x.shape[-1], 1)
        inputs = _product(x, kernel, self.dtype) + _row(bias, 3)

        def step(state, x):
            return (jnp.tanh(x + _product(state[0], recurrent, self.dtype)),)

        return unroll(step, state or _start(x, self.features, 1), inputs, mask, self.reverse)


class LSTM(nn.Module):
    """Long short-term memory: (B, T, D) -> (B, T, features); the state is (h, c), both (B, features).

    i = s(W_i x_t + U_i h_(t-1) + b_i), f and o likewise, g = tanh(W_g x_t + U_g h_(t-1) + b_g),
    c_t = f c_(t-1) + i g, h_t = o tanh(c_t), where s is `gate`. The gates lie in `kernel` (D, 4 H), `recurrent_kernel`
    (H, 4 H) and `bias` (4 H) in the order i, f, g, o, as in Keras and PyTorch.
    """

    features: int
    reverse: bool = False
    gate: str = "sigmoid"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, state=None):
        kernel, recurrent, bias = _parameters(self, x.shape[-1], 4, forget_one)
        inputs = _product(x, kernel, self.dtype) + _row(bias, 3)
        gate = _gate(self.gate)

        def step(state, x):
            return lstm_step(x + _product(state[0], recurrent, self.dtype), state[1], gate)

        return unroll(step, state or _start(x, self.features, 2), inputs, mask, self.reverse)


class GRU(nn.Module):
    """Gated recurrent unit: (B, T, D) -> (B, T, features); the state is (h,).

    r = s(W_r x_t + U_r h_(t-1) + b_r), z likewise, h_t = (1 - z) n + z h_(t-1). With `reset` "after" (cuDNN, PyTorch,
    Keras) n = tanh(W_n x_t + b_n + r (U_n h_(t-1) + c_n)), c being `recurrent_bias`; with "before" (Cho et al., EMNLP
    2014) n = tanh(W_n x_t + b_n + U_n (r h_(t-1))). The gates lie in the order r, z, n, as in PyTorch (Keras: z, r, n).
    """

    features: int
    reverse: bool = False
    reset: str = "after"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, state=None):
        if self.reset not in ("after", "before"):
            raise ValueError(f"A GRU's field reset is 'after' or 'before', not {self.reset!r}.")
        h, after = self.features, self.reset == "after"
        kernel, recurrent, bias = _parameters(self, x.shape[-1], 3)
        inputs = _product(x, kernel, self.dtype) + _row(bias, 3)
        second = _row(self.param("recurrent_bias", zeros, (3 * h,)), 2) if after else 0.0

        def step(state, x):
            (before,) = state
            gates = _product(before, recurrent if after else recurrent[:, : 2 * h], self.dtype) + second
            r, z = jnp.split(jax.nn.sigmoid(x[:, : 2 * h] + gates[:, : 2 * h]), 2, -1)
            seen = r * gates[:, 2 * h :] if after else _product(r * before, recurrent[:, 2 * h :], self.dtype)
            return ((1 - z) * jnp.tanh(x[:, 2 * h :] + seen) + z * before,)

        return unroll(step, state or _start(x, h, 1), inputs, mask, self.reverse)


class ConvLSTM(nn.Module):
    """LSTM whose products are convolutions (Shi et al., NIPS 2015, without peepholes).

    (B, T, H, W, C) -> (B, T, H', W', features); the state is (h, c), both (B, H', W', features). The convolution of
    the input has `padding`, that of the state keeps its size. The gates lie in `kernel` (1, k, k, C, 4 F),
    `recurrent_kernel` (1, k, k, F, 4 F) and `bias` (4 F) in the order i, f, g, o, as in Keras.
    """

    features: int
    kernel_size: int = 3
    padding: str = "SAME"
    reverse: bool = False
    gate: str = "sigmoid"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, state=None):
        window, n = (1, self.kernel_size, self.kernel_size), self.features
        kernel = self.param("kernel", glorot, (*window, x.shape[-1], 4 * n))
        recurrent = self.param("recurrent_kernel", orthogonal, (*window, n, 4 * n)).astype(self.dtype)
        bias = self.param("bias", forget_one, (4 * n,))
        inputs = conv3d(x.astype(self.dtype), kernel.astype(self.dtype), padding=self.padding)
        inputs, gate = inputs.astype(jnp.float32) + _row(bias, 5), _gate(self.gate)

        def step(state, x):
            seen = conv3d(state[0].astype(self.dtype)[:, None], recurrent)[:, 0]
            return lstm_step(x + seen.astype(jnp.float32), state[1], gate)

        start = (jnp.zeros((*inputs[:, 0].shape[:-1], n)),) * 2
        return unroll(step, state or start, inputs, mask, self.reverse)


LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU, "convlstm": ConvLSTM}


class Stack(nn.Module):
    """`layers` layers of a `kind` of LAYERS, one on the other: called as one of them; the states come as a tuple.

    `both` adds to each a layer that reads backwards and puts its `features` after the first's: (B, T, ..., 2 F). It
    needs the whole video, so no state can be passed in then.
    """

    kind: str
    features: int
    layers: int = 1
    both: bool = False
    options: tuple = ()  # (field, value) of every layer
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, state=None):
        if self.kind not in LAYERS:
            raise ValueError(f"A recurrent layer is one of {', '.join(LAYERS)}, not {self.kind!r}.")
        if self.both and state is not None:
            raise ValueError("A layer that reads both ways needs the whole video at once: it takes no state.")
        layer = functools.partial(LAYERS[self.kind], self.features, dtype=self.dtype, **dict(self.options))
        states = []
        for i in range(self.layers):
            y, last = layer(name=f"layer{i}")(x, mask, None if state is None else state[i])
            if self.both:
                back, first = layer(reverse=True, name=f"back{i}")(x, mask)
                y, last = jnp.concatenate([y, back], -1), (last, first)
            x = y
            states.append(last)
        return x, tuple(states)


def final(states):
    """The hidden state of a stack's last layer after all real steps, of both directions where there are two."""
    last = states[-1]
    both = isinstance(last[0], tuple)
    return jnp.concatenate([last[0][0], last[1][0]], -1) if both else last[0]


def lstm_step(gates, cell, gate=jax.nn.sigmoid):
    """(h, c) from the sums before the gates (..., 4 H), in the order i, f, g, o, and the last cell (..., H)."""
    i, f, g, o = jnp.split(gates, 4, -1)
    cell = gate(f) * cell + gate(i) * jnp.tanh(g)
    return gate(o) * jnp.tanh(cell), cell


def _parameters(layer, channels, gates, bias_init=zeros):
    """`kernel` (D, gates H), `recurrent_kernel` (H, gates H) and `bias` (gates H) of a layer."""
    width = gates * layer.features
    return (
        layer.param("kernel", glorot, (channels, width)),
        layer.param("recurrent_kernel", orthogonal, (layer.features, width)),
        layer.param("bias", bias_init, (width,)),
    )


def _product(x, kernel, dtype):
    """Matrix product in `dtype`, its result float32."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype)).astype(jnp.float32)


def _row(bias, rank):
    """A bias that broadcasts to arrays of `rank` axes."""
    return bias.reshape((1,) * (rank - 1) + bias.shape)


def _start(x, features, parts):
    return (jnp.zeros((x.shape[0], features)),) * parts


def _gate(name):
    if name not in GATES:
        raise ValueError(f"A gate's activation is one of {', '.join(GATES)}, not {name!r}.")
    return GATES[name]
