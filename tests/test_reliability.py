"""What breaks runs, a few trials each of tests/chaos.py; and the policies and watchdogs that answer it."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import chaos
import jax
import numpy as np
import pytest
import tiny

from vidjax import checkpoint, goodput, peers, sharding, train
from vidjax.train import ends, preflight

GOOD = {chaos.EQUAL, chaos.SENTENCE, "harmless", "fell back to the step before"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


def test_damaged_checkpoints_are_never_silently_wrong(tmp_path):
    outcomes = chaos.run("corrupt", trials=25, folder=tmp_path)
    assert set(outcomes) <= GOOD
    assert outcomes["fell back to the step before"] >= 3


def test_mutated_configs_are_refused_by_key_value_and_nearest_key():
    """In a process of its own, for no device may be touched."""
    command = [sys.executable, str(tiny.ROOT / "tests" / "chaos.py"), "config", "--trials", "100"]
    path = {"PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | path)
    assert result.stdout.splitlines()[-1] == f"     100 {chaos.SENTENCE}", result.stdout + result.stderr


def test_unknown_keys_name_the_nearest_whatever_their_case(tmp_path):
    cfg = tiny.make_config(tmp_path)
    cfg.Steps = 3
    with pytest.raises(preflight.PreflightError, match=r"no key 'Steps' \(its value: 3\); the nearest is 'steps'\.$"):
        preflight.check(cfg)


@pytest.fixture
def poison():
    """Makes chosen steps NaN, until the test ends."""
    real = train.train_step

    def poisoned(steps):
        train.train_step = real
        chaos.poisoned(steps)

    yield poisoned
    train.train_step = real


def everything(workdir):
    """All that a run's checkpoint of step 6 holds but its step, as checksums."""
    return checkpoint.read_meta(str(workdir), 6)["checksums"]


def short(videos, **changes):
    return tiny.make_config(videos, **{"steps": 6, "checkpoint_every": 2, "log_every": 1, "eval__every": 6} | changes)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(videos, tmp_path, poison, policy, caplog):
    """The other run has the same program, for another may round otherwise, but its step is passed over by hand."""
    poison([99])
    other = tmp_path / "other"
    other.mkdir()
    (other / "passed_over.json").write_text("[4]")
    train.train(short(videos, on_nan=policy), str(other))
    poison([4])
    caplog.clear()
    with caplog.at_level("WARNING", "vidjax"):
        train.train(short(videos, on_nan=policy), str(tmp_path))
    assert everything(tmp_path) == everything(other)
    written = json.loads((tmp_path / "nan_4.json").read_text())
    assert written["metrics"]["loss"] == "nan"
    assert len(set(written["videos"])) == 8
    assert set(written["videos"]) < {file.relative_to(videos).as_posix() for file in videos.glob("train/*/*.mp4")}
    (line,) = caplog.messages
    assert line.startswith("step 4 gave loss nan and gradient norm nan: ")
    curve = chaos.curve(tmp_path)
    assert sorted(curve) == [1, 2, 3, 5, 6]
    if policy == "rollback":
        assert json.loads((tmp_path / "passed_over.json").read_text()) == [4]


def test_rollback_without_a_checkpoint_begins_again_and_without_end_stops(videos, tmp_path, poison):
    poison([1])
    train.train(short(videos, on_nan="rollback", steps=2, optim__warmup=1), str(tmp_path / "first"))
    assert sorted(chaos.curve(tmp_path / "first")) == [2]
    poison(range(1, 9))
    with pytest.raises(train.TrainingError, match=r"the 6 steps up to 6 were all not finite, .*; training stopped"):
        train.train(short(videos, on_nan="rollback", steps=9), str(tmp_path / "all"))


def test_skip_leaves_all_but_the_step_as_it_is(videos, poison):
    poison([1])
    cfg = short(videos, on_nan="skip")
    model = train.models.build(cfg.model, num_classes=8)
    tx, _ = train.optim.build(cfg.steps, **cfg.optim)
    step, _, init = train.make_step(cfg, model, tx, sharding.make_mesh(data=1))
    batch = {
        "inputs": {"rgb": np.zeros((8, 8, 24, 24, 3), np.uint8)},
        "label": np.zeros(8, np.int32),
        "mask": np.ones(8, np.float32),
    }
    state = init()
    before = jax.device_get(state)
    after, metrics = jax.device_get(step(state, batch, None))
    assert np.isnan(metrics["loss"])
    assert after.step == 1
    tiny.assert_equal(after.replace(step=before.step), before)


