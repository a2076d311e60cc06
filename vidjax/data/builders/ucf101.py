"""UCF101: ucfTrainTestlist/{trainlist,testlist}0{1,2,3}.txt and UCF-101/<Class>/v_<Class>_g01_c01.avi."""

import pathlib

from vidjax.data.builders import listings

SOURCE = "https://www.crcv.ucf.edu/data/UCF101.php (UCF101TrainTestSplits-RecognitionTask.zip)"
SIDES = {"train": ("trainlist0{}.txt", 9537, 9586, 9624), "eval": ("testlist0{}.txt", 3783, 3734, 3696)}


def blank(name):
    """13,320 videos in 25 groups, three splits; the counts are the lines of the official lists."""
    expected = {(str(k), side): counts[k] for k in (1, 2, 3) for side, counts in SIDES.items()}
    return listings.Listing(name, listings.labels(name), (), expected | {listings.ALL: 13320}, eval_word="test")


def listing(name, root):
    """Rows with ids `<Class>/v_<Class>_g01_c01.avi`; a list that is absent leaves its split out."""
    found = blank(name)
    classes, entries = listings.numbers(found.classes), {}
    files = {(str(k), side): (names[0].format(k),) for k in (1, 2, 3) for side, names in SIDES.items()}
    for (split, side), path in listings.find_all(name, root, files, SOURCE).items():
        for line, text in listings.lines(path):
            entry = parse(text, classes, f"{path}, line {line}")
            known = entries.setdefault(entry["id"], entry)["sides"]
            if known.setdefault(split, side) != side:
                raise ValueError(f"{path}, line {line}: {entry['id']} is already on the other side of split {split}")
    return listings.fill(found, entries.values(), listings.videos(root, parents=1), key="file")


def parse(text, classes, where):
    """One line, `Archery/v_Archery_g08_c01.avi 3` or without the number (from 1): an entry without sides."""
    file, *rest = text.split()
    folder, _, stem = file.removesuffix(".avi").rpartition("/")
    label = listings.number(classes, folder, where)
    if rest and rest != [str(label + 1)]:
        raise ValueError(f"{where}: {' '.join(rest)!r} is not the number of class {folder}, {label + 1}")
    return {"id": file, "file": f"{pathlib.PurePosixPath(folder).name}/{stem}", "label": label, "sides": {}}
