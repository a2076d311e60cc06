"""Which videos, with which labels: a folder of classes, a CSV list, a data set's official files, shards that
`vidjax data build` made, or, where no path is given, the motion suite.

A source never decodes. Its index (`vidjax.data.index`) says how many frames a file has, or why it cannot be read.
"""

import collections
import dataclasses
import difflib
import logging
import os
import pathlib

from vidjax.data import builders, index, lists, motion, records

LOG = logging.getLogger("vidjax")
DEFAULTS = {
    "source": "auto",
    "path": "",
    "split": "",
    "eval_path": "",
    "eval_fraction": 0.2,
    "classes": (),
    "path_column": "path",
    "label_column": "label",
    "split_column": "split",
    "group_column": "",
    "group_pattern": "",
    "eval_groups": (),
    "folds": 0,
    "motion": {},
}
MOTION_KEYS = ("out", *(key for key in motion.render.__kwdefaults__ if key != "progress"))


@dataclasses.dataclass(frozen=True)
class Videos:
    """A source: record i is {id, path, label, num_frames, fps, error}; labels index `classes`.

    In a `multi_label` source a label is a tuple of them. `flip_pairs` are the names that a mirror exchanges, `expected`
    the number of videos by the data set's own count, 0 where none is known.
    """

    rows: tuple
    classes: tuple
    name: str = ""
    multi_label: bool = False
    flip_pairs: tuple = ()
    expected: int = 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return dict(self.rows[i])

    tasks = ()  # a mixture's: the data set of each class

    @property
    def counts(self):
        """For reports: {found, missing, unreadable, classes: {name: videos}}; `unreadable` includes `missing`."""
        missing = sum(row["error"] == "no such file" for row in self.rows)
        labels = (row["label"] if self.multi_label else (row["label"],) for row in self.rows)
        per_class = collections.Counter(label for several in labels for label in several)
        return {
            "found": len(self.rows) - missing,
            "missing": missing,
            "unreadable": sum(bool(row["error"]) for row in self.rows),
            "classes": {name: per_class[label] for label, name in enumerate(self.classes)},
        }


def build(cfg, split, progress=None):
    """The source of split `train` or `eval` that a config's section describes; see `build_all`."""
    return build_all(cfg, (split,), progress)[0]


def build_all(cfg, splits, progress=None):
    """The sources of some splits, of `train` and `eval`, that a config's section describes (keys: `DEFAULTS`).

    `motion` holds the arguments of `motion.render`: the suite is rendered, where it is absent, and taken if `path` is
    empty. Indexes the files; `progress(done, total)`. Raises ValueError, in one sentence, for what is lacking.
    """
    cfg = options(cfg)
    for split in splits:
        if split not in ("train", "eval"):
            raise ValueError(f"split must be train or eval, not {split!r}")
    path = pathlib.Path(cfg["path"] or cfg["motion"]["out"])
    if cfg["source"] == "records" or (cfg["source"] == "auto" and records.is_built(path)):
        return tuple(records.open(path, split, cfg["split"]) for split in splits)
    if cfg["source"] in builders.NAMES and cfg["source"] != "folder":
        listing = builders.listing(cfg["source"], path)
        LOG.info("%s", builders.report(listing))
        return tuple(of_listing(listing, path, split, cfg["split"], progress) for split in splits)
    if not cfg["path"]:
        motion.render(**cfg["motion"], progress=progress)
        progress = None  # probing these takes a moment
    roots = {"train": path, "eval": path}
    if cfg["eval_path"]:
        roots["eval"] = pathlib.Path(cfg["eval_path"])
        listed, other = (lists.listing(root, cfg | {"eval_fraction": 0, "folds": 0}) for root in roots.values())
        listed["eval"] = other["eval"] or other["train"]
    else:
        listed = lists.listing(path, cfg)
    return tuple(of_listed(listed, roots[split], split, cfg["classes"], progress) for split in splits)


def of_listed(listed, path, split, classes, progress):
    """The source of one split of {train: rows, eval: rows}, their labels numbered and their files probed."""
    rows, names = listed[split], {row["label"] for rows in listed.values() for row in rows}
    if not rows:
        other = sum(map(len, listed.values()))
        raise ValueError(f"{path} has no videos for the {split} split ({other} for the other)")
    classes = tuple(classes) or tuple(sorted(names))
    numbers = {name: i for i, name in enumerate(classes)}
    rows = [row | {"label": number(row, numbers, path)} for row in rows]
    return Videos(probed(rows, path, progress), classes, path.stem)


