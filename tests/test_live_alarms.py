"""Alarms of a stream: every rule against its definition, on drawn scores, and what is refused."""

import json

import numpy as np
import pytest

from vidjax.predict.live import alarms

NAMES = ["fall", "run", "wave: both hands"]


def drawn(seed, length=60):
    """(times, scores, policy): scores in tenths at times in tenths of a second, so that comparisons are exact."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(1, 6, length)) / 10
    walk = np.cumsum(rng.integers(-4, 5, length))
    scores = np.abs((walk + 10) % 20 - 10) / 10
    on = rng.integers(3, 10) / 10
    off = (None, on, rng.integers(0, int(on * 10 + 0.5) + 1) / 10)[rng.integers(3)]
    minimum, cooldown = (rng.integers(0, n) / 10 * rng.integers(2) for n in (20, 40))
    return times, scores, alarms.Policy(on, off, minimum, cooldown)


def machine(times, scores, policy):
    """The events of the state machine, the end of the stream included."""
    state, events = alarms.State(), []
    for time, score in zip(times.tolist(), scores.tolist(), strict=True):
        state, event = alarms.advance(state, policy, time, score)
        events += [event] if event else []
    event = alarms.close(state, policy)[1]
    return events + ([event] if event else [])


def by_definition(times, scores, policy):
    """[start, end, peak] of every alarm: longest runs of scores from a begin on, looked at from outside."""
    off = policy.on if policy.off is None else policy.off
    found, quiet, i = [], -np.inf, 0
    while i < len(times):
        if scores[i] < policy.on or round(times[i], 6) < round(quiet, 6):
            i += 1
            continue
        down = np.flatnonzero(scores[i:] < off)
        end = i + down[0] if len(down) else len(times)
        if round(times[end - 1] - times[i], 6) >= round(policy.minimum, 6):
            found.append([times[i], times[end - 1], scores[i:end].max()])
            quiet = times[end - 1] + policy.cooldown
        i = end
    return found


def test_events_are_those_of_the_definition():
    seen = np.zeros(4, int)
    for seed in range(600):
        times, scores, policy = drawn(seed)
        events, expected = machine(times, scores, policy), by_definition(times, scores, policy)
        ends = [[e["start"], e["end"], e["peak"]] for e in events if e["event"] == "end"]
        assert ends == expected, f"seed {seed}: {policy}"
        seen += [len(expected) > 1, policy.minimum > 0, policy.cooldown > 0, policy.off not in (None, policy.on)]
    assert seen.min() > 100  # the draws do try every rule


def test_events_follow_the_rules():
    for seed in range(300):
        times, scores, policy = drawn(seed)
        events = machine(times, scores, policy)
        assert [e["event"] for e in events] == ["begin", "end"] * (len(events) // 2)
        ends = events[1::2]
        for begin, end in zip(events[::2], ends, strict=True):
            assert begin["start"] == end["start"]
            assert end["end"] - end["start"] >= policy.minimum - alarms.EPSILON
            assert end["peak"] >= max(policy.on, begin["score"])
        for one, following in zip(ends, ends[1:], strict=False):
            assert following["start"] >= one["end"] + policy.cooldown - alarms.EPSILON
            assert following["start"] > one["end"]


def test_a_begin_is_told_as_soon_as_it_has_lasted():
    policy, state, told = alarms.Policy(on=0.5, minimum=0.2), alarms.State(), []
    for tenth, score in enumerate([0.1, 0.6, 0.9, 0.7, 0.8]):
        state, event = alarms.advance(state, policy, tenth / 10, score)
        told.append(event)
    assert told == [None, None, None, {"event": "begin", "start": 0.1, "score": 0.7}, None]


def test_stricter_rules_give_no_more_alarms():
    for seed in range(100):
        times, scores, policy = drawn(seed)
        longer = policy._replace(minimum=policy.minimum + 0.5, cooldown=0.0)
        spans = {(e["start"], e["end"]) for e in machine(times, scores, policy._replace(cooldown=0.0)) if "end" in e}
        assert {(e["start"], e["end"]) for e in machine(times, scores, longer) if "end" in e} <= spans


def test_classes_have_states_of_their_own_and_a_break_ends_them():
    watch = alarms.Alarms({"fall": alarms.Policy(), "run": alarms.Policy(on=0.9)}, NAMES)
    events = watch.see(0, 0.0, np.array([0.6, 0.8, 0.99]))
    assert events == [{"event": "begin", "class": "fall", "start": 0.0, "score": 0.6}]
    assert watch.see(0, 1.0, np.array([0.7, 0.95, 0.0])) == [
        {"event": "begin", "class": "run", "start": 1.0, "score": 0.95}
    ]
    events = watch.see(1, 9.0, np.array([0.8, 0.0, 0.0]))  # the stream was opened anew in between
    assert events == [
        {"event": "end", "class": "fall", "start": 0.0, "end": 1.0, "peak": 0.7},
        {"event": "end", "class": "run", "start": 1.0, "end": 1.0, "peak": 0.95},
        {"event": "begin", "class": "fall", "start": 9.0, "score": 0.8},
    ]
    assert [event["end"] for event in watch.close()] == [9.0]
    assert watch.close() == []


def test_flags_and_files_say_the_same(tmp_path):
    words = ["fall:on=0.6,off=0.4,minimum=0.5,cooldown=10", "wave: both hands", "run:"]
    expected = {
        "fall": alarms.Policy(0.6, 0.4, 0.5, 10.0),
        "wave: both hands": alarms.Policy(),
        "run": alarms.Policy(),
    }
    assert alarms.parse(words, NAMES) == expected
    path = tmp_path / "alarms.json"
    path.write_text(json.dumps({"fall": {"on": 0.6, "off": 0.4, "minimum": 0.5, "cooldown": 10}, "*": {}}))
    assert alarms.read(path, NAMES) == expected


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"fell": {}}, "no class 'fell'; the nearest is 'fall'"),
        ({"fall": {"of": 0.1}}, "fall has no key 'of'; did you mean 'off'"),
        ({"fall": {"on": "high"}}, "on is a number of at least 0, not 'high'"),
        ({"fall": {"minimum": -1}}, "minimum is a number of at least 0, not -1"),
        ({"fall": {"on": True}}, "on is a number of at least 0, not True"),
        ({"fall": {"on": 0.4, "off": 0.5}}, "off is not above it; not 0.4 and 0.5"),
        ({"fall": {"on": 40}}, "on is a probability"),
        ({"fall": 0.5}, "fall needs {on, off, minimum, cooldown}, not 0.5"),
        ({}, "must say"),
        ([1], "must say"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(found, sentence, tmp_path):
    path = tmp_path / "alarms.json"
    path.write_text(json.dumps(found))
    with pytest.raises(alarms.AlarmError) as error:
        alarms.read(path, NAMES)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_flags_that_cannot_be_meant():
    with pytest.raises(alarms.AlarmError, match="--alarm: the net has no class 'falling'; the nearest is 'fall'"):
        alarms.parse(["falling:on=0.5"], NAMES)
    with pytest.raises(alarms.AlarmError, match="on is a number of at least 0, not 'x'"):
        alarms.parse(["fall:on=x"], NAMES)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(alarms.AlarmError, match=f"{name} cannot be read as alarms"):
            alarms.read(tmp_path / name, NAMES)
