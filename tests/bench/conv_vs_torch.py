"""Training steps and convolutions of vidjax beside PyTorch eager on the same two CPU threads, interleaved in one run.

    python tests/bench/conv_vs_torch.py                        # R3D-18 and R(2+1)D-18, whole training steps
    python tests/bench/conv_vs_torch.py --frames=16 --batch=2
    python tests/bench/conv_vs_torch.py --ops                  # families of convolutions, forward + backward

A step is forward, cross-entropy, backward and the SGD-with-momentum update, batch norm in training mode. Both sides
start from the same weights and must give the same loss. PyTorch runs in both layouts, the faster median counts.
Needs `pip install torch torchvision` (CPU builds).

XLA hands 2-D convolutions to YNNPACK, which leaves those of 64 or fewer features on one thread; the flag below, which
`vidjax` sets for itself, sends them to Eigen. XLA_FLAGS="" measures without it.

Measured 2026-11-21, EPYC, 2 cores, nothing else running, jax 0.10.2, torch 2.13, 8 x 112 x 112, batch 1, --rounds 7;
median JAX / PyTorch of the rounds (quartiles in brackets):
  with the flag:                          R3D-18 1.09 (1.01-1.14), R(2+1)D-18 1.17 (1.15-1.28)
  XLA_FLAGS="":                           R(2+1)D-18 1.18 (1.15-1.29), geometric mean of both 1.19
  GLIBC_TUNABLES=glibc.malloc.hugetlb=1:  R3D-18 1.08 (1.06-1.15), R(2+1)D-18 1.27 (1.18-1.32)
  --frames=16 --batch=2 --rounds 4:       R3D-18 1.73 (1.72-1.73), R(2+1)D-18 1.44 (1.33-1.53): PyTorch's convolutions
      gain on larger arrays (211 GFLOP/s over R3D-18's step), XLA's stay at about 150, forward and backward alike
The cores shared with other jobs:
  THREADS=1 --cpu-time, XLA_FLAGS="":     R3D-18 0.99 (0.98-1.00), R(2+1)D-18 0.91
  --ops, with the flag:                   in the order of OPS 0.79, 1.21, 1.83, 1.49, 1.82, 0.92, 1.20
  --ops, THREADS=1 --cpu-time:            0.81, 0.72, 0.52, 0.58, 1.03, 0.59, 0.96
"""

import argparse
import os
import statistics
import time

THREADS = int(os.environ.get("THREADS", "2"))
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402

from vidjax import convert, models, nn  # noqa: E402

for name in ("nms", "qnms"):  # the compiled operators that torchvision's import expects and its models do not use
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.models import video as torchvision_video  # noqa: E402

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
NETS = ("r3d_18", "r2plus1d_18")
CLASSES, RATE, MOMENTUM = 400, 0.01, 0.9

OPS = {  # input (T, H, W, C) and a chain of (kernel, strides, groups, features) with ReLU between
    "3 x conv 3x3x3, 32-64-64-64": ((8, 56, 56, 32), [((3, 3, 3), (1, 1, 1), 1, 64)] * 3),
    "2 x (2+1)D, 64-144-64": (
        (8, 56, 56, 64),
        [((1, 3, 3), (1, 1, 1), 1, 144), ((3, 1, 1), (1, 1, 1), 1, 64)] * 2,
    ),
    "depthwise 3x3x3, 108": ((16, 28, 28, 108), [((3, 3, 3), (1, 1, 1), 108, 108)]),
    "depthwise 3x3x3 / 2, 54": ((16, 56, 56, 54), [((3, 3, 3), (1, 2, 2), 54, 54)]),
    "2 x X3D bottleneck, 48-108-48": (
        (16, 28, 28, 48),
        [((1, 1, 1), (1, 1, 1), 1, 108), ((3, 3, 3), (1, 1, 1), 108, 108), ((1, 1, 1), (1, 1, 1), 1, 48)] * 2,
    ),
    "stem 3x7x7 / 2, 3-64": ((8, 112, 112, 3), [((3, 7, 7), (1, 2, 2), 1, 64)]),
    "conv 3x3x3 / 2, 64-128": ((8, 56, 56, 64), [((3, 3, 3), (2, 2, 2), 1, 128)]),
}


def torch_step(net, state, x, labels, layout):
    """A function that runs one PyTorch training step and returns its loss."""
    model = getattr(torchvision_video, net)(weights=None, num_classes=CLASSES)
    model.load_state_dict(state)
    model = model.to(memory_format=LAYOUTS[layout]).train()
    x = torch.tensor(x.transpose(0, 4, 1, 2, 3)).contiguous(memory_format=LAYOUTS[layout])
    labels = torch.tensor(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def jax_step(net, state, x, labels):
    """The same for vidjax; state is donated, as in training."""
    variables = convert.from_reference("torchvision", net, {k: v.numpy() for k, v in state.items()})
    model = models.for_reference("torchvision", net, CLASSES).clone(mean=0.0, std=1.0)
    tx = optax.sgd(RATE, MOMENTUM)

    def update(state, x, labels):
        params, stats, opt_state = state

        def loss_of(params):
            variables = {"params": params, "batch_stats": stats}
            (logits, _), new = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new["batch_stats"]

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), stats, opt_state), loss

    params, stats = (jax.tree.map(jnp.asarray, variables[k]) for k in ("params", "batch_stats"))
    held = [(params, stats, tx.init(params))]
    x, labels = jnp.asarray(x), jnp.asarray(labels)
    compiled = jax.jit(update, donate_argnums=0).lower(held[0], x, labels).compile()

    def step():
        held[0], loss = compiled(held[0], x, labels)
        return float(jax.block_until_ready((held[0], loss))[1])

    return step


