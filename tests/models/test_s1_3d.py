"""s1_3d: sizes by formula, a NumPy oracle, and how a video's clips are averaged."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from vidjax import convert, models
from vidjax.models import s1_3d
from vidjax.nn import lowering

TINY = {"stem_width": 4, "widths": (4, 6), "strides": (1, 2), "num_classes": 3, "mean": 0.45, "std": 0.225}
TABLE = [  # names of the oracle below
    (r"(\w+)\.conv\.weight", r"params/\1/conv/kernel", "oithw_to_thwio"),
    (r"(\w+)\.bn\.weight", r"params/\1/bn/scale", None),
    (r"(\w+)\.bn\.bias", r"params/\1/bn/bias", None),
    (r"(\w+)\.bn\.running_(mean|var)", r"batch_stats/\1/bn/\2", None),
    (r"head\.weight", "params/head/kernel", "oi_to_io"),
    (r"head\.bias", "params/head/bias", None),
]


def load_reference():
    """tests/parity/reference.py: PyTorch's layers in NumPy float64."""
    file = pathlib.Path(__file__).parent.parent / "parity" / "reference.py"
    spec = importlib.util.spec_from_file_location("numpy_layers", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(variant="small", **fields):
    return models.build({"name": "s1_3d", "variant": variant}, **fields)


def apply(model, variables, video, train=False):
    """((logits, activations), statistics), compiled; the native lowering compiles faster."""

    @jax.jit
    def run(variables, video):
        with lowering("native"):
            return model.apply(variables, video, train=train, mutable=["batch_stats"])

    return run(variables, video)


def oracle(net, video, clips):
    """Logits of the tiny net as the module's docstring tells it, one clip at a time in evaluation."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    size, n = x.shape[2] // clips, x.shape[0]
    x = np.stack(np.split(x, clips, axis=2), 1).reshape(n * clips, 3, size, *x.shape[3:])
    unit = lambda name, x, *rest: np.maximum(net.norm(f"{name}.bn", net.conv(f"{name}.conv", x, *rest)), 0)  # noqa: E731
    x = unit("stem", x, 4, (3, 3, 3), (1, 2, 2))
    for i, (width, s) in enumerate(zip(TINY["widths"], TINY["strides"], strict=True), 1):
        x = unit(f"spatial{i}", x, width, (1, 3, 3), (1, s, s))
        x = unit(f"temporal{i}", x, width, (3, 1, 1), (s, 1, 1))
    x = x.mean((2, 3, 4)).reshape(n, clips, -1).mean(1)
    return net.linear("head", x, 3)


@pytest.fixture(scope="module")
def video():
    return np.random.RandomState(0).rand(3, 8, 16, 16, 3).astype(np.float32)


@pytest.mark.parametrize(("clips", "train"), [(1, True), (2, False), (4, True)])
def test_numpy(video, clips, train):
    layers, model = load_reference(), build(**TINY, clips=clips)
    net = layers.Torch(train)
    expected = oracle(net, video, clips)
    shapes = models.shapes(model, video.shape)
    (logits, _), state = apply(model, convert.convert(TABLE, net.tensors, shapes), video, train)
    layers.near(logits, expected, "logits")
    after = convert.convert(TABLE, net.state_dict(), shapes)["batch_stats"]
    jax.tree.map(lambda found, wanted: layers.near(found, wanted, "statistics"), state["batch_stats"], after)


def test_clips_are_averaged(video):
    """Each clip alone has its own features; the order of whole clips does not matter, that of frames does."""
    model, net = build(**TINY, clips=2), load_reference().Torch(False)
    oracle(net, video, 2)
    variables = convert.convert(TABLE, net.tensors, models.shapes(model, video.shape))
    (logits, out), _ = apply(model, variables, video)
    for i, part in enumerate(np.split(video, 2, axis=1)):
        (_, alone), _ = apply(model.clone(clips=1), variables, part)
        np.testing.assert_allclose(out["clips"][:, i], alone["clips"][:, 0], rtol=1e-5)  # compiled apart
    np.testing.assert_allclose(out["pre_logits"], out["clips"].mean(1), rtol=1e-6)
    (swapped, _), _ = apply(model, variables, np.roll(video, 4, axis=1))
    np.testing.assert_allclose(swapped, logits, rtol=1e-5, atol=1e-6)  # a sum in another order
    (shuffled, _), _ = apply(model, variables, video[:, [2, 0, 3, 1, 6, 4, 7, 5]])
    assert np.abs(shuffled - logits).max() > 1e-3 * np.abs(logits).max()


@pytest.mark.parametrize("variant", s1_3d.VARIANTS)
def test_sizes_by_formula(variant):
    """3x3x3 first, then pairs of 1x3x3 and 3x1x1, each with the two vectors of its norm."""
    fields, row = s1_3d.VARIANTS[variant], s1_3d.SIZES[variant]
    frames, size, _, c = row["input"]
    width, half = fields["stem_width"], -(-size // 2)
    params, macs = 27 * c * width + 2 * width, 27 * c * width * frames * half**2
    for n, s in zip(fields["widths"], fields["strides"], strict=True):
        half = -(-half // s)
        params, macs = params + 9 * width * n + 2 * n, macs + 9 * width * n * frames * half**2
        frames = -(-frames // s)
        params, macs = params + 3 * n * n + 2 * n, macs + 3 * n * n * frames * half**2
        width = n
    assert params + (width + 1) * row["classes"] == row["params"]
    assert abs((macs + width * row["classes"]) / 1e9 - row["gmac"]) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"clips": 3}, "cannot cut 8 frames into 3 clips"),
        ({"clips": 0}, "into 0 clips"),
        ({"widths": (4,)}, "one length"),
    ],
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build(**fields), (1, 8, 16, 16, 3))
