"""The 20BN sets: Something-Something v1 and v2, Jester; videos <number>.webm or folders <number>/00001.jpg.

Officially v2 comes as WebM files, v1 and Jester as folders of JPEG frames at 12 frames a second: a row's `path` is
then the folder, which `frames.encoded` turns into a video.
"""

import json

from vidjax.data.builders import frames, listings

SOURCE = "https://www.qualcomm.com/developer/software ({} data set: labels)"
# Published with the data: 108,499, 220,847 and 148,092 videos; the test sides come without labels.
EXPECTED = {
    "something_something_v1": (86017, 11522, 10960),
    "something_something_v2": (168913, 24777, 27157),
    "jester": (118562, 14787, 14743),
}
SIDES = {"train": "train", "eval": "validation", "test": "test"}


def blank(name):
    """Classes in the order of the official label file; mirror images of classes in `flip_pairs`."""
    classes = listings.labels(name)
    expected = {("", side): count for side, count in zip(SIDES, EXPECTED[name], strict=True)}
    extras = ("caption",) if name == "something_something_v2" else ()
    pairs = listings.mirrored(classes)
    return listings.Listing(name, classes, (), expected, flip_pairs=pairs, extras=extras)


def listing(name, root):
    """Rows with the official numbers as ids; the unlabelled test side is left out unless v2's answers are there."""
    found = blank(name)
    stem = name.replace("_v", "-v").replace("_", "-") if name != "jester" else "jester-v1"
    classes, entries, json_set = listings.numbers(found.classes), [], name.endswith("v2")
    names = {side: files(stem, word, json_set) for side, word in SIDES.items()}
    for side, path in listings.find_all(name, root, names, SOURCE.format(name)).items():
        rows = from_json(path) if path.suffix == ".json" else from_csv(path)
        entries += [
            {"id": key, "label": listings.number(classes, label, where), "sides": {"": side}}
            | ({"caption": caption} if json_set else {})
            for where, key, label, caption in rows
        ]
    return listings.fill(found, entries, frames.folders(root) or listings.videos(root))


def files(stem, word, json_set):
    """The names of one side's annotation file; the labelled test side of v2 is `test-answers.csv`."""
    if word == "test":
        return (f"{stem}-test-answers.csv", "test-answers.csv")
    return (f"{stem}-{word}.json", f"{word}.json") if json_set else (f"{stem}-{word}.csv",)


def from_json(path):
    """v2's list of {id, label: caption, template}: (where, id, class, caption); a template's brackets are dropped."""
    try:
        rows = json.loads(listings.read(path))
        triples = [(str(row["id"]), row["template"].replace("[", "").replace("]", ""), row["label"]) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON list of {{id, label, template}}: {error}") from error
    return [(f"{path}, video {key}", key, label, caption) for key, label, caption in triples]


def from_csv(path):
    """Lines `id;class`: (where, id, class, caption ""); ValueError for a line of another form."""
    rows = []
    for line, text in listings.lines(path):
        key, found, label = text.partition(";")
        if not (found and key and label):
            raise ValueError(f"{path}, line {line}: {text!r} is not a number and a class with ; between")
        rows.append((f"{path}, line {line}", key.strip(), label.strip(), ""))
    return rows
