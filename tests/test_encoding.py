"""Encodings and the linear classifier against their definitions."""

import numpy as np
import pytest

from vidjax import encoding


def test_principal_components_are_those_of_the_singular_values():
    x = np.random.RandomState(0).randn(40, 6) @ np.diag([5, 4, 3, 2, 1, 0.5])
    pca = encoding.fit_pca(x, 3)
    _, _, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(pca["axes"] * axes[:3], 1)), 1, rtol=1e-9)  # up to their sign
    np.testing.assert_allclose(encoding.project(pca, x), (x - x.mean(0)) @ pca["axes"].T)
    assert len(encoding.fit_pca(x, 50)["axes"]) == 6


def test_bag_of_words_counts_the_nearest():
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    x = np.array([[1.0, 1], [9, 1], [11, 0], [0, 4.9]])
    np.testing.assert_allclose(encoding.bag_of_words(x, centres), np.array([2, 2, 0]) / 8**0.5)
    assert not encoding.bag_of_words(x[:0], centres).any()


def test_fisher_vector_is_the_gradient_of_the_likelihood():
    rng = np.random.RandomState(1)
    x, k, d = rng.randn(30, 3), 2, 3
    weights, means, variances = np.array([0.3, 0.7]), rng.randn(k, d), rng.uniform(0.5, 2, (k, d))

    def likelihood(means, deviations):
        p = np.exp(-0.5 * ((x[:, None] - means) / deviations) ** 2) / (np.sqrt(2 * np.pi) * deviations)
        return np.log(p.prod(-1) @ weights).mean()

    def numeric(i, j, which):
        shift = np.zeros((k, d))
        shift[i, j] = 1e-5
        args = [means, np.sqrt(variances)]
        up, down = ([a + s * (n == which) for n, a in enumerate(args)] for s in (shift, -shift))
        return (likelihood(*up) - likelihood(*down)) / 2e-5

    deviations, pairs = np.sqrt(variances), list(np.ndindex(k, d))
    # normalised by the Fisher information: deviation / sqrt(weight), and another sqrt(2)
    by_mean = [numeric(i, j, 0) * deviations[i, j] / np.sqrt(weights[i]) for i, j in pairs]
    by_deviation = [numeric(i, j, 1) * deviations[i, j] / np.sqrt(2 * weights[i]) for i, j in pairs]
    expected = np.array(by_mean + by_deviation)
    expected = np.sign(expected) * np.sqrt(np.abs(expected))
    found = encoding.fisher_vector(x, weights, means, variances)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-4)
    assert encoding.fisher_vector(x[:0], weights, means, variances).shape == (12,)


@pytest.mark.parametrize("kind", encoding.KINDS)
def test_classes_of_feature_sets_are_told_apart(kind):
    rng = np.random.RandomState(2)
    sets = [rng.randn(50, 4) + [2 * (i % 2), 0, 0, 0] for i in range(20)]
    book = encoding.fit_codebook(np.concatenate(sets[:10]), kind, 8)
    rows, y = np.array([encoding.encode(book, x) for x in sets]), np.arange(20) % 2
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)
    svm = encoding.fit_svm(rows[:10], y[:10], 3, 10.0)
    found = encoding.margins(svm, rows[10:])
    assert found.shape == (10, 3)
    assert (found.argmax(1) == y[10:]).all()
    assert (found[:, 2] == -1).all()  # a class without training videos
    np.testing.assert_allclose(encoding.softmax(found).sum(1), 1)


def test_errors():
    with pytest.raises(ValueError, match="config.encode.kind is bow or fisher, not 'vlad'"):
        encoding.fit_codebook(np.zeros((4, 2)), "vlad", 2)
    with pytest.raises(ValueError, match="two classes"):
        encoding.fit_svm(np.zeros((4, 2)), np.zeros(4, int), 2)
