import cv2
import numpy as np
import pytest

from vidjax.data import transforms


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(t=4, h=40, w=60, c=3):
    return rng(9).integers(0, 256, (t, h, w, c), np.uint8)


def places(h=40, w=60, t=3):
    """Pixels that hold their own (y, x, frame): crops tell where they come from."""
    y, x = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    return np.stack([np.stack([y, x, np.full_like(y, i)], -1) for i in range(t)]).astype(np.uint8)


def test_resize_short():
    assert transforms.resize_short(noise(), 20).shape == (4, 20, 30, 3)
    assert transforms.resize_short(noise(h=61, w=40), 20).shape == (4, 30, 20, 3)
    assert transforms.resize_short(noise(c=1), 80).shape == (4, 80, 120, 1)
    video = noise()
    np.testing.assert_array_equal(transforms.resize_short(video, 40), video)


@pytest.mark.parametrize(("size", "tolerance"), [((20, 30), 0.51), ((10, 15), 0.51), ((80, 120), 1.0)])
def test_resize_keeps_a_slope(size, tolerance):
    """A linear picture stays that line at pixel centres, whichever the method: no shift by half a pixel."""
    h, w = size
    video = (np.arange(60) * 4)[None, None, :, None] + np.zeros((2, 40, 1, 3))
    resized = transforms.resize(video.astype(np.uint8), h, w)
    expected = ((np.arange(w) + 0.5) * 60 / w - 0.5) * 4
    inner = slice(2, -2)  # beyond the outermost centres there is nothing to interpolate
    assert resized.shape == (2, h, w, 3)
    assert np.abs(resized[:, :, inner] - expected[None, None, inner, None]).max() <= tolerance


def test_shrinking_averages():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    video = np.repeat(checks[None, ..., None], 3, -1).astype(np.uint8)
    assert np.abs(transforms.resize(video, 16, 16).astype(int) - 127.5).max() < 1


def test_center_crop():
    cropped = transforms.center_crop(places(), 20)
    np.testing.assert_array_equal(cropped, places()[:, 10:30, 20:40])
    np.testing.assert_array_equal(transforms.center_crop(places(41, 60), 40), places(41, 60)[:, 0:40, 10:50])


def test_random_crop_is_one_for_all_frames_and_reaches_everywhere():
    draw, corners = rng(), set()
    for _ in range(300):
        cropped = transforms.random_crop(places(22, 23), draw, 20)
        y, x = (int(v) for v in cropped[0, 0, 0, :2])
        corners.add((y, x))
        np.testing.assert_array_equal(cropped, places(22, 23)[:, y : y + 20, x : x + 20])
    assert corners == {(y, x) for y in range(3) for x in range(4)}


@pytest.mark.parametrize("crop", [transforms.center_crop, transforms.three_crops])
def test_crops_larger_than_the_video_are_refused(crop):
    with pytest.raises(ValueError, match="a crop of 50 pixels needs a video at least as large, got 40x60"):
        crop(noise(), 50)
    with pytest.raises(ValueError, match="a crop of 50 pixels"):
        transforms.random_crop(noise(), rng(), 50)


def test_random_resized_crop_draws_scale_and_ratio():
    draw, shares, ratios = rng(), [], []
    for _ in range(200):
        cropped = transforms.random_resized_crop(places(100, 200, 2), draw, 50, (0.25, 0.5), (0.5, 2.0))
        assert cropped.shape == (2, 50, 50, 3)
        np.testing.assert_array_equal(cropped[0, ..., :2], cropped[1, ..., :2])
        height, width = ((np.ptp(cropped[0, ..., i].astype(float)) + 1) * 50 / 49 for i in (0, 1))
        shares.append(height * width / (100 * 200))
        ratios.append(width / height)
    assert 0.22 < min(shares) < 0.3
    assert 0.45 < max(shares) < 0.55
    assert 0.45 < min(ratios) < 0.6
    assert 1.6 < max(ratios) < 2.2


def test_random_resized_crop_falls_back_to_the_centre():
    """No rectangle of a tenth aspect and full area fits a square; the largest within the ratio does."""
    cropped = transforms.random_resized_crop(places(100, 100, 1), rng(), 100, (1.0, 1.0), (0.1, 0.1))
    assert (int(cropped[..., 0].min()), int(cropped[..., 0].max())) == (0, 99)
    assert 44 <= cropped[..., 1].min() <= 45
    assert 54 <= cropped[..., 1].max() <= 55


