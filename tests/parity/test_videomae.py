"""videomae equals its references: transformers' golden net, its pre-training loss, the originals on drawn weights."""

import hf
import jax
import numpy as np
import pytest
from reference import near

from vidjax import models
from vidjax.models import videomae


def test_transformers(golden):
    logits, out, expected = hf.run(golden, "hf_videomae_tiny")
    near(out["embedding"].mean(1), expected["embed_mean"], "embedding")
    near(out["tokens"].mean(1), expected["hidden_last_mean"], "tokens")
    near(logits, expected["logits"], "logits")


TINY = {"width": 96, "depth": 2, "heads": 4, "hidden": 192, "frames": 8, "size": 64}

# From transformers 5.23 run in PyTorch 2.13 on the middle 8x64x64 of the golden clips, 56 of 64 patches hidden at
# random: the mean loss and the first pixels of the first clip's first hidden patch.
LOSS, PIXELS = 2.0986028, [2.65272689, -1.59205031, 0.47025678, -0.94387543]
# From MCG-NJU/VideoMAE's modeling_finetune on the same: first logits of the first clip.
LOGITS = [-0.39474609, 0.34657061, -0.24268180, 0.54726040]


@pytest.fixture(scope="module")
def learner(golden):
    """(model, variables, clips, mask) of a tiny net with a decoder and transformers' epsilons."""
    row = models.reference("hf", "videomae_base")
    fields = TINY | row["fields"] | {"decoder": (48, 2, 4)}
    model, video = models.build({"name": "videomae", "variant": "pretrain_b", **fields}), hf.clips(golden, 8, 64)
    order = np.argsort(np.random.RandomState(0).rand(2, 64), axis=1)
    mask = np.zeros((2, 64), bool)
    np.put_along_axis(mask, order[:, :56], True, axis=1)
    return model, hf.drawn(golden, row["table"], model, video), video, mask


def test_transformers_pretraining(learner):
    model, variables, video, mask = learner
    _, out = jax.jit(lambda v, x: model.apply(v, x, train=True, mask=mask))(variables, video)
    near(out["reconstruction"][0, 0, :4], np.array(PIXELS), "reconstruction")
    near(out["loss/mae"].mean(), np.array(LOSS), "loss")


def test_pinned_step(learner):
    """Loss after one SGD step of 0.1; recorded with transformers' net in float64 on the same weights and clips."""
    model, variables, video, mask = learner
    loss = lambda v: model.apply(v, video, train=True, mask=mask)[1]["loss/mae"].mean()  # noqa: E731
    step = jax.jit(lambda v: loss(jax.tree.map(lambda p, g: p - 0.1 * g, v, jax.grad(loss)(v))))
    assert float(step(variables)) == pytest.approx(1.71978522, rel=1e-5)


def test_original(golden):
    fields = TINY | {"num_classes": 16, "mean": 0.45, "std": 0.225}
    model, video = models.build({"name": "videomae", "variant": "b", **fields}), hf.clips(golden, 8, 64)
    variables = hf.drawn(golden, videomae.ORIGINAL, model, video, videomae.split, videomae.joined)
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    near(logits[0, :4], np.array(LOGITS), "logits")
