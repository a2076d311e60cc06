"""When a class's score is an alarm: a threshold to begin and one to end, a least duration, a pause after each.

A score of at least `on` may begin an alarm. It lasts while scores stay at `off` or above, and counts as soon as it has
lasted `minimum` seconds; from its last frame on the class is quiet for `cooldown` seconds. Pure functions: the state of
a class and a score in, the state and what happened out.
"""

import difflib
import json
import typing

EPSILON = 1e-6  # seconds by which a duration may fall short: times are sums of rounded numbers


class Policy(typing.NamedTuple):
    """The rule of one class; times are in seconds."""

    on: float = 0.5
    off: float | None = None  # default: `on`
    minimum: float = 0.0
    cooldown: float = 0.0


class State(typing.NamedTuple):
    """Of one class: since when its score is up, and until when it is quiet."""

    start: float | None = None
    last: float = 0.0
    peak: float = 0.0
    raised: bool = False
    quiet: float = float("-inf")


class AlarmError(ValueError):
    """Alarms that cannot be meant; the message says what is wrong."""


def advance(state, policy, time, score):
    """(state, event or None) after a score: {event: begin, start, score} or {event: end, start, end, peak}."""
    off = policy.on if policy.off is None else policy.off
    if state.start is None:
        if score < policy.on or time < state.quiet - EPSILON:
            return state, None
        state = state._replace(start=time, last=time, peak=score)
    elif score < off:
        return close(state, policy)
    else:
        state = state._replace(last=time, peak=max(state.peak, score))
    if state.raised or state.last - state.start < policy.minimum - EPSILON:
        return state, None
    return state._replace(raised=True), {"event": "begin", "start": state.start, "score": score}


def close(state, policy):
    """(state, event or None) where the score is down, or the stream has ended."""
    if not state.raised:
        return State(quiet=state.quiet), None
    event = {"event": "end", "start": state.start, "end": state.last, "peak": state.peak}
    return State(quiet=state.last + policy.cooldown), event


class Alarms:
    """The states of all classes that have a policy; `policies` are {name: Policy}, `names` the classes in order."""

    def __init__(self, policies, names):
        self.policies = {i: policies[name] for i, name in enumerate(names) if name in policies}
        self.names, self.states, self.piece = names, dict.fromkeys(self.policies, State()), 0

    def see(self, piece, time, scores):
        """The events, each with its `class`, of the scores (classes,) at a time; a new `piece` ends what is up."""
        events, self.piece = self.close() if piece != self.piece else [], piece
        return events + self._step(lambda i, state: advance(state, self.policies[i], time, float(scores[i])))

    def close(self):
        """The events of a stream that ends or breaks off: what is up ends there."""
        return self._step(lambda i, state: close(state, self.policies[i]))

    def _step(self, move):
        events = []
        for i, state in self.states.items():
            self.states[i], event = move(i, state)
            if event:
                events.append({"event": event.pop("event"), "class": self.names[i]} | event)
        return events


def read(path, names):
    """{class: Policy} of a JSON file {class: {on, off, minimum, cooldown}}, where "*" are all others. AlarmError."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise AlarmError(f"{path} cannot be read as alarms: {error}") from error
    if not isinstance(found, dict) or not found:
        raise AlarmError(f'{path} must say {{"CLASS": {{"on": 0.6, "off": 0.4}}, ...}}; "*" are all other classes.')
    return checked(path, found, names)


def parse(words, names):
    """{class: Policy} of flags such as Fall or Fall:on=0.6,off=0.4,minimum=0.5,cooldown=10. AlarmError."""
    found = {}
    for word in words:
        name, _, rest = (word, "", "") if word in names or ":" not in word else word.rpartition(":")
        parts = [part.partition("=") for part in rest.split(",") if part]
        found[name] = {key: _number(value) for key, _, value in parts}
    return checked("--alarm", found, names)


def checked(where, found, names):
    """{class: Policy} of {class or "*": {key: number}}; AlarmError names the place, the class and the key."""
    policies = {}
    for name, options in found.items():
        if name != "*" and name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.0)
            raise AlarmError(f"{where}: the net has no class {name!r}; the nearest is {near[0] if near else 'none'!r}.")
        if not isinstance(options, dict):
            raise AlarmError(f"{where}: {name} needs {{on, off, minimum, cooldown}}, not {options!r}.")
        policies |= dict.fromkeys(names if name == "*" else [name], policy(f"{where}: {name}", options))
    return policies | {name: policy(f"{where}: {name}", found[name]) for name in found if name != "*"}


def policy(where, options):
    """The Policy of {key: number}. AlarmError."""
    for key, value in options.items():
        if key not in Policy._fields:
            near = difflib.get_close_matches(key, Policy._fields, 1, 0.0)[0]
            raise AlarmError(f"{where} has no key {key!r}; did you mean {near!r}?")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:
            raise AlarmError(f"{where}: {key} is a number of at least 0, not {value!r}.")
    made = Policy(**options)
    if made.on > 1 or (made.off is not None and made.off > made.on):
        raise AlarmError(f"{where}: on is a probability, and off is not above it; not {made.on} and {made.off}.")
    return made


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text
