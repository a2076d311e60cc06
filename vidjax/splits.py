"""One recipe over several splits of a data set: a run for each, then the mean over them and over all their videos."""

import json
import logging
import os
import pathlib

import numpy as np

from vidjax import report

log = logging.getLogger("vidjax")
FIGURES = ("top1", "top5", "mean_class", "loss", "map", "auc", "ece")  # of a report; those that it has


def parse(text):
    """The splits of `1,2,3` or `1-10`: -> ["1", "2", ...]; ValueError for what is neither."""
    names = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last):
            names += map(str, range(int(first), int(last) + 1))
        elif part and not dash:
            names.append(part)
        else:
            raise ValueError(f"--splits is a list such as 1,2,3 or 1-10, not {text!r}.")
    return names


def run(function, cfg, workdir, names):
    """Calls `function(cfg, workdir)` -> report for each split in `split_<name>/` of a workdir; -> their summary.

    A split whose report is already there is not done again. Returns None if one was stopped before its end. Writes
    `splits.json`: that of `summarise`, {config, splits: {name: {videos, top1, ...}}}.
    """
    found = {}
    for name in names:
        folder = os.path.join(workdir, f"split_{name}")
        done = os.path.join(folder, "split.json")
        if os.path.exists(done):
            with open(done, encoding="utf-8") as file:
                found[name] = json.load(file)
            continue
        own = cfg.copy_and_resolve_references()
        own.data.split = name
        result = function(own, folder)
        if result is None:
            return None
        found[name] = row(result)
        os.makedirs(folder, exist_ok=True)
        report.save_json(pathlib.Path(done), found[name])
        log.info("split %s: top-1 %.1f %% of %d videos", name, 100 * found[name]["top1"], found[name]["videos"])
    return save(found, pathlib.Path(workdir) / "splits.json", cfg)


def row(result):
    """A report's figures and its number of videos."""
    known = {name: float(result[name]) for name in FIGURES if result.get(name) is not None}
    return known | {"videos": result["data"]["videos"]}


def summarise(found):
    """{split: row} -> {top1: mean of the splits, spread: their standard deviation, pooled, videos, figures}.

    `figures` has mean and spread, of n - 1 degrees of freedom, of each of `FIGURES` that all splits have.
    """
    top1, videos = (np.array([row[key] for row in found.values()]) for key in ("top1", "videos"))
    known = [name for name in FIGURES if all(name in row for row in found.values())]
    figures = {}
    for name in known:
        values = np.array([row[name] for row in found.values()])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        figures[name] = {"mean": float(values.mean()), "spread": spread}
    return {
        "top1": figures["top1"]["mean"],
        "spread": figures["top1"]["spread"],
        "pooled": float((top1 * videos).sum() / videos.sum()),
        "videos": int(videos.sum()),
        "figures": figures,
    }


def save(found, path, cfg):
    """Writes the summary of {split: row} to a file, with the rows and the config of all splits; returns it."""
    summary = summarise(found) | {"config": cfg.to_dict(), "splits": found}
    report.save_json(pathlib.Path(path), summary)
    return summary


def headline(summary):
    """A summary in one line."""
    n = len(summary["splits"])
    return (
        f"top-1 {summary['top1']:.1%} (mean of {n} splits, standard deviation {summary['spread']:.1%}), "
        f"{summary['pooled']:.1%} of all {summary['videos']} held-out videos"
    )
