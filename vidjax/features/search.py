"""Nearest neighbours among rows of features, by FAISS: cosine or Euclidean, exact, or in the nearest lists alone."""

import hashlib
import json
import os
import pathlib
import typing

import numpy as np

from vidjax import features, loading
from vidjax.data import written
from vidjax.features import store
from vidjax.features.store import FeaturesError

METRICS = ("cosine", "l2")
INSTALL = "searching needs the package faiss-cpu, which is not installed: pip install 'vidjax[search]'"
SLACK = 16  # neighbours looked up beyond those asked for: float32 sums order near ties by chance
PROBES, SAMPLE = 64, 40  # lists that an approximate search looks through; rows that each list's centre is learnt from


class Index(typing.NamedTuple):
    """Rows that can be searched: the manifest of their net, columns {name: (N,)}, vectors (N, D) float32.

    Vectors have length 1 where the metric is cosine. `lists` are FAISS's inverted ones of an approximate index.
    """

    place: str
    manifest: dict
    layer: str
    metric: str
    rows: dict
    vectors: np.ndarray
    lists: object


def faiss():
    """The library; FeaturesError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise FeaturesError(f"{INSTALL}.") from error
    return faiss


def load(place, layer="", metric="cosine", approximate=False):
    """The `Index` of a folder that `vidjax features` wrote, all its sets, or of one set: FOLDER/NAME.json.

    `layer` is by default the first that was written. An `approximate` one is kept in the folder, as search-*.faiss,
    for the next time. FeaturesError for files that are missing or damaged, and sets of different nets.
    """
    faiss()
    if metric not in METRICS:
        raise FeaturesError(f"there is no metric {metric!r}; take {' or '.join(METRICS)}.")
    place = pathlib.Path(place)
    folder, names = (place.parent, [place.stem]) if place.suffix == ".json" else (place, store.names(place))
    if not names:
        raise FeaturesError(
            f"{place} holds no features; vidjax features VIDEOS --weights=RUN --out={place} makes them."
        )
    sets = [features.read(folder, name, layer) for name in names]
    first = sets[0][1]
    for name, (_, manifest) in zip(names, sets, strict=True):
        if signature(manifest, layer) != signature(first, layer):
            raise FeaturesError(
                f"{place} holds features of different nets; take {place / names[0]}.json or {name}.json."
            )
    vectors = np.concatenate([rows.pop("features") for rows, _ in sets])
    if first["raw"] and vectors.ndim > 2:
        raise FeaturesError(f"{place} has places in its rows, so they cannot be compared; make it without --raw.")
    vectors = np.ascontiguousarray(vectors.reshape(len(vectors), -1), np.float32)
    if not np.isfinite(vectors).all():
        raise FeaturesError(f"{place} has features that are not finite numbers; look at the net that made them.")
    vectors = unit(vectors) if metric == "cosine" else vectors
    columns = {name: np.concatenate([rows[name] for rows, _ in sets]) for name in sets[0][0] if name != "label"}
    columns["label"] = np.concatenate([label_names(rows["label"], manifest["classes"]) for rows, manifest in sets])
    layer = layer or first["layers"][0]
    lists = lists_of(folder, vectors, metric, [layer, [m["files"] for _, m in sets]]) if approximate else None
    return Index(str(place), first, layer, metric, columns, vectors, lists)


def signature(manifest, layer):
    """What two sets have in common that can be searched together."""
    layer = layer or manifest["layers"][0]
    return manifest["weights"], layer, manifest["columns"][layer]["shape"], manifest["raw"]


def label_names(labels, classes):
    """Labels (N,) or (N, C) in words; nothing where they are not known."""
    if labels.ndim == 1:
        return np.array([*classes, ""])[labels]  # -1: the last
    return np.array([", ".join(name for name, one in zip(classes, row, strict=True) if one) for row in labels])


def unit(x):
    """Rows scaled to length 1; those of length 0 stay."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def lists_of(folder, vectors, metric, about):
    """FAISS's inverted lists of the rows, from the folder's search-*.faiss where there is one of the same rows."""
    library, digest = faiss(), hashlib.sha256(json.dumps([metric, about]).encode()).hexdigest()[:12]
    path = pathlib.Path(folder) / f"search-{digest}.faiss"
    if path.is_file():
        try:
            found = library.read_index(str(path))
        except RuntimeError as error:
            raise FeaturesError(f"{path} cannot be read; remove it, and it is made again.") from error
        if (found.ntotal, found.d) != vectors.shape:
            raise FeaturesError(f"{path} is of other rows; remove it, and it is made again.")
        return found
    count, width = vectors.shape
    number = max(1, min(int(4 * count**0.5), count // SAMPLE))
    chosen = np.sort(np.random.default_rng(0).permutation(count)[: number * SAMPLE])
    kind, flat = library.METRIC_L2, library.IndexFlatL2(width)
    if metric == "cosine":
        kind, flat = library.METRIC_INNER_PRODUCT, library.IndexFlatIP(width)
    found = library.IndexIVFFlat(flat, width, number, kind)
    found.train(vectors[chosen])
    found.add(vectors)
    try:
        with written.whole(path) as partial:
            library.write_index(found, str(partial))
    except (OSError, RuntimeError) as error:
        raise FeaturesError(f"cannot write {path}: {error}; leave --approximate out, or copy the folder.") from error
    return found


def nearest(index, queries, k):
    """The `k` rows nearest to each query (Q, D): [[(score, row)]], best first, of equals the lower row first.

    A score is the cosine, or the Euclidean distance, computed again in float64. Of more equally near rows than are
    asked for, which are found is left to FAISS.
    """
    library, count = faiss(), min(k + SLACK, len(index.vectors))
    queries = np.ascontiguousarray(unit(queries) if index.metric == "cosine" else queries, np.float32)
    if index.lists is not None:
        number = index.lists.nlist
        probes = min(number, max(PROBES, 8 * count * number // len(index.vectors)))  # all of them, for very many rows
        how = library.SearchParametersIVF(nprobe=probes)
        _, found = index.lists.search(queries, count, params=how)
    else:
        kind = library.METRIC_INNER_PRODUCT if index.metric == "cosine" else library.METRIC_L2
        _, found = library.knn(queries, index.vectors, count, metric=kind)
    result = []
    for query, rows in zip(queries.astype(np.float64), found, strict=True):
        rows = rows[rows >= 0]
        near = index.vectors[rows].astype(np.float64)
        scores = np.clip(near @ query, -1, 1) if index.metric == "cosine" else np.linalg.norm(near - query, axis=1)
        order = np.lexsort((rows, -scores if index.metric == "cosine" else scores))[:k]
        result.append([(float(scores[i]), int(rows[i])) for i in order])
    return result


def best(index, queries, top, left_out=(), per_video=False):
    """The `top` rows nearest to any of the queries (Q, D): [(score, row, query)], best first, each row once.

    Rows that are `left_out` do not count; with `per_video` each video's nearest row alone does.
    """
    left_out, sign, k = set(left_out), -1 if index.metric == "cosine" else 1, top + len(left_out)
    while True:
        found = nearest(index, queries, k)
        unseen = min((sign * each[-1][0] for each in found if each), default=0)  # no row that is not listed is nearer
        each = sorted((sign * score, row, query) for query, rows in enumerate(found) for score, row in rows)
        seen, kept = set(), []
        for score, row, query in each:
            key = (index.rows["path"][row] or index.rows["id"][row]) if per_video else row
            if row not in left_out and key not in seen:
                seen.add(key)
                kept.append((sign * score, row, query))
        certain = sum(sign * score <= unseen for score, _, _ in kept)
        if certain >= top or k >= len(index.vectors):
            return kept[:top]
        k *= 4


def predictor(index, weights="", reference="", classes="", step=None):
    """The net that made an index, or that of `weights` if it is the same; FeaturesError if it is not."""
    made, origin = index.manifest, weights or index.manifest["run"]
    if not weights:
        if not os.path.exists(origin):
            raise FeaturesError(f"{index.place} was made by {origin}, which is not there; name it with --weights=RUN.")
        reference, classes = made["from"], made["classes_file"]
    net = loading.predictor(origin, reference, classes, made["step"] if step is None else step)
    if features.fingerprint(net.meta, net.variables) != made["weights"]:
        which = f"step {made['step']} of {made['run']}" if made["step"] is not None else made["run"]
        raise FeaturesError(
            f"{index.place} holds features of {which}, whose weights {origin} does not have; "
            "name that with --weights, or run vidjax features again."
        )
    return net


def search(index, net, paths, top=10, own=False, per_video=False, stride="", window="", threads=4):
    """Yields (path, result) of each query video, or its VideoError, best neighbours first.

    A result is {path, windows: [{start, end, frames}], hits: [{score, id, path, label, window, start, end, frames,
    self, query}]}: `query` is the number of the query's window that is nearest. Windows are those of the index unless
    `stride` or `window` say otherwise. The query's own rows are left out, or with `own` marked as `self`.
    """
    kept = index.manifest.get("windows", {})
    how = {"stride": stride or kept.get("stride", ""), "window": window or kept.get("window", ""), "threads": threads}
    names, places = np.unique(index.rows["path"], return_inverse=True)
    homes = np.array([os.path.realpath(name) for name in names])[places]
    for path, found in net.many(paths, layers=(index.layer,), **how):
        if isinstance(found, Exception):
            yield path, found
            continue
        queries = found["features"][index.layer].reshape(len(found["start"]), -1)
        if queries.shape[1] != index.vectors.shape[1]:
            raise FeaturesError(
                f"{index.place} has rows of {index.vectors.shape[1]} numbers, the net gives {queries.shape[1]} for "
                f"{index.layer}; run vidjax features again."
            )
        mine = np.flatnonzero(homes == os.path.realpath(path))
        hits = best(index, queries, top, () if own else mine.tolist(), per_video)
        spans = zip(found["start"].tolist(), found["end"].tolist(), found["frames"].tolist(), strict=True)
        windows = [{"start": start, "end": end, "frames": frames} for start, end, frames in spans]
        yield path, {"path": path, "windows": windows, "hits": [hit(index, *one, mine) for one in hits]}


def hit(index, score, row, query, mine):
    """A neighbour as a dictionary."""
    rows = index.rows
    return {
        "score": score,
        **{name: str(rows[name][row]) for name in ("id", "path", "label")},
        "window": int(rows["window"][row]),
        "start": round(float(rows["start"][row]), 3),
        "end": round(float(rows["end"][row]), 3),
        "frames": [int(rows["first_frame"][row]), int(rows["end_frame"][row])],
        "self": bool(np.isin(row, mine)),
        "query": query,
    }
