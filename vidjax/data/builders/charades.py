"""Charades: Charades_v1_{train,test}.csv whose `actions` are `c092 11.90 21.20;c147 0.00 12.60`; <id>.mp4."""

import re

from vidjax.data.builders import listings

SOURCE = "https://prior.allenai.org/projects/charades (Charades.zip)"
FILES = {"train": "Charades_v1_train.csv", "eval": "Charades_v1_test.csv"}
ACTION = re.compile(r"c(\d{3}) ([\d.]+) ([\d.]+)")


def blank(name):
    """9,848 videos (Sigurdsson 2016), 157 classes numbered c000 to c156."""
    expected = {("", "train"): 7985, ("", "eval"): 1863}
    return listings.Listing(
        name, listings.labels(name), (), expected, multi_label=True, extras=("intervals",), eval_word="test"
    )


def listing(name, root):
    """Rows with `intervals` ((label, start, end), ...) in seconds and as label the classes in them, maybe none."""
    found, entries = blank(name), []
    names = {side: (file, f"Charades/{file}") for side, file in FILES.items()}
    for side, path in listings.find_all(name, root, names, SOURCE).items():
        for line, row in listings.table(path, ("id", "actions")):
            spans = intervals(row["actions"], len(found.classes), f"{path}, line {line}")
            label = tuple(sorted({number for number, _, _ in spans}))
            entries.append({"id": row["id"], "label": label, "sides": {"": side}, "intervals": spans})
    return listings.fill(found, entries, listings.videos(root))


def intervals(text, classes, where):
    """The actions of one video in the file's order: ((label, start, end), ...)."""
    spans = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = ACTION.fullmatch(part)
        try:
            span = (int(match[1]), float(match[2]), float(match[3])) if match else None
        except ValueError:
            span = None
        if span is None or span[0] >= classes:
            raise ValueError(
                f"{where}: action {part!r} is not of the form c092 11.90 21.20 with a class below {classes}"
            )
        spans.append(span)
    return tuple(spans)
