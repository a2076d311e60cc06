"""Losses and counts over masked batches."""

import jax
import jax.numpy as jnp
import optax


def targets(labels, classes):
    """Class numbers (B,) as one-hot rows, rows of several labels (B, C) as they are: -> float32 (B, C)."""
    return jax.nn.one_hot(labels, classes) if labels.ndim == 1 else labels


def softmax_cross_entropy(logits, targets, *, label_smoothing=0.0, allowed=None):
    """Cross-entropy per example in nats: (B, C), (B, C) -> (B,); smoothing as in Szegedy et al. 2016, section 7.

    `allowed` bool (B, C) leaves other classes out of the softmax: the heads of several data sets side by side.
    """
    if allowed is None:
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
    share = allowed / jnp.sum(allowed, -1, keepdims=True)
    smooth = (1 - label_smoothing) * targets + label_smoothing * share
    log_p = jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf))
    return -jnp.sum(jnp.where(allowed, smooth * log_p, 0), -1)


def sigmoid_cross_entropy(logits, targets, *, label_smoothing=0.0):
    """Binary cross-entropy per example in nats, summed over classes, each on its own: (B, C), (B, C) -> (B,)."""
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, smooth), -1)


def total(logits, out, targets, *, weights, loss, **options):
    """Every loss of a model, each per example (B,): -> their weighted sum, {name: loss}.

    `main` is that of the logits; `NAME` of `out["aux_logits/NAME"]` (B, C) or (B, S, C), the latter's mean over S by
    `out["aux_mask/NAME"]` (B, S) where that is; and `out["loss/NAME"]` (B,) as it is. `weights` are 1 unless named.
    """
    found = {"main": loss(logits, targets, **options)}
    for key, value in out.items():
        kind, _, name = key.partition("/")
        if kind == "loss":
            found[name] = value
        elif kind == "aux_logits" and value.ndim == 2:
            found[name] = loss(value, targets, **options)
        elif kind == "aux_logits":
            each = jax.vmap(lambda x: loss(x, targets, **options), 1, 1)(value)
            share = out.get(f"aux_mask/{name}", jnp.ones(each.shape))
            found[name] = jnp.sum(each * share, 1) / jnp.maximum(jnp.sum(share, 1), 1)
    if unknown := sorted(set(weights) - set(found)):
        raise ValueError(f"config.loss.weights names {unknown[0]!r}, but this model's losses are {', '.join(found)}.")
    return sum(weights.get(name, 1.0) * value for name, value in found.items()), found


def masked_mean(values, mask):
    """Mean of `values` where `mask` is 1, and 0 if nothing is: (B,), (B,) -> ()."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def correct(logits, targets):
    """1.0 where the highest score is one of the labels, the lower class index winning ties: (B, C), (B, C) -> (B,)."""
    best = jnp.argmax(logits, -1)[:, None]
    return (jnp.take_along_axis(targets, best, -1)[:, 0] > 0).astype(jnp.float32)
