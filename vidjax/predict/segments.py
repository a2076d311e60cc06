"""From windows to segments: which class was on when.

A moment belongs to the window whose middle is nearest: where two windows overlap or leave a gap the boundary is half
way, rounded down to a frame. Neighbouring windows with the same best class, each with at least the threshold's score,
are one segment; its score is their mean. Where classes are not exclusive every class has segments of its own.
"""

import itertools

import numpy as np

THRESHOLD = 0.3  # of a window's score, for it to be part of a segment


def edges(spans):
    """Where the windows that stand for the frames `spans` (W, 2) take over from one another: int64 (W + 1,) frames."""
    between = (spans[:-1, 1] + spans[1:, 0]) // 2
    return np.array([spans[0, 0], *between, spans[-1, 1]])


def merge(scores, spans, threshold=THRESHOLD, multi_label=False):
    """The segments of windows with `scores` (W, C): [{frames (first, end), class, score, windows}] in order of time."""
    at, chosen = edges(spans), scores >= threshold
    if not multi_label:
        chosen &= np.arange(scores.shape[1]) == scores.argmax(1)[:, None]
    found = []
    for k in np.flatnonzero(chosen.any(0)).tolist():
        for on, run in itertools.groupby(range(len(scores)), lambda i, k=k: chosen[i, k]):
            run = list(run)
            if on and at[run[0]] < at[run[-1] + 1]:
                span = int(at[run[0]]), int(at[run[-1] + 1])
                score = float(scores[run, k].mean())
                found.append({"frames": span, "class": k, "score": score, "windows": len(run)})
    return sorted(found, key=lambda segment: (*segment["frames"], segment["class"]))


def named(result, names, threshold=THRESHOLD, multi_label=False):
    """The segments of a `Predictor`'s result with seconds and names: [{start, end, label, frames, score, ...}]."""
    found = merge(result["scores"], result["frames"], threshold, multi_label)
    times = result["times"]
    return [
        {"start": float(times[a]), "end": float(times[b]), "label": names[s["class"]]} | s
        for s in found
        for a, b in [s["frames"]]
    ]
