"""ShuffleNetV2 of four widths: for phones and small computers.

Paper: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design (Ma et al., ECCV 2018), table 5.
Reference: torchvision.models.shufflenet_v2_*.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, max_pool

VARIANTS = {  # table 5: channels of stages 2, 3, 4 and of the last layer
    "shufflenet_v2_x0_5": {"widths": (48, 96, 192), "last": 1024},
    "shufflenet_v2_x1_0": {"widths": (116, 232, 464), "last": 1024},
    "shufflenet_v2_x1_5": {"widths": (176, 352, 704), "last": 1024},
    "shufflenet_v2_x2_0": {"widths": (244, 488, 976), "last": 2048},
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
    """Two halves side by side, their channels shuffled: (B, T, H, W, C) -> (B, T, H / s, W / s, features).

    With stride 1 the first half passes as it is, with stride 2 both are computed from all channels (figure 3 c, d).
    """

    features: int
    stride: int
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        s, half = self.stride, self.features // 2
        first, second = (x, x) if s > 1 else (x[..., :half], x[..., half:])
        if s > 1:
            first = self.unit(x.shape[-1], 3, s, x.shape[-1], name="first_depthwise")(first)
            first = nn.relu(self.unit(half, 1, 1, 1, name="first_pointwise")(first))
        second = nn.relu(self.unit(half, 1, 1, 1, name="reduce")(second))
        second = self.unit(half, 3, s, half, name="depthwise")(second)
        second = nn.relu(self.unit(half, 1, 1, 1, name="pointwise")(second))
        return jnp.stack([first, second], axis=-1).reshape(*first.shape[:-1], -1)


class Backbone(nn.Module):
    """ShuffleNetV2 on every frame: (B, T, H, W, C) -> activations by layer.

    `map` is (B, T, H / 32, W / 32, last), `features` (B, T, last) its mean in float32.
    """

    widths: tuple
    last: int
    depths: tuple = (4, 8, 4)
    stem_width: int = 24
    dtype: str = "float32"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train):
        conv = functools.partial(Conv3D, dtype=self.dtype)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        x = nn.relu(unit(self.stem_width, 3, 2, 1, name="conv1")(x))
        x = max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))
        out = {"stem": x}
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 2):
            for j in range(depth):
                x = Block(width, 1 if j else 2, unit, name=f"stage{i}_{j}")(x)
            out[f"stage{i}"] = x
        x = nn.relu(unit(self.last, 1, 1, 1, name="conv5")(x))
        return out | {"map": x, "features": x.astype(jnp.float32).mean(axis=(2, 3))}


def table(source="", path="backbone"):
    """Conversion rules from torchvision's names, each after the regex `source`, to parameters below `path`.

    The classifier `fc` is the family's.
    """
    block, ours = r"stage(?P<stage>\d)\.(?P<block>\d+)\.branch", r"stage\g<stage>_\g<block>"
    units = [(r"\g<conv>", r"(?P<conv>conv[15])\.0", r"(?P<conv>conv[15])\.1")]
    for name, conv, norm in (
        ("first_depthwise", r"1\.0", r"1\.1"),
        ("first_pointwise", r"1\.2", r"1\.3"),
        ("reduce", r"2\.0", r"2\.1"),
        ("depthwise", r"2\.3", r"2\.4"),
        ("pointwise", r"2\.5", r"2\.6"),
    ):
        units += [(f"{ours}/{name}", rf"{block}{conv}", rf"{block}{norm}")]
    rules = [(rf"{source}(conv|stage).*\.num_batches_tracked", None, None)]
    for ours, conv, norm in units:
        rules += [
            (rf"{source}{conv}\.weight", f"params/{path}/{ours}/conv/kernel", "oihw_to_1hwio"),
            (rf"{source}{norm}\.weight", f"params/{path}/{ours}/bn/scale", None),
            (rf"{source}{norm}\.bias", f"params/{path}/{ours}/bn/bias", None),
            (rf"{source}{norm}\.running_(?P<stat>mean|var)", rf"batch_stats/{path}/{ours}/bn/\g<stat>", None),
        ]
    return rules
