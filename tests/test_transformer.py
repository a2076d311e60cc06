"""Attention in its three ways, drop path, blocks that are looped or scanned, and positions on another grid."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from vidjax import attention, transformer


def oracle(q, k, v, bias=0.0):
    """Attention in float64, one head at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        scores = q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[-1]) + np.broadcast_to(bias, (q.shape[2], 1, 1))[h]
        share = np.exp(scores - scores.max(-1, keepdims=True))
        out[b, :, h] = share / share.sum(-1, keepdims=True) @ v[b, :, h]
    return out


def qkv(n, m):
    rng = np.random.RandomState(0)
    return [rng.randn(2, size, 3, 8).astype(np.float32) for size in (n, m, m)]


@pytest.mark.parametrize("name", ["plain", "blocked", "fused"])
@pytest.mark.parametrize(("n", "m"), [(5, 7), (1100, 30)])  # 1100 queries are three blocks, the last one padded
def test_attention(name, n, m):
    q, k, v = qkv(n, m)
    with attention.using(name):
        np.testing.assert_allclose(jax.jit(attention.attend)(q, k, v), oracle(q, k, v), atol=2e-6)


@pytest.mark.parametrize("name", ["blocked", "fused"])
@pytest.mark.parametrize(("n", "m"), [(700, 20), (701, 21)])  # odd numbers are padded for cuDNN
def test_attention_gradients_agree(name, n, m):
    q, k, v = qkv(n, m)
    bias = np.random.RandomState(1).randn(3, n, m).astype(np.float32)
    grads = {}
    for way in ("plain", name):
        with attention.using(way):
            loss = lambda q, k, v, b: jnp.square(attention.attend(q, k, v, b)).mean()  # noqa: E731
            grads[way] = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(q, k, v, bias)
    for ours, plain in zip(grads[name], grads["plain"], strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5 * float(jnp.abs(plain).max()))


@pytest.mark.parametrize(("n", "m"), [(256, 256), (150, 200), (131, 1024)])  # whole blocks; padded; both
def test_flash_attention_for_a_tpu(n, m):
    """JAX's kernel as its interpreter runs it: values and gradients of plain attention."""
    q, k, v = qkv(n, m)
    loss = lambda q, k, v: jnp.square(attention.attend(q, k, v)).sum()  # noqa: E731
    found = {}
    for name in ("plain", "flash"):
        with attention.using(name), pltpu.force_tpu_interpret_mode():
            found[name] = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)
    for ours, plain in zip(*map(jax.tree.leaves, (found["flash"], found["plain"])), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5 * float(jnp.abs(plain).max()))


def test_what_runs_where(monkeypatch):
    tokens = lambda n, kind: [jnp.zeros((1, n, 2, 8), kind)] * 2  # noqa: E731
    for backend, ways in {
        "gpu": ("fused", "blocked"),
        "tpu": ("flash", "flash"),
        "cpu": ("blocked", "blocked"),
    }.items():
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        found = tuple(attention._choose(*tokens(1100, kind), None) for kind in (jnp.bfloat16, jnp.float32))
        assert found == ways, backend
        assert attention._choose(*tokens(100, jnp.float32), None) == "plain"


def test_attention_refuses_another_way():
    with pytest.raises(ValueError, match="choose one of plain, blocked, fused, flash"), attention.using("quick"):
        pass


class Net(nn.Module):
    scan: bool = False
    remat: bool = False
    rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, x):
        block = functools.partial(transformer.Block, 2, 16, train=self.train)
        return transformer.run(self, block, 3, x, rate=self.rate, scan=self.scan, remat=self.remat)


