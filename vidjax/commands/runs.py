"""Training, evaluation and what else makes or continues a run."""

import functools
import os
import shlex
import sys

from vidjax import goodput
from vidjax.commandflags import (
    eval_flags,
    from_fit,
    from_run,
    of_split,
    of_step,
    plan_flags,
    process_flags,
    split_flag,
    splits_flag,
    step_flag,
)
from vidjax.commandline import UsageError, complete, join, parse, take

EXIT_STOPPED = 75  # a signal stopped training after its state was saved: start the same command again


def train(argv):
    """Train a model on video files, or continue a run where it stopped.

    vidjax train --config=configs/quickstart.py --workdir=runs/quickstart
    vidjax train --workdir=runs/quickstart
    vidjax train --config=configs/quickstart.py --config.data.path=MY_FOLDER --workdir=runs/mine
    vidjax train --config=CONFIG.py --splits=1,2,3 --workdir=runs/three

    The second form continues the first. MY_FOLDER holds a folder of videos per class, or is a CSV file with the
    columns path,label. SIGTERM or Ctrl-C saves, then exits with code 75; the same command continues. --splits trains
    one run per split of the data set, in split_<name>/, and ends with their mean.
    """
    join(argv)
    init_from, _ = take(argv, "config.init_from")
    load = functools.partial(from_run, init_from=init_from)
    values, _ = parse(train, argv, [process_flags, splits_flag], load)
    from vidjax import splits
    from vidjax import train as owner

    file, _ = take(argv, "config")
    recipe = {"recipe": file, "config": complete(load(file, None)).to_dict()} if file else None
    if values.splits:
        each = functools.partial(owner.train, recipe=recipe)
        summary = splits.run(each, values.config, values.workdir, splits.parse(values.splits))
        print(f"result   {splits.headline(summary)}" if summary else "stopped")
        return 0 if summary else EXIT_STOPPED
    report = owner.train(values.config, values.workdir, goodput.process_start(), recipe)
    if report is None:
        return EXIT_STOPPED
    if "page" in report:
        tell(report)
        print(f"try      vidjax predict {shlex.quote(report['example'])} --workdir={shlex.quote(values.workdir)}")
    return 0


def evaluate(argv):
    """Evaluate checkpoints of a run, digit for digit as training does, and write their reports.

    vidjax eval --workdir=runs/quickstart
    vidjax eval --workdir=runs/quickstart --step=250 --protocol=own,slowfast_10x3
    vidjax eval --workdir=runs/quickstart --watch
    vidjax eval --weights=runs/r3d --data=MY_FOLDER --data=hmdb51=/data/hmdb51 --out=reports
    vidjax eval --workdir=runs/quickstart --split=train
    vidjax eval --workdir=runs/three --splits=1,2,3 --protocol=two_stream_25x10

    --watch runs beside training, on any devices: each new checkpoint is evaluated once, until training's last step; the
    best is marked in best.json. --split=train scores the training videos, as `vidjax fuse --svm` needs them; --splits
    evaluates the runs of `vidjax train --splits`, then says mean and spread. SIGTERM or Ctrl-C ends after a batch with
    code 75; the same command goes on without repeating finished videos.
    """
    join(argv)
    argv = with_weights(argv)
    workdir, _ = take(argv, "workdir")
    if workdir and os.path.exists(os.path.join(workdir, "classifier.npz")):
        values, _ = parse(evaluate, argv, [process_flags, step_flag, split_flag], from_fit)
        from vidjax import fit as fits

        tell(fits.run(values.config, values.workdir))
        return 0
    if watches(argv) and workdir:
        from vidjax.evaluate import jobs

        jobs.await_first(workdir, take(argv, "timeout")[0])
    load = of_split(argv) if take(argv, "splits")[0] else of_step(argv)
    values, _ = parse(evaluate, argv, [process_flags, step_flag, split_flag, eval_flags, splits_flag], load)
    from vidjax.evaluate import jobs, over_splits
    from vidjax.evaluate.errors import Stopped
    from vidjax.train import ends

    try:
        with ends.Stop() as stop:
            made = over_splits if values.splits else jobs
            for report in made.run(values, stop.asked):
                if "page" in report:
                    tell(report)
        for line in over_splits.summaries(values) if values.splits else ():
            print(f"result   {line}")
    except Stopped as error:
        print(f"vidjax eval: stopped by a signal: {error}; the same command goes on", file=sys.stderr)
        return EXIT_STOPPED
    return 0


