"""Evaluation jobs: each checkpoint once, beside training, killed and resumed, by several protocols and data sets."""

import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tiny

from vidjax import checkpoint, commandline, config, data, evaluate, main, models, predict, train
from vidjax.evaluate import jobs


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory):
    """A run of 6 steps with three checkpoints; training evaluated the last, three crops of a clip over each video."""
    workdir = tmp_path_factory.mktemp("run")
    changes = {"steps": 6, "checkpoint_every": 2, "eval__every": 6, "keep": 9, "eval__batch_size": 4}
    cfg = tiny.make_config(videos, **changes, eval__crops=3, eval__resize=28, eval__average="logit")
    cfg.data.clip.sampler = "segments"
    train.train(commandline.complete(cfg), str(workdir))
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run."""
    return shutil.copytree(trained, tmp_path / "run")


def job(run, **how):
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    return jobs.Job(cfg, str(run), **how)


def steps_of(reports):
    return [report["step"] for report in reports]


def stopping_after(batches):
    """A `stop` that says yes once so many batches are done."""
    left = iter([False] * (batches - 1) + [True])
    return lambda: next(left)


def read(path):
    with np.load(path) as arrays:
        return dict(arrays)


def same_report(one, other):
    """Two report files are equal but for when and how fast they were made."""
    timed = ("created", "seconds", "videos_per_second", "throughput", "weights")
    one, other = ({k: v for k, v in json.loads(x.read_text()).items() if k not in timed} for x in (one, other))
    assert one == other


def test_every_checkpoint_is_evaluated_once(run):
    assert steps_of(job(run).all()) == [2, 4]  # training's own report of the last is there
    assert steps_of(job(run).all()) == []
    (run / "report_4.json").write_text('{"step": 4, "half')
    assert steps_of(job(run).all()) == [4]
    top1 = {step: json.loads((run / f"report_{step}.json").read_text())["top1"] for step in (2, 4, 6)}
    best = json.loads((run / "best.json").read_text())
    assert best["steps"] == {str(step): value for step, value in top1.items()}
    assert best["step"] == max(top1, key=lambda step: (top1[step], step))
    assert best["value"] == max(top1.values())
    assert best["report"] == f"report_{best['step']}.html"
    assert list(run.glob("partial*")) == []


def test_other_views_and_other_weights_are_another_evaluation(run):
    assert steps_of(job(run).all()) == [2, 4]
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    cfg.eval.clips = 2
    assert steps_of(jobs.Job(cfg, str(run)).all()) == [2, 4, 6]
    cfg.eval.every, cfg.data.threads, cfg.keep = 77, 1, 3  # what changes no figure
    assert steps_of(jobs.Job(cfg, str(run)).all()) == []
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.copytree(run / "checkpoints" / "2", run / "checkpoints" / "4")
    with pytest.raises(evaluate.EvaluationError, match="1 checkpoints have no report: checkpoint 4 .* is damaged"):
        list(jobs.Job(cfg, str(run)).all())


@pytest.mark.parametrize("batches", [1, 3])
def test_a_stopped_job_goes_on_where_it_was(run, trained, monkeypatch, batches):
    (whole,) = job(trained, out=str(run / "whole")).one(4)
    with pytest.raises(evaluate.Stopped, match=f"{4 * batches} of 13 videos are done"):
        list(job(run, stop=stopping_after(batches)).one(4))
    assert not (run / "report_4.json").exists()
    decoded, decode = [], data.read_views
    monkeypatch.setattr(data, "read_views", lambda *words: decoded.append(words[2]["id"]) or decode(*words))
    (resumed,) = job(run).one(4)
    source = data.source(config.load(str(run)).data, "eval")
    assert sorted(decoded) == sorted(source[i]["id"] for i in range(4 * batches, 13))
    same_report(run / "report_4.json", run / "whole" / "report_4.json")
    for key, array in read(run / "whole" / "scores_4.npz").items():
        np.testing.assert_array_equal(array, read(run / "scores_4.npz")[key])
    assert resumed["top1"] == whole["top1"]
    assert not (run / "partial").exists()


def test_what_is_kept_is_of_one_config_and_whole(run, monkeypatch):
    with pytest.raises(evaluate.Stopped):
        list(job(run, stop=stopping_after(2)).one(4))
    (second,) = run.glob("partial/4/*/000001.npz")
    second.write_bytes(second.read_bytes()[:100])
    computed = []
    step = evaluate.make_step

    def counted(*args):
        inner = step(*args)
        return lambda *batch: computed.append(1) or inner(*batch)

    monkeypatch.setattr(evaluate, "make_step", counted)
    list(job(run).one(4))
    assert len(computed) == 3  # a torn file is done again: the second, third and fourth batch
    with pytest.raises(evaluate.Stopped):
        list(job(run, stop=stopping_after(2)).one(4))
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    cfg.eval.clips = 2
    computed.clear()
    list(jobs.Job(cfg, str(run)).one(4))
    assert len(computed) == 4
    assert not (run / "partial").exists()


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


class Training(threading.Thread):
    """Puts checkpoints of another run into a new one's folder, as training does: by a rename, then deletes old ones."""

    def __init__(self, run, new):
        super().__init__()
        self.run_of, self.new, self.acts = run, new, []
        (new / "checkpoints").mkdir(parents=True)

    def save(self, step):
        half = self.new / "checkpoints" / f"{step}.orbax-checkpoint-tmp"
        shutil.copytree(self.run_of / "checkpoints" / str(step), half)
        half.rename(self.new / "checkpoints" / str(step))

    def run(self):
        for act in self.acts:
            act()


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_follows_training_to_its_end(run, tmp_path, caplog, monkeypatch):
    new = tmp_path / "new"
    training = Training(run, new)
    shutil.copy(run / "config.json", new)
    training.acts = [
        lambda: training.save(2),
        lambda: wait_for(new / "report_2.json"),
        lambda: (new / "checkpoints" / "3").mkdir(),  # a save that has just begun
        lambda: training.save(4),
        lambda: wait_for(new / "report_4.json"),
        lambda: training.save(6),
    ]
    monkeypatch.setattr(jobs, "PAUSE", 0.05)
    monkeypatch.setattr(jobs, "POLL", 0.01)
    training.start()
    jobs.await_first(str(new), 60)
    assert steps_of(job(new).follow(60)) == [2, 4, 6]
    training.join()
    assert json.loads((new / "best.json").read_text())["steps"].keys() == {"2", "4", "6"}
    assert steps_of(job(new).follow(60)) == []  # all is done: it ends at once


