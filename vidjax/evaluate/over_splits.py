"""Evaluation over the splits of a data set: of each split's run, then the mean over them and its spread."""

import json
import os
import pathlib

import jax

from vidjax import splits
from vidjax.evaluate import jobs
from vidjax.evaluate.errors import EvaluationError


def run(values, stop):
    """Yields the reports that the flags of `vidjax eval` ask for of the runs in `split_<name>/` of the workdir.

    Then writes `splits.json`, or `splits_<protocol>...` as reports are called, with mean and spread of each figure,
    into `--out` or the workdir. Of several evaluations of a split those that have a report are not done again.
    """
    how, found = jobs.flags_of(values), {}
    if values.all or values.watch:
        raise EvaluationError("--splits is of one checkpoint of each split: leave --all and --watch out.")
    for name in splits.parse(values.splits):
        cfg = values.config.copy_and_resolve_references()
        cfg.data.split = name
        out = os.path.join(values.out, f"split_{name}") if values.out else ""
        job = jobs.Job(cfg, os.path.join(values.workdir, f"split_{name}"), **how | {"out": out}, stop=stop)
        yield from job.one(values.step)
        for after, path in job.newest(values.step).items():
            found.setdefault(after, {})[name] = path
    for after, paths in found.items() if jax.process_index() == 0 else ():
        rows = {name: splits.row(json.loads(path.read_text(encoding="utf-8"))) for name, path in paths.items()}
        splits.save(rows, named(values, after), values.config)


def named(values, after):
    """The path of a summary of reports called `report_<step>_<after>`."""
    return pathlib.Path(values.out or values.workdir) / ("_".join(filter(None, ("splits", after))) + ".json")


def summaries(values):
    """Yields the headline of each summary in a job's folder, with its path."""
    for path in sorted(named(values, "").parent.glob("splits*.json")):
        yield f"{splits.headline(json.loads(path.read_text(encoding='utf-8')))}: {path}"