def test_watchdog_dumps_the_stacks_and_names_the_last_step(tmp_path):
    code = f"""
import time
from vidjax.train import ends
with ends.Watchdog(0.4, {str(tmp_path)!r}) as watchdog:
    with watchdog.patient():
        time.sleep(1.2)
    for step in range(3):
        time.sleep(0.1)
        watchdog.progress(f"step {{step}}")
    time.sleep(60)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    )
    assert result.returncode == ends.EXIT_STUCK == 77
    assert "no progress for 0.4 s (config.watchdog) since step 2; the stacks" in result.stderr
    assert "most recent call first" in (tmp_path / "stuck_0.txt").read_text()


def test_watchdog_of_0_seconds_never_bites(tmp_path):
    with ends.Watchdog(0, str(tmp_path)):
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]
    assert list(tmp_path.iterdir()) == []


def test_shares_of_time_sum_to_the_wall_time():
    now = iter([0.0, 1, 3, 6, 10, 15, 21, 28, 36]).__next__
    clock = goodput.Clock(began=-2.0, now=now)
    clock.switch("other")  # at 0
    with clock.share("step"), clock.share("compile"):  # 1, 3
        pass  # 6, 10
    with pytest.raises(KeyError), clock.share("evaluation"):  # 15
        raise KeyError  # 21
    shares = clock.shares()  # 28
    spent = {"start": 2, "compile": 3, "step": 6, "evaluation": 6, "other": 13}
    assert clock.seconds == dict.fromkeys(goodput.SHARES, 0) | spent
    assert shares.pop("seconds") == 30
    assert sum(shares.values()) == pytest.approx(1, abs=1e-12)  # seven roundings
    assert clock.line().startswith("time     38.0 s: other 55.3%, step 15.8%, ")


def test_a_run_logs_and_prints_where_its_time_went(videos, tmp_path, caplog):
    cfg, wall, began = short(videos), time.time(), time.perf_counter()
    with caplog.at_level("INFO", "vidjax"):
        train.train(cfg, str(tmp_path), began)
    (line,) = (record for record in caplog.records if record.getMessage().startswith("time "))
    near = 0.05 + 0.01 * (line.created - wall)  # one decimal, and the account's own goal
    assert float(line.getMessage().split()[1]) == pytest.approx(line.created - wall, rel=0, abs=near)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-2])
    shares = {name: last[f"goodput/{name}"] for name in goodput.SHARES}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-9)  # seven roundings
    assert shares["compile"] > 0
    assert shares["step"] > 0


def test_process_start_lies_in_the_past():
    assert 0 < time.perf_counter() - goodput.process_start() < 1e6


def test_memory_that_does_not_fit_is_a_sentence(monkeypatch):
    compiled = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((64, 64), np.float32)).compile()
    mesh = sharding.make_mesh(data=1)
    preflight.check_memory(compiled, mesh)
    monkeypatch.setattr(preflight, "limit", lambda device, local: 30_000)
    with pytest.raises(
        preflight.PreflightError, match=r"needs 0\.00 GB on each device, but .* lower config.data.batch_"
    ):
        preflight.check_memory(compiled, mesh)


def test_batches_that_do_not_divide_name_their_key(videos, tmp_path):
    for key in ("data", "eval"):
        cfg = tiny.make_config(videos, mesh={"data": 8}, **{f"{key}__batch_size": 12})
        with pytest.raises(
            preflight.PreflightError, match=f"config.{key}.batch_size=12: a batch of 12 does not divide"
        ):
            train.train(cfg, str(tmp_path))
    assert not list(pathlib.Path(tmp_path).glob("*.json"))


def test_contents_tell_other_videos_apart(videos):
    source = train.data.source(tiny.make_config(videos).data, "train")
    one, other = preflight.contents(train=source), preflight.contents(train=Renamed(source))
    assert one["the number of videos for train"] == 40
    text = peers.differing(1, "b", other, one)
    assert text.startswith("process 1 on b has the list of videos for train, by its digest, ")


class Renamed:
    """A source whose first video has another id."""

    def __init__(self, source):
        self.source, self.classes = source, source.classes

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return self.source[i] | ({"id": "other"} if i == 0 else {})
