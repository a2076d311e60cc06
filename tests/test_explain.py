"""Explanations: completeness, Shapley values and maps by hand, on functions small enough to say what must come out."""

import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import attention, explain, models
from vidjax.explain import gradients, maps, perturb, rollout, surrogates

CLIPS = np.random.RandomState(0).rand(2, 4, 8, 8, 3).astype(np.float32)
TARGET = jnp.array([1, 0])


def pooled(x):
    """Two channels of 2x2x2 cells, squared, and logits that weigh them: (B, 4, 8, 8, 3) -> logits (B, 3), out."""
    cells = x.reshape(len(x), 2, 2, 4, 2, 4, 2, 3).mean(axis=(2, 4, 6, 7))
    cells = jnp.stack([cells, 1 - cells], -1)
    out = {"cells": jnp.square(cells), "vector": jnp.zeros((len(x), 5)), "copy": jnp.square(cells) * 2}
    return out["cells"].sum((1, 2, 3)) @ jnp.array([[1.0, 2.0, 0.0], [3.0, -1.0, 1.0]]), out


def net(name, size, **fields):
    model = models.build({"name": name, "variant": "small", "num_classes": 4} | fields)
    x = np.random.RandomState(1).rand(1, 8, size, size, 3).astype(np.float32)
    variables = jax.jit(lambda k, x: model.init(k, x, train=False))(jax.random.key(0, impl="rbg"), x)
    return x, lambda x: model.apply(variables, x, train=False)


def test_gradcam_by_hand():
    """The gradient to a cell is its channel's weight: the map is the weighted sum, without what is negative."""
    values = np.asarray(pooled(CLIPS)[1]["cells"])
    weights = np.array([[2.0, -1.0], [1.0, 3.0]])  # of classes 1 and 0
    by_hand = np.maximum(np.einsum("bthwc,bc->bthw", values, weights), 0)
    found = gradients.gradcam(pooled, CLIPS, TARGET, layer="cells")
    np.testing.assert_allclose(found, maps.resized(by_hand, (4, 8, 8)), atol=1e-5)
    np.testing.assert_array_equal(gradients.gradcam(pooled, CLIPS, TARGET), found)  # the last that counts


def test_gradcam_says_what_it_cannot():
    with pytest.raises(ValueError, match="no activation 'conv9'; there are cells"):
        gradients.gradcam(pooled, CLIPS, TARGET, layer="conv9")
    with pytest.raises(
        ValueError, match="do not depend on the places of copy as it stands in the net's `out`.* cells, copy"
    ):
        gradients.gradcam(pooled, CLIPS, TARGET, layer="copy")
    with pytest.raises(ValueError, match="no method 'magic' of explanation; take gradcam, "):
        explain.explain(pooled, CLIPS, method="magic")


@pytest.mark.parametrize(("name", "size", "fields"), [("r3d", 16, {}), ("vivit", 16, {"frames": 8}), ("c3d", 16, {})])
def test_gradcam_of_nets(name, size, fields):
    """By default of a layer whose places count: past a transformer's last block only the class token does."""
    x, apply = net(name, size, **fields)
    found = [explain.explain(apply, x, target) for target in range(4)]
    assert {one.shape for one in found} == {x.shape[:4]}
    assert min(float(one.min()) for one in found) >= 0
    assert max(float(one.max()) for one in found) > 0


def test_integrated_gradients_add_up():
    """To the logit's change, within the midpoint rule's error: exact for a linear function."""
    x, apply = net("r3d", 16)
    found = gradients.integrated(apply, x, jnp.array([2]), steps=64)
    change = apply(x)[0][0, 2] - apply(jnp.full_like(x, 0.5))[0][0, 2]
    np.testing.assert_allclose(found.sum(), change, rtol=0.02)  # the rule's error at 64 steps
    slopes = np.random.RandomState(2).randn(*CLIPS.shape[1:]).astype(np.float32)
    linear = lambda x: (jnp.einsum("bthwc,thwc->b", x, slopes)[:, None] * jnp.array([[1.0, -1.0]]), {})  # noqa: E731
    by_hand = ((CLIPS - 0.5) * slopes * np.array([-1, 1])[:, None, None, None, None]).sum(-1)
    np.testing.assert_allclose(gradients.integrated(linear, CLIPS, TARGET, steps=3), by_hand, atol=1e-5)