@pytest.mark.parametrize("when", ["waits", "is read"])
def test_a_job_says_which_checkpoint_was_deleted_before_it_was_read(run, caplog, monkeypatch, when):
    (run / "report_6.json").unlink()
    monkeypatch.setattr(jobs, "POLL", 0.0)
    outputs, load = evaluate.Evaluator.outputs, checkpoint.load_variables

    def delete(function, now):
        def wrapped(*args, **kwargs):
            if now(kwargs):
                shutil.rmtree(run / "checkpoints" / "4", ignore_errors=True)
                if when == "waits":  # that of the one that is being evaluated costs nothing
                    shutil.rmtree(run / "checkpoints" / "2", ignore_errors=True)
            return function(*args, **kwargs)

        return wrapped

    if when == "waits":
        monkeypatch.setattr(evaluate.Evaluator, "outputs", delete(outputs, lambda _: True))
    else:
        monkeypatch.setattr(checkpoint, "load_variables", delete(load, lambda kwargs: kwargs["step"] == 4))
    with caplog.at_level(logging.INFO, "vidjax"):
        assert steps_of(job(run).follow(60)) == [2, 6]
    assert caplog.text.count("checkpoint 4 was deleted before it could be read: training is faster") == 1
    assert "deleted before they could be read: checkpoints 4\n" in caplog.text
    assert ("2 checkpoints wait: 4, 6" in caplog.text) == (when == "is read")


