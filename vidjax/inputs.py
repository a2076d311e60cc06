"""From the arrays of a batch to what a model is called with: on the device, inside the compiled step.

Bytes travel, floats are made here: pixels are scaled to [0, 1], YUV 4:2:0 becomes RGB, and flow that the config leaves
to the device is computed from frames.
"""

import functools

import jax
import jax.numpy as jnp

from vidjax import checkpoint, flow, models
from vidjax.data import modalities, stacking
from vidjax.models import hidden_two_stream, motionnet

BT601 = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))  # full range: (R, G, B) from (Y, U, V)


def preparer(data):
    """`prepare` for a config's section with its defaults: a function (wire, net) -> the model's input."""
    model = None
    if has_net(data):
        meta = checkpoint.read_meta(data["flow"]["path"])["config"]["model"]
        if meta["name"] not in ("motionnet", "hidden_two_stream"):
            raise ValueError(f"data.flow.path {data['flow']['path']} holds a {meta['name']} model, not a motionnet.")
        model = models.build(meta)
        model = model if meta["name"] == "motionnet" else hidden_two_stream.flow_net(model, parent=None)
    return functools.partial(prepare, data=data, model=model)


def has_net(data):
    """Whether a trained net makes the flow."""
    return "flow" in data["modalities"] and data["flow"]["source"] == "motionnet"


def load_net(data, place=None):
    """The variables of the net that makes the flow, from the checkpoint in `flow.path`; None where none does.

    Of a hidden two-stream net they are its MotionNet's. `place` is the sharding of each of them; by default they are on
    the first device.
    """
    if not has_net(data):
        return None
    place = place or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    variables = checkpoint.load_variables(data["flow"]["path"], shardings=place)[0]
    inner = variables["params"].get("motionnet")
    return {"params": inner} if inner else variables


def prepare(wire, net=None, *, data, model=None):
    """The model's input: {wire key: (B, ...)} -> one float32 array, or a dict where the model sees several.

    `data` is a config's section with its defaults (`vidjax.data.options`); `net` and `model` are the variables and the
    module of its MotionNet. Pixels are in [0, 1], flow and differences in [-1, 1]; masks come as `audio_mask` etc.
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
                learnt = functools.partial(motionnet.estimate, model, net) if model else None
                made["flow"] = flow_of_frames(x, data["flow"], learnt)
            case "difference_frames":
                made["difference"] = difference(x)
            case _:
                made[key] = x / jnp.float32(255) if x.dtype == jnp.uint8 else x
    return made if len(made) > 1 else next(iter(made.values()))


def example(data, frames, size, batch=1):
    """Shapes of the model's input for clips of `frames` frames at `size` pixels; computes nothing."""
    shapes = modalities.shapes(data, frames, size)
    wire = {key: jax.ShapeDtypeStruct((batch, *shape), dtype) for key, (shape, dtype) in shapes.items()}
    ready = preparer(data)
    model = ready.keywords["model"]
    net = models.shapes(model, (1, model.frames, size, size, 3)) if model else None
    return jax.eval_shape(ready, wire, net)


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


def flow_of_frames(frames, options, learnt=None):
    """What a model sees of the flow between frames: uint8 (B, T, n, H, W, 3) -> (B, T, H, W, C) in [-1, 1].

    `learnt` is a function that estimates it from frames in [0, 1], instead of the method that `options` name.
    Rounded to 255 levels, as stored flow is: a model may be trained on one and run on the other.
    """
    b, t, n, h, w, _ = frames.shape
    flat = frames.reshape(b * t, *frames.shape[2:])
    if learnt:
        fields = modalities.fields(flat / jnp.float32(255), options, learnt)
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
