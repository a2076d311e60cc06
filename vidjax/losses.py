"""Losses and counts over masked batches."""

import jax.numpy as jnp
import optax


def softmax_cross_entropy(logits, labels, *, label_smoothing=0.0):
    """Cross-entropy per example in nats: (B, C), (B,) int -> (B,); smoothing as in Szegedy et al. 2016, section 7."""
    targets = optax.smooth_labels(jnp.eye(logits.shape[-1], dtype=logits.dtype)[labels], label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def masked_mean(values, mask):
    """Mean of `values` where `mask` is 1, and 0 if nothing is: (B,), (B,) -> ()."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def correct(logits, labels):
    """1.0 where the label has the highest score, the lower class index winning ties: (B, C), (B,) -> (B,)."""
    return (jnp.argmax(logits, -1) == labels).astype(jnp.float32)
