"""Host flow on pictures that are moved by known amounts, and its forms: bytes, other sizes, a picture."""

import pickle

import cv2
import numpy as np
import pytest

from vidjax.data import flow, transforms

METHODS = pytest.mark.parametrize(
    "method", [("dis", {}), ("dis", {"preset": "fast"}), ("dis", {"preset": "ultrafast"}), ("farneback", {})], ids=str
)


def texture(height, width, seed=0):
    """A smooth random RGB picture."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return np.clip(smooth / smooth.std() * 45 + 128, 0, 255).astype(np.uint8)


def moving(height, width, dx, dy, frames=3, seed=0):
    """A clip whose picture moves by whole (dx, dy) pixels a frame."""
    margin = (frames - 1) * max(abs(dx), abs(dy))
    whole = texture(height + 2 * margin, width + 2 * margin, seed)
    corners = [(margin - k * dy, margin - k * dx) for k in range(frames)]
    return np.stack([whole[y : y + height, x : x + width] for y, x in corners])


def square(height, width, x, y, size=16):
    """A textured square on grey."""
    picture = np.full((height, width, 3), 90, np.uint8)
    picture[y : y + size, x : x + size] = texture(size, size, 1)
    return picture


@METHODS
@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 2), (-2, 1)])
def test_a_moving_picture(method, dx, dy):
    name, options = method
    video = moving(96, 128, dx, dy, 3)
    found = flow.estimate(video, name, **options)
    assert found.shape == (2, 96, 128, 2)
    assert found.dtype == np.float32
    inside = found[:, 12:-12, 12:-12]
    np.testing.assert_allclose(
        np.median(inside, (1, 2)), [[dx, dy]] * 2, atol=0.2
    )  # presets stop at a quarter of the size
    assert np.linalg.norm(inside - [dx, dy], axis=-1).mean() < 0.3


@METHODS
def test_the_sign_of_a_moving_square_and_of_its_mirror_image(method):
    name, options = method
    video = np.stack([square(96, 96, 40, 40), square(96, 96, 43, 41)])
    on = np.s_[0, 44:54, 44:54]
    there = flow.estimate(video, name, **options)[on].mean((0, 1))
    back = flow.estimate(video[::-1], name, **options)[on].mean((0, 1))
    assert there[0] > 1.5
    assert there[1] > 0.4
    assert (back < -0.4).all()
    mirrored = transforms.flip(flow.estimate(transforms.flip(video), name, **options))[on].mean((0, 1))
    np.testing.assert_allclose(mirrored, there, atol=0.35)  # pixels; the searches are not mirror-symmetric


@pytest.mark.parametrize(("name", "error", "ours"), [("dis", 0.22548, "dis"), ("farneback", 0.36119, "farneback")])
def test_golden_pair(golden, name, error, ours):
    folder = golden / "flow"
    pair = np.stack([cv2.imread(str(folder / f"frame{i}.png"))[..., ::-1] for i in (10, 11)])
    data = (folder / "flow10.flo").read_bytes()
    width, height = np.frombuffer(data, np.int32, 2, 4)
    truth = np.frombuffer(data, np.float32, offset=12).reshape(height, width, 2)
    known = (np.abs(truth) < 1e9).all(-1)
    found = flow.estimate(pair, name)[0]
    assert np.linalg.norm(found - truth, axis=-1)[known].mean() == pytest.approx(error, abs=2e-3)  # other OpenCVs
    expected = np.load(folder / "optical_flow_opencv.npz")[f"rubberwhale/{ours}"]
    assert np.linalg.norm(found - expected, axis=-1).mean() < 0.01


def test_one_frame_has_no_flow_and_no_frame_is_an_error():
    assert flow.estimate(np.zeros((1, 40, 50, 3), np.uint8)).shape == (0, 40, 50, 2)
    with pytest.raises(ValueError, match="at least one frame"):
        flow.estimate(np.zeros((0, 40, 50, 3), np.uint8))


@METHODS
@pytest.mark.parametrize("size", [(1, 1), (8, 64), (12, 64), (24, 2000), (31, 33)], ids=str)
def test_small_and_long_pictures(method, size):
    name, options = method  # OpenCV's DIS crashes the process on some of them and raises on others
    video = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    found = flow.estimate(video, name, **options)
    assert found.shape == (1, *size, 2)
    assert np.isfinite(found).all()


def test_crops_that_are_views_are_taken():
    video = np.ascontiguousarray(moving(64, 64, 2, 0))
    np.testing.assert_array_equal(flow.estimate(video[:, 8:, 8:]), flow.estimate(video[:, 8:, 8:].copy()))


def test_an_estimator_travels_and_is_checked_when_it_is_made():
    video = moving(48, 48, 1, 0)
    travelled = pickle.loads(pickle.dumps(flow.estimator("farneback", levels=2)))
    np.testing.assert_array_equal(travelled(video), flow.estimate(video, "farneback", levels=2))
    for arguments, options, message in (
        (("brox",), {}, "no host flow 'brox', only dis, farneback"),
        (("dis",), {"preset": "best"}, "no preset 'best' of DIS flow, only ultrafast, fast, medium"),
        (("farneback",), {"preset": "fast"}, "does not take these options"),
    ):
        with pytest.raises(ValueError, match=message):
            flow.estimator(*arguments, **options)


@pytest.mark.parametrize("bound", [20.0, 8.0, 3.7])
def test_a_round_trip_errs_by_half_a_quantum_inside_the_bound_and_clips_outside(bound):
    field = np.linspace(-1.2 * bound, 1.2 * bound, 2 * 3001, dtype=np.float32).reshape(1, 3001, 1, 2)
    stored = flow.quantise(field, bound)
    assert stored.dtype == np.uint8
    assert stored.shape == field.shape
    back = flow.dequantise(stored, bound)
    assert back.dtype == np.float32
    quantum = bound / 127.5
    inside = np.abs(field) <= bound
    assert np.abs(back - field)[inside].max() <= quantum / 2 + 1e-5
    np.testing.assert_allclose(back[~inside], np.copysign(bound, field[~inside]), rtol=1e-6)
    np.testing.assert_array_equal(flow.quantise(back, bound), stored)


def test_bytes_are_the_contract_s():
    field = np.array([-25, -20, -10, 0, 0.1, 10, 20, 25], np.float32).reshape(1, 1, 4, 2)
    assert flow.quantise(field).ravel().tolist() == [0, 0, 64, 128, 128, 191, 255, 255]
    assert flow.dequantise(np.array([0, 255], np.uint8)).tolist() == [-20, 20]
    assert np.abs(flow.dequantise(np.arange(256, dtype=np.uint8))).min() == np.float32(0.5 / 127.5 * 20)


def test_bytes_of_the_mirror_image_are_the_mirror_image_of_the_bytes():
    field = np.random.default_rng(0).normal(scale=9, size=(2, 5, 6, 2)).astype(np.float32)
    np.testing.assert_array_equal(flow.quantise(transforms.flip(field)), transforms.flip(flow.quantise(field)))


def test_resizing_scales_the_vectors_with_the_sides():
    field = np.zeros((2, 30, 40, 2), np.float32)
    field[...] = [4, -3]
    np.testing.assert_allclose(flow.resize(field, 60, 20), np.broadcast_to([2, -6], (2, 60, 20, 2)).astype(np.float32))
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None], (1, 30, 40, 2))
    small = flow.resize(np.ascontiguousarray(ramp), 10, 10)  # by 3 and by 4: areas
    np.testing.assert_allclose(small[0, :, :, 0], np.tile((np.arange(10) * 4 + 1.5) / 4, (10, 1)), rtol=1e-6)
    assert flow.resize(field[:0], 10, 10).shape == (0, 10, 10, 2)
    np.testing.assert_array_equal(flow.resize(field, 30, 40), field)


def test_the_flow_of_a_smaller_picture_is_the_smaller_picture_of_the_flow():
    video = moving(128, 160, 4, 2)
    small = np.stack([cv2.resize(frame, (80, 64), interpolation=cv2.INTER_AREA) for frame in video])
    direct, resized = flow.estimate(small), flow.resize(flow.estimate(video), 64, 80)
    assert np.linalg.norm(direct - resized, axis=-1)[:, 8:-8, 8:-8].mean() < 0.2


def test_colors():
    field = np.array([[[[0, 0], [5, 0], [0, 5], [-5, 0], [0, -2.5]]]], np.float32)
    white, right, down, left, up = flow.color(field)[0, 0].tolist()
    assert (white, right) == ([255, 255, 255], [255, 0, 0])
    assert left == [0, 255, 255]
    np.testing.assert_allclose(down, [127.5, 255, 0], atol=1)  # rounding
    np.testing.assert_allclose(up, [191, 127.5, 255], atol=1)  # half as fast, half as deep
    np.testing.assert_allclose(flow.color(field, 10)[0, 0, 1], [255, 127.5, 127.5], atol=1)
    assert (flow.color(np.zeros((2, 3, 2))) == 255).all()
    assert flow.color(np.zeros((0, 3, 4, 2))).shape == (0, 3, 4, 3)
