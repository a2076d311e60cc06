"""`vidjax features` of data sets: what is written, what its manifest says, and a linear probe on it."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tiny

from vidjax import data, features, fit, main
from vidjax.data import motion


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(videos, a tiny net with random weights, a folder with the features of both splits)."""
    root = tmp_path_factory.mktemp("features")
    videos = tiny.render(root / "videos")
    cfg = tiny.make_config(videos)
    tiny.save_untrained(root / "run", list(motion.CLASSES), data__path=str(videos))
    for split in ("train", "eval"):
        flags = [f"--workdir={root / 'run'}", f"--split={split}", f"--out={root / 'out'}", "--layer=layer2"]
        assert main.main(["features", *flags]) == 0
    return cfg, root / "run", root / "out"


def test_a_row_a_video_and_a_manifest(run):
    cfg, workdir, out = run
    rows, manifest = features.read(out, "eval")
    assert rows["features"].shape == (manifest["rows"], *manifest["columns"]["layer2"]["shape"]) == (13, 8)
    assert len(set(rows["id"])) == len(rows["id"]) == len(rows["label"]) == 13
    assert (manifest["run"], manifest["step"], manifest["layers"]) == (str(workdir), 0, ["layer2"])
    assert (manifest["rows_are"], manifest["format"], manifest["unreadable"]) == ("videos", "npz", {})
    assert manifest["model"]["name"] == cfg.model.name
    assert max(rows["label"]) < len(manifest["classes"]) == 8
    assert [manifest["classes"][label] for label in rows["label"]] == [name.split("/")[1] for name in rows["id"]]
    assert all(pathlib.Path(path).is_file() for path in rows["path"])
    np.testing.assert_allclose(rows["end"], rows["end_frame"] / 12, rtol=1e-6)  # 12 frames a second, in float32
    assert np.isfinite(rows["features"]).all()
    assert rows["features"].std(0).max() > 0


def test_windows_of_a_data_set_average_to_its_videos(run, tmp_path):
    """Of ten frames an evaluation's two clips are the first eight and the last eight, as windows are."""
    words = [f"--workdir={run[1]}", "--layer=pre_logits,layer2"]
    assert main.main(["features", *words, f"--out={tmp_path}/windows", "--windows", "--format=parquet"]) == 0
    assert main.main(["features", *words, f"--out={tmp_path}/whole", "--config.eval.clips=2"]) == 0
    rows, manifest = features.read(tmp_path / "windows", "eval", "layer2")
    whole, _ = features.read(tmp_path / "whole", "eval", "layer2")
    assert (manifest["rows_are"], manifest["layers"]) == ("windows", ["pre_logits", "layer2"])
    assert list(dict.fromkeys(rows["id"])) == whole["id"].tolist()
    labels = dict(zip(whole["id"].tolist(), whole["label"].tolist(), strict=True))
    assert [labels[name] for name in rows["id"].tolist()] == rows["label"].tolist()
    means = features.per_video(rows["id"], rows["features"])
    for name, row in zip(whole["id"].tolist(), whole["features"], strict=True):
        mine = rows["features"][rows["id"] == name]
        assert len(mine) == 2
        np.testing.assert_allclose(means[name], mine.mean(0), rtol=1e-6)  # summed in float64
        np.testing.assert_allclose(means[name], row, atol=1e-5)  # other batches, other orders of sums


def test_a_probe_on_stored_features_is_that_on_the_net(run, tmp_path):
    cfg, workdir, out = run
    reports = []
    for kind, path in (("network", workdir), ("stored", out)):
        fitted = cfg.copy_and_resolve_references()
        with fitted.unlocked():
            fitted.features = {"kind": kind, "path": str(path), "layer": "layer2", "cache": "", "workers": 0}
            fitted.svm = {"c": 100.0, "pca": ()}
        reports.append(fit.fit(fitted, str(tmp_path / kind)))
    assert reports[0]["confusion"] == reports[1]["confusion"]


def test_labels_of_the_data_do_not_matter(run):
    """Data with several labels a video, of other classes than the net's."""
    cfg, workdir, out = run
    source = data.source(cfg.data, "eval")
    rows = tuple(row | {"label": (1, 2)} for row in source.rows[:8])
    several = dataclasses.replace(source, rows=rows, classes=("a", "b", "c"), multi_label=True)
    found, errors, _ = features.of_net(cfg, str(workdir), several, "layer2")
    assert errors == {}
    np.testing.assert_array_equal(found["layer2"], features.read(out, "eval")[0]["features"][:8])


def test_places_are_kept_where_they_are_asked_for(run, tmp_path):
    assert main.main(["features", f"--workdir={run[1]}", f"--out={tmp_path}", "--layer=layer2", "--raw"]) == 0
    raw, manifest = features.read(tmp_path, "eval")
    assert raw["features"].ndim == 5
    assert manifest["raw"]
    mean = features.read(run[2], "eval")[0]["features"]
    np.testing.assert_allclose(raw["features"].mean((1, 2, 3)), mean, atol=1e-5)  # another order of sums


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out=OUT", "--layer=layer9"], "the model has no activation 'layer9'; there are stem, layer1, layer2"),
        (["--out=OUT", "--layer=label"], "a layer called 'label' cannot be written"),
        (["--out=OUT", "--format=csv"], "there is no format 'csv' of features; take npz, parquet, array_record"),
        ([], "give a folder for the features: --out=FOLDER."),
        (["--out=OUT", "--windows", "--config.data.clip.size=4"], "--config.data.clip.size=4 is not heeded"),
        (["--out=OUT", "--windows", "--stride=soon"], "--stride is a time such as 0.5s"),
        (["--out=OUT", "--windows", "--window=1s"], "leave --window out"),
        (["--out=OUT", "--weights=x.pth"], "give videos with --weights"),
    ],
)
def test_mistakes_are_told_in_a_sentence(run, tmp_path, capsys, words, sentence):
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    assert main.main(["features", f"--workdir={run[1]}", *words]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("out/*")) == []


def test_a_file_that_is_not_the_manifests(run, tmp_path):
    for name in ("eval.npz", "eval.json"):
        (tmp_path / name).write_bytes((run[2] / name).read_bytes())
    with pytest.raises(features.FeaturesError, match=r"eval.json has no layer 'pre_logits', only layer2\."):
        features.read(tmp_path, "eval", "pre_logits")
    manifest = json.loads((tmp_path / "eval.json").read_text())
    manifest["files"][0]["sha256"] = "0"
    (tmp_path / "eval.json").write_text(json.dumps(manifest))
    with pytest.raises(features.FeaturesError, match="is not the file of its manifest; run vidjax features again"):
        features.read(tmp_path, "eval")
    (tmp_path / "eval.npz").unlink()
    with pytest.raises(features.FeaturesError, match=r"eval.npz cannot be read"):
        features.read(tmp_path, "eval")
    (tmp_path / "eval.json").unlink()
    with pytest.raises(features.FeaturesError, match=r"eval.json cannot be read as a manifest of features"):
        features.read(tmp_path, "eval")


def test_videos_without_features_are_counted(run, tmp_path):
    cfg, _, out = run
    for name in ("eval.npz", "eval.json"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    fitted = cfg.copy_and_resolve_references()
    with fitted.unlocked():
        fitted.features = {"kind": "stored", "path": str(tmp_path), "layer": "", "cache": "", "workers": 0}
        fitted.svm = {"c": 100.0, "pca": ()}
    with pytest.raises(fit.FitError, match=r"has no features of \d+ videos \(first: .*--split=train"):
        fit.fit(fitted, str(tmp_path / "run"))