@pytest.mark.parametrize(("scan", "remat"), [(False, True), (True, False), (True, True)])
def test_blocks_run_the_same_any_way(scan, remat):
    x = np.random.RandomState(0).randn(2, 6, 8).astype(np.float32)
    variables = jax.jit(Net(scan, remat).init)(jax.random.key(0), x)
    assert list(variables["params"]) == ["block0", "block1", "block2"]
    outs, grads = {}, {}
    for way in ((False, False), (scan, remat)):
        loss = lambda v, net: jnp.square(net.apply(v, x)[0]).sum()  # noqa: E731
        outs[way] = jax.jit(Net(*way).apply)(variables, x)
        grads[way] = jax.jit(jax.grad(loss), static_argnums=1)(variables, Net(*way))
    for tree in (outs, grads):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *tree.values())


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_drops_whole_rows_of_late_blocks(scan):
    x = np.random.RandomState(0).randn(64, 2, 8).astype(np.float32)
    variables = jax.jit(Net().init)(jax.random.key(0), x)
    apply = jax.jit(lambda v, x: Net(scan, False, 0.9, True).apply(v, x, rngs={"dropout": jax.random.key(1)}))
    _, out = apply(variables, x)
    still = {name: np.all(np.asarray(out[name]) == before, (1, 2)).mean() for name, before in
             (("block0", x), ("block1", out["block0"]), ("block2", out["block1"]))}  # fmt: skip
    assert still["block0"] == 0  # its rate is 0
    assert 0.05 < still["block1"] < 0.45  # both halves dropped: 0.45 ** 2
    assert 0.65 < still["block2"] < 0.95  # 0.9 ** 2


def test_drop_path_keeps_the_mean():
    drop = transformer.DropPath(False)
    out = drop.apply({}, jnp.ones((4000, 1)), 0.25, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float(out.mean()) - 1) < 0.03  # 2.6 standard deviations of 4000 draws


def test_layer_norm_keeps_its_digits_far_from_zero():
    x = np.random.RandomState(0).randn(4, 32) + 1000.0
    ours = transformer.LayerNorm().apply({"params": {"scale": np.ones(32), "bias": np.zeros(32)}}, x.astype(np.float32))
    exact = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(ours, exact, atol=3e-4)  # float32 has steps of 6e-5 at 1000


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="8 does not divide by 3 heads"):
        transformer.SelfAttention(3).init(jax.random.key(0), jnp.zeros((1, 2, 8)))


@pytest.mark.parametrize("biases", ["qkv", "qv", ""])
def test_separate_projections_are_the_fused_one(biases):
    x = np.random.RandomState(0).randn(2, 5, 8).astype(np.float32)
    apart = transformer.SelfAttention(2, fused=False, biases=biases)
    params = apart.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases start at 0
    assert [name for name in ("query", "key", "value") if "bias" in params[name]] == [
        name for name in ("query", "key", "value") if name[0] in biases
    ]
    joined = jnp.concatenate([params[name]["kernel"] for name in ("query", "key", "value")], 1)
    bias = jnp.concatenate([params[name].get("bias", jnp.zeros(8)) for name in ("query", "key", "value")])
    fused = {"qkv": {"kernel": joined, "bias": bias}, "proj": params["proj"]}
    ours = transformer.SelfAttention(2).apply({"params": fused}, x)
    np.testing.assert_allclose(apart.apply({"params": params}, x), ours, atol=1e-6)


def test_sincos():
    table = transformer.sincos(5, 6)
    np.testing.assert_allclose(table[3, :2], [np.sin(3), np.cos(3)], atol=1e-6)
    np.testing.assert_allclose(table[3, 4:], [np.sin(3 / 10000 ** (4 / 6)), np.cos(3 / 10000 ** (4 / 6))], atol=1e-6)


def test_positions_on_another_grid():
    table = np.random.RandomState(0).randn(2, 3, 4, 5).astype(np.float32)
    assert transformer.resize_positions(table, (2, 3, 4)) is table
    flat = np.broadcast_to(np.arange(4, dtype=np.float32)[None, None, :, None], (1, 1, 4, 1))
    finer = np.asarray(transformer.resize_positions(flat, (1, 1, 8)))[0, 0, :, 0]
    np.testing.assert_allclose(finer, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)  # cells' middles
    even = np.ones((2, 3, 4, 5), np.float32)
    np.testing.assert_allclose(transformer.resize_positions(even, (5, 7, 3), "cubic"), np.ones((5, 7, 3, 5)), atol=1e-6)
