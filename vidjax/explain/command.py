"""`vidjax explain`: what in a video counted for a class, as an annotated clip, a filmstrip and arrays."""

import pathlib
import sys

import cv2
import jax
import numpy as np

from vidjax import explain
from vidjax.data import video, written
from vidjax.explain import overlay
from vidjax.explain.maps import normalised

PERTURBING = ("occlusion", "frames", "lime", "shap")  # methods that explain the probability


class Explainer:
    """A predictor's net, explained on the windows of videos by one method."""

    def __init__(self, predictor, method, **options):
        self.predictor, self.method, self.options = predictor, method, options
        self.apply = lambda x: predictor.model.apply(predictor.variables, x, train=False)
        squash = jax.nn.sigmoid if predictor.multi_label else jax.nn.softmax
        self.score = jax.jit(lambda x: squash(self.apply(x)[0]))
        if method in PERTURBING:
            self.options |= {"squash": squash}

    def __call__(self, path, label="", window=None):
        """{clip (T, H, W, 3), map (T, H, W) in [-1, 1], label, score, window, fps} of one window of a video.

        `label` is a class name, by default the window's best; `window` a number, by default the one where the class
        scores highest. VideoError where the file cannot be read, ValueError for an unknown class or window, and for
        nets that see more than pictures.
        """
        names, seen = self.predictor.class_names, self.predictor.inputs(path)
        if isinstance(seen, dict) or seen.ndim != 5 or seen.shape[-1] != 3:
            raise ValueError("explanations are of nets that see pictures alone; this one sees flow, sound or several.")
        if label and label not in names:
            raise ValueError(
                f"the net has no class {label!r}; it has {', '.join(names[:8])}{', ...' * (len(names) > 8)}"
            )
        crops = self.predictor.meta["preprocess"]["crops"]
        windows = np.asarray(seen)[crops // 2 :: crops]  # the middle crop of each
        scores = np.concatenate([np.asarray(self.score(windows[i : i + 1])) for i in range(len(windows))])
        if window is not None and not 0 <= window < len(windows):
            raise ValueError(f"{path} has windows 0 to {len(windows) - 1}, not {window}.")
        asked = scores if window is None else scores[window : window + 1]
        target = names.index(label) if label else int(asked.max(0).argmax())
        window = int(scores[:, target].argmax()) if window is None else window
        clip = windows[window : window + 1]
        found = explain.explain(self.apply, clip, target, self.method, **self.options)
        record, indices = self.predictor.windows(path)
        apart = int(np.diff(indices[window][:2]).sum()) or 1  # frames of the video from one of the clip to the next
        return {
            "clip": clip[0],
            "map": np.asarray(normalised(found))[0],
            "label": names[target],
            "score": float(scores[window, target]),
            "window": window,
            "fps": (record["fps"] or 25.0) / apart,
        }


def run(predictor, found, values):
    """Explains the videos `found` {path: name of its outputs} by the command's flags; -> how many could not be read."""
    explainer, failed = Explainer(predictor, values.method, **({"layer": values.layer} if values.layer else {})), 0
    for path, name in found.items():
        try:
            result = explainer(path, values["class"].value, values.window)
        except video.VideoError as error:
            print(f"skipped {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        movie, picture, _ = write(result, values.out, f"{name}_{values.method}")
        at = f"{result['label']} {result['score']:.1%} in window {result['window']}"
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
        pathlib.Path(partial).write_bytes(
            cv2.imencode(".png", overlay.strip(found["clip"], drawn)[..., ::-1])[1].tobytes()
        )
    with written.whole(arrays) as partial, open(partial, "wb") as file:
        np.savez(file, **{key: found[key] for key in ("clip", "map", "label", "score", "window", "fps")})
    return movie, picture, arrays
