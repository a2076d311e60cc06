"""Late fusion of score files: averages, a classifier, and the released two-stream scores."""

import numpy as np
import pytest
import scipy.io

from vidjax import fuse, main


def write(path, scores, labels, ids=None):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, scores=scores, labels=labels, ids=np.array(ids or [f"v{i}" for i in range(len(labels))]))
    return str(path)


@pytest.fixture
def pair(tmp_path):
    """Two models, each sure of what the other confuses."""
    rng, labels = np.random.RandomState(0), np.arange(60) % 4
    for split, name in (("eval", "scores_5.npz"), ("train", "scores_5_train.npz")):
        for model, sees in (("a", labels // 2), ("b", labels % 2)):
            bit = np.array([[c // 2 if model == "a" else c % 2 for c in range(4)]])
            scores = np.where(bit == sees[:, None], 0.4, 0.1) + 0.02 * rng.rand(60, 4)
            write(tmp_path / model / name, scores.astype(np.float32), labels)
        assert split
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_average_and_classifier_join_what_each_lacks(pair):
    result = fuse.fuse(pair)
    assert max(result["each"]) < 0.8
    assert result["top1"] == 1
    assert fuse.fuse(pair, weights=[1, 0])["top1"] == result["each"][0]
    assert fuse.fuse(pair, svm=True, c=100)["top1"] == 1


def test_videos_are_matched_by_id(tmp_path):
    rng = np.random.RandomState(1)
    scores, labels, ids = rng.rand(6, 3), np.arange(6) % 3, list("abcdef")
    turn = [3, 1, 4, 0, 5]
    first = write(tmp_path / "one.npz", scores, labels, ids)
    second = write(tmp_path / "two.npz", scores[turn], labels[turn], [ids[i] for i in turn])
    result = fuse.fuse([first, second])
    assert result["ids"].tolist() == ["a", "b", "d", "e", "f"]
    expected = scores / scores.sum(1, keepdims=True)
    np.testing.assert_allclose(result["scores"], expected[[0, 1, 3, 4, 5]], rtol=1e-12)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((np.ones((2, 4)), [0, 1]), "has 4 classes"),
        ((np.ones((2, 3)), [1, 1]), "give other labels"),
        ((np.ones((2, 3)), [0, 1], ["x", "y"]), "no video in common"),
    ],
)
def test_what_cannot_be_fused_is_named(tmp_path, other, message):
    first, second = write(tmp_path / "one.npz", np.ones((2, 3)), [0, 1]), write(tmp_path / "two.npz", *other)
    with pytest.raises(fuse.FusionError, match=message):
        fuse.fuse([first, second])
    with pytest.raises(fuse.FusionError, match="needs 2 numbers"):
        fuse.fuse([first, first], weights=[1])
    with pytest.raises(fuse.FusionError, match="run vidjax eval --workdir=.* --split=train"):
        fuse.load(tmp_path, "train")


def test_the_command_prints_and_saves(pair, tmp_path, capsys):
    assert main.main(["fuse", *pair, "--weights=1,1.5", f"--out={tmp_path / 'both'}"]) == 0
    assert "100.00%  fused, top-1 of 60 videos" in capsys.readouterr().out
    with np.load(tmp_path / "both" / "scores_fused.npz") as found:
        assert found["scores"].shape == (60, 4)
    assert (tmp_path / "both" / "fusion.json").exists()
    assert main.main(["fuse", *pair, "--weights=1,x"]) == 1


def test_released_scores_of_hidden_two_stream_nets(golden, tmp_path):
    """The figures that the released score matrices give (golden/README.md), by the published rule."""
    rows = [line.split() for line in (golden / "scores" / "testlist01.txt").read_text().splitlines() if line.strip()]
    names = [row[0] for row in rows]
    classes = sorted({name.split("/")[0] for name in names}, key=str.lower)  # UCF101's own order
    labels = [classes.index(name.split("/")[0]) for name in names]
    paths = {}
    for key, file in (("rgb", "spatial_quality100"), ("hidden", "temporal_hidden"), ("tvl1", "temporal_tvl1")):
        found = scipy.io.loadmat(golden / "scores" / f"{file}_split01.mat")
        (scores,) = [value for value in found.values() if getattr(value, "shape", ()) in ((3783, 101), (101, 3783))]
        scores = scores if scores.shape[0] == 3783 else scores.T
        paths[key] = write(tmp_path / f"{key}.npz", scores, labels, names)
    hidden = fuse.fuse([paths["rgb"], paths["hidden"]], weights=[1, 1.5])
    tvl1 = fuse.fuse([paths["rgb"], paths["tvl1"]], weights=[1, 1.5])
    assert [round(x, 5) for x in (*hidden["each"], tvl1["each"][1])] == [0.80967, 0.84060, 0.85805]
    assert [round(x["top1"], 5) for x in (hidden, tvl1)] == [0.89003, 0.91303]
