"""Tracks on textures that move by known flow; histograms against loops over the pixels of each cell."""

import math

import cv2
import numpy as np
import pytest

from vidjax.data import flow, handmade, stacking


def texture(height, width, seed=0):
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.repeat(np.clip(smooth / smooth.std() * 45 + 128, 0, 255).astype(np.uint8)[..., None], 3, -1)


def moving(dx, dy, frames=20, height=64, width=96):
    """A picture moving by whole (dx, dy) pixels a frame, and its exact flow."""
    margin = frames * max(abs(dx), abs(dy))
    whole = texture(height + 2 * margin, width + 2 * margin)
    corners = [(margin - k * dy, margin - k * dx) for k in range(frames)]
    video = np.stack([whole[y : y + height, x : x + width] for y, x in corners])
    return video, np.full((frames - 1, height, width, 2), [dx, dy], np.float32)


def track(points, start=0, scale=1.0):
    """One track, as `trajectories` gives them."""
    return {"points": np.float32([points]), "start": np.array([start]), "scale": np.array([scale])}


def test_tracks_follow_the_texture():
    tracks = handmade.trajectories(*moving(2, -1))
    assert tracks["points"].dtype == np.float32
    assert len(tracks["points"]) == len(tracks["start"]) == len(tracks["scale"]) > 100
    steps = np.diff(tracks["points"], axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to(np.float32([2, -1]), steps.shape), atol=0.05)  # rounded sizes
    assert set(tracks["scale"].tolist()) == {1.0, 2**-0.5, 0.5}  # 64 pixels make three sizes of at least 32
    assert (tracks["start"] >= 0).all()
    assert (tracks["start"] + 15 <= 19).all()
    x, y = tracks["points"].transpose(2, 0, 1)
    assert x.min() >= 0
    assert y.min() >= 0
    assert x.max() <= 95 + 1.5  # the last pixel's middle at half size is that of two
    assert y.max() <= 63 + 1.5


def test_tracks_begin_in_every_free_cell_with_texture_and_in_no_other():
    video, field = moving(1, 0, frames=17)
    video = video.copy()
    video[:, :32] = 128  # no texture above
    tracks = handmade.trajectories(video, field, scales=1, length=15)
    first = tracks["points"][tracks["start"] == 0, 0]
    cells = {(x, y) for x in range(2, 95, 5) for y in range(37, 60, 5)}
    assert {tuple(point) for point in first.tolist() if point[1] > 34} == {(x, y) for x, y in cells if x + 15 <= 95}
    assert not (first[:, 1] < 30).any()
    second = tracks["points"][tracks["start"] == 1, 0]  # tracks moved by one pixel are still in their cells
    assert len(second) == 0


def test_a_cell_is_taken_again_when_its_track_has_left():
    video, field = moving(5, 0, frames=18, width=160)
    tracks = handmade.trajectories(video, field, scales=1)
    for start in (1, 2):  # each frame the tracks move by a cell, which frees the leftmost
        first = tracks["points"][tracks["start"] == start, 0]
        assert len(first) > 8
        assert (first[:, 0] == 2).all()


def test_static_and_erratic_tracks_are_left_out():
    video, field = moving(0, 0)
    assert len(handmade.trajectories(video, field)["points"]) == 0
    line = np.stack([np.arange(16) * 2.0, np.zeros(16)], -1)
    still, leap, far = line * 0.1, line.copy(), line * 10
    leap[8:, 1] += 90
    brisk = line.copy()
    brisk[8:, 1] += 60  # a long step, yet not 70 % of the track
    short_leap = line * 0.1
    short_leap[8:, 1] += 15  # nearly the whole track, yet not longer than 20 pixels
    kept = handmade.is_lively(np.stack([line, still, leap, far, brisk, short_leap]))
    assert kept.tolist() == [True, False, False, False, True, True]


def test_tracks_of_the_camera_are_left_out():
    video, field = moving(2, 1, frames=17, height=96, width=128)
    field[:, 40:72, 48:88] += np.float32([1.5, -3])
    everything = handmade.trajectories(video, field, scales=1)
    tracks = handmade.trajectories(video, field, stacking.stabilise(field), scales=1)
    assert 10 < len(tracks["start"]) < len(everything["start"]) / 2
    x, y = tracks["points"].transpose(2, 0, 1)
    assert ((x > 46) & (x < 89) & (y > 38) & (y < 73)).any(1).all()


