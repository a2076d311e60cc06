"""Figures of how each class ranks the videos: average precision and the area under the ROC curve, weighted."""

import numpy as np

ROOM = 2**25  # comparisons of scores held at once


def ranking(scores, truth, weights):
    """Average precision and ROC area of each class: scores, truth (N, C), weights (R, N) -> two float64 (R, C).

    Precision is taken at each true video, those of equal score together; a tie counts half in the area. NaN where the
    weights leave a class without true videos, or for the area without others. Weights are whole numbers below 2^24.
    """
    weights, (_, classes) = np.asarray(weights, np.float32), truth.shape
    precision, area = (np.full((len(weights), classes), np.nan) for _ in range(2))
    for c in np.flatnonzero(truth.any(0)):
        precision[:, c], area[:, c] = of_class(scores[:, c], truth[:, c] > 0, weights)
    return precision, area


def of_class(scores, true, weights):
    """`ranking` of one class: scores, true (N,), weights (R, N) -> two (R,)."""
    places, precise, below = np.flatnonzero(true), np.zeros(len(weights)), np.zeros(len(weights))
    all_own = weights[:, places]
    positive = all_own.sum(1, dtype=np.float64)
    negative = weights.sum(1, dtype=np.float64) - positive
    for part in np.array_split(np.arange(len(places)), -(-len(places) * len(scores) // ROOM)):
        at = scores[places[part]]
        reached = (scores[:, None] >= at).astype(np.float32)
        total, right = weights @ reached, all_own @ reached[places]  # whole numbers: exact
        tie = (scores[:, None] == at) & ~true[:, None]
        rows = np.flatnonzero(tie.any(1))
        tied = weights[:, rows] @ tie[rows].astype(np.float32)
        own, beaten = all_own[:, part].astype(np.float64), negative[:, None] - (total - right) + tied / 2
        precise += (own * right / np.maximum(total, 1)).sum(1)
        below += (own * beaten).sum(1)
    with np.errstate(invalid="ignore"):
        return precise / positive, below / (positive * negative)


def mean(figures):
    """The mean over the classes that have a figure: (R, C) -> (R,), NaN where none has."""
    known = ~np.isnan(figures)
    with np.errstate(invalid="ignore"):
        return np.where(known, figures, 0).sum(1) / np.float64(known.sum(1))
