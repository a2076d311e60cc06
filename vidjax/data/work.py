"""Runs a function over a list of tasks: in this process, in spawned processes, or as an Apache Beam pipeline.

A task and its function are picklable and idempotent: what is done twice is the same as what is done once. A task writes
its own output, atomically, and returns something small that JSON can hold; big things never travel.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
import uuid
from multiprocessing import connection, reduction

INSTALL = "runner needs Apache Beam, which is not installed: pip install 'vidjax[beam]'"
# Beam's DirectRunner may try Prism first, a program that it downloads; this is the runner it otherwise becomes.
LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def run(function, tasks, *, workers=0, runner="", options=(), progress=None, time_limit=0, failed=None):
    """Results of `function(task)` in the order of `tasks`, as JSON gives them back (a tuple becomes a list).

    In this process with `workers` 0, in that many spawned processes, or on the Beam runner `runner` (`direct`, or any
    name or class that Beam knows; `options` are its command-line flags). `progress(done, total)` follows each task
    (under Beam it is called once, at the end). A task's exception is raised here, a task that kills its process raises
    ChildProcessError, one that takes longer than `time_limit` > 0 seconds TimeoutError (worker processes only); with
    `failed(task, error)` its result takes the place of an exception and the others go on.
    """
    tasks = list(tasks)
    results = [None] * len(tasks)
    if runner and tasks:
        outcomes = in_beam(function, tasks, runner, options)
    elif workers and tasks:
        outcomes = in_processes(function, tasks, workers, time_limit)
    else:
        outcomes = ((i, *attempt(function, task)) for i, task in enumerate(tasks))
    with contextlib.closing(outcomes):
        for done, (i, result, error) in enumerate(outcomes, 1):
            if error is not None:
                if failed is None:
                    raise error
                result = failed(tasks[i], error)
            results[i] = result
            if progress and not runner:
                progress(done, len(tasks))
    if progress and runner:
        progress(len(tasks), len(tasks))
    return results


def attempt(function, task):
    """(result, None) or (None, exception)."""
    try:
        return json.loads(json.dumps(function(task))), None
    except Exception as error:
        return None, error


def in_processes(function, tasks, workers, time_limit):
    """Yields (i, result, error) in the order of completion; processes are ended when the generator is."""
    context, idle, waiting = multiprocessing.get_context("spawn"), [], list(range(len(tasks)))[::-1]
    team = [Worker(context, function) for _ in range(min(workers, len(tasks)))]
    try:
        while waiting or any(worker.task is not None for worker in team):
            for worker in idle:
                if waiting:
                    worker.give(waiting.pop(), tasks)
            idle = []
            for ready in connection.wait([worker.pipe for worker in team], patience(team, time_limit)):
                worker = next(worker for worker in team if worker.pipe is ready)
                outcome = worker.answer()
                if outcome:
                    yield outcome
                if not worker.dead:
                    idle.append(worker)
            for worker in team:
                if time_limit and worker.task is not None and not worker.dead and worker.seconds() > time_limit:
                    worker.end()
                    yield worker.task, None, TimeoutError(f"it took longer than {time_limit:g} seconds")
            alive = [worker for worker in team if not worker.dead]
            fresh = min(len(team) - len(alive), len(waiting))
            team = alive + [Worker(context, function) for _ in range(fresh)]
    finally:
        for worker in team:
            worker.end()


def patience(team, time_limit):
    """Seconds until the first running task is over its time, or None."""
    running = [time_limit - worker.seconds() for worker in team if worker.task is not None]
    return max(0, min(running)) + 0.01 if time_limit and running else None


class Worker:
    """A spawned process that answers one task at a time; `task` is the number it works on."""

    def __init__(self, context, function):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(function, theirs), daemon=True)
        self.task, self.started, self.dead = None, False, False
        self.process.start()
        theirs.close()

    def give(self, number, tasks):
        self.task, self.since = number, time.monotonic()
        with contextlib.suppress(OSError):  # a dead worker shows in `answer`
            self.pipe.send(tasks[number])

    def seconds(self):
        return time.monotonic() - self.since

    def answer(self):
        """(i, result, error) of its task, or None where it only says that it is ready."""
        try:
            result, error = self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            how = death(self.process.exitcode)
            if not self.started:
                raise RuntimeError(
                    f"a worker process ended before it began ({how}): run with 0 workers to see why, and keep a "
                    f"script's calls under `if __name__ == '__main__':`"
                ) from None
            return self.task, None, ChildProcessError(f"its worker process died ({how})")
        if not self.started:
            self.started = True
            return None
        number, self.task = self.task, None
        return number, result, error

    def end(self):
        self.dead = True
        self.process.kill()
        self.process.join()
        self.pipe.close()


def death(exitcode):
    """How a process ended, for people."""
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def serve(function, pipe):
    """A worker's life: a task in, (result, error) out, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends us
    threading.Thread(target=follow, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # so it goes when the parent ends
        pipe.send((None, None))
        while True:
            result, error = attempt(function, pipe.recv())
            pipe.send((result, error and portable(error)))


def follow():
    """Ends this process when its parent has ended, however that happened."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def portable(error):
    """The error, with its traceback as a note unless it is a sentence (ValueError); a RuntimeError where it cannot
    be pickled."""
    if not isinstance(error, ValueError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def in_beam(function, tasks, runner, options):
    """Yields (i, result, error) after the pipeline has run; its text files carry the results from whatever machine."""
    try:
        import apache_beam as beam
        from apache_beam.io import filesystems
        from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
    except ImportError as error:
        raise ModuleNotFoundError(INSTALL) from error
    options = PipelineOptions(list(options), runner=LOCAL if runner.lower() in ("direct", "directrunner") else runner)
    shared = options.view_as(GoogleCloudOptions).temp_location
    files = filesystems.FileSystems
    folder = files.join(shared, f"vidjax-{uuid.uuid4().hex}") if shared else tempfile.mkdtemp(prefix="vidjax-")
    try:
        with beam.Pipeline(options=options) as pipeline:
            rows = pipeline | beam.Create(list(enumerate(tasks))) | beam.Reshuffle()
            rows = rows | beam.Map(line, function)
            _ = rows | beam.io.WriteToText(files.join(folder, "results"), file_name_suffix=".jsonl")
        found = [entry.path for entry in files.match([files.join(folder, "results*")])[0].metadata_list]
        for path in sorted(found):
            with files.open(path) as file:
                for row in json.loads(b"[" + b",".join(file.read().splitlines()) + b"]"):
                    yield row["i"], row["result"], restored(row)
    finally:
        with contextlib.suppress(Exception):
            files.delete([folder])


def line(numbered, function):
    """One task of a pipeline: its outcome as a line of JSON."""
    i, task = numbered
    result, error = attempt(function, task)
    sentence = isinstance(error, ValueError)
    text = error and (str(error) if sentence else f"{type(error).__name__}: {error}")
    return json.dumps({"i": i, "result": result, "error": text, "sentence": sentence})


def restored(row):
    """The exception that a task raised on another machine, or None; what is no ValueError carries its name."""
    if row["error"] is None:
        return None
    return (ValueError if row["sentence"] else RuntimeError)(row["error"])
