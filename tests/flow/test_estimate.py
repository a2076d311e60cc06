"""Optical flow on the device: known motions, OpenCV's and the ground truth's fields, the contract."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import flow
from vidjax.flow import median, pyramid, tvl1

SMALL = {  # methods with options that compile and run in little time
    "tvl1": {"levels": 3, "scale": 0.6, "warps": 3},
    "farneback": {"levels": 1, "window": 9},
    "horn_schunck": {"levels": 3, "scale": 0.6},
}
TINY = {"levels": 1, "warps": 1, "rounds": 1, "iterations": 5}
SHIFTS = ((1.5, -0.75), (-3.0, 2.0), (0.0, 0.0))  # of the texture from frame to frame, (x, y)


def error(a, b):
    """End-point error: two of (..., 2) -> (...)."""
    return np.linalg.norm(np.asarray(a) - b, axis=-1)


@pytest.fixture(scope="module")
def moving():
    """A smooth random texture moved by SHIFTS: uint8 (4, 48, 64, 3)."""
    rng = np.random.default_rng(3)
    waves = rng.uniform(-0.4, 0.4, (40, 2)), rng.uniform(0, 2 * np.pi, 40)
    y, x = np.mgrid[0:48, 0:64]
    frames = []
    for dx, dy in np.cumsum([(0, 0), *SHIFTS], axis=0):
        at = np.stack([x - dx, y - dy], -1) @ waves[0].T + waves[1]
        frames.append(np.clip(128 + 20 * np.cos(at).sum(-1), 0, 255).round())
    return np.repeat(np.array(frames, np.uint8)[..., None], 3, -1)


@pytest.mark.parametrize(("method", "bound"), [("tvl1", 0.15), ("farneback", 0.15), ("horn_schunck", 0.15)])
def test_known_translations(moving, method, bound):
    """Inside, away from what moves in over the edge, the mean error stays below `bound` pixels; still frames give 0."""
    found = np.asarray(flow.estimate(moving, method, **SMALL[method]))
    assert found.shape == (3, 48, 64, 2)
    assert found.dtype == np.float32
    for k, shift in enumerate(SHIFTS):
        assert error(found[k], shift)[8:-8, 8:-8].mean() < (bound if any(shift) else 1e-4), (k, shift)


@pytest.mark.parametrize("method", flow.METHODS)
def test_a_square_that_moves_right_and_down(method):
    """Right is positive x and down positive y, for a square over a still textured ground; it stops at the end."""
    rng = np.random.default_rng(0)
    ground, square = (
        cv2.GaussianBlur(rng.integers(0, 256, (*s, 3), np.uint8), (0, 0), 1.5) for s in ((48, 64), (24, 24))
    )
    video = np.stack([ground] * 4)
    for frame, n in zip(video, (0, 1, 2, 2), strict=True):
        frame[10 + n : 34 + n, 16 + 2 * n : 40 + 2 * n] = square
    found = np.asarray(flow.estimate(video, method, **SMALL[method]))
    for field in found[:2]:
        x, y = field[18:30, 24:36].mean((0, 1))
        assert 1.4 < x < 2.4, (x, y)
        assert 0.6 < y < 1.4, (x, y)
        assert error(field[:4], (0, 0)).mean() < 0.1
    assert error(found[2], (0, 0))[16:-16, 16:-16].max() < 1e-4  # Farneback, as OpenCV's, errs at the edge


def test_equal_to_opencv_and_near_the_truth_on_rubber_whale(golden):
    """TV-L1 within 0.1 px of OpenCV's and as near to the truth; the Farneback field equals OpenCV's.

    The stored fields are float16: their rounding alone is up to 2**-10 px, on average 3e-4.
    """
    folder = golden / "flow"
    video = np.stack([cv2.imread(str(folder / f"frame1{i}.png"))[..., ::-1] for i in (0, 1)])
    stored = np.load(folder / "optical_flow_opencv.npz")
    truth = np.fromfile(folder / "flow10.flo", np.float32)[3:].reshape(388, 584, 2)
    valid = (np.abs(truth) < 1e6).all(-1)
    found = {method: np.asarray(flow.estimate(video, method))[0] for method in flow.METHODS}
    assert error(found["tvl1"], stored["rubberwhale/tvl1"].astype(np.float32)).mean() < 0.03  # measured 0.011
    assert error(found["farneback"], stored["rubberwhale/farneback"].astype(np.float32)).mean() < 1e-3
    assert error(found["tvl1"], truth)[valid].mean() < 0.1575  # OpenCV 0.1568, ours 0.1560
    assert error(found["horn_schunck"], truth)[valid].mean() < 0.21  # measured 0.2035; no flow at all is 1.256


def test_equal_to_opencv_on_a_sports_video(golden):
    stored = np.load(golden / "flow" / "optical_flow_opencv.npz")
    grey = np.stack([stored[f"soccer_10_11/gray{i}"] for i in (0, 1)])
    video = np.repeat(grey[..., None], 3, -1)  # equal channels: their luma is the channel
    found = {method: np.asarray(flow.estimate(video, method))[0] for method in ("tvl1", "farneback")}
    assert error(found["tvl1"], stored["soccer_10_11/tvl1"]).mean() < 0.03  # measured 0.015
    assert error(found["farneback"], stored["soccer_10_11/farneback"]).mean() < 1e-4  # measured 1e-6


def test_farneback_equals_opencv_with_other_parameters(moving):
    ours = flow.estimate(moving[:2], "farneback", levels=2, window=11, neighbours=7, sigma=1.5, gaussian=True)
    grey = [frame[..., 0].copy() for frame in moving[:2]]
    flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN
    theirs = cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 2, 11, 3, 7, 1.5, flags)
    assert error(np.asarray(ours)[0], theirs).max() < 1e-3  # float32 sums in another order


def test_a_batch_gives_what_each_video_gives(moving):
    batch = np.stack([moving, moving[::-1], np.roll(moving, 5, 2)])
    together = np.asarray(flow.estimate(batch, **TINY))
    assert together.shape == (3, 3, 48, 64, 2)
    for video, found in zip(batch, together, strict=True):
        np.testing.assert_allclose(found, flow.estimate(video, **TINY), atol=1e-5)


def test_the_accelerators_form_gives_what_the_cpus_gives(moving):
    """All pairs at once, each frozen when it has converged, against one pair after another."""
    pairs = jnp.stack([moving[:-1, ..., 0], moving[1:, ..., 0]]).astype(jnp.float32)
    given = {"weight": 0.15, "theta": 0.3, "warps": 2, "iterations": 30, "rounds": 3, "epsilon": 0.01}

    def run(pairs):
        return pyramid.coarse_to_fine(pairs, lambda pair, u: tvl1.solve(pair, u, **given), levels=1, scale=0.5)

    apart = jax.jit(lambda pairs: pyramid.one_by_one(run, pairs))(pairs)
    np.testing.assert_allclose(jax.jit(run)(pairs), apart, atol=1e-4)  # a sum in another order can move a stop


def test_inside_jit_and_vmap(moving):
    alone = np.asarray(flow.estimate(moving, **TINY))
    step = jax.jit(lambda video: flow.estimate(video, **TINY).mean((1, 2)))
    np.testing.assert_allclose(step(moving), alone.mean((1, 2)), atol=1e-5)
    mapped = jax.vmap(lambda video: flow.estimate(video, **TINY))(jnp.stack([moving, moving]))
    np.testing.assert_allclose(mapped, np.stack([alone, alone]), atol=1e-5)


def test_gradients_are_finite(moving):
    """Through Horn-Schunck as it is, and through TV-L1's step where its root is zero."""
    video = moving[:2, :24, :24].astype(np.float32)
    options = {"levels": 1, "warps": 2, "iterations": 5}
    slope = jax.grad(lambda video: flow.estimate(video, "horn_schunck", **options)[..., 0].mean())(video)
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0
    still = jnp.zeros((2, 1, 8, 8))
    data = still[0] + 1, still
    slope = jax.grad(lambda u: sum(part.sum() for part in tvl1.step(data, u, u, u, limit=0.045, theta=0.3)))(still)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("size", [(17, 23), (5, 3)])
