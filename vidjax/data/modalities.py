"""What a model asks for by key, from the files of one record to arrays of fixed shape: the rows of a batch's `inputs`.

`rgb`, `flow` (fields of displacements), `difference` (of successive frames), `audio`, `text`, or the name of one of
`data.streams`. What the device has to compute travels as what it is computed from (see `vidjax.inputs`): the wire is

    rgb          uint8 (T, S, S, 3), or i420 uint8 (T, 3 S / 2, S) with `pixels` yuv420
    flow         uint8 (T, S, S, C), [-1, 1] as 0 ... 255; or flow_frames uint8 (T, n, S, S, 3) for the device
    difference   difference_frames uint8 (T, n, S, S, 3)
    audio        float32, with audio_mask () 0 where the file has no sound; text int32 with text_mask; streams likewise
"""

import pathlib

import numpy as np

from vidjax.data import audio, flow, flow_store, records, stacking, streams, text, transforms, video

FLOW_SOURCES = ("online", "stored", "device", "motionnet")
STACKS = {
    "stack": stacking.stack,
    "trajectory": stacking.trajectory,
    "bidirectional": lambda fields, size: stacking.bidirectional(fields, fields, size),  # the first half go backward
}
SUBTRACT = {"mean": stacking.subtract_mean, "median": stacking.subtract_median, "camera": stacking.stabilise}
# the kind of picture of what is (T, n, H, W, C); streams are (T, H, W, C)
KIND = {"rgb": "rgb", "flow_frames": "rgb", "difference_frames": "rgb", "i420": "i420", "flow": "flow"}
COLOURS = ("color", "hue", "grey", "lighting", "randaugment", "erase")  # of `augment`: of pixels, drawn after geometry
OWN = ("rgb", "flow", "difference", "audio", "text")
# what of a config's section decides its input
SETTINGS = ("modalities", "pixels", "interpolation", "flow", "audio", "text", "streams")


def check(cfg):
    """Raises ValueError, in one sentence, for modalities of a `data` section that cannot be had together."""
    asked, options = cfg["modalities"], cfg["flow"]
    known = (*OWN, *cfg["streams"])
    for key in asked:
        if key not in known:
            raise ValueError(f"data.modalities: there is no {key!r}; choose of {', '.join(known)}")
    if not asked:
        raise ValueError(f"data.modalities is empty; choose of {', '.join(known)}")
    for name, value, choices in (
        ("pixels", cfg["pixels"], ("rgb", "yuv420")),
        ("interpolation", cfg["interpolation"], transforms.INTERPOLATIONS),
        ("flow.source", options["source"], FLOW_SOURCES),
        ("flow.form", options["form"], STACKS),
        ("flow.subtract", options["subtract"], ("none", *SUBTRACT)),
    ):
        if value not in choices:
            raise ValueError(f"data.{name} must be one of {', '.join(choices)}, not {value!r}")
    if options["stack"] < 1 or options["bound"] <= 0:
        raise ValueError("data.flow.stack must be at least 1 and data.flow.bound above 0")
    if "flow" in asked:
        _check_flow(options)
    if cfg["pixels"] == "yuv420" and (set(asked) - {"rgb", "audio", "text"} or any(colours(cfg["augment"]).values())):
        raise ValueError("data.pixels yuv420 is for rgb without colour augmentation; choose rgb for this config")

    try:
        shapes(cfg, 1, 2)
    except TypeError as error:
        raise ValueError(f"data.audio, data.text or data.streams: {str(error).replace('shape() ', '')}") from None


def open_files(cfg):
    """Opens what all clips share, so that a wrong path is an error before the first of them: ValueError."""
    if "flow" in cfg["modalities"] and cfg["flow"]["source"] == "stored":
        flow_store.remembered(cfg["flow"]["path"])
    if "text" in cfg["modalities"]:
        text.load(cfg["text"]["tokenizer"], text.shape(**cfg["text"])[0])


def _check_flow(options):
    on_device = options["source"] in ("device", "motionnet")
    if options["source"] in ("stored", "motionnet") and not options["path"]:
        what = "a folder that `vidjax data flow` made" if options["source"] == "stored" else "a MotionNet checkpoint"
        raise ValueError(f"data.flow.path is empty: with source {options['source']} it names {what}")
    if options["source"] == "online" and options["method"] not in flow.METHODS:
        raise ValueError(
            f"data.flow.method is one of {', '.join(flow.METHODS)} with source online, not {options['method']!r}; "
            f"source device has others"
        )
    if options["magnitude"] and options["stack"] > 1:
        raise ValueError("data.flow.magnitude is the third channel of one field: it needs data.flow.stack=1")
    if options["form"] == "bidirectional" and (options["stack"] % 2 or options["source"] in ("stored", "motionnet")):
        raise ValueError("data.flow.form bidirectional needs an even data.flow.stack and source online or device")
    if options["subtract"] == "camera" and on_device:
        raise ValueError("data.flow.subtract camera is fitted on the host: use source online or stored, or median")


def channels(options):
    """Channels of the flow that a model sees: two per stacked field, and one of magnitude."""
    return 2 * options["stack"] + bool(options["magnitude"])


