"""Kinetics-400, 600, 700 and 700-2020: CSV files label,youtube_id,time_start,time_end[,split] and folders of clips.

Clips are named `<youtube id>_000010_000020.mp4` and may lie flat (as CVDF hosts them) or in class folders, below any
folder; a clip in CVDF's `replacement_for_corrupted_k400` goes before the damaged one of that name.
"""

from vidjax.data.builders import listings

SOURCE = "https://github.com/cvdfoundation/kinetics-dataset (annotations) or DeepMind's {}.tar.gz"
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
# Training and validation clips that could be had when the field's copies were made: mmaction2's data tables.
# The annotation files list more (links vanish), so a report names both numbers.
EXPECTED = {
    "kinetics400": (240436, 19796),
    "kinetics600": (366016, 27780),
    "kinetics700": (522883, 33441),
    "kinetics700_2020": (535982, 33640),
}


def blank(name):
    """Classes are in alphabetical order, as everywhere in the field; 700-2020 has those of 700."""
    train, held = EXPECTED[name]
    classes = listings.labels(name.removesuffix("_2020"))
    return listings.Listing(name, classes, (), {("", "train"): train, ("", "eval"): held})


def listing(name, root):
    """Rows with ids `<youtube id>_<start>_<end>`; a test file without labels is left out."""
    found = blank(name)
    classes, entries = listings.numbers(found.classes), []
    number = name.removeprefix("kinetics")
    for side, path in listings.find_all(name, root, annotations(number), SOURCE.format(name)).items():
        if side == "test" and "label" not in listings.read(path).partition("\n")[0]:
            continue
        sides = {"": side}
        for line, row in listings.table(path, COLUMNS):
            where = f"{path}, line {line}"
            label = listings.number(classes, row["label"].strip(), where)
            entries.append({"id": clip(row, where), "label": label, "sides": sides})
    return listings.fill(found, entries, listings.videos(root))


def annotations(number):
    """{side: names an annotation file may have}, by DeepMind, CVDF or the ActivityNet crawler."""
    words = {"train": ("train",), "eval": ("validate", "val"), "test": ("test",)}
    styles = ("{}.csv", f"kinetics-{number}_{{}}.csv", f"kinetics_{number}_{{}}.csv", f"kinetics{number}_{{}}.csv")
    return {side: [style.format(word) for style in styles for word in words[side]] for side in words}


def clip(row, where):
    """A clip's name from its row: youtube id, first and last second in six digits."""
    try:
        start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
    except ValueError:
        raise ValueError(f"{where}: {row['time_start']!r} to {row['time_end']!r} are not seconds") from None
    return f"{row['youtube_id'].strip()}_{start:06d}_{end:06d}"
