"""Prediction: a video file or a folder of them in, labels over time out."""

import functools
import os

import jax
import numpy as np

from vidjax import checkpoint, config, data, evaluate, inputs, models
from vidjax.data import clips, flow_store, lists, modalities, video

WINDOWS = 8  # windows in one device call


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
        prepare = inputs.preparer(self.section)
        self.prepare = jax.jit(prepare)
        step = functools.partial(
            evaluate.eval_step,
            model=self.model,
            average=cfg.eval.average,
            prepare=prepare,
            multi_label=self.meta.get("multi_label", False),
        )
        self.step = jax.jit(step)
        self.advance = jax.jit(functools.partial(self.model.apply, method="stream"), donate_argnums=2)

    def __call__(self, path):
        """Scores the windows of one video: {start (W,), end (W,) in seconds, scores (W, classes)}.

        A window is a clip such as the model was trained on; windows follow one another and the last ends with the
        video. A model trained on segments of whole videos has one. Raises VideoError if the file cannot be read.
        """
        record, indices = self.windows(path)
        scores = [self.scores(record, indices[i : i + WINDOWS]) for i in range(0, len(indices), WINDOWS)]
        seconds = 1 / (record["fps"] or 25.0)
        return {
            "start": indices.min(1) * seconds,
            "end": (indices.max(1) + 1) * seconds,
            "scores": np.concatenate(scores),
        }

    def inputs(self, path):
        """What the model sees of one video's windows, crops of a window side by side: float32 (W x crops, T, H, W, C).

        A dict of such arrays where it sees several modalities. Raises VideoError if the file cannot be read.
        """
        views = data.read_views(self.section, self.meta["preprocess"], *self.windows(path))
        return self.prepare(views, self.net)

    def stream(self, path, frames=8):
        """Yields {end (seconds), scores (classes,)} of all that was seen of a video, every so many of its frames.

        The net sees every frame once, at its own stride, and carries a state of fixed size. Raises VideoError if the
        file cannot be read. The net needs the methods `initial_state` and `stream`.
        """
        info, stride = video.probe(path), self.section["clip"]["stride"]
        record, state = {"id": os.path.basename(path), "path": path, "error": ""} | info, None
        for first in range(0, info["num_frames"], frames * stride):
            indices = np.arange(first, min(first + frames * stride, info["num_frames"]), stride)
            views = data.read_views(self.section, self.meta["preprocess"], record, indices[None])
            seen = self.prepare({key: x[:1] for key, x in views.items()}, self.net)
            if state is None:
                state = self.model.initial_state(1, *seen.shape[2:4])
            logits, state = self.advance(self.variables, seen, state)
            yield {"end": (indices[-1] + 1) / (info["fps"] or 25.0), "scores": np.asarray(jax.nn.softmax(logits))[0]}

    def windows(self, path):
        """(record of a video file, frame indices of its windows (W, T))."""
        clip, info = self.section["clip"], video.probe(path)
        size, stride, (first, length) = clip["size"], clip["stride"], modalities.room(self.section, info["num_frames"])
        if clip["sampler"] == "random_clip":
            indices = first + clips.windows(length, size, stride, size * stride)
        else:  # one clip spans the whole video
            indices = first + clips.evaluation(clip["sampler"], length, size, stride, 1)
        return {"id": os.path.basename(path), "path": path, "error": ""} | info, indices

    def scores(self, record, indices):
        """Probabilities of up to WINDOWS windows: (W, T) frame indices -> (W, classes)."""
        crops = self.meta["preprocess"]["crops"]
        views = data.read_views(self.section, self.meta["preprocess"], record, indices)
        batch = {key: np.zeros((WINDOWS, crops, *x.shape[1:]), x.dtype) for key, x in views.items()}
        for key, x in views.items():
            batch[key][: len(indices)] = x.reshape(-1, crops, *x.shape[1:])
        ones = np.ones((WINDOWS, crops), np.float32)
        out = self.step(self.variables, {"inputs": batch, "view_mask": ones, "mask": ones[:, 0]}, self.net)
        return np.asarray(out["scores"])[: len(indices)]


def anew(options):
    """A `flow` section whose fields are computed as those of the store that it names were."""
    manifest = flow_store.remembered(options["path"]).manifest
    room, _, method = manifest["algorithm"].rpartition(".")
    if room == "vidjax.data.flow":
        return options | {"source": "online", "method": method}
    return options | {"source": "device", "method": manifest["parameters"]["method"]}


def files(paths):
    """The video files that paths name: a file stands for itself, a folder for every video below it, sorted.

    Raises FileNotFoundError for a path that is not there and for a folder without videos.
    """
    found = []
    for path in paths:
        if os.path.isdir(path):
            below = sorted(map(str, lists.walk(path)))
            if not below:
                raise FileNotFoundError(f"{path} holds no video file.")
            found += below
        elif os.path.exists(path):
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist; give a video file or a folder of videos.")
    return found


def best(scores, names, top):
    """The `top` most probable classes with their shares, in one line."""
    order = np.argsort(-scores, kind="stable")[:top]
    return "  ".join(f"{names[i]} {scores[i]:.1%}" for i in order)


def so_far(seen, names, top):
    """The line of `vidjax predict --stream` for what `Predictor.stream` yields."""
    return f"  up to {seen['end']:7.2f} s    {best(seen['scores'], names, top)}"


def describe(path, result, names, top):
    """The lines that `vidjax predict` prints for one file: the whole video, then each window."""
    lines = [path, f"  whole video        {best(result['scores'].mean(0), names, top)}"]
    for start, end, scores in zip(result["start"], result["end"], result["scores"], strict=True):
        lines.append(f"  {start:7.2f} - {end:6.2f} s  {best(scores, names, top)}")
    return "\n".join(lines)
