"""Which videos, with which labels: a folder of classes, a CSV list, a data set's official files, shards that
`vidjax data build` made, or, where no path is given, the motion suite.

A source never decodes. Its index (`vidjax.data.index`) says how many frames a file has, or why it cannot be read.
"""

import collections
import csv
import dataclasses
import difflib
import hashlib
import logging
import os
import pathlib

from vidjax.data import builders, index, motion, records

EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".gif", ".wmv", ".flv", ".3gp")
EVAL_FOLDERS = ("eval", "val", "validation", "test")
SPLITS = {"train": "train", "training": "train"} | dict.fromkeys(EVAL_FOLDERS, "eval")
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
    "eval_groups": (),
    "motion": {},
}
MOTION_KEYS = ("out", *(key for key in motion.render.__kwdefaults__ if key != "progress"))
LOG = logging.getLogger("vidjax")


@dataclasses.dataclass(frozen=True)
class Videos:
    """A source: record i is {id, path, label, num_frames, fps, error}; labels index `classes`.

    In a `multi_label` source a label is a tuple of them. `flip_pairs` are the names that a mirror exchanges, `expected`
    is the official number of videos, 0 where there is none.
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

    @property
    def counts(self):
        """For reports: {expected, found, missing, unreadable, classes: {name: videos}}; `unreadable` has `missing`."""
        missing = sum(row["error"] == "no such file" for row in self.rows)
        labels = (row["label"] if self.multi_label else (row["label"],) for row in self.rows)
        per_class = collections.Counter(label for several in labels for label in several)
        return {
            "expected": self.expected or len(self.rows),
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
        return tuple(of_listing(listing, path, split, cfg["split"], progress) for split in splits)
    if not cfg["path"]:
        motion.render(**cfg["motion"], progress=progress)
        progress = None  # probing these takes a moment
    roots = {"train": path, "eval": path}
    if cfg["eval_path"]:
        roots["eval"] = pathlib.Path(cfg["eval_path"])
        listed, other = (listing(root, cfg | {"eval_fraction": 0}) for root in roots.values())
        listed["eval"] = other["eval"] or other["train"]
    else:
        listed = listing(path, cfg)
    return tuple(of_listed(listed, roots[split], split, cfg["classes"], progress) for split in splits)


def of_listed(listed, path, split, classes, progress):
    """The source of one split of {train: rows, eval: rows}, their labels numbered and their files probed."""
    rows, names = listed[split], {row["label"] for rows in listed.values() for row in rows}
    if not rows:
        other = sum(map(len, listed.values()))
        raise ValueError(f"{path} has no videos for the {split} split ({other} for the other)")
    classes = tuple(classes) or tuple(sorted(names))
    rows = [row | {"label": number(row, classes, path)} for row in rows]
    return Videos(probed(rows, path, progress), classes, path.stem)


def of_listing(listing, path, side, split, progress):
    """The source of one side of an official split; where there is no `eval` side, `test` takes its place."""
    names = sorted({name for row in listing.rows for name in row["sides"]} | {name for name, _ in listing.expected})
    split = split or names[0]
    if split not in names:
        raise ValueError(f"data.split: {listing.name} has no split {split!r}, only {', '.join(map(repr, names))}")
    rows = [row for row in listing.rows if row["sides"].get(split) == side]
    if not rows and side == "eval":
        side = "test"
        rows = [row for row in listing.rows if row["sides"].get(split) == side]
    if not rows:
        raise ValueError(f"{path} has no videos of {listing.name} for the {side} side of split {split!r}")
    known = (listing.multi_label, listing.flip_pairs, listing.expected.get((split, side), 0))
    return Videos(probed(rows, path, progress), listing.classes, f"{listing.name} {split} {side}".strip(), *known)


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
    return probed([row for rows in listing(path, cfg).values() for row in rows], path, progress)


def probe(path, progress=None):
    """The index rows of every video below a folder, whatever its layout, or in the column `path` of a CSV file."""
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        root, files = path, sorted(walk(path))
    elif path.suffix.lower() == ".csv":
        root, files = path.parent, [path.parent / entry["path"].strip() for _, entry in read_csv(path, ("path",))]
    else:
        raise ValueError(f"{path} is neither a folder nor a CSV file")
    if not files:
        raise ValueError(f"{path} has no videos ({', '.join(EXTENSIONS)})")
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
    if bool(cfg["group_column"]) != bool(cfg["eval_groups"]):
        raise ValueError("data.group_column and data.eval_groups go together: set both or neither")
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


def listing(path, cfg):
    """{train: rows, eval: rows} of one folder or CSV file, by `cfg`'s rules; labels are still names."""
    kind = cfg["source"]
    if kind == "csv" or (kind == "auto" and path.suffix.lower() == ".csv"):
        keys = ("path_column", "label_column", "split_column", "group_column", "eval_groups", "eval_fraction")
        return csv_list(path, **{key: cfg[key] for key in keys})
    return folder(path, eval_fraction=cfg["eval_fraction"])


