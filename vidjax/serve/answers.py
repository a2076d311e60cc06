"""What is computed for a request: labels as `vidjax predict` writes them, explanations as `vidjax explain` does."""

import contextlib
import pathlib
import traceback
import typing

import cv2
import numpy as np

import vidjax
from vidjax import explain
from vidjax.data import planes, transforms, video
from vidjax.explain import command, overlay
from vidjax.predict import outputs, segments, windows
from vidjax.predict.live import rows
from vidjax.serve.refusals import Refusal

FORMATS = {  # of an explanation: (its media type, what it is)
    "png": ("image/png", "frames side by side, the net's above the map's"),
    "mp4": ("video/mp4", "the net's clip in grey with the map in colour"),
    "npz": ("application/octet-stream", "NumPy arrays: clip, map, label, score, window, start, end, fps"),
    "sheet": ("image/png", "the map alone, transparent where nothing counted, its frames one below the other"),
}
FACTS = (
    "label, score, window, start and end (seconds), method, frames, and box: left, top, width and height of the part"
    " that the net sees, as shares of the picture"
)
KEPT = 8  # videos whose scores are kept, so that an explanation does not begin with them again


class Limits(typing.NamedTuple):
    """What a client may ask for."""

    megabytes: float = 200.0
    seconds: float = 300.0  # that an upload may take, and then computing
    frames: int = 20_000  # of a video
    pixels: int = 4096 * 2304  # of a picture
    places: int = 8  # requests at once, those that upload and wait included
    cameras: int = 2  # at once


class Asked(typing.NamedTuple):
    """How a video is to be labelled, as the flags of `vidjax predict`."""

    top: int = 5
    stride: str = ""
    window: str = ""
    threshold: float = segments.THRESHOLD


class Answers:
    """A predictor and its explainers. What a client's file is called stands in for its path in all that is said."""

    def __init__(self, predictor, limits):
        self.predictor, self.limits = predictor, limits
        self.explainers, self.results = {}, {}

    def labels(self, upload, asked, progress=None):
        """The JSON of a video, as `vidjax predict --json` writes it. Refusal."""
        with named(upload):
            found = self.scored(upload, asked, progress)
            names, several = self.predictor.class_names, self.predictor.multi_label
            cut = segments.named(found, names, asked.threshold, several)
            return outputs.as_json(found | {"path": upload.name}, names, asked.top, cut)

    def scored(self, upload, asked, progress=None):
        """The result of `Predictor` for a video, from memory where the same bytes were scored lately."""
        key = upload.digest, asked.stride, asked.window
        if key not in self.results:
            self.check(upload)
            how = {"stride": asked.stride, "window": asked.window, "progress": progress}
            ((_, found),) = self.predictor.many([upload.path], **how)
            if isinstance(found, Exception):
                raise found
            self.results[key] = found
            while len(self.results) > KEPT:
                del self.results[next(iter(self.results))]
        return self.results[key] | {"path": upload.path}

    def check(self, upload):
        """VideoError for a video that is longer, or has larger pictures, than the limits."""
        found = video.probe(upload.path)
        width, height, frames = found["width"], found["height"], found["num_frames"]
        if width * height > self.limits.pixels:
            what = f"pictures of {width}x{height} pixels are refused, the limit is {self.limits.pixels} pixels"
            raise video.VideoError(f"{upload.path}: {what}")
        if frames > self.limits.frames:
            raise video.VideoError(f"{upload.path}: {frames} frames are refused, the limit is {self.limits.frames}")

    def explained(self, upload, asked, method, label, window, form, progress=None):
        """(bytes of an explanation in one of FORMATS, its FACTS as a dictionary). Refusal."""
        with named(upload):
            result = self.scored(upload, asked, progress)
            if method not in self.explainers:
                self.explainers[method] = command.Explainer(self.predictor, method)
            found = self.explainers[method](upload.path, label, window, result)
        facts = {key: found[key] for key in ("label", "score", "window", "start", "end")}
        facts |= {"method": method, "frames": len(found["map"]), "box": self.box(result["width"], result["height"])}
        if form == "sheet":
            return sheet(found["map"]), facts
        made = command.write(found, pathlib.Path(upload.path).parent, "explained")
        return dict(zip(("mp4", "png", "npz"), made, strict=True))[form].read_bytes(), facts

    def box(self, width, height):
        """The part of a picture that the net sees, of several crops the middle: left, top, width, height, each a share.

        A picture of its own coordinates is prepared as a video's are, and they are read off the edges of what is left.
        """
        section, views = self.predictor.section, self.predictor.meta["preprocess"]
        height, width = planes.size(height, width, section["short_side"], 1)
        x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        ramp = np.stack([*np.meshgrid(x, y), np.zeros((height, width))], -1).astype(np.float32)
        how = {key: views[key] for key in ("size", "resize", "crops")} | {"interpolation": section["interpolation"]}
        seen = transforms.evaluate(ramp[None], **how)[views["crops"] // 2, 0]
        (left, wide), (top, tall) = edges(seen[0, :, 0]), edges(seen[:, 0, 1])
        return [round(float(part), 4) for part in (left, top, wide, tall)]

    def facts(self):
        """What the page and programs should know of the net: its name, classes, clip and methods, and the limits."""
        meta, section = self.predictor.meta, self.predictor.section
        model = meta["config"]["model"]
        return {
            "name": " ".join(filter(None, (model.get("name", ""), model.get("variant", "")))),
            "classes": list(self.predictor.class_names),
            "multi_label": bool(self.predictor.multi_label),
            "clip": {key: section["clip"][key] for key in ("sampler", "size", "stride")},
            "windows": section["clip"]["sampler"] not in windows.REACH,
            "modalities": list(section["modalities"]),
            "methods": explain.METHODS if pictured(section) else {},
            "camera": camera_sentence(section) == "",
            "limits": self.limits._asdict(),
        }


def pictured(section):
    """Whether a net sees what an explanation can be laid over."""
    return bool({"rgb", "flow", "difference"} & set(section["modalities"]))


def camera_sentence(section):
    """Why a net cannot see a camera's frames, or ""."""
    try:
        rows.check(section)
    except ValueError as error:
        return str(error)
    return ""


def edges(middles):
    """Where evenly spaced pixels with these middles begin, and how far they reach; the outermost may be bent."""
    first, last = len(middles) // 4, len(middles) - 1 - len(middles) // 4
    apart = (middles[last] - middles[first]) / max(last - first, 1)
    return middles[first] - (first + 0.5) * apart, apart * len(middles)


def sheet(heat):
    """A PNG of a map's frames (T, H, W) one below the other in its colours, as opaque as it is strong."""
    tall = heat.reshape(-1, heat.shape[-1])
    colours = np.where((tall > 0)[..., None], overlay.FOR, overlay.AGAINST)[..., ::-1]
    opaque = np.round(255 * np.abs(tall).clip(0, 1))[..., None]
    return cv2.imencode(".png", np.concatenate([colours, opaque], -1).astype(np.uint8))[1].tobytes()


@contextlib.contextmanager
def named(upload):
    """Within it what vidjax itself raises becomes a Refusal, which names a client's file as the client does."""
    try:
        yield
    except ValueError as error:  # VideoError is one
        raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not raised_in.is_relative_to(pathlib.Path(vidjax.__file__).parent):
            raise
        sentence = str(error).replace(upload.path, printable(upload.name)).replace("--", "")
        raise Refusal(422, sentence if sentence.endswith(".") else f"{sentence}.") from error


def printable(name):
    """A client's name of a file as one line."""
    return " ".join(outputs.printable(name).split())
