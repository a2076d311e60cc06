"""Data sets from the official files a user has downloaded: `listing` says which videos, labels and splits there are.

One file per family reads the annotations; `schema` holds the examples of built sets and `tfds` (slow to import) the
TFDS builders.
"""

import difflib
import os
import pathlib

from vidjax.data.builders import (
    charades,
    diving48,
    folder,
    hmdb51,
    kinetics,
    something,
    sports1m,
    ucf101,
    ut_interaction,
)
from vidjax.data.builders.listings import Listing, labels, report, side, splits

__all__ = ["NAMES", "Listing", "blank", "describe", "labels", "listing", "report", "side", "splits"]

FAMILIES = {
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    **dict.fromkeys(kinetics.EXPECTED, kinetics),
    **dict.fromkeys(something.EXPECTED, something),
    "sports1m": sports1m,
    "charades": charades,
    "diving48": diving48,
    "ut_interaction": ut_interaction,
    "folder": folder,
}
NAMES = tuple(FAMILIES)


def listing(dataset, source_dir):
    """The Listing of data set `dataset` (one of `NAMES`) from its official files and videos below `source_dir`.

    Paths are absolute. Videos that are not there are counted and named in `missing`. ValueError, in one sentence, for
    an annotation file that is absent or wrong.
    """
    root = pathlib.Path(os.path.abspath(os.path.expanduser(source_dir)))
    family = _family(dataset)
    if not root.is_dir():
        raise ValueError(f"{dataset}: {root} is not a folder: name the one with the annotation files and the videos")
    return family.listing(dataset, root)


def blank(dataset):
    """The Listing of a data set without rows: what is known before any file is read."""
    return _family(dataset).blank(dataset)


def describe(dataset):
    """What the official files of a data set are called and where a user gets them."""
    family = _family(dataset)
    return f"{family.__doc__.strip()}\n\nFrom {family.SOURCE.format(dataset)}"


def _family(dataset):
    if dataset not in FAMILIES:
        near = difflib.get_close_matches(dataset, NAMES, 1, 0)[0]
        raise ValueError(f"no data set {dataset!r}; did you mean {near!r}? There are {', '.join(NAMES)}")
    return FAMILIES[dataset]
