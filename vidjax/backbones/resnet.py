"""Residual nets of 18 to 152 layers, with the temporal shift of TSM on demand.

Paper: Deep Residual Learning for Image Recognition (He et al., CVPR 2016), table 1; the stride of a bottleneck is on
its 3x3 convolution as in torchvision ("v1.5"), or with `stride_first` on its first 1x1 as in the Caffe nets of He.
TSM: Temporal Shift Module for Efficient Video Understanding (Lin et al., ICCV 2019), section 3.
References: torchvision.models.resnet*; mit-han-lab/temporal-shift-module, whose wrapped convolutions say `.net`.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.nn import BatchNorm, Conv3D, max_pool, shift

VARIANTS = {  # table 1
    "resnet18": {"block": "basic", "depths": (2, 2, 2, 2)},
    "resnet34": {"block": "basic", "depths": (3, 4, 6, 3)},
    "resnet50": {"block": "bottleneck", "depths": (3, 4, 6, 3)},
    "resnet101": {"block": "bottleneck", "depths": (3, 4, 23, 3)},
    "resnet152": {"block": "bottleneck", "depths": (3, 8, 36, 3)},
}


class Unit(nn.Module):
    """k x k convolution of every frame and batch norm: (B, T, H, W, C) -> (B, T, H / s, W / s, features)."""

    features: int
    kernel: int
    stride: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        k, s, half = self.kernel, self.stride, self.kernel // 2
        x = self.conv(self.features, (1, k, k), (1, s, s), ((0, 0), (half, half), (half, half)), name="conv")(x)
        return self.norm(name="bn")(x)


class Block(nn.Module):
    """Residual block: (B, T, H, W, C) -> (B, T, H / s, W / s, features), or 4 * features of a bottleneck.

    `shift` moves 1 / shift of the channels that the residual branch reads a frame each way; 0 moves none. With a dict
    `state` it moves them only from the past, and the dict's entry under the block's name is renewed.
    """

    features: int
    stride: int
    kind: str
    stride_first: bool
    shift: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x, state=None):
        n, s, channels = self.features, self.stride, x.shape[-1]
        y = shift(x, self.shift, state, self.name)
        if self.kind == "basic":
            y = self.unit(n, 3, s, name="conv1")(y)
            y = self.unit(n, 3, 1, name="conv2")(nn.relu(y))
        else:
            first, second = (s, 1) if self.stride_first else (1, s)
            y = self.unit(n, 1, first, name="conv1")(y)
            y = self.unit(n, 3, second, name="conv2")(nn.relu(y))
            y = self.unit(4 * n, 1, 1, name="conv3")(nn.relu(y))
        if s != 1 or channels != y.shape[-1]:
            x = self.unit(y.shape[-1], 1, s, name="downsample")(x)
        return nn.relu(x + y)


class Backbone(nn.Module):
    """Residual net on every frame: (B, T, H, W, C) -> activations by layer.

    `map` is (B, T, H / 32, W / 32, D) with D = 512 (basic) or 2048, `features` (B, T, D) its mean in float32.
    `shift` (8 in TSM) shifts the input of every block's residual branch over frames, of every second block where a
    stage has 23 or more, as TSM's code does; 0 reads every frame alone. With `online` it shifts only from the past, so
    that a video may come in pieces: `state` {} before the first, then the activation `state` of the piece before.
    """

    block: str
    depths: tuple
    widths: tuple = (64, 128, 256, 512)
    strides: tuple = (1, 2, 2, 2)
    stem_width: int = 64
    stride_first: bool = False
    shift: int = 0
    online: bool = False
    dtype: str = "float32"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train, state=None):
        _check(self)
        kept = dict(state or {}) if self.online else None
        init = nn.initializers.variance_scaling(2, "fan_out", "normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        x = nn.relu(unit(self.stem_width, 7, 2, name="stem")(x))
        x = max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))
        out, every = {"stem": x}, 2 if max(self.depths) >= 23 else 1
        for i, (depth, width, stride) in enumerate(zip(self.depths, self.widths, self.strides, strict=True), 1):
            for j in range(depth):
                parts = 0 if j % every else self.shift
                block = Block(
                    width, 1 if j else stride, self.block, self.stride_first, parts, unit, name=f"layer{i}_{j}"
                )
                x = block(x, kept)
            out[f"layer{i}"] = x
        out |= {"map": x, "features": x.astype(jnp.float32).mean(axis=(2, 3))}
        return out if state is None else out | {"state": kept or {}}


def _check(net):
    """ValueError unless the fields agree."""
    stages = [len(f) for f in (net.depths, net.widths, net.strides)]
    if len(set(stages)) > 1:
        raise ValueError(f"resnet needs depths, widths and strides of one length (the stages), not {stages}.")
    if net.block not in ("basic", "bottleneck"):
        raise ValueError(f"resnet's field block is 'basic' or 'bottleneck', not {net.block!r}.")
    if net.shift < 0 or net.shift == 1:
        raise ValueError(f"resnet's field shift is 0 (none) or the part of the channels moved (8), not {net.shift}.")


def table(source="", path="backbone", wrapped=0):
    """Conversion rules from torchvision's names, each after the regex `source`, to parameters below `path`.

    With `wrapped` n every n-th block's first convolution says `.net`, as where TSM wraps it. The classifier `fc` is the
    family's.
    """
    stage, ours = rf"{source}layer(?P<stage>\d)", rf"{path}/layer\g<stage>_\g<block>"
    block, even, odd = (rf"{stage}\.(?P<block>{number})" for number in (r"\d+", r"\d*[02468]", r"\d*[13579]"))
    convs = [rf"{block}\.(?P<unit>conv\d)"]
    if wrapped:
        convs = [rf"{block if wrapped == 1 else even}\.(?P<unit>conv1)\.net", rf"{block}\.(?P<unit>conv[23])"]
        convs += [] if wrapped == 1 else [rf"{odd}\.(?P<unit>conv1)"]
    return [
        (rf"{source}conv1\.weight", f"params/{path}/stem/conv/kernel", "oihw_to_1hwio"),
        *rules.norm(rf"{source}bn1", f"{path}/stem/bn"),
        *((rf"{conv}\.weight", rf"params/{ours}/\g<unit>/conv/kernel", "oihw_to_1hwio") for conv in convs),
        *rules.norm(rf"{block}\.bn(?P<number>\d)", rf"{ours}/conv\g<number>/bn"),
        (rf"{block}\.downsample\.0\.weight", f"params/{ours}/downsample/conv/kernel", "oihw_to_1hwio"),
        *rules.norm(rf"{block}\.downsample\.1", f"{ours}/downsample/bn"),
        (rf"{source}.*\.num_batches_tracked", None, None),
    ]