def test_flip_mirrors_and_returns():
    video = noise()
    np.testing.assert_array_equal(transforms.flip(video), video[:, :, ::-1])
    np.testing.assert_array_equal(transforms.flip(transforms.flip(video)), video)


@pytest.mark.parametrize("channels", [2, 6])
def test_flip_negates_the_x_of_flow(channels):
    flow = rng().normal(size=(3, 4, 5, channels)).astype(np.float32)
    flipped = transforms.flip(flow)
    np.testing.assert_array_equal(flipped[..., ::2], -flow[:, :, ::-1, ::2])
    np.testing.assert_array_equal(flipped[..., 1::2], flow[:, :, ::-1, 1::2])
    stored = np.clip(127.5 + 40 * flow, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(transforms.flip(stored)[..., ::2], 255 - stored[:, :, ::-1, ::2])


def test_three_crops_lie_along_the_long_side():
    wide, tall = places(40, 61), places(61, 40)
    crops = transforms.three_crops(wide, 40)
    for crop, x in zip(crops, (0, 10, 21), strict=True):
        np.testing.assert_array_equal(crop, wide[:, :, x : x + 40])
    crops = transforms.three_crops(tall, 30)
    for crop, y in zip(crops, (0, 15, 31), strict=True):
        np.testing.assert_array_equal(crop, tall[:, y : y + 30, 5:35])


def test_views():
    video = places()
    np.testing.assert_array_equal(transforms.views(video, 32, 1)[0], transforms.center_crop(video, 32))
    np.testing.assert_array_equal(transforms.views(video, 32, 3), transforms.three_crops(video, 32))
    with pytest.raises(ValueError, match="crops must be 1, 3, 4, 5 or 10, got 2"):
        transforms.views(video, 32, 2)


def test_augment_flips_labels_with_the_picture():
    video = places(40, 40, 2)
    for chance, label, x in ((0.0, 1, 0), (1.0, 2, 39)):
        out, changed = transforms.augment(
            video, 1, rng(), size=40, scale=(1, 1), ratio=(1, 1), flip=chance, flip_labels=(0, 2, 1)
        )
        assert changed == label
        assert out[0, 0, 0, 1] == x
    assert transforms.augment(video, 1, rng(), size=40, flip=1.0)[1] == 1


def test_augment_is_a_function_of_the_generator():
    video, options = noise(), {"size": 24, "color": 0.4}
    first, _ = transforms.augment(video, 0, rng(1), **options)
    again, _ = transforms.augment(video, 0, rng(1), **options)
    other, _ = transforms.augment(video, 0, rng(2), **options)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (4, 24, 24, 3)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous


def test_augment_flips_half_of_the_clips():
    draw = rng()
    labels = [transforms.augment(noise(1), 0, draw, size=8, flip_labels=(1,))[1] for _ in range(400)]
    assert 160 < sum(labels) < 240


def test_augment_leaves_its_input_alone():
    video = noise()
    transforms.augment(video, 0, rng(), size=40, scale=(1, 1), ratio=(1.5, 1.5), flip=1.0, color=0.5)
    np.testing.assert_array_equal(video, noise())


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"size": 40}, 1),
        ({"size": 40, "resize": 80}, 2),
        ({"size": 40, "resize": 20}, 1),
        ({"size": 80}, 2),
        ({"size": 16, "resize": 20}, 0.5),
    ],
)
def test_evaluate(options, scale):
    video = noise()
    resized = transforms.resize(video, int(40 * scale), int(60 * scale))
    one = transforms.evaluate(video, **options)
    three = transforms.evaluate(video, **options, crops=3)
    np.testing.assert_array_equal(one, transforms.center_crop(resized, options["size"])[None])
    np.testing.assert_array_equal(three, transforms.three_crops(resized, options["size"]))


