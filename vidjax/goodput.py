"""Where the time of a run goes: every second belongs to one share, so that they sum to the wall time."""

import contextlib
import os
import time

SHARES = ("start", "compile", "step", "input", "checkpoint", "evaluation", "other")


class Clock:
    """Sorts the seconds since `began` (of `now`) into SHARES; what nothing else claims is the start, later `other`.

    `start` is imports, data, the first state or a restored one; `step` dispatching and waiting for the devices; `input`
    waiting for a batch; `checkpoint` what a save holds training up for, and reading one back in a rollback.
    """

    def __init__(self, began=None, now=time.perf_counter):
        self.now, self.current = now, "start"
        self.since = now() if began is None else began
        self.seconds = dict.fromkeys(SHARES, 0.0)

    def switch(self, name):
        """From now on the time belongs to `name`; returns what it belonged to."""
        before, now = self.current, self.now()
        self.seconds[before] += now - self.since
        self.current, self.since = name, now
        return before

    @contextlib.contextmanager
    def share(self, name):
        """What is done within it belongs to `name`, but for what is claimed in turn."""
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def shares(self):
        """{share: part of the wall time so far}, and their `seconds`."""
        self.switch(self.current)
        total = sum(self.seconds.values())
        return {name: spent / max(total, 1e-9) for name, spent in self.seconds.items()} | {"seconds": total}

    def line(self):
        """The shares as one line, such as `time     12.0 s: step 61.2 %, compile 20.0 %, ...`, the largest first."""
        shares = self.shares()
        total = shares.pop("seconds")
        parts = sorted(shares.items(), key=lambda item: -item[1])
        return f"time     {total:.1f} s: {', '.join(f'{name} {part:.1%}' for name, part in parts)}"


def process_start():
    """When this process began, on `time.perf_counter`; where the system does not tell, now."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.perf_counter() - age
    return time.perf_counter()
