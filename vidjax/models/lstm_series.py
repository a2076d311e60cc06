"""LSTM that foretells the next value of a series: LSTM(50) and a dense layer, for `vidjax.series`.

The founding document S4's net, section 4. Input: (B, T, D) numbers, standardised. Output: the next row (B, D).
"""

import flax.linen as nn

from vidjax import recurrent

VARIANTS = {"s4": {"hidden": 50}, "small": {"hidden": 16}}
_PAPER = "none (a tutorial's net)"
SIZES = {  # [C] 4 ((D + H) H + H) + (H + 1) D
    "s4": {"input": (20, 1), "params": 10_451, "gmac": 0.0, "paper": _PAPER},
    "small": {"input": (20, 1), "params": 1_169, "gmac": 0.0, "paper": _PAPER},
}


class Model(nn.Module):
    """Next-step regression: float32 (B, T, D) -> float32 (B, D), activations."""

    hidden: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, series, *, train):
        hidden, _ = recurrent.LSTM(self.hidden, dtype=self.dtype, name="recurrent")(series)
        x = hidden[:, -1]
        return nn.Dense(series.shape[-1], name="head")(x), {"hidden": hidden, "pre_logits": x}
