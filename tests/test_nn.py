"""The convolution's CPU lowering and the max pool equal the native ones; batch norm equals PyTorch's definition."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vidjax import nn

SAME3 = ((1, 1),) * 3
CASES = {  # kernel, strides, padding, groups ("each" = depthwise), channels, features, (T, H, W)
    "r3d stem": ((3, 7, 7), (1, 2, 2), ((1, 1), (3, 3), (3, 3)), 1, 3, 4, (4, 8, 9)),
    "r3d block": ((3, 3, 3), (1, 1, 1), SAME3, 1, 4, 4, (4, 5, 6)),
    "r3d downsampling block": ((3, 3, 3), (2, 2, 2), SAME3, 1, 4, 6, (5, 6, 7)),
    "r3d shortcut": ((1, 1, 1), (2, 2, 2), "VALID", 1, 4, 6, (5, 6, 7)),
    "r2plus1d spatial": ((1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)), 1, 4, 6, (3, 8, 7)),
    "r2plus1d temporal": ((3, 1, 1), (2, 1, 1), ((1, 1), (0, 0), (0, 0)), 1, 6, 4, (7, 3, 2)),
    "slow stem": ((1, 7, 7), (1, 2, 2), "SAME", 1, 3, 4, (2, 9, 8)),
    "fast lateral": ((5, 1, 1), (4, 1, 1), ((2, 2), (0, 0), (0, 0)), 1, 3, 6, (9, 3, 2)),
    "patch embedding": ((2, 4, 4), (2, 4, 4), "VALID", 1, 3, 8, (4, 8, 8)),
    "causal": ((3, 3, 3), (1, 1, 1), ((2, 0), (1, 1), (1, 1)), 1, 4, 3, (4, 5, 4)),
    "even kernel": ((2, 4, 2), (1, 1, 1), "SAME", 1, 3, 3, (4, 5, 4)),
    "one frame": ((3, 3, 3), (1, 1, 1), SAME3, 1, 4, 4, (1, 4, 4)),
    "pointwise with padding": ((1, 1, 1), (1, 2, 1), ((0, 1), (1, 0), (2, 2)), 1, 2, 3, (2, 3, 4)),
    "x3d depthwise": ((3, 3, 3), (1, 2, 2), SAME3, "each", 6, 6, (4, 7, 6)),
    "x3d temporal stem": ((5, 1, 1), (1, 1, 1), ((2, 2), (0, 0), (0, 0)), "each", 4, 4, (6, 3, 3)),
    "x3d stride in time": ((3, 3, 3), (2, 2, 2), SAME3, "each", 3, 3, (7, 6, 5)),
    "depthwise rows": ((1, 5, 5), (1, 2, 2), ((0, 0), (2, 2), (2, 2)), "each", 3, 3, (2, 9, 8)),
    "depthwise strips": ((3, 3, 3), (1, 1, 1), SAME3, "each", 3, 3, (3, 34, 2)),
    "depthwise with a multiplier": ((3, 3, 1), (1, 2, 1), "SAME", 4, 4, 12, (3, 5, 4)),
    "depthwise to one": ((3, 3, 3), (1, 1, 1), SAME3, "each", 1, 1, (3, 4, 4)),
    "groups": ((3, 3, 3), (1, 1, 1), SAME3, 2, 4, 6, (3, 4, 4)),
    "strided groups": ((3, 3, 3), (2, 2, 2), SAME3, 3, 6, 12, (4, 5, 6)),
    "wide groups": ((1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)), 2, 68, 4, (2, 5, 4)),
    "narrow groups": ((3, 1, 1), (2, 1, 1), ((1, 1), (0, 0), (0, 0)), 4, 24, 8, (5, 3, 2)),
    "pointwise groups": ((1, 1, 1), (1, 2, 2), "VALID", 3, 15, 9, (2, 3, 4)),
}


def random_case(seed):
    rng = np.random.default_rng(seed)
    kernel, strides = (tuple(int(v) for v in rng.integers(1, high, 3)) for high in (5, 4))
    groups = (1, "each", 2, 3)[seed % 4]
    channels = int(rng.integers(2, 5)) * (1 if groups == "each" else groups)
    features = channels if groups == "each" else int(rng.integers(2, 5)) * groups
    padding = ("SAME", "VALID", tuple((int(lo), int(hi)) for lo, hi in rng.integers(0, 4, (3, 2))))[seed % 3]
    return kernel, strides, padding, groups, channels, features, tuple(int(v) for v in rng.integers(4, 8, 3))


def value_and_gradients(name, x, kernel, strides, padding, groups, seed=1):
    def run(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: nn.conv3d(x, kernel, strides, padding, groups), x, kernel)
        g = jnp.asarray(np.random.default_rng(seed).normal(size=y.shape), y.dtype)
        return y, *pull(g)

    with nn.lowering(name):
        return jax.jit(run)(x, kernel)


def arrays(case, dtype=jnp.float32):
    kernel, strides, padding, groups, channels, features, size = case
    groups = channels if groups == "each" else groups
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)), dtype)
    return x, jnp.asarray(rng.normal(size=(*kernel, channels // groups, features)), dtype), strides, padding, groups


def assert_equal(case, dtype=jnp.float32, tolerance=1e-5):
    args = arrays(case, dtype)
    expected = value_and_gradients("native", *(a.astype(jnp.float32) for a in args[:2]), *args[2:])
    for got, want in zip(value_and_gradients("folded", *args), expected, strict=True):
        assert got.dtype == dtype
        scale = max(float(jnp.abs(want).max()), 1e-3)
        np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", CASES)
def test_folded_equals_native(name):
    assert_equal(CASES[name])


@pytest.mark.parametrize("seed", range(12))
def test_folded_equals_native_on_random_shapes(seed):
    assert_equal(random_case(seed))


@pytest.mark.parametrize("name", ["r3d block", "x3d depthwise", "depthwise with a multiplier", "strided groups"])
def test_bfloat16(name):
    assert_equal(CASES[name], jnp.bfloat16, tolerance=0.03)  # 8 bits of mantissa, intermediate sums rounded too


def test_lowering_is_chosen_at_trace_time():
    x, kernel, *_ = arrays(CASES["r3d block"])

    def folds():
        return str(jax.make_jaxpr(lambda x: nn.conv3d(x, kernel))(x)).count("custom_vjp_call")

    assert folds() == 1
    with nn.lowering("native"):
        assert folds() == 0
        with nn.lowering("folded"):
            assert folds() == 1
        assert folds() == 0
    assert folds() == 1
    with pytest.raises(ValueError, match="Unknown lowering 'fast'"), nn.lowering("fast"):
        pass


@pytest.mark.parametrize(
    "name",
    ["r3d stem", "r3d block", "r3d downsampling block", "r2plus1d temporal", "x3d depthwise", "depthwise strips"]
    + ["depthwise with a multiplier", "strided groups", "narrow groups"],
)
def test_a_sharded_batch_stays_sharded(name):
    _, kernel, strides, padding, groups = arrays(CASES[name])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, *CASES[name][-1], CASES[name][4])), jnp.float32)

    def step(x, kernel):
        def loss(x, kernel):
            return jnp.sum(jnp.square(nn.conv3d(x, kernel, strides, padding, groups)))

        return jax.grad(loss, (0, 1))(x, kernel)

    batch = NamedSharding(mesh, P("data"))
    sharded = jax.jit(step, in_shardings=(batch, NamedSharding(mesh, P())), out_shardings=(batch, None))
    text = sharded.lower(x, kernel).compile().as_text()
    assert "all-reduce" in text
    for moved in ("all-gather", "all-to-all", "collective-permute"):
        assert moved not in text
    for got, want in zip(sharded(x, kernel), jax.jit(step)(x, kernel), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(jnp.abs(want).max()))


def test_batch_norm_follows_its_equations():
    """Ioffe & Szegedy 2015, algorithm 1 and its gradient, in NumPy; the running variance is unbiased as in PyTorch."""
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(2, 3, 4, 5, 6)) + 1
    scale, bias, n = np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6), x.size // 6
    mean, var = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    hat = (x - mean) / np.sqrt(var + 1e-5)
    expected = scale * hat + bias
    dy = 2 * expected * np.cos(expected**2)
    dbias, dscale = dy.sum((0, 1, 2, 3)), (dy * hat).sum((0, 1, 2, 3))
    dx = scale / np.sqrt(var + 1e-5) * (dy - dbias / n - hat * dscale / n)

    bn, x = nn.BatchNorm(use_running_average=False), x.astype(np.float32)
    variables = bn.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"scale": (6,), "bias": (6,)}
    params = {"scale": jnp.array(scale, jnp.float32), "bias": jnp.array(bias, jnp.float32)}

    def loss(params, x):
        y, updated = bn.apply({"params": params, "batch_stats": variables["batch_stats"]}, x, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(jnp.square(y))), (y, updated["batch_stats"])

    (_, (y, stats)), (dparams, found_dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found_dx, dx, rtol=1e-4, atol=1e-4)  # sums of 120 terms of size 10
    np.testing.assert_allclose(dparams["scale"], dscale, rtol=1e-4, atol=1e-3)  # same
    np.testing.assert_allclose(dparams["bias"], dbias, rtol=1e-4, atol=1e-3)  # same
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var * n / (n - 1), rtol=1e-5)

    y = nn.BatchNorm().apply({"params": params, "batch_stats": stats}, x, use_running_average=True)
    expected = scale * (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * var * n / (n - 1) + 1e-5) + bias
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_is_global_over_a_sharded_batch():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 3, 3, 4)) + np.arange(8)[:, None, None, None, None])
    bn = nn.BatchNorm(use_running_average=False)
    variables = bn.init(jax.random.key(0), x)

    def run(x):
        return bn.apply(variables, x, mutable=["batch_stats"])

    sharded = jax.jit(run, in_shardings=NamedSharding(mesh, P("data")))(x)
    for got, want in zip(jax.tree.leaves(sharded), jax.tree.leaves(run(x)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


POOLS = {  # window, strides, pads, (T, H, W)
    "inception branch": ((3, 3, 3), (1, 1, 1), "SAME", (3, 4, 5)),
    "overlapping": ((3, 3, 3), (2, 2, 2), "SAME", (5, 8, 7)),
    "caffe": ((1, 3, 3), (1, 2, 2), ((0, 0), (0, 1), (0, 1)), (2, 6, 8)),
    "torch": ((3, 3, 3), (2, 2, 2), SAME3, (4, 7, 6)),
    "apart, with a rest": ((2, 2, 2), (2, 2, 2), "VALID", (5, 4, 7)),
    "gaps": ((2, 1, 2), (3, 2, 4), ((1, 0), (0, 0), (2, 1)), (6, 4, 9)),
}


@pytest.mark.parametrize(("case", "dtype"), [*((case, jnp.float32) for case in POOLS), ("overlapping", jnp.bfloat16)])
def test_max_pool_and_its_gradient_are_the_native_ones(case, dtype):
    """To the last bit: whole numbers between -2 and 2, so that many are equal and sums are exact."""
    window, strides, pads, size = POOLS[case]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-2, 3, (2, *size, 3)), dtype)

    def run(pool):
        y, pull = jax.vjp(lambda x: pool(x, window, strides, pads), x)
        return y, pull(jnp.asarray(np.random.default_rng(1).integers(-3, 4, y.shape), dtype))[0]

    ours, native = (jax.jit(run, static_argnums=0)(pool) for pool in (nn.max_pool, flax.linen.max_pool))
    for one, other in zip(ours, native, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_max_pool_gives_the_gradient_to_the_first_of_equals():
    x = jnp.zeros((1, 2, 2, 2, 1)).at[0, 0, 0, 0, 0].set(-1.0)
    gradient = jax.grad(lambda x: nn.max_pool(x, (2, 2, 2), (2, 2, 2)).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(-1), [0, 1, 0, 0, 0, 0, 0, 0])  # not [1, 0, 0], in the second frame


def test_max_pool_keeps_nan():
    x = jnp.zeros((1, 1, 1, 4, 1)).at[0, 0, 0, 1, 0].set(jnp.nan)
    np.testing.assert_array_equal(nn.max_pool(x, (1, 1, 2), (1, 1, 2)).reshape(-1), [np.nan, 0])
