"""r3d's nets: sizes by the paper's definition, VMZ's published figures, and what each kind of convolution sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import r3d
from vidjax.nn import lowering

# VMZ's c2/tutorials/models.md: {net: (GMAC of 8x112x112, GMAC of 16x112x112, million weights)}, all of 18 layers.
PUBLISHED = {
    "r2plus1d": (20.7, 41.5, 33.3),
    "r3d": (20.3, 40.7, 33.4),
    "r2d": (1.9, 2.2, 11.5),
    "fr2d": (13.8, 27.6, 11.4),
    "mc2": (14.3, 28.5, 11.4),
    "mc3": (21.7, 43.3, 11.7),
    "mc4": (20.0, 40.0, 12.7),
    "mc5": (20.0, 39.9, 16.8),
    "rmc2": (19.9, 39.8, 33.3),
    "rmc3": (12.5, 25.0, 33.0),
    "rmc4": (14.5, 29.1, 32.0),
    "rmc5": (15.4, 30.8, 27.9),
}


def build(variant, **fields):
    return models.build({"name": "r3d", "variant": variant}, **fields)


def formula(row, frames, size, classes):
    """(parameters, multiply-adds) of an r3d variant from the paper's definition alone."""
    totals = np.zeros(2, np.int64)

    def middle(c, n, k=3):
        return int(k**3 * c * n / (k * k * c + k * n))

    def unit(shape, c, n, kernel, strides, kind, mid, norms=1):
        (t, k, _), (st, s, _), (frames, rows) = kernel, strides, shape
        to, ho = (1 if kind == "stacked" else -(-frames // st)), -(-rows // s)
        if kind == "2plus1d":
            first, second = k * k * c * mid, t * mid * n
            totals[:] += [first + second + 2 * mid + 2 * n, frames * ho * ho * first + to * ho * ho * second]
        else:
            weights = {"3d": t, "2d": 1, "stacked": frames}[kind] * k * k * c * n
            totals[:] += [weights + 2 * n, to * ho * ho * weights]
        totals[0] += 2 * n * (norms - 1)
        return to, ho

    def block(shape, c, n, s, kind):
        st, norms = (1 if kind == "2d" else s), 2 if row.get("twice") else 1
        rule = c if row.get("mid") == "block" else n
        first = unit(shape, c, n, (3, 3, 3), (st, s, s), kind, middle(c, n), norms)
        unit(first, n, n, (3, 3, 3), (1, 1, 1), kind, middle(rule, n), norms)
        if s > 1:
            factorised = kind if row.get("twice") else "3d"
            unit(shape, c, n, (1, 1, 1), (st, s, s), factorised, middle(c, n, 1), norms)
        return first, n

    def bottleneck(shape, c, n, s, kind):
        st = 1 if kind == "2d" else s
        unit(shape, c, n, (1, 1, 1), (1, 1, 1), "3d", 0)
        after = unit(shape, n, n, (3, 3, 3), (st, s, s), kind, middle(n, n))
        unit(after, n, 4 * n, (1, 1, 1), (1, 1, 1), "3d", 0)
        if s > 1 or c != 4 * n:
            unit(shape, c, 4 * n, (1, 1, 1), (st, s, s), "3d", 0)
        return after, 4 * n

    widths, strides = row.get("widths", (64, 128, 256, 512)), row.get("strides", (1, 2, 2, 2))
    c, stem = widths[0], row.get("stem_kernel", (3, 7, 7))
    shape = unit((frames, size), 3, c, stem, (1, 2, 2), row["stem"], 45)
    for depth, n, kind, stride in zip(row["depths"], widths, row["convs"], strides, strict=True):
        for j in range(depth):
            shape, c = (bottleneck if row.get("bottleneck") else block)(shape, c, n, 1 if j else stride, kind)
    return totals + [(c + 1) * classes, c * classes]


@pytest.mark.parametrize("variant", r3d.VARIANTS)
def test_sizes_by_formula(variant):
    row = r3d.SIZES[variant]
    params, macs = formula(r3d.VARIANTS[variant], *row["input"][:2], row["classes"])
    assert params == row["params"]
    assert abs(macs / 1e9 - row["gmac"]) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize("net", PUBLISHED)
def test_published_sizes(net):
    *published, weights = PUBLISHED[net]
    for frames, gmac in zip((8, 16), published, strict=True):
        assert (
            abs(models.macs(build(f"{net}_18_paper"), (1, frames, 112, 112, 3)) / 1e9 - gmac) <= 0.06
        )  # cut or rounded
    params = models.shapes(build(f"{net}_18_paper"), (1, 8 if net == "r2d" else 16, 112, 112, 3))["params"]
    kernels = sum(p.size for path, p in jax.tree.leaves_with_path(params) if path[-1].key == "kernel")
    assert abs(kernels / 1e6 - weights) <= 0.1  # without batch norm; R2D's is of either number of frames


@pytest.mark.parametrize(("variant", "gmac"), [("r2plus1d_34_paper", 199.0), ("r2plus1d_152_paper", 329.1)])
def test_published_sizes_of_deep_nets(variant, gmac):
    """VMZ's model zoo prints 32x112x112 and counts its test crop of 128x128."""
    assert round(models.macs(build(variant), (1, 32, 128, 128, 3)) / 1e9, 1) == gmac


def test_middle_widths():
    pairs = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert [r3d.mid_features(*pair) for pair in pairs] == [144, 230, 288, 460, 576, 921, 1152]  # [P]
    for c, n in pairs:
        factorised, full = r3d.mid_features(c, n) * (9 * c + 3 * n), 27 * c * n
        assert 0.998 * full <= factorised <= full
    assert r3d.mid_features(64, 64) * (9 * 64 + 3 * 64) == 110_592


@pytest.mark.parametrize(
    ("net", "frames"),
    [
        ("r2d", (1, 1, 1, 1, 1)),
        ("fr2d", (16, 16, 16, 16, 16)),
        ("r3d", (16, 16, 8, 4, 2)),
        ("mc2", (16, 16, 16, 16, 16)),
        ("mc3", (16, 16, 16, 16, 16)),
        ("mc4", (16, 16, 8, 8, 8)),
        ("mc5", (16, 16, 8, 4, 4)),
        ("rmc2", (16, 16, 8, 4, 2)),
        ("rmc3", (16, 16, 8, 4, 2)),
        ("rmc4", (16, 16, 16, 8, 4)),
        ("rmc5", (16, 16, 16, 16, 8)),
    ],
)
def test_frames_of_each_stage(net, frames):
    """Those of VMZ's create_mcx and create_rmcx, whose last pools are clip / 8 x (8, 8, 4, 2) and x (1, 1, 2, 4)."""
    model, video = build(f"{net}_18_paper"), jnp.zeros((1, 16, 112, 112, 3))
    (_, out), _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), video)
    assert tuple(out[name].shape[1] for name in ("stem", "layer1", "layer2", "layer3", "layer4")) == frames