def of_listing(listing, path, side, split, progress):
    """The source of one side of an official split; where there is no `eval` side, `test` takes its place."""
    names = builders.splits(listing)
    split = split or names[0]
    if split not in names:
        raise ValueError(f"data.split: {listing.name} has no split {split!r}, only {', '.join(map(repr, names))}")
    rows = builders.side(listing, split, side)
    if not rows and side == "eval":
        side = "test"
        rows = builders.side(listing, split, side)
    if not rows:
        raise ValueError(f"{path} has no videos of {listing.name} for the {side} side of split {split!r}")
    rows = [{key: value for key, value in row.items() if key != "sides"} for row in rows]
    name = " ".join(filter(None, (listing.name, split, side)))
    about = name, listing.multi_label, listing.flip_pairs, listing.expected.get((split, side)) or 0
    return Videos(probed(rows, path, progress), listing.classes, *about)


def probed(rows, path, progress):
    """Rows with what their files hold: {num_frames, fps, error}."""
    root = path if path.is_dir() else path.parent
    found = index.build([row["path"] for row in rows], root, progress=progress)
    keys = ("num_frames", "fps", "error")
    return tuple(row | {key: entry[key] for key in keys} for row, entry in zip(rows, found, strict=True))


def everything(path, kind="auto", progress=None):
    """The records of every video of a data set, whatever its split; `kind` as `data.source`, `path` as `data.path`."""
    cfg, path = options({"source": kind, "path": str(path)}), pathlib.Path(path).expanduser()
    if kind == "records" or (kind == "auto" and records.is_built(path)):
        return records.everything(path)
    if kind in builders.NAMES and kind != "folder":
        return probed(builders.listing(kind, path).rows, path, progress)
    return probed([row for rows in lists.listing(path, cfg).values() for row in rows], path, progress)


def probe(path, progress=None):
    """The index rows of every video below a folder, whatever its layout, or in the column `path` of a CSV file."""
    root, files = lists.files(pathlib.Path(path).expanduser())
    return index.build(files, root, progress=progress)


def options(cfg):
    """A section with the defaults filled in; ValueError for an unknown key or a value that cannot be meant."""
    cfg = dict(cfg)
    for key in cfg:
        if key not in DEFAULTS:
            near = difflib.get_close_matches(key, DEFAULTS, 1, 0)[0]
            raise ValueError(f"data: no key {key!r}; did you mean {near!r}?")
    cfg = DEFAULTS | cfg
    if cfg["source"] not in (kinds := dict.fromkeys(("auto", "folder", "csv", "records", *builders.NAMES))):
        raise ValueError(f"data.source must be one of {', '.join(kinds)}, not {cfg['source']!r}")
    if not cfg["path"] and "out" not in cfg["motion"]:
        raise ValueError("data.path is empty: name a folder of class folders or a CSV file")
    if not 0 <= cfg["eval_fraction"] < 1:
        raise ValueError(f"data.eval_fraction must be at least 0 and below 1, not {cfg['eval_fraction']}")
    if cfg["eval_groups"] and not cfg["group_column"]:
        raise ValueError("data.eval_groups names groups of data.group_column: set both, or the column alone")
    for key in cfg["motion"]:
        if key not in MOTION_KEYS:
            raise ValueError(f"data.motion: no key {key!r}; keys are {', '.join(MOTION_KEYS)}")
    groups = cfg["eval_groups"]
    return cfg | {
        "path": os.path.expanduser(cfg["path"]),
        "eval_path": os.path.expanduser(cfg["eval_path"]),
        "eval_groups": (groups,) if isinstance(groups, str | int) else tuple(groups),
        "motion": dict(cfg["motion"]),
    }


def number(row, numbers, where):
    """The label of a row as a number; ValueError for a name that is no class."""
    if row["label"] not in numbers:
        raise ValueError(f"{where}: {row['id']} has label {row['label']!r}, which is not in data.classes")
    return numbers[row["label"]]


def flip_labels(classes, pairs):
    """The label of each class's mirror image, as a tuple of ints: `pairs` of names change places, others stay."""
    flipped, numbers = list(range(len(classes))), {name: number for number, name in enumerate(classes)}
    for one, other in pairs:
        for name in (one, other):
            if name not in numbers:
                raise ValueError(f"flip_pairs: no class {name!r}; classes are {', '.join(classes)}")
        flipped[numbers[one]], flipped[numbers[other]] = numbers[other], numbers[one]
    return tuple(flipped)
