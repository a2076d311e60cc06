"""From the arrays of a batch to what a model is called with: on the device, inside the compiled step.

Bytes travel, floats are made here: pixels are scaled to [0, 1], YUV 4:2:0 becomes RGB, and flow that the config leaves
to the device is computed from frames.
"""

import jax
import jax.numpy as jnp

from vidjax import flow, models
from vidjax.data import modalities, stacking

BT601 = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))  # full range: (R, G, B) from (Y, U, V)


def prepare(wire, *, data, net=None):
    """The model's input: {wire key: (B, ...)} -> one float32 array, or a dict where the model sees several.

    `data` is a config's section with its defaults (`vidjax.data.options`); `net` the variables of its MotionNet. Pixels
    are in [0, 1], flow and differences in [-1, 1]; masks come as `audio_mask` and so on.
    """
    made = {}
    for key, x in wire.items():
        match key:
            case "rgb":
                made["rgb"] = x.astype(jnp.float32) / 255
            case "i420":
                made["rgb"] = rgb_of_i420(x)
            case "flow":
                made["flow"] = signed(x.astype(jnp.float32))
            case "flow_frames":
                made["flow"] = flow_of_frames(x, data["flow"], net)
            case "difference_frames":
                made["difference"] = difference(x)
            case _:
                made[key] = x / jnp.float32(255) if x.dtype == jnp.uint8 else x
    return made if len(made) > 1 else next(iter(made.values()))


def example(data, frames, size, batch=1):
    """Shapes of the model's input for clips of `frames` frames at `size` pixels; computes nothing."""
    shapes = modalities.shapes(data, frames, size)
    if data["buckets"]:
        shapes["frame_mask"] = ((frames,), "float32")
    wire = {key: jax.ShapeDtypeStruct((batch, *shape), dtype) for key, (shape, dtype) in shapes.items()}
    net = net_shapes(data, frames, size)
    return jax.eval_shape(lambda wire, net: prepare(wire, data=data, net=net), wire, net)


def signed(x):
    """0 ... 255 -> [-1, 1]."""
    return (x - 127.5) / 127.5


def rgb_of_i420(x):
    """I420 of BT.601 in full range: uint8 (..., 3 H / 2, W) -> float32 RGB (..., H, W, 3) in [0, 1].

    Chroma is interpolated linearly between the centres of its 2 x 2 blocks.
    """
    *lead, rows, w = x.shape
    h = rows * 2 // 3
    y = x[..., :h, :].astype(jnp.float32)
    chroma = x[..., h:, :].reshape(*lead, 2, h // 2, w // 2).astype(jnp.float32) - 128
    u, v = jnp.moveaxis(jax.image.resize(chroma, (*lead, 2, h, w), "linear"), -3, 0)
    rgb = [r[0] * y + r[1] * u + r[2] * v for r in BT601]
    return jnp.clip(jnp.stack(rgb, -1) / 255, 0, 1)


def flow_of_frames(frames, options, net):
    """What a model sees of the flow between frames: uint8 (B, T, n, H, W, 3) -> (B, T, H, W, C) in [-1, 1].

    Rounded to 255 levels, as stored flow is: a model may be trained on one and run on the other.
    """
    b, t, n, h, w, _ = frames.shape
    flat = frames.reshape(b * t, *frames.shape[2:])
    if options["source"] == "motionnet":
        fields = motionnet_fields(flat, net)
    else:
        fields = modalities.fields(flat, options, lambda x: flow.estimate(x, options["method"]))
    seen = modalities.arrange(fields, options)
    seen = signed(jnp.round(seen * 127.5 + 127.5))
    return seen.reshape(b, t, h, w, -1)


def difference(frames):
    """Differences of successive frames, stacked: uint8 (B, T, n, H, W, 3) -> (B, T, H, W, 3 (n - 1)) in [-1, 1]."""
    b, t, n, h, w, c = frames.shape
    x = stacking.rgb_difference(frames)
    return jnp.moveaxis(x, 2, -2).reshape(b, t, h, w, (n - 1) * c)
