"""The motion suite: real MP4 files of eight classes that only motion tells apart.

A textured shape moves over a textured background that drifts or shakes in a direction of its own. Every scene is filmed
once per class: the same textures, colours, background motion and noise strength, another motion of the shape. Position,
angle and log-size are uniform on their ranges in every frame of every class, because a shape that reaches the end of a
range comes back at its other end; so one frame says nothing about the class. `train` and `eval` share no texture.
"""

import concurrent.futures
import functools
import json
import math
import multiprocessing
import os
import pathlib

import cv2
import numpy as np

from vidjax.data import video
from vidjax.data.choreography import CLASSES, FLIP, FLIP_PAIRS, MOTIONS, RANGES, SHAPES, SPEEDS, SUITES, states

__all__ = ["CLASSES", "FLIP", "FLIP_PAIRS", "SUITES", "draw", "render", "scene", "states", "texture"]


TEXTURES = {  # family: possible numbers of cells or periods per tile
    "train": {"noise": (4, 6, 9), "stripes": (3, 5), "checker": (4, 8), "blobs": (5, 9)},
    "eval": {"noise": (5, 7, 8), "stripes": (4, 6), "checker": (6, 10), "waves": (3, 4)},
}
TILE = 64
FPS = 12
VERSION = 1


def scene(seed, split, n, frames=(8, 16)):
    """Everything but the motion of scene `n`: a dict of numbers and texture ids, a pure function of its arguments."""
    rng = np.random.default_rng((seed, sorted(TEXTURES).index(split), n))
    length = int(rng.integers(frames[0], frames[1] + 1))
    dark, bright = sorted(rng.uniform((30, 150), (105, 225)))
    means = (dark, bright) if rng.random() < 0.5 else (bright, dark)
    drift = rng.uniform(0, 2 * math.pi)
    shaking = rng.random() < 0.25
    path = rng.normal(0, 0.006, (length, 2)) if shaking else np.zeros((length, 2))
    path += (
        0.0
        if shaking
        else np.arange(length)[:, None] * rng.uniform(0, 0.015) * np.array([math.cos(drift), math.sin(drift)])
    )
    return {
        "length": length,
        "shape": SHAPES[rng.integers(len(SHAPES))],
        "aspect": rng.uniform(0.45, 0.7),
        "state": rng.uniform(*RANGES.T),
        "speed": rng.uniform(*SPEEDS.T),
        "reference": int(rng.integers(length)),
        "background": texture_id(rng, split),
        "foreground": texture_id(rng, split),
        "background_colours": colours(rng, means[0], rng.uniform(12, 30)),
        "foreground_colours": colours(rng, means[1], rng.uniform(20, 45)),
        "background_path": path + rng.uniform(0, 1, 2),
        "noise": rng.uniform(1, 6),
        "noise_seed": int(rng.integers(2**31)),
    }


def colours(rng, mean, contrast):
    """Two RGB colours `contrast` levels below and above a grey `mean`, each with a tint: float (2, 3)."""
    return mean + np.array([[-contrast], [contrast]]) + rng.uniform(-20, 20, (2, 3))


def texture_id(rng, split):
    """`family-number-seed`; splits draw from disjoint (family, number) pairs, so no id occurs in both."""
    family = sorted(TEXTURES[split])[rng.integers(len(TEXTURES[split]))]
    return f"{family}-{rng.choice(TEXTURES[split][family])}-{rng.integers(2**31)}"


def texture(name):
    """A periodic pattern in [0, 1] from its id: float32 (TILE, TILE)."""
    family, number, seed = name.split("-")
    k, rng = int(number), np.random.default_rng(int(seed))
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32) / TILE
    if family == "noise":
        cells = np.pad(rng.random((k, k), np.float32), 1, mode="wrap")
        steps = (np.stack([x, y]) * k + 0.5).astype(np.float32)
        tile = cv2.remap(cells, *steps, cv2.INTER_LINEAR)
    elif family == "blobs":
        dx, dy = (np.abs((a[..., None] - rng.random(k) + 0.5) % 1 - 0.5) for a in (x, y))
        tile = np.exp(-(dx**2 + dy**2) / (2 * rng.uniform(0.05, 0.12, k) ** 2)).max(-1)
    else:
        turn = rng.integers(2)
        a, b = ((k * x, rng.integers(-1, 2) * y), (k * y, rng.integers(-1, 2) * x))[turn]
        phase, other = rng.random(2)
        if family == "stripes":
            tile = 0.5 + 0.5 * np.sin(2 * math.pi * (a + b + phase))
        elif family == "checker":
            tile = ((k * x + phase) % 2 < 1) ^ ((k * y + other) % 2 < 1)
        else:
            tile = 0.5 + 0.5 * np.sin(2 * math.pi * (a + phase)) * np.sin(2 * math.pi * (a + (k - 1) * b + other))
    tile = tile.astype(np.float32)
    return (tile - tile.min()) / max(float(np.ptp(tile)), 1e-6)


