"""MobileNetV2 of any width, with the temporal shift of TSM on demand: for phones and small computers.

Paper: MobileNetV2: Inverted Residuals and Linear Bottlenecks (Sandler et al., CVPR 2018), table 2.
TSM: Temporal Shift Module for Efficient Video Understanding (Lin et al., ICCV 2019).
References: torchvision.models.mobilenet_v2; mit-han-lab/temporal-shift-module (`table_tsm`).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.nn import BatchNorm, Conv3D, shift

STAGES = (  # expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

VARIANTS = {
    "mobilenet_v2": {},
    "mobilenet_v2_x0_5": {"width": 0.5},
    "mobilenet_v2_x0_75": {"width": 0.75},
    "mobilenet_v2_x1_4": {"width": 1.4},
}


class Unit(nn.Module):
    """k x k convolution of every frame and batch norm: (B, T, H, W, C) -> (B, T, H / s, W / s, features)."""

    features: int
    kernel: int
    stride: int
    groups: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        k, s, half = self.kernel, self.stride, self.kernel // 2
        padding = ((0, 0), (half, half), (half, half))
        x = self.conv(self.features, (1, k, k), (1, s, s), padding, self.groups, name="conv")(x)
        return self.norm(name="bn")(x)


class Block(nn.Module):
    """Inverted residual: 1x1 to `expansion` times the channels, 3x3 on each, linear 1x1 to `features`.

    (B, T, H, W, C) -> (B, T, H / s, W / s, features); the input is added where the shape stays, and only there are
    1 / shift of the channels shifted a frame each way, unless `shift` is 0. With a dict `state` they come only from the
    past, and the dict's entry under the block's name is renewed.
    """

    features: int
    stride: int
    expansion: int
    shift: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x, state=None):
        channels = x.shape[-1]
        wide, residual = channels * self.expansion, self.stride == 1 and channels == self.features
        y = shift(x, self.shift if residual else 0, state, self.name)
        if self.expansion > 1:
            y = nn.relu6(self.unit(wide, 1, 1, 1, name="expand")(y))
        y = nn.relu6(self.unit(wide, 3, self.stride, wide, name="depthwise")(y))
        y = self.unit(self.features, 1, 1, 1, name="project")(y)
        return x + y if residual else y


class Backbone(nn.Module):
    """MobileNetV2 on every frame: (B, T, H, W, C) -> activations by layer.

    `map` is (B, T, H / 32, W / 32, 1280), `features` (B, T, 1280) its mean in float32. `width` multiplies all channels
    (the last layer's only above 1), rounded to multiples of 8. `shift` is 8 in TSM, 0 reads every frame alone; with
    `online` it shifts only from the past, so that a video may come in pieces: `state` {} before the first, then the
    activation `state` of the piece before.
    """

    width: float = 1.0
    stages: tuple = STAGES
    last: int = 1280
    shift: int = 0
    online: bool = False
    dtype: str = "float32"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train, state=None):
        kept = dict(state or {}) if self.online else None
        init = nn.initializers.variance_scaling(2, "fan_out", "normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out, count = {}, 0
        x = out["stem"] = nn.relu6(unit(channels_of(32, self.width), 3, 2, 1, name="stem")(x))
        for i, (expansion, n, depth, stride) in enumerate(self.stages, 1):
            for j in range(depth):
                count += 1
                features = channels_of(n, self.width)
                x = Block(features, 1 if j else stride, expansion, self.shift, unit, name=f"block{count}")(x, kept)
            out[f"stage{i}"] = x
        x = nn.relu6(unit(channels_of(self.last, max(1.0, self.width)), 1, 1, 1, name="last")(x))
        out |= {"map": x, "features": x.astype(jnp.float32).mean(axis=(2, 3))}
        return out if state is None else out | {"state": kept or {}}


def channels_of(n, width):
    """n * width rounded to the nearest multiple of 8, up where that loses more than a tenth."""
    rounded = max(8, int(n * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * n * width else rounded


def table(source="", path="backbone"):
    """Conversion rules from torchvision's names, each after the regex `source`, to parameters below `path`.

    `classifier.1` is the family's head.
    """
    first, block = r"features\.1\.conv\.", r"features\.(?P<block>[2-9]|1[0-7])\.conv\."
    units = [("stem", r"features\.0\.0", r"features\.0\.1"), ("last", r"features\.18\.0", r"features\.18\.1")]
    units += [("block1/depthwise", rf"{first}0\.0", rf"{first}0\.1"), ("block1/project", rf"{first}1", rf"{first}2")]
    ours = (r"block\g<block>/expand", r"block\g<block>/depthwise", r"block\g<block>/project")
    theirs = ((r"0\.0", r"0\.1"), (r"1\.0", r"1\.1"), ("2", "3"))
    units += [(o, rf"{block}{conv}", rf"{block}{norm}") for o, (conv, norm) in zip(ours, theirs, strict=True)]
    return _rules(source, path, units)


def table_tsm(source="", path="backbone", online=False):
    """Conversion rules from the names of TSM's own MobileNetV2, each after the regex `source`.

    A convolution that it wraps says `.net`: the first of every block that adds its input. Its `online` demo wraps none.
    """
    first, block = r"features\.1\.conv\.", r"features\.(?P<block>[2-9]|1[0-7])\.conv\."
    wraps, bare = (rf"features\.(?P<block>{which})\.conv\.0" for which in ("3|5|6|8|9|1[02356]", "[247]|1[147]"))
    units = [("stem", r"features\.0\.0", r"features\.0\.1"), ("last", r"features\.18\.0", r"features\.18\.1")]
    units += [("block1/depthwise", f"{first}0", f"{first}1"), ("block1/project", f"{first}3", f"{first}4")]
    units += [(r"block\g<block>/depthwise", f"{block}3", f"{block}4")]
    units += [(r"block\g<block>/project", f"{block}6", f"{block}7")]
    convs = [f"{block}0"] if online else [rf"{wraps}\.net", bare]
    expand = rf"{path}/block\g<block>/expand"
    found = [rule for conv in convs for rule in _conv(rf"{source}{conv}", expand)]
    return [*found, *rules.norm(rf"{source}{block}1", f"{expand}/bn"), *_rules(source, path, units)]


def _rules(source, path, units):
    """Conversion rules of units (our path, their convolution, their norm)."""
    found = [(rf"{source}features\..*\.num_batches_tracked", None, None)]
    for ours, conv, norm in units:
        found += _conv(rf"{source}{conv}", f"{path}/{ours}") + rules.norm(rf"{source}{norm}", f"{path}/{ours}/bn")
    return found


def _conv(source, path):
    return rules.conv(source, f"{path}/conv", transform="oihw_to_1hwio")
