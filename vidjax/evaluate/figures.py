"""Figures of an evaluation, from scores and labels: pure NumPy."""

import numpy as np

from vidjax.evaluate import ranking

BINS = 15  # of the calibration: equal widths of the top probability


def metrics(scores, labels):
    """Top-1, top-5, loss in nats, accuracy per class and confusion from probabilities (N, C) and labels (N,) or (N, C).

    Ties go to the lower class index; top-5 is None for fewer than six classes; rows of `confusion` are true classes.
    Of several labels a video counts as the one of highest score: a hit at k is any true label in the top k.
    """
    n, classes = scores.shape
    labels = counted(scores, labels)
    order = np.argsort(-scores, axis=1, kind="stable")
    hit = order == labels[:, None]
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    videos, right = confusion.sum(1), confusion.diagonal()
    chosen = scores[np.arange(n), labels].astype(np.float64)
    return {
        "top1": hit[:, 0].sum() / n,
        "top5": hit[:, :5].sum() / n if classes > 5 else None,
        "loss": -np.log(np.maximum(chosen, 1e-12)).sum() / n,
        "mean_class": (right[videos > 0] / videos[videos > 0]).mean(),
        "accuracy": [r / v if v else None for r, v in zip(right.tolist(), videos.tolist(), strict=True)],
        "videos": videos.tolist(),
        "correct": right.tolist(),
        "confusion": confusion.tolist(),
    }


def further(scores, labels, clips=None):
    """The figures beside `metrics`: {map, auc, ece, calibration, hit, average_precision}, None where not defined.

    `map` is the mean over classes of average precision, `auc` of the area under the ROC curve, one class against the
    rest; `ece` the expected calibration error. `clips` (N, 3) are the clips of each video that hit at 1, at 5, and all.
    """
    precision, area = ranking.ranking(scores, several(scores, labels), np.ones((1, len(scores))))
    hits, classes = np.pad(video_hits(scores, labels), ((0, 0), (0, 1)), constant_values=1), scores.shape[1]
    bins = calibration(scores, labels)
    kept = [(n, c, a) for n, c, a in zip(bins["videos"], bins["confidence"], bins["accuracy"], strict=True) if n]
    known = lambda x: None if np.isnan(x) else float(x)  # noqa: E731
    return {
        "map": known(ranking.mean(precision)[0]),
        "auc": known(ranking.mean(area)[0]),
        "ece": sum(n * abs(c - a) for n, c, a in kept) / len(scores),
        "calibration": bins,
        "hit": {"video": shares(hits, classes), "clip": None if clips is None else shares(clips, classes)},
        "average_precision": [known(x) for x in precision[0]],
    }


def shares(counts, classes):
    """Counts (N, 3) of hits at 1, at 5, and of all -> {"1": share, "5": share or None}."""
    first, five, of = counts.sum(0).tolist()
    return {"1": first / of, "5": five / of if classes > 5 else None}


def video_hits(scores, labels):
    """Whether a true label is first, and whether one is among the first five: (N, 2) of 0 and 1."""
    rank = np.argsort(-scores, axis=1, kind="stable") == counted(scores, labels)[:, None]
    return np.stack([rank[:, 0], rank[:, :5].any(1)], 1).astype(int)


def calibration(scores, labels):
    """How sure and how right: {edges (16), videos (15), confidence, accuracy (15)}, the means None in an empty bin.

    A video is in the bin (edge, next edge] of its top probability, right if a true label is first.
    """
    bins, sure, right = binned(scores, labels)
    count, sure, right = (np.bincount(bins, x, BINS) for x in (None, sure, right))
    means = [
        [x / n if n else None for x, n in zip(each.tolist(), count.tolist(), strict=True)] for each in (sure, right)
    ]
    edges = np.linspace(0, 1, BINS + 1).tolist()
    return {"edges": edges, "videos": count.tolist(), "confidence": means[0], "accuracy": means[1]}


def binned(scores, labels):
    """(bin, top probability, whether it is right as 0 or 1) of each video: three (N,)."""
    sure = scores.max(1).astype(np.float64)
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1), sure) - 1
    return np.clip(bins, 0, BINS - 1), sure, video_hits(scores, labels)[:, 0]


def weighted(scores, labels, weights):
    """The headline figures where video i counts weights[r, i] times: {name: (R,)}, NaN where one is not defined.

    Of weights that are all 1 they are those of `metrics`, and `ece` that of `further`.
    """
    n, classes = scores.shape
    weights, total = np.asarray(weights, np.float64), np.sum(weights, 1, dtype=np.float64)
    hits, one = video_hits(scores, labels), counted(scores, labels)
    loss = -np.log(np.maximum(scores[np.arange(n), one].astype(np.float64), 1e-12))
    found = {"top1": weights @ hits[:, 0] / total, "loss": weights @ loss / total}
    found |= {"top5": weights @ hits[:, 1] / total} if classes > 5 else {}
    of_class = grouped(weights, one)
    with np.errstate(invalid="ignore"):
        found["mean_class"] = ranking.mean(grouped(weights * hits[:, 0], one) / of_class)
    bins, sure, right = binned(scores, labels)
    return found | {"ece": np.abs(grouped(weights * (right - sure), bins)).sum(1) / total}


def grouped(values, groups):
    """Sums of the columns of each group that there is, in the groups' order: (R, N), (N,) -> (R, groups)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return np.add.reduceat(values[:, order], starts, axis=1)


def several(scores, labels):
    """Labels (N,) or (N, C) as zeros and ones (N, C)."""
    return labels if labels.ndim == 2 else np.eye(scores.shape[1], dtype=np.int8)[labels]


def counted(scores, labels):
    """The one label (N,) by which a video counts: of several (N, C), the true one of highest score."""
    return labels if labels.ndim == 1 else np.where(labels > 0, scores, -1).argmax(1)


def label_array(records, source):
    """The labels of records: (N,) ints, or (N, C) zeros and ones where a video has several."""
    if not source.multi_label:
        return np.array([record["label"] for record in records])
    labels = np.zeros((len(records), len(source.classes)), np.int8)
    for row, record in zip(labels, records, strict=True):
        row[list(record["label"])] = 1
    return labels
