"""Checks before a chip is wasted: the config by itself, what the processes agree on, batches and memory that fit."""

import difflib
import hashlib
import os

import jax

from vidjax import config, data, ends, finite, models, optim, peers, sharding, transfer
from vidjax.data import protocols


class PreflightError(ValueError):
    """A run that cannot work, found before its first step."""


DEFAULTS = {"on_nan": "stop", "watchdog": ends.WATCHDOG, "peers": peers.PATIENCE}  # of what a config leaves out
SECTIONS = {  # the keys of each section, beside those of its owners; None: its owner checks them
    "": ("seed", "steps", "checkpoint_every", "keep", "log_every", "init_from", "bn", "remat", "sequence", *DEFAULTS),
    "eval": (
        *("every", "batch_size", "clips", "crops", "resize", "size", "average", "allow_bad", "protocol"),
        *("precise_bn", "split"),
    ),
    "optim": ("name", "lr", *optim.DEFAULTS),
    "mesh": sharding.AXES,
    "mix": ("mixup", "cutmix"),
    "loss": ("label_smoothing", "weights"),
    "init": tuple(transfer.DEFAULTS),
    "data": None,
    "model": None,
    "sharding": None,
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
        section = cfg.get(prefix, {}) if prefix else cfg
        names = [*SECTIONS, *known][1:] if not prefix else known
        for key in section if known is not None else ():
            if key not in names:
                dotted = lambda name, prefix=prefix: f"{prefix}.{name}" if prefix else name  # noqa: E731
                near = difflib.get_close_matches(key, names, 1, 0)[0]
                raise PreflightError(
                    f"the config has no key '{dotted(key)}' (its value: {section[key]!r}); "
                    f"the nearest is '{dotted(near)}'."
                )
    given = {name: cfg[name] for name in config.keys(cfg)}
    for name, (text, fits) in VALUES.items():
        if name in given and not fits(given[name]):
            hint = ""
            if isinstance(given[name], str) and text.startswith("one of"):
                near = difflib.get_close_matches(given[name], text.removeprefix("one of ").split(", "), 1, 0)[0]
                hint = f"; the nearest is '{near}'"
            raise PreflightError(f"config.{name} is {text}, not {given[name]!r}{hint}.")
    sharding.rules(cfg.sharding)
    data.options(cfg.data)
    models.build(cfg.model, num_classes=1)
    transfer.options(cfg.get("init", {}))


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
