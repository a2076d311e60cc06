"""What a report says of the run that its weights are from: learning curves, and the config beside its recipe's."""

import json
import pathlib

from vidjax import config

CURVES = ("train/loss", "train/accuracy", "eval/top1")
POINTS = 1000  # of a curve, at most


def of(workdir, result, cfg):
    """{curves: {name: [[step, value], ...]}, changes: ["key: old -> new", ...], recipe: its file or ""}."""
    curves, recipe = read_curves(workdir), config.recipe(workdir)
    if "train/loss" in curves and not (result["views"]["protocol"] or result["data"]["set"]):
        points = dict(curves.get("eval/top1", ())) | of_jobs(workdir) | {result["step"]: result["top1"]}
        curves["eval/top1"] = [[step, points[step]] for step in sorted(points)]
    changes = config.changes(recipe["config"], cfg.to_dict()) if recipe else []
    return {"curves": curves, "changes": changes, "recipe": recipe["recipe"] if recipe else ""}


def read_curves(workdir):
    """The `CURVES` of a workdir's metrics.jsonl, up to POINTS of each, evenly taken; torn lines are passed over."""
    path, found = pathlib.Path(workdir) / "metrics.jsonl", {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            points = {name: [int(row["step"]), row[name]] for name in CURVES if row.get(name) is not None}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for name, point in points.items():
            found.setdefault(name, []).append(point)
    return {name: points[:: -(-len(points) // POINTS)] for name, points in found.items()}


def of_jobs(workdir):
    """{step: top-1} of a job's evaluations by a run's own views, from `best.json`."""
    try:
        found = json.loads((pathlib.Path(workdir) / "best.json").read_text(encoding="utf-8"))
        return {int(step): value for step, value in found["steps"].items()} if found["figure"] == "top1" else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
