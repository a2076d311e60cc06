"""CaffeNet-ZF hybrid of LRCN: five convolutions, two of them with local response norm, and fc6.

Paper: Long-term Recurrent Convolutional Networks (Donahue et al., CVPR 2015), section 4: a hybrid of CaffeNet and the
net of Zeiler and Fergus (ECCV 2014). Reference: LisaAnne/lisa-caffe-public, examples/LRCN_activity_recognition.
Pixels are 0 to 255, BGR, less their mean; pools round their size up as in Caffe: 227 -> 111 -> 55 -> 26 -> 13 -> 6.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import Conv3D, ceil_pads, local_response_norm, max_pool

VARIANTS = {"caffenet": {}}

_LAYERS = (  # name, features, kernel, stride, padding, groups, whether pool and local response norm follow
    ("conv1", 96, 7, 2, 0, 1, True, True),
    ("conv2", 384, 5, 2, 0, 2, True, True),
    ("conv3", 512, 3, 1, 1, 1, False, False),
    ("conv4", 512, 3, 1, 1, 2, False, False),
    ("conv5", 384, 3, 1, 1, 2, True, False),
)


class Backbone(nn.Module):
    """CaffeNet hybrid on every frame: (B, T, 227, 227, C) -> activations, `map` (B, T, 6, 6, 384).

    `features` (B, T, 4096) is fc6 after ReLU and, in training, `dropout` (0.9 in LRCN).
    """

    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, *, train):
        init, bias, out = nn.initializers.normal(0.01), nn.initializers.constant(0.1), {}
        conv = functools.partial(Conv3D, use_bias=True, dtype=self.dtype, kernel_init=init, bias_init=bias)
        for name, features, k, s, pad, groups, pooled, normed in _LAYERS:
            pads = ((0, 0), (pad, pad), (pad, pad))
            x = nn.relu(conv(features, (1, k, k), (1, s, s), pads, groups, name=name)(x))
            x = pool(x) if pooled else x
            x = out[name] = local_response_norm(x) if normed else x
        x, out["map"] = x.astype(jnp.float32).reshape(*x.shape[:2], -1), x
        dense = nn.Dense(4096, dtype=self.dtype, kernel_init=init, bias_init=bias, name="fc6")
        x = out["fc6"] = nn.relu(dense(x))
        x = nn.Dropout(self.dropout, deterministic=not train, name="fc6_dropout")(x)
        return out | {"features": x.astype(jnp.float32)}


def pool(x):
    """Maximum of 3 x 3 every second pixel, the size rounded up: (B, T, H, W, C) -> (B, T, h, w, C)."""
    window, strides = (1, 3, 3), (1, 2, 2)
    return max_pool(x, window, strides, ceil_pads(x.shape[1:4], window, strides))
