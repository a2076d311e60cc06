import numpy as np
import pytest

from vidjax.data.transforms import LUMA, photometric, randaugment


def rng(seed=0):
    return np.random.default_rng(seed)


def video(low=40, high=200):
    """Frames of different brightness, every channel of its own range."""
    frames = rng(3).integers(low, high, (4, 30, 40, 3))
    return (frames * np.array([1.0, 0.9, 0.6]) + np.arange(4)[:, None, None, None] * 10).astype(np.uint8)


def clipped(values):
    return np.clip(np.round(values), 0, 255)


def test_autocontrast_stretches_every_channel_of_the_clip():
    low, high = (video().min((0, 1, 2)).astype(int), video().max((0, 1, 2)).astype(int))
    expected = (video().astype(int) - low) * 255 // (high - low)
    np.testing.assert_array_equal(randaugment.autocontrast(video()), expected)
    flat = np.full((2, 3, 3, 3), 7, np.uint8)
    np.testing.assert_array_equal(randaugment.autocontrast(flat), flat)


def test_equalize_flattens_the_histogram():
    ramp = np.minimum(np.arange(4 * 32 * 32) ** 2 // 65536, 255).reshape(4, 32, 32, 1).astype(np.uint8)
    out = randaugment.equalize(np.repeat(ramp, 3, -1))
    counts = np.bincount(out[..., 0].ravel(), minlength=256).reshape(8, 32).sum(1)
    assert np.ptp(np.bincount(ramp.ravel(), minlength=256).reshape(8, 32).sum(1)) > 1000
    assert np.ptp(counts) < 130  # the first value alone holds 256 of 4,096 pixels, in a bin of 512
    assert (np.diff(out[..., 0].ravel().astype(int)) >= 0).all()


def test_equalize_by_a_table_made_pixel_by_pixel():
    """Pillow's rule, written as loops."""
    out, source = randaugment.equalize(video()), video()
    for channel in range(3):
        values = source[..., channel].ravel()
        counts = [int((values == v).sum()) for v in range(256)]
        step = (len(values) - [n for n in counts if n][-1]) // 255
        table, total = [], step // 2
        for count in counts:
            table.append(min(255, total // step))
            total += count
        np.testing.assert_array_equal(out[..., channel], np.array(table)[source[..., channel]])
    flat = np.full((2, 3, 3, 3), 7, np.uint8)
    np.testing.assert_array_equal(randaugment.equalize(flat), flat)


@pytest.mark.parametrize(
    ("name", "level", "sign", "expected"),
    [
        ("invert", 0, 1, lambda v: 255 - v),
        ("posterize", 0.0, 1, lambda v: v // 16 * 16),
        ("posterize", 0.9, 1, lambda v: v // 128 * 128),
        ("posterize", 1.0, 1, lambda v: 0 * v),
        ("solarize", 0.0, 1, lambda v: v),
        ("solarize", 0.5, 1, lambda v: np.where(v < 128, v, 255 - v)),
        ("solarize_add", 0.5, 1, lambda v: np.where(v < 128, v + 55, v)),
        ("brightness", 0.5, 1, lambda v: clipped(1.45 * v)),
        ("brightness", 0.5, -1, lambda v: clipped(0.55 * v)),
        ("contrast", 1.0, -1, lambda v: clipped(round((v @ LUMA).mean()) * 0.9 + 0.1 * v)),
        ("color", 1.0, 1, lambda v: clipped(1.9 * v - 0.9 * (v @ LUMA)[..., None])),
        ("color", 0.0, 1, lambda v: v),
    ],
)
def test_colour_operations(name, level, sign, expected):
    out = randaugment.COLOR[name](video(0, 255), level, sign)
    assert (out.dtype, out.shape) == (np.dtype("uint8"), video().shape)
    # one byte where a product in float32 or float64 falls on either side of a half
    assert np.abs(out - expected(video(0, 255).astype(float))).max() <= (name in ("brightness", "contrast", "color"))


@pytest.mark.parametrize("sign", [1, -1])
def test_sharpness_blends_with_a_smoothed_picture(sign):
    source, factor = video().astype(float), 1 + sign * 0.45
    out = randaugment.sharpness(video(), 0.5, sign)
    around = sum(np.roll(source, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1))
    smooth = np.round((around + 4 * source) / 13)
    expected = clipped(factor * source + (1 - factor) * smooth)
    assert np.abs(out - expected)[:, 1:-1, 1:-1].max() <= 1  # halves round either way
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        np.testing.assert_array_equal(out[edge], video()[edge])


def spot(y, x, h=41, w=61):
    frames = np.zeros((2, h, w, 3), np.uint8)
    frames[:, y - 1 : y + 2, x - 1 : x + 2] = 255
    return frames


def centre(frames):
    """Where the light of the last frame is, (y, x), without what moved in from outside."""
    light = (frames[-1, ..., 0].astype(float) - 128).clip(0)
    return [(light * place).sum() / light.sum() for place in np.indices(light.shape)]


@pytest.mark.parametrize(
    ("name", "sign", "expected"),
    [
        ("translate_x", 1, (20, 30 + 0.5 * 0.45 * 61)),
        ("translate_y", -1, (20 - 0.5 * 0.45 * 41, 30)),
        ("rotate", 1, (20, 30)),
        ("shear_x", 1, (20, 30)),
    ],
)
def test_geometric_operations_move_the_centre(name, sign, expected):
    out = randaugment.GEOMETRIC[name](spot(20, 30), 0.5, sign)
    np.testing.assert_allclose(centre(out), expected, atol=0.1)  # of a pixel: 1/32 in cv2.warpAffine, and rounding
    np.testing.assert_array_equal(out[0], out[1])


def test_rotation_and_shear_about_the_centre():
    out = randaugment.rotate(spot(20, 50), 1.0, 1)  # 30 degrees counter-clockwise
    np.testing.assert_allclose(centre(out), (20 - 20 * np.sin(np.pi / 6), 30 + 20 * np.cos(np.pi / 6)), atol=0.1)
    np.testing.assert_allclose(centre(randaugment.shear_x(spot(30, 30), 1.0, 1)), (30, 33), atol=0.1)
    np.testing.assert_allclose(centre(randaugment.shear_y(spot(20, 40), 1.0, -1)), (17, 40), atol=0.1)
    assert (randaugment.rotate(spot(20, 30), 1.0, 1)[:, 0, 0] == 128).all()


def test_rand_augment_draws_from_all_operations(monkeypatch):
    calls = []
    for table in ("COLOR", "GEOMETRIC"):
        fakes = {
            n: lambda v, level, sign, n=n: calls.append((n, level, sign)) or v for n in getattr(randaugment, table)
        }
        monkeypatch.setattr(randaugment, table, fakes)
    draw = rng()
    for _ in range(300):
        randaugment.rand_augment(video(), draw, 4, 7)
    names, levels, signs = (np.array(column) for column in zip(*calls, strict=True))
    assert len(calls) == pytest.approx(600, abs=70)  # half of 1,200
    assert set(names) == {*randaugment.COLOR, *randaugment.GEOMETRIC}
    assert abs(levels.mean() - 0.7) < 0.01
    assert abs(levels.std() - 0.05) < 0.01
    assert abs(signs.mean()) < 0.15
    calls.clear()
    for _ in range(100):
        randaugment.rand_augment(video(), draw, 4, 10, geometric=False)
    assert {name for name, _, _ in calls} == {*randaugment.COLOR}
    assert max(level for _, level, _ in calls) == 1.0


def test_rand_augment_treats_all_frames_alike():
    still = np.repeat(video()[:1], 5, 0)
    for seed in range(20):
        out = photometric(still, rng(seed), randaugment=(3, 9))
        np.testing.assert_array_equal(out, np.broadcast_to(out[:1], out.shape))
