"""A foreign checkpoint as a run: `vidjax predict` and `vidjax eval` take what `write` makes like a run of their own."""

import json
import pathlib
import types

import numpy as np
from ml_collections import ConfigDict

from vidjax import checkpoint, config, convert, data, evaluate, models
from vidjax.convert import weights

LABELS = pathlib.Path(__file__).parent.parent / "data" / "labels"
SAMPLERS = {1: "segments"}  # by the frames a net sees; a net of more sees a clip of consecutive ones


def write(source, arch, file, workdir, classes=None):
    """Writes the net that `source` calls `arch`, its weights in `file`, as step 0 of a new `workdir`; -> its meta.

    See `read`. ConvertError, in one sentence, for weights, names or a workdir that do not fit.
    """
    folder = pathlib.Path(workdir)
    if checkpoint.Checkpoints(folder, write=False).steps():
        raise convert.ConvertError(f"{folder} already holds a run; give another folder with --to=DIR.")
    variables, meta = read(source, arch, file, classes)
    folder.mkdir(parents=True, exist_ok=True)
    config.save(config.from_dict(meta["config"]), folder)
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.save(0, variables, {"step": np.int32(0)}, meta, wait=True)
    checkpoints.close()
    return meta


def read(source, arch, file, classes=None, tensors=None):
    """(variables, meta) of the net that `source` calls `arch` from its weights in `file`; `meta` is a checkpoint's.

    `classes` is a file of class names: one on a line, or JSON. Without it they are taken from a JSON file beside
    `file` of the same name, or from the reference. The preprocessing that the weights expect travels along. `tensors`
    are the file's, where they have been read. ConvertError, in one sentence, for weights or names that do not fit; it
    says which nets the weights do fit.
    """
    row, tensors = models.reference(source, arch), weights.load(file) if tensors is None else tensors
    if callable(row.get("input")):
        raise convert.ConvertError(
            f"{source} {arch} is a head without a net on frames, so it makes no run of its own;"
            " vidjax.convert.from_reference gives its variables."
        )
    try:
        variables = convert.from_reference(source, arch, tensors)
    except convert.ConvertError as error:
        others = ", ".join(" ".join(pair) for pair in convert.guess(tensors))
        hint = f" It looks like {others} instead." if others else ""
        raise convert.ConvertError(f"{file} does not hold {source} {arch}: {error}{hint}") from error
    tensors = row["prepare"](tensors) if "prepare" in row else tensors
    count, channels = (
        len(tensors[row["head"]]) if "head" in row else 0,
        tensors[row["stem"]].shape[1] if "stem" in row else 3,
    )
    names = class_names(row, arch, file, count, classes) if count else []
    cfg = make_config(row, names, channels)
    model = models.build(cfg.model, num_classes=count)
    meta = evaluate.meta(cfg, model, types.SimpleNamespace(classes=names, multi_label=False))
    return variables, meta | {"converted": {"source": source, "arch": arch, "file": str(file)}}


def class_names(row, arch, file, count, classes=None):
    """`count` names in the order of the head's outputs; ConvertError where they are not known or others in number."""
    beside = pathlib.Path(file).with_suffix(".json")
    if classes:
        found, origin = read_names(pathlib.Path(classes), arch), classes
    elif beside.is_file() and (found := read_names(beside, arch)):
        origin = beside
    elif isinstance(row.get("classes"), str):  # a list that comes with vidjax
        found, origin = read_names(LABELS / f"{row['classes']}.txt", arch), row["classes"]
    else:
        found, origin = list(row.get("classes", ())), "the published net"
    if not found:
        raise convert.ConvertError(f"{arch} does not say its {count} classes: give --classes=FILE, one name on a line.")
    if len(found) != count:
        raise convert.ConvertError(
            f"{origin} names {len(found)} classes, but the head of {file} has {count}: give --classes=FILE with those."
        )
    return found


def read_names(path, arch):
    """Class names of a text file, one on a line, or of JSON: a list, or {arch: {"classes": [...]}} or its value."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise convert.ConvertError(f"{path} cannot be read as class names: {error}") from error
    if isinstance(found, dict):
        found = found.get(arch, found)
    if isinstance(found, dict):
        found = found.get("classes", [])
    return [str(name).strip() for name in found if str(name).strip()]


def model_of(row):
    """The model section: a net's mean and std are its fields, its order and `model` are its preprocessing's."""
    fields = {"name": row["model"], "variant": row["variant"]} | row.get("fields", {})
    seen, known = row["preprocess"], models.family(row["model"]).Model.__dataclass_fields__
    fields |= {"order": seen["order"]} if "order" in known and seen.get("order") in ("RGB", "BGR") else {}
    return fields | seen.get("model", {})


def inputs_of(row, channels):
    """{modalities, flow} of a data section, by the channels of the net's input where it has one."""
    shape, seen = row.get("input"), row["preprocess"]
    by_name = shape if isinstance(shape, dict) else {"rgb" if channels == 3 else "flow": (channels,)}
    options = {key: seen[key] for key in ("bound",) if key in seen} | dict(seen.get("flow", {}))
    options = {key: value for key, value in options.items() if key in data.DEFAULTS["flow"]}
    if "flow" in by_name:
        options = {"stack": by_name["flow"][-1] // 2} | options
    return {"modalities": tuple(by_name), "flow": options if "flow" in by_name else {}}


def make_config(row, names, channels=3):
    """The config by which a converted net predicts, is evaluated and can be trained on, all of it a flag."""
    seen = row["preprocess"]
    frames, size = seen["frames"], seen["size"]
    sampler = seen.get("sampler", SAMPLERS.get(frames, "random_clip"))
    return ConfigDict(
        {
            "seed": 0,
            "steps": 1000,
            "model": model_of(row),
            "data": {
                "source": "auto",
                "path": "",
                "classes": tuple(names),
                "batch_size": 8,
                "short_side": 0,
                "interpolation": seen.get("interpolation", "area"),
                "clip": {"sampler": sampler, "size": frames, "stride": seen.get("stride", 1)},
                "augment": {"size": size, "flip": 0.5},
                "workers": 0,
                "threads": 4,
                "max_bad": 0.05,
            }
            | inputs_of(row, channels),
            "eval": {
                "every": 500,
                "batch_size": 4,
                "clips": 1,
                "crops": 1,
                "resize": seen.get("resize", 0),
                "size": size,
                "average": "prob",
                "allow_bad": False,
            },
            "optim": {"name": "sgd", "lr": 1e-3, "warmup": 0, "momentum": 0.9, "weight_decay": 0.0},
            "loss": {"label_smoothing": 0.0},
            "mesh": {"data": -1},
            "sharding": "replicate",
            "checkpoint_every": 500,
            "keep": 2,
            "log_every": 25,
        }
    )


def reference_of(text, flag="--from"):
    """(source, arch) of a flag's SOURCE:ARCH; ConvertError names the nearest, or all archs of the source."""
    source, _, arch = (text or "").partition(":")
    known = models.references()
    sources = sorted({name for name, _ in known})
    if not arch:
        archs = [name for owner, name in known if owner == source]
        choices = f"ARCH one of {', '.join(archs)}" if archs else f"SOURCE one of {', '.join(sources)}"
        raise convert.ConvertError(f"give {flag}=SOURCE:ARCH, {choices}.")
    models.reference(source, arch)
    return source, arch
