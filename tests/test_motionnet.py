"""MotionNet against its layer list, a transposed convolution by hand, and motions that are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidjax import models
from vidjax.models import motionnet
from vidjax.nn import lowering

FULL = {  # weights and biases layer by layer, from the reference's prototxt
    "conv1": 19_072,
    "conv1_1": 36_928,
    "conv2": 73_856,
    "conv2_1": 147_584,
    "conv3": 295_168,
    "conv3_1": 590_080,
    "conv4": 1_180_160,
    "conv4_1": 2_359_808,
    "conv5": 2_359_808,
    "conv5_1": 2_359_808,
    "conv6": 4_719_616,
    "conv6_1": 9_438_208,
    "predict6": 184_340,
    "deconv5": 8_389_120,
    "up5": 6_420,
    "smooth5": 4_811_264,
    "predict5": 92_180,
    "deconv4": 2_097_408,
    "up4": 6_420,
    "smooth4": 1_815_808,
    "predict4": 46_100,
    "deconv3": 524_416,
    "up3": 6_420,
    "smooth3": 465_536,
    "predict3": 23_060,
    "deconv2": 131_136,
    "up2": 6_420,
    "smooth2": 122_176,
    "predict2": 11_540,
}


def build(variant="small", **fields):
    return models.build({"name": "motionnet", "variant": variant}, **fields)


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_the_layers_of_the_full_net():
    params = models.shapes(build("full"), (1, 11, 224, 224, 3))["params"]
    assert {name: count(layer) for name, layer in params.items()} == FULL
    assert sum(FULL.values()) == 42_319_860


def formula(row, frames, size):
    """(parameters, multiply-adds) of a variant, written as the reference writes its layers."""
    totals, widths = np.zeros(2, np.int64), row["widths"]
    kernels, fields = row.get("kernels", (3,) * 6), 2 * (frames - 1)

    def layer(taps, c, n, size):
        totals[:] += [taps * c * n + n, taps * c * n * size * size]

    c = 3 * frames
    for level, (width, k) in enumerate(zip(widths, kernels, strict=False)):
        layer(k * k, c, width, size >> level)
        if row.get("twice", True):
            layer(9, width, width, size >> level)
        c = width
    side = size >> (len(widths) - 1)
    layer(9, c, fields, side)
    for skip, width in zip(widths[-2:0:-1], row["up"], strict=True):
        layer(16, c, width, side)  # a pixel of the input meets all 16 taps
        layer(16, fields, fields, side)
        side *= 2
        layer(9, skip + width + fields, width, side)
        layer(9, width, fields, side)
        c = width
    return totals


@pytest.mark.parametrize("variant", motionnet.VARIANTS)
def test_sizes_by_formula(variant):
    row = motionnet.SIZES[variant]
    params, macs = formula(motionnet.VARIANTS[variant], *row["input"][:2])
    model, shape = build(variant), (1, *row["input"])
    assert models.parameters(model, shape) == params == row["params"]
    assert models.macs(model, shape) == macs
    assert abs(macs / 1e9 - row["gmac"]) <= 5e-4  # printed to three decimals
    assert motionnet.VARIANTS.keys() == motionnet.SIZES.keys()


@pytest.mark.parametrize(("variant", "levels"), [("full", (2, 3, 4, 5, 6)), ("tiny", (2, 3, 4))])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (256, 340), (101, 67)])
def test_the_pyramid(variant, levels, height, width):
    model = build(variant)
    video = jax.ShapeDtypeStruct((2, 11, height, width, 3), jnp.float32)
    (flow, out), _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), video)
    assert (flow.shape, flow.dtype) == ((2, 10, height, width, 2), jnp.float32)
    assert {name for name in out if name.startswith("flow")} == {f"flow{level}" for level in levels}
    for level in levels:
        share = 2 ** (level - 1)
        assert out[f"flow{level}"].shape == (2, 10, -(-height // share), -(-width // share), 2)


def test_a_transposed_convolution_by_hand():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 5, 2)).astype(np.float32)
    layer = motionnet.Deconv(4)
    variables = layer.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])[0]
    expected = np.zeros((2, 6 + 2, 10 + 2, 4))  # with the row and column that the padding of 1 takes away
    for i, j, k, m in np.ndindex(3, 5, 4, 4):
        expected[:, 2 * i + k, 2 * j + m] += x[:, i, j] @ kernel[k, m]
    np.testing.assert_allclose(layer.apply(variables, x), expected[:, 1:-1, 1:-1], atol=1e-5)  # float32


def constant(model, video, value):
    """Variables that predict `value` for every channel of every level."""
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), models.shapes(model, video.shape))
    for name, layer in variables["params"].items():
        if name.startswith("predict"):
            layer["bias"] = jnp.asarray(value, jnp.float32)
    return variables


def test_predictions_are_pixels_of_their_grid():
    model, video = build(frames=4), jnp.zeros((1, 4, 17, 22, 3))
    value = np.array([0.1, -0.2, 0.3, 0.4, -0.5, 0.6])  # x1, y1, x2, y2, x3, y3
    with lowering("native"):  # compiles faster
        flow, out = jax.jit(functools.partial(model.apply, train=False))(constant(model, video, value), video)
    fields = value.reshape(1, 3, 1, 1, 2)
    assert motionnet.SCALE == 20
    for array, scale in ((flow, 20), (out["flow2"], 10), (out["flow3"], 5)):
        np.testing.assert_allclose(array, np.broadcast_to(fields * scale, array.shape), rtol=1e-6)  # float32
    assert [motionnet.pixels_per_unit(level) for level in range(2, 7)] == [10, 5, 2.5, 1.25, 0.625]


def test_upsampling_keeps_a_slope_and_its_place():
    """A pixel of the half-size grid covers two: 2 i + 0.5 is its centre."""
    half = np.broadcast_to(np.arange(9.0)[None, None, None, :, None], (1, 1, 6, 9, 2))
    full = motionnet._upsample(jnp.asarray(half), 11, 17)
    assert full.shape == (1, 1, 11, 17, 2)
    expected = 2 * np.clip((np.arange(17) + 0.5) / 2 - 0.5, 0, 8)
    np.testing.assert_array_equal(full, np.broadcast_to(expected[:, None], full.shape))
    turned = motionnet._upsample(jnp.asarray(half).swapaxes(2, 3), 17, 11)
    np.testing.assert_array_equal(turned.swapaxes(2, 3), full)


class Differences:
    """A net whose flow is the difference of neighbouring frames: it tells which pair a field is of."""

    frames = 11

    def apply(self, variables, video, *, train):
        assert video.shape[1] == self.frames
        assert not train
        return jnp.diff(video, axis=1)[..., :2], {}


@pytest.mark.parametrize("length", [1, 2, 10, 11, 12, 16, 21, 22, 40])
def test_clips_of_any_length(length):
    video = jnp.asarray(np.random.default_rng(0).random((2, length, 4, 5, 3)), jnp.float32)
    flow = motionnet.estimate(Differences(), {}, video)
    np.testing.assert_array_equal(flow, jnp.diff(video, axis=1)[..., :2])


def shifted(flow, seed, frames=3, size=16):
    """Frames of smooth noise that moves by `flow` (x, y) pixels per frame."""
    rng = np.random.default_rng(seed)
    waves, phases, colors = rng.normal(0, 0.5, (24, 2)), rng.uniform(0, 7, 24), rng.random((24, 3)) / 24
    places = np.stack(np.indices((size, size))[::-1], -1)
    clip = [np.sin((places - k * np.asarray(flow)) @ waves.T + phases) @ colors for k in range(frames)]
    return np.float32(0.5 + np.stack(clip))


def he_normal(shapes, seed=0):
    """Random weights without XLA, which compiles every random kernel for seconds."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if len(leaf.shape) > 1 else 0
        return np.float32(rng.normal(0, scale, leaf.shape))

    return jax.tree.map(draw, shapes)


