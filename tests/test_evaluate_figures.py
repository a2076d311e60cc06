"""Figures against brute-force oracles and scikit-learn: hits, precision, areas, calibration, bootstrap intervals."""

import numpy as np
import pytest
from sklearn import metrics as sk

from vidjax.evaluate import figures, intervals, ranking

EXACT = {"rtol": 1e-12, "atol": 1e-14}  # sums of float64 in another order
APPROX = {"rel": 1e-12}  # likewise


def example(kind, seed=0, n=60, classes=7):
    """Scores with ties, and labels that leave the last class without a video."""
    rng = np.random.default_rng(seed)
    if kind == "single":
        scores, labels = rng.dirichlet(np.ones(classes), n), rng.integers(0, classes - 1, n)
    else:
        scores, labels = rng.random((n, classes)), (rng.random((n, classes)) < 0.3).astype(np.int8)
        labels[:, -1] = 0
        labels[np.arange(n), rng.integers(0, classes - 1, n)] = 1
    return np.round(scores, 2).astype(np.float32), labels


def truth_of(labels, classes):
    return labels if labels.ndim == 2 else np.array([[int(c == y) for c in range(classes)] for y in labels])


def brute_precision(scores, true):
    """Average precision of one class: the mean over true videos of the share of true ones down to their score."""
    down = [(scores >= s) for s, t in zip(scores, true, strict=True) if t]
    return np.mean([true[seen].mean() for seen in down])


def brute_area(scores, true):
    """The share of pairs of a true and another video that are in the right order, ties counting half."""
    pairs = [(p > q) + (p == q) / 2 for p in scores[true > 0] for q in scores[true == 0]]
    return np.mean(pairs)


def brute(scores, labels):
    """Every headline figure, video by video."""
    n, classes = scores.shape
    truth = truth_of(labels, classes)
    order = [sorted(range(classes), key=lambda c: (-row[c], c)) for row in scores.tolist()]
    one = [next(c for c in o if t[c]) for o, t in zip(order, truth, strict=True)]
    rank = [o.index(c) for o, c in zip(order, one, strict=True)]
    there = [c for c in range(classes) if truth[:, c].any()]
    both = [c for c in there if not truth[:, c].all()]
    bins = [[] for _ in range(15)]
    for row, r in zip(scores.astype(np.float64), rank, strict=True):
        upper = next(k for k in range(15) if row.max() <= (np.linspace(0, 1, 16)[k + 1]))
        bins[upper].append((row.max(), r < 1))
    gaps = [len(b) / n * abs(np.mean([c for c, _ in b]) - np.mean([a for _, a in b])) for b in bins if b]
    return {
        "top1": np.mean([r < 1 for r in rank]),
        "top5": np.mean([r < 5 for r in rank]),
        "loss": np.mean([-np.log(max(float(row[c]), 1e-12)) for row, c in zip(scores, one, strict=True)]),
        "mean_class": np.mean([np.mean([r < 1 for r, c in zip(rank, one, strict=True) if c == k]) for k in set(one)]),
        "ece": sum(gaps),
        "map": np.mean([brute_precision(scores[:, c], truth[:, c]) for c in there]),
        "auc": np.mean([brute_area(scores[:, c], truth[:, c]) for c in both]),
    }


@pytest.mark.parametrize("kind", ["single", "several"])
def test_every_figure_equals_a_brute_force_oracle(kind):
    scores, labels = example(kind)
    found = figures.metrics(scores, labels) | figures.further(scores, labels)
    for name, value in brute(scores, labels).items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **EXACT)
    assert found["hit"] == {"video": {"1": found["top1"], "5": found["top5"]}, "clip": None}
    assert found["average_precision"][-1] is None


