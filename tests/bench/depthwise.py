"""Depthwise and grouped 3-D convolutions, and nets made of them, beside PyTorch eager on the same CPU threads.

    python tests/bench/depthwise.py                    # every family, then the nets
    python tests/bench/depthwise.py --only=333         # those whose name contains this
    THREADS=1 python tests/bench/depthwise.py --cpu-time   # for a busy machine

Both sides run in turn in one process, `--rounds` times; PyTorch in both layouts, of which the faster median counts.
A line has the median ratio JAX / PyTorch of the rounds and its quartiles, below 1 where vidjax is faster: a forward
pass, then forward and backward. Gradients and losses must agree before anything is timed. The nets run whole training
steps (cross-entropy, SGD): ir-CSN-26, and bottlenecks of X3D-S's four stages (Feichtenhofer, CVPR 2020: widths 24-192,
13 frames of 160x160), two a stage, without squeeze-and-excitation. Needs `pip install torch` (CPU build).

Run it on an otherwise idle machine: 2 threads on 2 cores that other jobs share measure the scheduler.
2026-11-22, EPYC, jax 0.10.2, torch 2.13, --rounds 7: depthwise forward and backward 0.61-1.07, forward alone 1.7-5.3;
32 and 4 groups 3.44 and 2.64; ir-CSN-26 1.05 (PyTorch's default layout: 0.90), X3D-S bottlenecks 0.98 (a step).
"""

import argparse
import copy
import functools
import os
import platform
import statistics
import time

THREADS = int(os.environ.get("THREADS", "2"))
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
)  # as vidjax/main.py

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
from flax import linen, traverse_util  # noqa: E402
from torch import nn as tnn  # noqa: E402
from torch.nn import functional  # noqa: E402

from vidjax import nn  # noqa: E402
from vidjax.models import csn  # noqa: E402

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
PAUSE = 0.003  # seconds between runs: PyTorch's threads spin for a while after their work
RATE, MOMENTUM, CLASSES, EPSILON = 0.01, 0.9, 400, 1e-3

FAMILIES = {  # input (T, H, W, C), kernel, strides, groups, features
    "depthwise 333, 108": ((16, 28, 28, 108), (3, 3, 3), (1, 1, 1), 108, 108),
    "depthwise 333 / 1,2,2, 54": ((16, 56, 56, 54), (3, 3, 3), (1, 2, 2), 54, 54),
    "depthwise 333 / 2,2,2, 128": ((8, 28, 28, 128), (3, 3, 3), (2, 2, 2), 128, 128),
    "depthwise 155, 108": ((16, 28, 28, 108), (1, 5, 5), (1, 1, 1), 108, 108),
    "depthwise 155 / 1,2,2, 54": ((16, 56, 56, 54), (1, 5, 5), (1, 2, 2), 54, 54),
    "depthwise 155 / 2,2,2, 54": ((16, 56, 56, 54), (1, 5, 5), (2, 2, 2), 54, 54),
    "depthwise 511, 24": ((16, 80, 80, 24), (5, 1, 1), (1, 1, 1), 24, 24),
    "depthwise 511 / 1,2,2, 24": ((16, 80, 80, 24), (5, 1, 1), (1, 2, 2), 24, 24),
    "depthwise 511 / 2,2,2, 24": ((16, 80, 80, 24), (5, 1, 1), (2, 2, 2), 24, 24),
    "32 groups 333, 128": ((8, 28, 28, 128), (3, 3, 3), (1, 1, 1), 32, 128),
    "4 groups 333, 64": ((8, 28, 28, 64), (3, 3, 3), (1, 1, 1), 4, 64),
    "3 groups 111, 240-60": ((8, 14, 14, 240), (1, 1, 1), (1, 1, 1), 3, 60),
}
STAGES = ((2, 24), (2, 48), (2, 96), (2, 192))  # blocks and widths; inside 2.25 times as wide. X3D-S has 3, 5, 11, 7


def to_torch(x, layout):
    return torch.tensor(x.transpose(0, 4, 1, 2, 3)).contiguous(memory_format=LAYOUTS[layout])


