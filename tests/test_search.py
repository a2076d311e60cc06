"""Nearest neighbours among features: a brute-force oracle, ties, several windows, and refusals in a sentence."""

import json
import sys

import numpy as np
import pytest

from vidjax.features import search, store


def save(folder, vectors, *, name="videos", videos=None, **about):
    """A set of features as vidjax features writes it: row i is window i of its video."""
    count = len(vectors)
    videos = [f"/v/{i // 3}.mp4" for i in range(count)] if videos is None else videos
    rows = {
        "id": np.array(videos),
        "path": np.array(videos),
        "label": np.arange(count) % 3 - 1,
        "window": np.arange(count),
        "start": np.arange(count, dtype=np.float32),
        "end": np.arange(count, dtype=np.float32) + 1,
        "first_frame": np.arange(count) * 8,
        "end_frame": np.arange(count) * 8 + 8,
        "layer4": vectors,
    }
    known = {"layers": ["layer4"], "weights": "0123", "raw": False, "classes": ["up", "down"], "rows_are": "windows"}
    return store.save(folder, name, [rows], known | {"run": "/r", "step": 3} | about)


def scores(metric, vectors, query):
    """All scores of a query, in float64."""
    v, q = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.sqrt(((v - q) ** 2).sum(1))
    norms = np.linalg.norm(v, axis=1) * np.linalg.norm(q)
    return np.divide(v @ q, norms, out=np.zeros(len(v)), where=norms > 0)


def ranked(metric, found, k):
    """The best k of scores (N,), of equals the lower row first: [(score, row)]."""
    order = np.lexsort((np.arange(len(found)), found if metric == "l2" else -found))[:k]
    return [(found[i], i) for i in order]


@pytest.mark.parametrize("metric", search.METRICS)
@pytest.mark.parametrize(("count", "width", "k"), [(1, 4, 5), (40, 1, 7), (500, 16, 1), (500, 16, 10), (300, 64, 300)])
def test_neighbours_are_the_oracles(tmp_path, metric, count, width, k):
    rng = np.random.default_rng(count + k)
    vectors, queries = (rng.standard_normal((n, width), np.float32) * 5 for n in (count, 6))
    save(tmp_path, vectors)
    found = search.nearest(search.load(tmp_path, metric=metric), queries, k)
    for query, mine in zip(queries, found, strict=True):
        theirs = ranked(metric, scores(metric, vectors, query), k)
        # rows of length 1 are float32, and in one number all cosines are 1 or -1: ties but for their rounding
        np.testing.assert_allclose([s for s, _ in mine], [s for s, _ in theirs], atol=1e-6)
        if width > 1:
            assert [row for _, row in mine] == [row for _, row in theirs]


@pytest.mark.parametrize("metric", search.METRICS)
def test_equals_come_in_order(tmp_path, metric):
    """Five copies of each of ten rows, and a row of zeros, which is at a right angle to all."""
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.tile(rng.standard_normal((10, 8), np.float32), (5, 1)), np.zeros((1, 8), np.float32)])
    save(tmp_path, vectors)
    index = search.load(tmp_path, metric=metric)
    (found,) = search.nearest(index, vectors[3:4], 7)
    assert [row for _, row in found[:5]] == [3, 13, 23, 33, 43]
    assert len({score for score, _ in found[:5]}) == 1
    assert found[0][0] == pytest.approx(1 if metric == "cosine" else 0, abs=1e-6)  # of length 1 in float32
    assert [row for _, row in found] == [row for _, row in ranked(metric, scores(metric, vectors, vectors[3]), 7)]
    (every,) = search.nearest(index, vectors[3:4], 51)
    theirs = ranked(metric, scores(metric, vectors, vectors[3]), 51)
    np.testing.assert_allclose([s for s, _ in every], [s for s, _ in theirs], atol=1e-6)  # as above
    (zero,) = search.nearest(index, vectors[50:], 51)
    assert zero[0] == ((0.0, 0) if metric == "cosine" else (0.0, 50))


@pytest.mark.parametrize("metric", search.METRICS)
@pytest.mark.parametrize("per_video", [False, True])
@pytest.mark.parametrize("top", [1, 5, 30, 200])
def test_windows_of_a_query_are_merged_best_first(tmp_path, metric, per_video, top):
    """Videos are clusters, so that the first neighbours of one are all of the same and others have to be looked up."""
    rng = np.random.default_rng(top)
    centres = rng.standard_normal((12, 6), np.float32) * 4
    vectors = np.repeat(centres, 10, 0) + rng.standard_normal((120, 6), np.float32) * 0.1
    videos = [f"/v/{i // 10}.mp4" for i in range(120)]
    save(tmp_path, vectors, videos=videos)
    queries = np.stack([centres[0], centres[7], rng.standard_normal(6)]).astype(np.float32)
    index, left_out = search.load(tmp_path, metric=metric), set(range(70, 75))
    found = search.best(index, queries, top, left_out, per_video)
    sign = 1 if metric == "l2" else -1
    every = [
        (sign * s, row, q) for q, query in enumerate(queries) for row, s in enumerate(scores(metric, vectors, query))
    ]
    seen, expected = set(), []
    for score, row, query in sorted(every):
        key = videos[row] if per_video else row
        if row not in left_out and key not in seen:
            seen.add(key)
            expected.append((sign * score, row, query))
    assert [(row, query) for _, row, query in found] == [(row, query) for _, row, query in expected[:top]]
    np.testing.assert_allclose([s for s, *_ in found], [s for s, *_ in expected[:top]], atol=1e-6)  # float32 rows