def test_rules_for_relus_agree_where_there_is_none():
    found = [explain.explain(pooled, CLIPS, TARGET, method=m) for m in ("gradient", "guided", "deconvolution")]
    assert found[0].shape == CLIPS.shape[:4]
    assert float(found[0].max()) > 0
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_occlusion_by_brute_force():
    score = lambda x: np.asarray(jax.nn.softmax(pooled(x)[0]))  # noqa: E731
    found = perturb.occlusion(pooled, CLIPS, TARGET, box=(2, 0, 3), stride=(1, 1, 2))
    for clip, target, one in zip(CLIPS, TARGET, found, strict=True):
        total, count = np.zeros(clip.shape[:3]), np.zeros(clip.shape[:3])
        for t, w in itertools.product((0, 1, 2), (0, 2, 4, 5)):
            covered = clip.copy()
            covered[t : t + 2, :, w : w + 3] = clip.mean((0, 1, 2))
            total[t : t + 2, :, w : w + 3] += (score(clip[None]) - score(covered[None]))[0, target]
            count[t : t + 2, :, w : w + 3] += 1
        np.testing.assert_allclose(one, total / count, atol=1e-6)


def test_frames_are_alike_at_their_pixels():
    found = explain.explain(pooled, CLIPS, TARGET, method="frames")
    assert (found == found[:, :, :1, :1]).all()
    assert np.unique(found[0, :, 0, 0]).size == 4


def shapley(clip, target, regions):
    """Shapley values by their definition: a region's mean gain over all orders."""
    labels, colour = regions(clip), clip.mean((0, 1, 2))
    count = labels.max() + 1

    def value(seen):
        shown = np.where(np.isin(labels, list(seen))[..., None], clip, colour)
        return float(jax.nn.softmax(pooled(shown[None])[0])[0, target])

    known = {s: value(s) for k in range(count + 1) for s in itertools.combinations(range(count), k)}
    orders = list(itertools.permutations(range(count)))
    gains = np.zeros(count)
    for order in orders:
        for i in range(count):
            before, after = tuple(sorted(order[:i])), tuple(sorted(order[: i + 1]))
            gains[order[i]] += (known[after] - known[before]) / math.factorial(count)
    return gains[labels], known[tuple(range(count))] - known[()]


def test_kernel_shap_is_exact_and_adds_up():
    regions = lambda clip: surrogates.blocks(clip, (1, 2, 2))  # noqa: E731
    found = surrogates.shap(pooled, CLIPS, TARGET, regions)
    for clip, target, one in zip(CLIPS, TARGET, found, strict=True):
        exact, change = shapley(clip, int(target), regions)
        np.testing.assert_allclose(one, exact, atol=1e-6)  # float32 probabilities
        np.testing.assert_allclose(sum(one[regions(clip) == i].mean() for i in range(4)), change, atol=1e-6)


def test_kernel_shap_of_many_regions_is_near_and_adds_up():
    """Twelve regions from 600 of the 4094 coalitions, against all of them."""
    regions = lambda clip: surrogates.blocks(clip, (3, 2, 2))  # noqa: E731
    some = surrogates.shap(pooled, CLIPS[:1], TARGET[:1], regions, samples=600)[0]
    every = surrogates.shap(pooled, CLIPS[:1], TARGET[:1], regions, samples=5000)[0]
    labels = regions(CLIPS[0])
    sums = [sum(x[labels == i].mean() for i in range(12)) for x in (some, every)]
    np.testing.assert_allclose(*sums, atol=1e-6)
    assert np.abs(some - every).max() < 0.1 * np.abs(every).max()  # sampled


def test_supervoxels_follow_colour():
    """Each of two colours, in space and time, has regions of its own."""
    clip = np.zeros((4, 16, 16, 3), np.float32)
    clip[2:, :, 8:] = 1
    labels = surrogates.supervoxels(clip, count=8)
    assert labels.shape == clip.shape[:3]
    assert set(labels.flat) == set(range(labels.max() + 1))
    assert not set(labels[2:, :, 8:].flat) & set(labels[:2].flat)


