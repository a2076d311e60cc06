"""Training steps of whole nets beside PyTorch's, each framework in a process of its own, in turn, on one GPU or a CPU.

    python tests/bench/steps_vs_torch.py                              # on a GPU: bf16, batches that fill it
    python tests/bench/steps_vs_torch.py --only=x3d --rounds=30
    python tests/bench/steps_vs_torch.py --small --rounds=1           # on a CPU: float32, a clip or two

A step is vidjax's own `train.train_step` under `jit`: bytes to [0, 1], forward, cross-entropy, backward, update (SGD
with momentum, AdamW for transformers), parameters and optimizer in float32. PyTorch does the same with autocast to
bf16, channels_last_3d, `torch.compile` (--compile, none with --small) and fused optimizers. Both start from the same
weights: first the logits of one clip in float32, then the loss of the first step must agree, or the net is not timed.
Dropout is off. Batches are random bytes in host memory, copied one ahead: `wait` is the part of the time that the host
waited for one, without any decoding.

Each process may take SHARE of the card, so that both are there at once; where either has too little, both get half the
batch. A line has steps a second of both, clips a second, model FLOP utilisation (6 x multiply-adds of a forward pass x
batch / seconds / the card's dense bf16 peak), peak memory, and the median over rounds of vidjax's seconds / PyTorch's,
below 1 where vidjax is faster, with a 95 % bootstrap interval.
Needs torch, torchvision, transformers and pytorchvideo with fvcore and iopath, in --torch-python if not here; a
checkout of pytorchvideo is given by --path. Nets whose library is missing are named and left out.

Run it on a machine that does nothing else. 2026-11-22: run with --small on CPU for correctness alone; no GPU yet.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import steps_sides
from steps_sides import NETS, SHARE, arguments, net_of

PAUSE = 0.01  # seconds between the two: PyTorch's threads on a CPU spin for a while after their work
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bf16 FLOP/s by the maker's data sheets


class Worker:
    """A framework's process."""

    def __init__(self, side, python, args, name, batch, folder):
        words = [side, folder, f"--only={name}", f"--batch={batch}"]
        words += [f"--compile={args.compile}"] + ["--small"] * args.small
        path = f"{args.path}:" if side == "torch" and args.path else ""
        env = os.environ | {"PYTHONPATH": f"{path}{os.environ.get('PYTHONPATH', '')}"}
        env |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": str(SHARE)} | ({"JAX_PLATFORMS": "cpu"} if args.small else {})
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([python, steps_sides.__file__, *words], env=env, **pipes)
        try:
            self.ready = self.hear()
        except BaseException:
            self.end()
            raise

    def hear(self):
        said = json.loads(self.process.stdout.readline() or '{"failed": true}')
        if said.get("failed"):
            raise RuntimeError("a process failed; its error is above.")
        if said.get("full"):
            raise MemoryError
        if "missing" in said:
            raise ImportError(said["missing"])
        return said

    def run(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def measure(name, args, batch):
    """{jax, torch: {versions, macs, rounds: [{seconds, waited, ...}]}} of a net; MemoryError at too large a batch."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides = {}
        for side, python in (("torch", args.torch_python), ("jax", sys.executable)):  # the first writes the weights
            sides[side] = Worker(side, python, args, name, batch, folder)
            stack.callback(sides[side].end)
        first = {side: worker.run(1)["loss"] for side, worker in sides.items()}
        bound = 1e-3 if args.small else 2e-2  # of the loss: float32 through batch norms of one clip, or bf16
        np.testing.assert_allclose(first["jax"], first["torch"], rtol=bound, err_msg=f"{name}: the first step's loss")
        for worker in sides.values():
            worker.run(args.steps)  # caches, autotuning, a second compilation
        found = {side: worker.ready | {"rounds": []} for side, worker in sides.items()}
        for turn in range(args.rounds):
            for side in sorted(sides, reverse=bool(turn % 2)):
                time.sleep(PAUSE)
                found[side]["rounds"].append(sides[side].run(args.steps))
        return found


def interval(ratios, draws=2000):
    """(2.5 %, median, 97.5 %) of the median of ratios, by bootstrap."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (draws, len(ratios))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return low, statistics.median(ratios), high


def rows_of(name, found, batch, steps):
    """The two lines of the table of a net."""
    seconds = {side: [one["seconds"] for one in found[side]["rounds"]] for side in ("jax", "torch")}
    low, ratio, high = interval([a / b for a, b in zip(seconds["jax"], seconds["torch"], strict=True)])
    kind, lines = found["jax"]["versions"][1], []
    peak = next((flops for card, flops in PEAKS.items() if card in kind), None)
    for side, title in (("jax", "vidjax"), ("torch", "PyTorch")):
        rate = steps / statistics.median(seconds[side])
        mfu = f"{6 * found['jax']['macs'] * batch * rate / peak:.1%}" if peak else "-"
        waited = sum(one["waited"] for one in found[side]["rounds"]) / sum(seconds[side])
        memory = found[side]["rounds"][-1]["peak"] / 1e9
        cells = [name, title, f"{batch}", f"{rate:.3g}", f"{rate * batch:.3g}", mfu, f"{memory:.1f}", f"{waited:.1%}"]
        lines.append(cells + [f"{ratio:.2f} ({low:.2f}-{high:.2f})" if side == "jax" else ""])
    return lines


def driver():
    """The GPUs and their driver, as nvidia-smi has them."""
    words = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no NVIDIA driver"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, help="of a round; by default 10, or 1 with --small")
    parser.add_argument("--torch-python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--path", default="", help="a checkout of pytorchvideo")
    args = parser.parse_args()
    args.steps = args.steps or (1 if args.small else 10)
    args.compile = args.compile or ("none" if args.small else "default")
    print(f"{driver()}; {platform.platform()}, load {os.getloadavg()[0]:.1f}; torch.compile {args.compile}", flush=True)
    table, versions = [], set()
    for name in (name for name in NETS if args.only in name):
        batch, found = args.batch or net_of(name, args.small)["batch"], None
        while not found and batch:
            try:
                found = measure(name, args, batch)
            except MemoryError:
                print(f"{name}: {batch} clips do not fit", flush=True)
                batch //= 2
            except ImportError as error:
                print(f"{name}: left out, {error}", flush=True)
                break
        if found:
            versions |= {found[side]["versions"][0] for side in found}
            table += rows_of(net_of(name, args.small)["arch"], found, batch, args.steps)
            for cells in table[-2:]:
                print(" | ".join(cells), flush=True)
    print("\n".join(sorted(versions)))
    head = ("net", "", "batch", "steps/s", "clips/s", "MFU", "peak GB", "wait", "vidjax / PyTorch (95 %)")
    for cells in (head, ["---"] * len(head), *table):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
