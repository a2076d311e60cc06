"""Mixtures against NumPy, for the numbers that `mixing.draw` draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import mixing

KINDS = [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}]


def batch(b=5, t=3, h=12, w=16, classes=4):
    rng = np.random.default_rng(0)
    inputs = {
        "rgb": rng.integers(0, 256, (b, t, h, w, 3), np.uint8),
        "flow": rng.normal(size=(b, t, h, w, 2)).astype(np.float32),
        "audio": rng.normal(size=(b, 7, 6)).astype(np.float32),
    }
    return inputs, np.eye(classes, dtype=np.float32)[rng.integers(0, classes, b)]


def run(key, inputs, labels, mask, chance=1.0, **options):
    """The mixture and the numbers it was made with."""
    return _run(key, inputs, labels, mask, chance, **options)


@functools.partial(jax.jit, static_argnames=("mixup", "cutmix"))
def _run(key, inputs, labels, mask, chance, **options):
    height, width = inputs["rgb"].shape[2:4]
    numbers = mixing.draw(key, height, width, chance=chance, **options)
    return mixing.mix(key, inputs, labels, mask=mask, chance=chance, **options), numbers


def oracle(inputs, labels, mask, share, box):
    """The mixture row by row."""
    top, bottom, left, right = (int(side) for side in box)
    cut = bottom > top and right > left
    mixed, soft = {name: x.astype(np.float64) for name, x in inputs.items()}, labels.astype(np.float64)
    for i in range(len(labels)):
        j = len(labels) - 1 - i
        if not mask[i] or not mask[j]:
            continue
        soft[i] = (1 - share) * labels[i] + share * labels[j]
        for name, x in inputs.items():
            if cut and x.ndim == 5:
                mixed[name][i, :, top:bottom, left:right] = x[j, :, top:bottom, left:right]
            else:
                mixed[name][i] = (1 - share) * x[i].astype(np.float64) + share * x[j]
    return mixed, soft


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("mask", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, 1, 0, 1, 0]])
def test_mix_row_by_row(options, mask):
    inputs, labels = batch()
    cuts = 0
    for seed in range(12):
        (mixed, soft), (share, box) = run(jax.random.key(seed), inputs, labels, np.float32(mask), **options)
        expected, expected_soft = oracle(inputs, labels, mask, float(share), box)
        for name in inputs:
            # float32 sums of two products of values up to 255; a box copies bytes exactly
            np.testing.assert_allclose(mixed[name], expected[name], rtol=1e-6, atol=1e-4)
            assert mixed[name].dtype == np.float32
        np.testing.assert_allclose(soft, expected_soft, atol=1e-6)
        np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)
        top, bottom, left, right = box
        assert 0 <= top <= bottom <= 12
        assert 0 <= left <= right <= 16
        if bottom > top and right > left:
            assert share == pytest.approx(float((bottom - top) * (right - left)) / 192)
            cuts += 1
    low, high = {(1, 0): (0, 0), (0, 1): (9, 12), (1, 1): (2, 10)}["mixup" in options, "cutmix" in options]
    assert low <= cuts <= high


def test_unreadable_rows_give_and_take_nothing():
    inputs, labels = batch()
    inputs["rgb"][1], labels[1], mask = 0, 0, np.float32([1, 0, 1, 1, 1])
    for options in KINDS:
        (mixed, soft), _ = run(jax.random.key(3), inputs, labels, mask, **options)
        for i in (1, 3):  # 3 is the partner of 1
            np.testing.assert_array_equal(mixed["rgb"][i], inputs["rgb"][i])
            np.testing.assert_array_equal(soft[i], labels[i])
        assert (mixed["rgb"][0] != inputs["rgb"][0]).any()


def test_draws_follow_beta():
    @jax.jit
    def shares(key, chance):
        draw = functools.partial(mixing.draw, height=32, width=48, mixup=0.8, cutmix=1.0, chance=chance)
        return jax.vmap(draw)(jax.random.split(key, 8000))

    share, (top, bottom, left, right) = jax.tree.map(np.asarray, shares(jax.random.key(0), 1.0))
    mixed = share[(bottom == top) & (right == left)]
    variance = 0.8**2 / ((2 * 0.8) ** 2 * (2 * 0.8 + 1))
    assert abs(len(mixed) - 4000) < 300  # and 1 in 256 of the boxes is empty in both directions
    assert abs(mixed.mean() - 0.5) < 0.02  # four standard errors of 4,000 draws
    assert abs(mixed.var() - variance) < 0.006
    small = (bottom - top > 0) & (bottom - top < 8)
    assert set(((top + bottom) / 2)[small].astype(int)) >= set(range(1, 31))  # a centre anywhere
    cut = (bottom > top) & (right > left)
    assert share[cut].mean() < 0.4  # the mean was 0.5 before the edges of the picture cut it
    share, _ = shares(jax.random.key(3), 0.25)
    assert abs(np.mean(share > 0) - 0.25) < 0.03


def test_nothing_is_mixed_without_an_alpha_or_a_chance():
    inputs, labels = batch()
    outs = [mixing.mix(jax.random.key(0), inputs, labels)]
    outs += [run(jax.random.key(0), inputs, labels, np.ones(5, np.float32), 0.0, **options)[0] for options in KINDS]
    for mixed, soft in outs:
        np.testing.assert_array_equal(soft, labels)
        for name, x in inputs.items():
            np.testing.assert_array_equal(mixed[name], x.astype(np.float32))


def test_multi_hot_labels_are_mixed_too():
    inputs, labels = batch()
    labels = np.random.default_rng(1).integers(0, 2, labels.shape).astype(np.float32)
    (_, soft), (share, _) = run(jax.random.key(0), inputs, labels, np.ones(5, np.float32), mixup=0.8)
    np.testing.assert_allclose(soft, (1 - share) * labels + share * labels[::-1], atol=1e-6)  # float32


def test_a_sharded_batch_is_one_batch():
    """Eight devices mix as one does: partners, lambda and box are the global batch's."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    inputs, labels = batch(16)
    mask = np.float32([1] * 5 + [0] + [1] * 10)
    for seed in range(4):  # boxes and blends
        one, _ = run(jax.random.key(seed), inputs, labels, mask, mixup=0.8, cutmix=1.0)
        split = jax.device_put((inputs, labels, mask), rows)
        many, _ = run(jax.random.key(seed), *split, mixup=0.8, cutmix=1.0)
        # float32: a product and a sum may be fused or not
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-4), many, one)


def test_cutmix_refuses_pictures_of_several_sizes():
    inputs = {"rgb": jnp.zeros((2, 1, 8, 8, 3)), "flow": jnp.zeros((2, 1, 4, 4, 2))}
    with pytest.raises(ValueError, match=r"one height and width, got .*'flow': \(4, 4\)"):
        mixing.mix(jax.random.key(0), inputs, jnp.eye(2), cutmix=1.0)
    shapes, _ = jax.eval_shape(functools.partial(mixing.mix, mixup=1.0), jax.random.key(0), inputs, jnp.eye(2))
    assert shapes["flow"].shape == (2, 1, 4, 4, 2)


def test_tokens_are_not_mixed():
    with pytest.raises(ValueError, match="integers of input 'text'"):
        mixing.mix(jax.random.key(0), {"text": jnp.zeros((2, 7), jnp.int32)}, jnp.eye(2), mixup=1.0)
