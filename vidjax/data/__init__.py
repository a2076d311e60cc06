"""The input pipeline in one reading: source -> frame indices -> frames -> transform -> batches.

Every stage is random access and every random choice comes from the element's index, so global batch n is a pure
function of (seed, n) and the data cursor of a run is its step. A video that cannot be read becomes an all-zero clip
with `mask` 0 and the reason in `error`; nothing is ever dropped.
"""

import dataclasses

import grain
import numpy as np
from absl import flags

from vidjax.data import clips, sources, transforms, video

PIPELINE = ("batch_size", "clip", "augment", "short_side", "workers", "threads", "max_bad")


def source(cfg, split, progress=None):
    """The source of a config's `data` section for split `train` or `eval`; `progress(done, total)` while it is made."""
    return sources.build({key: cfg[key] for key in cfg if key not in PIPELINE}, split, progress)


@dataclasses.dataclass(frozen=True)
class SampleClip(grain.transforms.RandomMap):
    """Adds `indices` (size,) to a source's record."""

    sampler: str
    size: int
    stride: int

    def random_map(self, record, rng):
        if record["error"]:
            return record
        return record | {"indices": clips.train(self.sampler, record["num_frames"], self.size, self.stride, rng)}


@dataclasses.dataclass(frozen=True)
class Decode(grain.transforms.Map):
    """Adds `video` uint8 (T, H, W, 3), the frames at `indices`, or the reason in `error`."""

    short_side: int

    def map(self, record):
        if record["error"]:
            return record
        try:
            return record | {"video": video.read(record["path"], record["indices"], self.short_side)}
        except video.VideoError as error:
            return record | {"error": str(error)}


@dataclasses.dataclass(frozen=True)
class Augment(grain.transforms.RandomMap):
    """The row of a batch: {video (T, S, S, 3), label, mask, index, error}; zeros and mask 0 where a video failed."""

    frames: int
    options: dict
    flip_labels: tuple

    def random_map(self, record, rng):
        clip, label = np.zeros((self.frames, self.options["size"], self.options["size"], 3), np.uint8), record["label"]
        if not record["error"]:
            clip, label = transforms.augment(record["video"], label, rng, flip_labels=self.flip_labels, **self.options)
        return row(clip, label, record["index"], record["error"])


@dataclasses.dataclass(frozen=True)
class Views(grain.transforms.Map):
    """Row i of an evaluation: {video (V, T, S, S, 3), label, mask, index, error}; rows past the last are padding."""

    source: object
    clip: dict
    views: dict
    short_side: int

    def map(self, i):
        size = self.views["size"]
        shape = (self.views["clips"] * self.views["crops"], self.clip["size"], size, size, 3)
        if i >= len(self.source):
            return row(np.zeros(shape, np.uint8), 0, -1, "padding")
        record = self.source[i]
        try:
            if record["error"]:
                raise video.VideoError(record["error"])
            indices = clips.evaluation(num_frames=record["num_frames"], clips=self.views["clips"], **self.clip)
            frames = read_views(record["path"], indices, self.short_side, self.views)
        except video.VideoError as error:
            return row(np.zeros(shape, np.uint8), record["label"], i, str(error))
        return row(frames.reshape(shape), record["label"], i, "")


def read_views(path, indices, short_side, views):
    """The views of one video, for evaluation and prediction alike: (clips, T) -> uint8 (clips, crops, T, S, S, 3)."""
    wanted, where = np.unique(indices, return_inverse=True)
    frames = video.read(path, wanted, short_side)
    options = {"size": views["size"], "resize": views["resize"], "crops": views["crops"]}
    return np.stack([transforms.evaluate(frames[row], **options) for row in where.reshape(indices.shape)])


def row(clip, label, index, error):
    """One row of a batch; `error` is kept for the host and masks the row."""
    return {
        "video": clip,
        "label": np.int32(label),
        "mask": np.float32(not error),
        "index": np.int32(index),
        "error": np.str_(error),
    }


def train(cfg, source, *, seed, step=0, block=0, blocks=1):
    """Endless batches from `step` on, part `block` of `blocks` of each: {video (b, T, S, S, 3) uint8, label, ...}."""
    augment = dict(cfg["augment"])
    pairs = [pair for pair in augment.pop("flip_pairs", ()) if set(pair) <= set(source.classes)]
    flip_labels = sources.flip_labels(source.classes, pairs)
    ds = grain.MapDataset.source(Numbered(source)).seed(seed).shuffle().repeat()
    ds = ds.random_map(SampleClip(**cfg["clip"])).map(Decode(cfg["short_side"]))
    ds = ds.random_map(Augment(cfg["clip"]["size"], augment, flip_labels))
    ds = ds.batch(cfg["batch_size"] // blocks, drop_remainder=True)
    return iterate(ds[step * blocks + block :: blocks], cfg)


def evaluation(cfg, views, source, *, block=0, blocks=1):
    """Every video of a source once, in order: batches {video (b, V, T, S, S, 3) uint8, label, mask, index, error}.

    The last batch is padded with masked rows of index -1, so all processes see the same number of batches.
    """
    size = views["batch_size"]
    stage = Views(source, dict(cfg["clip"]), dict(views), cfg["short_side"])
    ds = grain.MapDataset.range(-(-len(source) // size) * size).map(stage)
    return iterate(ds.batch(size // blocks, drop_remainder=True)[block::blocks], cfg)


def iterate(ds, cfg):
    """Runs a dataset of batches in read threads, or in worker processes with `workers` > 0; same batches either way."""
    options = grain.ReadOptions(num_threads=cfg["threads"], prefetch_buffer_size=2 * cfg["threads"])
    batches = ds.to_iter_dataset(options)
    if cfg["workers"]:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain hands absl's flags to its worker processes
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=cfg["workers"]))
    return iter(batches)


@dataclasses.dataclass(frozen=True)
class Numbered:
    """A source whose records carry their own index."""

    source: object

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return self.source[i] | {"index": i}
