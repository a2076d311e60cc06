"""Stacks against loops over pixels, on NumPy and on JAX arrays; and what flips and reversals must do to them."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.data import flow as flows
from vidjax.data import stacking, transforms

BOTH = pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])


def fields(seed, *shape, scale=3.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


def mirrored(flow):
    """What the flow of the mirrored video is: mirrored, x negated; any number of channel pairs."""
    out = flow[..., ::-1, :].copy()
    out[..., ::2] *= -1
    return out


def bilinear(field, x, y):
    """One vector of a field (H, W, 2) at a point, in plain Python floats."""
    h, w, _ = field.shape
    x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
    i, j = min(int(y), max(h - 2, 0)), min(int(x), max(w - 2, 0))
    b, a = y - i, x - j
    down, right = min(i + 1, h - 1), min(j + 1, w - 1)
    top = (1 - a) * field[i, j].astype(float) + a * field[i, right]
    return (1 - b) * top + b * ((1 - a) * field[down, j].astype(float) + a * field[down, right])


@BOTH
def test_stack_is_the_order_of_the_paper(xp):
    flow = fields(0, 3, 6, 4, 5, 2)
    stacked = stacking.stack(xp.asarray(flow), 4)
    assert isinstance(stacked, type(xp.asarray(flow)))
    assert stacked.shape == (3, 3, 4, 5, 8)
    for tau in range(3):
        for k in range(4):  # k counts from 0: channels 2k and 2k + 1 are I(2k + 1) and I(2k + 2) of eq. 1
            np.testing.assert_array_equal(stacked[:, tau, :, :, 2 * k], flow[:, tau + k, :, :, 0])
            np.testing.assert_array_equal(stacked[:, tau, :, :, 2 * k + 1], flow[:, tau + k, :, :, 1])


def test_stack_takes_bytes_and_any_number_of_channels():
    video = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), np.uint8)
    np.testing.assert_array_equal(stacking.stack(video, 2)[1], np.concatenate([video[1], video[2]], -1))
    assert stacking.stack(video, 2).dtype == np.uint8


@BOTH
@pytest.mark.parametrize("bound", [1.0, 20.0])
def test_trajectory_follows_each_point(xp, bound):
    flow = fields(1, 5, 6, 7, 2)
    stacked = np.asarray(stacking.trajectory(xp.asarray(flow / np.float32(bound)), 3, bound)) * bound
    expected = np.empty((3, 6, 7, 6))
    for tau in range(3):
        for v in range(6):
            for u in range(7):
                x, y = float(u), float(v)
                for k in range(3):
                    d = bilinear(flow[tau + k], x, y)
                    expected[tau, v, u, 2 * k : 2 * k + 2] = d
                    x, y = x + d[0], y + d[1]
    np.testing.assert_allclose(stacked, expected, atol=1e-4)  # positions in float32, slopes of up to 10 a pixel


def test_trajectory_on_axes_before_time_and_on_a_picture_of_one_pixel():
    flow = fields(2, 2, 4, 5, 6, 2)
    whole = stacking.trajectory(flow, 2)
    for i in range(2):
        np.testing.assert_array_equal(whole[i], stacking.trajectory(flow[i], 2))
    tiny = fields(3, 4, 1, 1, 2)
    np.testing.assert_array_equal(stacking.trajectory(tiny, 3), stacking.stack(tiny, 3))


@BOTH
def test_trajectory_of_still_fields_is_a_stack(xp):
    flow = np.zeros((4, 5, 6, 2), np.float32)
    flow[1:] = fields(4, 3, 5, 6, 2)
    np.testing.assert_array_equal(stacking.trajectory(xp.asarray(flow), 2)[0], stacking.stack(flow, 2)[0])


@BOTH
def test_bidirectional_is_halves_ahead_and_behind(xp):
    forward, backward = fields(5, 6, 3, 4, 2), fields(6, 6, 3, 4, 2)
    stacked = np.asarray(stacking.bidirectional(xp.asarray(forward), xp.asarray(backward), 4))
    assert stacked.shape == (3, 3, 4, 8)
    for i in range(3):
        frame = i + 2
        for channel, field in enumerate([forward[frame], forward[frame + 1], backward[frame - 1], backward[frame - 2]]):
            np.testing.assert_array_equal(stacked[i, :, :, 2 * channel : 2 * channel + 2], field)


def test_bidirectional_of_a_reversed_clip_swaps_the_halves():
    forward, backward = fields(7, 7, 3, 4, 2), fields(8, 7, 3, 4, 2)
    stacked = stacking.bidirectional(forward, backward, 6)
    swapped = stacking.bidirectional(backward[::-1], forward[::-1], 6)
    np.testing.assert_array_equal(swapped[::-1], np.concatenate([stacked[..., 6:], stacked[..., :6]], -1))


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(stacking.stack, size=3),
        functools.partial(stacking.trajectory, size=3),
        stacking.subtract_mean,
        stacking.subtract_median,
    ],
    ids=["stack", "trajectory", "mean", "median"],
)
def test_a_flip_negates_x_and_commutes(function):
    flow = fields(9, 5, 6, 7, 2, scale=1.0)
    np.testing.assert_array_equal(transforms.flip(flow), mirrored(flow))
    np.testing.assert_allclose(function(mirrored(flow)), mirrored(function(flow)), atol=1e-5)  # float32 sums reordered
    assert not np.allclose(function(flow[..., ::-1, :]), function(mirrored(flow)), atol=0.1)


def test_a_flip_of_stacked_bytes_is_the_stack_of_flipped_bytes():
    stored = flows.quantise(fields(10, 5, 6, 7, 2))
    np.testing.assert_array_equal(
        transforms.flip(stacking.stack(stored, 3)), stacking.stack(transforms.flip(stored), 3)
    )


@BOTH
def test_mean_and_median_leave_nothing_behind(xp):
    flow = fields(11, 2, 3, 9, 8, 2) + np.float32(5)
    centred = np.asarray(stacking.subtract_mean(xp.asarray(flow)))
    np.testing.assert_allclose(centred.sum((-3, -2)), 0, atol=1e-3)  # 72 float32 values of about 5
    np.testing.assert_allclose(centred, flow - flow.mean((-3, -2), keepdims=True), atol=1e-5)
    middle = np.asarray(stacking.subtract_median(xp.asarray(flow)))
    np.testing.assert_allclose(np.median(middle, (-3, -2)), 0, atol=1e-6)
    panned = np.full((1, 9, 8, 2), 5, np.float32)
    panned[:, :3] += 99  # a third of the picture moves otherwise
    assert set(np.unique(stacking.subtract_median(xp.asarray(panned)))) == {0, 99}
    assert set(np.unique(stacking.subtract_mean(xp.asarray(panned)))) == {-33, 66}


@BOTH
def test_magnitude_is_lrcn_s_picture(xp):
    pixels = fields(12, 2, 5, 6, 2, scale=6.0)  # some of 8 pixels and more
    scaled = np.clip(pixels / np.float32(8), -1, 1)
    picture = np.asarray(stacking.magnitude(xp.asarray(scaled))) * 128 + 128
    theirs = np.concatenate([pixels, np.linalg.norm(pixels, axis=-1, keepdims=True)], -1) * 16 + 128
    assert theirs.max() > 256
    np.testing.assert_allclose(picture, np.clip(theirs, 0, 256), atol=1e-3)  # grey levels, in float32


@BOTH
def test_rgb_difference(xp):
    video = np.random.default_rng(1).integers(0, 256, (2, 4, 3, 5, 3), np.uint8)
    video[0, :2, 0, 0] = [[0], [255]]
    difference = stacking.rgb_difference(xp.asarray(video))
    assert difference.dtype == np.float32
    np.testing.assert_allclose(difference, np.diff(video.astype(np.float64), axis=1) / 255, atol=1e-6)
    assert float(difference.max()) == 1.0
    assert float(difference.min()) >= -1.0


def test_everything_is_the_same_under_jit():
    flow = fields(13, 2, 5, 6, 7, 2)
    for function in (
        lambda flow: stacking.stack(flow, 3),
        lambda flow: stacking.trajectory(flow, 3),
        lambda flow: stacking.bidirectional(flow, -flow, 2),
        stacking.subtract_mean,
        stacking.subtract_median,
        stacking.magnitude,
    ):
        # XLA fuses multiply and add; errors of 1e-7 in a position times slopes of about 10 a pixel
        np.testing.assert_allclose(jax.jit(function)(flow), function(flow), atol=1e-4)


def camera(matrix, h, w):
    """The flow of a plane seen by a moving camera."""
    points = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float64)
    return (cv2.perspectiveTransform(points, matrix) - points).astype(np.float32)


def test_stabilise_takes_the_camera_and_leaves_the_people():
    turn, zoom, tilt = 0.03, 1.02, 2e-5
    matrix = np.array([[zoom, -turn, 3.0], [turn, zoom, -2.0], [tilt, -tilt, 1.0]])
    flow = np.stack([camera(matrix, 96, 128), camera(np.linalg.inv(matrix), 96, 128)])
    flow[:, 30:60, 40:70] += np.array([4.0, -3.0], np.float32)
    rest = stacking.stabilise(flow)
    expected = np.zeros_like(flow)
    expected[:, 30:60, 40:70] = [4, -3]
    np.testing.assert_allclose(rest, expected, atol=1e-3)  # the fit ends within a thousandth of a pixel
    np.testing.assert_array_equal(rest, stacking.stabilise(flow))
    assert np.abs(flow - expected).max() > 5


def test_stabilise_of_stillness_of_noise_and_of_tiny_fields():
    still = np.zeros((2, 40, 40, 2), np.float32)
    np.testing.assert_allclose(stacking.stabilise(still), still, atol=1e-6)
    assert np.isfinite(stacking.stabilise(fields(14, 3, 40, 40, 2, scale=30))).all()
    tiny = fields(15, 1, 6, 30, 2)
    np.testing.assert_array_equal(stacking.stabilise(tiny[:, :, :12]), tiny[:, :, :12])


@pytest.mark.parametrize("size", [0, 6])
def test_a_stack_needs_enough_fields(size):
    with pytest.raises(ValueError, match=f"a stack of {size} fields"):
        stacking.stack(fields(16, 5, 3, 3, 2), size)


def test_bidirectional_refuses_odd_sizes_and_other_shapes():
    flow = fields(17, 5, 3, 3, 2)
    for arguments in ((flow, flow, 3), (flow, flow[:4], 2)):
        with pytest.raises(ValueError, match="even size and two flows of one shape"):
            stacking.bidirectional(*arguments)
