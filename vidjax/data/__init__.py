"""The input pipeline in one reading: source -> frame indices -> files -> geometry and colour -> batches.

Every stage is random access and every random choice comes from the element's position, so global batch n is a pure
function of (seed, n) and the data cursor of a run is its step. A video that cannot be read becomes an all-zero clip
with `mask` 0 and the reason in `error`; nothing is ever dropped.

A batch is {inputs: {wire key: array}, label, mask, index, error}, and `task` for a mixture; `vidjax.data.modalities`
says what the inputs are.
"""

import dataclasses
import difflib
import sys

import grain
import numpy as np
from absl import flags

from vidjax.data import clips, mixture, modalities, multigrid, order, protocols, sources, transforms, video

DEFAULTS = {  # of a `data` section, beside those of its source (`sources.DEFAULTS`)
    "batch_size": 32,
    "short_side": 0,
    "clip": {"sampler": "random_clip", "size": 16, "stride": 1},
    "augment": {"size": 112},
    "order": "shuffled",
    "repeats": 1,
    "buckets": (),
    "pixels": "rgb",
    "interpolation": "area",
    "modalities": ("rgb",),
    "flow": {
        "source": "online",
        "method": "dis",
        "bound": 20.0,
        "stack": 1,
        "form": "stack",
        "subtract": "none",
        "magnitude": False,
        "path": "",
    },
    "audio": {},
    "text": {},
    "streams": {},
    "mixture": {},
    "multigrid": {},
    "workers": 0,
    "threads": 4,
    "max_bad": 0.05,
}
ORDERS = ("shuffled", "balanced")


def options(cfg):
    """A `data` section as a dictionary with its defaults filled in; ValueError for what cannot be meant."""
    cfg = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
    for key in cfg:
        if key not in DEFAULTS and key not in sources.DEFAULTS:
            near = difflib.get_close_matches(key, [*DEFAULTS, *sources.DEFAULTS], 1, 0)[0]
            raise ValueError(f"data: no key {key!r}; did you mean {near!r}?")
    cfg = DEFAULTS | cfg | {name: DEFAULTS[name] | cfg.get(name, {}) for name in ("flow", "clip", "augment")}
    for name, keys in (
        ("flow", tuple(DEFAULTS["flow"])),
        ("clip", tuple(DEFAULTS["clip"])),
        ("augment", (*transforms.GEOMETRY, *modalities.COLOURS, "flip_pairs")),
        ("multigrid", tuple(multigrid.DEFAULTS)),
    ):
        for key in set(cfg[name]) - set(keys):
            near = difflib.get_close_matches(key, keys, 1, 0)[0]
            raise ValueError(f"data.{name}: no key {key!r}; did you mean {near!r}?")
    if cfg["clip"]["sampler"] not in clips.SAMPLERS:
        raise ValueError(
            f"data.clip.sampler must be one of {', '.join(clips.SAMPLERS)}, not {cfg['clip']['sampler']!r}"
        )
    if cfg["buckets"] and (cfg["clip"]["sampler"] != "full" or cfg["order"] != "shuffled"):
        raise ValueError(
            "data.buckets is for clips of whole videos: it needs data.clip.sampler full and order shuffled"
        )
    if cfg["mixture"] and (cfg["buckets"] or cfg["order"] != "shuffled"):
        raise ValueError("data.mixture draws from its sets by their weights: it needs order shuffled and no buckets")
    if cfg["multigrid"] and cfg["buckets"]:
        raise ValueError("data.multigrid and data.buckets both say how long clips are: leave one of them empty")
    if cfg["order"] not in ORDERS:
        raise ValueError(f"data.order must be one of {', '.join(ORDERS)}, not {cfg['order']!r}")
    modalities.check(cfg)
    return cfg


def source(cfg, split, progress=None):
    """The source of a config's `data` section for split `train` or `eval`; `progress(done, total)` while it is made."""
    return open_sources(cfg, (split,), progress)[0]


