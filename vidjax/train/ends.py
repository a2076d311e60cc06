"""How a run ends before its last step: a signal that asks it to stop, a watchdog that finds it stuck."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time

import jax
from jax.experimental import multihost_utils

from vidjax import peers

EXIT_STUCK = 77  # the watchdog found the run stuck: start the same command again
WATCHDOG = 600.0  # seconds without progress, unless config.watchdog says otherwise
PATIENT = 10  # times as long while XLA compiles


class Stop:
    """Whether a signal asked the run to save and stop; every process of a run answers the same."""

    def __init__(self):
        self.signal, self.before, self.times = None, {}, 0
        self.peers = peers.watch  # None in a run of one process, and where the caller started `jax.distributed`
        self.by_jax = not self.peers and jax.process_count() > 1

    def __enter__(self):
        if not self.by_jax:  # else JAX listens for SIGTERM
            self.before = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number, frame):
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self.peers:
            self.peers.stop()

    def asked(self):
        """To be called by all processes equally often."""
        if self.peers:
            return self.peers.stopping.now()
        if self.by_jax:
            self.times += 1  # not the step, which a rollback takes back
            return multihost_utils.reached_preemption_sync_point(self.times)
        return self.signal is not None


class Watchdog:
    """Ends the process with EXIT_STUCK and every thread's stack after `seconds` without `progress`; 0 never does.

    It finds what no error tells: a peer that is alive but stuck, a file system that does not answer.
    """

    def __init__(self, seconds, workdir):
        self.seconds, self.path = seconds, os.path.join(workdir, f"stuck_{jax.process_index()}.txt")
        self.last, self.what, self.times, self.ended = time.monotonic(), "the start", 1, threading.Event()

    def __enter__(self):
        if self.seconds > 0:
            threading.Thread(target=self.watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()

    def progress(self, what):
        """Something was done, such as step 12."""
        self.last, self.what = time.monotonic(), what

    @contextlib.contextmanager
    def patient(self):
        """What is done within it may take PATIENT times as long, and counts as progress once it is done."""
        self.times = PATIENT
        try:
            yield
        finally:
            self.last, self.times = time.monotonic(), 1

    def watch(self):
        while not self.ended.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self.last > self.seconds * self.times:
                self.bite()

    def bite(self):
        """Writes all stacks down and ends the process."""
        with contextlib.suppress(OSError), open(self.path, "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file)
        faulthandler.dump_traceback(sys.stderr)
        print(
            f"vidjax: no progress for {self.seconds * self.times:g} s (config.watchdog) since {self.what}; the stacks "
            f"of all threads are above and in {self.path}; start the same command again.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_STUCK)