def test_it_learns_translations():
    """Two clips of known motion, shown by themselves: end-point error below half a pixel."""
    flows = np.float32([(2, -1), (-2, 0)])
    video = np.stack([shifted(flow, i) for i, flow in enumerate(flows)])
    target = np.broadcast_to(flows[:, None, None, None], (2, 2, 16, 16, 2))
    model, tx = build(), optax.adam(3e-3)
    params = he_normal(models.shapes(model, video.shape))
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state):
        def error(params):
            flow, _ = model.apply(params, video, train=True)
            return jnp.sqrt(jnp.sum(jnp.square(flow - target), -1) + 1e-6).mean()

        error, grads = jax.value_and_grad(error)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, error

    errors = []  # of the fields, in pixels
    for _ in range(80):
        params, opt_state, error = step(params, opt_state)
        errors.append(float(error))
    assert errors[0] > 1.5
    assert max(errors[-10:]) < 0.5


def test_computed_in_bfloat16_it_still_gives_float32():
    model, video = build(dtype="bfloat16"), jax.ShapeDtypeStruct((1, 3, 16, 16, 3), jnp.float32)
    (flow, out), variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), video)
    assert flow.dtype == out["flow3"].dtype == jnp.float32
    assert out["conv1"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("fields", "frames", "sentence"),
    [({}, 5, "clips of 3 frames, not 5"), ({"up": (16, 8)}, 3, "two levels less"), ({"kernels": (3,)}, 3, "kernels")],
)
def test_field_errors(fields, frames, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build(**fields), (1, frames, 16, 16, 3))


