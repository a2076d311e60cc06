"""The steps since the last log line: their means, read from the device one step late, and what is not finite."""

import collections
import contextlib
import logging
import math
import time

import jax

from vidjax.train import finite

log = logging.getLogger("vidjax")


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and from where to continue."""


class Window:
    """Means of the steps since the last log line.

    `checkpoints`, `workdir`, `source` and `policy` (`config.on_nan`) serve a step that is not finite; `progress` is
    called with each step that was read.
    """

    def __init__(self, checkpoints, workdir, source, policy, progress):
        self.checkpoints, self.workdir, self.source, self.policy = checkpoints, workdir, source, policy
        self.progress, self.pending = progress, collections.deque()
        self.reset()

    def reset(self):
        self.sums, self.steps, self.waited, self.began = collections.Counter(), 0, 0.0, time.perf_counter()

    def forget(self):
        """Drops what is in flight and starts anew, as after a rollback."""
        self.pending.clear()
        self.reset()

    def add(self, step, metrics, indices, waited):
        self.waited += waited
        self.pending.append((step, metrics, indices))
        while len(self.pending) > 1:
            self.read()

    def drain(self):
        """Waits for the steps in flight, so that what follows rests on finite numbers."""
        while self.pending:
            self.read()

    @contextlib.contextmanager
    def paused(self):
        """What is done within it counts neither as training time nor as waiting."""
        self.drain()
        since = time.perf_counter()
        yield
        self.began += time.perf_counter() - since

    def read(self):
        """Reads the oldest step's metrics; what is not finite is recorded, then TrainingError, NotFinite or skipped."""
        step, metrics, indices = self.pending.popleft()
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.progress(f"step {step}")
        if all(math.isfinite(value) for value in metrics.values()):
            self.sums.update(metrics)
            self.steps += 1
            return
        path = finite.record(self.workdir, step, metrics, indices, self.source, self.policy)
        text = f"step {step} gave loss {metrics['loss']} and gradient norm {metrics['grad_norm']}"
        videos = f"its videos are listed in {path}"
        if self.policy == "skip":
            log.warning("%s: it changes nothing, and training goes on; %s", text, videos)
        elif self.policy == "rollback":
            log.warning("%s: back to the newest checkpoint, and past this batch; %s", text, videos)
            raise finite.NotFinite(step)
        else:
            self.stop(text, videos)

    def stop(self, text, videos):
        good = self.checkpoints.latest_step()
        last = f"the last good checkpoint is step {good}" if good is not None else "there is no checkpoint yet"
        raise TrainingError(
            f"{text}; training stopped, {last}, {videos}. Lower config.optim.lr or set config.optim.clip_norm, or "
            f"config.on_nan=skip, then run the same command again."
        )

    def close(self):
        """The window's means, clips per second and share of time spent waiting for input; starts the next window.

        Empty where no step of it was finite.
        """
        self.drain()
        seconds = time.perf_counter() - self.began
        means = {name: total / self.steps for name, total in self.sums.items() if name != "videos"}
        means |= {"clips_per_second": self.sums["videos"] / seconds, "input_wait": self.waited / seconds}
        steps = self.steps
        self.reset()
        return means if steps else {}