def distance(shape, aspect, u, v):
    """Signed distance, negative inside, to a shape of radius 1 in its own axes."""
    if shape == "rectangle":
        return np.maximum(np.abs(u) - 1, np.abs(v) - aspect)
    if shape == "ellipse":
        return (np.sqrt(u**2 + (v / aspect) ** 2) - 1) * aspect
    if shape == "triangle":
        return np.maximum(np.abs(v) * 0.866 + u * 0.5, -u) - 0.5
    u, v, arm = np.abs(u), np.abs(v), aspect * 0.6
    return np.minimum(np.maximum(u - 1, v - arm), np.maximum(v - 1, u - arm))


def draw(plan, label, size=48, suite="motion"):
    """A scene filmed as class `label` of a suite: uint8 (T, size, size, 3)."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5
    rows, columns = rows / size, columns / size
    shift = plan["background_path"][:, :, None, None].astype(np.float32)
    pixels = paint(plan["background"], plan["background_colours"], columns - shift[:, 0], rows - shift[:, 1])
    for layer in SUITES[suite][1](plan, label):
        mask, u, v = covered(layer, plan["aspect"], rows, columns, size)
        pixels = pixels + mask * (paint(plan["foreground"], layer["colours"], u * 0.4, v * 0.4) - pixels)
    noise = np.random.default_rng(plan["noise_seed"]).standard_normal((*pixels.shape[:3], 1), np.float32)
    return np.clip(pixels + plan["noise"] * noise + 0.5, 0, 255).astype(np.uint8)


def covered(layer, aspect, rows, columns, size):
    """How much of each pixel a shape covers, (T, H, W, 1), and the pixels' places u, v (T, H, W) in its own axes."""
    x, y, angle, scale = (a[:, None, None].astype(np.float32) for a in layer["states"].T)
    radius, cos, sin = np.exp(scale), np.cos(angle), np.sin(angle)
    u = (cos * (columns - x) + sin * (rows - y)) / radius
    v = (cos * (rows - y) - sin * (columns - x)) / radius
    mask = np.clip(0.5 - distance(layer["shape"], aspect, u, v) * radius * size, 0, 1)[..., None]
    mask *= layer.get("shown", np.ones(len(mask)))[:, None, None, None].astype(np.float32)
    return mask, u, v


def true_flow(plan, label, size=48, suite="motion"):
    """Where each pixel of a scene moves, float32 (T - 1, size, size, 2) in pixels per frame, x and y; and the shapes.

    Field k leads from frame k to frame k + 1, also where a shape jumps to the other end of its range. The shapes are
    bool (T, size, size): pixels that one of them covers by more than half.
    """
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5
    rows, columns = rows / size, columns / size
    field = np.broadcast_to(
        np.diff(plan["background_path"], axis=0)[:, None, None], (plan["length"] - 1, size, size, 2)
    )
    shapes = np.zeros((plan["length"], size, size), bool)
    for layer in SUITES[suite][1](plan, label):
        mask, u, v = covered(layer, plan["aspect"], rows, columns, size)
        x, y, angle, scale = (a[1:, None, None] for a in layer["states"].T)  # where the same u, v are one frame later
        u, v, radius, cos, sin = u[:-1], v[:-1], np.exp(scale), np.cos(angle), np.sin(angle)
        moved = [x + radius * (cos * u - sin * v) - columns, y + radius * (sin * u + cos * v) - rows]
        field = np.where(mask[:-1] > 0.5, np.stack(moved, -1), field)
        shapes |= mask[..., 0] > 0.5
    return (field * size).astype(np.float32), shapes


def true_flow_of(path):
    """`true_flow` of a video file that `render` has written; ValueError for any other."""
    path = pathlib.Path(path)
    split, label, name = path.parts[-3:] if len(path.parts) > 2 else ("", "", "")
    given = known(path.parent.parent.parent) if path.suffix == ".mp4" and path.stem.isdecimal() else None
    if given is None or split not in TEXTURES or label not in given["classes"]:
        raise ValueError(f"{path} is no video of a rendered motion suite: its true flow is not known")
    n = int(path.stem) * len(given["classes"]) + given["classes"].index(label)
    return true_flow(plan_of(given, split, n), label, given["size"], given.get("suite", "motion"))


