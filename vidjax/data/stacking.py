"""What a net sees of a run of flow fields: stacks of them, with the camera's or the mean motion taken away.

The functions take NumPy arrays and JAX arrays alike (`stabilise` NumPy only) and return the same kind. A field is
(H, W, 2), x before y; leading axes are free, time is the fourth from the end. Unless `bound` is said, any unit will
do: pixels, or the shares of a bound that models take.
"""

import itertools

import cv2
import numpy as np

GRID = 8  # pixels between the correspondences that the camera's motion is fitted to
TOLERANCE = 1.0  # pixels that an inlier of it may be off


def stack(flow, size):
    """`size` consecutive fields in the channels: (..., T + size - 1, H, W, C) -> (..., T, H, W, size * C).

    The order is x1, y1, x2, y2, ...: eq. 1 of the two-stream paper, arXiv:1406.2199. Also for RGB differences (C 3).
    """
    xp, t = flow.__array_namespace__(), _windows(flow, size)
    return xp.concat([flow[..., k : k + t, :, :, :] for k in range(size)], axis=-1)


def trajectory(flow, size, bound=1.0):
    """`stack`, each field sampled where the last one carried the point: eq. 2 of arXiv:1406.2199; shapes as `stack`.

    p_1 = (u, v), p_k = p_(k-1) + d(p_(k-1)); bilinear, and the edge's values outside of the picture. `flow` is float
    in units of `bound` pixels.
    """
    xp, t = flow.__array_namespace__(), _windows(flow, size)
    *_, h, w, _ = flow.shape
    x, y = _grid(flow[..., :t, :, :, :], h, w)
    fields = [flow[..., :t, :, :, :]]
    for k in range(1, size):
        x, y = x + fields[-1][..., 0] * bound, y + fields[-1][..., 1] * bound
        fields.append(_sample(xp, flow[..., k : k + t, :, :, :], x, y))
    return xp.concat(fields, axis=-1)


def bidirectional(forward, backward, size):
    """Half a stack ahead of a frame and half behind: twice (..., T + size - 1, H, W, C) -> (..., T, H, W, size * C).

    `forward[k]` goes from frame k to k + 1, `backward[k]` from frame k + 1 to k. Output i belongs to frame
    f = i + size / 2: first the forward fields of frames f, f + 1, ..., then the backward fields of f, f - 1, ...; so
    a reversed clip has the same stacks in reverse with the halves swapped. ValueError for an odd `size`.
    """
    xp, t, half = forward.__array_namespace__(), _windows(forward, size), size // 2
    if size % 2 or forward.shape != backward.shape:
        raise ValueError(
            f"a bidirectional stack takes an even size and two flows of one shape, "
            f"got {size}, {forward.shape} and {backward.shape}"
        )
    ahead = [forward[..., k : k + t, :, :, :] for k in range(half, size)]
    behind = [backward[..., k : k + t, :, :, :] for k in reversed(range(half))]
    return xp.concat(ahead + behind, axis=-1)


def subtract_mean(flow):
    """Each field without its own mean vector, which is mostly the camera's: float (..., H, W, C) -> same."""
    return flow - flow.__array_namespace__().mean(flow, axis=(-3, -2), keepdims=True)


def subtract_median(flow):
    """Each field without its median in x and in y: float (..., H, W, C) -> same. Moving people bend it less."""
    return flow - flow.__array_namespace__().median(flow, axis=(-3, -2), keepdims=True)


