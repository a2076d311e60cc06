"""2-D nets that read a video's frames one by one: what several architectures build on, one family per file.

A file has `VARIANTS` (name of a net -> fields), `Backbone` and, where weights are published, `table(source, path)`:
conversion rules from names that match the regex `source` to parameters below `path`.
`Backbone.__call__(x, *, train)`: float (B, T, H, W, C), already normalised -> dict of activations by the layer's name,
among them `map`, the last feature map (B, T, h, w, D), and `features`, what its classifier sees (B, T, D'). Kernels are
(1, h, w, C, F), so that any of these nets can be inflated.
"""

import contextlib
import contextvars
import difflib
import functools
import importlib
import pkgutil

from vidjax.nn import normalise

_seen = contextvars.ContextVar("seen", default=None)


@contextlib.contextmanager
def seen(activations):
    """Within it, `build` gives a stand-in for any net: what such a net, `of_frames`, has made of the frames already."""
    token = _seen.set(activations)
    try:
        yield
    finally:
        _seen.reset(token)


def alone(model):
    """Whether a model reads what its `backbone`, a net that sees each frame alone, makes of the frames."""
    return bool(getattr(model, "backbone", "")) and not _fields(model).get("shift")


def of_frames(model, variables, video):
    """What the `backbone` of a model makes of frames (B, T, H, W, C): {"features": (B, T, D), "map": ...}."""
    net = build(model.backbone, dtype=model.dtype, **_fields(model))
    own = {kind: tree["backbone"] for kind, tree in variables.items() if "backbone" in tree}
    x = normalise(video, model.mean, model.std, model.order).astype(model.dtype)
    out = net.apply(own, x, train=False)
    return {key: out[key] for key in ("features", "map") if key in out}


def _fields(model):
    """The fields of a model's backbone."""
    return dict(getattr(model, "fields", ()) or getattr(model, "backbone_fields", ()))


@functools.cache
def names():
    """{name of a net: the module that has it}."""
    found = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        found |= dict.fromkeys(module.VARIANTS, module)
    return found


def build(net, **fields):
    """The Linen module of a net ("resnet50"), its fields overridden; ValueError names the nearest that exists."""
    if (activations := _seen.get()) is not None:
        return lambda x, *, train: dict(activations)
    if net not in names():
        close = difflib.get_close_matches(net, names(), n=1)
        hint = f"; the nearest is {close[0]!r}" if close else f"; there are {', '.join(sorted(names()))}"
        raise ValueError(f"There is no backbone {net!r} in vidjax/backbones{hint}.")
    module = names()[net]
    return module.Backbone(**(module.VARIANTS[net] | fields))
