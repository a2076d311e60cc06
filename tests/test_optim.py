"""Optimizers, losses and mesh rules against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vidjax import losses, optim, sharding

PARAMS = {"conv": {"kernel": jnp.array([3.0, -4.0])}, "bn": {"scale": jnp.array([1.0])}}
GRADS = {"conv": {"kernel": jnp.array([0.3, 0.4])}, "bn": {"scale": jnp.array([1.2])}}


def steps(tx, n):
    """The parameters after n steps of the same gradient."""
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(n):
        updates, state = tx.update(GRADS, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def test_sgd_is_pytorchs_with_decay_on_kernels_alone():
    tx, _ = optim.build(10, name="sgd", lr=0.1, schedule="constant", momentum=0.9, weight_decay=0.01)
    kernel, scale, v, w = np.array([3.0, -4.0]), 1.0, np.zeros(2), 0.0
    for _ in range(3):
        v = 0.9 * v + np.array([0.3, 0.4]) + 0.01 * kernel
        w = 0.9 * w + 1.2
        kernel, scale = kernel - 0.1 * v, scale - 0.1 * w
    params = steps(tx, 3)
    np.testing.assert_allclose(params["conv"]["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(params["bn"]["scale"], [scale], rtol=1e-6)


def test_adamw_decays_apart_from_the_gradient():
    tx, _ = optim.build(10, name="adamw", lr=0.1, schedule="constant", weight_decay=0.5)
    params = steps(tx, 1)  # the first Adam step has length lr whatever the gradient
    np.testing.assert_allclose(params["conv"]["kernel"], [3 - 0.1 - 0.15, -4 - 0.1 + 0.2], rtol=1e-5)
    np.testing.assert_allclose(params["bn"]["scale"], [0.9], rtol=1e-5)


def test_clipping_scales_the_whole_gradient():
    tx, _ = optim.build(10, name="sgd", lr=1.0, schedule="constant", momentum=0.0, clip_norm=0.65)
    params = steps(tx, 1)  # the norm of (0.3, 0.4, 1.2) is 1.3
    np.testing.assert_allclose(params["conv"]["kernel"], [3 - 0.15, -4 - 0.2], rtol=1e-6)
    np.testing.assert_allclose(params["bn"]["scale"], [1 - 0.6], rtol=1e-6)


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    rate = optim.learning_rate(2.0, 110, warmup=10)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60), rate(110)], [0, 1, 2, 1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "lion"}, "config.optim.name 'lion' is unknown; choose sgd, adam, adamw, lars"),
        ({"name": "sgd", "schedule": "step"}, "config.optim.schedule 'step' is unknown"),
        ({"name": "sgd", "warmup": 10}, r"warmup \(10 steps\) must be shorter than config.steps \(10\)"),
    ],
)
def test_bad_options_are_sentences(given, message):
    with pytest.raises(ValueError, match=message):
        optim.build(10, **{"lr": 0.1} | given)


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits, labels = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]], np.float32), np.array([1, 0])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for share in (0.0, 0.1):
        expected = -((1 - share) * log_p[[0, 1], labels] + share * log_p.mean(1))
        found = losses.softmax_cross_entropy(logits, losses.targets(labels, 3), label_smoothing=share)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_masked_mean_of_nothing_is_zero():
    values = jnp.array([1.0, 5.0, 7.0])
    assert losses.masked_mean(values, jnp.array([1.0, 0.0, 1.0])) == 4.0
    assert losses.masked_mean(values, jnp.zeros(3)) == 0.0


def test_mesh_takes_what_is_left_and_refuses_what_does_not_fit():
    assert dict(sharding.make_mesh(data=-1, fsdp=2).shape) == {
        "replica": 1,
        "data": 4,
        "fsdp": 2,
        "tensor": 1,
        "sequence": 1,
    }
    assert sharding.make_mesh(data=2).size == 2
    for sizes, message in (
        ({"data": 16}, "takes 16 devices, but 8 are here"),
        ({"dat": 2}, "no axis"),
        ({"data": -1, "fsdp": -1}, "at most one -1"),
    ):
        with pytest.raises(ValueError, match=message):
            sharding.make_mesh(**sizes)


def test_first_matching_rule_places_a_leaf():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {"stem": {"kernel": jnp.zeros((3, 64, 128)), "bn": {"scale": jnp.zeros(8192)}, "bias": jnp.zeros(7)}}
    places = sharding.shardings(tree, mesh, sharding.rules("fsdp"))["stem"]
    assert places["kernel"].spec == P(None, None, "fsdp")
    assert places["bn"]["scale"].spec == P()
    assert places["bias"].spec == P()
    with pytest.raises(ValueError, match="no sharding rule matches stem/bias"):
        sharding.shardings(tree, mesh, [(".*kernel|.*scale", P())])
    with pytest.raises(ValueError, match="'zero' is no preset"):
        sharding.rules("zero")


def test_batch_must_divide_over_the_mesh():
    assert sharding.batch_block(sharding.make_mesh(data=4), 8) == (0, 1)
    with pytest.raises(ValueError, match="a batch of 6 does not divide over the mesh's 4"):
        sharding.batch_block(sharding.make_mesh(data=2, fsdp=2), 6)


TWO = {"a": {"kernel": jnp.array([1.0])}, "b": {"kernel": jnp.array([1.0])}, "c": {"kernel": jnp.array([1.0])}}


def walk(n, **section):
    """The parameters `TWO` after each of n steps of gradient 1."""
    tx, _ = optim.build(n, **{"name": "sgd", "lr": 0.5, "schedule": "constant", "momentum": 0.0} | section)
    params, state, seen = TWO, tx.init(TWO), []
    update = jax.jit(tx.update)
    for _ in range(n):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        seen.append([float(params[name]["kernel"][0]) for name in "abc"])
    return np.array(seen), state


def test_what_is_not_trained_rests_and_has_no_state():
    seen, state = walk(2, name="adamw", trained="b/.*", weight_decay=0.5)
    assert (seen[:, [0, 2]] == 1).all()
    assert (np.diff(seen[:, 1]) < 0).all()
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (1,)]
    assert len(moments) == 2  # Adam's two, of b alone


def test_phases_alternate_then_train_the_head():
    phases = ((1, "a/.*"), (2, "b/.*"), (1, "a/.*"), (1, "c/.*"))
    seen, _ = walk(6, phases=phases, momentum=0.5)
    a = [0.5, 0.5, 0.5, 0.5 - 0.75, -0.25, -0.25]  # momentum 1, then 1.5: it rested in between, undecayed
    b = [1, 0.5, -0.25, -0.25, -0.25, -0.25]
    c = [1, 1, 1, 1, 0.5, 0.5 - 0.75]  # the last phase goes on
    np.testing.assert_allclose(seen, np.array([a, b, c]).T, rtol=1e-6)


def test_clipping_counts_what_trains_alone():
    seen, _ = walk(1, trained="a/.*", clip_norm=0.5)
    np.testing.assert_allclose(seen, [[0.75, 1, 1]])


def test_groups_multiply_the_learning_rate():
    seen, _ = walk(1, groups=(("a/.*", 0.1), ("[ab]/.*", 2.0)))
    np.testing.assert_allclose(seen, [[0.95, 0, 0.5]], rtol=1e-6)


def test_steps_schedule():
    rate = optim.learning_rate(1.0, 100, warmup=10, schedule="steps", boundaries=(20, 50), factor=0.1)
    np.testing.assert_allclose(
        [rate(s) for s in (5, 10, 19, 20, 49, 50, 99)], [0.5, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6
    )


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="no parameter's path matches 'd/.*'; there is 'a/kernel'"):
        walk(1, trained="d/.*")


def test_adam_couples_decay_and_lars_scales_by_trust():
    seen, _ = walk(1, name="adam", momentum=0.9, weight_decay=10.0)
    np.testing.assert_allclose(seen, [[0.5] * 3], rtol=1e-5)  # the first step has length lr
    seen, _ = walk(1, name="lars", momentum=0.0)
    np.testing.assert_allclose(seen, [[1 - 0.5 * 0.001] * 3], rtol=1e-6)  # |w| / |g| is 1


def test_every_loss_counts_by_its_weight():
    rng = np.random.RandomState(0)
    targets = jax.nn.one_hot(jnp.array([0, 2]), 3)
    logits, early, steps = (jnp.asarray(rng.randn(*s), jnp.float32) for s in ((2, 3), (2, 3), (2, 4, 3)))
    mask = jnp.array([[1.0, 1, 0, 0], [1, 1, 1, 1]])
    out = {
        "aux_logits/early": early,
        "aux_logits/steps": steps,
        "aux_mask/steps": mask,
        "loss/smooth": jnp.array([1.0, 2]),
    }
    ce = losses.softmax_cross_entropy
    weights = {"main": 0.5, "steps": 2.0, "smooth": 0.1}
    value, parts = losses.total(logits, out | {"stem": early}, targets, weights=weights, loss=ce)
    each = np.stack([ce(steps[:, i], targets) for i in range(4)], 1)
    by_hand = np.array([each[0, :2].mean(), each[1].mean()])
    expected = 0.5 * ce(logits, targets) + ce(early, targets) + 2 * by_hand + 0.1 * np.array([1, 2])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert set(parts) == {"main", "early", "steps", "smooth"}
    with pytest.raises(ValueError, match="config.loss.weights names 'late'"):
        losses.total(logits, out, targets, weights={"late": 1}, loss=ce)