def open_sources(cfg, splits=("train", "eval"), progress=None):
    """The sources of some splits of a config's `data` section, listed once."""
    cfg = options(cfg)
    modalities.open_files(cfg)
    if cfg["mixture"]:
        return tuple(mixture.build(cfg["mixture"], split, sources.build) for split in splits)
    return sources.build_all({key: cfg[key] for key in cfg if key not in DEFAULTS}, splits, progress)


@dataclasses.dataclass(frozen=True)
class Ordered:
    """A source without end whose records come in a given order and carry their `index` and `position`."""

    source: object
    order: object

    def __len__(self):
        return sys.maxsize // 4

    def __getitem__(self, position):
        index = self.order[position]
        return self.source[index] | {"index": index, "position": position}


@dataclasses.dataclass(frozen=True)
class SampleClip(grain.transforms.RandomMap):
    """Adds `indices` (repeats, T) to a source's record, and `frame_mask` (repeats, T) where clips differ in length.

    Clips of fewer frames than the config's span the same time.
    """

    cfg: dict
    order: object

    def random_map(self, record, rng):
        if record["error"]:
            return record
        first, length = modalities.room(self.cfg, record["num_frames"])
        clip = self.cfg["clip"]
        how = clip | {"size": record["frames"], "stride": clip["stride"] * (clip["size"] // record["frames"])}
        drawn = [first + clips.train(num_frames=length, rng=rng, **how) for _ in range(self.cfg["repeats"])]
        if not self.cfg["buckets"]:
            return record | {"indices": np.stack(drawn)}
        padded = [clips.pad(indices, self.order.bucket(record["position"])) for indices in drawn]
        indices, masks = zip(*padded, strict=True)
        return record | {"indices": np.stack(indices), "frame_mask": np.stack(masks).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Decode(grain.transforms.Map):
    """Adds `raw`, what the files hold for each clip (see `modalities.read`), or the reason in `error`."""

    cfg: dict

    def map(self, record):
        if record["error"]:
            return record
        try:
            return record | {"raw": modalities.read(self.cfg, record, record["indices"])}
        except video.VideoError as error:
            return record | {"error": str(error)}


@dataclasses.dataclass(frozen=True)
class Augment(grain.transforms.RandomMap):
    """The row of a batch, or `repeats` of them stacked; zeros and mask 0 where a file failed."""

    cfg: dict
    source: object
    order: object
    flip_labels: tuple

    def random_map(self, record, rng):
        cfg, rows = self.cfg, []
        frames = self.order.bucket(record["position"]) if cfg["buckets"] else record["frames"]
        for i in range(cfg["repeats"]):
            if record["error"]:
                inputs, label = modalities.zeros(cfg, frames, record["size"]), record["label"]
            else:
                raw, size = record["raw"][i], record["size"]
                inputs, label = augmented(cfg, raw, record["label"], rng, self.flip_labels, size)
                inputs |= {"frame_mask": record["frame_mask"][i]} if cfg["buckets"] else {}
            rows.append(row(inputs, self.source, record | {"label": label}))
        return stacked(rows) if cfg["repeats"] > 1 else rows[0]


def augmented(cfg, raw, label, rng, flip_labels, size=None):
    """One clip's inputs and label: one crop, mirroring and rotation for all modalities, then the colours of rgb.

    The crop is scaled to `size` pixels, by default the config's.
    """
    view, crop = cropped(cfg, raw, rng, size)
    inputs = coloured(cfg, modalities.finish(cfg, view), rng)
    return inputs, transforms.mirrored_label(label, crop, flip_labels)


def cropped(cfg, raw, rng, size=None):
    """What `modalities.read` gave for a clip, cut by one crop drawn for all its pictures; and the crop."""
    height, width = modalities.picture_size(raw)
    drawn = {key: cfg["augment"][key] for key in transforms.GEOMETRY if key in cfg["augment"]}
    crop = transforms.draw(rng, height, width, **drawn)
    crop = crop._replace(size=size or crop.size)
    (view,) = modalities.place(cfg, raw, modalities.by_crop(crop, height, width))
    return view, crop


def coloured(cfg, inputs, rng):
    """A clip's inputs after the photometric augmentation of rgb."""
    if "rgb" not in inputs:
        return inputs
    alone = not any(key in modalities.KIND or key in cfg["streams"] for key in inputs if key != "rgb")
    options = modalities.colours(cfg["augment"])
    return inputs | {"rgb": transforms.photometric(inputs["rgb"], rng, geometric=alone, **options)}


@dataclasses.dataclass(frozen=True)
class Views(grain.transforms.Map):
    """Row i of an evaluation with V views: {inputs {key: (V, ...)}, view_mask (V,), ...}; rows past the last pad."""

    cfg: dict
    views: dict
    source: object

    def map(self, i):
        record = self.source[i] if i < len(self.source) else {"label": (), "error": "padding"}
        inputs, used = None, 0
        if not record["error"]:
            try:
                indices = evaluated_clips(self.cfg, self.views, record["num_frames"])
                inputs = read_views(self.cfg, self.views, record, indices)
                used = len(indices) * self.views["crops"]
            except video.VideoError as error:
                record |= {"error": str(error)}
        total = self.clips_of_batch(i) * self.views["crops"]
        blank = modalities.zeros(self.cfg, self.cfg["clip"]["size"], self.views["size"])
        blank = {key: np.zeros((total, *x.shape), x.dtype) for key, x in blank.items()}
        for key in inputs or ():
            blank[key][:used] = inputs[key]
        mask = (np.arange(total) < used).astype(np.float32)
        index = i if i < len(self.source) else -1
        return row(blank, self.source, record | {"index": index}) | {"view_mask": mask}

    def clips_of_batch(self, i):
        """Clips of each video in the batch that row i is in: as many as the longest of them has."""
        first = i // self.views["batch_size"] * self.views["batch_size"]
        rows = (self.source[k] for k in range(first, min(first + self.views["batch_size"], len(self.source))))
        lengths = [max(row["num_frames"], 1) for row in rows]
        return len(evaluated_clips(self.cfg, self.views, max(lengths)))


def evaluated_clips(cfg, views, num_frames):
    """The clips that an evaluation takes of a video, by its protocol or by the sampler it was trained with: (K, T)."""
    clip, (first, length) = cfg["clip"], modalities.room(cfg, num_frames)
    if views.get("protocol"):
        return first + protocols.indices(protocols.find(views["protocol"]), length, clip["size"], clip["stride"])
    return first + clips.evaluation(num_frames=length, clips=views["clips"], **clip)


def read_views(cfg, views, record, indices):
    """The inputs of one video's views, for evaluation and prediction alike: frames (K, T) -> {key: (K x crops, ...)}.

    A batch of variable length is padded to the config's longest clip, with a `frame_mask`.
    """
    options, mask = {key: views[key] for key in ("size", "resize", "crops")}, None
    options["interpolation"] = cfg["interpolation"]
    if cfg["buckets"]:
        indices, mask = clips.pad(indices, cfg["clip"]["size"])

    def cut(x, kind):
        return transforms.evaluate(x, kind=kind, **options)

    found = []
    for i, raw in enumerate(modalities.read(cfg, record, indices)):
        masked = {} if mask is None else {"frame_mask": mask[i].astype(np.float32)}
        placed = modalities.place(cfg, raw, cut)
        placed *= views["crops"] // len(placed)  # what has no pictures is the same in every crop
        found += [modalities.finish(cfg, view) | masked for view in placed]
    return stacked(found)


def row(inputs, source, record):
    """One row of a batch; `error` is kept for the host and masks the row."""
    label = np.int32(record["label"] or 0)
    if source.multi_label:
        label = np.zeros(len(source.classes), np.float32)
        label[list(record["label"])] = 1
    task = {"task": np.int32(record.get("task", 0))} if source.tasks else {}
    return task | {
        "inputs": inputs,
        "label": label,
        "mask": np.float32(not record["error"]),
        "index": np.int32(record["index"]),
        "error": np.str_(record["error"]),
    }


def stacked(rows, put=np.stack):
    """Dictionaries of arrays, of one structure -> one dictionary of their stacks, or of what `put` makes of them."""
    first = rows[0]
    pick = {key: [row[key] for row in rows] for key in first}
    return {k: stacked(found, put) if isinstance(first[k], dict) else put(found) for k, found in pick.items()}


class Joined(grain.transforms.Map):
    """Batches of rows that hold several clips each -> batches of clips: (b, repeats, ...) -> (b * repeats, ...)."""

    def map(self, batch):
        return {key: self.map(x) if isinstance(x, dict) else x.reshape(-1, *x.shape[2:]) for key, x in batch.items()}


def train(cfg, source, *, seed, step=0, block=0, blocks=1):
    """Endless batches from `step` on, part `block` of `blocks` of each: {inputs, label, mask, index, error}.

    With `multigrid` a batch is several base batches of `batch_size`, of the shape that its step has.
    """
    cfg = options(cfg)
    rows, extra = divmod(cfg["batch_size"], blocks * cfg["repeats"])
    if extra:
        raise ValueError(f"data.batch_size {cfg['batch_size']} must divide by data.repeats x {blocks} processes")
    places, grids = order_of(cfg, source, seed), grids_of(cfg)
    augment = Augment(cfg, source, places, sources.flip_labels(source.classes, flip_pairs(cfg, source)))
    ds = grain.MapDataset.source(endless(cfg, source, places)).seed(seed)
    ds = ds.random_map(SampleClip(cfg, places)).map(Decode(cfg)).random_map(augment)
    ds = ds.batch(rows, drop_remainder=True)
    if cfg["repeats"] > 1:
        ds = ds.map(Joined())
    if not cfg["multigrid"]:
        return iterate(ds[step * blocks + block :: blocks], cfg)
    part = grain.MapDataset.source(multigrid.Part(ds, grids, block, blocks))[grids.first(step) :]
    return multigrid.merged(iterate(part, cfg), grids, step, lambda pieces: stacked(pieces, np.concatenate))


def grids_of(cfg):
    """The shapes of a data section's batches, step by step."""
    return multigrid.Multigrid(cfg["clip"]["size"], cfg["augment"]["size"], **cfg["multigrid"])


def endless(cfg, source, places):
    """A source's records without end, in the order `places`, each with the shape of its clip."""
    return multigrid.Gridded(Ordered(source, places), grids_of(cfg), cfg["batch_size"] // cfg["repeats"])


def order_of(cfg, source, seed):
    """In which order a config's examples come: any of `vidjax.data.order`, over the indices of the source."""
    if isinstance(source, mixture.Mixed):
        return mixture.Order(source, seed)
    if cfg["buckets"]:
        stride = cfg["clip"]["stride"]
        lengths = tuple(max(1, -(-source[i]["num_frames"] // stride)) for i in range(len(source)))
        return order.Bucketed(lengths, cfg["buckets"], cfg["batch_size"] // cfg["repeats"], seed)
    if cfg["order"] == "balanced":
        return order.Balanced(tuple(source[i]["label"] for i in range(len(source))), seed)
    return order.Shuffled(len(source), seed)


def flip_pairs(cfg, source):
    """The pairs of classes that a mirror exchanges: the config's and the source's own, where the source has both."""
    pairs = (*cfg["augment"].get("flip_pairs", ()), *source.flip_pairs)
    return [pair for pair in pairs if set(pair) <= set(source.classes)]


def evaluation(cfg, views, source, *, start=0, block=0, blocks=1):
    """Every video of a source once, in order: batches {inputs {key: (b, V, ...)}, view_mask (b, V), label, ...}.

    They begin with batch `start`. The last is padded with masked rows of index -1, so all processes see the same
    number of batches.
    """
    cfg, size = options(cfg), views["batch_size"]
    ds = grain.MapDataset.range(-(-len(source) // size) * size).map(Views(cfg, dict(views), source))
    return iterate(ds.batch(size // blocks, drop_remainder=True)[start * blocks + block :: blocks], cfg)


def iterate(ds, cfg):
    """Runs a dataset of batches in read threads, or in worker processes with `workers` > 0; same batches either way."""
    options = grain.ReadOptions(num_threads=cfg["threads"], prefetch_buffer_size=2 * cfg["threads"])
    batches = ds.to_iter_dataset(options)
    if cfg["workers"]:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain hands absl's flags to its worker processes
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=cfg["workers"]))
    return iter(batches)
