"""Runs as their users start them: killed, stopped and resumed, on one process and on two."""

import json
import pathlib
import platform
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny

from vidjax import checkpoint, config, data

VIDJAX = [sys.executable, "-c", "import vidjax.main; vidjax.main.run()"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def reference(videos, tmp_path_factory):
    """The workdir of an uninterrupted run of 8 steps, a checkpoint at each second one."""
    workdir = prepare(tmp_path_factory.mktemp("reference"), videos)
    assert launch(workdir).wait() == 0
    return workdir


def prepare(workdir, videos):
    config.save(tiny.make_config(videos, checkpoint_every=2, log_every=1), str(workdir))
    return workdir


def launch(workdir, *words, command="train", before=""):
    """Starts `vidjax train` on a workdir, after the code `before`; its output goes to a file there."""
    program = [*VIDJAX[:-1], before + VIDJAX[-1]]
    log = open(workdir / f"output_{time.monotonic_ns()}.txt", "w")  # noqa: SIM115 - the process keeps it open
    with log:
        return subprocess.Popen([*program, command, f"--workdir={workdir}", *words], stdout=log, stderr=log)


def launch_two(workdir, *words, command="train", each=((), ()), before=("", "")):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    group = (f"--coordinator=localhost:{port}", "--processes=2")
    own = [(*group, f"--process={i}", *words, *each[i]) for i in range(2)]
    return [launch(workdir, *own[i], command=command, before=before[i]) for i in range(2)]


def output(workdir):
    return "\n".join(file.read_text() for file in sorted(workdir.glob("output_*.txt")))


def wait(processes):
    """Exit codes; a run that hangs is killed and fails its test."""
    try:
        return [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()


def checksums(workdir):
    return checkpoint.read_meta(str(workdir), 8)["checksums"]


def curve(workdir):
    lines = map(json.loads, pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_kill_at_random_moments_then_restart_gives_the_same_parameters(videos, reference, tmp_path):
    """Twice `kill -9` between two steps' checkpoints, wherever the run is by then."""
    workdir, rng = prepare(tmp_path, videos), random.Random(5)
    for _ in range(2):
        process, lines = launch(workdir), len(curve(workdir)) if (workdir / "metrics.jsonl").exists() else 0
        while process.poll() is None and not ((workdir / "metrics.jsonl").exists() and len(curve(workdir)) > lines):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
    assert wait([launch(workdir)]) == [0], output(workdir)
    assert checksums(workdir) == checksums(reference)
    assert curve(workdir) == curve(reference)


def test_sigterm_saves_and_exits_with_its_code(videos, reference, tmp_path):
    workdir = prepare(tmp_path, videos)
    process = launch(workdir, "--config.checkpoint_every=100")
    while process.poll() is None and not (workdir / "metrics.jsonl").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert wait([process]) == [75], output(workdir)
    step = checkpoint.Checkpoints(str(workdir), write=False).latest_step()
    assert step < 8
    assert f"step {step} is saved" in output(workdir)
    assert wait([launch(workdir)]) == [0], output(workdir)
    assert checksums(workdir) == checksums(reference)


def test_sigterm_to_one_of_two_processes_stops_both_at_one_step(videos, tmp_path):
    workdir = prepare(tmp_path, videos)
    both = launch_two(workdir, "--config.mesh.data=2", "--config.checkpoint_every=1000", "--config.steps=1000")
    while all(process.poll() is None for process in both) and "step 3/1000" not in output(workdir):
        time.sleep(0.02)
    both[1].send_signal(signal.SIGTERM)
    assert wait(both) == [75, 75], output(workdir)
    step = checkpoint.Checkpoints(str(workdir), write=False).latest_step()
    assert 3 <= step < 1000
    assert output(workdir).count(f"step {step} is saved") == 2


@pytest.mark.parametrize(("victim", "sign"), [(0, "KILL"), (1, "STOP")])  # all four: chaos.py peers
def test_a_lost_process_is_named_by_the_other(videos, tmp_path, victim, sign):
    workdir = prepare(tmp_path, videos)
    both = launch_two(workdir, "--config.mesh.data=2", "--config.steps=100000", "--config.peers=3")
    while all(process.poll() is None for process in both) and "step 3/100000" not in output(workdir):
        time.sleep(0.02)
    both[victim].send_signal(getattr(signal, f"SIG{sign}"))
    assert both[1 - victim].wait(30) == 76, output(workdir)
    both[victim].kill()
    both[victim].wait()
    role, why = (
        ("", " (the coordinator)")[victim == 0],
        {"KILL": "its connection closed", "STOP": "it was silent for 3 s"},
    )
    sentence = (
        f"vidjax: process {victim}{role} on {platform.node()} was lost: {why[sign]}; start the same command again"
    )
    assert output(workdir).count(sentence) == 1, output(workdir)


def test_a_process_that_is_alive_but_stuck_ends_the_run(videos, tmp_path):
    """It still gives its signs of life: the step watchdogs see it, of the stuck one or of the one that waits for it."""
    workdir = prepare(tmp_path, videos)
    stuck = "from vidjax.train.loop import Feed; import time; Feed.next = lambda feed: time.sleep(1000); "
    both = launch_two(workdir, "--config.mesh.data=2", "--config.watchdog=6", before=("", stuck))
    codes = wait(both)
    assert 77 in codes, output(workdir)
    assert set(codes) <= {76, 77}, output(workdir)
    assert "no progress for 6" in output(workdir)
    assert any("most recent call first" in file.read_text() for file in workdir.glob("stuck_*.txt"))


def test_a_config_that_one_process_has_otherwise_is_named_before_any_data_is_read(videos, tmp_path):
    workdir = prepare(tmp_path, videos)
    both = launch_two(workdir, "--config.mesh.data=2", each=((), ("--config.optim.lr=0.5",)))
    assert wait(both) == [1, 1], output(workdir)
    text = f"vidjax: process 1 on {platform.node()} has config.optim.lr 0.5, but process 0 has 0.003: all must have "
    assert output(workdir).count(text) == 2
    assert "preparing data" not in output(workdir)


@pytest.fixture(scope="module")
def by_two(videos, tmp_path_factory):
    """The workdir of 8 steps by two processes."""
    workdir = prepare(tmp_path_factory.mktemp("two"), videos)
    assert wait(launch_two(workdir, "--config.mesh.data=2")) == [0, 0], output(workdir)
    return workdir


def test_two_processes_train_save_and_evaluate_as_one(reference, by_two):
    one, two = (json.loads((workdir / "report_8.json").read_text()) for workdir in (reference, by_two))
    assert two["data"]["videos"] == 13
    # the sums of two devices run in another order than those of one
    np.testing.assert_allclose(curve(by_two), curve(reference), rtol=1e-3)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-2)


def test_two_processes_evaluate_as_training_did(by_two):
    before = json.loads((by_two / "report_8.json").read_text())
    assert wait(launch_two(by_two, command="eval")) == [0, 0], output(by_two)
    after = json.loads((by_two / "report_8.json").read_text())
    for key in ("top1", "loss", "confusion"):
        assert after[key] == before[key]


def test_one_and_two_processes_count_every_video_once_and_give_the_same_figures(by_two, videos):
    """13 videos in batches of 8: the second is padded, on each process by another number of rows."""
    (one, two) = (by_two / name for name in ("by_one", "by_both"))
    assert wait([launch(by_two, f"--out={one}", command="eval")]) == [0], output(
        by_two
    )  # on one device, for want of two
    assert wait(launch_two(by_two, f"--out={two}", command="eval")) == [0, 0], output(by_two)
    reports = [json.loads((out / "report_8.json").read_text()) for out in (one, two)]
    timed = {"created", "seconds", "videos_per_second", "throughput"}
    assert {key for key in reports[0] if reports[0][key] != reports[1][key]} <= timed
    source = data.source(config.load(str(by_two)).data, "eval")
    for out in (one, two):
        with np.load(out / "scores_8.npz") as arrays:
            assert arrays["ids"].tolist() == [source[i]["id"] for i in range(13)]
            assert arrays["labels"].tolist() == [source[i]["label"] for i in range(13)]


@pytest.mark.parametrize("first", [1, 2])
def test_a_run_continues_on_another_number_of_processes(videos, reference, tmp_path, first):
    workdir = prepare(tmp_path, videos)
    config.save(tiny.make_config(videos, checkpoint_every=2, log_every=1, eval__every=100), str(workdir))
    one = lambda *words: [launch(workdir, *words, "--config.mesh.data=1")]  # noqa: E731
    two = lambda *words: launch_two(workdir, *words, "--config.mesh.data=2")  # noqa: E731
    before, after = (one, two) if first == 1 else (two, one)
    stopped = before()
    while all(process.poll() is None for process in stopped) and "step 4/8" not in output(workdir):
        time.sleep(0.02)
    for process in stopped:
        process.kill()
    wait(stopped)
    assert set(wait(after())) == {0}, output(workdir)
    # the sums of two devices run in another order than those of one
    np.testing.assert_allclose(curve(workdir), curve(reference), rtol=1e-3)
