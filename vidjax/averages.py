"""Averages that a run keeps: of parameters over steps (EMA), of batch norms' statistics over batches (precise BN).

Sources: Polyak & Juditsky 1992; Wu & Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3.
"""

import typing

import jax
import jax.numpy as jnp
import optax

from vidjax import nn


class Ema(typing.NamedTuple):
    """State of `ema`: how many steps were averaged, and the average of the parameters."""

    count: jax.Array
    params: dict


def ema(decay):
    """Leaves updates as they are and keeps e := d e + (1 - d) p of the parameters p that they lead to.

    d is `decay`, or (1 + n) / (10 + n) after n steps while that is less. It goes last in a chain.
    """
    if not 0 < decay < 1:
        raise ValueError(f"config.optim.ema is a decay between 0 and 1, such as 0.9999, or 0 for none, not {decay}.")

    def update(updates, state, params=None):
        n = state.count.astype(jnp.float32)
        d = jnp.minimum(decay, (1 + n) / (10 + n))
        after = optax.apply_updates(params, updates)
        kept = jax.tree.map(lambda e, p: (d * e + (1 - d) * p).astype(e.dtype), state.params, after)
        return updates, Ema(state.count + 1, kept)

    return optax.GradientTransformation(lambda params: Ema(jnp.int32(0), jax.tree.map(jnp.array, params)), update)


def swap(variables, opt_state):
    """(variables, optimizer's state) with the parameters and their average in each other's place, if there is one.

    Its own inverse: a checkpoint holds the averages as its variables, which evaluation reads, and training goes on from
    the parameters beside them.
    """
    found = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=_is_ema) if _is_ema(leaf)]
    if not found:
        return variables, opt_state
    put = lambda leaf: leaf._replace(params=variables["params"]) if _is_ema(leaf) else leaf  # noqa: E731
    return variables | {"params": found[0].params}, jax.tree.map(put, opt_state, is_leaf=_is_ema)


def _is_ema(leaf):
    return isinstance(leaf, Ema)


def norm_statistics(model, prepare, seed=0):
    """A compiled function (variables, inputs of a batch, net) -> the batch's own {mean, var} of every batch norm."""

    @jax.jit
    def statistics(variables, raw, net):
        rngs = {"dropout": jax.random.key(seed)}
        with nn.norm_momentum(0.0):
            _, updated = model.apply(variables, prepare(raw, net), train=True, rngs=rngs, mutable=["batch_stats"])
        return updated["batch_stats"]

    return statistics


def precise_norms(variables, batches):
    """`variables` whose batch norms have the mean and variance of all `batches` of `norm_statistics` together."""
    means = squares = None
    for count, stats in enumerate(batches, 1):
        square = jax.tree.map(lambda mean, var: var + jnp.square(mean), *_parts(stats))
        mean, _ = _parts(stats)
        share = 1 / count
        means = mean if means is None else jax.tree.map(lambda a, b, s=share: a + s * (b - a), means, mean)
        squares = square if squares is None else jax.tree.map(lambda a, b, s=share: a + s * (b - a), squares, square)
    found = jax.tree.map(lambda m, s: {"mean": m, "var": s - jnp.square(m)}, means, squares)
    return variables | {"batch_stats": found}


def _parts(stats):
    """Trees of all means and of all variances, whose leaves stand for one batch norm each."""
    is_norm = lambda node: isinstance(node, dict) and set(node) == {"mean", "var"}  # noqa: E731
    return tuple(jax.tree.map(lambda norm, k=key: norm[k], stats, is_leaf=is_norm) for key in ("mean", "var"))