def paint(name, pair, x, y):
    """A texture in two colours at tile coordinates x, y (T, H, W): float32 (T, H, W, 3)."""
    t, h, w = x.shape
    tile = np.pad(texture(name), ((0, 1), (0, 1)), mode="wrap")
    at = [((a - np.floor(a)) * TILE).reshape(t * h, w) for a in (x, y)]
    mix = cv2.remap(tile, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(t, h, w, 1)
    low, high = pair.astype(np.float32)
    return low + mix * (high - low)


def render(
    out, *, train=2400, evaluation=480, size=48, frames=(8, 16), seed=0, suite="motion", classes=(), workers=0,
    progress=None,
):  # fmt: skip
    """Writes `out/{train,eval}/<class>/<scene>.mp4` and, last, the manifest `out/motion.json`; returns files written.

    `suite` is motion, correspondence or order (choreography.py), `classes` are by default all of its own. `train` and
    `evaluation` count files; `frames` is a length or a (least, most) pair. `workers` processes share the work (0: this
    one). What a killed or finished call with the same parameters left is kept; `progress(done, total)`
    is called after each file. Raises ValueError for bad parameters and for a folder that holds anything else.
    """
    out = pathlib.Path(out)
    frames = (frames, frames) if isinstance(frames, int) else tuple(frames)
    given = {"version": VERSION, "train": train, "evaluation": evaluation, "size": size, "frames": list(frames)}
    if suite not in SUITES:
        raise ValueError(f"motion: suite is one of {', '.join(SUITES)}, not {suite!r}")
    classes = tuple(classes) or SUITES[suite][0]
    given |= {"seed": seed, "classes": list(classes)} | ({"suite": suite} if suite != "motion" else {})
    check(given)
    claim(out, given)
    jobs = [(split, n) for split, count in (("train", train), ("eval", evaluation)) for n in range(count)]
    todo = [job for job in jobs if not (out / clip_path(*job, classes)).exists()]
    work = functools.partial(write, out=out, given=given)
    for done, _ in enumerate(spread(work, todo, workers), len(jobs) - len(todo) + 1):
        if progress:
            progress(done, len(jobs))
    if todo or not (out / "motion.json").exists():
        plans = ((clip_path(*job, classes), plan_of(given, *job)) for job in jobs)
        textures = {path: [plan["foreground"], plan["background"]] for path, plan in plans}
        save(out / "motion.json", given | {"textures": textures})
    (out / "motion.part.json").unlink(missing_ok=True)
    return len(todo)


def check(given):
    """Raises ValueError with one sentence for parameters that cannot be rendered."""
    low, high = given["frames"]
    known = SUITES[given["suite"]][0] if "suite" in given else MOTIONS
    unknown = [name for name in given["classes"] if name not in known]
    if unknown:
        raise ValueError(f"motion: no class {unknown[0]!r}; choose from {', '.join(known)}")
    if not given["classes"] or given["train"] < 0 or given["evaluation"] < 0:
        raise ValueError("motion: `classes` is empty, or `train` or `evaluation` is negative")
    if given["size"] < 16 or given["size"] % 2:
        raise ValueError(f"motion: size must be an even number of at least 16 pixels, not {given['size']}")
    if not 2 <= low <= high:
        raise ValueError(f"motion: frames must be a length, or (least, most), of at least 2, not {low}, {high}")


def claim(out, given):
    """Marks `out` as being rendered with parameters `given`, or raises ValueError if it holds something else."""
    there = known(out)
    if there is None and out.exists() and any(not entry.name.startswith(".") for entry in out.iterdir()):
        there = known(out)  # another process may have begun between the two looks
        if there is None:
            raise ValueError(f"{out} is not empty and has no motion.json: name another folder for the motion suite")
    keys = ["suite", *given, *(there or {})]
    for key in dict.fromkeys(key for key in keys if key != "textures") if there is not None else ():
        value = given.get(key)
        if there.get(key) != value:
            other = f"{key} {there.get(key)}, not {value}"
            raise ValueError(f"{out} holds a motion suite with {other}: name another folder, or delete it")
    if there is None:
        out.mkdir(parents=True, exist_ok=True)
        save(out / "motion.part.json", given)


def known(out):
    """The parameters of the suite in `out`, begun or finished, or None."""
    for path in (out / "motion.part.json", out / "motion.json"):
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ValueError(f"{path} is damaged: delete the folder {out} and render it anew") from error
    return None


def save(path, value):
    """Writes JSON so that the file is either whole or absent."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1))
    os.replace(part, path)


def clip_path(split, n, classes):
    """File `n` of a split, relative to the suite's folder: class n modulo their number, of scene n over it."""
    return f"{split}/{classes[n % len(classes)]}/{n // len(classes):05d}.mp4"


def plan_of(given, split, n):
    """The scene of file `n` of a split."""
    return scene(given["seed"], split, n // len(given["classes"]), given["frames"])


def write(job, out, given):
    """Draws and encodes one (split, n); `video.write` makes the file appear whole."""
    path = out / clip_path(*job, given["classes"])
    path.parent.mkdir(parents=True, exist_ok=True)
    label = given["classes"][job[1] % len(given["classes"])]
    video.write(path, draw(plan_of(given, *job), label, given["size"], given.get("suite", "motion")), fps=FPS)


def spread(work, todo, workers):
    """Applies `work` to each item, in order, here or in spawned processes; yields the results."""
    if not workers or len(todo) < 64:
        yield from map(work, todo)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        yield from pool.map(work, todo, chunksize=16)
