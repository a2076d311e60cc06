"""vjepa2 equals transformers' classifier with its attentive pooler, on tensors drawn by the golden formula."""

import hf
import jax
import numpy as np
import pytest
from reference import loss_after_step, near

from vidjax import models
from vidjax.models import vjepa2

TINY = {"width": 96, "depth": 3, "heads": 4, "hidden": 192, "pooler": 2, "num_classes": 16, "mean": 0.45, "std": 0.225}

# From transformers 5.23 run in PyTorch 2.13 on the middle 8x64x64 of the golden clips; `hidden` is 2 widths, the
# pooler's 4. Tokens are those of the sixth and the last patch of the first clip.
LOGITS = [-0.19323463, 0.03642449, -0.70083112, 0.12751336]
TOKENS = [[0.76365978, -0.37707010, -1.46877396, 1.91196668], [0.54084116, -0.93340594, -0.75698167, 2.73621321]]


def test_transformers(golden):
    model, video = models.build({"name": "vjepa2", "variant": "l", **TINY}), hf.clips(golden, 8, 64)
    variables = hf.drawn(golden, vjepa2.HF_ATTENTIVE, model, video)
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    near(out["tokens"][0, [5, -1], :4], np.array(TOKENS), "tokens")
    near(logits[0, :4], np.array(LOGITS), "logits")


def test_pinned_step(golden):
    """Loss after one SGD step of 0.1; recorded with transformers' net in float64 on the same weights and clips."""
    fields = TINY | {"depth": 2, "pooler": 1, "num_classes": 5}
    model, video = models.build({"name": "vjepa2", "variant": "l", **fields}), hf.clips(golden, 8, 64)
    variables = hf.drawn(golden, vjepa2.HF_ATTENTIVE, model, video)
    assert loss_after_step(model, variables, video) == pytest.approx(0.07550905, rel=1e-4)  # of 2.05 before the step