def test_median_equals_opencv(size):
    x = np.random.default_rng(1).normal(size=(2, *size)).astype(np.float32)
    np.testing.assert_array_equal(median.median(x), [cv2.medianBlur(one, 5) for one in x])


def test_grey_equals_opencv():
    colours = np.random.default_rng(2).integers(0, 256, (64, 4096, 3), np.uint8)
    np.testing.assert_array_equal(flow.grey(colours), cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))


def test_warp_equals_numpy_and_brings_a_moved_frame_back(moving):
    h, w = moving.shape[1:3]
    image = moving[1].astype(np.float32)
    field = np.random.default_rng(4).uniform(-9, 9, (h, w, 2)).round(1).astype(np.float32)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    x, y = (x + field[..., 0]).clip(0, w - 1), (y + field[..., 1]).clip(0, h - 1)
    left, top = np.minimum(x.astype(int), w - 2), np.minimum(y.astype(int), h - 2)
    x, y = (x - left)[..., None], (y - top)[..., None]
    rows = [image[top + i, left] * (1 - x) + image[top + i, left + 1] * x for i in (0, 1)]
    np.testing.assert_allclose(flow.warp(image, field), rows[0] * (1 - y) + rows[1] * y, atol=1e-3)
    back = flow.warp(moving[2], np.broadcast_to(np.float32(SHIFTS[1]), (h, w, 2)))
    np.testing.assert_allclose(back[3:-3, 3:-3], moving[1, 3:-3, 3:-3], atol=1e-3)
    with pytest.raises(ValueError, match="needs a flow of"):
        flow.warp(image, field[1:])


@pytest.mark.parametrize(
    ("shape", "method", "options", "message"),
    [
        ((2, 32, 32, 3), "raft", {}, "no method 'raft'; choose from tvl1, farneback, horn_schunck"),
        ((2, 32, 32, 3), "tvl1", {"lamda": 1}, "tvl1 has no option 'lamda'; it has weight, theta"),
        ((1, 32, 32, 3), "tvl1", {}, "1 frame has no flow"),
        ((2, 32, 32), "tvl1", {}, r"not \(2, 32, 32\)"),
        ((2, 32, 8, 3), "tvl1", {}, "32 x 8 pixels are too small"),
    ],
)
def test_what_is_wrong_is_named(shape, method, options, message):
    with pytest.raises(ValueError, match=message):
        flow.estimate(np.zeros(shape, np.uint8), method, **options)