def colours(augment):
    """The photometric part of an `augment` section; what is off is left out."""
    return {key: augment[key] for key in COLOURS if augment.get(key)}


def room(cfg, num_frames):
    """The frames of a video that a clip may be taken from, so that its flow is inside: (first, how many).

    A video too short for one stack keeps its first frame; what is past its end repeats the last.
    """
    before = after = 0
    if "flow" in cfg["modalities"] or "difference" in cfg["modalities"]:
        after = cfg["flow"]["stack"]
    if "flow" in cfg["modalities"] and cfg["flow"]["form"] == "bidirectional":
        before, after = after // 2, after - after // 2
    left = num_frames - before - after
    return (before, left) if left > 0 else (0, 1)


def frames_needed(cfg, indices, num_frames):
    """Which frames the modalities of a clip decode: (T,) -> {wire key: int64 (T, n) frame numbers inside the video}."""
    wanted, asked, size = {}, cfg["modalities"], cfg["flow"]["stack"]
    if "rgb" in asked:
        wanted["rgb"] = indices[:, None]
    if "flow" in asked and cfg["flow"]["source"] != "stored":
        wanted["flow_frames"] = indices[:, None] + np.arange(size + 1)
        if cfg["flow"]["form"] == "bidirectional":
            wanted["flow_frames"] -= size // 2
    if "difference" in asked:
        wanted["difference_frames"] = indices[:, None] + np.arange(size + 1)
    return {key: np.clip(frames, 0, num_frames - 1) for key, frames in wanted.items()}


def read(cfg, record, clips):
    """Everything that the modalities of some clips need of the record's files: (K, T) frame numbers -> K x {wire key}.

    Pictures are uint8 (T, n, H, W, C), n of them for each frame number, decoded in one go; I420 and stored flow
    likewise. VideoError.
    """
    return [found | others(cfg, record, clip) for found, clip in zip(pictures(cfg, record, clips), clips, strict=True)]


def pictures(cfg, record, clips):
    """The decoded part of `read`: one decoding of all frames that the clips ask for."""
    needed = [frames_needed(cfg, indices, record["num_frames"]) for indices in clips]
    if not needed[0]:
        return [{} for _ in clips]
    asked = np.concatenate([frames.ravel() for clip in needed for frames in clip.values()])
    wanted, where = np.unique(asked, return_inverse=True)
    frames = decode(record, wanted, cfg["short_side"], cfg["pixels"])
    found, at = [], 0
    for clip in needed:
        found.append({})
        for key, numbers in clip.items():
            places = where[at : at + numbers.size]
            at += numbers.size
            taken = frames if np.array_equal(places, np.arange(len(frames))) else frames[places]
            key = "i420" if key == "rgb" and cfg["pixels"] == "yuv420" else key
            found[-1][key] = taken.reshape(*numbers.shape, *frames.shape[1:])
    return found


def encoded(record):
    """The bytes of a record's video file; none where it is packed as frames."""
    if "blob" in record:
        return b"" if record["blob"].frames else records.encoded(record)
    return pathlib.Path(record["path"]).read_bytes()


def others(cfg, record, indices):
    """What lies beside the pictures of one clip: stored flow, sound, text and streams."""
    found = {}
    for key in cfg["modalities"]:
        if key == "flow" and cfg["flow"]["source"] == "stored":
            wanted = indices[:, None] + np.arange(cfg["flow"]["stack"])
            found[key] = stored(cfg["flow"]["path"], record, wanted)
        elif key == "audio":
            found[key], found[f"{key}_mask"] = audio.clip(record, indices, **cfg[key])
        elif key == "text":
            found[key], found[f"{key}_mask"] = text.clip(record, **cfg[key])
        elif key not in OWN:
            found[key], found[f"{key}_mask"] = streams.clip(record, indices, **cfg["streams"][key])
    return found


def decode(record, indices, short_side=0, pixels="rgb"):
    """Frames of a record, from its file or from a built data set's shard: -> uint8 (len(indices), H, W, 3).

    A record's `forward` is a function that is called in their place (`vidjax.data.forward`, a live stream's frames).
    """
    if "forward" in record:
        return record["forward"](indices, short_side, pixels)
    if "blob" in record:
        return records.read(record, indices, short_side, pixels)
    return video.read(record["path"], indices, short_side, pixels)


def stored(path, record, wanted):
    """Stored fields: (T, L) field numbers -> float32 (T, L, H, W, 2), pixels; past the last there is no motion."""
    last, store = record["num_frames"] - 2, flow_store.remembered(path)
    fields = flow_store.read(store, record["id"], np.clip(wanted, 0, max(last, 0)).ravel())
    fields = flow.dequantise(fields, store.manifest["bound"]).reshape(*wanted.shape, *fields.shape[1:])
    fields[wanted > last] = 0
    return fields


