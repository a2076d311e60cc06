"""The three ways to run tasks give the same results, and a task that fails, dies or hangs is named by its error."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from vidjax.data import work

WAYS = {"here": {}, "processes": {"workers": 2}, "beam": {"runner": "direct"}}


def act(task):
    """A task of these tests: what it does, and a value."""
    what, value = task
    if what == "fail":
        raise ValueError(f"{value} cannot be done")
    if what == "odd":
        raise KeyError(value)
    if what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(7)
    if what == "hang":
        time.sleep(600)
    return {"value": value, "pair": (value, what)}


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raise_unpicklable(task):
    raise Unpicklable(task, task)


def process(task):
    return os.getpid()


def ten(action, value):
    """Ten tasks, the fourth of which is the given one."""
    return [("do", i) if i != 3 else (action, value) for i in range(10)]


@pytest.mark.parametrize("way", WAYS)
def test_results_keep_the_order_of_tasks_and_progress_reaches_the_end(way):
    seen = []
    results = work.run(act, ten("do", "three"), progress=lambda *args: seen.append(args), **WAYS[way])
    assert results == [{"value": v, "pair": [v, "do"]} for v in [0, 1, 2, "three", 4, 5, 6, 7, 8, 9]]
    assert seen == ([(10, 10)] if way == "beam" else [(i, 10) for i in range(1, 11)])
    assert work.run(act, [], **WAYS[way]) == []


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_a_task_is_raised_or_stands_in_for_its_result(way):
    with pytest.raises(ValueError, match="^the moon cannot be done$"):
        work.run(act, ten("fail", "the moon"), **WAYS[way])
    results = work.run(act, ten("odd", "key"), failed=lambda task, error: [task[0], str(error)], **WAYS[way])
    assert results[3] == ["odd", "KeyError: 'key'" if way == "beam" else "'key'"]
    assert [row["value"] for row in results[:3] + results[4:]] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_one_crash_and_one_hang_cost_one_task_each():
    tasks = [("do", 0), ("die", 1), ("do", 2), ("exit", 3), ("hang", 4), ("do", 5), ("do", 6)]
    start, errors = time.monotonic(), []
    results = work.run(act, tasks, workers=2, time_limit=1, failed=lambda task, error: errors.append(error))
    assert time.monotonic() - start < 300
    assert [row and row["value"] for row in results] == [0, None, 2, None, None, 5, 6]
    assert sorted((type(error).__name__, str(error)) for error in errors) == [
        ("ChildProcessError", "its worker process died (exit code 7)"),
        ("ChildProcessError", "its worker process died (signal SIGSEGV)"),
        ("TimeoutError", "it took longer than 1 seconds"),
    ]


def test_errors_that_cannot_travel_say_the_same_and_tracebacks_are_notes():
    with pytest.raises(RuntimeError, match="^Unpicklable: 5 and 5$"):
        work.run(raise_unpicklable, [5], workers=1)
    with pytest.raises(KeyError) as caught:
        work.run(act, [("odd", "x")], workers=1)
    assert "in act" in caught.value.__notes__[0]


def test_processes_are_spawned_and_reused():
    assert work.run(process, [1, 2]) == [os.getpid()] * 2
    pids = work.run(process, range(20), workers=2)
    assert os.getpid() not in pids
    assert len(set(pids)) <= 2


def test_beam_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vidjax\[beam\]'$"):
        work.run(act, [("do", 1)], runner="direct")


SCRIPT = """
import signal, sys, time
from vidjax.data import work
sys.path.insert(0, {tests!r})
from test_work import act, process

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    print(*work.run(process, range(8), workers=2), flush=True)
    work.run(act, [("hang", 0)] * 4, workers=2)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(pathlib.Path(__file__).parent)))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with parent.stdout:
        parent.stdout.readline()
    children = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 60
    while len(pids := children.read_text().split()) < 3 and time.monotonic() < deadline:  # two, and resource_tracker
        time.sleep(0.05)
    time.sleep(0.5)
    parent.send_signal(end)
    assert parent.wait(timeout=60) == (-end if end == signal.SIGKILL else -signal.SIGINT)
    deadline = time.monotonic() + 60  # one that is just starting hears of it when it has started
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)
