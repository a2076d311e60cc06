"""Optimizers, learning-rate schedules and what of a model trains when, from a config's `optim` section."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidjax import averages, sharding

DEFAULTS = {  # of the section, beside what a config names
    "warmup": 0,
    "schedule": "cosine",
    "boundaries": (),
    "factor": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "b2": 0.999,
    "weight_decay": 0.0,
    "decay_paths": ".*/kernel",
    "clip_norm": 0.0,
    "groups": (),
    "layer_decay": 1.0,
    "accumulate": 1,
    "ema": 0.0,
    "trained": ".*",
    "phases": (),
    "frozen_norms": "",
}
RATE = ("lr", "warmup", "schedule", "boundaries", "factor")


def build(
    steps, *, clip_norm=0.0, groups=(), layer_decay=1.0, accumulate=1, ema=0.0, trained=".*", phases=(), times=(),
    **rest,
):  # fmt: skip
    """The gradient transformation and its learning rate by step.

    `clip_norm` > 0 clips the global norm of the gradients of what trains. `groups` are (path regex, multiplier of the
    learning rate), the first that matches. Parameters whose path `trained` does not fully match never change; `phases`
    instead are ((steps, trained), ...) one after another, the last for the rest. `layer_decay` < 1 multiplies the rate
    by that once more for each layer below the head (`layers`). `accumulate` > 1 averages the gradients of so many
    steps into one update. `ema` > 0 keeps an average of the parameters (averages.py). `times` are ((step, factor),
    ...): from such a step on the rate is so many times as high, as for larger batches. What else the section has are
    the options of `learning_rate` (RATE) and of `rule`.
    """
    rate = learning_rate(steps=steps, **{key: rest.pop(key) for key in RATE if key in rest})
    rate = multiplied(rate, times) if times else rate
    rest.pop("frozen_norms", None)  # the training step's
    one, phases = rule(**rest), tuple(phases) or ((steps, trained),)
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    scale = scale_by_path(groups) if groups else optax.identity()
    scale = optax.chain(scale, scale_by_layer(layer_decay)) if layer_decay != 1 else scale
    average = averages.ema(ema) if ema else optax.identity()
    partial = phases != ((steps, ".*"),)
    stages = (gate(phases), clip, in_phases(one, phases)) if partial else (clip, one)
    if accumulate == 1:
        return optax.chain(*stages, scale, optax.scale_by_learning_rate(rate), average), rate
    if accumulate < 1:
        raise ValueError(f"config.optim.accumulate is a number of steps from 1 on, not {accumulate}.")
    slow = optax.scale_by_learning_rate(lambda update: rate(update * accumulate))
    several = optax.MultiSteps(optax.chain(*stages, scale, slow, average), accumulate)
    return optax.GradientTransformation(several.init, several.update), rate


def learning_rate(lr, steps, *, warmup=0, schedule="cosine", boundaries=(), factor=0.1):
    """Learning rate by step: linear warm-up over `warmup` steps to `lr`, then a half cosine to 0, constant, or `steps`.

    `steps` multiplies by `factor` at each of the steps `boundaries`.
    """
    if warmup >= steps:
        raise ValueError(f"config.optim.warmup ({warmup} steps) must be shorter than config.steps ({steps}).")
    if schedule == "cosine":
        rest = optax.cosine_decay_schedule(lr, steps - warmup)
    elif schedule == "constant":
        rest = optax.constant_schedule(lr)
    elif schedule == "steps":
        rest = optax.piecewise_constant_schedule(lr, {boundary - warmup: factor for boundary in boundaries})
    else:
        raise ValueError(f"config.optim.schedule '{schedule}' is unknown; choose cosine, constant or steps.")
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), rest], [warmup]) if warmup else rest


def multiplied(rate, times):
    """A learning rate by step, times the factor of the last of `times` ((step, factor), ...) that has come."""
    steps, factors = (jnp.array(column) for column in zip(*times, strict=True))
    return lambda step: rate(step) * factors[jnp.sum(step >= steps) - 1]


def rule(*, name, momentum=0.9, nesterov=False, b2=0.999, weight_decay=0.0, decay_paths=".*/kernel"):
    """How a gradient becomes a step of length one learning rate.

    `sgd` couples weight decay into the gradient before momentum, as PyTorch does, and `adam` before its averages
    (Kingma & Ba 2015); `adamw` decouples it (Loshchilov & Hutter 2019); `momentum` is their beta 1. `lars` scales each
    layer's step by its trust ratio (You et al. 2017). Decay pulls on the paths that `decay_paths` fully matches.
    """

    def mask(params):
        return matched(params, decay_paths)

    decay = optax.add_decayed_weights(weight_decay, mask)
    rules = {
        "sgd": lambda: optax.chain(decay, optax.trace(momentum, nesterov)),
        "adam": lambda: optax.chain(decay, optax.scale_by_adam(momentum, b2, nesterov=nesterov)),
        "adamw": lambda: optax.chain(optax.scale_by_adam(momentum, b2, nesterov=nesterov), decay),
        "lars": lambda: optax.chain(
            decay,
            optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), mask),
            optax.trace(momentum, nesterov),
        ),
    }
    if name not in rules:
        raise ValueError(f"config.optim.name '{name}' is unknown; choose {', '.join(rules)}.")
    return rules[name]()


def matched(params, pattern):
    """True for each parameter whose path fully matches `pattern`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: bool(re.fullmatch(pattern, sharding.path_of(path))), params)


