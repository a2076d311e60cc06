"""Which videos of a list without splits are held out: whole groups, by a hash, the same ones whatever comes or goes."""

import collections
import hashlib
import re


def held_out(rows, *, fraction=0.2, pattern="", folds=0, split=""):
    """Splits rows {id, label, (group)} into {train, eval}; no group is on both sides.

    A row's group is its `group`, or what `pattern`, a regex, finds in its id (its first parenthesis, if it has one);
    else each video is its own. Held out are the groups whose hash is below `fraction`, at least one of each class and
    not all of its; or, with `folds`, every so-manieth group of each class, `split` saying which fold (from "1").
    ValueError for a pattern that is in no id and for a split that is no fold.
    """
    units = {row["id"]: group_of(row, pattern) for row in rows}
    by_class = collections.defaultdict(set)
    for row in rows:
        by_class[row["label"]].add(units[row["id"]])
    ordered = {label: sorted(groups, key=place) for label, groups in by_class.items()}
    held = fold(ordered, folds, split) if folds else share(ordered, fraction)
    sides = {"train": [], "eval": []}
    for row in rows:
        sides["eval" if units[row["id"]] in held else "train"].append(row)
    return sides


def group_of(row, pattern):
    """The group of one row; ValueError where the pattern finds none."""
    if row.get("group"):
        return row["group"]
    if not pattern:
        return row["id"]
    found = re.search(pattern, row["id"])
    if not found:
        raise ValueError(
            f"data.group_pattern {pattern!r} finds nothing in {row['id']}; it must find every video's group"
        )
    return found.group(found.re.groups and 1)


def place(group):
    """Where in [0, 1) the hash of a group's name lies."""
    digest = hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def share(ordered, fraction):
    """The groups, {class: sorted by hash}, whose hash is below a share of 1; of each class one at least, not all."""
    held, kept = set(), set()
    for groups in ordered.values():
        count = sum(place(group) < fraction for group in groups)
        if fraction and len(groups) > 1:
            count = min(max(count, 1), len(groups) - 1)
        held |= {*groups[:count]} - kept
        kept |= {*groups[count:]} - held
    return held


def fold(ordered, folds, split):
    """The groups of one of so many folds; a group of several classes counts with the first."""
    if split not in map(str, range(1, folds + 1)):
        raise ValueError(f"data.folds is {folds}, so data.split is one of 1 to {folds}, not {split!r}")
    number = {}
    for groups in ordered.values():
        for i, group in enumerate(group for group in groups if group not in number):
            number[group] = str(i % folds + 1)
    return {group for group, own in number.items() if own == split}
