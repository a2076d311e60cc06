"""Evaluation jobs: each checkpoint once, beside training, stopped, killed and resumed."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import evaluated
import numpy as np
import pytest
import tiny
from evaluated import job, read, same_report, steps_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vidjax import checkpoint, config, data, evaluate, main
from vidjax.evaluate import jobs, partial


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


def stopping_after(batches):
    """A `stop` that says yes once so many batches are done."""
    left = iter([False] * (batches - 1) + [True])
    return lambda: next(left)


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
    (run / "report_4.json").unlink()
    (four,) = job(run).all()
    assert four["curves"]["eval/top1"] == [[step, top1[step]] for step in (2, 4, 6)]
    seen = EventAccumulator(str(run / "tb" / "eval")).Reload()
    assert {event.step: event.value for event in seen.Scalars("eval/top1")} == {
        step: np.float32(top1[step]) for step in (2, 4)
    }


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


def test_kept_batches_read_back_with_their_errors(tmp_path):
    kept = partial.Partial(tmp_path, "5_mine", "key", rows=2, width=3)
    batches = [
        {"scores": np.full((2, 3), i, np.float32), "mask": np.ones(2, np.float32), "clips": np.ones((2, 3), np.int32)}
        for i in range(3)
    ]
    kept.add(0, batches[0], {1: "cannot be read: ü"})
    kept.add(2, batches[2], {4: "after a gap"})
    found, errors = kept.read()
    tiny.assert_equal(found, batches[:1])
    assert errors == {1: "cannot be read: ü"}
    assert partial.Partial(tmp_path, "5_mine", "another", rows=2, width=3).read() == ([], {})
    other = partial.Partial(tmp_path, "5", "key", rows=2, width=3, layers=("fc/6",))
    other.add(0, batches[0] | {"features": {"fc/6": np.ones((2, 5), np.float32)}}, {})
    tiny.assert_equal(other.read()[0][0]["features"]["fc/6"], np.ones((2, 5), np.float32))
    kept.remove()
    assert len(other.read()[0]) == 1
    other.remove()
    assert list(tmp_path.iterdir()) == []


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
