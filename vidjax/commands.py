"""The commands of `vidjax`: each turns its flags into a call of the function that owns it."""

import functools
import os
import shlex
import sys

from vidjax import goodput
from vidjax.commandflags import (
    compare_flags,
    convert_flags,
    eval_flags,
    explain_flags,
    export_flags,
    features_flags,
    from_fit,
    from_run,
    fuse_flags,
    of_split,
    of_step,
    plan_flags,
    predict_flags,
    process_flags,
    series_flags,
    split_flag,
    splits_flag,
    step_flag,
    stream_flag,
    top_flag,
    weights_flags,
)
from vidjax.commandline import UsageError, choose, complete, join, parse, take, workdir_flag

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


def predict(argv):
    """Label videos: print the most probable classes, whole and per window of time, and write them down.

    vidjax predict my_video.mp4 my_folder "clips/*.avi" --weights=runs/quickstart --top=3
    vidjax predict my_video.mp4 --weights=r3d_18.pth --from=torchvision:r3d_18 --srt=. --video=labelled
    vidjax predict my_folder --weights=runs/quickstart --stride=0.5s --json=labels.jsonl --csv=labels.csv
    vidjax predict my_video.mp4 --weights=runs/movinet_a0_stream --stream

    Prepares pixels as the checkpoint was trained. Neighbouring windows with the same best class, each of at least
    --threshold, are one segment; a moment belongs to the window whose middle is nearest. A file that cannot be read is
    named and skipped; exit code 1 then. --stream takes frames as they come: of a file at its own pace, a camera (0), a
    URL such as rtsp://host/path, or standard input (-).
    """
    values, paths = parse(predict, argv, [workdir_flag, step_flag, top_flag, stream_flag, weights_flags, predict_flags])
    weights = values.weights or values.workdir
    if not (paths or values.list) or not weights or (values.weights and values.workdir):
        raise UsageError(
            "give a video file or a folder, and a run or weights: vidjax predict FILE_OR_FOLDER --workdir=DIR."
        )
    from vidjax import loading
    from vidjax.predict import command, files

    found = () if values.stream else files.find(paths, values.list)
    predictor = loading.predictor(weights, values["from"].value, values.classes, values.step)
    if not predictor.class_names:
        raise UsageError(f"{weights} holds a net without classes: fine-tune it with configs/finetune.py.")
    if values.stream:
        from vidjax.predict import live

        return live.run(predictor, paths, values)
    return 1 if command.run(predictor, found, values) else 0


def explain(argv):
    """Show what in a video counted for a class: a map over its pixels, as a clip, a filmstrip and arrays.

    vidjax explain my_video.mp4 --workdir=runs/quickstart
    vidjax explain my_video.mp4 my_folder --weights=runs/quickstart --method=shap --class=left --out=explained

    Red spoke for the class, blue against it. Writes OUT/NAME_METHOD.mp4, .png and .npz of the window where the class
    (by default the best) scores highest, or of --window. A file that cannot be read is named and skipped; exit code 1.
    """
    values, paths = parse(explain, argv, [workdir_flag, step_flag, weights_flags, explain_flags])
    weights = values.weights or values.workdir
    if not paths or not weights or (values.weights and values.workdir):
        raise UsageError("give a video and a run or weights: vidjax explain VIDEO --workdir=DIR.")
    from vidjax import loading
    from vidjax.explain import command
    from vidjax.predict import files

    predictor = loading.predictor(weights, values["from"].value, values.classes, values.step)
    return 1 if command.run(predictor, files.find(paths), values) else 0


def convert(argv):
    """Turn a checkpoint of another library into a run that `vidjax predict` and `vidjax eval` take.

    vidjax convert --from=keras_lrcn:hac_convlstm31 hac_convlstm31.h5 --to=runs/ucf50
    vidjax convert --from=torchvision:r3d_18 r3d_18.pth --to=runs/r3d --classes=kinetics400.txt

    Reads .npz, .safetensors, .pt, .pth and Keras .h5, and runs no code from them. The preprocessing that the weights
    expect travels along; class names come from FILE, one on a line, or from where the weights are known.
    """
    values, paths = parse(convert, argv, [convert_flags])
    if len(paths) != 1 or not values.to:
        raise UsageError("give one file of weights and a folder: vidjax convert --from=SOURCE:ARCH FILE --to=DIR.")
    from vidjax.convert import converted as owner

    source, arch = owner.reference_of(values["from"].value)
    meta = owner.write(source, arch, paths[0], values.to, values.classes)
    model, count = meta["config"]["model"], len(meta["class_names"])
    print(f"model    {model['name']} {model['variant']} of {count} classes, in {values.to}")
    print(f"try      vidjax predict MY_VIDEO.mp4 --workdir={shlex.quote(values.to)}")
    return 0


def export(argv):
    """Write a run's weights as another library's file, which that library loads strictly.

    vidjax export --as=torchvision:r3d_18 --workdir=runs/r3d r3d_18.safetensors

    The file holds tensors by the other library's names, as safetensors: no code, and its order of axes.
    """
    values, paths = parse(export, argv, [workdir_flag, step_flag, export_flags])
    if len(paths) != 1 or not values.workdir or not values["as"].value:
        raise UsageError("give a run, a net and a new file: vidjax export --workdir=DIR --as=SOURCE:ARCH FILE.")
    from vidjax.convert import converted
    from vidjax.convert import export as owner

    source, arch = converted.reference_of(values["as"].value, "--as")
    count = owner.write(source, arch, values.workdir, paths[0], values.step)
    print(f"wrote    {paths[0]}, {count} tensors by {source}'s names")
    return 0


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


