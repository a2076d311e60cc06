"""What a run writes down: TensorBoard events, `metrics.jsonl`, the table of parameters, log lines.

The only importer of clu. Its writers pull TensorFlow in, so `writer` puts a stub in the way of that import first.
clu and JAX are imported by the functions that need them, for `setup` also serves jobs without JAX.
"""

import contextlib
import json
import logging
import math
import pathlib
import sys
import time
import types

import cv2
import numpy as np

from vidjax.progress import Progress, counter, track

__all__ = ["EventWriter", "LineWriter", "Progress", "counter", "overview", "setup", "track", "writer"]


def setup():
    """Sends every library's warnings and vidjax's own INFO to stderr as short plain lines.

    Call it once absl has parsed the flags, which installs the handler that this one replaces; twice is harmless.
    """
    from absl import logging as absl_logging

    stream = types.SimpleNamespace(write=lambda text: sys.stderr.write(text), flush=lambda: sys.stderr.flush())
    handler = logging.StreamHandler(stream)  # looks sys.stderr up at each line: rich replaces it while a bar is shown
    handler.set_name("vidjax")
    handler.setFormatter(logging.Formatter("%(prefix)s%(message)s", defaults={"prefix": ""}))
    handler.addFilter(_prefix)
    root = logging.getLogger()
    for old in root.handlers[:]:
        if old is absl_logging.get_absl_handler() or old.get_name() == "vidjax":
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)
    logging.getLogger("vidjax").setLevel(logging.INFO)


def _prefix(record):
    record.prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
    return True


def overview(variables):
    """A table of the leaves of nested dicts: path, shape, dtype, size and their total; shapes alone suffice."""
    from clu import parameter_overview

    return parameter_overview.get_parameter_overview(variables, include_stats=False)


def writer(workdir, step=None, main=True):
    """A clu MetricWriter to `<workdir>/tb` and `<workdir>/metrics.jsonl`; writes nothing unless `main` (process 0).

    A run that continues after `step` gives it: what an earlier run wrote about later steps is dropped from both.
    """
    _without_tensorflow()
    from clu import metric_writers

    if not main:
        return metric_writers.MultiWriter([])
    workdir = pathlib.Path(workdir)
    return metric_writers.MultiWriter([EventWriter(workdir / "tb", step), LineWriter(workdir / "metrics.jsonl", step)])


def _without_tensorflow():
    """Stands in for the two modules through which clu and tensorboard import TensorFlow, even where it is installed."""
    stub = types.ModuleType("clu.metric_writers.summary_writer")
    stub.SummaryWriter = EventWriter
    for module in (stub, types.ModuleType("tensorboard.compat.notf")):
        sys.modules.setdefault(module.__name__, module)


class EventWriter:
    """clu's SummaryWriter on tensorboard's event files, without TensorFlow; a call is on disk when it returns."""

    def __init__(self, folder, step=None):
        _without_tensorflow()
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._file = EventFileWriter(str(folder))
        if step is not None:  # TensorBoard forgets events from this step on that older files hold
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._file.add_event(self._event(wall_time=time.time(), step=step + 1, session_log=start))

    def _add(self, step, summaries):
        for summary in summaries:
            self._file.add_event(self._event(wall_time=time.time(), step=int(step), summary=summary))
        self._file.flush()

    def write_scalars(self, step, scalars):
        """{name: number} at a step."""
        values = [self._summary.Value(tag=name, simple_value=_number(value)) for name, value in scalars.items()]
        self._add(step, [self._summary(value=values)])

    def write_texts(self, step, texts):
        """{name: Markdown} at a step."""
        from tensorboard.plugins.text import summary_v2

        self._add(step, [summary_v2.text_pb(name, text) for name, text in texts.items()])

    def write_histograms(self, step, arrays, num_buckets=None):
        """{name: array of any shape} at a step."""
        from tensorboard.plugins.histogram import summary_v2

        buckets = num_buckets or {}
        self._add(step, [summary_v2.histogram_pb(k, np.asarray(x), buckets.get(k)) for k, x in arrays.items()])

    def write_images(self, step, images):
        """{name: (H, W, 3) or (N, H, W, 3)} at a step; uint8, or floats in [0, 1]."""
        self._add(step, [self._summary(value=self._images(name, x)) for name, x in images.items()])

    def _images(self, name, images):
        images = np.asarray(images)
        if images.dtype != np.uint8:
            images = (255 * images.clip(0, 1) + 0.5).astype(np.uint8)
        for i, image in enumerate(images if images.ndim == 4 else images[None]):
            png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
            height, width, channels = image.shape
            data = self._summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
            yield self._summary.Value(tag=f"{name}/image/{i}", image=data)

    def flush(self):
        """Nothing to do: each call has flushed."""

    def close(self):
        """Closes the event file."""
        self._file.close()


class LineWriter:
    """One JSON object a call, `{"step", "time", name: number, ...}`, flushed at once; repairs a torn last line."""

    def __init__(self, path, step=None):
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
            kept = [line for line in lines if _step(line) <= (math.inf if step is None else step)]
            if lines != [*kept, ""]:
                fresh = self._path.with_suffix(".tmp")
                fresh.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
                fresh.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def write_scalars(self, step, scalars):
        """{name: number} at a step; a number that is not finite is written as null, for JSON knows no NaN."""
        values = {name: _number(value) for name, value in scalars.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": int(step), "time": round(time.time(), 3), **finite}, ensure_ascii=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(f"Cannot write {self._path}: {error.strerror}; free some space and start again.") from error

    def write_texts(self, step, texts, *_):
        """Nothing to do: only TensorBoard keeps texts, images and histograms."""

    write_images = write_histograms = write_texts

    def flush(self):
        """Nothing to do: each line has been flushed."""

    def close(self):
        """Closes the file."""
        self._file.close()


def _number(value):
    return np.asarray(value).item()


def _step(line):
    """The step of a line of metrics.jsonl, NaN if the line is torn."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return json.loads(line)["step"]
    return math.nan
