"""Layers that three or more architectures use; the only file beside models/ that imports Flax Linen."""

import flax.linen as nn
import jax


def conv3d(x, kernel, strides=(1, 1, 1), padding="SAME", groups=1):
    """3-D convolution: (B, T, H, W, C), (t, h, w, C / groups, F) -> (B, T', H', W', F).

    `padding` is "SAME", "VALID" or ((lo, hi),) * 3 in frames, rows, columns.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NTHWC", "THWIO", "NTHWC"), feature_group_count=groups
    )


class Conv3D(nn.Module):
    """`conv3d` with its parameters `kernel` (t, h, w, C / groups, F) and, if asked for, `bias` (F,)."""

    features: int
    kernel_size: tuple = (3, 3, 3)
    strides: tuple = (1, 1, 1)
    padding: str | tuple = "SAME"
    groups: int = 1
    use_bias: bool = False
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x):
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x = conv3d(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding, self.groups)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return x
