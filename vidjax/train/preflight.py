"""Checks before a chip is wasted: the config by itself, what the processes agree on, batches and memory that fit."""

import difflib
import hashlib
import os

import jax

from vidjax import config, data, models, optim, peers, sharding, transfer
from vidjax.data import modalities, multigrid, protocols, sources, transforms
from vidjax.train import ends, finite


class PreflightError(ValueError):
    """A run that cannot work, found before its first step."""


DEFAULTS = {"on_nan": "stop", "watchdog": ends.WATCHDOG, "peers": peers.PATIENCE}  # of what a config leaves out
SECTIONS = {  # the keys of each section, beside those of its owners
    "": (
        *("seed", "steps", "checkpoint_every", "keep", "log_every", "init_from", "bn", "remat", "sequence", "sharding"),
        *("eval", "optim", "mesh", "mix", "loss", "init", "data", "model", *DEFAULTS),
    ),
    "eval": (
        *("every", "batch_size", "clips", "crops", "resize", "size", "average", "allow_bad", "protocol"),
        *("precise_bn", "split", "features"),
    ),
    "optim": ("name", "lr", *optim.DEFAULTS),
    "mesh": sharding.AXES,
    "mix": ("mixup", "cutmix"),
    "loss": ("label_smoothing", "weights"),
    "init": tuple(transfer.DEFAULTS),
    "data": (*data.DEFAULTS, *sources.DEFAULTS),
    "data.clip": tuple(data.DEFAULTS["clip"]),
    "data.augment": (*transforms.GEOMETRY, *modalities.COLOURS, "flip_pairs"),
    "data.flow": tuple(data.DEFAULTS["flow"]),
    "data.multigrid": tuple(multigrid.DEFAULTS),
}


def whole(least):
    return f"a whole number from {least} on", lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least


def number(least, below=None, until=None):
    """A number from `least` on, less than `below`, at most `until`."""
    text = f"a number from {least:g} " + (f"to {until:g}" if until else f"on, below {below:g}" if below else "on")
    top = lambda x: (below is None or x < below) and (until is None or x <= until)  # noqa: E731
    return text, lambda x: isinstance(x, int | float) and not isinstance(x, bool) and x >= least and top(x)


def one_of(*names):
    return f"one of {', '.join(names)}", lambda x: x in names


VALUES = {
    **dict.fromkeys(("steps", "checkpoint_every", "keep", "log_every", "eval.every"), whole(1)),
    **dict.fromkeys(("eval.batch_size", "eval.clips", "eval.crops", "eval.size"), whole(1)),
    **dict.fromkeys(("data.batch_size", "data.repeats", "data.threads", "data.augment.size"), whole(1)),
    **dict.fromkeys(("data.clip.size", "data.clip.stride", "optim.accumulate"), whole(1)),
    **dict.fromkeys(("seed", "data.workers", "data.short_side", "eval.precise_bn", "optim.warmup"), whole(0)),
    **dict.fromkeys(("optim.lr", "optim.weight_decay", "optim.clip_norm", "watchdog"), number(0)),
    **dict.fromkeys(("optim.momentum", "optim.b2", "optim.ema", "loss.label_smoothing"), number(0, below=1)),
    **dict.fromkeys(("data.max_bad", "optim.layer_decay"), number(0, until=1)),
    "peers": number(1),
    "on_nan": one_of(*finite.POLICIES),
    "optim.name": one_of("sgd", "adam", "adamw", "lars"),
    "optim.schedule": one_of("cosine", "constant", "steps"),
    "eval.average": one_of("prob", "logit"),
    "eval.protocol": one_of("", *protocols.PROTOCOLS),
}


def check(cfg):
    """Raises PreflightError, or the owner's ValueError, for a config that cannot be meant; needs no device."""
    for prefix, known in SECTIONS.items():
        check_keys(prefix, section_of(cfg, prefix), known)
    check_keys("model", cfg.model, model_keys(cfg.model))
    given = {name: cfg[name] for name in config.keys(cfg)}
    for name, (text, fits) in VALUES.items():
        if name in given and not fits(given[name]):
            hint = ""
            if isinstance(given[name], str) and text.startswith("one of"):
                hint = f"; the nearest is '{nearest(given[name], text.removeprefix('one of ').split(', '))}'"
            raise PreflightError(f"config.{name} is {text}, not {given[name]!r}{hint}.")
    sharding.rules(cfg.sharding)
    data.options(cfg.data)
    models.build(cfg.model, num_classes=1)
    transfer.options(cfg.get("init", {}))


def check_keys(prefix, section, known):
    """Raises PreflightError for the first key of a section that is not known."""
    for key in section:
        if key not in known:
            there = f"{prefix}." if prefix else ""
            raise PreflightError(
                f"the config has no key '{there}{key}' (its value: {section[key]!r}); "
                f"the nearest is '{there}{nearest(key, known)}'."
            )


def nearest(word, words):
    """The one of `words` that is most like `word`, whatever their case."""
    return max(words, key=lambda one: difflib.SequenceMatcher(None, word.lower(), one.lower()).ratio())


def section_of(cfg, prefix):
    """The section of a dotted name, empty where there is none."""
    for name in prefix.split(".") if prefix else ():
        cfg = cfg.get(name) or {}
    return cfg


def model_keys(model):
    """The keys that a model section may have: those of its family; without a name, all but what is most like `name`."""
    if "name" not in model:
        return ["name", *(set(model) - {nearest("name", list(model))})]
    if model.name not in models.names():
        return list(model)  # which the model's name comes before
    return ["name", "variant", *models.family(model.name).Model.__dataclass_fields__]


def values(cfg):
    """What all processes must have alike of a config: {config.KEY: value}."""
    return {f"config.{name}": cfg[name] for name in config.keys(cfg)}


def contents(**sources):
    """What all processes must find alike in the data: how many videos and classes, and a digest of which."""
    found = {}
    for name, source in sources.items():
        digest = hashlib.sha256("\n".join(source.classes).encode())
        for i in range(len(source)):
            digest.update(f"\n{source[i]['id']} {source[i]['label']}".encode())
        found[f"the number of videos for {name}"] = len(source)
        found[f"the list of videos for {name}, by its digest,"] = digest.hexdigest()[:12]
    return found


def check_batches(cfg, mesh):
    """Raises PreflightError unless the batches divide over the mesh."""
    for key, size in (("data.batch_size", cfg.data.batch_size), ("eval.batch_size", cfg.eval.batch_size)):
        try:
            sharding.batch_block(mesh, size)
        except ValueError as error:
            raise PreflightError(f"config.{key}={size}: {error}") from None


def check_memory(compiled, mesh):
    """Raises PreflightError if a compiled step needs more memory than a device of this process has."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return
    needed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    needed += analysis.temp_size_in_bytes
    for device in mesh.local_devices:
        has = limit(device, len(mesh.local_devices))
        if needed > has:
            raise PreflightError(
                f"the training step needs {needed / 1e9:.2f} GB on each device, but {device} of process "
                f"{jax.process_index()} has {has / 1e9:.2f} GB: lower config.data.batch_size, use more devices, set "
                f"config.remat=block, or config.sharding=fsdp with config.mesh.fsdp."
            )


def limit(device, local):
    """The bytes that a device may use; on a CPU its share of the machine's memory."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / local if device.platform == "cpu" else float("inf")
    )