def folder(path, *, eval_fraction=0.2):
    """Lists `path/<class>/**/<video>`: {train: [{id, path, label}], eval: [...]}.

    Where `path/train` and one of `path/{eval,val,validation,test}` exist they are the splits; otherwise `held_out`
    decides.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder: data.path names a folder of class folders or a CSV file")
    held = [name for name in EVAL_FOLDERS if (path / name).is_dir()]
    if (path / "train").is_dir() and held:
        rows = {"train": in_classes(path / "train", path), "eval": in_classes(path / held[0], path)}
    else:
        rows = {"all": in_classes(path, path)}
    if not any(rows.values()):
        raise ValueError(f"{path} has no videos in class folders ({', '.join(EXTENSIONS)})")
    return rows if "eval" in rows else held_out(rows["all"], eval_fraction)


def in_classes(path, root):
    """The videos below each folder in `path`, sorted, with that folder's name as label and ids relative to `root`."""
    rows = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        files = sorted(walk(entry))
        if not files:
            LOG.warning("The class folder %s has no videos: it is left out.", entry)
        rows += [{"id": index.file_id(file, root), "path": str(file), "label": entry.name} for file in files]
    return rows


def walk(top):
    """Video files below a folder, links followed, hidden files and folders left out."""
    for where, folders, files in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield pathlib.Path(where, name)


def held_out(rows, fraction):
    """Splits rows by a hash of their ids: a file stays on its side whatever comes or goes beside it.

    A class of two or more videos has at least one on each side, unless `fraction` is 0.
    """
    sides, by_class = {"train": [], "eval": []}, collections.defaultdict(list)
    for row in rows:
        digest = hashlib.sha256(row["id"].encode("utf-8", "surrogateescape")).digest()
        by_class[row["label"]].append((int.from_bytes(digest[:8]) / 2**64, row["id"]))
    held = set()
    for drawn in by_class.values():
        drawn.sort()
        count = sum(value < fraction for value, _ in drawn)
        if fraction and len(drawn) > 1:
            count = min(max(count, 1), len(drawn) - 1)
        held |= {name for _, name in drawn[:count]}
    for row in rows:
        sides["eval" if row["id"] in held else "train"].append(row)
    return sides


def csv_list(
    path,
    *,
    path_column="path",
    label_column="label",
    split_column="split",
    group_column="",
    eval_groups=(),
    eval_fraction=0.2,
):
    """Lists a CSV file of videos, one per row, paths relative to its folder: {train: [{id, path, label}], eval: [...]}.

    Rows whose `group_column` is in `eval_groups` are held out; else `split_column` says where a row belongs; else
    `held_out` does. A file that is not there stays in the list.
    """
    path = pathlib.Path(path)
    entries = read_csv(path, (path_column, label_column, group_column, split_column if split_column != "split" else ""))
    rows, sides, seen = [], {"train": [], "eval": []}, {}
    for line, entry in entries:
        file, label = entry[path_column].strip(), entry[label_column].strip()
        if not file or not label:
            raise ValueError(f"{path}, line {line}: column {label_column if file else path_column!r} is empty")
        file = pathlib.Path(os.path.normpath(path.parent / file))
        row = {"id": index.file_id(file, os.path.normpath(path.parent)), "path": str(file), "label": label}
        if seen.setdefault(row["id"], line) != line:
            raise ValueError(f"{path}, line {line}: {row['id']} is already listed in line {seen[row['id']]}")
        rows.append(row)
        if group_column:
            sides["eval" if entry[group_column].strip() in map(str, eval_groups) else "train"].append(row)
        elif split_column in entry:
            value = entry[split_column]
            side = SPLITS.get(value.strip().lower())
            if not side:
                raise ValueError(f"{path}, line {line}: column {split_column!r} says {value!r}, not train or eval")
            sides[side].append(row)
    if group_column and not sides["eval"]:
        there = sorted({entry[group_column].strip() for _, entry in entries})
        raise ValueError(
            f"{path}: column {group_column!r} has none of {', '.join(map(str, eval_groups))}, only {', '.join(there)}"
        )
    return sides if any(sides.values()) else held_out(rows, eval_fraction)


def read_csv(path, needed):
    """(line number, {column: text}) of each row; ValueError for a file without rows or the needed columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            columns = reader.fieldnames or ()
            entries = [(reader.line_num, entry) for entry in reader]
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    for name in filter(None, needed):
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r}, only {', '.join(map(repr, columns))}")
    if not entries:
        raise ValueError(f"{path} lists no videos")
    for line, entry in entries:
        if None in entry:
            raise ValueError(f"{path}, line {line}: more fields than columns; put names that hold a comma in quotes")
    return entries


def number(row, classes, where):
    """The label of a row as a number; ValueError for a name that is no class."""
    if row["label"] not in classes:
        raise ValueError(f"{where}: {row['id']} has label {row['label']!r}, which is not in data.classes")
    return classes.index(row["label"])


def flip_labels(classes, pairs):
    """The label of each class's mirror image, as a tuple of ints: `pairs` of names change places, others stay."""
    flipped, numbers = list(range(len(classes))), {name: number for number, name in enumerate(classes)}
    for one, other in pairs:
        for name in (one, other):
            if name not in numbers:
                raise ValueError(f"flip_pairs: no class {name!r}; classes are {', '.join(classes)}")
        flipped[numbers[one]], flipped[numbers[other]] = numbers[other], numbers[one]
    return tuple(flipped)
