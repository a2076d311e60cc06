"""The confusion matrix of a report: shares, pairs most often confused, orders of the classes to look at it in."""

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial import distance


def shares(confusion):
    """Each cell's share of its row (C, C), 0 in rows without videos."""
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def confused(confusion):
    """Pairs of different classes by how often the first was taken for the second: [(true, predicted, count, of)]."""
    wrong = confusion - np.diag(np.diag(confusion))
    rows, columns = wrong.nonzero()
    pairs = [(int(i), int(j), int(wrong[i, j]), int(confusion[i].sum())) for i, j in zip(rows, columns, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[3], pair[:2]))


def sparse(confusion):
    """The cells that are not 0, row by row: [[column, count, column, count, ...], ...]."""
    return [[int(x) for j in row.nonzero()[0] for x in (j, row[j])] for row in confusion]


def orders(confusion, names):
    """Orders of the classes by what they are called: {"as listed": [0, 1, ...], "by name": ..., ...}."""
    n, videos, right = len(names), confusion.sum(1), confusion.diagonal()
    found = {
        "as listed": list(range(n)),
        "by name": sorted(range(n), key=lambda i: (names[i].casefold(), i)),
        "worst class first": sorted(range(n), key=lambda i: (right[i] / videos[i] if videos[i] else 2, i)),
        "most videos first": sorted(range(n), key=lambda i: (-videos[i], i)),
    }
    if n > 2:
        found["confused ones together"] = together(confusion)
    return {name: order for name, order in found.items() if name == "as listed" or order != found["as listed"]}


def together(confusion):
    """The classes so that those taken for one another stand side by side: leaves of an average-linkage tree."""
    alike = shares(confusion)
    apart = 1 / (1 + (alike + alike.T))
    np.fill_diagonal(apart, 0)
    tree = hierarchy.linkage(distance.squareform(apart), "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree).tolist()