def test_a_picture_too_small_and_a_clip_too_short_have_no_tracks():
    for video, field in (moving(2, 0, frames=15), moving(2, 0, height=31), moving(2, 0, frames=1)):
        tracks = handmade.trajectories(video, field)
        assert tracks["points"].shape == (0, 16, 2)
        features = handmade.describe(video, field, tracks)
        assert {key: value.shape for key, value in features.items()} == {
            "trajectory": (0, 30),
            "hog": (0, 96),
            "hof": (0, 108),
            "mbhx": (0, 96),
            "mbhy": (0, 96),
        }


def test_of_constant_flow():
    video, field = moving(3, 0)
    features = handmade.describe(video, field, handmade.trajectories(video, field))
    np.testing.assert_allclose(features["trajectory"], np.tile([1 / 15, 0], (len(features["hof"]), 15)), atol=1e-6)
    expected = np.tile(np.eye(9)[0] / math.sqrt(12), 12)
    np.testing.assert_allclose(features["hof"], np.tile(expected, (len(features["hof"]), 1)), atol=1e-6)
    assert (features["mbhx"] == 0).all()
    assert (features["mbhy"] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(features["hog"], axis=1), 1, atol=1e-5)
    slow = handmade.describe(video, field * 0, handmade.trajectories(video, field))
    np.testing.assert_allclose(
        slow["hof"], np.tile(np.tile(np.eye(9)[8] / math.sqrt(12), 12), (len(slow["hof"]), 1)), atol=1e-6
    )
    assert (slow["trajectory"] == 0).all()


@pytest.mark.parametrize(("dx", "dy", "bin"), [(1, 0, 0), (1, 1, 1), (0, 1, 2), (-1, 0, 4), (0, -1, 6), (1, -1, 7)])
def test_bins_are_eighths_of_a_turn_from_right_to_down(dx, dy, bin):
    y, x = np.mgrid[:40, :40]
    ramp = np.uint8(dx * x + dy * y + 100)
    inside = np.s_[1:-1, 1:-1]
    length = 2 * math.hypot(dx, dy)
    np.testing.assert_allclose(handmade.hog(ramp)[inside], length * np.tile(np.eye(8)[bin], (38, 38, 1)), atol=1e-4)
    field = np.stack([np.float32(ramp), np.zeros((40, 40), np.float32)], -1)
    np.testing.assert_allclose(handmade.mbhx(None, field), handmade.hog(ramp), atol=1e-4)
    np.testing.assert_allclose(handmade.mbhy(None, field[..., ::-1]), handmade.hog(ramp), atol=1e-4)
    assert (handmade.mbhy(None, field) == 0).all()
    vectors = np.full((4, 5, 2), [3 * dx, 3 * dy], np.float32)
    expected = np.tile(3 * math.hypot(dx, dy) * np.eye(9)[bin], (4, 5, 1))
    np.testing.assert_allclose(handmade.hof(None, vectors), expected, atol=1e-4)


def test_a_direction_between_two_bins_is_shared():
    angle = (5 + 0.25) * math.pi / 4
    found = handmade.histogram(np.full((1, 1), 2 * math.cos(angle)), np.full((1, 1), 2 * math.sin(angle)))
    np.testing.assert_allclose(found[0, 0], [0, 0, 0, 0, 0, 1.5, 0.5, 0], atol=1e-6)


def slow_histogram(x, y, bins, still):
    """One vector's histogram in plain Python."""
    out, length = np.zeros(bins), math.hypot(x, y)
    if bins == 9 and length <= still:
        out[8] = 1
        return out
    place = math.atan2(y, x) % (2 * math.pi) / (math.pi / 4)
    low = math.floor(place)
    out[low % 8] += length * (1 - place + low)
    out[(low + 1) % 8] += length * (place - low)
    return out