def family_steps(size, kernel, strides, groups, features):
    """({name: forward}, {name: forward and backward}) of one convolution; raises where the gradients differ."""
    rng, pads = np.random.default_rng(0), tuple((k // 2, k // 2) for k in kernel)
    x = rng.normal(size=(1, *size)).astype(np.float32)
    weight = rng.normal(size=(*kernel, size[-1] // groups, features)).astype(np.float32)

    def forward(x, weight):
        return nn.conv3d(x, weight, strides, pads, groups)

    def gradients(x, weight, g):
        y, pull = jax.vjp(forward, x, weight)
        return y, *pull(g)

    g = rng.normal(size=jax.eval_shape(forward, x, weight).shape).astype(np.float32)
    arrays = tuple(map(jnp.asarray, (x, weight, g)))
    one, both = jax.jit(forward).lower(*arrays[:2]).compile(), jax.jit(gradients).lower(*arrays).compile()
    forwards = {"jax": lambda: jax.block_until_ready(one(*arrays[:2]))}
    steps = {"jax": lambda: jax.block_until_ready(both(*arrays))}
    for layout, memory_format in LAYOUTS.items():
        w = torch.tensor(weight.transpose(4, 3, 0, 1, 2)).contiguous(memory_format=memory_format)
        inputs = to_torch(x, layout).requires_grad_(), w.requires_grad_()
        forwards[layout], steps[layout] = torch_family(inputs, to_torch(g, layout), strides, pads, groups)
    dx, dw = (v.numpy() for v in steps["contiguous"]())
    for ours, theirs in zip(both(*arrays)[1:], (dx.transpose(0, 2, 3, 4, 1), dw.transpose(2, 3, 4, 1, 0)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    return forwards, steps


def torch_family(inputs, g, strides, pads, groups):
    """Functions that run PyTorch's convolution, and it with both gradients."""

    def convolve():
        return functional.conv3d(*inputs, None, strides, [lo for lo, _ in pads], groups=groups)

    @torch.no_grad()
    def forward():
        return convolve()

    return forward, lambda: torch.autograd.grad(convolve(), inputs, g)


class Unit(tnn.Module):
    """Convolution and batch norm, as `csn.Unit`."""

    def __init__(self, c, f, kernel=1, strides=1, groups=1, epsilon=EPSILON):
        super().__init__()
        padding = [k // 2 for k in kernel] if isinstance(kernel, tuple) else kernel // 2
        self.conv = tnn.Conv3d(c, f, kernel, strides, padding, groups=groups, bias=False)
        self.bn = tnn.BatchNorm3d(f, epsilon)

    def forward(self, x):
        return self.bn(self.conv(x))


class Bottleneck(tnn.Module):
    """1x1x1, depthwise 3x3x3, 1x1x1 and a shortcut that is pointwise where shapes differ."""

    def __init__(self, c, inside, f, strides):
        super().__init__()
        self.conv1, self.conv3 = Unit(c, inside), Unit(inside, f)
        self.conv2 = Unit(inside, inside, 3, strides, inside)
        self.downsample = None if strides == (1, 1, 1) and c == f else Unit(c, f, 1, strides)

    def forward(self, x):
        y = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class TorchNet(tnn.Module):
    """A stem, a pool, stages of bottlenecks, and a head on the mean of all positions: RGB -> logits."""

    def __init__(self, stem, pool, blocks):
        super().__init__()
        self.stem, self.pool, self.blocks = stem, pool, tnn.ModuleDict(blocks)
        self.head = tnn.Linear(list(blocks.values())[-1].conv3.conv.out_channels, CLASSES)

    def forward(self, x):
        x = self.stem(x).relu()
        x = functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)) if self.pool else x
        for block in self.blocks.values():
            x = block(x)
        return self.head(x.mean((2, 3, 4)))


class X3DBlock(linen.Module):
    """`Bottleneck` of this library's layers."""

    features: int
    strides: tuple
    unit: functools.partial

    @linen.compact
    def __call__(self, x):
        one, inside = (1, 1, 1), self.features * 9 // 4
        y = jax.nn.relu(self.unit(inside, one, one, 1, name="conv1")(x))
        y = jax.nn.relu(self.unit(inside, (3, 3, 3), self.strides, inside, name="conv2")(y))
        y = self.unit(self.features, one, one, 1, name="conv3")(y)
        if self.strides != one or x.shape[-1] != self.features:
            x = self.unit(self.features, one, self.strides, 1, name="downsample")(x)
        return jax.nn.relu(x + y)


class X3DLike(linen.Module):
    """`TorchNet` with the stages of X3D-S, of this library's layers: (B, T, H, W, 3) -> logits."""

    @linen.compact
    def __call__(self, x, *, train):
        norm = functools.partial(nn.BatchNorm, not train, epsilon=EPSILON)
        unit = functools.partial(csn.Unit, conv=nn.Conv3D, norm=norm)
        x = jax.nn.relu(unit(STAGES[0][1], (1, 3, 3), (1, 2, 2), 1, name="stem")(x))
        for i, (depth, features) in enumerate(STAGES, 1):
            for j in range(depth):
                x = X3DBlock(features, (1, 1, 1) if j else (1, 2, 2), unit, name=f"layer{i}_{j}")(x)
        return linen.Dense(CLASSES, name="head")(x.mean((1, 2, 3))), {}


def x3d():
    """(our model, PyTorch's, input (T, H, W, 3))."""
    blocks, c = {}, STAGES[0][1]
    stem = Unit(3, c, (1, 3, 3), (1, 2, 2))
    for i, (depth, f) in enumerate(STAGES, 1):
        for j in range(depth):
            blocks[f"layer{i}_{j}"] = Bottleneck(c, f * 9 // 4, f, (1, 1, 1) if j else (1, 2, 2))
            c = f
    return X3DLike(), TorchNet(stem, False, blocks), (13, 160, 160, 3)


def ir_csn_26():
    """The same for ir-CSN-26 on small clips."""
    ours = csn.Model(**csn.VARIANTS["ir_26"], num_classes=CLASSES, mean=0.0, std=1.0)
    blocks, c = {}, ours.stem_width
    for i, (depth, f, stride) in enumerate(zip(ours.depths, ours.widths, ours.strides, strict=True), 1):
        for j in range(depth):
            blocks[f"layer{i}_{j}"] = Bottleneck(c, f, f * ours.expansion, (1 if j else stride,) * 3)
            c = f * ours.expansion
    return ours, TorchNet(Unit(3, ours.stem_width, (3, 7, 7), (1, 2, 2)), True, blocks), (8, 112, 112, 3)


NETS = {"ir-CSN-26": ir_csn_26, "X3D-S bottlenecks": x3d}


def variables_of(state):
    """Our params and batch_stats, {collection: nested arrays}, of a TorchNet's state_dict."""
    names = {"bn.weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var", "weight": "kernel"}
    flat = {}
    for key, value in state.items():
        leaf = next((ours for theirs, ours in names.items() if key.endswith(theirs)), None)
        if leaf:
            path = key.removeprefix("blocks.").split(".")[:-1]
            value = value.numpy().transpose(2, 3, 4, 1, 0) if value.ndim == 5 else value.numpy().T
            flat["batch_stats" if leaf in ("mean", "var") else "params", *path, leaf] = jnp.array(value)
    return traverse_util.unflatten_dict(flat)


def jax_step(model, state, x, labels):
    """A function that runs one training step of our model and returns its loss; its state is donated."""
    tx, variables = optax.sgd(RATE, MOMENTUM), variables_of(state)

    def update(state, x, labels):
        params, stats, opt_state = state

        def loss_of(params):
            variables = {"params": params, "batch_stats": stats}
            (logits, _), new = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new["batch_stats"]

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), stats, opt_state), loss

    held = [(variables["params"], variables["batch_stats"], tx.init(variables["params"]))]
    x, labels = jnp.asarray(x), jnp.asarray(labels)
    compiled = jax.jit(update, donate_argnums=0).lower(held[0], x, labels).compile()

    def step():
        held[0], loss = compiled(held[0], x, labels)
        return float(jax.block_until_ready((held[0], loss))[1])

    return step


def torch_step(model, x, labels, layout):
    """The same of PyTorch's."""
    model = copy.deepcopy(model).to(memory_format=LAYOUTS[layout]).train()
    x, labels = to_torch(x, layout), torch.tensor(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def net_steps(name, batch):
    """{name: training step} of one net; raises where the losses of the first two steps differ."""
    torch.manual_seed(0)
    ours, theirs, size = NETS[name]()
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(batch, *size)).astype(np.float32), rng.integers(0, CLASSES, batch)
    steps = {"jax": jax_step(ours, theirs.state_dict(), x, labels)}
    steps |= {layout: torch_step(theirs, x, labels, layout) for layout in LAYOUTS}
    losses = {side: [step() for _ in range(2)] for side, step in steps.items()}
    for layout in LAYOUTS:  # rtol of the second step: an update through two dozen batch norms of one or two clips
        np.testing.assert_allclose(losses["jax"][0], losses[layout][0], rtol=1e-4, err_msg=f"{name}, {layout}, step 1")
        np.testing.assert_allclose(losses["jax"][1], losses[layout][1], rtol=2e-2, err_msg=f"{name}, {layout}, step 2")
    return steps


def compare(title, steps, rounds, clock):
    """Runs the steps in turn `rounds` times and prints medians; returns the median of JAX / PyTorch."""
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(PAUSE)
            start = clock()
            step()
            seconds[name].append(clock() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(LAYOUTS, key=medians.get)
    low, ratio, high = np.percentile([a / b for a, b in zip(seconds["jax"], seconds[best], strict=True)], (25, 50, 75))
    times = ", ".join(f"{name} {1e3 * value:.1f}" for name, value in medians.items())
    print(f"{title}: {times} ms; JAX / PyTorch {ratio:.2f} ({low:.2f}-{high:.2f})", flush=True)
    return ratio


def machine():
    """One line: processor, threads, versions."""
    with open("/proc/cpuinfo") as lines:
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = f"Python {platform.python_version()}, jax {jax.__version__}, torch {torch.__version__}"
    flags = os.environ["XLA_FLAGS"]
    return f"{cpu}, {THREADS} threads, load {os.getloadavg()[0]:.1f}; {versions}; XLA_FLAGS={flags!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only families and nets whose name contains this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1, help="clips of a net's step")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads instead of wall time")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(machine())
    ratios = []
    for name in (name for name in FAMILIES if args.only in name):
        forwards, steps = family_steps(*FAMILIES[name])
        compare(f"{name}, forward", forwards, args.rounds, clock)
        ratios.append(compare(f"{name}, forward + backward", steps, args.rounds, clock))
    for name in (name for name in NETS if args.only in name):
        title = f"{name}, training step of {args.batch}"
        ratios.append(compare(title, net_steps(name, args.batch), args.rounds, clock))
    print(f"geometric mean of forward + backward and steps: {statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
