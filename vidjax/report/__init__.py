"""The report of an evaluation: the same numbers as `report_<step>.json` and as one self-contained HTML page."""

import base64
import functools
import importlib.resources
import json
import math
import os
import pathlib

import cv2
import jinja2
import numpy as np

from vidjax import progress

CELLS = 20  # up to so many classes the confusion matrix is a table with its counts; above, a picture
SHOWN = {"pairs": 10, "mistakes": 24, "frames": 8}  # what the page holds at most of each
HEIGHT = 96  # of a mistake's frames, pixels
CORRECT, WRONG = (47, 114, 225), (240, 96, 18)  # RGB of the picture's cells, legible on light and dark


def write(workdir, report, strips):
    """Writes `report_<step>.json` and `.html` into `workdir`, each whole or not at all -> path of the page.

    A report by a named protocol is `report_<step>_<protocol>`.
    `report` is the dict that vidjax.evaluate builds; `strips` maps a video's id to uint8 (n, H, W, 3) frames.
    """
    report = _plain(report)
    called = name(report["step"], report["views"].get("protocol"), report["data"]["split"], report["data"].get("set"))
    path = pathlib.Path(workdir) / f"report_{called}.html"
    _save(path, page(report, strips))
    save_json(path.with_suffix(".json"), report)  # last: where it is, the rest is
    return path


def save_json(path, tree):
    """Writes nested figures as JSON, a line per key, whole or not at all."""
    keys = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in _plain(tree).items()]
    _save(path, "{\n  " + ",\n  ".join(keys) + "\n}\n")


def name(step, protocol="", split="eval", other=""):
    """What files of an evaluation are called: `<step>`, then `_<protocol>`, `_<split>` and `_<data set>` if unusual.

    `other` is the name of a data set that is not the run's own.
    """
    return "_".join([str(step), *filter(None, (protocol, split if split != "eval" else "", other))])


def page(report, strips):
    """A report as HTML that needs neither network nor other files -> str."""
    report = _plain(report)
    names, confusion = report["class_names"], np.asarray(report["confusion"], np.int64)
    return _template().render(
        report,
        r=report,
        correct=int(np.trace(confusion)),
        interval=wilson(report["top1"], report["data"]["videos"]),
        views=views(report["views"]),
        short="{frames}×{stride} frames, {clips}×{crops} views, {size} px, {average}".format(**report["views"]),
        counts=_counts(report),
        pairs=confused(confusion)[: SHOWN["pairs"]],
        as_table=len(names) <= CELLS,
        heat=_heat(confusion),
        shares=_shares(confusion).tolist(),
        sparse={"names": names, "rows": [[int(x) for j in row.nonzero()[0] for x in (j, row[j])] for row in confusion]},
        cards=_cards(report["mistakes"], names, strips),
        settings=_settings(report["config"]),
    )


def views(given):
    """What was shown to the model per video, in words: "8 frames × stride 2, 4 clips × 3 crops of 112 px, ..."."""
    counts = ((given[key], key) for key in ("frames", "clips", "crops"))
    frames, clips, crops = (f"{count} {key[:-1] if count == 1 else key}" for count, key in counts)
    taken = {"segments": ", one per segment", "evenly_spaced": " evenly spaced"}
    taken = taken.get(given["sampler"], f" × stride {given['stride']}")
    if given.get("protocol"):
        taken = f" × stride {given['stride']} by the protocol {given['protocol']}"
    if not given["clips"]:
        clips = "every window"
    mean = {"prob": "probabilities averaged", "logit": "logits averaged"}.get(given["average"], given["average"])
    return f"{frames}{taken}, {clips} × {crops} of {given['size']} px, {mean}"


def wilson(share, number, z=1.96):
    """The 95 % interval of a share seen in `number` trials -> (low, high); Wilson 1927, equation of the score test."""
    if not number or share is None:
        return None
    centre, spread = share + z * z / (2 * number), z * math.sqrt(share * (1 - share) / number + z * z / (4 * number**2))
    low, high = ((centre + sign * spread) / (1 + z * z / number) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def confused(confusion):
    """Pairs of different classes by how often the first was taken for the second: [(true, predicted, count, of)]."""
    wrong = confusion - np.diag(np.diag(confusion))
    rows, columns = wrong.nonzero()
    pairs = [(int(i), int(j), int(wrong[i, j]), int(confusion[i].sum())) for i, j in zip(rows, columns, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[3], pair[:2]))


def _counts(report):
    """Per class its row of the table: the report's own, with the videos found where some were not evaluated."""
    found = report["data"]["per_class"]
    return [row | {"found": n, "index": i} for i, (row, n) in enumerate(zip(report["per_class"], found, strict=True))]


def _shares(confusion):
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def _heat(confusion):
    """The matrix as a PNG data URI: colour says right or wrong, opacity the square root of the row's share."""
    shares = _shares(confusion)
    alpha = np.where(shares > 0, 0.35 + 0.65 * np.sqrt(shares), 0)
    colour = np.where(np.eye(len(shares), dtype=bool)[..., None], CORRECT, WRONG)
    pixels = np.concatenate([colour[..., ::-1], np.round(255 * alpha)[..., None]], axis=-1)
    return _uri(".png", pixels.astype(np.uint8))


def _cards(mistakes, names, strips):
    """The mistakes to show, surest first, each with its frames as JPEG data URIs."""
    surest = sorted(mistakes, key=lambda mistake: -mistake["probability"])[: SHOWN["mistakes"]]
    named = [m | {key: names[m[key]] for key in ("label", "predicted") if isinstance(m[key], int)} for m in surest]
    return [mistake | {"frames": _frames(strips.get(mistake["id"], ()))} for mistake in named]


def _frames(video):
    if not len(video):
        return []
    chosen = np.linspace(0, len(video) - 1, min(len(video), SHOWN["frames"])).round().astype(int)
    scale = min(1, HEIGHT / video[0].shape[0])
    small = [cv2.resize(video[i], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for i in chosen]
    return [_uri(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80]) for image in small]


def _uri(kind, image, options=()):
    data = cv2.imencode(kind, np.ascontiguousarray(image), list(options))[1].tobytes()
    return f"data:image/{'png' if kind == '.png' else 'jpeg'};base64,{base64.b64encode(data).decode()}"


def _settings(config, prefix=""):
    """A nested config as the command line names it: [("data.batch_size", "16"), ...]."""
    flat = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat += _settings(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + str(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return flat


def _plain(tree):
    """NumPy and JAX numbers become Python's, tuples lists, and what is not finite None, for JSON knows no NaN."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    if hasattr(tree, "tolist"):
        return _plain(tree.tolist())
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _save(path, text):
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        if fresh.is_file():
            fresh.unlink()
        reason = error.strerror.lower() if error.strerror else error
        raise OSError(f"Cannot write {path}: {reason}; make its folder writable, or free some space.") from error


@functools.cache
def _template():
    env = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
    env.filters["duration"] = progress.duration
    env.filters["amount"] = progress.amount
    return env.from_string(importlib.resources.files("vidjax").joinpath("report/page.html").read_text(encoding="utf-8"))
