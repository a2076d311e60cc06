"""How nets go along with a stream: row by row, each with as little computing as its architecture allows.

    Stateful    a state is carried and each frame computed once: MoViNet's streams, online TSM, lrcn's RNN, LSTM, GRU
                and ConvLSTM. It is renewed now and then, as else a mean would be of hours: by a successor that has seen
                the last clip's frames too
    Framewise   a 2-D net on frames alone runs once for each, its features wait in a ring for what reads the window:
                frame_pool (TSN, TSM's backbones without shift), trn, tcn, frame_attention, lrcn that reads both ways
    Windows     everything else, 3-D convolutions, transformers, offline TSM, flow beside pixels: each frame is decoded
                and transformed once, the net computes the whole window anew

All give, of the same frames, what the net gives offline: inputs come from `data.read_views` and `inputs.preparer`, and
scores from `evaluate.eval_step`.
"""

import collections
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import backbones, evaluate
from vidjax.data import clips
from vidjax.predict.live import rows


def make(predictor, memory=0, every=0):
    """The way of a predictor's net; `memory` and `every` count frames that the net sees, 0 is the way's own.

    ValueError for a net that a stream cannot feed.
    """
    rows.check(predictor.section)
    state, alone = has_state(predictor), backbones.alone(predictor.model)
    if state and not (alone and not getattr(predictor.model, "recurrent", "")):  # whose state is but a sum of frames
        return Stateful(predictor, memory, every)
    return Framewise(predictor, every) if alone else Windows(predictor, every)


def has_state(predictor):
    """Whether a predictor's net takes a video in pieces."""
    if not hasattr(predictor.model, "initial_state") or isinstance(seen_by(predictor), dict):
        return False
    try:
        jax.eval_shape(lambda: fresh(predictor))
    except ValueError:  # it sees ahead
        return False
    return True


def seen_by(predictor):
    """The shape of what the net sees of a row, or a dictionary of shapes."""
    blank = rows.blank(predictor.section, predictor.meta["preprocess"]).inputs
    return jax.eval_shape(predictor.prepare, blank, predictor.net)


def fresh(predictor):
    """The state of a net that has seen nothing."""
    b, _, h, w, c = seen_by(predictor).shape
    return predictor.model.initial_state(*((b, h, w) if c == 3 else (b, h, w, c)))


def average_of(predictor):
    """How an evaluation of the net averages, and whether its classes are several a video."""
    return {
        "average": predictor.meta["config"]["eval"]["average"],
        "multi_label": predictor.multi_label,
    }


def scores_of(logits, average, multi_label):
    """Probabilities from the logits of a frame's crops: (crops, classes) -> (classes,), as an evaluation's."""
    known, ones = types.SimpleNamespace(apply=lambda *_, train: (logits, {})), jnp.ones((1, len(logits)))
    batch = {"inputs": logits[None], "view_mask": ones, "mask": ones[:, 0]}
    plain = functools.partial(evaluate.eval_step, model=known, average=average, prepare=lambda x, net: x)
    return plain({}, batch, multi_label=multi_label)["scores"][0]


