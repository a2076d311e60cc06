"""Lists of videos with labels, before any file is opened: a folder of classes, a CSV file, and their two sides."""

import csv
import logging
import os
import pathlib

from vidjax.data import holdout, index

EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".gif", ".wmv", ".flv", ".3gp")
EVAL_FOLDERS = ("eval", "val", "validation", "test")
SPLITS = {"train": "train", "training": "train"} | dict.fromkeys(EVAL_FOLDERS, "eval")
LOG = logging.getLogger("vidjax")


def listing(path, cfg):
    """{train: rows, eval: rows} of one folder or CSV file, by `cfg`'s rules; labels are still names."""
    kind, names = cfg["source"], {"fraction": "eval_fraction", "pattern": "group_pattern", "folds": "folds"}
    held = {name: cfg[key] for name, key in names.items()} | {"split": cfg["split"]}
    if kind == "csv" or (kind == "auto" and path.suffix.lower() == ".csv"):
        keys = ("path_column", "label_column", "split_column", "group_column", "eval_groups")
        return csv_list(path, **{key: cfg[key] for key in keys}, held=held)
    return folder(path, held=held)


def folder(path, *, held=None):
    """Lists `path/<class>/**/<video>`: {train: [{id, path, label}], eval: [...]}.

    Where `path/train` and one of `path/{eval,val,validation,test}` exist they are the splits; otherwise
    `holdout.held_out` decides, by the arguments `held`.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder: data.path names a folder of class folders or a CSV file")
    other = [name for name in EVAL_FOLDERS if (path / name).is_dir()]
    if (path / "train").is_dir() and other:
        rows = {"train": in_classes(path / "train", path), "eval": in_classes(path / other[0], path)}
    else:
        rows = {"all": in_classes(path, path)}
    if not any(rows.values()):
        raise ValueError(f"{path} has no videos in class folders ({', '.join(EXTENSIONS)})")
    return rows if "eval" in rows else holdout.held_out(rows["all"], **held or {})


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


def files(path):
    """(root, video files) of a folder, whatever its layout, or of a CSV file's column `path`. ValueError."""
    if path.is_dir():
        root, found = path, sorted(walk(path))
    elif path.suffix.lower() == ".csv":
        root, found = path.parent, [path.parent / entry["path"].strip() for _, entry in read_csv(path, ("path",))]
    else:
        raise ValueError(f"{path} is neither a folder nor a CSV file")
    if not found:
        raise ValueError(f"{path} has no videos ({', '.join(EXTENSIONS)})")
    return root, found


def csv_list(
    path,
    *,
    path_column="path",
    label_column="label",
    split_column="split",
    group_column="",
    eval_groups=(),
    held=None,
):
    """Lists a CSV file of videos, one per row, paths relative to its folder: {train: [{id, path, label}], eval: [...]}.

    Rows whose `group_column` is in `eval_groups` are held out; else `split_column` says where a row belongs; else
    `holdout.held_out` does, by the arguments `held`, and keeps the groups of `group_column` whole. A file that is not
    there stays in the list; a column `caption` stays with its row.
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
        row |= {"caption": entry["caption"]} if "caption" in entry else {}
        if seen.setdefault(row["id"], line) != line:
            raise ValueError(f"{path}, line {line}: {row['id']} is already listed in line {seen[row['id']]}")
        rows.append(row)
        row |= {"group": entry[group_column].strip()} if group_column else {}
        if eval_groups:
            sides["eval" if entry[group_column].strip() in map(str, eval_groups) else "train"].append(row)
        elif split_column in entry:
            value = entry[split_column]
            side = SPLITS.get(value.strip().lower())
            if not side:
                raise ValueError(f"{path}, line {line}: column {split_column!r} says {value!r}, not train or eval")
            sides[side].append(row)
    if eval_groups and not sides["eval"]:
        there = sorted({entry[group_column].strip() for _, entry in entries})
        raise ValueError(
            f"{path}: column {group_column!r} has none of {', '.join(map(str, eval_groups))}, only {', '.join(there)}"
        )
    return sides if any(sides.values()) else holdout.held_out(rows, **held or {})


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