def watches(argv):
    """Whether the words have --watch."""
    return bool({"--watch", "-watch", "--watch=true"} & set(argv))


def with_weights(argv):
    """The words with --weights=DIR, a folder of weights without a training, as the --workdir that it can be read as.

    A step's own folder, DIR/checkpoints/STEP, stands for that step of DIR.
    """
    folder, rest = take(argv, "weights")
    if not folder:
        return argv
    if os.path.isfile(folder):
        raise UsageError(
            f"{folder} is a file: vidjax convert --from=SOURCE:ARCH {folder} --to=DIR makes such a folder."
        )
    if watches(argv) or take(argv, "workdir")[0]:
        raise UsageError("--weights=DIR is of weights that no training changes: leave --workdir and --watch out.")
    head, step = os.path.split(os.path.normpath(folder))
    if step.isdecimal() and os.path.basename(head) == "checkpoints":
        folder, rest = os.path.dirname(head) or ".", [*rest, f"--step={step}"]
    return [*rest, f"--workdir={folder}"]


def fit(argv):
    """Fit a linear classifier on features of whole videos: improved dense trajectories, or a net's activations.

    vidjax fit --config=configs/idt_ut_interaction.py --workdir=runs/idt
    vidjax fit --config=configs/idt_ut_interaction.py --splits=1-20 --workdir=runs/idt

    Writes what was fitted and the reports that nets get; `vidjax eval --workdir=DIR` evaluates it again.
    """
    values, _ = parse(fit, argv, [splits_flag], from_fit)
    from vidjax import fit as owner
    from vidjax import splits

    if values.splits:
        summary = splits.run(owner.fit, values.config, values.workdir, splits.parse(values.splits))
        print(f"result   {splits.headline(summary)}")
    else:
        tell(owner.fit(values.config, values.workdir))
    return 0


def plan(argv):
    """Compile a config's training step for chips that are not here: memory, collectives, predicted scaling.

    vidjax plan --config=configs/i3d_rgb_kinetics400.py --topology=v5e:4x4 --per_chip=8
    vidjax plan --config=configs/quickstart.py --topology=cpu:8 --classes=8

    TOPOLOGY is v5e:4x4, v5p:2x2x4, v6e:4x4, h200:8 or cpu:8. Reads no data. TPUs are compiled for with libtpu (extra
    plan-tpu), GPUs with JAX's CUDA plugin (extra plan-gpu), both without the chips; where these are not installed the
    CPU's compiler stands in, and the output says what of it not to believe. Exit code 1 if the step does not fit.
    """
    file = functools.partial(from_run, init_from=take(argv, "config.init_from")[0])
    values, _ = parse(plan, argv, [plan_flags], file, workdir=False)
    if not values.topology:
        raise UsageError("give --topology=CHIP:SHAPE, such as v5e:4x4, h200:8 or cpu:8.")
    from vidjax import plan as owner

    options = {"classes": values.classes, "per_chip": values.per_chip, "seconds": values.seconds, "fix": values.fix}
    options["compile"] = values.compile
    found = owner.plan(values.config, values.topology, **options)
    print(owner.table(found))
    return 0 if found["fits"] or not values.compile else 1


def tell(report):
    """Prints a report's headline, and where its page is."""
    from vidjax.evaluate import results

    print(f"result   {results.headline(report)} at step {report['step']}")
    print(f"report   {report['page']}")
