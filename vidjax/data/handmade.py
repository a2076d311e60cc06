"""Dense trajectories and their histograms, the features before deep nets: Wang et al. 2011, Wang & Schmid 2013.

Points on a grid are followed for L frames by median-filtered flow, on pictures of several sizes; along each track lies
a volume of 32 x 32 pixels x L frames, in 2 x 2 x 3 cells of which the directions of gradients are counted: of the
picture (HOG), of the flow itself (HOF) and of the gradients of the flow's two components (MBHx, MBHy). Improved
trajectories: give `stacking.stabilise(flow)` to `describe`, and to `trajectories` as `residual`.
"""

import math

import cv2
import numpy as np

from vidjax.data import flow as flows

LENGTH = 15  # frames that a track lasts
STEP = 5  # pixels between sampled points
SCALES = 8  # sizes, each 1 / sqrt 2 of the last
QUALITY = 0.001  # of the largest smaller eigenvalue in a frame that a point needs
PATCH, CELLS, SPANS = 32, 2, 3  # the volume's pixels a side, its cells a side and along time
BINS = 8
STILL_FLOW = 0.4  # pixels; shorter vectors go to HOF's ninth bin
LEAST_SPREAD, MOST_SPREAD = 3**0.5, 50.0  # pixels of standard deviation: less is static, more erratic
LONGEST_STEP, STEP_SHARE = 20.0, 0.7  # of an erratic track: a step above both, pixels and share of the whole length
CAMERA = 1.0  # pixels; a track all of whose residual steps are shorter is the camera's motion


def trajectories(video, flow, residual=None, *, length=LENGTH, step=STEP, scales=SCALES, quality=QUALITY):
    """Tracks of a clip: uint8 (T, H, W, 3) and its flow (T - 1, H, W, 2) -> {points, start, scale}, one row per track.

    `points` (N, length + 1, 2) float32 are x, y in pixels of the picture, `start` (N,) the first frame, `scale` (N,)
    the size of the picture followed on, 1, 0.71, 0.5, ... Static and erratic tracks are left out, and, where the flow
    without the camera's motion is given as `residual`, those that move with the camera. ValueError for other shapes.
    """
    check(video, flow)
    found = [{"points": np.empty((0, length + 1, 2), np.float32), "start": np.empty(0, int), "scale": np.empty(0)}]
    for height, width, scale in sizes(video, scales):
        points, start = follow(*resized(video, flow, height, width), length, step, quality)
        points *= np.float32([video.shape[2] / width, video.shape[1] / height])
        found.append({"points": points, "start": start, "scale": np.full(len(start), scale)})
    tracks = {key: np.concatenate([each[key] for each in found]) for key in found[0]}
    keep = is_lively(tracks["points"])
    if residual is not None and len(keep):
        steps = displacements(residual, tracks)
        keep &= np.linalg.norm(steps, axis=-1).max(1, initial=0) > CAMERA
    return {key: value[keep] for key, value in tracks.items()}


def describe(video, flow, tracks, norm="l2"):
    """Features of tracks: {trajectory (N, 2L), hog (N, 96), hof (N, 108), mbhx (N, 96), mbhy (N, 96)}, float32.

    The shape of a track is its steps in `flow` over their summed lengths. Histograms are of length 1 (`norm="l2"`,
    2011) or square roots of shares (`"root"`, 2013); without any gradient they are 0. Volumes at the border are moved
    inside. Order: cell (row, column), then span of time, then bin.
    """
    check(video, flow)
    if norm not in ("l2", "root"):
        raise ValueError(f"norm must be l2 or root, got {norm!r}")
    steps = displacements(flow, tracks)
    n, length, _ = steps.shape
    whole = np.linalg.norm(steps, axis=-1).sum(1)[:, None]
    out = {"trajectory": (steps.reshape(n, 2 * length) / np.maximum(whole, 1e-9)).astype(np.float32)}
    counts = {name: np.zeros((n, CELLS**2, SPANS, BINS + (name == "hof"))) for name in DIRECTIONS}
    for scale in np.unique(tracks["scale"]):
        mine = np.flatnonzero(tracks["scale"] == scale)
        count(video, flow, {key: value[mine] for key, value in tracks.items()}, counts, mine)
    return out | {name: normalised(each.reshape(n, math.prod(each.shape[1:])), norm) for name, each in counts.items()}