def scale_by_path(groups):
    """Multiplies updates by the multiplier of the first (path regex, multiplier) that matches; others stay."""

    def factor(path):
        return next((by for pattern, by in groups if re.fullmatch(pattern, sharding.path_of(path))), 1.0)

    return optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(lambda path, x: x * factor(path), updates)
    )


LAST = re.compile(r"(.*/)?(head|norm|fc_norm|classifier|pooler|probe)(/.*)?")
BLOCK = re.compile(r"(block|layer|stage|conv|mixed_|inception_)\w*\d\w*")


def layers(paths):
    """The layer of each parameter by its path: {path: 0 for the first layers, 1, 2, ... for blocks, then the head}.

    Blocks are the first part of a path such as block3, layer2_1, conv4; they follow one another by their numbers.
    """
    named = {path: next((part for part in path.split("/") if BLOCK.fullmatch(part)), "") for path in paths}
    natural = lambda name: [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", name)]  # noqa: E731
    order = {name: i for i, name in enumerate(sorted({n for n in named.values() if n}, key=natural), 1)}
    last = len(order) + 1
    return {path: order[name] if name else last if LAST.fullmatch(path) else 0 for path, name in named.items()}


def scale_by_layer(decay):
    """Multiplies updates by `decay` once for each layer above their own (Bao et al., BEiT, 2022): the head's stay."""

    def update(updates, _):
        leaves = jax.tree_util.tree_leaves_with_path(updates)
        of = layers([sharding.path_of(path) for path, _ in leaves])
        last = max(of.values())
        factor = {path: decay ** (last - layer) for path, layer in of.items()}
        return jax.tree_util.tree_map_with_path(lambda path, x: x * factor[sharding.path_of(path)], updates)

    return optax.stateless(update)


def active(step, phases):
    """Which of `phases` ((steps, trained), ...) a step is in: -> int32 ()."""
    ends = jnp.array(np.cumsum([steps for steps, _ in phases])[:-1], jnp.int32)
    return jnp.sum(step >= ends, dtype=jnp.int32)


def trains(tree, step, phases):
    """For each leaf of a tree, whether a path that begins as its own trains in the phase of `step`: bool ()."""
    now = active(step, phases)
    bits = lambda path: [bool(re.fullmatch(pattern, sharding.path_of(path))) for _, pattern in phases]  # noqa: E731
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.array(bits(path))[now], tree)


def gate(phases):
    """Zeroes the gradients of what does not train in a step's phase, so that no norm counts them."""

    def update(updates, state, params=None):
        on = trains(updates, state, phases)
        return jax.tree.map(lambda u, keep: jnp.where(keep, u, 0), updates, on), state + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


def in_phases(one, phases):
    """`one` for each parameter in the phases where it trains; elsewhere its state rests. What never trains has none.

    Raises ValueError if a phase trains nothing.
    """

    def labels(params):
        bits = [matched(params, pattern) for _, pattern in phases]
        for (_, pattern), tree in zip(phases, bits, strict=True):
            if not any(jax.tree.leaves(tree)):
                paths = [sharding.path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
                raise ValueError(f"config.optim: no parameter's path matches {pattern!r}; there is {paths[0]!r}.")
        return jax.tree.map(lambda *each: "".join("01"[b] for b in each), *bits)

    def during(label):
        if "1" not in label:
            return optax.set_to_zero()
        on = [bit == "1" for bit in label]
        return one if all(on) else optax.conditionally_mask(one, lambda step: jnp.array(on)[active(step, phases)])

    def init(params):
        return optax.multi_transform({x: during(x) for x in set(jax.tree.leaves(labels(params)))}, labels).init(params)

    def update(updates, state, params=None):
        names = set(jax.tree.leaves(labels(params)))
        return optax.multi_transform({x: during(x) for x in names}, labels).update(updates, state, params)

    return optax.GradientTransformation(init, update)