def test_a_checkpoint_that_came_and_went_unseen_is_told_too(run, caplog, monkeypatch):
    monkeypatch.setattr(jobs, "POLL", 0.0)
    one = job(run)
    one.look()
    for step in (10, 12):
        (run / "checkpoints" / str(step)).mkdir()
    monkeypatch.setattr(checkpoint.files, "complete", lambda path: True)
    one.look()
    assert one.missed == [8]


def test_the_best_is_kept_by_training(run):
    (run / "best.json").write_text('{"step": 2}')
    checkpoints = checkpoint.Checkpoints(str(run), keep=1)
    checkpoints._prune()
    assert set(checkpoints.steps()) == {2, 6}
    (run / "best.json").write_text("[")
    checkpoints._prune()
    assert checkpoints.steps() == [6]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_job_that_waits(run, capsys, monkeypatch, sign):
    config.save(config.from_dict(json.loads((run / "config.json").read_text()) | {"steps": 8}), str(run))

    def press():
        wait_for(run / "best.json")
        os.kill(os.getpid(), sign)

    pressing = threading.Thread(target=press)
    pressing.start()
    assert main.main(["eval", f"--workdir={run}", "--watch"]) == 75
    pressing.join()
    assert "stopped by a signal: " in capsys.readouterr().err
    assert (run / "partial").exists() or (run / "report_2.json").exists()


def test_a_killed_job_repeats_no_finished_video(run, videos, tmp_path, monkeypatch):
    """`kill -9` of a job that has the whole scores of some videos on disk."""
    words = ["eval", f"--workdir={run}", "--step=4", "--config.eval.batch_size=1", "--config.eval.clips=8"]
    words += ["--config.eval.size=48", "--config.eval.resize=50"]
    code = "import jax, vidjax.main; jax.config.update('jax_num_cpu_devices', 8); vidjax.main.run()"
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=output, stderr=output)
    while process.poll() is None and len(list(run.glob("partial/4/*/*.npz"))) < 2:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, (tmp_path / "output").read_text()
    done = len(list(run.glob("partial/4/*/*.npz")))
    decoded, decode = [], data.read_views
    monkeypatch.setattr(data, "read_views", lambda *words: decoded.append(words[2]["id"]) or decode(*words))
    assert main.main(words) == 0
    source = data.source(config.load(str(run)).data, "eval")
    assert sorted(decoded) == sorted(source[i]["id"] for i in range(done, 13))
    assert read(run / "scores_4.npz")["ids"].tolist() == [source[i]["id"] for i in range(13)]


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


def test_a_damaged_checkpoint_is_named_and_passed_over(run, caplog):
    array = max((run / "checkpoints" / "2" / "variables").rglob("*"), key=lambda path: path.stat().st_size)
    array.write_bytes(array.read_bytes()[:100])
    (run / "report_6.json").unlink()
    found = []
    with pytest.raises(evaluate.EvaluationError, match="1 checkpoints have no report: checkpoint 2 in .* is damaged"):
        note_steps(job(run).follow(60), found)
    assert found == [4, 6]
    assert "checkpoint 2 in" in caplog.text


def note_steps(reports, found):
    """Puts the steps of reports into `found` as they come."""
    for report in reports:
        found.append(report["step"])


def test_a_job_gives_up_where_training_has_stopped(run, monkeypatch):
    monkeypatch.setattr(jobs, "PAUSE", 0.05)
    monkeypatch.setattr(jobs, "POLL", 0.01)
    cfg = json.loads((run / "config.json").read_text()) | {"steps": 8}
    (run / "config.json").write_text(json.dumps(cfg))
    found = []
    with pytest.raises(
        evaluate.EvaluationError, match=r"no new checkpoint in .* for 0.3 s, and training is not at its"
    ):
        note_steps(job(run).follow(0.3), found)
    assert found == [2, 4]
    with pytest.raises(evaluate.EvaluationError, match="no checkpoint came in .* within 0.1 s"):
        jobs.await_first(str(run / "none"), 0.1)


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
