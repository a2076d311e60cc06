"""I3D: Inception-v1 with every kernel and pool inflated in time, on RGB, on optical flow, or on both with scores added.

Paper: Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset (Carreira & Zisserman, CVPR 2017), section 2
and figure 3. Input: RGB in [0, 1] (B, 64, 224, 224, 3) at 25 frames per second, or flow in [-1, 1] (20 pixels is 1),
(B, 64, 224, 224, 2); for both a dict {rgb, flow}. Output: logits (B, num_classes), averaged over time, summed over
streams. References: google-deepmind/kinetics-i3d (Sonnet: batch norm without scale, TensorFlow's SAME padding) and its
ports piergiaj/pytorch-i3d and hassony2/kinetics_i3d_pytorch (batch norm with scale).
Weights of a 2-D Inception-v1 (backbones/inception.py) have the same paths and are inflated by vidjax/inflate.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D, ceil_pads, max_pool, normalise

PAPER = "Carreira & Zisserman, CVPR 2017"
CHANNELS = {"rgb": 3, "flow": 2}

# Channels of Mixed_3b, 3c | 4b to 4f | 5b, 5c: 1x1x1; reduction, 3x3x3; reduction, second 3x3x3; 1x1x1 after the pool.
BLOCKS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)

_FLOW = {"streams": ("flow",), "mean": 0.0, "std": 1.0}
VARIANTS = {
    "rgb": {},
    "flow": _FLOW,
    "two_stream": {"streams": ("rgb", "flow")},
    "rgb_sonnet": {"use_scale": False},
    "flow_sonnet": _FLOW | {"use_scale": False},
    "two_stream_sonnet": {"streams": ("rgb", "flow"), "use_scale": False},
    "small": {  # ours, for clips of about 8x40x40: three mixed blocks
        "stem": (16, 16, 32),
        "stem_kernel": (3, 5, 5),
        "stem_strides": (1, 2, 2),
        "blocks": (((16, 16, 32, 8, 16, 16), (24, 24, 48, 8, 16, 16)), ((32, 32, 64, 8, 24, 24),)),
        "bn_momentum": 0.9,
        "dropout": 0.0,
    },
}


def _size(params, gmac, shape, classes=400, paper=PAPER):
    return {"input": shape, "classes": classes, "params": params, "gmac": gmac, "paper": paper}


_RGB, _XY = (64, 224, 224, 3), (64, 224, 224, 2)
SIZES = {  # [P] published, [C] computed from the definition (tests/models/test_i3d_properties.py); GMAC per view.
    # The literature quotes 108 G for RGB [P]: zero padding counted, as everywhere here, it is 111.2, and without 104.4.
    "rgb": _size(12_697_264, 111.151, _RGB),  # [C]
    "flow": _size(12_675_312, 102.339, _XY),  # [C]
    "two_stream": _size(25_372_576, 213.490, {"rgb": _RGB, "flow": _XY}),  # [C], the paper's 25 M [P]
    "rgb_sonnet": _size(12_689_984, 111.151, _RGB),  # [C], agrees with the checkpoint's variables
    "flow_sonnet": _size(12_668_032, 102.339, _XY),  # [C], agrees with the checkpoint's variables
    "two_stream_sonnet": _size(25_358_016, 213.490, {"rgb": _RGB, "flow": _XY}),  # [C]
    "small": _size(149_672, 0.037, (8, 40, 40, 3), classes=8, paper="none (small clips)"),  # [C]
}


class Unit(nn.Module):
    """t x h x w convolution without bias, batch norm, ReLU: (B, T, H, W, C) -> (B, T / st, H / s, W / s, features)."""

    features: int
    kernel: tuple
    strides: tuple
    padding: str
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        pads = same_pads(x.shape[1:4], self.kernel, self.strides, self.padding)
        x = self.conv(self.features, self.kernel, self.strides, pads, name="conv")(x)
        return nn.relu(self.norm(name="bn")(x))


class Mixed(nn.Module):
    """Four branches side by side: (B, T, H, W, C) -> (B, T, H, W, sum of the branches' last widths)."""

    widths: tuple
    unit: functools.partial
    pool: functools.partial

    @nn.compact
    def __call__(self, x):
        one, three = (1, 1, 1), (3, 3, 3)
        w0, r1, w1, r2, w2, w3 = self.widths
        b0 = self.unit(w0, one, one, name="b0")(x)
        b1 = self.unit(w1, three, one, name="b1b")(self.unit(r1, one, one, name="b1a")(x))
        b2 = self.unit(w2, three, one, name="b2b")(self.unit(r2, one, one, name="b2a")(x))
        b3 = self.unit(w3, one, one, name="b3b")(self.pool(x, three, one))
        return jnp.concatenate([b0, b1, b2, b3], axis=-1)


class Stream(nn.Module):
    """One inflated Inception-v1: normalised (B, T, H, W, C) -> logits (B, num_classes), activations."""

    stem: tuple
    stem_kernel: tuple
    stem_strides: tuple
    blocks: tuple
    pool_window: tuple
    num_classes: int
    dropout: float
    unit: functools.partial
    pool: functools.partial

    @nn.compact
    def __call__(self, x, *, train):
        out, unit, ones = {}, self.unit, (1, 1, 1)
        x = out["conv_1a"] = unit(self.stem[0], self.stem_kernel, self.stem_strides, name="conv_1a")(x)
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        x = out["conv_2b"] = unit(self.stem[1], ones, ones, name="conv_2b")(x)
        x = out["conv_2c"] = unit(self.stem[2], (3, 3, 3), ones, name="conv_2c")(x)
        pools = ((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))
        for i, (stage, (window, strides)) in enumerate(zip(self.blocks, pools, strict=False), 3):
            x = self.pool(x, window, strides)
            for letter, widths in zip("bcdefgh", stage, strict=False):
                name = f"mixed_{i}{letter}"
                x = out[name] = Mixed(widths, unit, self.pool, name=name)(x)
        window = tuple(min(k, n) for k, n in zip(self.pool_window, x.shape[1:4], strict=True))
        x = out["pool"] = nn.avg_pool(x.astype(jnp.float32), window, ones, "VALID")
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        x = out["pre_logits"] = x.mean(axis=(1, 2, 3))  # the head is linear: it may come after the mean over time
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


class Model(nn.Module):
    """I3D: float32 video (B, T, H, W, C), or {stream: video} -> float32 logits (B, num_classes), activations.

    Parameters lie below the stream's name, and so do the activations where there are two. `mean` and `std` are those
    of the first stream; a second one, flow, is already in [-1, 1].
    """

    streams: tuple = ("rgb",)
    stem: tuple = (64, 64, 192)
    stem_kernel: tuple = (7, 7, 7)
    stem_strides: tuple = (2, 2, 2)
    blocks: tuple = BLOCKS
    pool_window: tuple = (2, 7, 7)
    padding: str = "same"
    use_scale: bool = True
    num_classes: int = 400
    dropout: float = 0.5
    dtype: str = "float32"
    mean: float | tuple = 0.5
    std: float | tuple = 0.5
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-3

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video)
        videos = dict(video) if isinstance(video, dict) else {self.streams[0]: video}
        videos[self.streams[0]] = normalise(videos[self.streams[0]], self.mean, self.std)
        init = nn.initializers.variance_scaling(2, "fan_in", "truncated_normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(
            BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype, use_scale=self.use_scale
        )
        unit = functools.partial(Unit, padding=self.padding, conv=conv, norm=norm)
        stream = functools.partial(
            Stream, self.stem, self.stem_kernel, self.stem_strides, self.blocks, self.pool_window, self.num_classes,
            self.dropout, unit, functools.partial(_pool, padding=self.padding),
        )  # fmt: skip
        found = {name: stream(name=name)(videos[name].astype(self.dtype), train=train) for name in self.streams}
        if len(found) == 1:
            return found[self.streams[0]]
        out = {f"{name}/{key}": value for name, (_, acts) in found.items() for key, value in acts.items()}
        out |= {f"{name}/logits": score for name, (score, _) in found.items()} if self.num_classes else {}
        out["pre_logits"] = jnp.concatenate([acts["pre_logits"] for _, acts in found.values()], axis=-1)
        return sum(score for score, _ in found.values()) if self.num_classes else out["pre_logits"], out


