"""A data set's features on a plane, for a report: by principal components and by t-SNE."""

import numpy as np

MOST = 2000  # videos on a map: more are not to be told apart, and t-SNE would take minutes
DIMS = 50  # principal components that t-SNE starts from, as van der Maaten & Hinton (2008) do


def feature_map(features, labels, predicted, ids, layer, seed=0):
    """A report's `feature_map` of features (N, D), labels (N,), predictions (N,) and ids; None for fewer than 3 videos.

    {layer, dims, of, labels, predicted, ids, pca [[x, y]], explained [2], tsne [[x, y]], perplexity}, of MOST videos
    drawn at random where there are more (`of` N). Coordinates are in [0, 1], `explained` is the share of the variance
    along each of the two components.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    n, dims = features.shape
    if n < 3:
        return None
    drawn = np.sort(np.random.default_rng(seed).permutation(n)[:MOST])
    rows = np.asarray(features, np.float64)[drawn]
    with np.errstate(invalid="ignore"):  # shares of no variance
        pca = PCA(min(DIMS, *rows.shape), random_state=seed).fit(rows)
    near = pca.transform(rows)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    with threadpool_limits(1):  # beside other work its threads wait for one another ten times as long
        spread = TSNE(2, perplexity=perplexity, init="random", random_state=seed).fit_transform(near)
    plane = np.pad(near[:, :2], ((0, 0), (0, 2 - min(2, near.shape[1]))))
    shares = np.pad(pca.explained_variance_ratio_[:2], (0, 2 - min(2, near.shape[1])))
    return {
        "layer": layer,
        "dims": dims,
        "of": n,
        "labels": np.asarray(labels)[drawn].tolist(),
        "predicted": np.asarray(predicted)[drawn].tolist(),
        "ids": [ids[i] for i in drawn],
        "pca": _placed(plane),
        "explained": np.nan_to_num(shares).tolist(),
        "tsne": _placed(spread),
        "perplexity": perplexity,
    }


def _placed(points):
    """Points (N, 2) in a square: the longer side from 0 to 1, the other in its middle, to a thousandth."""
    low, high = points.min(0), points.max(0)
    side = max((high - low).max(), 1e-12)
    return [[round(float(v), 3) for v in point] for point in (points - (low + high) / 2) / side + 0.5]
