"""Evaluation jobs: a run's checkpoints by several protocols and on several data sets, each once, beside training too.

What is done is known from the reports on disk, and what is half done from `partial/`: a job that was killed goes on
where it was. Nothing here writes to a run but reports, score files, `best.json` and curves for TensorBoard.
"""

import contextlib
import hashlib
import json
import logging
import pathlib
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from vidjax import checkpoint, config, data, evaluate, logs, report
from vidjax.data import builders
from vidjax.evaluate import checks, partial, results
from vidjax.evaluate.errors import EvaluationError, Stopped

log = logging.getLogger("vidjax")
PAUSE, POLL = 2.0, 0.5  # seconds between looks at whether training has ended, and for a new checkpoint
SEEN = ("clip", "short_side", "modalities", "flow", "audio", "text", "streams", "pixels", "interpolation", "buckets")
DRAWN = ("top1", "top5", "mean_class", "loss", "map", "auc", "ece")
VIEWS = ("clips", "crops", "resize", "size", "average", "protocol", "features")


class Job:
    """The evaluations of a run's checkpoints: a column for each protocol of each data set."""

    def __init__(self, cfg, workdir, *, out="", split="eval", protocols=(), sets=(), stop=lambda: False):
        """`protocols` are names, "own" for the config's views; `sets` PATH, NAME=PATH; `out` the reports' folder.

        `stop` says whether to end, called by all processes equally often. Raises EvaluationError, ValueError.
        """
        self.cfg, self.workdir, self.out, self.stop = cfg, workdir, pathlib.Path(out or workdir), stop
        self.main, self.mesh = jax.process_index() == 0, evaluate.mesh_of(cfg)
        if self.main:
            checks.check_writable(self.out)
        self.columns = [
            evaluate.with_protocol(with_set(evaluate.with_views(cfg, split=split, protocol=protocol), one))
            for one in sets or ("",)
            for protocol in [{"own": ""}.get(name, name) for name in protocols] or [cfg.eval.get("protocol", "")]
        ]
        if len(names := {suffix(cfg) for cfg in self.columns}) < len(self.columns):
            raise EvaluationError(
                f"{len(self.columns)} evaluations would have the {len(names)} names {', '.join(sorted(names))}: give "
                "each data set a name of its own with --data=NAME=PATH, and each protocol once."
            )
        self.sources = self.open(checkpoint.read_meta(workdir))
        self.evaluators, self.rows, self.failed, self.missed = {}, {}, {}, []
        self.closed, self.seen, self.taken, self.looked = set(), set(), set(), 0.0
        for number in range(len(self.columns)):
            self.mark(number)  # an earlier job may have ended before it did

    def open(self, meta):
        """The source of each column, its classes numbered as the net's."""
        opened, found = {}, []
        for cfg in self.columns:
            name, split = cfg.eval.get("set", ""), cfg.eval.get("split", "eval")
            if name not in opened:
                source = data.source(cfg.data, split)
                opened[name] = checks.adopted(source, meta) if name else source
                checks.check_classes(opened[name], meta, self.workdir)
                checks.check_labels(opened[name], meta)
            checks.note_short(cfg, opened[name])
            found.append(opened[name])
        return found

    def one(self, step=None):
        """Yields the reports of one checkpoint, the newest or `step`. Of several columns only what is not done."""
        step = checkpoint.read_meta(self.workdir, step)["step"]
        todo = [0] if len(self.columns) == 1 else self.todo(step)
        if not todo:
            log.info("step %d has all its reports in %s", step, self.out)
        yield from self.evaluate(step, todo)

    def newest(self, step=None):
        """The report of each column of the newest checkpoint, or of `step`: {suffix: path}."""
        step = checkpoint.read_meta(self.workdir, step)["step"]
        after = map(suffix, self.columns)
        return {name: self.out / f"report_{'_'.join(filter(None, (str(step), name)))}.json" for name in after}

    def all(self):
        """Yields the reports of every checkpoint that has none, in ascending order."""
        while (step := self.next()) is not None:
            yield from self.guarded(step)
        self.end()

    def follow(self, timeout):
        """Yields reports beside training as checkpoints come, until that of its last step.

        Raises EvaluationError after `timeout` seconds without a new checkpoint.
        """
        last = time.monotonic()
        while not self.over():
            if (step := self.next()) is not None:
                yield from self.guarded(step)
                last = time.monotonic()
                self.tell_lag()
            elif self.agreed(time.monotonic() - last > timeout):
                raise EvaluationError(
                    f"no new checkpoint in {self.workdir} for {timeout:g} s, and training is not at its last step: it "
                    "has stopped, or saves more rarely than --timeout=SECONDS; the same command goes on."
                )
            else:
                checkpoint.wait_for_new(self.workdir, max(self.closed, default=-1), PAUSE, POLL)
            if self.stop():
                raise Stopped(f"{len(self.closed)} checkpoints are done")
        self.end()

    def over(self):
        """Whether the checkpoint of training's last step is done."""
        try:
            steps = config.load(self.workdir)["steps"]  # anew: a run may be given more of them
        except (config.ConfigError, KeyError):
            steps = self.cfg.steps
        return self.agreed(max(self.closed, default=-1) >= steps)

    def end(self):
        """Says what was evaluated; EvaluationError names the checkpoints that could not be."""
        if self.main:
            for number in range(len(self.columns)):
                self.mark(number, tell=True)
        if self.missed:
            log.warning("deleted before they could be read: checkpoints %s", ", ".join(map(str, self.missed)))
        if self.failed:
            raise EvaluationError(f"{len(self.failed)} checkpoints have no report: {'; '.join(self.failed.values())}")

    def guarded(self, step):
        """Yields the reports of a step; one that is damaged is named and passed over, one that was deleted too."""
        try:
            for found in self.evaluate(step, self.todo(step)):
                self.draw(found)
                yield found
        except checkpoint.CheckpointError as error:
            if self.agreed(step in checkpoint.Checkpoints(self.workdir, write=False).steps()):
                log.error("%s", error)
                self.failed[step] = str(error)
            else:
                self.miss(step)
        self.closed.add(step)

    def draw(self, found):
        """Writes a report's figures to TensorBoard, each column as a run of its own beside training's: `tb/eval...`."""
        if self.main:
            name = "_".join(filter(None, ("eval", results.name_of(found | {"step": ""}).strip("_"))))
            scalars = {f"eval/{key}": found[key] for key in DRAWN if found[key] is not None}
            with contextlib.closing(logs.EventWriter(self.out / "tb" / name)) as writer:
                writer.write_scalars(found["step"], scalars)

    def evaluate(self, step, todo):
        """Yields the reports of some columns of a step."""
        if not todo:
            return
        where = evaluate.places(self.cfg, self.mesh)
        variables, meta, step = checkpoint.load_variables(self.workdir, step=step, shardings=where)
        weights = fingerprint(meta)
        self.taken.add(step)
        for number in todo:
            cfg, source = self.columns[number], self.sources[number]
            checks.check_classes(source, meta, self.workdir)
            if number not in self.evaluators:
                self.evaluators[number] = evaluate.evaluator(cfg, self.mesh, source, variables)
                self.evaluators[number].progress, self.evaluators[number].stop = self.look, self.stop
            name = "_".join(filter(None, (str(step), suffix(cfg))))
            rows, same = cfg.eval.batch_size, identity(cfg.to_dict(), source.name, len(source))
            key = partial.key_of(same, weights, source, rows)
            kept = partial.Partial(self.out, name, key, rows, len(source.classes), self.evaluators[number].layers)
            yield self.evaluators[number](variables, step, self.workdir, str(self.out), kept, weights)
            kept.remove()
            self.mark(number)

    def todo(self, step):
        """The numbers of the columns without a report of a step and of the weights that it has."""
        left = [True] * len(self.columns)
        try:
            known = ("", fingerprint(checkpoint.read_meta(self.workdir, step)))  # training's report does not say
        except checkpoint.CheckpointError:
            known = ()  # loading it will say what is wrong
        if self.main:
            done = lambda number: [row for row in self.reports(number) if row["step"] == step]  # noqa: E731
            left = [not any(row["weights"] in known for row in done(number)) for number in range(len(left))]
        if jax.process_count() > 1:
            left = multihost_utils.broadcast_one_to_all(np.array(left))
        return np.flatnonzero(left).tolist()

    def next(self):
        """The first step with a whole checkpoint and without all its reports; None if there is none."""
        self.look()
        while True:
            steps = checkpoint.Checkpoints(self.workdir, write=False).steps()
            step = checkpoint.from_main(min((s for s in steps if s not in self.closed), default=-1))
            if step < 0 or self.todo(step):
                return step if step >= 0 else None
            self.closed.add(step)

    def agreed(self, value):
        """Process 0's answer, on every process."""
        return checkpoint.from_main(bool(value))

    def look(self, _=""):
        """Notes which checkpoints there are, or were since the last look, and which this job can no longer read."""
        if not self.main or time.monotonic() < self.looked + POLL:
            return
        self.looked, there = time.monotonic(), set(checkpoint.Checkpoints(self.workdir, write=False).steps())
        every, last, newest = self.cfg.checkpoint_every, max(self.seen, default=None), max(there, default=0)
        if last is not None:
            self.seen |= set(range(last - last % every + every, newest, every))
        self.seen |= there
        for step in sorted(self.seen - there - self.closed - self.taken):
            self.miss(step)

    def miss(self, step):
        if step not in self.missed:
            self.missed.append(step)
            log.warning(
                "checkpoint %d was deleted before it could be read: training is faster than this job; keep more of "
                "them with --config.keep=N there, or give this job less to do",
                step,
            )

    def tell_lag(self):
        """Says how many checkpoints wait."""
        waiting = [s for s in checkpoint.Checkpoints(self.workdir, write=False).steps() if s not in self.closed]
        if self.main and len(waiting) > 1:
            log.info("%d checkpoints wait: %s", len(waiting), ", ".join(map(str, waiting)))

    def reports(self, number):
        """[{step, weights, top1, map}] of the reports on disk that are of a column's views and data."""
        cfg, source = self.columns[number], self.sources[number]
        same, found = identity(cfg.to_dict(), source.name, len(source)), []
        for path in self.out.glob(f"report_*{suffix(cfg)}.json"):
            stamp = path.stat().st_mtime_ns
            if self.rows.get(path, (0,))[0] != stamp:
                self.rows[path] = stamp, row_of(path)
            row = self.rows[path][1]
            if row and row["suffix"] == suffix(cfg) and row["identity"] == same:
                found.append(row)
        return sorted(found, key=lambda row: row["step"])

    def mark(self, number, tell=False):
        """Writes `best.json`: the step with the highest top-1, of several labels a video the highest map."""
        if not self.main:
            return
        figure = "map" if self.sources[number].multi_label else "top1"
        rows = [row for row in self.reports(number) if row[figure] is not None]
        if not rows:
            return
        best, after = max(rows, key=lambda row: (row[figure], row["step"])), suffix(self.columns[number])
        name = "_".join(filter(None, (str(best["step"]), after)))
        marked = {"step": best["step"], "figure": figure, "value": best[figure], "report": f"report_{name}.html"}
        marked |= {"steps": {row["step"]: row[figure] for row in rows}}
        report.save_json(self.out / ("_".join(filter(None, ("best", after))) + ".json"), marked)
        if tell:
            log.info("best of %d: step %d, %s %.1f %% (%s)", len(rows), best["step"], figure, 100 * best[figure], name)