@pytest.mark.parametrize("metric", search.METRICS)
def test_an_approximate_index_is_kept_and_finds_nearly_all(tmp_path, monkeypatch, metric):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4000, 6), np.float32)
    monkeypatch.setattr(search, "PROBES", 25)  # of a hundred lists
    save(tmp_path, vectors)
    index = search.load(tmp_path, metric=metric, approximate=True)
    (file,) = tmp_path.glob("search-*.faiss")
    made = file.read_bytes()
    queries = rng.standard_normal((20, 6), np.float32)
    found = search.nearest(index, queries, 10)
    exact = search.nearest(search.load(tmp_path, metric=metric), queries, 10)
    shared = [len({r for _, r in a} & {r for _, r in b}) for a, b in zip(found, exact, strict=True)]
    assert 190 <= sum(shared) <= 200  # a quarter of the lists has nearly all neighbours
    again = search.load(tmp_path, metric=metric, approximate=True)
    assert search.nearest(again, queries, 10) == found
    (every,) = search.nearest(again, queries[:1], 4000)
    assert sorted(row for _, row in every) == list(range(4000))
    assert file.read_bytes() == made
    file.write_bytes(made[:100])
    with pytest.raises(search.FeaturesError, match=r"search-\w+\.faiss cannot be read; remove it"):
        search.load(tmp_path, metric=metric, approximate=True)
    file.unlink()
    save(tmp_path, vectors[:1000])
    search.load(tmp_path, metric=metric, approximate=True)
    (other,) = tmp_path.glob("search-*.faiss")
    assert other.name != file.name
    other.write_bytes(made)
    with pytest.raises(search.FeaturesError, match="is of other rows; remove it"):
        search.load(tmp_path, metric=metric, approximate=True)


def test_sets_of_a_folder_are_searched_together(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    save(tmp_path, vectors[:2], name="eval")
    save(tmp_path, vectors[2:], name="train", classes=["left", "right"])
    index = search.load(tmp_path)
    np.testing.assert_array_equal(index.vectors, vectors)
    assert index.rows["label"].tolist() == ["", "up", "", "left"]
    assert search.load(tmp_path / "train.json").rows["label"].tolist() == ["", "left"]
    save(tmp_path, vectors[2:], name="train", weights="4567")
    with pytest.raises(
        search.FeaturesError, match=r"holds features of different nets; take .*eval\.json or train\.json"
    ):
        search.load(tmp_path)


def test_labels_of_several_classes_are_words():
    assert search.label_names(np.array([[1, 0, 1], [0, 0, 0]]), ["a", "b", "c"]).tolist() == ["a, c", ""]
    assert search.label_names(np.array([1, -1, 0]), ["a", "b"]).tolist() == ["b", "", "a"]
    assert search.label_names(np.array([-1]), []).tolist() == [""]


def test_what_cannot_be_searched_is_a_sentence(tmp_path, monkeypatch):
    def fails(match, *args, **how):
        with pytest.raises(search.FeaturesError, match=match):
            search.load(*args, **how)

    fails("holds no features; vidjax features VIDEOS", tmp_path / "none")
    fails(r"none\.json cannot be read as a manifest", tmp_path / "none.json")
    save(tmp_path / "good", np.ones((3, 4), np.float32))
    fails("there is no metric 'dot'; take cosine or l2", tmp_path / "good", metric="dot")
    fails(r"has no layer 'layer5', only layer4", tmp_path / "good", "layer5")
    save(tmp_path / "raw", np.ones((3, 2, 4), np.float32), raw=True)
    fails("has places in its rows.*make it without --raw", tmp_path / "raw")
    save(tmp_path / "nan", np.array([[0, np.nan]], np.float32))
    fails("not finite numbers", tmp_path / "nan")
    path = tmp_path / "good" / "videos.npz"
    path.write_bytes(path.read_bytes() + b"x")
    fails("is not the file of its manifest; run vidjax features again", tmp_path / "good")
    manifest = json.loads((tmp_path / "nan" / "videos.json").read_text())
    del manifest["columns"]["start"]
    (tmp_path / "nan" / "videos.json").write_text(json.dumps(manifest))
    fails(r"cannot be read \('start'\); run vidjax features again", tmp_path / "nan")
    monkeypatch.setitem(sys.modules, "faiss", None)
    fails(r"faiss-cpu, which is not installed: pip install 'vidjax\[search\]'", tmp_path / "good")
