"""Breaks runs in every way at hand, many times, and tells what became of them.

    nice python tests/chaos.py kill --trials 200 --processes 1
    nice python tests/chaos.py corrupt --trials 1000

Scenarios: kill, sigterm, corrupt, config, disk_full, nan, peers, elastic, cache, soak. Each trial ends as the
uninterrupted run did, in one clear sentence, or is a defect: silently wrong, or a hang. Prints the count of each, with
Ctrl-C at once, and exits 1 if there is a defect. Trial n of a seed makes the same choices again, but meets the run at
another moment.
"""

import argparse
import collections
import contextlib
import io
import json
import math
import os
import pathlib
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tiny

from vidjax import checkpoint, config

VIDJAX = [sys.executable, "-c", "import vidjax.main; vidjax.main.run()"]
EQUAL, SENTENCE, WRONG, HANG = "resumed equal", "one clear sentence", "SILENTLY WRONG", "HANG"
LIMIT = 240  # seconds after which a run hangs


class Runs:
    """A folder of runs on the same tiny videos, with the parameters of one that nothing disturbed."""

    def __init__(self, folder, steps=8, **changes):
        self.folder, self.steps, self.count = pathlib.Path(folder), steps, 0
        self.videos = tiny.render(self.folder / "videos")
        self.changes = {"checkpoint_every": 2, "log_every": 1, "steps": steps, "eval__every": steps} | changes

    def new(self, **changes):
        """A fresh workdir."""
        self.count += 1
        workdir = self.folder / f"run_{self.count}"
        workdir.mkdir()
        config.save(tiny.make_config(self.videos, **self.changes | changes), str(workdir))
        return workdir

    def start(self, workdir, processes=1, words=(), env=(), **how):
        """Starts a run by so many processes on a workdir: their Popens."""
        group, started = [], []
        if processes > 1:
            import socket

            with socket.socket() as probe:
                probe.bind(("localhost", 0))
                group = [f"--coordinator=localhost:{probe.getsockname()[1]}", f"--processes={processes}"]
        for i in range(processes):
            own = [*group, f"--process={i}"] if group else []
            with open(workdir / f"output_{time.monotonic_ns()}.txt", "w") as log:
                command = [*VIDJAX, "train", f"--workdir={workdir}", f"--config.mesh.data={processes}", *own, *words]
                env = os.environ | dict(env)
                started.append(subprocess.Popen(command, stdout=log, stderr=log, env=env, **how))
        return started

    def finish(self, workdir, processes=1, words=(), **how):
        """Runs to the end; the exit codes, None where it hangs."""
        group = self.start(workdir, processes, words, **how)
        return [leaves(process) for process in group]

    def reference(self, processes=1, **changes):
        """The checksums of an uninterrupted run."""
        workdir = self.new(**changes)
        assert self.finish(workdir, processes) == [0] * processes, output(workdir)
        return self.checksums(workdir)

    def checksums(self, workdir, step=None):
        return checkpoint.read_meta(str(workdir), step or self.steps)["checksums"]


