"""attentive_probe: V-JEPA 2's own probe again, a net that rests, any activation of any net, errors."""

import jax
import numpy as np
import pytest

from vidjax import losses, models
from vidjax.models import attentive_probe

TRANSFORMER = {"name": "vjepa2", "variant": "small", "width": 32, "depth": 2, "heads": 2, "hidden": 24}
CONVOLUTIONS = {"name": "r3d", "variant": "small"}


def probe(net, **fields):
    cfg = {"name": "attentive_probe", "variant": "cross", "net": net, "heads": 2, **fields}
    return models.build(cfg, num_classes=3)


@pytest.fixture(scope="module")
def video():
    return np.random.RandomState(0).rand(2, 4, 16, 24, 3).astype(np.float32)


def initialised(model, video):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)


@pytest.mark.parametrize("depth", [0, 2])
def test_equals_the_probe_of_vjepa2(video, depth):
    whole = models.build(TRANSFORMER | {"pooler": depth}, num_classes=3)
    params = initialised(whole, video)["params"]
    above = {name: params[name] for name in ("pooler", "head")}
    params = above | {"net": {name: tree for name, tree in params.items() if name not in above}}
    model = probe(TRANSFORMER | {"pooler": None}, depth=depth)
    assert jax.tree.structure(initialised(model, video)["params"]) == jax.tree.structure(params)
    found, out = jax.jit(lambda v, x: model.apply(v, x, train=False))({"params": params}, video)
    expected, _ = jax.jit(lambda v, x: whole.apply(v, x, train=False))({"params": params["net"] | above}, video)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert out["net/tokens"].shape == (2, 2 * 2 * 3, 32)


def test_the_net_rests(video):
    """No gradient reaches it, and its batch norms neither use nor keep the batch's statistics."""
    model = probe(CONVOLUTIONS)
    variables = initialised(model, video)
    labels = losses.targets(np.array([0, 2]), 3)

    def loss(params, rest):
        (logits, _), updated = model.apply(
            {"params": params, **rest}, video, train=True, mutable=list(rest), rngs={"dropout": jax.random.key(1)}
        )
        return losses.softmax_cross_entropy(logits, labels).mean(), (logits, updated)

    rest = {name: tree for name, tree in variables.items() if name != "params"}
    assert rest
    grads, (logits, updated) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"], rest)
    moved = {name: max(np.abs(g).max() for g in jax.tree.leaves(tree)) for name, tree in grads.items()}
    assert moved["net"] == 0
    assert min(moved["pooler"], moved["head"]) > 0
    jax.tree.map(np.testing.assert_array_equal, dict(updated), rest)
    evaluated, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    np.testing.assert_allclose(logits, evaluated, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "layer", "width"),
    [(TRANSFORMER, "", 32), (TRANSFORMER, "block0", 32), (CONVOLUTIONS, "", 64), (CONVOLUTIONS, "stem", 16)],
)
def test_reads_any_activation(video, net, layer, width):
    shapes = models.shapes(probe(net, layer=layer), video.shape)["params"]
    assert shapes["pooler"]["cls"].shape == (1, 1, width)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"layer": "res5"}, "has no activation 'res5' for config.model.layer: one of stem"), ({"heads": 7}, "7 heads")],
)
def test_errors(video, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(probe(CONVOLUTIONS, **fields), video.shape)


@pytest.mark.parametrize(
    ("variant", "d", "net"), [("cross", 768, 86_227_200), ("deep", 768, 86_227_200), ("small", 96, 484_128)]
)
def test_sizes(variant, d, net):
    """By hand: three projections and an MLP in the pooler, four projections and an MLP in each block before it."""
    row, depth = attentive_probe.SIZES[variant], attentive_probe.VARIANTS[variant].get("depth", 0)
    pooler = 3 * (d * d + d) + (8 * d * d + 5 * d) + 2 * 2 * d + d
    blocks = depth * (4 * (d * d + d) + (8 * d * d + 5 * d) + 2 * 2 * d)
    assert row["params"] == net + pooler + blocks + (d + 1) * row["classes"]
