"""Prediction: video files in, labels over time out."""

import functools
import os

import jax
import numpy as np

from vidjax import checkpoint, config, data, evaluate, inputs, models
from vidjax.data import flow_store, modalities, protocols, video
from vidjax.predict import many, segments, windows

OWN = "own"  # the protocol of a run's own evaluation


class Predictor:
    """A checkpoint with its own preprocessing and class names, compiled once and called per file."""

    def __init__(self, workdir="", step=None, loaded=None):
        """`loaded` are the (variables, meta) of a checkpoint, in place of a `workdir` that holds one."""
        variables, self.meta = loaded or checkpoint.load_variables(workdir, step=step)[:2]
        self.variables = jax.device_put(variables)
        cfg, preprocess = config.from_dict(self.meta["config"]), self.meta["preprocess"]
        known = {key: preprocess[key] for key in modalities.SETTINGS if key in preprocess}
        clip = {"sampler": preprocess["sampler"], "size": preprocess["frames"], "stride": preprocess["stride"]}
        if known.get("flow", {}).get("source") == "stored":
            known["flow"] = anew(known["flow"])
        self.section = data.options(known | {"short_side": preprocess["short_side"], "clip": clip})
        self.model = models.build(cfg.model, num_classes=len(self.meta["class_names"]))
        self.net = inputs.load_net(self.section)
        self.prepare = jax.jit(inputs.preparer(self.section))
        self.at_once, self.sizes, self.viewings = 8, set(), {}  # windows in one device call; see `batch`, `viewing`
        self.steps = {}
        self.step = self.compiled(cfg.eval.average)

    @property
    def class_names(self):
        """The names of the scores' columns."""
        return self.meta["class_names"]

    @property
    def multi_label(self):
        """Whether several classes can be true at once: scores then do not add up to 1."""
        return self.meta.get("multi_label", False)

    def compiled(self, average, layers=(), raw=False):
        """`evaluate.eval_step` of this net, compiled once for each shape that it meets."""
        how = {"average": average, "layers": tuple(layers), "raw": raw}
        key = tuple(how.values())
        if key not in self.steps:
            how |= {"prepare": inputs.preparer(self.section), "multi_label": self.multi_label}
            self.steps[key] = jax.jit(functools.partial(evaluate.eval_step, model=self.model, **how))
        return self.steps[key]

    def __call__(self, path, stride="", window="", protocol="", threshold=segments.THRESHOLD):
        """What is in one video: a dictionary of

            video (classes,), scores (W, classes)    of the whole video, and of each window of time
            start (W,), end (W,), frames (W, 2)      when windows are: seconds, and frames from the first up to an end
            clips (W, T)                             the frames that the net sees of each
            top, segments                            [(name, score)] of the whole, best first; {start, end, label, ...}
            path, num_frames, fps, width, height, times (num_frames + 1,)    of the file

        A window is a clip such as the model was trained on; windows follow one another, or begin every `stride`
        ("0.5s", "8f": frames), and the last ends with the video. A model trained on segments of whole videos has one,
        or one for each `window` of time. The whole video's score is the windows' mean, or that of `vidjax eval` with a
        `protocol` ("own": as the run was evaluated). VideoError if the file cannot be read.
        """
        ((_, found),) = self.many([path], stride=stride, window=window, protocol=protocol)
        if isinstance(found, Exception):
            raise found
        names, order = self.class_names, np.argsort(-found["video"], kind="stable")
        top = [(names[i], float(found["video"][i])) for i in order]
        return found | {"top": top, "segments": segments.named(found, names, threshold, self.multi_label)}

    def many(self, paths, **how):
        """Yields (path, what a call gives but top and segments, or the VideoError) of each file; see `many.scored`.

        With `layers` of the net's `out` results have `features` {layer: (W, C)} in place of scores.
        """
        if how.get("protocol"):
            self.viewing(how["protocol"])
        return many.scored(self, list(map(os.fspath, paths)), **how)

    def batch(self, windows, step=None):
        """Scores of up to `at_once` windows, [{key: (crops, ...)}]: (at least so many, classes), on the device.

        Filled up to the least size that was computed before, or to a power of two: one window costs one. With a `step`
        that is `compiled` for layers, their activations.
        """
        count, crops = len(windows), self.meta["preprocess"]["crops"]
        rows = min((n for n in self.sizes if n >= count), default=1 << (count - 1).bit_length())
        self.sizes.add(rows)
        batch = {key: np.zeros((rows, *x.shape), x.dtype) for key, x in windows[0].items()}
        for i, views in enumerate(windows):
            for key, x in views.items():
                batch[key][i] = x
        ones = np.ones((rows, crops), np.float32)
        whole = {"inputs": batch, "view_mask": ones, "mask": ones[:, 0]}
        return (step or self.step)(self.variables, whole, self.net)["features" if step else "scores"]

    def viewing(self, protocol):
        """(data section, views, compiled step) of an evaluation by a named protocol, or the run's OWN. ValueError."""
        if protocol not in self.viewings:
            cfg = config.from_dict(self.meta["config"])
            if protocol != OWN:
                with cfg.unlocked():
                    cfg.eval.protocol = protocol
            cfg = evaluate.with_protocol(cfg)
            clip = {"size": cfg.data.clip.size, "stride": cfg.data.clip.stride}
            section = self.section | {"clip": self.section["clip"] | clip}
            self.viewings[protocol] = section, cfg.eval.to_dict(), self.compiled(cfg.eval.average)
        return self.viewings[protocol]

    def whole_views(self, record, protocol):
        """What an evaluation sees of a video, as `vidjax eval` reads it: {key: (views, ...)}. VideoError."""
        section, views, _ = self.viewing(protocol)
        return data.read_views(section, views, record, data.evaluated_clips(section, views, record["num_frames"]))

    def whole_scores(self, views, protocol):
        """The score of a video from `whole_views`: (1, classes), on the device.

        Views are filled up to a power of two where their number goes by the video's length, and masked.
        """
        count = rows = len(next(iter(views.values())))
        _, options, step = self.viewing(protocol)
        if options.get("protocol") and not protocols.find(options["protocol"]).clips:
            rows = 1 << (count - 1).bit_length()
        batch = {key: np.zeros((1, rows, *x.shape[1:]), x.dtype) for key, x in views.items()}
        for key, x in views.items():
            batch[key][0, :count] = x
        mask = (np.arange(rows) < count).astype(np.float32)[None]
        whole = {"inputs": batch, "view_mask": mask, "mask": np.ones(1, np.float32)}
        return step(self.variables, whole, self.net)["scores"]

    def blank(self):
        """The inputs of one view, all zero: {key: array}."""
        return modalities.zeros(self.section, self.section["clip"]["size"], self.meta["preprocess"]["size"])

    def inputs(self, path):
        """What the model sees of one video's windows, crops of a window side by side: float32 (W x crops, T, H, W, C).

        A dict of such arrays where it sees several modalities. Raises VideoError if the file cannot be read.
        """
        views = data.read_views(self.section, self.meta["preprocess"], *self.windows(path))
        return self.prepare(views, self.net)

    def window(self, result, number):
        """What the model sees of one window of a call's result: as `inputs`, of its crops alone. VideoError."""
        record = {"id": os.path.basename(result["path"]), "error": ""} | {
            key: result[key] for key in ("path", "num_frames", "fps", "width", "height")
        }
        clips = result["clips"][number : number + 1]
        return self.prepare(next(windows.views(self.section, self.meta["preprocess"], record, clips)), self.net)

    def windows(self, path):
        """(record of a video file, frame indices of its windows (W, T)). VideoError."""
        record = {"id": os.path.basename(path), "path": path, "error": ""} | video.probe(path)
        return record, windows.cut(self.section, record["num_frames"], record["fps"])[0]


def anew(options):
    """A `flow` section whose fields are computed as those of the store that it names were."""
    manifest = flow_store.remembered(options["path"]).manifest
    room, _, method = manifest["algorithm"].rpartition(".")
    if room == "vidjax.data.flow":
        return options | {"source": "online", "method": method}
    return options | {"source": "device", "method": manifest["parameters"]["method"]}
