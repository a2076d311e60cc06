"""Sets of local features to one vector a video, and a linear classifier on such vectors: before nets, and after them.

Principal components, k-means, Gaussian mixtures and support vector machines are scikit-learn's. What is fitted is a
dictionary of NumPy arrays, so that it is kept and read back without pickles.
"""

import numpy as np

KINDS = ("bow", "fisher")


def fit_pca(x, dims, seed=0):
    """Principal components of rows (N, D): {mean (D,), axes (dims, D)}; no more than the rows or columns allow."""
    from sklearn.decomposition import PCA

    pca = PCA(min(dims, *x.shape), random_state=seed).fit(x)
    return {"mean": pca.mean_, "axes": pca.components_}


def project(pca, x):
    """Rows (N, D) on principal components: -> (N, dims)."""
    return (x - pca["mean"]) @ pca["axes"].T


def fit_codebook(x, kind, words, seed=0):
    """What features (N, D) are counted by: k-means centres ("bow") or a diagonal Gaussian mixture ("fisher").

    -> {centres (K, D)} or {weights (K,), means (K, D), variances (K, D)}. ValueError for another kind.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.mixture import GaussianMixture

    words = min(words, len(x))
    if kind == "bow":
        found = MiniBatchKMeans(words, random_state=seed, n_init=3, batch_size=4096).fit(x)
        return {"centres": found.cluster_centers_}
    if kind == "fisher":
        found = GaussianMixture(words, covariance_type="diag", random_state=seed, max_iter=50, tol=1e-2)
        found.fit(x)
        return {"weights": found.weights_, "means": found.means_, "variances": found.covariances_}
    raise ValueError(f"config.encode.kind is {' or '.join(KINDS)}, not {kind!r}.")


def encode(codebook, x):
    """One vector for a set of features (N, D): a histogram of words (K,), or a Fisher vector (2 K D,); of length 1."""
    return bag_of_words(x, codebook["centres"]) if "centres" in codebook else fisher_vector(x, **codebook)


def bag_of_words(x, centres):
    """How often each centre is the nearest, as a vector of length 1: (N, D), (K, D) -> (K,)."""
    square = (centres**2).sum(1) - 2 * x @ centres.T
    counts = np.bincount(square.argmin(1), minlength=len(centres)).astype(np.float64)
    return counts / max(np.linalg.norm(counts), 1e-12)


def fisher_vector(x, weights, means, variances):
    """The improved Fisher vector (Perronnin et al., ECCV 2010, eq. 4, 5): (N, D) -> (2 K D,).

    Gradients of the mean log-likelihood by means, then by deviations; signed square root, then length 1.
    """
    k, d = means.shape
    if not len(x):
        return np.zeros(2 * k * d)
    scaled = (x[:, None] - means) / np.sqrt(variances)
    log_p = -0.5 * (scaled**2 + np.log(2 * np.pi * variances)).sum(-1) + np.log(weights)
    share = np.exp(log_p - log_p.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    by_mean = np.einsum("nk,nkd->kd", share, scaled) / (len(x) * np.sqrt(weights)[:, None])
    by_deviation = np.einsum("nk,nkd->kd", share, scaled**2 - 1) / (len(x) * np.sqrt(2 * weights)[:, None])
    vector = np.concatenate([by_mean.ravel(), by_deviation.ravel()])
    vector = np.sign(vector) * np.sqrt(np.abs(vector))
    return vector / max(np.linalg.norm(vector), 1e-12)


def unit(x):
    """Rows of length 1: (N, D) -> same; a row of zeros stays."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def fit_svm(x, labels, classes, c=1.0):
    """A linear support vector machine for each class against the rest: {coef (classes, D), intercept (classes,)}.

    A class without a row gets the score of no margin, -1. ValueError if all rows are of one class.
    """
    from sklearn.svm import LinearSVC

    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError("a support vector machine needs videos of two classes at least")
    coef, intercept = np.zeros((classes, x.shape[1])), np.full(classes, -1.0)
    for label in present:
        one = LinearSVC(C=c, dual=len(x) < x.shape[1], max_iter=10_000).fit(x, labels == label)
        coef[label], intercept[label] = one.coef_[0], one.intercept_[0]
    return {"coef": coef, "intercept": intercept}


def margins(svm, x):
    """Signed distances in margins, one per class: (N, D) -> (N, classes)."""
    return x @ svm["coef"].T + svm["intercept"]


def softmax(x):
    """Rows that sum to 1: (N, C) -> same. Of margins these are no calibrated probabilities, but keep their order."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
