"""HMDB51: <class>_test_split{1,2,3}.txt with lines `<video>.avi 1` (1 train, 2 test, 0 neither) and <class>/<video>."""

from vidjax.data.builders import listings

SOURCE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database (test_train_splits.rar)"
SIDES = {"0": None, "1": "train", "2": "eval"}


def blank(name):
    """6,766 videos; each of three splits has 70 training and 30 test videos of every class (Kuehne 2011)."""
    expected = {(split, side): count * 51 for split in "123" for side, count in (("train", 70), ("eval", 30))}
    return listings.Listing(name, listings.labels(name), (), expected | {listings.ALL: 6766}, eval_word="test")


def listing(name, root):
    """Rows with ids `<class>/<video>.avi`; a video that no split uses has empty `sides`."""
    found = blank(name)
    entries, first = {}, f"{found.classes[0]}_test_split1.txt"
    folder = listings.find(name, root, [first, f"testTrainMulti_7030_splits/{first}"], SOURCE).parent
    for label, split in ((label, split) for label in range(len(found.classes)) for split in "123"):
        path = folder / f"{found.classes[label]}_test_split{split}.txt"
        for line, text in listings.lines(path):
            file, _, use = text.rpartition(" ")
            if use not in SIDES or not file:
                raise ValueError(f"{path}, line {line}: {text!r} is not a video's name and 0, 1 or 2")
            key = f"{found.classes[label]}/{file.strip()}"
            entry = entries.setdefault(key, {"id": key, "file": key.removesuffix(".avi"), "label": label, "sides": {}})
            if SIDES[use]:
                entry["sides"][split] = SIDES[use]
    return listings.fill(found, entries.values(), listings.videos(root, parents=1), key="file")
