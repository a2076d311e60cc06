import colorsys

import numpy as np

from vidjax.data import transforms
from vidjax.data.transforms import color


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(t=4, h=40, w=60, c=3):
    return rng(9).integers(0, 256, (t, h, w, c), np.uint8)


def test_color_jitter_of_nothing_is_the_video():
    np.testing.assert_array_equal(transforms.color_jitter(noise(), rng()), noise())


def test_brightness_scales():
    video = noise() // 2
    factor = rng(3).uniform(0.5, 1.5)
    jittered = transforms.color_jitter(video, rng(3), brightness=0.5)
    assert np.abs(jittered - np.clip(video * factor, 0, 255)).max() <= 0.51


def test_contrast_turns_about_the_mean_grey():
    video = noise() // 2 + 64
    draw = rng(3)
    draw.random()
    factor = draw.uniform(0.4, 1.6)
    grey = (video @ transforms.LUMA).mean()
    jittered = transforms.color_jitter(video, rng(3), contrast=0.6)
    assert np.abs(jittered - np.clip(grey + factor * (video - grey), 0, 255)).max() <= 0.51


def test_saturation_keeps_luma_and_hue():
    video = (noise(1, 6, 6) // 4 + 90).astype(np.uint8)
    for seed in range(6):
        jittered = transforms.color_jitter(video, rng(seed), saturation=0.8)
        assert np.abs((jittered.astype(float) - video) @ transforms.LUMA).max() < 0.6
        for before, after in zip(video.reshape(-1, 3), jittered.reshape(-1, 3), strict=True):
            if np.ptp(before) > 30 and np.ptp(after) > 30:
                turn = abs(colorsys.rgb_to_hsv(*before / 255)[0] - colorsys.rgb_to_hsv(*after / 255)[0])
                assert min(turn, 1 - turn) < 0.03


def close(out, exact):
    """Whether bytes are these values, rounded and clipped once; cv2.transform's coefficients have ten bits."""
    return np.abs(out - np.clip(exact, 0, 255)).max() <= 0.65


def test_hue_turns_the_chroma_and_keeps_the_luma():
    video = (noise() // 3 + 80).astype(np.uint8)  # nothing is clipped
    for seed in range(5):
        draw = rng(seed)
        draw.random(3)
        angle = 2 * np.pi * draw.uniform(-0.3, 0.3)
        out = transforms.color_jitter(video, rng(seed), hue=0.3).astype(float)
        before, after = (pixels @ color.YIQ.T for pixels in (video.astype(float), out))
        assert np.abs(after[..., 0] - before[..., 0]).max() < 0.65  # the rounding of three channels, see `close`
        turned = (before[..., 1] + 1j * before[..., 2]) * np.exp(1j * angle)
        error = np.abs(after[..., 1] + 1j * after[..., 2] - turned)
        assert error.max() < 1  # half a byte in each of three channels


def test_grey_is_the_luma_in_every_channel():
    out = transforms.photometric(noise(), rng(), grey=1.0)
    assert close(out, (noise() @ transforms.LUMA)[..., None])
    greys = [np.ptp(transforms.photometric(noise(1, 4, 4), rng(seed), grey=0.2), -1).max() == 0 for seed in range(400)]
    assert 50 < sum(greys) < 110


def test_lighting_adds_one_colour_along_alexnets_axes():
    for seed in range(5):
        alpha = rng(seed).normal(0, 0.1, 3)
        shift = color.LIGHT @ (alpha * color.LIGHT_SCALES)
        out = transforms.photometric(noise(), rng(seed), lighting=0.1)
        assert close(out, noise() + shift)
    np.testing.assert_allclose(color.LIGHT.T @ color.LIGHT, np.eye(3), atol=1e-3)  # given to four digits


def test_colours_are_composed_before_they_are_rounded():
    draw = rng(5)
    b, c, s = (draw.uniform(0.6, 1.4) for _ in range(3))
    turn = color._turn(draw.uniform(-0.1, 0.1))
    assert draw.random() < 1.0
    shift = color.LIGHT @ (draw.normal(0, 0.1, 3) * color.LIGHT_SCALES)
    video = noise().astype(float)
    bright = b * video
    contrasted = c * bright + (1 - c) * (bright @ transforms.LUMA).mean()
    saturated = s * contrasted + (1 - s) * (contrasted @ transforms.LUMA)[..., None]
    grey = (saturated @ turn.T) @ transforms.LUMA
    out = transforms.photometric(noise(), rng(5), color=0.4, hue=0.1, grey=1.0, lighting=0.1)
    assert close(out, grey[..., None] + shift)


def test_photometric_of_nothing_draws_nothing():
    draw = rng()
    assert transforms.photometric(noise(), draw) is not None
    np.testing.assert_array_equal(transforms.photometric(noise(), draw), noise())
    assert draw.random() == rng().random()


def test_erasing_is_a_tube_of_noise():
    shares, aspects = [], []
    for seed in range(300):
        out = color.erased(noise(), rng(seed))
        changed = (out != noise()).any((0, 3))
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        outside = np.ones((40, 60), bool)
        outside[box] = False
        np.testing.assert_array_equal(out[:, outside], noise()[:, outside])
        np.testing.assert_array_equal(out[:, *box], np.broadcast_to(out[0][box], out[:, *box].shape))
        shares.append((len(rows) * len(columns)) / 2400)
        aspects.append(len(rows) / len(columns))
    assert 0.01 < min(shares) < 0.05  # sides are rounded
    assert 0.3 < max(shares) < 0.35
    assert min(aspects) < 0.45
    assert max(aspects) > 2.2


def test_erasing_happens_by_chance():
    hits = [(transforms.photometric(noise(), rng(i), erase=0.25) != noise()).any() for i in range(400)]
    assert 70 < sum(hits) < 130


def test_photometric_is_a_function_of_the_generator():
    options = {"color": 0.4, "hue": 0.1, "grey": 0.2, "lighting": 0.1, "randaugment": (2, 9), "erase": 0.5}
    outs = [transforms.photometric(noise(), rng(seed), **options) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert not np.array_equal(outs[0], outs[2])
    assert {(out.dtype, out.shape, out.flags.c_contiguous) for out in outs} == {
        (np.dtype("uint8"), (4, 40, 60, 3), True)
    }
