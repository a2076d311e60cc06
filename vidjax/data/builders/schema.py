"""The examples of built data sets: encoded video bytes with their facts, as TFDS features in ArrayRecord.

Imports tensorflow_datasets (some two seconds), never TensorFlow.
"""

import numpy as np
import tensorflow_datasets as tfds

FACTS = {"num_frames": np.int64, "fps": np.float32, "width": np.int64, "height": np.int64}


def features(listing):
    """The FeaturesDict of a listing's examples: {id, video, label or labels, num_frames, fps, width, height, extras}.

    `video` is the encoded file; `labels` a sequence where the listing is multi-label; texts are bytes when read.
    """
    label = tfds.features.ClassLabel(names=listing.classes)
    key = "labels" if listing.multi_label else "label"
    extras = {
        "caption": tfds.features.Text(),
        "group": tfds.features.Text(),
        "intervals": tfds.features.Sequence({"label": label, "start": np.float32, "end": np.float32}),
    }
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "video": tfds.features.Tensor(shape=(), dtype=np.object_),
            key: tfds.features.Sequence(label) if listing.multi_label else label,
            **FACTS,
            **{name: extras[name] for name in listing.extras},
        }
    )


def example(listing, row, blob, facts):
    """The example of one row: `blob` the encoded video's bytes, `facts` what `video.probe` says of them."""
    label = {"labels": list(row["label"])} if listing.multi_label else {"label": row["label"]}
    extras = {name: row[name] for name in listing.extras}
    if "intervals" in extras:
        extras["intervals"] = [dict(zip(("label", "start", "end"), each, strict=True)) for each in row["intervals"]]
    return {"id": row["id"], "video": blob, **label, **{name: facts[name] for name in FACTS}, **extras}
