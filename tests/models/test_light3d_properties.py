"""mobilenet3d, shufflenet3d, squeezenet3d: published sizes by formula, shuffles, odd clips, never negative scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import mobilenet3d, shufflenet3d, squeezenet3d


class Ledger:
    """Parameters, multiply-adds and the operations that the authors' tool (their thop) counts, layer by layer.

    That tool counts a convolution's multiply-adds and biases, two operations for every element of a norm, one for
    every element of a ReLU that is a module, two of a maximum of 3x3x3 (it forgets two of the three axes) and the
    additions of the last layer too.
    """

    def __init__(self):
        self.channels, self.size, self.params, self.macs, self.operations = 3, (16, 112, 112), 0, 0, 0

    def conv(self, features, kernel=1, stride=1, groups=1, *, bias=False, relu=True, start=None):
        """A convolution of the channels at hand, or of `start` = (channels, size), its norm and ReLU."""
        channels, size = start or (self.channels, self.size)
        strides = stride if isinstance(stride, tuple) else (stride,) * 3
        self.channels, self.size = features, tuple(-(-n // s) for n, s in zip(size, strides, strict=True))
        weights, out = kernel**3 * channels // groups * features, features * int(np.prod(self.size))
        self.params += weights + (features if bias else 0) + 2 * features
        self.macs += weights * out // features
        self.operations += weights * out // features + (out if bias else 0) + 2 * out + (out if relu else 0)

    def relu(self):
        self.operations += self.channels * int(np.prod(self.size))

    def pool(self, operations=2):
        self.size = tuple(-(-n // 2) for n in self.size)
        self.operations += operations * self.channels * int(np.prod(self.size))

    def linear(self, classes):
        self.params += (self.channels + 1) * classes
        self.macs += self.channels * classes
        self.operations += (2 * self.channels - 1) * classes


def mobilenet(width):
    net = Ledger()
    net.conv(int(32 * width), 3, (1, 2, 2))
    rows = [(64, 2), *[(128, 2), (128, 1), (256, 2), (256, 1)], (512, 2), *[(512, 1)] * 5, (1024, 1), (1024, 1)]
    for features, stride in rows:
        net.conv(net.channels, 3, stride, net.channels, relu=False)  # its blocks' ReLUs are functions
        net.conv(int(features * width), relu=False)
    net.linear(600)
    return net


def mobilenetv2(width):
    net = Ledger()
    net.conv(int(32 * width), 3, (1, 2, 2))
    for expansion, features, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for j in range(count):
            if expansion > 1:
                net.conv(net.channels * expansion)
            net.conv(net.channels, 3, 1 if j else stride, net.channels)
            net.conv(int(features * width), relu=False)
    net.conv(1280)
    net.linear(600)
    return net


def shufflenet(width):
    net = Ledger()
    net.conv(int(24 * width), 3, (1, 2, 2))
    net.pool()
    for features, count in ((240, 4), (480, 8), (960, 4)):
        n = int(features * width)
        for j in range(count):
            before = net.channels, net.size
            net.conv(n // 4, groups=1 if net.channels == 24 else 3)
            net.conv(n // 4, 3, 1 if j else 2, n // 4, relu=False)
            net.conv(n if j else n - before[0], groups=3, relu=False)
            net.operations += 0 if j else 18 * before[0] * int(np.prod(net.size))  # the averages
            net.channels = n
            net.relu()
    net.linear(600)
    return net


def shufflenetv2(*widths, last=1024):
    net = Ledger()
    net.conv(24, 3, (1, 2, 2))
    net.pool()
    for n, count in zip(widths, (4, 8, 4), strict=True):
        for j in range(count):
            channels, size = before = net.channels, net.size
            if not j:
                net.conv(channels, 3, 2, channels, relu=False)
                net.conv(n // 2)
            net.conv(n // 2, start=(n // 2, size) if j else before)
            net.conv(n // 2, 3, 1 if j else 2, n // 2, relu=False)
            net.conv(n // 2)
            net.channels = n
    net.conv(last)
    net.linear(600)
    return net


def squeezenet(width, kernel, stages):
    net = Ledger()
    net.conv(width, kernel, (1, 2, 2), bias=True)
    for stage in stages:
        net.pool()
        for squeezed in stage:
            net.conv(squeezed, bias=True)
            start = net.channels, net.size
            net.conv(4 * squeezed, bias=True, relu=False)
            net.conv(4 * squeezed, 3, bias=True, relu=False, start=start)
            net.channels *= 2
            net.relu()
    positions = int(np.prod(net.size))
    net.params += (net.channels + 1) * 600
    net.macs += net.channels * 600 * positions
    net.operations += (net.channels + 1 + 1) * 600 * positions + positions * 600  # bias, ReLU and average
    return net


NETS = {  # (family, variant): its layers, millions of operations and of parameters in table 8 of the paper
    ("mobilenet3d", "v1_x0_5"): (mobilenet(0.5), 98, 1.17),
    ("mobilenet3d", "v1_x1_0"): (mobilenet(1.0), 241, 3.91),
    ("mobilenet3d", "v1_x1_5"): (mobilenet(1.5), 429, 8.22),
    ("mobilenet3d", "v1_x2_0"): (mobilenet(2.0), 662, 14.10),
    ("mobilenet3d", "v2_x0_2"): (mobilenetv2(0.2), 63, 0.96),
    ("mobilenet3d", "v2_x0_45"): (mobilenetv2(0.45), 177, 1.40),
    ("mobilenet3d", "v2_x0_7"): (mobilenetv2(0.7), 325, 2.05),
    ("mobilenet3d", "v2_x1_0"): (mobilenetv2(1.0), 561, 3.12),
    ("shufflenet3d", "v1_x0_5"): (shufflenet(0.5), 78, 0.55),
    ("shufflenet3d", "v1_x1_0"): (shufflenet(1.0), 199, 1.52),
    ("shufflenet3d", "v1_x1_5"): (shufflenet(1.5), 347, 2.92),
    ("shufflenet3d", "v1_x2_0"): (shufflenet(2.0), 538, 4.76),
    ("shufflenet3d", "v2_x0_25"): (shufflenetv2(32, 64, 128), 116, 0.83),
    ("shufflenet3d", "v2_x0_5"): (shufflenetv2(48, 96, 192), None, None),
    ("shufflenet3d", "v2_x1_0"): (shufflenetv2(116, 232, 464), 195, 1.91),
    ("shufflenet3d", "v2_x1_5"): (shufflenetv2(176, 352, 704), 291, 3.16),
    ("shufflenet3d", "v2_x2_0"): (shufflenetv2(224, 488, 976, last=2048), 438, 6.64),
    ("squeezenet3d", "v1_0"): (squeezenet(96, 7, [(16, 16), (32, 32), (48, 48, 64), (64,)]), None, None),
    ("squeezenet3d", "v1_1"): (squeezenet(64, 3, [(16, 16), (32, 32), (48, 48), (64, 64)]), 926, 2.15),
}


def test_every_published_net_is_counted():
    found = {(f.__name__.split(".")[-1], v) for f in (mobilenet3d, shufflenet3d, squeezenet3d) for v in f.VARIANTS}
    assert found == {*NETS, *((family, "small") for family, _ in NETS)}


@pytest.mark.parametrize(("family", "variant"), NETS)
def test_sizes_by_formula_and_as_published(family, variant):
    (net, operations, params), row = NETS[family, variant], models.family(family).SIZES[variant]
    assert row["params"] == net.params
    assert abs(row["gmac"] - net.macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals
    if params:
        assert round(net.params / 1e6, 2) == params
        assert round(net.operations / 1e6) == operations


def test_shuffle_takes_each_group_in_turn():
    x = jnp.arange(24).reshape(1, 1, 1, 2, 12)
    expected = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    np.testing.assert_array_equal(shufflenet3d.shuffle(x, 3)[0, 0, 0], [expected, np.add(expected, 12)])
    np.testing.assert_array_equal(shufflenet3d.shuffle(shufflenet3d.shuffle(x, 3), 4), x)


@pytest.mark.parametrize(("family", "variant"), [row for row in NETS if row[1] in ("v1_x1_0", "v2_x1_0", "v1_1")])
@pytest.mark.parametrize("frames", [1, 5, 16])
def test_time_halves_up(family, variant, frames):
    model = models.build({"name": family, "variant": variant})
    video = jax.ShapeDtypeStruct((1, frames, 112, 112, 3), jnp.float32)
    (_, out), _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), video)
    sixteenth = -(-frames // 16)
    assert out["stem"].shape[1:4] == (frames, 56, 56)
    deepest = "last" if "last" in out else max(name for name in out if name.startswith("layer"))
    assert out[deepest].shape[1:4] == (sixteenth, 4, 4)


def test_an_odd_last_frame_counts_half_beside_the_grouped_block():
    """The averages of 2x3x3 beside a block of stride 2 take a frame of zeros after an odd last one."""
    fields = {"version": 1, "groups": 1, "widths": (32,), "depths": (1,), "stem_width": 24, "last_width": 0}
    model = models.build({"name": "shufflenet3d", "variant": "small", **fields}, num_classes=0)
    video = np.random.RandomState(0).rand(1, 3, 8, 8, 3).astype(np.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)
    _, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    stem = np.pad(out["stem"], ((0, 0), (0, 1), (1, 1), (1, 1), (0, 0)))  # as zeros count in the reference
    expected = stem[:, 2:4, :3, :3].sum((1, 2, 3)) / 18  # second output, upper left
    np.testing.assert_allclose(out["layer1"][:, 1, 0, 0, 8:], expected, rtol=1e-5)  # sums in another order


def test_scores_of_squeezenet_are_never_negative_and_averaged():
    fields = {"stem_width": 4, "stages": (((2, 4),), ((3, 5),))}
    model = models.build({"name": "squeezenet3d", "variant": "small", **fields}, num_classes=6)
    video = np.random.RandomState(0).rand(2, 8, 24, 24, 3).astype(np.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    assert out["scores"].shape == (2, 2, 3, 3, 6)
    assert (out["scores"] == 0).any()
    assert out["scores"].min() == 0
    np.testing.assert_allclose(logits, out["scores"].mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(out["pre_logits"], out["layer2"].mean((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "fields", "sentence"),
    [
        ("mobilenet3d", {"version": 3}, "version is 1 or 2, not 3"),
        ("mobilenet3d", {"widths": (4, 8)}, r"one length \(the stages\), not \[3, 2, 3, 3\]"),
        ("mobilenet3d", {"last_width": 0}, "needs the field last_width"),
        ("shufflenet3d", {"version": 3}, "version is 1 or 2, not 3"),
        ("shufflenet3d", {"depths": (1,)}, r"one length \(the stages\), not \[1, 2\]"),
        ("shufflenet3d", {"last_width": 0}, "needs the field last_width"),
        ("shufflenet3d", {"widths": (8, 9)}, r"make the widths even, not \(8, 9\)"),
        ("shufflenet3d", {"version": 1, "groups": 5}, "must divide by groups, 5"),
    ],
)
def test_field_errors(family, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(models.build({"name": family, "variant": "small", **fields}), (1, 2, 8, 8, 3))


def test_weights_of_kinetics_read_bgr():
    rows = {key: row for key, row in models.references().items() if key[0] == "okankop"}
    assert len(rows) == 5 + 2 * (4 + 4 + 4 + 5) + 3
    for (_, arch), row in rows.items():
        order = "BGR" if arch.startswith("kinetics_") else "RGB"
        assert models.for_reference("okankop", arch, 4).order == row["preprocess"]["order"] == order
