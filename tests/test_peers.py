"""How processes meet and miss one another, without JAX: the roll call, its errors, verdicts on who was lost."""

import os
import pathlib
import platform
import signal
import socket
import subprocess
import sys

import pytest

from vidjax import main, peers

HOST = platform.node()


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run(port, number, processes, act="pass", facts=(), timeout=20, host="localhost"):
    """A process that joins the others and then does something, for `act` is Python."""
    code = f"""
import json, os, sys, threading, time
from vidjax import peers
watch = peers.watch = peers.Watch(({host!r}, {port}), {processes}, {number}, {timeout})
watch.patience = 2
watch.facts |= {dict(facts)}
try:
    watch.start()
except peers.JoinError as error:
    sys.exit(str(error))
print("here", flush=True)
{act}
"""
    path = os.environ | {"PYTHONPATH": str(pathlib.Path(peers.__file__).parent.parent.parent)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=path)


def outcome(process):
    """(exit code, what it printed as errors)."""
    _, text = process.communicate(timeout=30)
    return process.returncode, text.decode()


def meet(port, *members, timeout=20.0, host="localhost"):
    """What processes (number, of how many, facts) say that call the roll at once and cannot meet: all of it."""
    group = [run(port, *numbers, facts=facts, timeout=timeout, host=host) for *numbers, facts in members]
    outcomes = [outcome(process) for process in group]
    assert {code for code, _ in outcomes} == {1}
    return {text.removesuffix("\n") for _, text in outcomes}


def test_missing_processes_are_named_by_all(port):
    verdict = (
        f"processes 1 and 3 of 4 did not come to localhost:{port} within 1.5 s; localhost is each machine itself: on "
        "several machines give the name of process 0's; start them all, or raise --join_timeout."
    )
    assert meet(port, (0, 4, {}), (2, 4, {}), timeout=1.5) == {verdict}


def test_different_versions_are_named(port):
    text = f"process 1 on {HOST} has jax 0.1, but process 0 has {peers.facts()['jax']}: all must have the same."
    assert meet(port, (0, 2, {}), (1, 2, {"jax": "0.1"})) == {text}


def test_different_counts_are_named(port):
    text = f"process 1 on {HOST} was started as one of 3 processes, but process 0 as one of 2."
    assert meet(port, (0, 2, {}), (1, 3, {})) == {text}


def test_two_of_one_number_are_named(port):
    text = f"two processes, on {HOST} and {HOST}, were started as --process=1."
    assert meet(port, (0, 3, {}), (1, 3, {}), (1, 3, {})) == {text}


def test_coordinator_that_cannot_be_reached(port):
    (text,) = meet(port, (1, 2, {}), timeout=1)
    assert text == (
        f"process 1 cannot reach process 0 at localhost:{port} within 1 s (Connection refused); localhost is "
        "each machine itself: on several machines give the name of process 0's; see that process 0 runs and its port "
        "is open."
    )
    (text,) = meet(port, (1, 2, {}), timeout=0.5, host="no-such-host.invalid")
    assert text.startswith(f"process 1 cannot reach process 0 at no-such-host.invalid:{port} within 0.5 s (")
    assert text.endswith("); see that process 0 runs and its port is open.")


def test_a_port_of_something_else(port):
    with socket.create_server(("localhost", port)):
        assert meet(port, (1, 2, {}), timeout=0.5) == {
            f"what listens at localhost:{port} did not answer as process 0 within 0.5 s."
        }
        (text,) = meet(port, (0, 2, {}), timeout=0.5)
        assert text.startswith(f"port {port} of process 0 on {HOST} cannot be opened (Address already in use); give")


def test_wrong_words_are_usage_errors(capsys):
    for words, text in (
        (["--coordinator=localhost:1"], "needs --processes=N and --process=I"),
        (["--coordinator=localhost:1", "--processes=2", "--process=2"], "--process=2 is none of 0 ... 1"),
        (["--coordinator=localhost:1", "--processes=two", "--process=0"], "are numbers"),
        (["--coordinator=localhost", "--processes=2", "--process=1"], "--coordinator=localhost is no host:port"),
    ):
        assert main.main(["train", *words]) == 1
        assert text in capsys.readouterr().err


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_every_other_names_the_one_that_is_lost(port, victim, sign):
    group = [run(port, i, 3, "time.sleep(60)") for i in range(3)]
    assert [process.stdout.readline() for process in group] == [b"here\n"] * 3
    group[victim].send_signal(sign)
    why = "its connection closed" if sign == signal.SIGKILL else "it was silent for 2 s"
    role = "" if victim else " (the coordinator)"
    text = f"vidjax: process {victim}{role} on {HOST} was lost: {why}; {peers.AGAIN}.\n"
    assert {outcome(p) for i, p in enumerate(group) if i != victim} == {(peers.EXIT_LOST, text)}
    group[victim].kill()
    group[victim].communicate()


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_fails_is_told_apart_and_ends_the_run(port, victim):
    fails = "watch.end('error', 'the disk is full'); os._exit(1)"
    group = [run(port, i, 3, fails if i == victim else "time.sleep(60)") for i in range(3)]
    text = f"vidjax: process {victim} on {HOST} stopped with an error: the disk is full\n"
    assert {outcome(p) for i, p in enumerate(group) if i != victim} == {(1, text)}
    assert outcome(group[victim]) == (1, "")


def test_one_that_is_done_may_go_first(port):
    group = [run(port, i, 3, f"watch.end('done'); time.sleep({i != 1})") for i in range(3)]
    assert [outcome(process) for process in group] == [(0, "")] * 3


def test_agreement_names_the_process_and_the_key_that_differ(port):
    act = "[watch.agree('data', {'videos': [1, i]}) for i in range(3)]; watch.agree('config', {'lr': %s, 'a': 1})"
    group = [run(port, i, 3, act % (0.1 + i // 2)) for i in range(3)]
    text = f"vidjax: process 2 on {HOST} has lr 1.1, but process 0 has 0.1: all must have the same.\n"
    assert [outcome(process) for process in group] == [(1, text)] * 3
    group = [run(port, i, 2, act % 0.1 + "; watch.end('done'); time.sleep(1)") for i in range(2)]
    assert [outcome(process) for process in group] == [(0, "")] * 2


@pytest.mark.parametrize("asking", [(0,), (2,), (0, 1, 2)])
def test_all_stop_at_the_same_call(port, asking):
    """One process or all of them get the signal, at calls far apart, for each goes at its own pace."""
    act = """
import random, signal
signal.signal(signal.SIGTERM, lambda *_: watch.stop())
random.seed({i})
while not watch.stopping.now():
    if watch.stopping.calls == 20 * ({i} + 1) and {i} in {asking}:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(random.random() * 0.004 * ({i} + 1))
print(watch.stopping.calls, flush=True)
watch.end("done")
time.sleep(1)
"""
    group = [run(port, i, 3, act.format(i=i, asking=asking)) for i in range(3)]
    said = [process.communicate(timeout=30) for process in group]
    assert len({tuple(said) for said in said}) == 1, said
    assert int(said[0][0].split()[1]) >= 20


def test_facts_change_with_the_code():
    facts = peers.facts()
    assert set(facts) == {"jax", "jaxlib", "vidjax's code"}
    assert peers.differing(1, "b", facts | {"vidjax's code": "0"}, facts).startswith(
        "process 1 on b has vidjax's code 0"
    )
    assert peers.differing(1, "b", facts, facts) is None