def test_without_scikit_image_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"pip install 'vidjax\[explain\]', or take regions=blocks"):
        surrogates.supervoxels(np.zeros((2, 4, 4, 3)))


def test_lime_finds_the_region_that_counts():
    def corner(x):
        score = x[:, :2, :4, 4:].mean((1, 2, 3, 4)) * 8
        return jnp.stack([score, -score], -1), {}

    clip = np.full((1, 4, 8, 8, 3), 0.2, np.float32)
    clip[:, :2, :4, 4:] = 0.9
    found = surrogates.lime(corner, clip, np.array([0]), lambda c: surrogates.blocks(c, (2, 2, 2)))[0]
    labels = surrogates.blocks(clip[0], (2, 2, 2))
    assert set(np.unique(labels[:2, :4, 4:])) == {1}
    others = np.abs(found[labels != 1]).max()
    assert found[0, 0, 4] > 5 * others


def test_blocks_are_numbered_in_order_and_cover_all():
    labels = surrogates.blocks(np.zeros((5, 7, 9, 3)), (2, 3, 100))
    assert set(np.unique(labels)) == set(range(2 * 3 * 9))
    assert (np.diff(labels.reshape(5, 7, 9)[0, 0]) == 1).all()
    assert labels[-1, -1, -1] == 53


def test_rollout_by_hand():
    """Two layers of one head; the class token's row, on a grid of 2x2x2 patches."""
    rng = np.random.RandomState(3)
    q, k = (rng.randn(2, 1, 9, 1, 4).astype(np.float32) for _ in range(2))

    def apply(x):
        for i in range(2):
            attention.attend(q[i] * x.mean(), k[i], k[i])
        return x.mean((1, 2, 3)), {}

    clip = CLIPS[:1, :, :8, :8]
    total = np.eye(9)
    for i in range(2):
        scores = np.einsum("nd,md->nm", q[i, 0, :, 0] * clip.mean() / 2, k[i, 0, :, 0])
        shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        total = (0.5 * shares + 0.5 * np.eye(9)) @ total
    by_hand = maps.resized(total[None, 0, 1:].reshape(1, 2, 2, 2), (4, 8, 8))
    np.testing.assert_allclose(rollout.rollout(apply, clip, grid=(2, 2, 2)), by_hand, atol=1e-5)


def test_rollout_of_nets():
    x, apply = net("vivit", 16, frames=8)
    assert rollout.rollout(apply, x).shape == x.shape[:4]
    x, apply = net("r3d", 16)
    with pytest.raises(ValueError, match="rollout needs attention of all tokens with all in each layer; .* is none"):
        rollout.rollout(apply, x)


def test_tokens_find_their_grid():
    assert maps.grids(8 * 14 * 14, (16, 224, 224)) == [(8, 14, 14), (2, 28, 28)]  # of 2x16x16 pixels, not of 8x8x8
    assert maps.grids(8 * 14 * 14, (8, 224, 224))[0] == (8, 14, 14)
    assert maps.on_grid(jnp.zeros((1, 9, 5)), (4, 8, 8), (2, 2, 2)).shape == (1, 2, 2, 2, 5)
    assert maps.on_grid(jnp.zeros((1, 3, 3, 5)), (1, 8, 8)).shape == (1, 1, 3, 3, 5)
    with pytest.raises(ValueError, match="13 tokens of a clip of 4x8x8 fit no grid"):
        maps.on_grid(jnp.zeros((1, 13, 5)), (4, 8, 8))
    with pytest.raises(ValueError, match="has no places"):
        maps.on_grid(jnp.zeros((1, 13)), (4, 8, 8))


def test_normalised_maps_end_at_one():
    found = maps.normalised(jnp.array([[[[-4.0, 2.0]]], [[[0.0, 0.0]]]]))
    np.testing.assert_array_equal(found, [[[[-1.0, 0.5]]], [[[0.0, 0.0]]]])
