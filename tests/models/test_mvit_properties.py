"""mvit: sizes as published, other clip sizes, distances, scanned and rematerialised blocks, errors."""

import jax
import numpy as np
import pytest

from vidjax import models
from vidjax.models import mvit


def build(variant, **fields):
    return models.build({"name": "mvit", "variant": variant}, **fields)


@pytest.mark.parametrize(
    ("variant", "params", "gmac"),
    [
        ("v1_b", 36_610_672, 70.599),  # num_params and _ops of torchvision's weights
        ("v2_s", 34_537_744, 64.224),
        ("v1_b24_32x3", 53_115_280, None),  # parameters counted in PySlowFast's own class, from its configurations
        ("v2_b", 51_230_128, None),
        ("v2_l", 213_390_112, None),
        ("maskfeat_s", 36_475_120, None),
        ("maskfeat_l", 217_578_064, None),
        ("tiny", 3_206_416, None),  # in pytorchvideo's
    ],
)
def test_published_sizes(variant, params, gmac):
    row = mvit.SIZES[variant]
    assert row["params"] == params
    assert gmac in (None, row["gmac"])


@pytest.mark.parametrize(
    ("variant", "params", "gmac"),
    [("v1_b_image", 37.0, 7.8), ("v2_b", 51.2, 225), ("maskfeat_s", 36, 71), ("maskfeat_l", 218, 377)],
)
def test_papers_sizes(variant, params, gmac):
    row = mvit.SIZES[variant]
    assert abs(row["params"] / 1e6 - params) < 0.02 * params
    assert abs(row["gmac"] - gmac) < 0.02 * gmac  # printed to two or three digits


def test_stages():
    video = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), np.float32)
    (_, out), _ = jax.eval_shape(lambda x: build("v2_s").init_with_output(jax.random.key(0), x, train=False), video)
    sizes = {"patch": (8 * 56**2, 96), "block0": (8 * 56**2, 96), "block1": (8 * 28**2, 192)}
    sizes |= {"block3": (8 * 14**2, 384), "block13": (8 * 14**2, 384), "block15": (8 * 7**2, 768)}
    assert {name: out[name].shape for name in sizes} == {name: (1, n + 1, d) for name, (n, d) in sizes.items()}


@pytest.mark.parametrize(("queries", "keys"), [(8, 8), (8, 2), (2, 8)])
def test_distances(queries, keys):
    """Positions of the fewer lie at every so many of the more."""
    found = mvit.distances(queries, keys)
    step, stride = max(keys // queries, 1), max(queries // keys, 1)
    for q in range(queries):
        for k in range(keys):
            assert found[q, k] == q * step - k * stride + (keys - 1) * stride
    assert found.min() == 0


@pytest.mark.parametrize("relative", [False, True])
def test_other_clip_sizes(relative):
    """Tables made for 4x10x10 patches serve 6x6x14, of which the second block leaves a quarter."""
    model = build("small", relative=relative, depth=2, stages=(1,), width=8, num_classes=3)
    video = np.full((1, 12, 24, 56, 3), 0.3, np.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(
        np.zeros((1, 8, 40, 40, 3), np.float32)
    )
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    assert logits.shape == (1, 3)
    assert out["tokens"].shape == (1, 1 + 6 * 3 * 7, 16)


def test_scan_and_remat_change_nothing():
    fields = {"depth": 3, "stages": (), "width": 8, "kv_stride": (1, 2, 2), "frames": 4, "size": 16}
    model = build("small", **fields, num_classes=3)
    video = np.random.RandomState(0).rand(2, 4, 16, 16, 3).astype(np.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)

    def loss(variables, model):
        return (model.apply(variables, video, train=True, rngs={"dropout": jax.random.key(1)})[0] ** 2).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, other = gradient(variables, model), gradient(variables, model.clone(scan=True, remat=True))
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(plain))
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)  # noqa: E731 -- another order
    jax.tree.map(near, plain, other)


@pytest.mark.parametrize(
    ("fields", "shape", "sentence"),
    [
        ({"widen": "head"}, (1, 8, 40, 40, 3), "not 'head'"),
        ({}, (1, 7, 40, 40, 3), "A clip of 7x40x40 does not divide into steps of 2x4x4"),
    ],
)
def test_errors(fields, shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), shape)
