"""Which files are meant: paths, folders, patterns and lists, and what their outputs are called."""

import glob
import os
import pathlib

from vidjax.data import lists


def find(paths, listing=""):
    """The video files that paths and a `listing` name, each once: -> {path: the name of its outputs, no ending}.

    A file stands for itself, a folder for every video below it, sorted, a pattern (with * ? [) for the videos that it
    matches. A listing is a text file with a path on each line, seen from its folder; # begins a comment. Files of a
    folder keep their subfolders in the name, and a name that is taken gets a number. FileNotFoundError.
    """
    found = {}
    for path in map(str, paths):
        if not os.path.exists(path) and glob.has_magic(path):
            for match in matches(path):
                add(found, match)
        elif os.path.exists(path):
            add(found, path)
        else:
            raise FileNotFoundError(f"{path} does not exist; give a video file, a folder of videos or a pattern.")
    for path in listed(listing) if listing else ():
        add(found, path)
    return found


def add(found, path):
    """Adds a file, or the videos of a folder, with their names."""
    seen, taken = {os.path.realpath(known) for known in found}, set(found.values())
    if not os.path.isdir(path):
        each = {path: os.path.basename(path)}
    else:
        each = {str(file): os.path.relpath(file, path) for file in sorted(lists.walk(path))}
        if not each:
            raise FileNotFoundError(f"{path} holds no video file.")
    for file, name in each.items():
        if os.path.realpath(file) in seen:
            continue
        stem = name = os.path.splitext(name)[0]
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        found[file] = name


def matches(pattern):
    """The folders and video files that a pattern matches, sorted. FileNotFoundError if there are none."""
    found = sorted(glob.glob(pattern, recursive=True))
    found = [p for p in found if os.path.isdir(p) or os.path.splitext(p)[1].lower() in lists.EXTENSIONS]
    if not found:
        raise FileNotFoundError(f"{pattern} matches no video file ({', '.join(lists.EXTENSIONS)}).")
    inside = [p for p in found if not os.path.isdir(p)]
    return inside or found


def listed(listing):
    """The paths that a text file lists, seen from its folder. FileNotFoundError; ValueError if it lists none."""
    try:
        text = pathlib.Path(listing).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileNotFoundError(f"the list {listing} cannot be read: {error}.") from error
    lines = [line.strip() for line in text.splitlines()]
    paths = [os.path.join(os.path.dirname(listing), line) for line in lines if line and not line.startswith("#")]
    if not paths:
        raise ValueError(f"{listing} lists no videos; write a path on each line.")
    return paths
