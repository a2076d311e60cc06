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


def masked_mean(values, mask):
    """Mean of `values` where `mask` is 1, and 0 if nothing is: (B,), (B,) -> ()."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def correct(logits, targets):
    """1.0 where the highest score is one of the labels, the lower class index winning ties: (B, C), (B, C) -> (B,)."""
    best = jnp.argmax(logits, -1)[:, None]
    return (jnp.take_along_axis(targets, best, -1)[:, 0] > 0).astype(jnp.float32)
