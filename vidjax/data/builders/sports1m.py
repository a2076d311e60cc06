"""Sports-1M: {train,test}_partition.txt with lines `<YouTube URL> <label>,<label>` and a folder of the user's videos.

Videos are named by their YouTube id, anywhere below the folder; links vanish, so most copies lack some.
"""

import re

from vidjax.data.builders import listings

SOURCE = "https://github.com/gtoderici/sports-1m-dataset (original/)"
FILES = {"train": "train_partition.txt", "eval": "test_partition.txt"}
LINE = re.compile(r"https?://(?:www\.)?youtube\.com/watch\?v=([\w-]+)\s+(\d+(?:,\d+)*)")


def blank(name):
    """1,133,158 links, labels numbered by labels.txt from 0 (the README of the official repository)."""
    return listings.Listing(
        name, listings.labels(name), (), {listings.ALL: 1133158}, multi_label=True, eval_word="test"
    )


def listing(name, root):
    """Rows with YouTube ids as ids and a tuple of labels each."""
    found, entries = blank(name), []
    names = {side: (file, f"original/{file}") for side, file in FILES.items()}
    for side, path in listings.find_all(name, root, names, SOURCE).items():
        sides = {"": side}
        for line, text in listings.lines(path):
            match = LINE.fullmatch(text)
            labels = tuple(sorted({int(number) for number in match[2].split(",")})) if match else ()
            if not labels or labels[-1] >= len(found.classes):
                raise ValueError(f"{path}, line {line}: {text!r} is not a YouTube URL and label numbers below 487")
            entries.append({"id": match[1], "label": labels, "sides": sides})
    return listings.fill(found, entries, listings.videos(root))