def same_pads(sizes, window, strides, padding="same"):
    """TensorFlow's SAME padding ((lo, hi),) * 3: it depends on the sizes, and the odd element goes to the end.

    `padding` "fixed" is hassony2's: right for any number of frames, but for rows and columns as if it were even.
    """
    pads = jax.lax.padtype_to_pads(sizes, window, strides, "SAME")
    if padding == "fixed":
        total = [max(k - s, 0) for k, s in zip(window, strides, strict=True)]
        pads = [pads[0], *((n // 2, n - n // 2) for n in total[1:])]
    return tuple(pads)


def _pool(x, window, strides, padding):
    """Max pool with the padding of the field of that name."""
    pads = same_pads(x.shape[1:4], window, strides, padding)
    pads = ceil_pads(x.shape[1:4], window, strides, pads) if padding == "fixed" else pads
    return max_pool(x, window, strides, pads)


def _check(model, video):
    """ValueError unless the fields and the input agree."""
    if model.padding not in ("same", "fixed"):
        raise ValueError(f"i3d's field padding is 'same' or 'fixed', not {model.padding!r}.")
    if not model.streams or set(model.streams) - set(CHANNELS):
        raise ValueError(f"i3d's field streams names some of {', '.join(CHANNELS)}, not {model.streams!r}.")
    given = set(video) if isinstance(video, dict) else {model.streams[0]}
    if not given >= set(model.streams):
        raise ValueError(
            f"i3d's streams {model.streams!r} need an input each, a dict by name; there is {sorted(given)}."
        )


def _torch(stream, names, conv, norm, head):
    """Rules of a PyTorch port of one stream: `names` are (the port's layer, ours)."""
    rules = [
        (r".*\.num_batches_tracked", None, None),
        (rf"{head}\.weight", f"params/{stream}/head/kernel", _HEAD),
        (rf"{head}\.bias", f"params/{stream}/head/bias", None),
    ]
    for layer, ours in names:
        rules += [
            (rf"{layer}\.{conv}\.weight", f"params/{stream}/{ours}/conv/kernel", "oithw_to_thwio"),
            (rf"{layer}\.{norm}\.weight", f"params/{stream}/{ours}/bn/scale", None),
            (rf"{layer}\.{norm}\.bias", f"params/{stream}/{ours}/bn/bias", None),
            (rf"{layer}\.{norm}\.running_(?P<stat>mean|var)", rf"batch_stats/{stream}/{ours}/bn/\g<stat>", None),
        ]
    return rules


_HEAD = (5, lambda x: x[:, :, 0, 0, 0].T, lambda x: x.T[:, :, None, None, None])
_STEM = ("1a_7x7", "2b_1x1", "2c_3x3")
_PIERGIAJ = [
    *((f"Conv3d_{name}", f"conv_{name[:2]}") for name in _STEM),
    (r"Mixed_(?P<block>\d\w)\.(?P<unit>b\w+)", r"mixed_\g<block>/\g<unit>"),
]
_HASSONY2 = [
    *((f"conv3d_{name}", f"conv_{name[:2]}") for name in _STEM),
    (r"mixed_(?P<block>\d\w)\.branch_0", r"mixed_\g<block>/b0"),
    (r"mixed_(?P<block>\d\w)\.branch_(?P<branch>[12])\.0", r"mixed_\g<block>/b\g<branch>a"),
    (r"mixed_(?P<block>\d\w)\.branch_(?P<branch>[123])\.1", r"mixed_\g<block>/b\g<branch>b"),
]
_SONNET = [  # Mixed_5b's last convolution of branch 2 is named 0a where the others are 0b
    (r"Conv3d_(?P<unit>1a|2b|2c)_\dx\d", r"conv_\g<unit>"),
    (r"Mixed_(?P<block>\d\w)/Branch_0/Conv3d_0a_1x1", r"mixed_\g<block>/b0"),
    (r"Mixed_(?P<block>\d\w)/Branch_(?P<branch>[12])/Conv3d_0a_1x1", r"mixed_\g<block>/b\g<branch>a"),
    (r"Mixed_(?P<block>\d\w)/Branch_(?P<branch>[12])/Conv3d_0[ab]_3x3", r"mixed_\g<block>/b\g<branch>b"),
    (r"Mixed_(?P<block>\d\w)/Branch_3/Conv3d_0b_1x1", r"mixed_\g<block>/b3b"),
]


def sonnet(prefixes):
    """The table of a TensorFlow checkpoint; `prefixes` says how the variables of each stream begin."""
    rules = [(r".*/Momentum|(.*/)?(global_step|learning_rate)", None, None)]
    for stream, prefix in prefixes.items():
        logits = f"{prefix}Logits/Conv3d_0c_1x1/conv_3d"
        head = (5, lambda x: x[0, 0, 0], lambda x: x[None, None, None])
        rules += [
            (f"{logits}/w", f"params/{stream}/head/kernel", head),
            (f"{logits}/b", f"params/{stream}/head/bias", None),
        ]
        for layer, ours in _SONNET:
            rules += [
                (f"{prefix}{layer}/conv_3d/w", f"params/{stream}/{ours}/conv/kernel", None),
                (f"{prefix}{layer}/batch_norm/beta", f"params/{stream}/{ours}/bn/bias", None),
                (f"{prefix}{layer}/batch_norm/moving_mean", f"batch_stats/{stream}/{ours}/bn/mean", None),
                (f"{prefix}{layer}/batch_norm/moving_variance", f"batch_stats/{stream}/{ours}/bn/var", None),
            ]
    return rules


def flat_norms(tensors):
    """A TensorFlow checkpoint's norms as vectors, (1, 1, 1, 1, C) -> (C,), and names without their `:0`."""
    names = {name.removesuffix(":0"): value for name, value in tensors.items()}
    return {name: value.reshape(-1) if "/batch_norm/" in name else value for name, value in names.items()}


# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {"order": "RGB", "range": (0.0, 1.0), "mean": 0.5, "std": 0.5, "frames": 64, "resize": 256, "size": 224}
PREPROCESS_FLOW = PREPROCESS | {"order": "xy", "range": (-1.0, 1.0), "mean": 0.0, "std": 1.0, "bound": 20.0}
PREPROCESS_BOTH = PREPROCESS | {"flow": PREPROCESS_FLOW}
_PREFIXES = {"rgb": "RGB/inception_i3d/", "flow": "Flow/inception_i3d/"}


def _row(*streams, table, head, variant, **fields):
    """A row of REFERENCES."""
    preprocess = {("rgb",): PREPROCESS, ("flow",): PREPROCESS_FLOW}.get(streams, PREPROCESS_BOTH)
    shapes = {stream: (16, 224, 224, CHANNELS[stream]) for stream in streams}
    shape = shapes if len(shapes) > 1 else shapes[streams[0]]
    return {"variant": variant, "table": table, "head": head, "preprocess": preprocess, "input": shape} | fields


def _tensorflow(variant, prefixes):
    """A row of REFERENCES for a TensorFlow checkpoint."""
    head = f"{next(iter(prefixes.values()))}Logits/Conv3d_0c_1x1/conv_3d/b"
    return _row(*prefixes, variant=variant, table=sonnet(prefixes), head=head, prepare=flat_norms)


REFERENCES = {}  # (source, the source's own name of the net)
for _stream in CHANNELS:
    REFERENCES |= {
        ("piergiaj_i3d", _stream): _row(
            _stream,
            variant=_stream,
            table=_torch(_stream, _PIERGIAJ, "conv3d", "bn", r"logits\.conv3d"),
            head="logits.conv3d.bias",
        ),
        ("hassony2_i3d", _stream): _row(
            _stream,
            variant=_stream,
            table=_torch(_stream, _HASSONY2, "conv3d", "batch3d", r"conv3d_0c_1x1\.conv3d"),
            head="conv3d_0c_1x1.conv3d.bias",
            fields={"padding": "fixed"},
        ),
    }
for _start in ("imagenet", "scratch"):
    for _stream, _prefix in _PREFIXES.items():
        _name = ("kinetics_i3d", f"{_stream}_{_start}")
        REFERENCES[_name] = _tensorflow(f"{_stream}_sonnet", {_stream: _prefix})
    REFERENCES["kinetics_i3d", f"two_stream_{_start}"] = _tensorflow("two_stream_sonnet", _PREFIXES)
REFERENCES["kinetics_i3d", "rgb_scratch_kin600"] = _tensorflow("rgb_sonnet", {"rgb": ""})