def leaves(process, seconds=LIMIT):
    """A process's exit code; None if it does not end, and is killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def output(workdir):
    return "\n".join(file.read_text() for file in sorted(pathlib.Path(workdir).glob("output_*.txt")))


def lines(workdir):
    """How many steps a run has logged."""
    path = pathlib.Path(workdir, "metrics.jsonl")
    return path.read_text().count("train/loss") if path.exists() else 0


def await_steps(workdir, group, more):
    """Waits until a run has logged so many more steps, or has ended."""
    until = lines(workdir) + more
    while all(process.poll() is None for process in group) and lines(workdir) < until:
        time.sleep(0.005)


def kill(args, folder, rng):
    """kill -9 at random moments: while it starts, restores, compiles and writes its cache, steps, or saves."""
    runs = Runs(folder)
    wanted, workdir, waiting = runs.reference(args.processes), runs.new(), 0
    cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for trial in range(args.trials):
        own = cache | {"JAX_COMPILATION_CACHE_DIR": str(workdir / "cache")}
        soon = (
            ["--join_timeout=15"] if args.processes > 1 else []
        )  # one that dies before they met is waited for so long
        group, began = runs.start(workdir, args.processes, soon, env=own), time.monotonic()
        if rng.random() < 0.6:
            await_steps(workdir, group, rng.choice((1, 1, 2)))
            time.sleep(rng.uniform(0, 0.2))
        else:
            while time.monotonic() - began < rng.uniform(0.5, 8) and all(p.poll() is None for p in group):
                time.sleep(0.01)
        victim = rng.choice(group)
        ended = all(process.poll() == 0 for process in group)
        victim.kill()
        codes = [leaves(process, 30) for process in group]
        waiting += 1
        if None in codes:
            yield HANG, f"trial {trial}: {codes} in {workdir}"
        elif not ended and not set(codes) <= {-9, 76, 1, 0}:
            yield WRONG, f"trial {trial}: exit codes {codes} in {workdir}"
        if ended or trial + 1 == args.trials or waiting == 8:
            codes = runs.finish(workdir, args.processes, env=own)
            left = [p.name for p in (workdir / "checkpoints").iterdir() if not p.name.isdecimal()]
            good = codes == [0] * args.processes and runs.checksums(workdir) == wanted and not left
            for _ in range(waiting):
                yield (EQUAL if good else HANG if None in codes else WRONG), f"{codes} {left} in {workdir}"
            waiting = 0
            if good:
                shutil.rmtree(workdir)
            workdir = runs.new()


def sigterm(args, folder, rng):
    """SIGTERM at random moments once the run steps: exit code 75 within 30 s, and the same end."""
    runs = Runs(folder)
    wanted = runs.reference(args.processes)
    for trial in range(args.trials):
        workdir = runs.new()
        group = runs.start(workdir, args.processes)
        await_steps(workdir, group, rng.choice((1, 2, 3, 4, 5)))
        time.sleep(rng.uniform(0, 0.1))
        rng.choice(group).send_signal(signal.SIGTERM)
        codes = [leaves(process, 30) for process in group]
        if set(codes) not in ({75}, {0}):
            yield (HANG if None in codes else WRONG), f"trial {trial}: exit codes {codes} in {workdir}"
            continue
        again = runs.finish(workdir, args.processes)
        good = set(again) == {0} and runs.checksums(workdir) == wanted
        yield (EQUAL if good else WRONG), f"trial {trial}: {codes}, {again} in {workdir}"


def damage(folder, rng):
    """Truncates, deletes, flips a bit in or swaps files of a folder; -> what was done."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    kind, path = rng.choice(("truncate", "flip", "delete", "swap")), rng.choice(files)
    data = bytearray(path.read_bytes())
    if kind == "truncate":
        path.write_bytes(data[: rng.randrange(len(data))] if data else b"")
    elif kind == "delete":
        path.unlink()
    elif kind == "swap":
        other = rng.choice(files)
        whole = other.read_bytes()
        other.write_bytes(bytes(data))
        path.write_bytes(whole)
    elif data:
        if rng.random() < 0.5:  # at the bulk of the numbers, where nothing but a checksum sees it
            path = max(files, key=lambda p: p.stat().st_size)
            data = bytearray(path.read_bytes())
        at = rng.randrange(8 * len(data))
        data[at // 8] ^= 1 << at % 8
        path.write_bytes(data)
    return f"{kind} {path}"


def corrupt(args, folder, rng):
    """Damages the newest of two checkpoints: it is noticed, and the one before it is taken."""
    import test_checkpoint as known

    from vidjax.checkpoint import CheckpointError, Checkpoints

    good = known.saved(folder / "good", 1, 2)
    bundles = {step: known.bundle(step) for step in (1, 2)}
    for trial in range(args.trials):
        workdir = folder / "trial"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(good, workdir / "checkpoints")
        what = damage(workdir / "checkpoints" / "2", rng)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                variables, train, _, step = Checkpoints(workdir).restore(known.abstract(*bundles[2]))
            known.same((variables, train), bundles[step])
            yield ("harmless" if step == 2 else "fell back to the step before"), what
        except CheckpointError as error:
            yield SENTENCE, str(error)
        except AssertionError:
            yield WRONG, f"trial {trial}: {what}"


def mutate(cfg, rng):
    """One mistake in a config: -> (its key, its value, the key that was meant)."""
    from vidjax.train import preflight

    names = [name for name in config.keys(cfg) if not name.startswith(("loss.weights", "data.motion"))]
    kind = rng.choice(("key", "key", "value"))
    if kind == "value":
        name = rng.choice([name for name in names if name in preflight.VALUES and name != "eval.protocol"])
        value = rng.choice((-1, "much", None, -0.5, math.nan, [1]))
        with cfg.ignore_type():
            section, last = section_of(cfg, name)
            section[last] = value
        return name, value, name
    name = rng.choice([name for name in names if "motion" not in name])
    section, last = section_of(cfg, name)
    at = rng.randrange(len(last))
    wrong = rng.choice((last[:at] + last[at + 1 :] or "x", last[:at] + last[at] + last[at:], last + "s", last.upper()))
    if wrong == last or wrong in section:
        wrong = last + "_"
    value = section[last]
    with cfg.unlocked():
        del section[last]
        section[wrong] = value
    return name[: -len(last)] + wrong, value, name


def section_of(cfg, name):
    *sections, last = name.split(".")
    for part in sections:
        cfg = cfg[part]
    return cfg, last


def mutated(args, folder, rng):
    """Configs with one mistake: refused before any device is touched, by key, value and the nearest key."""
    from jax._src import xla_bridge

    from vidjax import train

    for _ in range(args.trials):
        cfg = tiny.make_config(folder / "none")
        key, value, meant = mutate(cfg, rng)
        what = f"{key}={value!r} for {meant}"
        try:
            train.train(cfg, str(folder / "run"))
        except ValueError as error:
            text = str(error)
            named = key.split(".")[-1] in text and (key == meant or meant.split(".")[-1] in text)
            early = not xla_bridge._backends and not (folder / "run").exists()
            said = repr(value) in text or isinstance(value, float) and math.isnan(value)
            yield (SENTENCE if named and early and said else "unclear"), f"{what}: {text}"
        except Exception as error:
            yield "unclear", f"{what}: {type(error).__name__} {error}"
        else:
            yield WRONG, what


def disk_full(args, folder, rng):
    """Files that cannot grow, as on a full disk: a sentence, earlier checkpoints intact, the same end afterwards."""
    runs = Runs(folder)
    wanted = runs.reference()
    for trial in range(args.trials):
        workdir, size = runs.new(), int(2 ** rng.uniform(9, 16))
        limit = lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
        quiet = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        (first,) = runs.start(workdir, env=quiet, preexec_fn=limit)
        code = leaves(first)
        (log,) = workdir.glob("output_*.txt")
        last = log.read_text().splitlines()[-1:] or [""]
        again = runs.finish(workdir)
        good = again == [0] and runs.checksums(workdir) == wanted
        clear = code == 0 or code == 1 and last[0].startswith("vidjax train: ")
        outcome = HANG if code is None else WRONG if not good else EQUAL if clear else "unclear"
        yield outcome, f"trial {trial}: {size} bytes, code {code}, {last} in {workdir}"


def poisoned(steps):
    """Makes all that the training step gives NaN at these steps; returns the step as it was."""
    import jax
    import jax.numpy as jnp

    from vidjax import train

    real = train.train_step

    def step(state, batch, net=None, **options):
        new, metrics = real(state, batch, net, **options)
        bad = jnp.isin(state.step + 1, jnp.array(steps))
        spoil = lambda x: jnp.where(bad, jnp.nan, x) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
        return jax.tree.map(spoil, new), {name: spoil(value) for name, value in metrics.items()}

    train.train_step = step
    return real


def nan(args, folder, rng):
    """NaN at step k under each policy: stop says so; skip and rollback end as if batch k had not been."""
    from vidjax import train
    from vidjax.checkpoint import Checkpoints

    runs = Runs(folder)
    for trial in range(args.trials):
        k, policy = rng.randint(1, runs.steps), rng.choice(("stop", "skip", "rollback"))
        what = f"trial {trial}: step {k}, {policy}"
        workdir, plain = str(runs.new()), str(runs.new())
        pathlib.Path(plain, "passed_over.json").write_text(f"[{k}]")
        cfg = config.load(workdir)
        cfg.on_nan = policy
        real = poisoned([k])
        try:
            train.train(cfg, workdir)
            train.train_step = real
            poisoned([99])  # the same program but for a number: another may round otherwise
            cfg = config.load(plain)
            cfg.on_nan = policy
            train.train(cfg, plain)
            same = runs.checksums(workdir) == runs.checksums(plain)
            yield (EQUAL if same and policy != "stop" else WRONG), what
        except train.TrainingError as error:
            step = Checkpoints(workdir, write=False).latest_step() or 0
            good = policy == "stop" and f"step {k} gave loss nan" in str(error) and step == (k - 1) // 2 * 2
            yield (SENTENCE if good else WRONG), f"{what}: {error}"
        finally:
            train.train_step = real
        listed = json.loads(pathlib.Path(workdir, f"nan_{k}.json").read_text())
        if len(listed["videos"]) != cfg.data.batch_size:
            yield WRONG, f"{what}: {listed}"


def peers(args, folder, rng):
    """Kills or stops one of several processes: the others name it within 30 s, and the run goes on from its save."""
    batch = 4 * args.processes
    runs = Runs(folder, steps=100_000, data__batch_size=batch, eval__batch_size=batch)
    for trial in range(args.trials):
        workdir, victim = runs.new(), trial % args.processes
        sign = (signal.SIGKILL, signal.SIGSTOP)[trial // args.processes % 2]
        group = runs.start(workdir, args.processes, ["--config.peers=5"])
        await_steps(workdir, group, rng.choice((1, 3, 5)))
        group[victim].send_signal(sign)
        began = time.monotonic()
        codes = [leaves(process, 30) for process in group if process is not group[victim]]
        took = time.monotonic() - began
        group[victim].kill()
        group[victim].wait()
        sentence = f"vidjax: process {victim}{'' if victim else ' (the coordinator)'} on {platform.node()} was lost: "
        named = output(workdir).count(sentence) == args.processes - 1
        outcome = HANG if None in codes else SENTENCE if named and set(codes) == {76} else WRONG
        yield outcome, f"trial {trial}: {sign.name} to {victim}, {codes} after {took:.1f} s in {workdir}"


def elastic(args, folder, rng):
    """4 -> 2 -> 1 -> 4 processes: the same loss curve; one process of 8 devices and two of 4: the same bits."""
    runs = Runs(folder, steps=8)
    workdir = runs.new()
    steady = ["--config.optim.schedule=constant", "--config.optim.warmup=1"]  # the same rates however many steps
    for processes, until in ((4, 2), (2, 4), (1, 6), (4, 8)):
        words = [f"--config.steps={until}", *steady]
        codes = runs.finish(workdir, processes, words)
        if set(codes) != {0}:
            yield WRONG, f"{processes} processes: {codes} in {workdir}"
    plain = runs.new()
    runs.finish(plain, 1, steady)
    one, other = ([*curve(path).values()] for path in (plain, workdir))
    apart = max(abs(a - b) / a for a, b in zip(one, other, strict=True))
    yield (EQUAL if apart < 1e-3 and len(one) == 8 else WRONG), f"loss curves differ by {apart:.2g} of themselves"
    sums = []
    for processes in (1, 2):
        path, devices = runs.new(), 8 // processes
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        codes = runs.finish(path, processes, ["--config.mesh.data=8"], env=flags)
        if set(codes) != {0}:
            yield WRONG, f"{codes} in {path}"
        sums.append((curve(path), runs.checksums(path)))
    same = sums[0] == sums[1]
    near = all(abs(a - b) < 1e-3 * a for a, b in zip(*(s[0].values() for s in sums), strict=True))
    yield ("the same bits" if same else "equal within 1e-3" if near else WRONG), "8 devices of one process, of two"


def curve(workdir):
    found = map(json.loads, pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in found if "train/loss" in line}


def cache(args, folder, rng):
    """Damages the persistent compilation cache: the run compiles anew, and ends the same."""
    runs = Runs(folder)
    own = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    first = runs.new()
    assert runs.finish(first, env=own) == [0], output(first)
    wanted, whole = runs.checksums(first), {p: p.read_bytes() for p in (folder / "cache").iterdir() if p.is_file()}
    for trial in range(args.trials):
        for path, data in whole.items():
            if rng.random() < 0.5:
                path.write_bytes(data[: rng.randrange(len(data) + 1)])
        workdir = runs.new()
        codes = runs.finish(workdir, env=own)
        good = codes == [0] and runs.checksums(workdir) == wanted
        yield (EQUAL if good else HANG if None in codes else WRONG), f"trial {trial}: {codes} in {workdir}"
        for path, data in whole.items():
            path.write_bytes(data)


def soak(args, folder, rng):
    """A long run: memory and open files do not grow after its first fifth."""
    runs = Runs(folder, steps=args.steps, checkpoint_every=200, log_every=100)
    workdir, seen = runs.new(), []
    (process,) = runs.start(workdir)
    while process.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            step = max(curve(workdir)) if lines(workdir) else 0
            pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            seen.append((step, pages * 4096 / 1e6, len(os.listdir(f"/proc/{process.pid}/fd"))))
        time.sleep(1)
    late = [row for row in seen if args.steps / 5 <= row[0] < args.steps]
    quarter = max(1, len(late) // 4)
    median = lambda rows, column: sorted(row[column] for row in rows)[len(rows) // 2]  # noqa: E731
    (before, after), (few, many) = ((median(late[:quarter], c), median(late[-quarter:], c)) for c in (1, 2))
    good = process.returncode == 0 and after < 1.01 * before and many <= few + 2
    text = f"{args.steps} steps: {before:.1f} -> {after:.1f} MB ({after / before - 1:+.2%}), {few} -> {many} files"
    print(text, flush=True)
    yield (EQUAL if good else WRONG), f"{text}, code {process.returncode} in {workdir}"


SCENARIOS = {
    **{f.__name__: f for f in (kill, sigterm, corrupt, disk_full, nan, peers, elastic, cache, soak)},
    "config": mutated,
}


def run(scenario, trials=1, processes=1, seed=0, steps=10_000, folder=None, said=None):
    """{outcome: how often}, of all trials or of those before Ctrl-C; `said` is told of each."""
    args = argparse.Namespace(trials=trials, processes=processes, steps=steps)
    outcomes = collections.Counter()
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        rng = random.Random(f"{scenario} {seed}")
        for outcome, what in SCENARIOS[scenario](args, pathlib.Path(folder or own), rng):
            outcomes[outcome] += 1
            if said:
                said(outcome, what, outcomes)
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    for name, value in (("trials", 10), ("processes", 1), ("seed", 0), ("steps", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", help="an empty folder that is kept; default: a temporary one")
    args = vars(parser.parse_args())
    defects, began = (WRONG, HANG, "unclear"), time.monotonic()

    def said(outcome, what, outcomes):
        if outcome in defects or args["scenario"] in ("peers", "elastic", "soak"):
            print(f"{outcome}: {what}", flush=True)
        if sum(outcomes.values()) % 25 == 0:
            print(dict(outcomes), flush=True)

    outcomes = run(**args, said=said)
    print(f"{args['scenario']}: {sum(outcomes.values())} trials in {time.monotonic() - began:.0f} s")
    for outcome, count in outcomes.most_common():
        print(f"  {count:6} {outcome}")
    return 1 if any(outcomes[name] for name in defects) else 0


if __name__ == "__main__":
    sys.exit(main())
