"""What a data set's official files say, joined with the videos that are there; every family in this folder makes one.

Sides are `train`, `eval` (what the field reports on: the validation set, or the test set where there is no other) and
`test` (a further test set).
"""

import collections
import csv
import dataclasses
import difflib
import importlib.resources
import itertools
import logging
import os
import pathlib
import re

from vidjax.data import lists

MIRROR = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
ALL = ("", "all")
SIDES = ("train", "eval", "test")
LOG = logging.getLogger("vidjax")


@dataclasses.dataclass(frozen=True)
class Listing:
    """A data set: rows {id, path, label, sides, *extras}, labels numbers of `classes` (tuples where `multi_label`).

    `sides` maps a split's name ("" where there is one split) to a side. `expected` and `listed` count videos per
    (split, side), and under `ALL` together: officially, and in the annotation files at hand. `missing` are the listed
    ids without a video, `extras` the names of further keys of rows, `eval_word` what the field calls the side `eval`.
    """

    name: str
    classes: tuple
    rows: tuple
    expected: dict
    multi_label: bool = False
    flip_pairs: tuple = ()
    missing: tuple = ()
    listed: dict = dataclasses.field(default_factory=dict)
    extras: tuple = ()
    eval_word: str = "val"


def side(listing, split, name):
    """The rows of one side of one split, in the listing's order."""
    return tuple(row for row in listing.rows if row["sides"].get(split) == name)


def splits(listing):
    """The names of a listing's splits, in order; ("",) where there is one."""
    keys = [key for key in (*listing.expected, *listing.listed) if key != ALL]
    return tuple(dict.fromkeys(split for split, _ in keys)) or ("",)


def report(listing):
    """One line per (split, side), then the whole: how many videos are expected, listed, found and missing."""
    found = counts(listing.rows) | {ALL: len(listing.rows)}
    listed = listing.listed | {ALL: len(listing.rows) + len(listing.missing)}
    keys = sorted({*listing.expected, *listed} - {ALL}, key=lambda key: (len(key[0]), key[0], SIDES.index(key[1])))
    return "\n".join(_line(listing, key, listed.get(key, 0), found.get(key, 0)) for key in (*keys, ALL))


def _line(listing, key, listed, found):
    """`kinetics400 val: 19,796 expected, 19,404 found, 392 missing`; what is listed only where it is a third number."""
    (split, name), expected = key, listing.expected.get(key)
    where = [listing.name] + ([f"split {split}"] if split else [])
    where += [listing.eval_word if name == "eval" else name] if key != ALL else []
    parts = [f"{expected:,} expected"] if expected is not None else []
    parts += [f"{listed:,} listed"] if listed not in (expected, found) else []
    parts += [f"{found:,} found"] + ([f"{listed - found:,} missing"] if listed > found else [])
    return f"{' '.join(where)}: {', '.join(parts)}"


def counts(rows):
    """How many rows each (split, side) has."""
    return dict(collections.Counter(key for row in rows for key in row["sides"].items()))


def fill(blank, entries, there, key="id"):
    """A blank listing with the entries {id, label, sides, ...} whose `key` names a video in `there` {name: path}.

    An id that comes twice counts once, with a warning. ValueError if no video at all is found.
    """
    unique = {entry["id"]: entry for entry in reversed(entries)}
    if len(unique) < len(entries):
        LOG.warning("%s: %d ids are listed more than once: the first counts.", blank.name, len(entries) - len(unique))
    entries = sorted(unique.values(), key=lambda entry: entry["id"])
    rows = tuple(
        {"id": entry["id"], "path": there[entry[key]]}
        | {name: entry[name] for name in entry if name not in ("id", key)}
        for entry in entries
        if entry[key] in there
    )
    missing = tuple(entry["id"] for entry in entries if entry[key] not in there)
    if not rows:
        example = f" such as {missing[0]}" if missing else ""
        raise ValueError(f"{blank.name}: none of the {len(missing):,} listed videos{example} is in the folder")
    return dataclasses.replace(blank, rows=rows, missing=missing, listed=counts(entries))


def videos(root, parents=0):
    """{name: path} of every video below `root`; a name is the file's stem below so many of its parent folders.

    Of two files with one name the first path counts, one in a folder `replacement*` before all others.
    """
    found, doubles = {}, 0
    files = sorted(lists.walk(root), key=lambda file: ("/replacement" not in str(file)[len(str(root)) :], file))
    for file in files:
        name = "/".join([*file.parts[-1 - parents : -1], file.stem])
        doubles += name in found
        found.setdefault(name, str(file))
    if doubles:
        LOG.warning("%s: %d videos are there more than once: the first path of each counts.", root, doubles)
    return found


def look(root, names):
    """The first of the files `names` that is in `root` or one folder below, or None."""
    for folder, file in itertools.product(("", "annotations/", "labels/", "*/"), names):
        if found := sorted(root.glob(folder + file)):
            return found[0]
    return None


def find(dataset, root, names, source):
    """`look` for an annotation file that must be there; `source` tells in the ValueError where a user gets it."""
    if path := look(root, names):
        return path
    raise ValueError(f"{dataset}: no file {' or '.join(names)} in {root} or a folder in it: get it from {source}")


def find_all(dataset, root, sides, source):
    """{side: annotation file} for `sides` {side: names}; a side may be absent, but not all: then ValueError."""
    there = {side: path for side, names in sides.items() if (path := look(root, names))}
    return there or {side: find(dataset, root, names, source) for side, names in sides.items()}


def lines(path):
    """(line number, text) of each line of a text file that is not blank; ValueError where it is not UTF-8 text."""
    text = read(path)
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def read(path):
    """The text of a file; ValueError where it cannot be read or is not UTF-8."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def table(path, needed):
    """(line number, {column: text}) of a CSV file with a header; ValueError naming the file and line."""
    try:
        with pathlib.Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            columns = reader.fieldnames or ()
            for name in needed:
                if name not in columns:
                    raise ValueError(f"{path} has no column {name!r}, only {', '.join(map(repr, columns))}")
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    for line, row in rows:
        if None in row:
            raise ValueError(f"{path}, line {line}: more fields than columns; put what holds a comma in quotes")
    return rows


def number(classes, name, where):
    """The label of a class by name; ValueError, beginning with `where`, for a name that is none."""
    label = classes.get(name)
    if label is None:
        near = difflib.get_close_matches(name, classes, 1, 0)
        raise ValueError(f"{where}: {name!r} is no class" + (f"; did you mean {near[0]!r}?" if near else ""))
    return label


def numbers(classes):
    """{name: label} of classes in order."""
    return {name: label for label, name in enumerate(classes)}


def labels(name):
    """The official classes of a data set in the official order, shipped in vidjax/data/labels."""
    folder = importlib.resources.files("vidjax.data").joinpath("labels")
    file = folder.joinpath(f"{name}.txt")
    if not file.is_file():
        known = sorted(os.path.splitext(entry.name)[0] for entry in folder.iterdir())
        raise ValueError(f"no label list {name!r}; there are {', '.join(known)}")
    return tuple(file.read_text(encoding="utf-8").splitlines())


def mirrored(classes):
    """The pairs of classes whose names change into each other where left and right (or the turn) are swapped."""
    pairs = [(name, re.sub(r"[A-Za-z]+", _swap, name)) for name in classes]
    return tuple((one, other) for one, other in pairs if other in classes and classes.index(one) < classes.index(other))


def _swap(word):
    """Left for right and clockwise for counterclockwise, capital kept."""
    swapped = MIRROR.get(word[0].lower(), word[0])
    return swapped.capitalize() if word[0][0].isupper() else swapped