class Stateful:
    """A net that carries a state: `see` a row, `scores` of all frames since the state was new.

    After `memory` frames the state gives way to a successor that has seen the last clip's worth of them (half of them
    where a clip is longer); by default after two clips. A `memory` below 0 is without end.
    """

    waiting, recomputes = 2, False

    def __init__(self, predictor, memory=0, every=0):
        size = predictor.section["clip"]["size"]
        self.variables, self.net = predictor.variables, predictor.net
        self.memory, self.every = memory or 2 * size, every or 1
        self.overlap = min(size, max(self.memory // 2, 1))

        def advance(variables, row, net, state):
            logits, state = predictor.model.apply(variables, predictor.prepare(row, net), state, method="stream")
            return scores_of(logits, **average_of(predictor)), state

        self.step, self.fresh = jax.jit(advance, donate_argnums=3), jax.jit(functools.partial(fresh, predictor))
        self.forget()

    def see(self, row):
        """Takes the next frame's row."""
        if self.memory > 0 and self.age == self.memory:
            self.state, self.successor, self.age = self.successor, None, self.overlap
        self.seen, self.state = self.step(self.variables, row.inputs, self.net, self.state)
        if self.memory > 0 and self.age >= self.memory - self.overlap:  # computed while the scores are looked at
            self.successor = self.fresh() if self.successor is None else self.successor
            _, self.successor = self.step(self.variables, row.inputs, self.net, self.successor)
        self.age += 1

    def scores(self):
        """Probabilities (classes,) of the frames seen, or None of none."""
        return None if self.seen is None else np.asarray(self.seen)

    def forget(self):
        """Begins anew, as where frames are missing."""
        self.state, self.successor, self.seen, self.age = self.fresh(), None, None, 0


class Framewise:
    """A net on frames alone, run once for each; what reads its features gets a window of them, a clip's size."""

    waiting, recomputes = 2, False

    def __init__(self, predictor, every=0):
        self.size, self.every = predictor.section["clip"]["size"], every or 1
        self.variables, self.net, self.sampler = (
            predictor.variables,
            predictor.net,
            predictor.section["clip"]["sampler"],
        )
        model, channels = predictor.model, seen_by(predictor).shape[-1]

        def features(variables, row, net):
            return backbones.of_frames(model, variables, predictor.prepare(row, net))

        def read(variables, window):
            known = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *window)
            b, t = jax.tree.leaves(known)[0].shape[:2]
            with backbones.seen(known):
                logits, _ = model.apply(variables, jnp.zeros((b, t, 1, 1, channels)), train=False)
            return scores_of(logits, **average_of(predictor))

        self.features, self.read = jax.jit(features), jax.jit(read)
        self.forget()

    def see(self, row):
        """Takes the next frame's row."""
        self.ring.append(self.features(self.variables, row.inputs, self.net))

    def scores(self, short=False):
        """Probabilities (classes,) of the last window, or None where it is not full; `short` fills it as clips are."""
        window = filled(self.ring, self.size, self.sampler, short)
        return window and np.asarray(self.read(self.variables, window))

    def forget(self):
        """Begins anew, as where frames are missing."""
        self.ring = collections.deque(maxlen=self.size)


class Windows:
    """Any net: the rows of a clip wait in a ring, and it sees all of them at every `every`-th, a quarter of a clip."""

    recomputes = True

    def __init__(self, predictor, every=0):
        self.size, self.predictor = predictor.section["clip"]["size"], predictor
        self.every, self.waiting = every or max(1, self.size // 4), max(2, self.size)
        self.sampler = predictor.section["clip"]["sampler"]
        self.forget()

    def see(self, row):
        """Takes the next frame's row."""
        self.ring.append(row.inputs)

    def scores(self, short=False):
        """Probabilities (classes,) of the last window, or None where it is not full; `short` fills it as clips are."""
        window = filled(self.ring, self.size, self.sampler, short)
        if window is None:
            return None
        inputs = {key: np.concatenate([row[key] for row in window], axis=1)[None] for key in window[0]}
        ones = np.ones((1, next(iter(inputs.values())).shape[1]), np.float32)
        batch = {"inputs": inputs, "view_mask": ones, "mask": ones[:, 0]}
        return np.asarray(self.predictor.step(self.predictor.variables, batch, self.predictor.net)["scores"])[0]

    def forget(self):
        """Begins anew, as where frames are missing."""
        self.ring = collections.deque(maxlen=self.size)


def filled(ring, size, sampler, short):
    """The rows of a whole window, or None; with `short` too few of them are repeated as the sampler repeats frames."""
    if len(ring) == size:
        return list(ring)
    if not (short and ring):
        return None
    return [ring[i] for i in clips.evaluation(sampler, len(ring), size, 1, 1)[0]]
