"""Next-step regression on a series of numbers: the founding document S4's task, from a CSV file to its error."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidjax import models


def read(path):
    """The numbers of a CSV file, a row per step, a header or not: -> float32 (steps, columns); ValueError else."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    try:
        return np.array(rows[_header(rows) :], np.float32)
    except ValueError as error:
        raise ValueError(f"{path} must hold one number in every column of every row: {error}") from None


def fit(values, *, window=20, share=0.8, epochs=100, batch_size=32, lr=1e-3, hidden=50, seed=0):
    """Trains on the first `share` of a series (steps, D) and tests on the rest: -> (predict, report).

    `predict` maps windows (B, window, D) to next rows (B, D). The report has the test's mean squared error `mse`, in
    the series' own units, beside `last_value`, that of foretelling no change, and the number of windows. Standardised
    with the training part's mean and deviation; no test window sees a target of training. S4's recipe: MSE, Adam.
    """
    cut = int(len(values) * share)
    if cut <= window or len(values) - cut <= window:
        raise ValueError(f"{len(values)} steps are too few: both parts of {share:.0%} need more than {window}.")
    mean, std = values[:cut].mean(0, keepdims=True), values[:cut].std(0, keepdims=True) + 1e-8
    standard = (values - mean) / std
    (x, y), (test_x, _) = windows(standard[:cut], window), windows(standard[cut:], window)
    model = models.build({"name": "lstm_series", "variant": "s4", "hidden": hidden})
    params = train(model, x, y, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed)
    apply = jax.jit(lambda x: model.apply(params, x, train=False)[0])

    def predict(series):
        return np.asarray(apply((series - mean[None]) / std[None])) * std + mean

    seen, truth = windows(values[cut:], window)
    error = lambda found: float(np.mean((found - truth) ** 2))  # noqa: E731
    report = {"mse": error(predict(seen)), "last_value": error(seen[:, -1]), "windows": len(x), "tested": len(test_x)}
    return predict, report


def train(model, x, y, *, epochs, batch_size, lr, seed):
    """Variables of a model after `epochs` passes over windows x and targets y, in a new order each."""
    variables, tx = model.init(jax.random.key(seed), x[:1], train=False), optax.adam(lr)
    batches, rng = -(-len(x) // batch_size), np.random.default_rng(seed)

    def step(state, batch):
        (variables, opt_state), (inputs, targets) = state, batch
        loss = lambda v: jnp.mean(jnp.square(model.apply(v, inputs, train=True)[0] - targets))  # noqa: E731
        updates, opt_state = tx.update(jax.grad(loss)(variables), opt_state)
        return (optax.apply_updates(variables, updates), opt_state), None

    @jax.jit
    def epoch(state, order):
        return jax.lax.scan(step, state, (x[order], y[order]))[0]

    state, x, y = (variables, tx.init(variables)), jnp.asarray(x), jnp.asarray(y)
    for _ in range(epochs):
        order = np.resize(rng.permutation(len(x)), (batches, min(batch_size, len(x))))  # the last batch wraps
        state = epoch(state, order)
    return state[0]


def windows(values, size):
    """Every window of a series and the row after it: (steps, D) -> (n, size, D), (n, D)."""
    starts = np.arange(len(values) - size)
    return values[starts[:, None] + np.arange(size)], values[size:]


def _header(rows):
    """1 where the first row is no numbers, else 0."""
    try:
        np.array(rows[:1], np.float32)
    except ValueError:
        return 1
    return 0
