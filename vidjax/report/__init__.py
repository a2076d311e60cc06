"""The report of an evaluation: the same numbers as `report_<step>.json` and as one self-contained HTML page."""

import functools
import json
import math
import os
import pathlib

import jinja2
import numpy as np

from vidjax import progress
from vidjax.report import charts, features, pictures, words
from vidjax.report import confusion as cells
from vidjax.report.words import views

__all__ = ["CELLS", "name", "page", "render", "save_json", "save_text", "views", "write"]

CELLS = 20  # up to so many classes the confusion matrix is a table with its counts; above, a picture
SHOWN = {"pairs": 10, "pairs of many": 20, "mistakes": 24}  # what the page holds at most of each


def write(workdir, report, strips):
    """Writes `report_<step>.json` and `.html` into `workdir`, each whole or not at all -> path of the page.

    A report by a named protocol is `report_<step>_<protocol>`.
    `report` is the dict that vidjax.evaluate builds; `strips` maps a video's id to uint8 (n, H, W, 3) frames.
    """
    report = _plain(report)
    called = name(report["step"], report["views"].get("protocol"), report["data"]["split"], report["data"].get("set"))
    path = pathlib.Path(workdir) / f"report_{called}.html"
    save_text(path, page(report, strips))
    save_json(path.with_suffix(".json"), report)  # last: where it is, the rest is
    return path


def save_json(path, tree):
    """Writes nested figures as JSON, a line per key, whole or not at all."""
    keys = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in _plain(tree).items()]
    save_text(path, "{\n  " + ",\n  ".join(keys) + "\n}\n")


def name(step, protocol="", split="eval", other=""):
    """What files of an evaluation are called: `<step>`, then `_<protocol>`, `_<split>` and `_<data set>` if unusual.

    `other` is the name of a data set that is not the run's own.
    """
    return "_".join([str(step), *filter(None, (protocol, split if split != "eval" else "", other))])


def page(report, strips):
    """A report as HTML that needs neither network nor other files -> str. Keys of newer reports may be missing."""
    report = _plain(report)
    names, confusion = report["class_names"], np.asarray(report["confusion"], np.int64)
    given = {"r": report, "counts": _counts(report), "as_table": len(names) <= CELLS}
    given["by_precision"] = _by_precision(report)
    given |= _said(report) | _matrix(confusion, names)
    given["curves"] = charts.curves(report.get("curves"), report["step"])
    given["calibration"] = charts.calibration(report.get("calibration"))
    given["features"] = features.scatter(report.get("feature_map"), names)
    given["dimensions"] = features.dimensions(report.get("pca_curve"))
    return render("page.html", report | given | {"cards": _cards(report["mistakes"], names, strips)})


def render(template, given):
    """A template of this folder with its values as HTML -> str."""
    return _templates().get_template(template).render(given)


def _said(report):
    """What the page says in words: the head's figures, views, settings and what changed of the recipe."""
    return {
        "stats": words.headline(report),
        "several": words.multi_label(report),
        "method": words.method(report),
        "views": views(report["views"]),
        "short": words.views_short(report["views"]),
        "views_rate": (report.get("throughput") or {}).get("views_per_second"),
        "settings": words.settings(report["config"]),
        "changed": [words.change(line) for line in report.get("changes") or ()],
    }


def _matrix(confusion, names):
    orders = cells.orders(confusion, names)
    return {
        "pairs": cells.confused(confusion)[: SHOWN["pairs" if len(names) <= CELLS else "pairs of many"]],
        "heat": pictures.heat(confusion),
        "shares": cells.shares(confusion).tolist(),
        "orders": orders,
        "sparse": {"names": names, "rows": cells.sparse(confusion), "orders": list(orders.values())},
    }


def _counts(report):
    """Per class its row of the table: the report's own, with the videos found and `bar`, the figure that is drawn."""
    bar = "average_precision" if _by_precision(report) else "accuracy"
    found = report["data"]["per_class"]
    return [row | {"found": n, "bar": row[bar]} for row, n in zip(report["per_class"], found, strict=True)]


def _by_precision(report):
    """Whether classes are shown by their average precision: of videos with several labels, in reports that have it."""
    return words.multi_label(report) and all("average_precision" in row for row in report["per_class"])


def _cards(mistakes, names, strips):
    """The mistakes to show, surest first, each with its filmstrip and clip as data URIs."""
    surest = sorted(mistakes, key=lambda mistake: -mistake["probability"])[: SHOWN["mistakes"]]
    cards = []
    for mistake in surest:
        video = strips.get(mistake["id"], ())
        said = {key: _named(mistake[key], names) for key in ("label", "predicted")}
        cards.append(mistake | said | {"frames": pictures.strip(video), "clip": pictures.clip(video), "why": ""})
    return cards


def _named(label, names):
    """A label as words: a name, the index of one, or a list of either."""
    if isinstance(label, list):
        return ", ".join(_named(one, names) for one in label)
    return names[label] if isinstance(label, int) else label


def _plain(tree):
    """NumPy and JAX numbers become Python's, tuples lists, and what is not finite None, for JSON knows no NaN."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    if hasattr(tree, "tolist"):
        return _plain(tree.tolist())
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def save_text(path, text):
    """Writes a text whole or not at all; OSError, in one sentence, where it cannot be written."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        if fresh.is_file():
            fresh.unlink()
        reason = error.strerror.lower() if error.strerror else error
        raise OSError(f"Cannot write {path}: {reason}; make its folder writable, or free some space.") from error


@functools.cache
def _templates():
    loader = jinja2.PackageLoader("vidjax", "report")
    env = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {"percent": words.percent, "duration": progress.duration, "amount": progress.amount}
    return env
