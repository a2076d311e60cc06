import cv2
import numpy as np
import pytest

from vidjax.data import transforms
from vidjax.data.transforms import crops


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(t=3, h=40, w=60, c=3):
    return rng(9).integers(0, 256, (t, h, w, c), np.uint8)


def smooth(t=2, h=120, w=160, c=3):
    """Pictures without detail below ten pixels: half a pixel of offset shows, resampling twice hardly does."""
    small = rng(4).uniform(0, 255, (t, h // 20, w // 20, c)).astype(np.float32)
    return np.stack([cv2.resize(frame, (w, h), interpolation=cv2.INTER_CUBIC) for frame in small]).clip(0, 255)


def draws(number, height, width, **options):
    draw = rng()
    return [transforms.draw(draw, height, width, **options) for _ in range(number)]


KINDS = ("random_resized", "multi_scale", "scale_jitter", "random", "center")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(256, 340), (340, 256), (64, 48), (3, 90), (1, 1)])
def test_every_draw_lies_in_the_source(kind, shape):
    for crop in draws(200, *shape, size=224, crop=kind):
        assert all(isinstance(value, int) for value in crop[:4])
        assert 0 <= crop.y <= crop.y + crop.height <= shape[0]
        assert 0 <= crop.x <= crop.x + crop.width <= shape[1]
        assert min(crop.height, crop.width) > 0
        assert (crop.size, crop.angle) == (224, 0)


def test_draw_is_a_function_of_the_generator():
    for kind in KINDS:
        options = {"size": 112, "crop": kind, "rotate": 10}
        assert draws(5, 128, 171, **options) == draws(5, 128, 171, **options)
        assert len(set(draws(5, 128, 171, **options))) == 5


def test_flips_and_angles_are_drawn():
    found = draws(1000, 128, 171, size=112, flip=0.3, rotate=15)
    assert 250 < sum(crop.flip for crop in found) < 350
    angles = [crop.angle for crop in found]
    assert -15 <= min(angles) < -14
    assert 14 < max(angles) <= 15
    assert not any(crop.flip or crop.angle for crop in draws(50, 128, 171, size=112, flip=0))


