"""Feature maps projected back: each rule against its definition, jax's own gradient, nets by name, errors that help."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.explain import relus

WEIGHTS = np.random.RandomState(0).randn(2, 6, 6).astype(np.float32)


def two_layers(x):
    """Two dense layers with ReLUs, one of them in a compiled and checkpointed call: (B, 6) -> logits, activations."""
    hidden = jax.checkpoint(jax.jit(lambda x: nn.relu(x @ WEIGHTS[0])))(x)
    out = {"hidden": hidden, "top": nn.relu(hidden @ WEIGHTS[1])}
    return out["top"], out


@pytest.mark.parametrize("rule", relus.RULES)
def test_rules_by_hand(rule):
    x = np.random.RandomState(1).randn(40, 6).astype(np.float32)
    below, above = x @ WEIGHTS[0], np.maximum(x @ WEIGHTS[0], 0) @ WEIGHTS[1]

    def back(value, gradient):
        gradient = gradient if rule == "gradient" else np.maximum(gradient, 0)
        return gradient if rule == "deconvolution" else gradient * (value > 0)

    top = back(above, np.eye(6, dtype=np.float32)[[3] * len(x)])
    expected = back(below, top @ WEIGHTS[1].T) @ WEIGHTS[0].T
    found = jax.jit(lambda x: relus.project(two_layers, x, "top", 3, rule))(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def c3d():
    video = np.random.RandomState(0).rand(2, 8, 16, 16, 3).astype(np.float32)
    model = models.build({"name": "c3d", "variant": "small", "num_classes": 3, "stages": ((4,), (4,), (6,))})
    model = model.clone(depths=(3, 3, 3), hidden=(5, 5))
    variables = jax.jit(lambda k, x: model.init(k, x, train=False))(jax.random.key(0, impl="rbg"), video)
    return video, lambda x: model.apply(variables, x, train=False)


def test_a_net():
    """`gradient` is jax.grad's; the others differ; maps are clips, and a clip's map comes from it alone."""
    video, apply = c3d()
    maps = {rule: jax.jit(lambda x, r=rule: relus.project(apply, x, "conv3a", 2, r))(video) for rule in relus.RULES}
    plain = jax.jit(jax.grad(lambda x: apply(x)[1]["conv3a"][..., 2].max(axis=(1, 2, 3)).sum()))(video)
    assert np.abs(plain).max() > 0
    np.testing.assert_allclose(maps["gradient"], plain, atol=1e-5 * np.abs(plain).max())
    assert {value.shape for value in maps.values()} == {video.shape}
    for a, b in [("gradient", "guided"), ("gradient", "deconvolution"), ("guided", "deconvolution")]:
        assert np.abs(maps[a] - maps[b]).max() > 0.01 * np.abs(maps[a]).max()
    other = np.concatenate([video[:1], video[:1] * 0.5])
    alone = jax.jit(lambda x: relus.project(apply, x, "conv3a", 2))(other)
    np.testing.assert_allclose(alone[0], maps["guided"][0], atol=1e-5 * np.abs(alone).max())


def test_several_inputs():
    def apply(inputs):
        return inputs["rgb"], {"sum": nn.relu(inputs["rgb"] + 2 * inputs["flow"])}

    maps = relus.project(apply, {"rgb": jnp.ones((2, 3)), "flow": jnp.ones((2, 3))}, "sum", 1)
    assert jax.tree.map(np.ndarray.tolist, jax.tree.map(np.asarray, maps)) == {
        "rgb": [[0, 1, 0]] * 2,
        "flow": [[0, 2, 0]] * 2,
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layer": "fc9"}, "no activation 'fc9'; there are hidden, top"),
        ({"channel": 6}, "top has channels 0 to 5, not 6"),
        ({"rule": "guide"}, "no rule 'guide' for a ReLU; take gradient, deconvolution, guided"),
    ],
)
def test_errors(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        relus.project(two_layers, jnp.ones((1, 6)), **{"layer": "top", "channel": 0} | change)
