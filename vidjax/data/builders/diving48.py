"""Diving48: Diving48_V2_{train,test}.json, lists of {vid_name, label, start_frame, end_frame}, and rgb/<name>.mp4."""

import json

from vidjax.data.builders import listings

SOURCE = "http://www.svcl.ucsd.edu/projects/resound/dataset.html"
FILES = {"train": "Diving48_V2_train.json", "eval": "Diving48_V2_test.json"}


def blank(name):
    """Version 2 of the labels (October 2020): 15,027 and 1,970 clips, classes numbered by Diving48_vocab.json."""
    return listings.Listing(
        name, listings.labels(name), (), {("", "train"): 15027, ("", "eval"): 1970}, eval_word="test"
    )


def listing(name, root):
    """Rows with the clips' names as ids."""
    found, entries = blank(name), []
    for side, path in listings.find_all(name, root, {side: (file,) for side, file in FILES.items()}, SOURCE).items():
        try:
            pairs = [(str(row["vid_name"]), row["label"]) for row in json.loads(listings.read(path))]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a JSON list of {{vid_name, label}}: {error}") from error
        for key, label in pairs:
            if label not in range(len(found.classes)):
                raise ValueError(f"{path}, video {key}: {label!r} is no label from 0 to {len(found.classes) - 1}")
            entries.append({"id": key, "label": label, "sides": {"": side}})
    return listings.fill(found, entries, listings.videos(root))