def features(argv):
    """Write a net's features of a data set: an activation of every video, averaged over its views, and a manifest.

    vidjax features --workdir=runs/r3d --config.data.path=MY_FOLDER --split=train --out=features
    vidjax features --workdir=runs/r3d --layer=layer3 --split=eval --out=features

    Writes OUT/SPLIT.npz (features, labels, ids) and OUT/SPLIT.json: which run, step, layer, data and views they are of.
    """
    join(argv)
    values, _ = parse(features, argv, [process_flags, step_flag, split_flag, features_flags], of_step(argv))
    if not values.out:
        raise UsageError("give a folder for the features: vidjax features --workdir=DIR --out=FOLDER.")
    from vidjax import features as owner

    written = owner.write(values.config, values.workdir, values.out, values.layer, values.split, values.step)
    count, width = written["shape"]
    print(f"wrote    {os.path.join(values.out, values.split)}.npz, {count} videos x {width} of {values.layer}")
    if written["unreadable"]:
        print(f"left out {len(written['unreadable'])} videos that cannot be read; the .json beside it names them")
    return 0


def fuse(argv):
    """Fuse several models' scores of the same videos: their average, weighted, or a linear classifier on them.

    vidjax fuse runs/spatial runs/temporal --weights=1,1.5
    vidjax fuse runs/spatial runs/temporal --svm --out=runs/fused

    Each is a workdir with scores of vidjax eval, or a scores_*.npz. --svm fits on the scores of the training videos,
    which vidjax eval --split=train makes.
    """
    values, paths = parse(fuse, argv, [fuse_flags])
    from vidjax import fuse as owner

    try:
        weights = [float(w) for w in values.weights.split(",")] if values.weights else ()
    except ValueError:
        raise UsageError(f"--weights is a list of numbers such as 1,1.5, not {values.weights!r}.") from None
    result = owner.fuse(paths, weights=weights, svm=values.svm)
    print(owner.describe(result, paths))
    if values.out:
        owner.save(result, values.out, paths, "svm" if values.svm else f"average by {weights or 'equal weights'}")
    return 0


def compare(argv):
    """Put evaluation reports side by side: figures with intervals, gains and losses per class, McNemar's exact test.

    vidjax compare runs/a runs/b
    vidjax compare runs/a/report_300.json runs/a/report_600.json runs/b --out=compared.html

    Each is a workdir with a report of vidjax eval, the newest is taken, or a report_*.json; each is held against the
    first. --out writes a page to look at, --json every number.
    """
    values, paths = parse(compare, argv, [compare_flags])
    if len(paths) < 2:
        raise UsageError("give two reports at least: vidjax compare WORKDIR_OR_REPORT WORKDIR_OR_REPORT.")
    from vidjax import compare as owner
    from vidjax.compare import shown

    found = owner.compare(paths)
    print(shown.describe(found))
    shown.save(found, values.out, values["json"].value)
    for path in filter(None, (values.out, values["json"].value)):
        print(f"wrote    {path}")
    return 0


def series(argv):
    """Foretell the next row of a series of numbers with an LSTM, trained on its first 80 %.

    vidjax series numbers.csv --window=20 --epochs=100

    Prints the mean squared error on the last 20 %, beside that of foretelling no change.
    """
    values, paths = parse(series, argv, [series_flags])
    if len(paths) != 1:
        raise UsageError("give one CSV file of numbers, a row per step: vidjax series FILE.csv.")
    from vidjax import series as owner

    _, report = owner.fit(owner.read(paths[0]), window=values.window, epochs=values.epochs)
    print(
        f"mean squared error {report['mse']:.6g} on {report['tested']} windows (no change: {report['last_value']:.6g})"
    )
    return 0


def models(argv):
    """List the architectures with their parameters and multiply-adds (GMAC) per view.

    vidjax models
    vidjax models i3d c3d
    """
    _, wanted = parse(models, argv)
    from vidjax import models as owner

    row = "{:<18} {:<24} {:>6} {:>5} {:>12} {:>10}  {}".format
    print(row("model", "variant", "frames", "size", "parameters", "GMAC/view", "paper"))
    for name in wanted:
        owner.family(name)
    for x in owner.table(wanted):
        gmac, params = f"{x['gmac']:.3f}", f"{x['params']:,}"
        print(row(x["name"], x["variant"], x["frames"], x["size"], params, gmac, x["paper"]), flush=True)
    return 0


def data(argv):
    """Make, build, check and time data sets.

    vidjax data motion|index|build|check|flow|bench --help
    """
    from vidjax import data_main

    return choose("vidjax data", data_main.COMMANDS, argv)


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


COMMANDS = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "explain": explain,
    "convert": convert,
    "export": export,
    "fit": fit,
    "features": features,
    "fuse": fuse,
    "compare": compare,
    "series": series,
    "models": models,
    "data": data,
    "plan": plan,
}


def tell(report):
    """Prints a report's headline, and where its page is."""
    from vidjax.evaluate import results

    print(f"result   {results.headline(report)} at step {report['step']}")
    print(f"report   {report['page']}")