def finish(cfg, cut):
    """Arrays after geometry -> the wire: flow becomes the channels a model sees, single pictures lose their axis."""
    done = {}
    for key, x in cut.items():
        if key == "flow_frames" and cfg["flow"]["source"] == "online":
            found = fields(x, cfg["flow"], lambda x: np.stack([flow.estimate(v, cfg["flow"]["method"]) for v in x]))
            done["flow"] = flow.quantise(arrange(found, cfg["flow"]), 1.0)
        elif key == "flow":
            done[key] = flow.quantise(arrange(x, cfg["flow"]), 1.0)
        else:
            done[key] = x[:, 0] if key in ("rgb", "i420") else x
    return done


def fields(frames, options, estimate):
    """Fields between successive frames: uint8 (N, n, H, W, 3) -> float32 (N, n - 1, H, W, 2), NumPy or JAX alike.

    `estimate` is a function of such frames. Bidirectional: the first half go backward from the middle frame.
    """
    if options["form"] != "bidirectional":
        return estimate(frames)
    middle = frames.shape[1] // 2
    backward = estimate(frames[:, middle::-1])[:, ::-1]
    return frames.__array_namespace__().concat([backward, estimate(frames[:, middle:])], axis=1)


def arrange(fields, options):
    """What a model sees of flow: (N, L, H, W, 2) pixels per frame -> (N, H, W, C) in [-1, 1], NumPy or JAX alike.

    Camera motion is taken off first, then fields are stacked in the chosen form, divided by the bound and clipped.
    """
    if options["subtract"] != "none":
        fields = SUBTRACT[options["subtract"]](fields)
    x = STACKS[options["form"]](fields, options["stack"])[:, 0] / options["bound"]
    x = fields.__array_namespace__().clip(x, -1, 1)
    return stacking.magnitude(x) if options["magnitude"] else x


def place(cfg, raw, cut):
    """Applies a geometry to every picture of a clip: -> a dictionary for each view that it makes.

    `cut(pictures (n, H, W, C), kind)` gives (views, n, S, S, C); `kind` is rgb, i420 or flow. Flow then is
    in pixels per frame of the picture that the model sees. What has no pictures is the same in every view.
    """
    views, rest = [], {}
    for key, x in raw.items():
        if key not in KIND and x.ndim < 4:
            rest[key] = x
            continue
        kind, lead = KIND.get(key, "rgb"), x.shape[: 2 if key in KIND else 1]
        flat = x.reshape(-1, *x.shape[len(lead) :])
        found = cut(flat, kind)
        views = views or [{} for _ in found]
        for view, pictures in zip(views, found, strict=True):
            view[key] = pictures.reshape(*lead, *pictures.shape[1:])
    return [view | rest for view in views or [{}]]


def by_crop(crop, height, width):
    """A geometry for `place`: one view, every kind cut by a crop that was drawn for pictures of height x width."""
    cuts = {"rgb": transforms.cut, "i420": transforms.cut_i420, "flow": transforms.cut_flow}

    def cut(x, kind):
        h, w = (x.shape[1] * 2 // 3, x.shape[2]) if kind == "i420" else x.shape[1:3]
        y, x0 = h / height, w / width
        scaled = {"y": crop.y * y, "height": crop.height * y, "x": crop.x * x0, "width": crop.width * x0}
        return cuts[kind](x, crop._replace(**scaled) if (h, w) != (height, width) else crop)[None]

    return cut


def picture_size(raw):
    """Height and width of a clip's pictures, of the first kind there is; 1 x 1 where it has none."""
    for key, x in raw.items():
        if key in KIND:
            h, w = x.shape[2:4]
            return (h * 2 // 3, w) if key == "i420" else (h, w)
        if x.ndim == 4:
            return x.shape[1:3]
    return 1, 1


def shapes(cfg, frames, size):
    """Shapes of a row's `inputs` for clips of `frames` frames at `size` pixels: {wire key: (shape, dtype)}."""
    found, options = {}, cfg["flow"]
    for key in cfg["modalities"]:
        if key == "rgb":
            planar = {"i420": ((frames, size * 3 // 2, size), "uint8")}
            found |= planar if cfg["pixels"] == "yuv420" else {key: ((frames, size, size, 3), "uint8")}
        elif key == "flow" and options["source"] in ("online", "stored"):
            found[key] = ((frames, size, size, channels(options)), "uint8")
        elif key in ("flow", "difference"):
            found[f"{key}_frames"] = ((frames, options["stack"] + 1, size, size, 3), "uint8")
        elif key == "audio":
            found |= {key: (audio.shape(**cfg[key]), "float32"), f"{key}_mask": ((), "float32")}
        elif key == "text":
            found |= {key: (text.shape(**cfg[key]), "int32"), f"{key}_mask": (text.shape(**cfg[key]), "float32")}
        else:
            shape = streams.shape(**cfg["streams"][key], frames=frames, size=size)
            found |= {key: (shape, "uint8"), f"{key}_mask": ((), "float32")}
    return found | ({"frame_mask": ((frames,), "float32")} if cfg["buckets"] else {})


def zeros(cfg, frames, size):
    """The `inputs` of a row that could not be read: all zero, so that every mask in it says so."""
    return {key: np.zeros(shape, dtype) for key, (shape, dtype) in shapes(cfg, frames, size).items()}
