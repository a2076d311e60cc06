"""`vidjax features` of files: rows are the net's activations of the windows of `vidjax predict`."""

import jax
import numpy as np
import pytest
import tiny

import vidjax
from vidjax import features, main, predict
from vidjax.data import video
from vidjax.features import store

NAMES = ["rise", "fall", "turn"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of the tiny net with random weights whose eval has one crop and three."""
    folder = tmp_path_factory.mktemp("runs")
    return {n: tiny.save_untrained(folder / str(n), NAMES, eval__crops=n) for n in (1, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of noise of 21, 5 and 33 frames, 40 x 30, and a file that is none."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for name, length in (("a", 21), ("b", 5), ("sub/c", 33)):
        (folder / name).parent.mkdir(exist_ok=True)
        video.write(folder / f"{name}.mp4", rng.integers(0, 256, (length, 30, 40, 3)).astype(np.uint8), fps=10)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.parametrize("crops", [1, 3])
def test_rows_are_the_activations_of_what_load_gives(runs, folder, tmp_path, capsys, crops):
    words = [str(folder), f"--weights={runs[crops]}", "--layer=layer2,pre_logits", f"--out={tmp_path}"]
    assert main.main(["features", *words]) == 1
    said = capsys.readouterr()
    assert f"\nskipped {folder}/bad.mp4: " in said.err
    assert "videos.npz: 9 windows, each 8 of layer2, 8 of pre_logits" in said.out
    net = vidjax.load(runs[crops])
    apply = jax.jit(lambda x: net.model.apply(net.variables, x, train=False)[1])
    scored = dict(predict.Predictor(str(runs[crops])).many([str(folder / n) for n in ("a.mp4", "b.mp4", "sub/c.mp4")]))
    for layer in ("layer2", "pre_logits"):
        rows, manifest = features.read(tmp_path, "videos", layer)
        assert manifest["layers"] == ["layer2", "pre_logits"]
        assert list(manifest["unreadable"]) == [f"{folder}/bad.mp4"]
        assert set(rows["label"]) == {-1}
        at = 0
        for path, result in scored.items():
            seen = net.preprocess(path)
            mean = np.asarray(apply(seen)[layer]).reshape(len(seen) // crops, crops, -1, 8).mean((1, 2))
            mine = slice(at, at + len(mean))
            np.testing.assert_allclose(rows["features"][mine], mean, atol=1e-5)  # other batches, other orders of sums
            assert rows["path"][mine].tolist() == rows["id"][mine].tolist() == [path] * len(mean)
            assert rows["window"][mine].tolist() == list(range(len(mean)))
            for key, column in (("start", result["start"]), ("end", result["end"])):
                np.testing.assert_array_equal(rows[key][mine], column.astype(np.float32))
            frames = np.stack([rows["first_frame"][mine], rows["end_frame"][mine]], 1)
            np.testing.assert_array_equal(frames, result["frames"])
            at += len(mean)
        assert at == manifest["rows"] == len(rows["id"])


def test_a_stride_and_a_generator_in_python(runs, folder):
    predictor = vidjax.predictor(str(runs[1]))
    path = str(folder / "a.mp4")
    rows, again = features.of_windows(predictor, [(path, "mine", 2), (path, "again", 1)], "layer1", stride="4f")
    assert set(again["id"]) == {"again"}
    np.testing.assert_allclose(again["layer1"], rows["layer1"], atol=1e-6)  # other batches
    assert rows["first_frame"].tolist() == [0, 4, 8, 12, 13]
    assert rows["label"].tolist() == [2] * 5
    assert set(rows["id"]) == {"mine"}
    (raw,) = features.of_windows(predictor, [(path, "mine", 2)], "layer1", stride="4f", raw=True)
    assert raw["layer1"].ndim == 5
    np.testing.assert_allclose(raw["layer1"].mean((1, 2, 3)), rows["layer1"], atol=1e-5)  # another order of sums
    with pytest.raises(video.VideoError, match=r"bad\.mp4"):
        list(features.of_windows(predictor, [(str(folder / "bad.mp4"), "bad", -1)]))


def test_nothing_is_written_where_nothing_can_be_read(runs, folder, tmp_path, capsys):
    words = [str(folder / "bad.mp4"), f"--weights={runs[1]}", f"--out={tmp_path}"]
    assert main.main(["features", *words]) == 1
    assert "no video could be read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["npz", "parquet", "array_record"])
def test_an_interrupted_job_goes_on(runs, folder, tmp_path, monkeypatch, form):
    """Files of rows are finished after each video; a .npz begins again, and so does another job in the same folder."""
    monkeypatch.setattr(store, "BLOCK", 1)
    monkeypatch.setattr(store, "SHARD", 1)
    predictor, seen = vidjax.predictor(str(runs[1])), []
    names = ("a", "bad", "b", "sub/c")
    videos = [(str(folder / f"{name}.mp4"), name, i) for i, name in enumerate(names)]

    def save(out, layers="layer2", stop=""):
        def many(paths, **how):
            for path, found in predict.Predictor.many(predictor, paths, **how):
                seen.append(path)
                yield path, found
                if stop and path.endswith(stop):
                    raise KeyboardInterrupt

        monkeypatch.setattr(predictor, "many", many)
        seen.clear()
        about = features.of_run(predictor.meta, runs[1], "0123")
        return features.save_windows(predictor, videos, out, "set", about, layers, form)

    expected = save(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "out", stop="b.mp4")
    assert store.names(tmp_path / "out") == []
    found = save(tmp_path / "out")
    assert len(seen) == (4 if form == "npz" else 1)
    assert found["unreadable"] == expected["unreadable"]
    assert found["rows"] == expected["rows"]
    (mine, _), (theirs, _) = (features.read(tmp_path / out, "set") for out in ("out", "whole"))
    np.testing.assert_allclose(mine.pop("features"), theirs.pop("features"), atol=1e-6)  # other batches
    tiny.assert_equal(mine | {"id": 0, "path": 0}, theirs | {"id": 0, "path": 0})
    assert mine["id"].tolist() == theirs["id"].tolist()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"set.json", *(one["file"] for one in found["files"])}
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "out", stop="b.mp4")
    save(tmp_path / "out", "layer1")
    assert len(seen) == 4
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--layer=layer9"], "the model has no activation 'layer9'; there are stem, layer1, layer2"),
        (["--workdir=RUN"], "give videos with --weights"),
        (["--coordinator=h:1", "--processes=1", "--process=0"], "windows are computed by one process"),
    ],
)
def test_mistakes_are_told_in_a_sentence(runs, folder, tmp_path, capsys, monkeypatch, words, sentence):
    monkeypatch.setattr("vidjax.peers.join", lambda *args: None)
    words = [word.replace("RUN", str(runs[1])) for word in words]
    assert main.main(["features", str(folder), f"--weights={runs[1]}", f"--out={tmp_path}", *words]) == 1
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main.main(["features", str(folder), f"--out={tmp_path}"]) == 1
    assert "give videos and weights, or a run and its data" in capsys.readouterr().err
    config = "--config.data.path=x"
    assert main.main(["features", str(folder), f"--workdir={runs[1]}", f"--out={tmp_path}", config]) == 1
    assert f"{config} is not heeded" in capsys.readouterr().err
