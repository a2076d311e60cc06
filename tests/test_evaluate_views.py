"""What jobs evaluate: protocols, data sets, weights without a run, and where training, a job and prediction meet."""

import dataclasses
import functools
import json
import logging
import shutil

import evaluated
import jax
import numpy as np
import pytest
import tiny
from evaluated import job, read, same_report

from vidjax import checkpoint, config, data, evaluate, features, fuse, main, models, predict
from vidjax.data import protocols, transforms, video
from vidjax.evaluate import checks, jobs, maps


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory):
    return evaluated.train_run(videos, tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run."""
    return shutil.copytree(trained, tmp_path / "run")


def test_training_a_job_and_prediction_give_a_video_the_same_scores(run, videos):
    (report,) = job(run, out=str(run / "again")).one(6)
    trained, again = read(run / "scores_6.npz"), read(run / "again" / "scores_6.npz")
    for key, array in trained.items():
        np.testing.assert_array_equal(array, again[key])
    same_report(run / "report_6.json", run / "again" / "report_6.json")
    predictor, source = predict.Predictor(str(run), 6), data.source(config.load(str(run)).data, "eval")
    for i, expected in enumerate(again["scores"]):
        found = predictor(source[i]["path"], protocol="own")
        (window,) = found["scores"]  # it spans the video, as the clip does
        for scores in (window, found["video"]):
            np.testing.assert_allclose(scores, expected, rtol=1e-5)  # batches of another size add up in another order
    assert again["ids"].tolist() == [source[i]["id"] for i in range(13)]
    assert report["hit"]["clip"] == report["hit"]["video"]


def test_the_map_is_of_the_nets_features_and_survives_a_stop(run):
    assert main.main(["eval", f"--workdir={run}", "--config.eval.features=layer2", "--step=4"]) == 0
    whole = json.loads((run / "report_4.json").read_text())["feature_map"]
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    source = data.source(cfg.data, "eval")
    rows = features.of_net(cfg, str(run), source, "layer2", 4)[0]["layer2"]
    assert rows.shape == (13, 8)
    labels, ids = ([source[i][key] for i in range(13)] for key in ("label", "id"))
    predicted = read(run / "scores_4.npz")["scores"].argmax(1)
    assert maps.feature_map(rows, labels, predicted, ids, "layer2") == whole
    assert 'id="features"' in (run / "report_4.html").read_text()
    cfg.eval.features = "layer2"
    stops = iter([False, True])
    with pytest.raises(evaluate.Stopped):
        list(jobs.Job(cfg, str(run), out=str(run / "two"), stop=lambda: next(stops)).one(4))
    list(jobs.Job(cfg, str(run), out=str(run / "two")).one(4))
    assert json.loads((run / "two" / "report_4.json").read_text())["feature_map"] == whole
    assert main.main(["eval", f"--workdir={run}", "--config.eval.features=layer9"]) == 1


def test_clips_hits_are_those_of_the_clips(run):
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    cfg.eval.update({"clips": 2, "average": "prob"})
    cfg.data.clip.size = 4
    (report,) = jobs.Job(cfg, str(run), out=str(run / "two")).one(6)
    hits, variables = {k: [] for k in (1, 5)}, checkpoint.load_variables(str(run), 6)[0]
    model, source = models.build(cfg.model, num_classes=8), data.source(cfg.data, "eval")
    step = jax.jit(functools.partial(evaluate.eval_step, model=model, average="prob"))
    views, section = cfg.eval.to_dict(), data.options(cfg.data)
    for clip in range(2):
        for i in range(len(source)):
            record = source[i]
            indices = data.evaluated_clips(section, views, record["num_frames"])[clip : clip + 1]
            inputs = data.read_views(section, views, record, indices)
            ones = {"view_mask": np.ones((1, 3)), "mask": np.ones(1)}
            batch = {"inputs": {k: x[None] for k, x in inputs.items()}} | ones
            found = step(variables, batch)["scores"][0]
            order = np.argsort(-found, kind="stable").tolist()
            for k, seen in hits.items():
                seen.append(record["label"] in order[:k])
    assert report["hit"]["clip"] == {"1": np.mean(hits[1]), "5": np.mean(hits[5])}


def test_several_protocols_and_data_sets(run, videos, tmp_path, caplog):
    other = tmp_path / "other"
    for name in ("left", "right"):  # two of the eight classes, in a folder without splits
        shutil.copytree(videos / "eval" / name, other / name)
    count = len(list(other.glob("*/*.mp4")))
    how = {"protocols": ["own", "mvit_5x1"], "sets": [f"mine={other}", f"{other}/"]}
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    cfg.data.clip.size = 4
    found = list(jobs.Job(cfg, str(run), **how).one(4))
    names = ["4_mine", "4_mvit_5x1_mine", "4_other", "4_mvit_5x1_other"]
    assert [report["page"].name for report in found] == [f"report_{name}.html" for name in names]
    assert [report["data"]["videos"] for report in found] == [count] * 4
    assert found[0]["class_names"] == found[1]["class_names"]
    assert len(found[0]["class_names"]) == 8
    own, mine = read(run / "scores_6.npz"), read(run / "scores_4_mine.npz")
    labels = {name.removeprefix("eval/"): label for name, label in zip(own["ids"], own["labels"], strict=True)}
    assert [labels[name] for name in mine["ids"]] == mine["labels"].tolist()
    assert list(jobs.Job(cfg, str(run), **how).one(4)) == []  # of several what is done is not done again
    assert {path.name for path in run.glob("best*.json")} == {f"best{name.removeprefix('4')}.json" for name in names}


PUBLISHED = [name for name, protocol in protocols.PROTOCOLS.items() if not protocol.feature]


@pytest.mark.parametrize("average", ["prob", "logit"])
def test_every_named_protocol_scores_the_mean_of_its_views(run, videos, tmp_path, monkeypatch, average):
    """Small crops of two videos; each score is that of the video's views, computed one by one."""
    small = {"resize": 17, "size": 16, "average": average}
    names = PUBLISHED[average == "logit" :: 2]  # the other half by the other average
    for name in names:
        one = protocols.PROTOCOLS[name]
        frames = {} if one.frames is None else {"frames": 4}
        monkeypatch.setitem(protocols.PROTOCOLS, name, dataclasses.replace(one, **small, **frames))
    shutil.copytree(videos / "eval" / "left", tmp_path / "two" / "left")
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    cfg.data.clip.size = 4
    reports = list(jobs.Job(cfg, str(run), protocols=names, sets=[str(tmp_path / "two")]).one(6))
    assert [report["views"]["protocol"] for report in reports] == names
    variables, model = checkpoint.load_variables(str(run), 6)[0], models.build(cfg.model, num_classes=8)
    apply = jax.jit(functools.partial(model.apply, train=False))
    path = min((tmp_path / "two").glob("*/*.mp4"))
    info = video.probe(str(path))
    for name in names:
        protocol = protocols.find(name)
        indices = protocols.indices(protocol, info["num_frames"], 4, cfg.data.clip.stride)
        clips = np.stack([video.read(str(path), row) for row in indices])
        cut = {"size": 16, "resize": 17, "crops": protocol.crops, "interpolation": "area", "kind": "rgb"}
        views = [view for clip in clips for view in transforms.evaluate(clip, **cut)]
        logits = [np.asarray(apply(variables, view[None].astype(np.float32) / 255)[0][0]) for view in views]
        soft = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()  # noqa: E731
        expected = np.mean(list(map(soft, logits)), 0) if average == "prob" else soft(np.mean(logits, 0))
        found = read(run / f"scores_6_{name}_two.npz")
        # batches of another size add up in another order
        np.testing.assert_allclose(found["scores"][found["ids"] == f"left/{path.name}"][0], expected, rtol=1e-4)


def test_broken_inputs_are_one_sentence(run, videos, tmp_path, capsys, caplog):
    def fails(*words):
        assert main.main(["eval", f"--workdir={run}", *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    (tmp_path / "file").touch()
    for out, why in ((tmp_path / "file" / "reports", "not a directory"), ("/proc/none", "no such file or directory")):
        assert f"reports cannot be written into {out}: {why}; make it writable, or give" in fails(f"--out={out}")
    shutil.copytree(videos / "eval" / "left", tmp_path / "sports" / "golf")
    assert "sports has other classes than the checkpoint" in fails(f"--data={tmp_path / 'sports'}")
    assert "only the data have ['golf']" in fails(f"--data={tmp_path / 'sports'}")
    (tmp_path / "list.csv").write_text(f"path,label\n{next(videos.glob('eval/left/*.mp4'))},archery\n")
    assert "only the data have ['archery']" in fails(f"--data={tmp_path / 'list.csv'}")
    assert "there is no test protocol 'slowfast'; take slowfast_10x3" in fails("--protocol=slowfast")
    assert "averages the activation fc6" in fails("--protocol=c3d_fc6")
    assert "would have the 1 names mvit_5x1" in fails("--protocol=mvit_5x1,mvit_5x1")
    assert "give one of --step=N, --all and --watch" in fails("--all", "--step=2")
    half = run / "checkpoints" / "5"
    shutil.copytree(run / "checkpoints" / "4", half)
    (half / "meta" / "metadata").unlink()
    assert "checkpoint 5 in" in (line := fails("--step=5"))
    assert "is damaged" in line
    assert "is a file: vidjax convert --from=SOURCE:ARCH" in fails(f"--weights={tmp_path / 'list.csv'}")
    assert main.main(["eval", f"--weights={run}", "--watch"]) == 1
    assert "leave --workdir and --watch out" in capsys.readouterr().err


def test_labels_of_another_kind_are_refused(run):
    source = data.source(config.load(str(run)).data, "eval")
    checks.check_labels(source, {"multi_label": False})
    with pytest.raises(evaluate.EvaluationError, match="has one label a video, the checkpoint was trained on several"):
        checks.check_labels(source, {"multi_label": True})


def test_fusion_takes_the_scores_of_the_runs_own_data(run, videos, tmp_path):
    shutil.copytree(videos / "eval" / "left", tmp_path / "train" / "left")
    list(job(run, sets=[str(tmp_path / "train")]).one(6))
    list(job(run, split="train", sets=["own", f"more={videos}"]).one(6))
    assert fuse.load(run)["path"] == str(run / "scores_6.npz")
    assert fuse.load(run, "train")["path"] == str(run / "scores_6_train.npz")


def test_videos_too_short_for_a_protocol_are_counted(run, videos, caplog):
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    cfg.eval.protocol = "i3d_full"
    jobs.Job(cfg, str(run))
    text = "13 of 13 videos have fewer frames than the 250 that a clip of i3d_full spans (first: "
    assert text in caplog.text


def test_weights_without_a_workdir(run, videos, tmp_path, capsys):
    """A folder that holds a checkpoint and nothing else, read-only as it were: reports go elsewhere."""
    weights = tmp_path / "weights"
    shutil.copytree(run / "checkpoints" / "4", weights / "checkpoints" / "4")
    (there,) = job(run).one(4)
    words = [f"--data={videos}", f"--out={tmp_path / 'reports'}"]
    for folder in (weights, weights / "checkpoints" / "4"):
        assert main.main(["eval", f"--weights={folder}", *words]) == 0
        assert f"at step 4\nreport   {tmp_path / 'reports' / 'report_4_videos'}" in capsys.readouterr().out.replace(
            videos.name, "videos"
        )
    assert [path.name for path in weights.iterdir()] == ["checkpoints"]
    (found,) = (tmp_path / "reports").glob("report_4_*.json")
    assert json.loads(found.read_text())["confusion"] == there["confusion"]


def test_a_mesh_that_does_not_fit_takes_the_devices_that_there_are(run, caplog):
    (before,) = job(run).one(4)
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    with cfg.unlocked():
        cfg.mesh = {"data": 16, "fsdp": 2}
    with caplog.at_level(logging.INFO, "vidjax"):
        one = jobs.Job(cfg, str(run))
    assert dict(one.mesh.shape)["data"] == 4  # of the 8 devices here, for batches of 4
    assert "Evaluating with data=4." in caplog.text
    (after,) = one.one(4)
    assert (before["confusion"], before["hit"]) == (after["confusion"], after["hit"])


def test_a_report_says_where_its_weights_are_from(videos, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"import tiny\n\n\ndef get_config(arg):\n    return tiny.make_config({str(videos)!r}, steps=2)\n")
    words = [f"--config={recipe}", f"--workdir={tmp_path}", "--config.optim.warmup=0", "--config.log_every=1"]
    assert main.main(["train", *words, "--config.eval.every=1", "--config.optim.lr=0.01"]) == 0
    report = json.loads((tmp_path / "report_2.json").read_text())
    assert report["recipe"] == str(recipe)
    changes = ["eval.every: 8 -> 1", "log_every: 4 -> 1", "optim.lr: 0.003 -> 0.01", "optim.warmup: 2 -> 0"]
    assert report["changes"] == changes
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "train/accuracy"):
        assert report["curves"][name] == [[line["step"], line[name]] for line in lines if name in line]
    assert [step for step, _ in report["curves"]["eval/top1"]] == [1, 2]
    assert report["curves"]["eval/top1"][1][1] == report["top1"]
    assert report["throughput"]["views_per_second"] == report["throughput"]["videos_per_second"]  # one view a video
    assert set(report["intervals"]) == {"top1", "top5", "mean_class", "loss", "map", "auc", "ece"}


def test_splits_have_a_mean_and_a_spread(run, tmp_path, capsys):
    top1 = []
    for name, step in (("a", 2), ("b", 4)):
        folder = tmp_path / "both" / f"split_{name}" / "checkpoints"
        shutil.copytree(run / "checkpoints" / str(step), folder / str(step))
    words = ["eval", f"--workdir={tmp_path / 'both'}", "--splits=a,b", "--config.eval.clips=2"]
    assert main.main([*words, f"--out={tmp_path / 'out'}"]) == 0
    for name, step in (("a", 2), ("b", 4)):
        report = json.loads((tmp_path / "out" / f"split_{name}" / f"report_{step}.json").read_text())
        top1.append(report["top1"])
        assert report["config"]["data"]["split"] == name
    summary = json.loads((tmp_path / "out" / "splits.json").read_text())
    assert summary["figures"]["top1"] == {"mean": np.mean(top1), "spread": np.std(top1, ddof=1)}
    assert set(summary["figures"]) == {"top1", "top5", "mean_class", "loss", "map", "auc", "ece"}
    assert f"(mean of 2 splits, standard deviation {np.std(top1, ddof=1):.1%})" in capsys.readouterr().out
    assert main.main([*words, "--all"]) == 1
