"""Starting a run from another's weights: by path, renamed, inflated or left fresh, and never mismatched in silence."""

import re

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from vidjax import checkpoint, inflate

TAKEN = ("modalities", "flow", "audio", "streams", "interpolation")  # keys of a data section that belong to weights
DEFAULTS = {"path": "", "step": -1, "skip": "", "rename": (), "inflate": False, "channels": False}


class TransferError(ValueError):
    """Weights that do not fit the model; the message lists what does not, and which key would allow it."""


def options(section):
    """An `init` section with its defaults; ValueError names an unknown key."""
    for key in section:
        if key not in DEFAULTS:
            raise ValueError(f"config.init has no key {key!r}; there are {', '.join(DEFAULTS)}.")
    return DEFAULTS | dict(section)


def adopt(cfg, path):
    """A config whose net, frames and pixels are those of the run or converted weights in `path`, where it starts.

    What the config's own model section has, such as drop_path, is kept where the net has such a field; a section with a
    `net` of its own, an attentive probe's, gets it there.
    """
    meta = checkpoint.read_meta(path)
    own, seen, cfg = meta["config"], meta["preprocess"], cfg.copy_and_resolve_references()
    with cfg.unlocked(), cfg.ignore_type():
        cfg.init_from, cfg.init.path = path, path
        if "net" in cfg.model:
            cfg.model.net = ConfigDict(own["model"])
        else:
            named = {key: value for key, value in cfg.model.items() if key not in ("name", "variant")}
            cfg.model = ConfigDict(own["model"] | named)
        for key in TAKEN:
            if key in own["data"]:
                cfg.data[key] = ConfigDict(own["data"][key]) if isinstance(own["data"][key], dict) else own["data"][key]
        cfg.data.clip = {"sampler": seen["sampler"], "size": seen["frames"], "stride": seen["stride"]}
        cfg.data.augment.size, cfg.eval.size, cfg.eval.resize = seen["size"], seen["size"], seen["resize"]
    return cfg


def load(section, variables):
    """`variables` with what `section["path"]`, a run or a converted checkpoint, has for them; and a report in lines.

    Several paths, separated by commas, complete one another. Leaves whose path (params/head/kernel) `skip` fully
    matches keep their values, on either side; `rename` are (regex, replacement) of the others' paths, each that matches
    the whole path gives one, so that a net can start both towers of a pair. `inflate` repeats 2-D kernels along time
    and divides by its length (Carreira & Zisserman 2017); `channels` averages an RGB kernel over its input channels
    and gives that to each of the new ones (Wang et al. 2016). Raises TransferError unless all else fits exactly.
    """
    section = options(section)
    step = section["step"] if section["step"] >= 0 else None
    ours, theirs, origins = traverse_util.flatten_dict(variables, sep="/"), {}, []
    for path in section["path"].split(","):
        found, _, taken = checkpoint.load_variables(path, step=step)
        origins.append(f"{path}, step {taken}")
        for name, value in traverse_util.flatten_dict(found, sep="/").items():
            for new in renamed(name, section["rename"]):
                if new in theirs:
                    raise TransferError(f"{new} comes twice from {section['path']}: name one in config.init.rename.")
                theirs[new] = value
    merged, kinds, problems = dict(ours), {}, []
    for path, leaf in ours.items():
        if re.fullmatch(section["skip"] or "(?!)", path):
            kinds[path] = "fresh"
        elif path not in theirs:
            problems.append(f"{path} is not in it")
        else:
            value = np.asarray(theirs[path])
            done, value = inflate.fit(value, leaf.shape, section["inflate"], section["channels"])
            kinds[path] = " and ".join(word(kind, leaf.shape) for kind in done)
            if value is None:
                problems.append(f"{path} is {theirs[path].shape} there and {leaf.shape} here")
            else:
                merged[path] = jax.device_put(value.astype(leaf.dtype), getattr(leaf, "sharding", None))
    left = [path for path in theirs if path not in ours and not re.fullmatch(section["skip"] or "(?!)", path)]
    problems += [f"{path} is only in it" for path in left]
    if problems:
        more = f", and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise TransferError(
            f"The weights in {section['path']} do not fit the model: {'; '.join(problems[:8])}{more}. Name what may "
            f"differ in config.init.skip (a regex of paths), or use config.init.rename, inflate or channels."
        )
    return traverse_util.unflatten_dict(merged, sep="/"), report(origins, ours, kinds)


def renamed(path, rules):
    """The paths that every matching (regex, replacement) gives, or the path itself."""
    return [match.expand(new) for pattern, new in rules if (match := re.fullmatch(pattern, path))] or [path]


def word(kind, shape):
    """What `inflate.fit` did to a leaf that is now of `shape`, for the report."""
    match kind:
        case "inflated":
            return f"inflated to {shape[0]} frames"
        case "averaged":
            return f"averaged to {shape[3]} channels"
    return "taken"


def report(origins, ours, kinds):
    """What happened, counted by kind; what is not simply taken by name and shape."""
    counts = {kind: sum(k == kind for k in kinds.values()) for kind in dict.fromkeys(kinds.values())}
    lines = [f"weights of {'; '.join(origins)}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items())]
    return lines + [f"  {kind:<10} {name} {ours[name].shape}" for name, kind in kinds.items() if kind != "taken"]
