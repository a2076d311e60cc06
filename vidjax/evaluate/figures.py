"""Figures of an evaluation, from scores and labels: pure NumPy."""

import numpy as np


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
