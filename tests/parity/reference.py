"""PyTorch's layers in NumPy float64 under PyTorch's names, (N, C, T, H, W): an oracle that needs no torch.

`Torch.draw(name, shape)` makes a tensor from its name alone and remembers it in `tensors`, so that running a reference
net once yields its whole state dict.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np


class Torch:
    """One reference net's tensors, and its running statistics after a pass in training mode."""

    def __init__(self, train, eps=1e-5):
        self.tensors, self.after, self.train, self.eps = {}, {}, train, eps

    def draw(self, name, shape):
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        if len(shape) == 1 and name.endswith((".weight", ".running_var")):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            value = 0.1 * rng.randn(*shape)
        else:
            value = rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
        return self.tensors.setdefault(name, value.astype(np.float32)).astype(np.float64)

    def conv(self, name, x, features, kernel, strides):
        """Convolution with zero padding k // 2 and no bias, one tap of the kernel at a time."""
        weight = self.draw(f"{name}.weight", (features, x.shape[1], *kernel))
        out = [(n - 1) // s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]
        x = np.pad(x, [(0, 0), (0, 0), *((k // 2, k // 2) for k in kernel)])
        total = np.zeros((x.shape[0], features, *out))
        for tap in np.ndindex(*kernel):
            where = [slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(tap, out, strides, strict=True)]
            total += np.einsum("ncthw,oc->nothw", x[(slice(None), slice(None), *where)], weight[(..., *tap)])
        return total

    def norm(self, name, x):
        """BatchNorm3d: batch statistics in training, where the running variance takes the unbiased one."""
        weight, bias, mean, var = (
            self.draw(f"{name}.{part}", x.shape[1:2]) for part in ("weight", "bias", "running_mean", "running_var")
        )
        if self.train:
            count = x.size // x.shape[1]
            batch_mean, batch_var = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4))
            self.after[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch_mean
            self.after[f"{name}.running_var"] = 0.9 * var + 0.1 * batch_var * count / (count - 1)
            mean, var = batch_mean, batch_var
        scale = weight / np.sqrt(var + self.eps)
        return x * scale.reshape(-1, 1, 1, 1) + (bias - mean * scale).reshape(-1, 1, 1, 1)

    def linear(self, name, x, features):
        """Linear: (N, C) -> (N, features)."""
        return x @ self.draw(f"{name}.weight", (features, x.shape[1])).T + self.draw(f"{name}.bias", (features,))

    def state_dict(self):
        """Tensors after the pass, by PyTorch's names."""
        return self.tensors | self.after


def near(value, expected, name, tolerance=1e-5):
    """Asserts that `value` is off by less than `tolerance` of the largest expected one."""
    value = np.asarray(value)
    assert value.shape == expected.shape
    worst = np.abs(value - expected).max() / np.abs(expected).max()
    assert worst < tolerance, f"{name} is off by {worst:.2g} of its largest value"


def loss_after_step(model, variables, video, rate=0.1):
    """Training loss (labels 0, 1, 2, ...) after one step of plain gradient descent."""

    def loss(params):
        (logits, _), _ = model.apply(variables | {"params": params}, video, train=True, mutable=["batch_stats"])
        return -jnp.diagonal(jax.nn.log_softmax(logits)).mean()

    @jax.jit
    def step(params):
        return loss(jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params)))

    return float(step(variables["params"]))