def check(video, flow):
    """ValueError where a flow is not a video's."""
    t, h, w, _ = video.shape
    if flow.shape != (t - 1, h, w, 2):
        raise ValueError(f"the flow of a video {video.shape} is {(t - 1, h, w, 2)}, got {flow.shape}")


def sizes(video, scales):
    """(height, width, scale) of the pictures that points are followed on; none smaller than a volume."""
    _, h, w, _ = video.shape
    for k in range(scales):
        height, width = round(h / 2 ** (k / 2)), round(w / 2 ** (k / 2))
        if min(height, width) >= PATCH:
            yield height, width, 2 ** (-k / 2)


def resized(video, flow, height, width):
    """Grey pictures and flow of a video at another size: (T, height, width) uint8, (T - 1, height, width, 2)."""
    grey = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in video)
    grey = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in grey])
    return grey, flows.resize(np.ascontiguousarray(flow, np.float32), height, width)


def follow(grey, flow, length, step, quality):
    """Tracks on pictures (T, H, W) of one size: points (N, length + 1, 2), start (N,).

    A frame starts a track in each cell of `step` pixels in which no track is and its middle has texture (Shi &
    Tomasi 1994). A track ends after `length` steps, or unfinished where it leaves the picture.
    """
    _, h, w = grey.shape
    points, start = np.empty((0, length + 1, 2), np.float32), np.empty(0, int)
    whole = []
    for t, field in enumerate(flow):
        age = t - start
        fresh = starts(grey[t], points[np.arange(len(age)), age], step, quality) if t + length <= len(flow) else ()
        points = np.concatenate([points, np.zeros((len(fresh), length + 1, 2), np.float32)])
        start, age = np.append(start, np.full(len(fresh), t)), np.append(age, np.zeros(len(fresh), int))
        points[len(points) - len(fresh) :, 0] = np.reshape(fresh, (-1, 2))
        at = points[np.arange(len(age)), age]
        moved = at + nearest(median(field), at)
        points[np.arange(len(age)), age + 1] = moved
        inside = ((moved >= 0) & (moved <= [w - 1, h - 1])).all(1)
        done = inside & (age + 1 == length)
        whole.append((points[done], start[done]))
        points, start = points[inside & ~done], start[inside & ~done]
    if not whole:
        return points, start
    return tuple(np.concatenate(part) for part in zip(*whole, strict=True))


