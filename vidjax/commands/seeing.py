"""What a net makes of videos: labels, explanations, features; several reports or scores together."""

from vidjax.commandflags import (
    compare_flags,
    explain_flags,
    features_flags,
    fuse_flags,
    of_step,
    predict_flags,
    process_flags,
    search_flags,
    series_flags,
    split_flag,
    step_flag,
    stream_flag,
    top_flag,
    weights_flags,
)
from vidjax.commandline import UsageError, join, parse, take, workdir_flag


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
    if not (paths or values.list) or bool(values.weights) == bool(values.workdir):
        raise UsageError(
            "give a video file or a folder, and a run or weights: vidjax predict FILE_OR_FOLDER --workdir=DIR."
        )
    from vidjax.predict import command, files

    found = () if values.stream else files.find(paths, values.list)
    predictor = predictor_of(values)
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
    if not paths or bool(values.weights) == bool(values.workdir):
        raise UsageError("give a video and a run or weights: vidjax explain VIDEO --workdir=DIR.")
    from vidjax.explain import command
    from vidjax.predict import files

    found = files.find(paths)
    return 1 if command.run(predictor_of(values), found, values) else 0


def predictor_of(values):
    """The predictor that --weights or --workdir name; UsageError for a net without classes."""
    from vidjax import loading

    weights = values.weights or values.workdir
    predictor = loading.predictor(weights, values["from"].value, values.classes, values.step)
    if not predictor.class_names:
        raise UsageError(f"{weights} holds a net without classes: fine-tune it with configs/finetune.py.")
    return predictor


def features(argv):
    """Write a net's features of videos: activations of any layers, a row a window or a video, and a manifest.

    vidjax features my_folder "clips/*.mp4" --weights=runs/r3d --out=features
    vidjax features my_folder --weights=r3d_18.pth --layer=layer3,pre_logits --format=parquet --out=features
    vidjax features --workdir=runs/r3d --config.data.path=MY_FOLDER --split=train --out=features
    vidjax features --workdir=runs/r3d --config.data.path=MY_FOLDER --split=train --windows --out=features

    Of files, folders and patterns a row for each window of `vidjax predict`, OUT/videos.*; of a data set a row for each
    video, the mean over the views of `vidjax eval`, OUT/SPLIT.*. Activations with times, places or tokens are averaged
    over these. The .json beside it says which weights, layers, data and views they are of, and seals the files. A
    video that cannot be read is named and left out; exit code 1 then. `vidjax search` finds what is near in them.
    """
    values, paths = features_asked(argv)
    from vidjax import features as owner
    from vidjax.features import command

    name, weights = (command.NAME if paths else values.split), values.weights or values.workdir
    if not paths and not values.windows:
        how = {"split": values.split, "step": values.step, "form": values.format, "raw": values.raw}
        written = owner.write(values.config, weights, values.out, values.layer, **how)
        return 1 if command.tell(written, values.out, name) else 0
    from vidjax import loading
    from vidjax.predict import files

    found = files.find(paths)
    predictor = loading.predictor(weights, values["from"].value, values.classes, values.step)
    if paths:
        written = command.of_files(predictor, found, paths, values)
    else:
        written = command.of_data(predictor, values.config, values)
    return 1 if command.tell(written, values.out, name) else 0


def features_asked(argv):
    """The flags and words of `vidjax features`, once they make sense together; joins the processes of several."""
    weights, workdir, helped = take(argv, "weights")[0], take(argv, "workdir")[0], {"--help", "-h", "-help"} & set(argv)
    if not (weights or workdir or helped):
        raise UsageError("give videos and weights, or a run and its data: vidjax features --help shows both.")
    join(argv)
    define = [process_flags, step_flag, split_flag, weights_flags, features_flags, *([workdir_flag] if weights else ())]
    values, paths = parse(features, argv, define, None if weights else of_step(argv))
    changed = [word for word in argv if word.lstrip("-").startswith("config.")]
    which = tuple(f"config.data.{key}" for key in ("source", "path", "split", "eval_", "motion", "group", "folds"))
    if not values.out:
        raise UsageError("give a folder for the features: --out=FOLDER.")
    if weights and (workdir or not paths):
        raise UsageError("give videos with --weights, such as vidjax features FOLDER --weights=RUN --out=FOLDER.")
    if lost := [w for w in changed if paths or (values.windows and not w.lstrip("-").startswith(which))]:
        raise UsageError(f"{lost[0]} is not heeded: windows are prepared as the checkpoint was trained; leave it out.")
    if values.coordinator and (paths or values.windows):
        raise UsageError("windows are computed by one process: leave --coordinator out.")
    return values, paths


def search(argv):
    """Find the windows of an index of `vidjax features` that are nearest to those of a video.

    vidjax search my_video.mp4 features
    vidjax search my_video.mp4 another.mp4 features --top=20 --per_video --out=found.html
    vidjax search my_video.mp4 features/train.json --metric=l2 --json=found.jsonl

    The last word is the index: a folder, or one set's .json in it. Its own net, found by the manifest, sees the query
    as it saw the index; --weights names it where it lies elsewhere. Each row comes once, by the query's window that is
    nearest. A query that cannot be read is named and skipped; exit code 1 then.
    """
    values, words = parse(search, argv, [workdir_flag, step_flag, weights_flags, search_flags])
    if len(words) < 2:
        raise UsageError("give a video and an index: vidjax search QUERY.mp4 FOLDER.")
    from vidjax.features import search as owner
    from vidjax.features import shown
    from vidjax.predict import files

    found = files.find(words[:-1])
    index = owner.load(words[-1], values.layer, values.metric, values.approximate)
    weights = values.weights or values.workdir
    net = owner.predictor(index, weights, values["from"].value, values.classes, values.step)
    return 1 if shown.run(index, net, list(found), values) else 0


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
