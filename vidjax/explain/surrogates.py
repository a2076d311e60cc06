"""Explanations by a linear model of what covering regions of a clip does: LIME and Kernel SHAP.

Regions are blocks of space and time, or super-voxels of scikit-image; the regressions are scikit-learn's.
"""

import itertools
import math

import jax
import numpy as np
import sklearn.linear_model

from vidjax.explain.perturb import probability


def blocks(clip, cells=(2, 4, 4)):
    """Regions of equal size: (T, H, W, 3) -> int (T, H, W), numbered from 0 in the order time, rows, columns."""
    cells = [min(n, side) for n, side in zip(cells, clip.shape[:3], strict=True)]
    at = [np.arange(side) * n // side for side, n in zip(clip.shape[:3], cells, strict=True)]
    return (at[0][:, None, None] * cells[1] + at[1][:, None]) * cells[2] + at[2]


def supervoxels(clip, count=40):
    """About `count` regions of similar colour in space and time (SLIC, Achanta et al., 2012): int (T, H, W) from 0.

    Raises ImportError with one sentence where scikit-image is missing.
    """
    try:
        from skimage.segmentation import slic
    except ImportError:
        raise ImportError(
            "super-voxels need scikit-image: pip install 'vidjax[explain]', or take regions=blocks."
        ) from None
    found = slic(np.asarray(clip, np.float64), count, compactness=0.1, channel_axis=-1, start_label=0)
    return np.unique(found, return_inverse=True)[1].reshape(found.shape)


def lime(apply, clips, target, regions=blocks, samples=256, width=0.25, seed=0, squash=jax.nn.softmax):
    """The weights of a ridge regression from which regions are seen to the probability, at their pixels.

    Ribeiro et al., KDD 2016: regions are covered at random by the mean colour; samples near the whole clip count more,
    by exp(-(cosine distance / width)^2). (B, T, H, W, 3), (B,) -> (B, T, H, W).
    """

    def weights(scores, count, rng):
        seen = np.concatenate([np.ones((1, count)), rng.integers(0, 2, (samples - 1, count))])
        distance = 1 - np.sqrt(seen.mean(1))  # cosine distance to a row of ones
        near = np.exp(-((distance / width) ** 2))
        return sklearn.linear_model.Ridge(alpha=1.0).fit(seen, scores(seen), sample_weight=near).coef_

    return _by_regions(apply, clips, target, regions, weights, seed, squash)


def shap(apply, clips, target, regions=blocks, samples=512, seed=0, squash=jax.nn.softmax):
    """Shapley values of the regions by Kernel SHAP, at their pixels: they add up to the probability less that of none.

    Lundberg & Lee, NeurIPS 2017, theorem 2. All coalitions where `samples` suffice, so exact values; else random ones
    and their complements, by the kernel's sizes. (B, T, H, W, 3), (B,) -> (B, T, H, W).
    """

    def weights(scores, count, rng):
        seen, kernel = coalitions(count, samples, rng)
        ends = scores(np.array([[0.0] * count, [1.0] * count]))
        if count == 1:
            return ends[1:] - ends[:1]
        left = scores(seen) - ends[0] - seen[:, -1] * (ends[1] - ends[0])  # the last share is what the others leave
        slopes = seen[:, :-1] - seen[:, -1:]
        found = sklearn.linear_model.LinearRegression(fit_intercept=False).fit(slopes, left, sample_weight=kernel).coef_
        return np.append(found, ends[1] - ends[0] - found.sum())

    return _by_regions(apply, clips, target, regions, weights, seed, squash)


def coalitions(count, samples, rng):
    """Which regions are seen (S, count) and the weight of each in the regression (S,), without none and all of them."""
    size_weights = [(count - 1) / (k * (count - k)) for k in range(1, count)]  # of all coalitions of a size together
    if 2**count - 2 <= samples:
        seen = np.array([row for row in itertools.product((0.0, 1.0), repeat=count) if 0 < sum(row) < count])
        sizes = seen.sum(1).astype(int)
        return seen.reshape(-1, count), np.array([size_weights[k - 1] / math.comb(count, k) for k in sizes])
    shares = np.array(size_weights) / sum(size_weights)
    sizes = rng.choice(np.arange(1, count), (samples + 1) // 2, p=shares)
    half = np.zeros((len(sizes), count))
    for row, size in zip(half, sizes, strict=True):
        row[rng.choice(count, size, replace=False)] = 1
    return np.concatenate([half, 1 - half]), np.ones(2 * len(half))


def _by_regions(apply, clips, target, regions, weights, seed, squash):
    maps = []
    for clip, wanted in zip(np.asarray(clips), target, strict=True):
        labels = regions(clip)
        colour, count = clip.mean((0, 1, 2)), labels.max() + 1

        def scores(seen, clip=clip, labels=labels, colour=colour, wanted=int(wanted)):
            shown = (np.where(row[labels][..., None] > 0, clip, colour) for row in seen)
            several = iter(lambda: list(itertools.islice(shown, 32)), [])
            return np.concatenate([probability(apply, np.stack(part), wanted, squash) for part in several])

        maps.append(weights(scores, count, np.random.default_rng(seed))[labels])
    return np.stack(maps).astype(np.float32)