def test_evaluate_squeezes_the_whole_picture():
    video = noise()  # 40 x 60
    options = {"size": 16, "resize": (16, 16)}
    (view,) = transforms.evaluate(video, **options)
    np.testing.assert_array_equal(
        view, np.stack([cv2.resize(x, (16, 16), interpolation=cv2.INTER_AREA) for x in video])
    )
    (view,) = transforms.evaluate(video, **options, interpolation="linear")
    np.testing.assert_array_equal(view, np.stack([cv2.resize(x, (16, 16)) for x in video]))
    views = transforms.evaluate(video, size=16, resize=[16, 20], crops=3)  # a list, as JSON has it
    np.testing.assert_array_equal(views, transforms.three_crops(transforms.resize(video, 16, 20), 16))
    flow = np.zeros((2, 40, 60, 2), np.float32) + np.float32([3, 5])
    (view,) = transforms.evaluate(flow, **options, kind="flow")
    np.testing.assert_allclose(view[0, 8, 8], [3 * 16 / 60, 5 * 16 / 40], rtol=1e-6)  # vectors shrink as the picture


def test_augment_takes_the_whole_picture():
    video, options = noise(), {"size": 24, "crop": "whole", "flip": 0.0}
    out, _ = transforms.augment(video, 0, rng(), **options)
    np.testing.assert_array_equal(out, transforms.evaluate(video, size=24, resize=(24, 24))[0])


def same_as_before(video, rng, size, color):
    """The training transform as it was before geometry and colours were drawn apart: its draws are kept."""
    video = transforms.random_resized_crop(video, rng, size)
    if rng.random() < 0.5:
        video = transforms.flip(video)
    return transforms.color_jitter(video, rng, color, color, color) if color else video


@pytest.mark.parametrize("color", [0.0, 0.4])
def test_augment_keeps_its_draws(color):
    for seed in range(20):
        out, _ = transforms.augment(noise(), 0, rng(seed), size=24, color=color)
        np.testing.assert_array_equal(out, same_as_before(noise(), rng(seed), 24, color))


def test_augment_maps_the_labels_of_a_multi_label_video():
    for chance, labels in ((0.0, (0, 1)), (1.0, (0, 2))):
        _, found = transforms.augment(noise(), (0, 1), rng(), size=24, flip=chance, flip_labels=(0, 2, 1))
        assert found == labels


def test_augment_names_an_option_it_does_not_know():
    with pytest.raises(TypeError, match="brightnes"):
        transforms.augment(noise(), 0, rng(), size=24, brightnes=1)


def corners(video, size):
    right, bottom = video.shape[2] - size, video.shape[1] - size
    y, x = bottom // 2, right // 2
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (y, x)]
    return [video[:, y : y + size, x : x + size] for y, x in places]


def test_views_of_four_five_and_ten():
    for video in (places(40, 61), places(61, 40)):
        first, _, last = transforms.three_crops(video, 30)
        mirrored = [view[:, :, ::-1] for view in (first, last)]
        np.testing.assert_array_equal(transforms.views(video, 30, 4), [first, last, *mirrored])
        five = corners(video, 30)
        np.testing.assert_array_equal(transforms.views(video, 30, 5), five)
        np.testing.assert_array_equal(transforms.views(video, 30, 10), five + [view[:, :, ::-1] for view in five])


def test_views_of_flow_move_the_other_way_in_mirror_images():
    flow = rng().normal(size=(2, 40, 61, 4)).astype(np.float32)
    ten = transforms.views(flow, 30, 10, "flow")
    np.testing.assert_array_equal(ten[:5], corners(flow, 30))
    np.testing.assert_array_equal(ten[5:], [transforms.flip(view) for view in corners(flow, 30)])
    stored = noise(c=2)
    np.testing.assert_array_equal(
        transforms.views(stored, 30, 4, "flow")[2:], [transforms.flip(v) for v in transforms.views(stored, 30, 4)[:2]]
    )


def test_evaluate_scales_the_vectors_of_flow():
    flow = np.zeros((2, 40, 60, 2), np.float32) + np.array([3, -1.5], np.float32)
    (view,) = transforms.evaluate(flow, size=60, resize=80, kind="flow")
    np.testing.assert_array_equal(view, np.zeros((2, 60, 60, 2)) + [6, -3])


def test_kind_is_checked():
    with pytest.raises(ValueError, match="kind is rgb, flow or i420, not 'yuv'"):
        transforms.views(noise(), 20, 1, "yuv")