def tsn(height, width, size):
    """TSN's crops by its own words: (h, w) of neighbouring shares, at 13 places of a grid of quarter steps."""
    sides = [int(min(height, width) * share) for share in (1, 0.875, 0.75, 0.66)]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    found = set()
    for i in range(4):
        for j in range(max(0, i - 1), min(3, i + 1) + 1):
            h, w = sides[i], sides[j]
            y, x = [(height - h) // 4 * k for k in range(5)], [(width - w) // 4 * k for k in range(5)]
            outer = [(a, b) for a in (0, 2, 4) for b in (0, 2, 4)]
            found |= {(y[a], x[b], h, w) for a, b in outer + [(a, b) for a in (1, 3) for b in (1, 3)]}
    return found


@pytest.mark.parametrize(("shape", "size"), [((256, 340), 224), ((340, 256), 223), ((100, 100), 74)])
def test_multi_scale_is_tsns(shape, size):
    found = {tuple(crop[:4]) for crop in draws(4000, *shape, size=size, crop="multi_scale")}
    assert found == tsn(*shape, size)


def test_multi_scale_of_256_by_340():
    found = draws(2000, 256, 340, size=224, crop="multi_scale")
    assert {(crop.height, crop.width) for crop in found} == {
        *[(256, 256), (256, 224), (224, 256), (224, 224), (224, 192)],
        *[(192, 224), (192, 192), (192, 168), (168, 192), (168, 168)],
    }
    assert {(crop.y, crop.x) for crop in found if crop[2:4] == (224, 224)} == {
        *[(0, 0), (0, 58), (0, 116), (16, 0), (16, 58), (16, 116), (32, 0), (32, 58), (32, 116)],
        *[(8, 29), (8, 87), (24, 29), (24, 87)],
    }


def test_scale_jitter_cuts_what_a_scaled_source_would_show():
    sides = [crop.height for crop in draws(3000, 128, 171, size=112, crop="scale_jitter", short_sides=(128, 160))]
    assert {round(112 * 128 / short) for short in range(128, 161)} == set(sides)
    assert abs(np.mean([112 * 128 / side for side in sides]) - 144) < 1  # uniform in the shorter side
    assert draws(1, 100, 100, size=64, crop="scale_jitter", short_sides=(32, 32))[0][:4] == (0, 0, 100, 100)


def test_random_and_center_do_not_scale():
    found = draws(500, 22, 23, size=20, crop="random")
    assert {crop[:2] for crop in found} == {(y, x) for y in range(3) for x in range(4)}
    assert {crop[2:5] for crop in found} == {(20, 20, 20)}
    assert {crop[:4] for crop in draws(9, 40, 61, size=32, crop="center")} == {(4, 14, 32, 32)}
    assert {crop[:4] for crop in draws(9, 40, 61, size=50, crop="center")} == {(0, 10, 40, 40)}


def test_an_unknown_crop_is_refused():
    with pytest.raises(ValueError, match="not 'five'"):
        draws(1, 40, 60, size=32, crop="five")


def test_cut_is_slice_scale_mirror():
    crop = transforms.Crop(3, 7, 30, 41, 24)
    plain = transforms.resize(noise()[:, 3:33, 7:48], 24, 24)
    np.testing.assert_array_equal(transforms.cut(noise(), crop), plain)
    np.testing.assert_array_equal(transforms.cut(noise(), crop._replace(flip=True)), plain[:, :, ::-1])
    for channels in (1, 2, 20):  # pictures of any channels: nothing changes sign
        video = noise(c=channels)
        out = transforms.cut(video, transforms.Crop(0, 0, 40, 40, 40, True))
        np.testing.assert_array_equal(out, video[:, :, 39::-1])
        assert out.flags.c_contiguous


def test_cut_by_quarter_turns():
    for turns in range(4):
        out = transforms.cut(noise(), transforms.Crop(4, 9, 32, 32, 32, angle=90.0 * turns))
        np.testing.assert_array_equal(out, np.rot90(noise()[:, 4:36, 9:41], turns, (1, 2)))
    out = transforms.cut(noise(), transforms.Crop(4, 9, 32, 32, 32, True, 90.0))
    np.testing.assert_array_equal(out, np.rot90(noise()[:, 4:36, 9:41][:, :, ::-1], 1, (1, 2)))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (70, 50), (30, 25)])
def test_a_rotation_shows_the_source_around_the_crop(height, width):
    """Against bilinear samples computed point by point; corners come from outside the rectangle."""
    size, angle, (cy, cx) = 40, 25.0, (60, 80)
    crop = transforms.Crop(cy - height // 2, cx - width // 2, height, width, size, True, angle)
    out = transforms.cut(smooth(), crop)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    for i, j in rng().integers(0, size, (50, 2)):
        dy, dx = i + 0.5 - size / 2, j + 0.5 - size / 2
        dx, dy = c * dx - s * dy, s * dx + c * dy  # back: clockwise
        x, y = cx + (width % 2) / 2 - dx * width / size - 0.5, cy + (height % 2) / 2 + dy * height / size - 0.5
        x0, y0 = int(np.floor(x)), int(np.floor(y))
        four = smooth()[0, y0 : y0 + 2, x0 : x0 + 2]
        weights = np.outer([y0 + 1 - y, y - y0], [x0 + 1 - x, x - x0])[..., None]
        assert np.abs(out[0, i, j] - (four * weights).sum((0, 1))).max() < 2  # cv2 places samples to 1/32 pixel


def test_a_rotation_that_shrinks_averages():
    checks = (np.indices((256, 256)).sum(0) % 2 * 255)[None, ..., None].astype(np.uint8)
    out = transforms.cut(checks, transforms.Crop(32, 32, 192, 192, 32, angle=30.0))
    assert np.abs(out.astype(float) - 127.5).max() < 1
    y, x = np.indices((240, 320), np.float32)
    ramp = (0.3 * y + 0.7 * x)[None, ..., None]
    shown = transforms.cut(ramp, transforms.Crop(20, 40, 200, 220, 60, angle=1e-9))
    plain = transforms.cut(ramp, transforms.Crop(20, 40, 200, 220, 60))
    assert np.abs(shown - plain).max() < 0.1  # 1/32 of the 3.7 pixels that became one


def moving(flow, size=(96, 128), start=(40, 60), radius=9):
    """Two frames of a soft spot that moves by `flow` (x, y), and that field."""
    y, x = np.indices(size)
    frames = [np.exp(-((x - start[1] - k * flow[0]) ** 2 + (y - start[0] - k * flow[1]) ** 2) / radius) for k in (0, 1)]
    return np.stack(frames)[..., None].astype(np.float32), np.broadcast_to(np.float32(flow), (1, *size, 2))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, 40.0, -90.0])
