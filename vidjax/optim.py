"""Optimizers and learning-rate schedules from a config's `optim` section."""

import re

import jax
import optax

from vidjax import sharding


def learning_rate(lr, steps, *, warmup=0, schedule="cosine"):
    """Learning rate by step: linear warm-up over `warmup` steps to `lr`, then a half cosine to 0, or constant."""
    if warmup >= steps:
        raise ValueError(f"config.optim.warmup ({warmup} steps) must be shorter than config.steps ({steps}).")
    if schedule == "cosine":
        rest = optax.cosine_decay_schedule(lr, steps - warmup)
    elif schedule == "constant":
        rest = optax.constant_schedule(lr)
    else:
        raise ValueError(f"config.optim.schedule '{schedule}' is unknown; choose cosine or constant.")
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), rest], [warmup]) if warmup else rest


def decayed(params, pattern):
    """True for each parameter whose path fully matches `pattern`: the ones that weight decay pulls on."""
    return jax.tree_util.tree_map_with_path(lambda path, _: bool(re.fullmatch(pattern, sharding.path_of(path))), params)


def build(
    steps, *, name, lr, warmup=0, schedule="cosine", momentum=0.9, b2=0.999, weight_decay=0.0,
    decay_paths=".*/kernel", clip_norm=0.0,
):  # fmt: skip
    """The gradient transformation and its learning rate by step.

    `sgd` couples weight decay into the gradient before momentum, as PyTorch does; `adamw` decouples it (Loshchilov &
    Hutter 2019; `momentum` is its beta 1). `clip_norm` > 0 clips the global gradient norm first.
    """
    rate = learning_rate(lr, steps, warmup=warmup, schedule=schedule)

    def mask(params):
        return decayed(params, decay_paths)

    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    if name == "sgd":
        return optax.chain(clip, optax.add_decayed_weights(weight_decay, mask), optax.sgd(rate, momentum)), rate
    if name == "adamw":
        return optax.chain(clip, optax.adamw(rate, momentum, b2, weight_decay=weight_decay, mask=mask)), rate
    raise ValueError(f"config.optim.name '{name}' is unknown; choose sgd or adamw.")