def caffe_downsample(picture, height, width):
    """The reference's Downsample layer on (H, W, C): tents around positions that keep the corners, pixel by pixel."""
    h, w, c = picture.shape
    tall, wide = (h - 1) / (height - 1), (w - 1) / (width - 1)
    found = np.zeros((height, width, c))
    for i, j in np.ndindex(height, width):
        total = 0
        for y, x in np.ndindex(h, w):
            weight = max(0, 1 - abs(y - i * tall) / tall) * max(0, 1 - abs(x - j * wide) / wide)
            found[i, j] += weight * picture[y, x]
            total += weight
        found[i, j] /= total
    return found


def caffe_warp(picture, flow):
    """The reference's FlowTransformer layer: bilinear, pixels outside are 0."""
    h, w, c = picture.shape
    found = np.zeros((h, w, c))
    for i, j in np.ndindex(h, w):
        x, y = j + flow[i, j, 0], i + flow[i, j, 1]
        for m, n in np.ndindex(2, 2):
            row, column = int(np.floor(y)) + m, int(np.floor(x)) + n
            if 0 <= row < h and 0 <= column < w:
                found[i, j] += (1 - abs(y - row)) * (1 - abs(x - column)) * picture[row, column]
    return found


def caffe_ssim(x, y):
    """The reference's SSIMLoss layer on one channel (H, W), kernel and stride 8."""
    h, w = x.shape
    grid = np.arange(8) - 4
    bell = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * (16 / 12) ** 2))
    bell, total = bell / bell.sum(), 0
    for i, j in np.ndindex(-(-h // 8), -(-w // 8)):
        a, b = (v[8 * i : 8 * i + 8, 8 * j : 8 * j + 8] for v in (x, y))
        k = bell[: a.shape[0], : a.shape[1]]
        ua, ub = (k * a).sum(), (k * b).sum()
        saa, sbb, sab = (k * a * a).sum() - ua**2, (k * b * b).sum() - ub**2, (k * a * b).sum() - ua * ub
        total += 1 - (2 * ua * ub + 1e-4) / (ua**2 + ub**2 + 1e-4) * (2 * sab + 1e-3) / (saa + sbb + 1e-3)
    return total


def caffe_charbonnier(x, mask, power, scale):
    """The reference's CharbonnierLoss on (C, H, W), summed over the mask, less what an error of 0 would cost."""
    cost = ((scale * x) ** 2 + 1e-6) ** power - 1e-6**power
    return (cost * mask).sum()


def caffe_losses(video, predicted):
    """train.prototxt's losses of one clip (T, H, W, 3) and predictions {level: (h, w, 2n)} of a batch of one."""
    x = (video - np.array(motionnet.MEAN)).astype(np.float64)
    x = x / (1 + 1 / 9 * (x**2).sum(-1, keepdims=True)) ** 0.7  # LRN over 9 channels: over all three
    found = dict.fromkeys(("photometric", "ssim", "smoothness"), 0.0)
    for level, flow in predicted.items():
        h, w, channels = flow.shape
        scale = 20 / 2 ** (level - 1)
        mask, border = np.ones((h, w)), int(np.floor(0.1 * min(h, w) + 0.5))
        for b in range(border):
            mask[[b, h - 1 - b]] = mask[:, [b, w - 1 - b]] = 0
        frames = [caffe_downsample(frame, h, w) for frame in x]
        valid = 3 * len(frames[1:]) * mask.sum()
        for k in range(channels // 2):
            warped = caffe_warp(frames[k + 1], scale * flow[..., 2 * k : 2 * k + 2])
            error = (frames[k] - warped).transpose(2, 0, 1)
            found["photometric"] += caffe_charbonnier(error, mask, 0.4, 255) / valid
            for c in range(3):
                found["ssim"] += 0.01 * 2 ** (level - 2) * caffe_ssim(warped[..., c], frames[k][..., c])
        right, down = np.zeros((2, channels, h, w))
        right[..., :-1] = (flow[:, :-1] - flow[:, 1:]).transpose(2, 0, 1)
        down[:, :-1] = (flow[:-1] - flow[1:]).transpose(2, 0, 1)
        found["smoothness"] += sum(caffe_charbonnier(delta, mask, 0.3, scale) for delta in (right, down)) / valid
    return found


def test_losses_are_the_references():
    """Every layer of its train.prototxt between predictions and losses, pixel by pixel in float64."""
    rng, model = np.random.default_rng(0), build()
    video = rng.random((2, 3, 20, 28, 3), np.float32)
    predicted = {2: 0.05 * rng.normal(size=(2, 10, 14, 4)), 3: 0.2 * rng.normal(size=(2, 5, 7, 4))}
    out = {f"flow{k}": motionnet._pixels(jnp.asarray(x, jnp.float32), k) for k, x in predicted.items()}
    found = jax.jit(lambda v, out: motionnet.losses(model, v, out))(video, out)
    for i in range(2):
        expected = caffe_losses(video[i], {level: x[i] for level, x in predicted.items()})
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][i], value, rtol=2e-5, err_msg=name)  # float32, powers below a half


def test_a_known_translation_costs_nothing():
    """Frames that move by whole pixels of a level's grid: the right flow is far cheaper than none."""
    flow = np.float32([(2, -1), (-1, 1)])
    frames = np.stack([shifted(f, i, frames=4, size=24) for i, f in enumerate(flow)])
    fields = np.broadcast_to(flow[:, None, None, None], (2, 3, 24, 24, 2))

    def costs(fields):
        warped = motionnet.warp(frames[:, 1:].reshape(6, 24, 24, 3), fields.reshape(6, 24, 24, 2)).reshape(
            2, 3, 24, 24, 3
        )
        return motionnet.photometric(frames[:, :-1], warped), warped

    right, warped = costs(fields)
    np.testing.assert_allclose(warped[:, :, 2:-2, 2:-2], frames[:, :-1, 2:-2, 2:-2], atol=1e-5)  # sines in float32
    wrong, _ = costs(np.zeros_like(fields))
    assert np.max(right) < 1e-3 < 1 < np.min(wrong)
    assert np.max(costs(fields + 0.5)[0]) > 1


def test_a_constant_flow_is_smooth_and_equal_pictures_are_similar():
    flow = np.broadcast_to(np.float32([3, -7]), (2, 4, 9, 11, 2))
    assert np.abs(motionnet.roughness(flow)).max() < 1e-7  # a power in float32, less the same in float64
    tilted = flow + np.float32([1, 0]) * np.arange(11, dtype=np.float32)[:, None]
    np.testing.assert_allclose(motionnet.roughness(tilted), np.full(2, 1 / 3), rtol=0.02)  # 1 ** 0.6, over 3
    pictures = np.random.default_rng(0).random((2, 3, 16, 20, 3), np.float32)
    assert np.abs(motionnet.dissimilarity(pictures, pictures)).max() < 1e-4  # of 54 windows, float32
    assert np.min(motionnet.dissimilarity(pictures, pictures[:, ::-1].copy())) > 10


def test_it_learns_translations_without_being_told():
    """Two clips, shown by themselves: the unsupervised losses alone bring the end-point error below half a pixel."""
    flows = np.float32([(2, -1), (-2, 1)])
    video = np.stack([shifted(flow, i, size=32) for i, flow in enumerate(flows)])
    target = np.broadcast_to(flows[:, None, None, None], (2, 2, 32, 32, 2))
    model, tx = build(), optax.adam(3e-3)
    params = he_normal(models.shapes(model, video.shape))
    for name, layer in params["params"].items():  # a first flow of a few pixels: photometry sees no further
        if name.startswith("predict"):
            layer["conv"]["kernel"] *= 0.1
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state):
        def cost(params):
            flow, out = model.apply(params, video, train=True)
            error = jnp.sqrt(jnp.sum(jnp.square(flow - target), -1))[:, :, 4:-4, 4:-4].mean()
            return sum(value.mean() for value in motionnet.losses(model, video, out).values()), error

        (_, error), grads = jax.value_and_grad(cost, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, error

    errors = []  # of the fields, in pixels
    for _ in range(80):
        params, opt_state, error = step(params, opt_state)
        errors.append(float(error))
    assert errors[0] > 1.5
    assert max(errors[-10:]) < 0.5