@pytest.mark.parametrize("rectangle", [(20, 30, 48, 64), (16, 36, 48, 48), (8, 28, 64, 64)])
def test_cut_flow_says_where_the_cut_picture_moves(flip, angle, rectangle):
    frames, flow = moving((5, -3))
    crop = transforms.Crop(*rectangle, 48, flip, angle)
    cut = transforms.cut(frames, crop)[..., 0]
    place = [[(frame * axis).sum() / frame.sum() for axis in np.indices(frame.shape)[::-1]] for frame in cut]
    out = transforms.cut_flow(flow, crop)
    assert (out.shape, out.dtype) == ((1, 48, 48, 2), np.float32)
    assert np.ptp(out, (0, 1, 2)).max() < 1e-5  # float32: the field is the same everywhere
    np.testing.assert_allclose(out[0, 0, 0], np.subtract(place[1], place[0]), atol=0.05)  # pixels: 1/32 and the tails


def quantised(flow, bound):
    return np.clip(np.round(flow / bound * 127.5 + 127.5), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_cut_flow_keeps_the_bound_of_quantised_flow(flip, angle):
    flow = smooth(c=4).astype(np.float32) / 255 * 16 - 8
    crop = transforms.Crop(10, 20, 80, 100, 64, flip, angle)
    exact = transforms.cut_flow(flow, crop)
    stored = transforms.cut_flow(quantised(flow, 20), crop)
    error = np.abs((stored - 127.5) / 127.5 * 20 - exact)
    assert stored.dtype == np.uint8
    # half a quantum each for the source, the scaled and the turned value, and what rotating adds to the second
    assert error.max() < 20 / 127.5 * (1.5 + 0.5 * (angle > 0))


def test_cut_flow_clips_at_the_bound():
    flow = quantised(np.full((1, 40, 40, 2), [15.0, -15.0]), 20)
    out = transforms.cut_flow(flow, transforms.Crop(10, 10, 20, 20, 40))
    np.testing.assert_array_equal(out, np.zeros((1, 40, 40, 2)) + [255, 0])
    flipped = transforms.cut_flow(flow, transforms.Crop(0, 0, 40, 40, 40, True))
    np.testing.assert_array_equal(flipped, transforms.flip(flow))


YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # BT.601, full range


def i420(video):
    """RGB to I420, chroma averaged over 2 x 2 pixels."""
    luma, u, v = np.moveaxis(video @ YUV.T + np.array([0, 128, 128]), -1, 0)
    t, h, w = luma.shape
    chroma = (plane.reshape(t, h // 2, 2, w // 2, 2).mean((2, 4)) for plane in (u, v))
    return crops.joined(*(np.round(plane)[..., None].astype(np.uint8) for plane in (luma, *chroma)))


def rgb(frames):
    """I420 to RGB, chroma interpolated between the centres of its pixels."""
    luma, *chroma = (plane.astype(np.float32) for plane in crops.planes(frames))
    full = [transforms.resize(plane, *luma.shape[1:3]) - 128 for plane in chroma]
    return np.concatenate([luma, *full], -1) @ np.linalg.inv(YUV).T


@pytest.mark.parametrize("shape", [(4, 4), (6, 10), (120, 160)])
def test_planes_and_back(shape):
    frames = rng().integers(0, 256, (2, shape[0] * 3 // 2, shape[1]), np.uint8)
    luma, u, v = crops.planes(frames)
    assert luma.shape == (2, *shape, 1)
    assert u.shape == v.shape == (2, shape[0] // 2, shape[1] // 2, 1)
    flat = frames.reshape(2, -1)
    np.testing.assert_array_equal(luma.reshape(2, -1), flat[:, : shape[0] * shape[1]])
    np.testing.assert_array_equal(v.reshape(2, -1), flat[:, -shape[0] * shape[1] // 4 :])
    np.testing.assert_array_equal(crops.joined(luma, u, v), frames)


def test_cut_i420_of_even_places_is_a_slice():
    frames = i420(noise().astype(float) / 2 + 64)
    out = transforms.cut_i420(frames, transforms.Crop(4, 10, 32, 32, 32, True))
    luma, u, v = crops.planes(frames)
    expected = [luma[:, 4:36, 10:42], u[:, 2:18, 5:21], v[:, 2:18, 5:21]]
    np.testing.assert_array_equal(out, crops.joined(*(np.ascontiguousarray(p[:, :, ::-1]) for p in expected)))


@pytest.mark.parametrize(
    "crop",
    [
        transforms.Crop(10, 20, 80, 100, 64),
        transforms.Crop(11, 21, 81, 99, 64, True),
        transforms.Crop(7, 9, 63, 71, 96, False, 20.0),
        transforms.Crop(0, 1, 119, 159, 80, True),
    ],
)
def test_cut_i420_is_close_to_cutting_rgb(crop):
    video = smooth() / 2 + 64
    out = transforms.cut_i420(i420(video), crop)
    assert out.shape == (2, crop.size * 3 // 2, crop.size)
    error = np.abs(rgb(out) - transforms.cut(video, crop))
    assert error.mean() < 1.5  # of 255: five roundings, and half the resolution of colour
    assert np.quantile(error, 0.99) < 5


def test_chroma_stays_on_the_luma():
    """A ramp of chroma and luma: no odd rectangle may move one against the other."""
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, None, :, None], (1, 60, 120, 1))
    half = np.ascontiguousarray(ramp[:, ::2, ::2]) + np.uint8(1)  # the mean of two neighbours
    frames = crops.joined(np.ascontiguousarray(ramp), half, half)
    for x, width, flip in ((20, 40, False), (21, 40, False), (31, 49, True), (10, 81, False)):
        luma, u, _ = crops.planes(transforms.cut_i420(frames, transforms.Crop(3, x, 41, width, 20, flip)))
        means = luma.astype(float).reshape(20, 10, 2).mean(-1)
        assert np.abs(u[0, 1:-1, 1:-1, 0] - means[::2][1:-1, 1:-1]).max() <= 1.5  # two roundings


def test_i420_is_checked():
    with pytest.raises(ValueError, match="even size, got 31"):
        transforms.cut_i420(i420(noise()), transforms.Crop(0, 0, 40, 40, 31))
    with pytest.raises(ValueError, match="got 50 rows of 60"):
        transforms.cut_i420(np.zeros((1, 50, 60), np.uint8), transforms.Crop(0, 0, 20, 20, 10))


def test_views_of_i420():
    video = smooth(h=120, w=180) / 2 + 64
    plain = transforms.evaluate(video, size=64, resize=80, crops=10)
    views = transforms.evaluate(i420(video), size=64, resize=80, crops=10, kind="i420")
    assert views.shape == (10, 2, 96, 64)
    error = np.abs(np.stack([rgb(view) for view in views]) - plain)
    assert error.mean() < 1.5  # as above
    assert np.quantile(error, 0.99) < 5