def slow_describe(planes, points, bins, size):
    """A volume's histograms by a loop over its pixels; `planes(t)` gives the two components of frame t."""
    height, width = size
    out = np.zeros((2, 2, 3, bins))
    for t in range(15):
        x, y = planes(t)
        left = min(max(round(float(points[t][0])) - 16, 0), width - 32)
        top = min(max(round(float(points[t][1])) - 16, 0), height - 32)
        for row in range(32):
            for column in range(32):
                place = top + row, left + column
                out[row // 16, column // 16, t // 5] += slow_histogram(x[place], y[place], bins, 0.4)
    return out.ravel()


@pytest.mark.parametrize("norm", ["l2", "root"])
def test_descriptors_are_sums_over_the_cells_of_the_volume(norm):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (18, 48, 60, 3), np.uint8)
    field = cv2.GaussianBlur(rng.normal(size=(48, 60, 17 * 2)).astype(np.float32) * 6, (0, 0), 2)
    field = np.ascontiguousarray(field.reshape(48, 60, 17, 2).transpose(2, 0, 1, 3))
    points = np.stack([np.linspace(4, 50, 16), np.linspace(40, 10, 16)], -1) + 0.3
    found = handmade.describe(video, field, track(points, start=1), norm)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(float) for frame in video]

    def differences(plane):
        wide = cv2.copyMakeBorder(np.asarray(plane, float), 1, 1, 1, 1, cv2.BORDER_REFLECT_101)
        return wide[1:-1, 2:] - wide[1:-1, :-2], wide[2:, 1:-1] - wide[:-2, 1:-1]

    for name, bins, planes in (
        ("hog", 8, lambda t: differences(grey[1 + t])),
        ("hof", 9, lambda t: (field[1 + t, ..., 0], field[1 + t, ..., 1])),
        ("mbhx", 8, lambda t: differences(field[1 + t, ..., 0])),
        ("mbhy", 8, lambda t: differences(field[1 + t, ..., 1])),
    ):
        expected = slow_describe(planes, points, bins, (48, 60))
        expected = expected / np.linalg.norm(expected) if norm == "l2" else np.sqrt(expected / expected.sum())
        np.testing.assert_allclose(found[name][0], expected, atol=2e-6)  # float32
    steps = [cv2.medianBlur(field[1 + t, ..., i], 3) for t in range(15) for i in (0, 1)]
    steps = np.array([plane[round(points[k // 2][1]), round(points[k // 2][0])] for k, plane in enumerate(steps)])
    whole = np.linalg.norm(steps.reshape(15, 2), axis=1).sum()
    np.testing.assert_allclose(found["trajectory"][0], steps / whole, atol=1e-6)


def test_a_larger_scale_is_the_description_of_the_smaller_picture():
    video, field = moving(4, 2, frames=16, height=96, width=128)
    points = np.stack([np.linspace(40, 80, 16), np.linspace(40, 60, 16)], -1)
    found = handmade.describe(video, field, track(points, scale=0.5))
    small = np.stack([cv2.resize(frame, (64, 48), interpolation=cv2.INTER_AREA) for frame in video])
    expected = handmade.describe(small, flow.resize(field, 48, 64), track(points / 2))
    for name in ("hog", "hof", "mbhx", "mbhy"):
        # grey before or after resizing: a grey level's rounding
        np.testing.assert_allclose(found[name], expected[name], atol=1e-2)


def test_a_mirrored_clip_has_mirrored_features():
    video, field = moving(2, 1, frames=16)
    points = np.stack([np.linspace(40, 60, 16), np.linspace(30, 34, 16)], -1)
    there = handmade.describe(video, field, track(points))
    back = handmade.describe(
        np.ascontiguousarray(video[:, :, ::-1]),
        field[:, :, ::-1] * np.float32([-1, 1]),
        track([95, 0] + points * [-1, 1]),
    )
    np.testing.assert_allclose(back["trajectory"].reshape(15, 2), there["trajectory"].reshape(15, 2) * [-1, 1])
    bins = (4 - np.arange(8)) % 8
    cells = there["hof"].reshape(2, 2, 3, 9)[:, ::-1]
    np.testing.assert_allclose(back["hof"].reshape(2, 2, 3, 9)[..., :8], cells[..., bins], atol=1e-6)
    np.testing.assert_allclose(back["hof"].reshape(2, 2, 3, 9)[..., 8], cells[..., 8], atol=1e-6)


def test_the_camera_s_motion_can_be_taken_from_the_features():
    video, field = moving(2, 1, frames=17, height=96, width=128)
    field[:, 40:72, 48:88] += np.float32([3, 0])
    residual = stacking.stabilise(field)
    features = handmade.describe(video, residual, handmade.trajectories(video, field, residual, scales=1))
    assert len(features["hof"]) > 10
    bins = features["hof"].reshape(len(features["hof"]), 12, 9).sum((0, 1))
    assert bins[0] + bins[8] > 0.99 * bins.sum()  # to the right, or nothing


def test_what_does_not_fit_is_refused():
    video, field = moving(1, 0)
    with pytest.raises(ValueError, match=r"the flow of a video \(20, 64, 96, 3\) is \(19, 64, 96, 2\), got"):
        handmade.trajectories(video, field[:-1])
    with pytest.raises(ValueError, match="norm must be l2 or root, got 'l1'"):
        handmade.describe(video, field, handmade.trajectories(video, field), norm="l1")