def flags_of(values):
    """The arguments of a `Job` that the flags of `vidjax eval` say. Raises EvaluationError."""
    if sum([values.all, values.watch, values.step is not None]) > 1:
        raise EvaluationError("give one of --step=N, --all and --watch.")
    return {"out": values.out, "split": values.split, "protocols": values.protocol, "sets": values.data}


def run(values, stop):
    """Yields the reports that the flags of `vidjax eval` ask for, as they are made; `stop` as `Job`'s."""
    how = flags_of(values)
    job = Job(values.config, values.workdir, **how, stop=stop)
    if values.all:
        return job.all()
    return job.follow(values.timeout) if values.watch else job.one(values.step)


def await_first(workdir, timeout=None):
    """Waits for a run's first checkpoint; EvaluationError after `timeout` seconds, 21600 by default."""
    if checkpoint.wait_for_new(workdir, -1, 0) is None:
        log.info("waiting for the first checkpoint in %s", workdir)
        if checkpoint.wait_for_new(workdir, -1, float(timeout or 21600), POLL) is None:
            raise EvaluationError(f"no checkpoint came in {workdir} within {float(timeout or 21600):g} s.")


def with_set(cfg, given):
    """A config whose evaluation videos are those of `PATH` or `NAME=PATH`: its eval split, or all without one; or own.

    A NAME that is a data set's whose official files vidjax reads has them read so.
    """
    if given in ("", "own"):
        return cfg
    name, equals, path = given.partition("=")
    path = path if equals else given
    name = name if equals else pathlib.Path(path).stem
    cfg = evaluate.with_views(cfg, set=name)
    kind = name if name in builders.NAMES else "auto"
    with cfg.unlocked(), cfg.ignore_type():
        cfg.data.update({"path": path, "source": kind, "split": "", "eval_fraction": 0.0, "folds": 0, "motion": {}})
        cfg.data.update({"eval_path": path if kind == "auto" else "", "classes": (), "eval_groups": ()})
        cfg.data.update({"group_column": "", "group_pattern": "", "mixture": {}})
    return cfg


def suffix(cfg):
    """What of the files' names is a column's, without the step."""
    return report.name("", cfg.eval.get("protocol"), cfg.eval.get("split", "eval"), cfg.eval.get("set")).strip("_")


def identity(values, name, found):
    """What of a config changes an evaluation's figures, and of which data; as text."""
    section = data.DEFAULTS | values["data"]
    views = {key: values["eval"].get(key) or 0 for key in VIEWS}
    return json.dumps([values["model"], {key: section[key] for key in SEEN}, views, name, found], sort_keys=True)


def fingerprint(meta):
    """Twelve hexadecimal digits of a checkpoint's variables."""
    sums = {key: value for key, value in meta["checksums"].items() if key.startswith("variables/")}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:12]


def row_of(path):
    """What a job needs to know of a report on disk; None of a file that is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        name = results.name_of(found | {"step": ""}).strip("_")
        same = identity(found["config"], found["data"]["name"], found["data"]["found"])
        row = {"step": int(found["step"]), "suffix": name, "identity": same, "top1": found["top1"]}
        return row | {"weights": found.get("weights", ""), "map": found.get("map")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
