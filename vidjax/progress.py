"""Live progress: a bar on a terminal, plain lines elsewhere. Imports neither JAX nor clu."""

import atexit
import collections
import contextlib
import math
import sys
import time

import rich.console
import rich.progress
import rich.table

FACTS = {
    "loss": lambda x: f"loss {x:.3g}",
    "accuracy": lambda x: f"top-1 {100 * x:.1f} %",
    "clips_per_second": lambda x: f"{amount(x)} clips/s",
    "input_wait": lambda x: f"input {100 * x:.1f} %",
}
_shown = []  # the displays on screen, innermost last: a terminal holds one, so `track` inside `Progress` joins it


def duration(seconds):
    """Seconds as a person says them: 0.4 s, 12 s, 2 min 10 s, 3 h 05 min."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def amount(number):
    """Three significant digits without an exponent: 0.25, 9.50, 21.3, 1234."""
    return (
        f"{number:.{max(0, 2 - math.floor(math.log10(abs(number))))}f}" if 1e-6 < abs(number) < 1e15 else f"{number:g}"
    )


class Progress:
    """Progress of training from step `start` to `total_steps`; a context manager.

    On a terminal one live line; elsewhere a plain line whenever a multiple of `log_every` is passed and at the end.
    Silent unless `main` (process 0). `console` is a rich console, standard output by default.
    """

    def __init__(self, total_steps, start=0, console=None, log_every=100, main=True):
        self._total, self._start, self._step, self._every, self._main = total_steps, start, start, log_every, main
        self._console = console or _console(sys.stdout)
        self._facts, self._line = {}, ""
        self._display = self._task = None

    def __enter__(self):
        self._times = collections.deque([(self._step, time.monotonic())], maxlen=64)
        if self._main and _live(self._console):
            self._display = _display(self._console)
            self._display.start()
            _shown.append(self._display)
            self._task = self._display.add_task(f"step {self._step}/{self._total}", total=self._total, text="")
        return self

    def __exit__(self, *_):
        if self._display:
            _shown.remove(self._display)
            self._display.stop()
            _say(self._console, self._line)
            self._display = None

    def update(self, step, **facts):
        """Says that `step` is done; facts: `loss`, `accuracy`, `input_wait` (shares of 1), `clips_per_second`, any."""
        passed = step // self._every > self._step // self._every or step == self._total != self._step
        self._step = step
        self._facts.update(facts)
        if len(self._times) == 2 and self._times[0][0] == self._start:
            self._times.popleft()  # the first step compiled: it says nothing about the next
        self._times.append((step, time.monotonic()))
        said = [FACTS[k](v) if k in FACTS else f"{k.replace('_', ' ')} {v:.4g}" for k, v in self._facts.items()]
        left = [f"{duration(self._left())} left"] if step < self._total else []
        self._line = "  ".join([f"step {step}/{self._total}", *said, *left])
        if self._display:
            done = f"step {step}/{self._total}"
            self._display.update(self._task, completed=step, description=done, text="  ".join(said + left))
        elif passed and self._main:
            _say(self._console, self._line)

    def _left(self):
        (first, since), (last, until) = self._times[0], self._times[-1]
        return (self._total - last) * (until - since) / (last - first) if last > first else math.nan

    def message(self, text):
        """Prints a line of its own, above the bar."""
        if self._main:
            _say(self._console, text)


def track(items, description, total=None, unit="videos", console=None, main=True, every=10.0):
    """Yields `items` (a number n stands for range(n)) while a `counter` shows how far they are."""
    items = range(items) if isinstance(items, int) else items
    total = len(items) if total is None and hasattr(items, "__len__") else total
    with counter(description, unit, console, main, every) as advance:
        for done, item in enumerate(items, 1):
            yield item
            advance(done, total)


@contextlib.contextmanager
def counter(description, unit="videos", console=None, main=True, every=10.0):
    """A function (done, total) that shows how far a job is, called as things are done; ends with their rate.

    Inside a `Progress` the bar joins its display. Elsewhere than on a terminal: a plain line every `every` seconds.
    `console` is standard error by default, so that a command's results can be piped. Silent unless `main`.
    """
    if not main:
        yield lambda done, total=None: None
        return
    console = console or (_shown[-1].console if _shown else _console(sys.stderr))
    since = said = time.monotonic()
    made, before = 0, None

    def advance(done, total=None):
        nonlocal said, made, before
        before = max(0, done - 1) if before is None else before  # what an earlier run had done
        made, now = done - before, time.monotonic()
        text = _pace(done, total, (now - since) * done / made, unit)
        if move:
            move(done, total, text)
        elif now - said >= every:
            said = now
            _say(console, f"{description}: {text}")

    with _bar(console, description) as move:
        yield advance
    if made:
        took = time.monotonic() - since
        rate = f" ({amount(made / took)} {unit}/s)" if took > 0 else ""
        _say(console, f"{description}: {made} {unit} in {duration(took)}{rate}")


def _pace(done, total, seconds, unit):
    rate = f"{amount(done / seconds)} {unit}/s" if seconds > 0 else ""
    if total is None:
        return f"{done} {unit}  {rate}"
    return f"{done}/{total} {unit}  {rate}  {duration((total - done) * seconds / done)} left"


@contextlib.contextmanager
def _bar(console, description):
    """A function of (done, total, text) that moves a bar, or None where the console is no terminal."""
    if not _live(console):
        yield None
        return
    outer = next((shown for shown in _shown if shown.console is console), None)
    display = outer or _display(console)
    with contextlib.nullcontext() if outer else display:
        if not outer:
            _shown.append(display)
        task = display.add_task(description, total=None, text="")
        try:
            yield lambda done, total, text: display.update(task, completed=done, total=total, text=text)
        finally:
            display.remove_task(task)
            if not outer:
                _shown.remove(display)


def _display(console):
    line = rich.table.Column(no_wrap=True, overflow="ellipsis")
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False, table_column=line),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TextColumn("{task.fields[text]}", markup=False, table_column=line.copy()),
    )
    return rich.progress.Progress(*columns, console=console, refresh_per_second=4, transient=True)


def _console(stream):
    """A console on a stream; in a notebook, whose streams call themselves terminals, plain lines on standard output."""
    if type(stream).__module__.startswith("ipykernel"):
        return rich.console.Console(file=sys.stdout, force_terminal=False, force_jupyter=False)
    return rich.console.Console(file=stream, force_jupyter=False)


def _live(console):
    return console.is_terminal and not console.is_dumb_terminal


def _say(console, text):
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


@atexit.register
def _stop():
    """Gives the terminal its cursor back where a `track` was left by an exception."""
    while _shown:
        _shown.pop().stop()
