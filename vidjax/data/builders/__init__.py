"""Data sets from the official files a user has downloaded: `listing` says which videos, labels and splits there are.

One file per family reads the annotations; `schema` holds the examples of built sets and `tfds` (slow to import) the
TFDS builders.
"""

import difflib
import pathlib

from vidjax.data.builders import folder
from vidjax.data.builders.listings import Listing, labels, report, side

__all__ = ["NAMES", "Listing", "blank", "labels", "listing", "report", "side"]

FAMILIES = {
    "folder": folder,
}
NAMES = tuple(FAMILIES)


def listing(dataset, source_dir):
    """The Listing of data set `dataset` (one of `NAMES`) from its official files and videos below `source_dir`.

    Videos that are not there are counted and named in `missing`. ValueError, in one sentence, for an annotation file
    that is absent or wrong.
    """
    root = pathlib.Path(source_dir).expanduser()
    family = _family(dataset)
    if not root.is_dir():
        raise ValueError(f"{dataset}: {root} is not a folder: name the one with the annotation files and the videos")
    return family.listing(dataset, root)


def blank(dataset):
    """The Listing of a data set without rows: what is known before any file is read."""
    return _family(dataset).blank(dataset)


def _family(dataset):
    if dataset not in FAMILIES:
        near = difflib.get_close_matches(dataset, NAMES, 1, 0)[0]
        raise ValueError(f"no data set {dataset!r}; did you mean {near!r}? There are {', '.join(NAMES)}")
    return FAMILIES[dataset]