def starts(grey, taken, step, quality):
    """Middles of the grid's cells with texture in which none of the points `taken` (N, 2) is: (M, 2), x and y."""
    h, w = grey.shape
    rows, columns = h // step, w // step
    corner = cv2.cornerMinEigenVal(grey, blockSize=3, ksize=3)
    y, x = np.meshgrid(*(np.arange(n) * step + step // 2 for n in (rows, columns)), indexing="ij")
    free = corner[y, x] > quality * corner.max()
    column, row = (taken // step).astype(int).T
    inside = (row < rows) & (column < columns)
    free[row[inside], column[inside]] = False
    return np.stack([x[free], y[free]], -1).astype(np.float32)


def median(field):
    """A flow field with each component's median over 3x3 pixels."""
    return np.stack([cv2.medianBlur(np.ascontiguousarray(field[..., i]), 3) for i in (0, 1)], -1)


def nearest(field, points):
    """Vectors of a field (H, W, 2) at the pixels nearest to points (N, 2)."""
    h, w, _ = field.shape
    column, row = np.rint(points).astype(int).T
    return field[np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)]


def is_lively(points):
    """Which tracks (N, L + 1, 2) move, and smoothly: not static, not all over the picture, without one big leap."""
    spread = points.std(1)
    steps = np.linalg.norm(np.diff(points, axis=1), axis=-1)
    longest = steps.max(1, initial=0)
    leaps = (longest > LONGEST_STEP) & (longest > STEP_SHARE * steps.sum(1))
    return (spread >= LEAST_SPREAD).any(1) & (spread <= MOST_SPREAD).all(1) & ~leaps


def displacements(flow, tracks):
    """The median-filtered flow at each point of each track but the last: (N, L, 2), in pixels of the picture."""
    n, length, _ = tracks["points"].shape
    out = np.zeros((n, length - 1, 2), np.float32)
    for t in range(len(flow)):
        age = t - tracks["start"]
        now = np.flatnonzero((age >= 0) & (age < length - 1))
        if len(now):
            out[now, age[now]] = nearest(median(flow[t]), tracks["points"][now, age[now]])
    return out


def count(video, flow, tracks, counts, mine):
    """Adds the histograms along tracks of one scale, frame by frame, to rows `mine` of `counts`."""
    _, h, w, _ = video.shape
    scale, length = tracks["scale"][0], tracks["points"].shape[1] - 1
    height, width = round(h * scale), round(w * scale)
    for t in range(len(flow)):
        age = t - tracks["start"]
        now = np.flatnonzero((age >= 0) & (age < length))
        if not len(now):
            continue
        (grey,), (field,) = resized(video[t : t + 1], flow[t : t + 1], height, width)
        points = tracks["points"][now, age[now]] * [width / w, height / h]
        span = age[now] * SPANS // length
        for name, directions in DIRECTIONS.items():
            table = cv2.integral(directions(grey, field), sdepth=cv2.CV_64F)
            counts[name][mine[now], :, span] += boxes(table, points)


def boxes(table, points):
    """Histograms of cells around points (N, 2), of an integral histogram (H + 1, W + 1, bins): (N, cells, bins)."""
    h, w, _ = table.shape
    side = PATCH // CELLS
    x, y = (
        np.clip(np.rint(part).astype(int) - PATCH // 2, 0, size - 1 - PATCH)
        for part, size in zip(points.T, (w, h), strict=True)
    )
    edges = np.arange(CELLS + 1) * side
    corners = table[(y[:, None] + edges)[:, :, None], (x[:, None] + edges)[:, None]]
    cells = np.diff(np.diff(corners, axis=1), axis=2)
    cells[cells < 1e-6] = 0  # what is left of differences of large sums
    return cells.reshape(len(points), CELLS**2, -1)


def histogram(x, y, still=0.0):
    """Each pixel's vector as a histogram of directions: two (H, W) -> float32 (H, W, 8), its length shared by two bins.

    Bin b is the direction of b / 8 turns from x to y. `still` > 0 adds a bin that counts 1 for each shorter vector.
    """
    length, place = np.hypot(x, y), np.arctan2(y, x) * (BINS / (2 * np.pi)) % BINS
    low = np.floor(place)
    share, low = (place - low) * length, low.astype(int) % BINS  # rounding may make `place` 8
    out = np.zeros((*x.shape, BINS + (still > 0)), np.float32)
    row, column = np.indices(x.shape, sparse=True)
    out[row, column, low], out[row, column, (low + 1) % BINS] = length - share, share
    if still:
        out[length <= still] = np.eye(BINS + 1, dtype=np.float32)[BINS]
    return out


def gradients(plane):
    """Central differences of a picture (H, W): those along x and along y."""
    plane = np.asarray(plane, np.float32)
    return cv2.Sobel(plane, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(plane, cv2.CV_32F, 0, 1, ksize=1)


def hog(grey, field=None):
    """Directions of the picture's gradients: (H, W) -> (H, W, 8)."""
    return histogram(*gradients(grey))


def hof(grey, field):
    """Directions of the flow, and stillness: (H, W, 2) -> (H, W, 9)."""
    return histogram(field[..., 0], field[..., 1], STILL_FLOW)


def mbhx(grey, field):
    """Directions of the gradients of the flow along x, the motion's boundaries: (H, W, 2) -> (H, W, 8)."""
    return histogram(*gradients(field[..., 0]))


def mbhy(grey, field):
    """Directions of the gradients of the flow along y: (H, W, 2) -> (H, W, 8)."""
    return histogram(*gradients(field[..., 1]))


DIRECTIONS = {"hog": hog, "hof": hof, "mbhx": mbhx, "mbhy": mbhy}


def normalised(counts, norm):
    """Rows of length 1, or square roots of each entry's share of its row; 0 where all are 0. Float32."""
    if norm == "root":
        return np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1e-9)).astype(np.float32)
    return (counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)).astype(np.float32)
