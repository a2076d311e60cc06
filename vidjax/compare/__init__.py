"""Reports side by side: their figures, and of each against the first McNemar's test, classes and changes of config."""

import json
import pathlib
import string

import numpy as np

from vidjax import config, fuse
from vidjax.evaluate import figures
from vidjax.report import words

ROUNDS = 10_000  # of the bootstrap of a difference


class CompareError(ValueError):
    """Reports that cannot stand side by side; the message names the file."""


def compare(paths):
    """Two reports or more, workdirs (their newest) or report_*.json -> {reports: [...], pairs: [...]}, as JSON has it.

    `reports` have `figures` {key: {value, interval}} with 95 % intervals; `pairs` are each other report beside the
    first, from `pair`. Raises CompareError for other data or classes, and for files that are no reports.
    """
    found = [load(path) for path in paths]
    if len(found) < 2:
        raise CompareError("a comparison needs two reports at least; give two workdirs or report_*.json files.")
    if len(found) > len(string.ascii_uppercase):
        raise CompareError(f"{len(found)} reports are too many for one comparison; give at most 26.")
    for other in found[1:]:
        check(found[0], other)
    letters = string.ascii_uppercase
    rows = [row(one, letter) for one, letter in zip(found, letters, strict=False)]
    return {"reports": rows, "pairs": [pair(found[0], b, "A", c) for b, c in zip(found[1:], letters[1:], strict=False)]}


def load(path):
    """A report with `file`, its path, of a workdir's newest evaluation, a report_*.json or the page beside one."""
    path = pathlib.Path(path)
    if path.is_dir():
        return newest(path)
    made = read(path.with_suffix(".json") if path.suffix == ".html" else path)
    return made | {"file": str(path.with_suffix(".json"))}


def newest(folder):
    """The report that was written last into a workdir, of evaluation videos where there is one."""
    files = sorted(folder.glob("report_*.json"), key=lambda file: (-file.stat().st_mtime, file.name))
    if not files:
        raise CompareError(f"there is no report in {folder}: run vidjax eval --workdir={folder}.")
    made = ((file, read(file)) for file in files)
    file, chosen = min(made, key=lambda one: one[1]["data"]["split"] != "eval")  # the first, so the newest, of equals
    return chosen | {"file": str(file)}


def read(file):
    """The report of a JSON file; CompareError if it is none."""
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        if not {"class_names", "top1", "data", "views", "config", "per_class"} <= made.keys():
            raise ValueError("it has no figures of one")
    except (OSError, ValueError, AttributeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise CompareError(f"{file} is no report of vidjax eval: {reason}.") from None
    return made


def check(a, b):
    """Raises CompareError unless two reports are of the same data set, split and classes."""
    for key, what in (("name", "data set"), ("split", "split")):
        if a["data"][key] != b["data"][key]:
            raise CompareError(
                f"{a['file']} is of the {what} {a['data'][key]}, {b['file']} of {b['data'][key]}: only figures of the "
                f"same videos can be compared."
            )
    old, new = a["class_names"], b["class_names"]
    if old != new:
        gone, added = sorted({*old} - {*new})[:3], sorted({*new} - {*old})[:3]
        how = f"only the first has {gone}, only the second {added}" if gone or added else "they stand in another order"
        raise CompareError(f"{a['file']} and {b['file']} have other classes: {how}.")


def row(made, letter):
    """What stands of a report in the comparison's head."""
    keys = [key for key in words.FIGURES if made.get(key) is not None]
    return {
        "letter": letter,
        "file": made["file"],
        "step": made["step"],
        "model": f"{made['model']['name']} {made['model']['variant']}",
        "data": made["data"]["name"],
        "split": made["data"]["split"],
        "videos": made["data"]["videos"],
        "classes": len(made["class_names"]),
        "views": words.views(made["views"]),
        "intervals": words.method(made),
        "several": words.multi_label(made),
        "created": made.get("created", ""),
        "figures": {key: {"value": made[key], "interval": words.interval(made, key)} for key in keys},
    }


def pair(a, b, first="A", second="B"):
    """What changed from report a to b: {first, second, changes, classes, same_views} | `paired` of their scores.

    Where one has no score file, or no video is in both, `why` says so instead.
    """
    kept = {
        "first": first,
        "second": second,
        "same_views": a["views"] == b["views"],
        "changes": config.changes(a["config"], b["config"]),
        "classes": classes(a, b),
    }
    files = [scores_file(one) for one in (a, b)]
    lost = [str(file) for file in files if not file.is_file()]
    if lost:
        return kept | {"why": f"{' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} missing"}
    try:
        found = [fuse.load(file) for file in files]
        ids, labels = fuse.align(found, files)
    except fuse.FusionError as error:
        return kept | {"why": str(error).rstrip(".")}
    hits = [right(one["scores"][one["rows"]], labels) for one in found]
    return kept | {"why": ""} | paired(*hits, ids, [len(one["ids"]) for one in found])


def scores_file(made):
    """The score file that an evaluation leaves beside its report."""
    file = pathlib.Path(made["file"])
    return file.with_name(f"scores_{file.stem.removeprefix('report_')}.npz")


def right(scores, labels):
    """Whether a video's top-1 is right, or one of its several labels: (N, C), (N,) or (N, C) -> (N,) bool."""
    return scores.argmax(1) == figures.counted(scores, labels)


def classes(a, b):
    """Per class of the reports' own tables: [{name, a: accuracy, b, a_count: [correct, videos], b_count, gain}]."""
    rows = []
    for old, new in zip(a["per_class"], b["per_class"], strict=True):
        both = None not in (old["accuracy"], new["accuracy"])
        counts = {"a_count": [old["correct"], old["videos"]], "b_count": [new["correct"], new["videos"]]}
        gain = new["accuracy"] - old["accuracy"] if both else None
        rows.append({"name": old["name"], "a": old["accuracy"], "b": new["accuracy"], "gain": gain} | counts)
    return rows


def paired(a, b, ids, of):
    """The videos that both have, by who is right: a, b (N,) bool, `ids` (N,), `of` the videos of each report.

    -> {common, of, both, a_only, b_only, neither, top1: [a, b], difference, interval, p, gained, lost: ids}.
    """
    n, gained, lost = len(a), ids[~a & b].tolist(), ids[a & ~b].tolist()
    return {
        "common": n,
        "of": of,
        "both": int((a & b).sum()),
        "a_only": len(lost),
        "b_only": len(gained),
        "neither": int((~a & ~b).sum()),
        "top1": [float(a.mean()), float(b.mean())],
        "difference": (len(gained) - len(lost)) / n,
        "interval": difference(len(lost), len(gained), n),
        "p": mcnemar(len(lost), len(gained)),
        "gained": gained,
        "lost": lost,
    }


def mcnemar(a_only, b_only):
    """McNemar's test, exact: the two-sided p of so uneven a split of the videos that one alone has right.

    By the binomial distribution at any number, without the chi-square approximation (McNemar 1947; Edwards 1948).
    """
    n, fewer = a_only + b_only, min(a_only, b_only)
    term = total = 1
    for k in range(fewer):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def difference(a_only, b_only, n, rounds=ROUNDS, seed=0):
    """The 95 % interval of the difference in top-1 over n videos, by a seeded bootstrap that draws them in pairs."""
    shares = [a_only / n, b_only / n, 1 - (a_only + b_only) / n]
    drawn = np.random.default_rng(seed).multinomial(n, np.maximum(shares, 0), rounds)
    low, high = np.percentile((drawn[:, 1] - drawn[:, 0]) / n, [2.5, 97.5])
    return [float(low), float(high)]
