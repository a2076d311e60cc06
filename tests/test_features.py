"""`vidjax features`: what is written, what its manifest says, and a linear probe on it."""

import json

import numpy as np
import pytest
import tiny

from vidjax import features, fit, main, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(videos, a tiny run on them, a folder with the features of both splits)."""
    root = tmp_path_factory.mktemp("features")
    videos = tiny.render(root / "videos")
    cfg = tiny.make_config(videos, steps=1, checkpoint_every=1, optim__warmup=0)
    train.train(cfg, str(root / "run"))
    for split in ("train", "eval"):
        flags = [f"--workdir={root / 'run'}", f"--split={split}", f"--out={root / 'out'}", "--layer=layer2"]
        assert main.main(["features", *flags]) == 0
    return cfg, root / "run", root / "out"


def test_a_row_a_video_and_a_manifest(run):
    cfg, workdir, out = run
    arrays, manifest = features.read(out, "eval")
    assert arrays["features"].shape == tuple(manifest["shape"])
    assert len(set(arrays["ids"])) == len(arrays["ids"]) == len(arrays["labels"])
    assert (manifest["run"], manifest["step"], manifest["layer"]) == (str(workdir), 1, "layer2")
    assert manifest["model"]["name"] == cfg.model.name
    assert max(arrays["labels"]) < len(manifest["classes"])
    assert np.isfinite(arrays["features"]).all()
    assert arrays["features"].std(0).max() > 0


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


def test_a_layer_that_is_not_there(run, tmp_path, capsys):
    assert main.main(["features", f"--workdir={run[1]}", f"--out={tmp_path}", "--layer=layer9"]) == 1
    assert "the model has no activation 'layer9'; there are stem, layer1, layer2" in capsys.readouterr().err
    assert main.main(["features", f"--workdir={run[1]}"]) == 1
    assert "give a folder for the features" in capsys.readouterr().err


def test_a_file_that_is_not_the_manifests(run, tmp_path):
    for name in ("eval.npz", "eval.json"):
        (tmp_path / name).write_bytes((run[2] / name).read_bytes())
    manifest = json.loads((tmp_path / "eval.json").read_text())
    (tmp_path / "eval.json").write_text(json.dumps(manifest | {"sha256": "0"}))
    with pytest.raises(features.FeaturesError, match="is not the file of its manifest; run vidjax features again"):
        features.read(tmp_path, "eval")
    (tmp_path / "eval.json").unlink()
    with pytest.raises(features.FeaturesError, match="cannot be read"):
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
