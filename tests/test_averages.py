"""Averages of parameters over steps, and of batch norms' statistics over batches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidjax import averages, optim
from vidjax.nn import BatchNorm


def test_ema_follows_the_parameters_and_warms_up():
    tx = optax.chain(optax.sgd(0.1), averages.ema(0.5))
    params = {"w": jnp.array([1.0, 2.0])}
    state, expected = tx.init(params), np.array([1.0, 2.0])
    for n in range(12):
        updates, state = tx.update({"w": jnp.array([1.0, -1.0])}, state, params)
        params = optax.apply_updates(params, updates)
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * np.asarray(params["w"])
    np.testing.assert_allclose(state[1].params["w"], expected, rtol=1e-6)
    np.testing.assert_allclose(params["w"], [1 - 1.2, 2 + 1.2], rtol=1e-6)  # the updates are as they were
    variables = {"params": params, "batch_stats": {"m": jnp.ones(1)}}
    shown, hidden = averages.swap(variables, state)
    np.testing.assert_array_equal(shown["params"]["w"], state[1].params["w"])
    np.testing.assert_array_equal(hidden[1].params["w"], params["w"])
    jax.tree.map(np.testing.assert_array_equal, averages.swap(shown, hidden), (variables, state))
    assert averages.swap(variables, ())[0] is variables  # nothing is averaged


@pytest.mark.parametrize("decay", [1.0, -0.1, 7])
def test_a_decay_is_a_share(decay):
    with pytest.raises(ValueError, match="config.optim.ema is a decay between 0 and 1"):
        optim.build(4, name="sgd", lr=0.1, ema=decay)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return BatchNorm(not train, name="bn")(2 * x), {}


def test_precise_norms_are_those_of_all_batches():
    x = np.random.RandomState(0).randn(24, 5).astype(np.float32) + 3
    model = Net()
    variables = model.init(jax.random.key(0), x, train=False)
    statistics = averages.norm_statistics(model, lambda raw, net: raw)
    found = averages.precise_norms(variables, (statistics(variables, part, None) for part in np.split(x, 3)))
    norm = found["batch_stats"]["bn"]
    np.testing.assert_allclose(norm["mean"], 2 * x.mean(0), rtol=1e-5)
    within = np.mean([part.var(0, ddof=1) for part in np.split(x, 3)], 0)  # of each batch, unbiased as in PyTorch
    between = np.var([part.mean(0) for part in np.split(x, 3)], 0)
    np.testing.assert_allclose(norm["var"], 4 * (within + between), rtol=1e-4)
    assert found["params"] is variables["params"]


def test_layers_are_counted_from_the_head_down():
    paths = ["patch/kernel", "positions", "block2/mlp/kernel", "block10/mlp/kernel", "norm/scale", "head/kernel"]
    assert list(optim.layers(paths).values()) == [0, 0, 1, 2, 3, 3]
    paths = [
        "backbone/stem/conv/kernel",
        "backbone/layer2_1/conv1/conv/kernel",
        "backbone/layer1_0/bn/scale",
        "head/bias",
    ]
    assert list(optim.layers(paths).values()) == [0, 2, 1, 3]


def test_layer_decay_slows_lower_layers():
    tree = {name: {"kernel": jnp.ones(2)} for name in ("patch", "block0", "block1", "head")}
    tx, _ = optim.build(10, name="sgd", lr=1.0, schedule="constant", momentum=0.0, layer_decay=0.5)
    updates, _ = tx.update(tree, tx.init(tree), tree)
    steps = {name: -float(u["kernel"][0]) for name, u in updates.items()}
    assert steps == {"patch": 0.125, "block0": 0.25, "block1": 0.5, "head": 1.0}


def test_accumulated_steps_are_one_of_their_mean():
    params, grads = {"w": jnp.zeros(3)}, [{"w": jnp.array([float(i), 1.0, -i])} for i in range(6)]
    tx, rate = optim.build(6, name="sgd", lr=1.0, warmup=3, momentum=0.9, accumulate=3)
    one, _ = optim.build(6, name="sgd", lr=1.0, schedule="constant", momentum=0.9)
    state, expected, own = tx.init(params), {"w": jnp.zeros(3)}, one.init(params)
    for step, grad in enumerate(grads):
        before = params
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        if step % 3 < 2:
            np.testing.assert_array_equal(params["w"], before["w"])
            continue
        mean = {"w": sum(g["w"] for g in grads[step - 2 : step + 1]) / 3}
        updates, own = one.update(mean, own, expected)
        scale = float(rate(step // 3 * 3))  # the schedule counts steps, not updates
        expected = optax.apply_updates(expected, jax.tree.map(lambda u, s=scale: s * u, updates))
        np.testing.assert_allclose(params["w"], expected["w"], atol=1e-6)
    assert float(rate(0)) == 0.0
    with pytest.raises(ValueError, match="config.optim.accumulate is a number of steps"):
        optim.build(4, name="sgd", lr=0.1, accumulate=0)