def net_steps(net, batch, frames, size):
    """{name: step function} of one net; raises where the losses of the first two steps differ."""
    torch.manual_seed(0)
    state = getattr(torchvision_video, net)(weights=None, num_classes=CLASSES).state_dict()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, frames, size, size, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, batch)
    steps = {"jax": jax_step(net, state, x, labels)}
    steps |= {layout: torch_step(net, state, x, labels, layout) for layout in LAYOUTS}
    losses = {name: [step() for _ in range(2)] for name, step in steps.items()}
    for name in LAYOUTS:  # rtol of the second step: one update through 18 batch norms of one or two clips
        np.testing.assert_allclose(losses["jax"][0], losses[name][0], rtol=1e-4, err_msg=f"{net}, {name}, step 1")
        np.testing.assert_allclose(losses["jax"][1], losses[name][1], rtol=2e-2, err_msg=f"{net}, {name}, step 2")
    return steps


def op_steps(size, chain, batch):
    """{name: function that computes all gradients of sum(chain(x) * g)}; raises where they differ."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *size)).astype(np.float32)
    channels, kernels, widths = size[-1], [], []
    for kernel, _, groups, features in chain:
        fan_in = channels // groups * np.prod(kernel)
        kernels.append(rng.normal(size=(*kernel, channels // groups, features), scale=(2 / fan_in) ** 0.5))
        channels = features
        widths.append([(k // 2, k // 2) for k in kernel])
    kernels = [k.astype(np.float32) for k in kernels]

    def forward(x, kernels):
        for i, (kernel, (_, strides, groups, _), pads) in enumerate(zip(kernels, chain, widths, strict=True)):
            x = nn.conv3d(jax.nn.relu(x) if i else x, kernel, strides, pads, groups)
        return x

    g = rng.normal(size=jax.eval_shape(forward, x, kernels).shape).astype(np.float32)

    def gradients(x, kernels, g):
        return jax.vjp(forward, x, kernels)[1](g)

    arguments = jax.tree.map(jnp.asarray, (x, kernels, g))
    compiled = jax.jit(gradients).lower(*arguments).compile()
    steps = {"jax": lambda: jax.block_until_ready(compiled(*arguments))}
    for layout, memory_format in LAYOUTS.items():
        steps[layout] = torch_chain(x, kernels, g, chain, widths, memory_format)
    want = [steps["contiguous"]()[0].numpy().transpose(0, 2, 3, 4, 1), *steps["contiguous"]()[1:]]
    got = steps["jax"]()
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-4 * np.abs(want[0]).max())  # a chain of ReLUs
    for ours, theirs in zip(got[1], want[1:], strict=True):
        theirs = theirs.numpy().transpose(2, 3, 4, 1, 0)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())  # same
    return steps


def torch_chain(x, kernels, g, chain, widths, memory_format):
    """A function that returns PyTorch's gradients of the chain: [x, *kernels]."""
    x, g = (torch.tensor(v.transpose(0, 4, 1, 2, 3)).contiguous(memory_format=memory_format) for v in (x, g))
    kernels = [torch.tensor(k.transpose(4, 3, 0, 1, 2)).contiguous(memory_format=memory_format) for k in kernels]
    inputs = [v.requires_grad_() for v in (x, *kernels)]

    def run():
        y = inputs[0]
        for i, (kernel, (_, strides, groups, _), pads) in enumerate(zip(inputs[1:], chain, widths, strict=True)):
            y = torch.relu(y) if i else y
            y = torch.nn.functional.conv3d(y, kernel, None, strides, [lo for lo, _ in pads], groups=groups)
        return torch.autograd.grad(y, inputs, g)

    return run


def compare(title, steps, rounds, clock):
    """Runs the steps in turn `rounds` times and prints medians; returns the median of JAX / PyTorch."""
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            step()
            seconds[name].append(clock() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(LAYOUTS, key=medians.get)
    low, ratio, high = np.percentile([a / b for a, b in zip(seconds["jax"], seconds[best], strict=True)], (25, 50, 75))
    times = ", ".join(f"{name} {1e3 * value:.0f}" for name, value in medians.items())
    print(f"{title}: {times} ms; JAX / PyTorch {ratio:.2f} ({low:.2f}-{high:.2f})", flush=True)
    return ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", action="store_true", help="families of convolutions instead of nets")
    parser.add_argument("--only", default="", help="only nets or operators whose name contains this")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true", help="processor time; with THREADS=1, for a busy machine")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    clock = time.process_time if args.cpu_time else time.perf_counter
    ratios = []
    for name in OPS if args.ops else NETS:
        if args.only in name:
            steps = (
                op_steps(*OPS[name], args.batch) if args.ops else net_steps(name, args.batch, args.frames, args.size)
            )
            ratios.append(compare(name, steps, args.rounds, clock))
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
