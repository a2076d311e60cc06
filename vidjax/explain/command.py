"""`vidjax explain`: what in a video counted for a class, as an annotated clip, a filmstrip and arrays."""

import pathlib
import sys

import cv2
import jax
import numpy as np

from vidjax import explain
from vidjax.data import video, written
from vidjax.explain import overlay, surrogates
from vidjax.explain.maps import normalised

PERTURBING = ("occlusion", "frames", "lime", "shap")  # methods that explain the probability


class Explainer:
    """A predictor's net, explained on the windows of videos by one method."""

    def __init__(self, predictor, method, modality="", **options):
        """`modality` is what to explain where the net sees several: rgb (default), flow or difference."""
        self.predictor, self.method, self.modality = predictor, method, modality
        self.apply = lambda x: predictor.model.apply(predictor.variables, x, train=False)
        squash = jax.nn.sigmoid if predictor.multi_label else jax.nn.softmax
        self.options = options | ({"squash": squash} if method in PERTURBING else {})

    def __call__(self, path, label="", window=None, result=None):
        """{clip (T, H, W, 3), map (T, H, W) in [-1, 1], label, score, window, start, end, fps} of a window of a video.

        `label` is a class name, by default the best; `window` a number, by default the one where the class
        scores highest. `result` is what the predictor gave of the video, where it has been called. Several crops are
        scored together and the middle one is explained. VideoError where the file cannot be read, ValueError for an
        unknown class or window, and for nets that see no pictures.
        """
        names, result = self.predictor.class_names, result or self.predictor(path)
        scores = result["scores"]
        if label and label not in names:
            raise ValueError(
                f"the net has no class {label!r}; it has {', '.join(names[:8])}{', ...' * (len(names) > 8)}"
            )
        if window is not None and not 0 <= window < len(scores):
            raise ValueError(f"{path} has windows 0 to {len(scores) - 1}, not {window}.")
        asked = scores if window is None else scores[window : window + 1]
        target = names.index(label) if label else int(asked.max(0).argmax())
        window = int(scores[:, target].argmax()) if window is None else window
        clip, found = self.explained(self.predictor.window(result, window), target)
        apart = int(np.diff(result["clips"][window][:2]).sum()) or 1  # frames of the video from one of the clip's on
        return {
            "clip": clip,
            "map": found,
            "label": names[target],
            "score": float(scores[window, target]),
            "window": window,
            "start": float(result["start"][window]),
            "end": float(result["end"][window]),
            "fps": (result["fps"] or 25.0) / apart,
        }

    def explained(self, seen, target):
        """The pictures (T, H, W, 3) and the map (T, H, W) of the middle crop of what the model sees of a window."""
        crops = self.predictor.meta["preprocess"]["crops"]
        seen = {key: x[crops // 2 :: crops] for key, x in (seen if isinstance(seen, dict) else {"": seen}).items()}
        moving = [key for key, x in seen.items() if x.ndim == 5]
        name = self.modality or ("rgb" if "rgb" in moving else next(iter(moving), ""))
        if name not in moving:
            there = f"it sees {', '.join(seen)}" if any(seen) else "it sees one alone: leave --modality out"
            raise ValueError(f"the net sees no pictures or flow {self.modality!r} to explain; {there}.")
        apply, options = self.apply, self.options
        if len(seen) > 1:
            apply = lambda x: self.apply(seen | {name: x})  # noqa: E731
        if self.method == "integrated" and seen[name].shape[-1] != 3:
            options = {"baseline": 0.0} | options  # of flow and differences that is no motion
        found = explain.explain(apply, np.asarray(seen[name]), target, self.method, **options)
        return overlay.pictures(np.asarray(seen[name])[0]), np.asarray(normalised(found))[0]


def run(predictor, found, values):
    """Explains the videos `found` {path: name of its outputs} by the command's flags; -> how many could not be read."""
    options = {"layer": values.layer} if values.layer else {}
    if values.regions:
        options["regions"] = getattr(surrogates, values.regions)
    explainer, failed = Explainer(predictor, values.method, values.modality, **options), 0
    for path, name in found.items():
        try:
            result = explainer(path, values["class"].value, values.window)
        except video.VideoError as error:
            print(f"skipped {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        movie, picture, _ = write(result, values.out, f"{name}_{values.method}")
        seconds = f"{result['start']:.2f} - {result['end']:.2f} s"
        at = f"{result['label']} {result['score']:.1%} in window {result['window']}, {seconds}"
        print(f"{path}: {at}: {movie}, {picture}", flush=True)
    return failed


def write(found, folder, name):
    """Writes NAME.mp4, NAME.png and NAME.npz of what an Explainer found; -> the paths."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = overlay.drawn(found["clip"], found["map"])
    movie, picture, arrays = (folder / f"{name}{ending}" for ending in (".mp4", ".png", ".npz"))
    video.write(movie, drawn, fps=found["fps"])
    with written.whole(picture) as partial:
        strip = overlay.strip(found["clip"], drawn, found["map"])
        pathlib.Path(partial).write_bytes(cv2.imencode(".png", strip[..., ::-1])[1].tobytes())
    with written.whole(arrays) as partial, open(partial, "wb") as file:
        np.savez(file, **found)
    return movie, picture, arrays
