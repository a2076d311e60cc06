"""How far a figure could have been another by the choice of videos: bootstrap intervals (Efron 1979)."""

import numpy as np

from vidjax.evaluate import figures, ranking

ROUNDS = 1000
AT_ONCE = 2**23  # weights of videos
WORK = 2e11  # comparisons of two videos that map and auc may take in all rounds; a hundred rounds always


def intervals(scores, labels, rounds=ROUNDS, seed=0):
    """95 % intervals over resampled videos: {top1, top5, mean_class, loss, ece, map, auc: [low, high]}.

    They are percentiles of `rounds` samples as large as the data, drawn from `seed`. Of many videos `map` and `auc`,
    which compare all with each other, take fewer rounds, 100 at least. What is not defined is left out.
    """
    n, rng = len(scores), np.random.default_rng(seed)
    counts = np.stack([times(rng, n) for _ in range(rounds)])
    parts = np.array_split(counts, -(-rounds * n // AT_ONCE))
    drawn = [figures.weighted(scores, labels, part) for part in parts]
    found = {name: np.concatenate([some[name] for some in drawn]) for name in drawn[0]}
    truth = figures.several(scores, labels)
    ranked = counts[: max(100, int(WORK / (n * max(1, truth.sum()))))]
    areas = ranking.ranking(scores, truth, ranked)
    found |= dict(zip(("map", "auc"), map(ranking.mean, areas), strict=True))
    known = {name: values for name, values in found.items() if not np.isnan(values).all()}
    return {name: np.nanpercentile(values, [2.5, 97.5]).tolist() for name, values in known.items()}


def times(rng, n):
    """How often each of n videos is in a sample of n: float32 (n,)."""
    return np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float32)