def run(variant, video, **fields):
    """(model, variables drawn at random, compiled apply) of a variant with one narrow block a stage."""
    stages = {"depths": (1,) * 4, "widths": (4,) * 4, "num_classes": 3}
    model, rng = build(variant, **stages | fields), np.random.RandomState(0)
    variables = jax.tree.map(
        lambda p: rng.uniform(0.1, 0.9, p.shape).astype(p.dtype), models.shapes(model, video.shape)
    )
    return model, variables, compiled(model)


def compiled(model):
    """The model's evaluation; the native lowering compiles faster."""

    @jax.jit
    def apply(variables, video):
        with lowering("native"):
            return model.apply(variables, video, train=False)

    return apply


@pytest.mark.parametrize(
    ("net", "blind"),
    [
        ("fr2d", {"stem", "layer1", "layer2", "layer3", "layer4"}),
        ("mc2", set()),
        ("rmc3", {"stem", "layer1"}),
        ("rmc5", {"stem", "layer1", "layer2", "layer3"}),
    ],
)
def test_which_stages_see_motion(net, blind):
    """Frames in another order: a stage of 2-D convolutions alone gives its old maps in that order."""
    video = np.random.RandomState(0).rand(1, 8, 16, 16, 3).astype(np.float32)
    turn = np.random.RandomState(1).permutation(8)
    _, variables, apply = run(f"{net}_18_paper", video)
    (logits, before), (turned, after) = apply(variables, video), apply(variables, video[:, turn])
    stages = ["stem", "layer1", "layer2", "layer3", "layer4"]
    same = {s for s in stages if before[s].shape[1] == 8 and np.array_equal(before[s][:, turn], after[s])}
    assert same == blind
    assert np.allclose(logits, turned, rtol=1e-6) == (net == "fr2d")  # a mean in another order


def test_stacked_stem_is_a_convolution_of_all_frames_as_channels():
    video = np.random.RandomState(0).rand(2, 5, 12, 12, 3).astype(np.float32)
    _, variables, apply = run("r2d_18_paper", video, mean=0.0, std=1.0)
    kernel = jnp.asarray(variables["params"]["stem"]["conv"]["kernel"])  # (5, 7, 7, 3, 4)
    flat = jnp.moveaxis(jnp.asarray(video), 1, 3).reshape(2, 12, 12, 15)
    wide = jnp.moveaxis(kernel, 0, 2).reshape(7, 7, 15, 4)
    layout = ("NHWC", "HWIO", "NHWC")
    stem = jax.lax.conv_general_dilated(flat, wide, (2, 2), ((3, 3), (3, 3)), dimension_numbers=layout)
    bn, stats = variables["params"]["stem"]["bn"], variables["batch_stats"]["stem"]["bn"]
    normal = (np.asarray(stem) - stats["mean"]) / np.sqrt(stats["var"] + 1e-3)
    expected = np.maximum(normal * bn["scale"] + bn["bias"], 0)
    np.testing.assert_allclose(apply(variables, video)[1]["stem"][:, 0], expected, rtol=1e-4, atol=1e-5)  # float32 sums


def test_field_errors():
    video = (1, 2, 8, 8, 3)
    with pytest.raises(ValueError, match="convs has '3d', '2d' or '2plus1d' for a stage, not 'stacked'"):
        models.shapes(build("small", convs=("3d", "3d", "stacked")), video)
    with pytest.raises(ValueError, match="twice .* is for basic blocks"):
        models.shapes(build("r3d_152_paper", twice=True), video)
    with pytest.raises(ValueError, match="not 'BRG'"):
        models.shapes(build("small", order="BRG"), video)


def test_bgr_reverses_the_channels():
    video = np.random.RandomState(0).rand(1, 2, 16, 16, 3).astype(np.float32)
    model, variables, apply = run("r3d_18_jfzhang", video)
    turned = compiled(model.clone(order="BGR"))(variables, video[..., ::-1])
    np.testing.assert_array_equal(turned[0], apply(variables, video)[0])