@pytest.mark.parametrize("kind", ["single", "several"])
def test_ranks_equal_scikit_learns(kind):
    scores, labels = example(kind, seed=1)
    truth = truth_of(labels, 7)
    precision, area = ranking.ranking(scores, truth, np.ones((1, 60)))
    for c in range(6):
        np.testing.assert_allclose(precision[0, c], sk.average_precision_score(truth[:, c], scores[:, c]), **EXACT)
        np.testing.assert_allclose(area[0, c], sk.roc_auc_score(truth[:, c], scores[:, c]), **EXACT)
    if kind == "single":
        found, said = figures.metrics(scores, labels), scores.argmax(1)
        assert found["top1"] == sk.accuracy_score(labels, said)
        assert found["confusion"] == sk.confusion_matrix(labels, said, labels=range(7)).tolist()
        recall = sk.recall_score(labels, said, labels=range(6), average="macro")
        np.testing.assert_allclose(found["mean_class"], recall, **EXACT)


def test_distinct_scores_have_scikit_learns_top5():
    rng = np.random.default_rng(2)
    scores, labels = rng.dirichlet(np.ones(9), 50), rng.integers(0, 9, 50)
    assert figures.metrics(scores, labels)["top5"] == sk.top_k_accuracy_score(labels, scores, k=5)
    assert figures.metrics(scores, labels)["loss"] == pytest.approx(sk.log_loss(labels, scores), **APPROX)


def test_weights_count_videos_several_times():
    scores, labels = example("single")
    times = np.random.default_rng(3).integers(0, 4, (2, 60))
    found = figures.weighted(scores, labels, times)
    ranks = ranking.ranking(scores, truth_of(labels, 7), times)
    found |= {"map": ranking.mean(ranks[0]), "auc": ranking.mean(ranks[1])}
    for i, row in enumerate(times):
        rows = np.repeat(np.arange(60), row)
        for name, value in brute(scores[rows], labels[rows]).items():
            np.testing.assert_allclose(found[name][i], value, err_msg=name, **EXACT)


@pytest.mark.parametrize("kind", ["single", "several"])
def test_intervals_equal_a_brute_force_bootstrap(kind):
    scores, labels = example(kind, n=20)
    found = intervals.intervals(scores, labels, rounds=30, seed=4)
    rng = np.random.default_rng(4)
    drawn = []
    for _ in range(30):
        rows = np.sort(rng.integers(20, size=20))
        drawn.append(brute(scores[rows], labels[rows]))
    assert set(found) == set(drawn[0])
    for name, (low, high) in found.items():
        expected = np.percentile([one[name] for one in drawn], [2.5, 97.5])
        np.testing.assert_allclose([low, high], expected, err_msg=name, **EXACT)


def test_intervals_are_those_of_their_seed_and_hold_the_figure():
    scores, labels = example("single", n=200)
    found, figure = intervals.intervals(scores, labels), figures.metrics(scores, labels)
    assert found == intervals.intervals(scores, labels)
    assert found != intervals.intervals(scores, labels, seed=1)
    assert all(low < figure[name] < high for name, (low, high) in found.items() if name in ("top1", "loss"))


def test_what_is_not_defined_has_no_interval():
    scores = np.full((4, 3), 1 / 3, np.float32)
    found = intervals.intervals(scores, np.zeros(4, int), rounds=10)
    assert set(found) == {"top1", "loss", "mean_class", "ece", "map"}  # one class: no ROC curve; three: no top-5
    assert figures.further(scores, np.zeros(4, int))["auc"] is None


def test_calibration_table():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5], [0.0, 1.0]], np.float32)
    table = figures.calibration(scores, np.array([0, 1, 0, 1]))
    assert len(table["edges"]) == 16
    assert [n for n in table["videos"] if n] == [1, 1, 1, 1]
    assert table["videos"][14] == 1  # a probability of 1 is in the last bin
    assert [a for a in table["accuracy"] if a is not None] == [1, 0, 1, 1]
    np.testing.assert_allclose([c for c in table["confidence"] if c is not None], [0.5, 0.8, 0.9, 1.0], rtol=1e-7)
    assert table["confidence"][0] is None


def test_ties_and_chunks_do_not_change_ranks(monkeypatch):
    scores, labels = example("several", seed=5)
    whole = ranking.ranking(scores, labels, np.ones((1, 60)))
    monkeypatch.setattr(ranking, "ROOM", 100)
    for part, all_at_once in zip(ranking.ranking(scores, labels, np.ones((1, 60))), whole, strict=True):
        np.testing.assert_allclose(part, all_at_once, **EXACT)
