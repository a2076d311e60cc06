"""What an evaluation has done so far: the outputs of each batch on disk, until its report is whole."""

import hashlib
import json
import os
import pathlib
import shutil
import zipfile

import jax
import numpy as np
from jax.experimental import multihost_utils

from vidjax import checkpoint
from vidjax.evaluate.results import save_arrays


class Partial:
    """The batches that are done of one evaluation: `<out>/partial/<name>/<key>/<batch>.npz`, each whole or not there.

    Process 0 writes and reads them; `width` is the number of classes, `rows` that of a batch's videos, `layers` what
    activations there are, (rows, D) of each.
    """

    def __init__(self, out, name, key, rows, width, layers=()):
        self.folder, self.rows, self.width = pathlib.Path(out) / "partial" / name / key, rows, width
        self.layers = layers
        self.main = jax.process_index() == 0

    def read(self):
        """([{scores, mask, clips, features} of batch 0, 1, ...], {index: error}) of those there without a gap."""
        found, errors = self._load() if self.main else ([], {})
        count = checkpoint.from_main(len(found))
        if count and jax.process_count() > 1:
            blank = {"scores": ((self.width,), np.float32), "mask": ((), np.float32), "clips": ((3,), np.int32)}
            for layer in self.layers:
                size = checkpoint.from_main(found[0][named(layer)].shape[1] if self.main else 0)
                blank[named(layer)] = ((size,), np.float32)
            zeros = {key: np.zeros((count, self.rows, *shape), kind) for key, (shape, kind) in blank.items()}
            mine = {key: np.stack([batch[key] for batch in found]) for key in blank} if self.main else zeros
            every = multihost_utils.broadcast_one_to_all(mine)
            found = [{key: np.asarray(every[key][i]) for key in blank} for i in range(count)]
        for batch in found if self.layers else ():
            batch["features"] = {layer: batch.pop(named(layer)) for layer in self.layers}
        return found, errors

    def _load(self):
        found, errors = [], {}
        while True:
            try:
                with open(self._file(len(found)), "rb") as file, np.load(file, allow_pickle=False) as arrays:
                    batch = {key: arrays[key] for key in ("scores", "mask", "clips", *map(named, self.layers))}
                    bad = json.loads(str(arrays["errors"]))
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                return found, errors
            if len(batch["scores"]) != self.rows:
                return found, errors
            found.append(batch)
            errors |= {int(i): why for i, why in bad.items()}

    def _file(self, number):
        return self.folder / f"{number:06d}.npz"

    def add(self, number, batch, errors):
        """Keeps a batch's outputs and {index: error}."""
        if self.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            features = {named(layer): x for layer, x in batch.get("features", {}).items()}
            arrays = {key: x for key, x in batch.items() if key != "features"} | features
            save_arrays(os.fspath(self._file(number)), arrays | {"errors": np.array(json.dumps(errors))})

    def remove(self):
        """Removes what is kept of this evaluation, and of others of the same name."""
        if self.main:
            shutil.rmtree(self.folder.parent, ignore_errors=True)
            if self.folder.parent.parent.is_dir() and not any(self.folder.parent.parent.iterdir()):
                self.folder.parent.parent.rmdir()


def named(layer):
    """The name of a layer's array beside the scores."""
    return f"features/{layer}"


def key_of(identity, weights, source, rows):
    """Sixteen hexadecimal digits that change with the config, the checkpoint, the videos and the batch's size."""
    records = (source[i] for i in range(len(source)))
    videos = [[record["id"], record["num_frames"], record["label"]] for record in records]
    return hashlib.sha256(json.dumps([identity, weights, videos, rows]).encode()).hexdigest()[:16]
