"""Any folder of class folders as a listing."""

import collections

from vidjax.data import lists
from vidjax.data.builders import listings

SOURCE = "your own videos"


def blank(name):
    """A folder's classes are known only once it is read."""
    return listings.Listing(name, (), (), {})


def listing(name, root):
    """`root/<class>/**/<video>`, with the sides that `lists.folder` gives."""
    sides = lists.folder(root)
    classes = listings.numbers(sorted({row["label"] for rows in sides.values() for row in rows}))
    rows = [row | {"label": classes[row["label"]], "sides": {"": side}} for side, rows in sides.items() for row in rows]
    rows = tuple(sorted(rows, key=lambda row: row["id"]))
    listed = dict(collections.Counter(("", row["sides"][""]) for row in rows))
    return listings.Listing(name, tuple(classes), rows, {}, listed=listed)
