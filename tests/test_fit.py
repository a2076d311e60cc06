"""`vidjax fit`: trajectories or a net's activations, a linear classifier, and the reports that nets get."""

import json

import numpy as np
import pytest
import tiny

from vidjax import config, fit, main, train


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    from vidjax.data import motion

    folder = tmp_path_factory.mktemp("videos")
    motion.render(folder, train=40, evaluation=16, size=64, frames=(18, 20))
    return folder


def smoke(videos, **features):
    cfg = config.from_file(f"{tiny.ROOT}/configs/idt_ut_interaction.py:smoke")
    cfg.data.update({"source": "folder", "path": str(videos)})
    cfg.features.update(features)
    return config.complete(cfg, fit.DEFAULTS)


def test_trajectories_tell_motions_apart_and_evaluate_again(videos, tmp_path):
    report = fit.fit(smoke(videos), str(tmp_path))
    assert report["data"]["videos"] == 16
    assert report["top1"] > 0.4  # chance is an eighth
    made = sorted((tmp_path / "features").iterdir())
    assert len(made) == 56
    before = [path.stat().st_mtime_ns for path in made]
    assert main.main(["eval", f"--workdir={tmp_path}"]) == 0
    again = json.loads((tmp_path / "report_0.json").read_text())
    assert again["confusion"] == report["confusion"]
    assert [path.stat().st_mtime_ns for path in made] == before  # features are made once


def test_an_activation_of_a_net_with_the_pca_curve(videos, tmp_path):
    cfg = tiny.make_config(videos, steps=1, checkpoint_every=1, optim__warmup=0)
    train.train(cfg, str(tmp_path / "net"))
    fitted = smoke(videos, kind="network", path=str(tmp_path / "net"), layer="layer2")
    fitted.data, fitted.eval = cfg.data, cfg.eval
    fitted.svm.pca = (2, 8, 5000)
    report = fit.fit(fitted, str(tmp_path / "svm"))
    curve = json.loads((tmp_path / "svm" / "pca_curve.json").read_text())
    assert list(curve) == ["2", "8"]
    assert all(0 <= top1 <= 1 for top1 in (*curve.values(), report["top1"]))
    drawn = json.loads((tmp_path / "svm" / "report_0.json").read_text())["feature_map"]
    assert (drawn["layer"], drawn["of"], len(drawn["tsne"])) == ("layer2", 16, 16)
    assert 'id="dimensions"' in (tmp_path / "svm" / "report_0.html").read_text()
    fitted.features.layer = "layer9"
    with pytest.raises(Exception, match="the model has no activation 'layer9'; there are stem, layer1, layer2"):
        fit.fit(fitted, str(tmp_path / "wrong"))


def test_pca_curve_equals_projecting_by_singular_vectors():
    rng = np.random.RandomState(0)
    y = np.arange(30) % 3
    x = rng.randn(30, 12) + 3 * np.eye(3, 12)[y]
    curve = fit.pca_curve(x, y, x, y, (1, 2, 12), 1.0)
    assert list(curve) == [1, 2, 12]
    assert curve[1] < curve[2] <= curve[12]


def test_what_cannot_be_fitted_is_a_sentence(videos, tmp_path):
    with pytest.raises(fit.FitError, match="config.features.kind is idt, network or stored, not 'sift'"):
        fit.fit(smoke(videos, kind="sift"), str(tmp_path))
    (tmp_path / "classifier.npz").write_bytes(b"x")
    with pytest.raises(fit.FitError, match="cannot be read .*; run vidjax fit again"):
        fit.run(smoke(videos), str(tmp_path))