def stabilise(flow, grid=GRID, tolerance=TOLERANCE):
    """Each field without the camera's motion, a homography fitted to the field itself: NumPy (..., H, W, 2) -> same.

    `flow` is in pixels. RANSAC takes as many vectors, `grid` pixels apart, as agree within `tolerance` pixels (Wang &
    Schmid 2013, 2.2, without matching features). A field that no homography fits stays as it is. The same field gives
    the same result.
    """
    *_, h, w, _ = flow.shape
    x, y = _grid(flow, h, w)
    points = np.stack(np.broadcast_arrays(x.reshape(1, w), y.reshape(h, 1)), -1).astype(np.float64)
    out = np.array(flow)
    for place in itertools.product(*map(range, flow.shape[:-3])):
        matrix = homography(flow[place], grid, tolerance)
        if matrix is not None:
            out[place] -= (cv2.perspectiveTransform(points, matrix) - points).astype(flow.dtype)
    return out


def homography(field, grid=GRID, tolerance=TOLERANCE):
    """The 3x3 homography that most vectors of a field (H, W, 2) in pixels follow, or None where none is found."""
    h, w, _ = field.shape
    y, x = (part.reshape(-1) for part in np.mgrid[min(grid, h) // 2 : h : grid, min(grid, w) // 2 : w : grid])
    if len(x) < 4:
        return None
    start = np.stack([x, y], -1).astype(np.float64)
    return cv2.findHomography(start, start + field[y, x], cv2.RANSAC, tolerance)[0]


def magnitude(flow):
    """LRCN's flow image: its length, at most 1, as a third channel: float (..., H, W, 2) -> (..., H, W, 3).

    `flow` is in shares of a bound. LRCN's own (create_flow_images_LRCN.m) has 16 grey levels a pixel around 128: that
    is a bound of 8 pixels.
    """
    xp = flow.__array_namespace__()
    length = xp.sqrt(xp.sum(flow * flow, axis=-1, keepdims=True))
    return xp.concat([flow, xp.clip(length, 0, 1)], axis=-1)


def rgb_difference(video):
    """Change from frame to frame: uint8 (..., T, H, W, C) -> float32 (..., T - 1, H, W, C) in [-1, 1].

    The RGB difference of TSN, arXiv:1608.00859, 3.2; `stack` makes its channels.
    """
    xp = video.__array_namespace__()
    video = xp.astype(video, xp.float32)
    return (video[..., 1:, :, :, :] - video[..., :-1, :, :, :]) * xp.asarray(1 / 255, dtype=xp.float32)


def _windows(flow, size):
    """How many stacks of `size` fields there are; ValueError where there is none."""
    fields = flow.shape[-4]
    if not 1 <= size <= fields:
        raise ValueError(f"a stack of {size} fields needs at least 1 and no more fields than there are, {fields}")
    return fields - size + 1


def _grid(flow, h, w):
    """Every pixel's x and y, of the flow's type and rank less one, to broadcast against its components."""
    xp, ones = flow.__array_namespace__(), (1,) * (flow.ndim - 3)
    x, y = xp.arange(w, dtype=flow.dtype), xp.arange(h, dtype=flow.dtype)
    return xp.reshape(x, (*ones, 1, w)), xp.reshape(y, (*ones, h, 1))


def _sample(xp, field, x, y):
    """Bilinear values of fields (..., H, W, C) at points (..., H, W); the edge continues outside."""
    *shape, h, w, c = field.shape
    flat = xp.reshape(field, (*shape, h * w, c))
    x, y = xp.clip(x, 0, w - 1), xp.clip(y, 0, h - 1)
    left, top = (xp.clip(xp.floor(part), 0, max(last, 0)) for part, last in ((x, w - 2), (y, h - 2)))
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
    column, row = xp.astype(left, xp.int32), xp.astype(top, xp.int32)

    def corner(down, along):
        place = xp.clip(row + down, 0, h - 1) * w + xp.clip(column + along, 0, w - 1)
        place = xp.reshape(place, (*shape, h * w, 1))
        return xp.reshape(xp.take_along_axis(flat, place, axis=-2), (*shape, h, w, c))

    upper = corner(0, 0) * (1 - right_share) + corner(0, 1) * right_share
    lower = corner(1, 0) * (1 - right_share) + corner(1, 1) * right_share
    return upper * (1 - bottom_share) + lower * bottom_share
