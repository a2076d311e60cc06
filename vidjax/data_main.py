"""`vidjax data COMMAND`: make, build, check and time data sets. Each command calls the function that owns it."""

import functools

from absl import flags

from vidjax.commandline import UsageError, parse


def motion(argv):
    """Render the motion suite: eight classes that only motion tells apart.

    vidjax data motion --out=data/motion
    vidjax data motion --suite=correspondence --out=data/correspondence

    The suite correspondence asks which of two shapes moves how, order in what order a shape changes its form.
    """
    values, _ = parse(motion, argv, [out_flag, suite_flag])
    need(values, "out")
    from vidjax import logs
    from vidjax.data import motion as owner

    with logs.counter("rendering") as progress:
        owner.render(values.out, suite=values.suite, progress=progress)
    print(f"the suite {values.suite} is in {values.out}")
    return 0


def index(argv):
    """Probe every video of a folder or CSV file, say what is there, and keep it for training.

    vidjax data index MY_FOLDER
    """
    _, words = parse(index, argv)
    from vidjax import logs
    from vidjax.data import index as owner
    from vidjax.data import sources

    with logs.counter("probing") as progress:
        rows = sources.probe(one(words, "vidjax data index PATH"), progress=progress)
    print(owner.summary(rows))
    return 1 if any(row["error"] for row in rows) else 0


def build(argv):
    """Build a data set from its official files: videos or frames in ArrayRecord shards.

    vidjax data build --dataset=ucf101 --source=DOWNLOADS --out=data/ucf101
    vidjax data build --dataset=kinetics400 --source=DIR --out=data/k400 --short_side=256 --workers=16
    vidjax data build --dataset=folder --source=MY_FOLDER --out=data/mine --store=frames --short_side=128
    vidjax data build --dataset=kinetics400 --source=DIR --out=DIR --runner=DataflowRunner -- --project=...

    With --short_side the videos are encoded anew, as H.264 with a keyframe every 12 frames: quick to read anywhere.
    Start it again after a kill: finished shards are kept. Train on it with --config.data.path=OUT. Flags after -- are
    Apache Beam's. Exit code 1 if a video could not be read; manifest.json names each.
    """
    words, beam = split_off(argv)
    values, _ = parse(build, words, [out_flag, build_flags, work_flags])
    need(values, "dataset", "source", "out")
    from vidjax import logs
    from vidjax.data import build as owner
    from vidjax.data import builders

    listing = builders.listing(values.dataset, values.source)
    print(builders.report(listing), flush=True)
    keys = ("short_side", "store", "pixels", "shard_videos", "frame_stride", "workers", "runner")
    options = {key: getattr(values, key) for key in keys}
    with logs.counter("building") as progress:
        manifest = owner.build(listing, values.out, options=beam, progress=progress, **options)
    stored, unreadable = manifest["counts"]["stored"], manifest["unreadable"]
    print(f"{stored:,} videos in {len(manifest['shards'])} shards, {size(manifest)}: {values.out}")
    name_unreadable({row["id"]: row["error"] for row in unreadable}, values.out)
    print(f"train on it with --config.data.path={values.out}")
    return 1 if unreadable else 0


def check(argv):
    """Decode every video of a folder, a CSV file or a built data set; list broken, short and odd ones.

    vidjax data check MY_FOLDER --workers=8 --csv=broken.csv

    Exit code 1 if a video is broken or short.
    """
    values, words = parse(check, argv, [csv_flag, work_flags])
    from vidjax import logs
    from vidjax.data import check as owner

    with logs.counter("checking") as progress:
        rows = owner.check(one(words, "vidjax data check PATH"), workers=values.workers, progress=progress)
    print(owner.summary(rows))
    if values.csv:
        owner.write_csv(rows, values.csv)
    return 1 if any(row["verdict"] in ("broken", "short") for row in rows) else 0


def flow(argv):
    """Compute the optical flow of every video once, and store it with a manifest of how it was made.

    vidjax data flow MY_FOLDER --out=data/mine_flow --method=tvl1 --short_side=256
    vidjax data flow data/ucf101 --out=data/ucf101_flow --method=dis --workers=16

    Methods on the host: dis, farneback; on the accelerator, or on CPU by XLA: tvl1, farneback_jax, horn_schunck. Train
    with --config.data.flow.source=stored --config.data.flow.path=OUT. Started again after a kill it goes on.
    """
    words, beam = split_off(argv)
    values, words = parse(flow, words, [out_flag, flow_flags, work_flags])
    need(values, "out")
    from vidjax import logs
    from vidjax.data import flow_store, sources

    path = one(words, "vidjax data flow PATH --out=DIR")
    with logs.counter("probing") as progress:
        records = sources.everything(path, values.dataset or "auto", progress)
    options = {key: getattr(values, key) for key in ("bound", "encoding", "short_side", "workers", "runner")}
    with logs.counter("computing flow", unit="shards") as progress:
        made = estimator(values.method)
        manifest = flow_store.build(records, values.out, made, progress=progress, options=beam, **options)
    print(f"{manifest['fields']:,} fields of {manifest['videos']:,} videos, {size(manifest)}: {values.out}")
    name_unreadable(manifest["unreadable"], values.out)
    print(f"train on it with --config.data.flow.source=stored --config.data.flow.path={values.out}")
    return 1 if manifest["unreadable"] else 0


def bench(argv):
    """Time the input of a config: ms a clip of each stage, clips/s, and the steps/s they feed.

    vidjax data bench --config=configs/quickstart.py --workers=0,1,2 --seconds=10
    """
    from vidjax import config

    values, _ = parse(bench, argv, [bench_flags], lambda file, _: config.from_file(file), workdir=False)
    from vidjax import bench as owner

    workers = [int(n) for n in values.workers]
    print(owner.table(owner.input_bench(values.config, workers=workers, seconds=values.seconds)))
    return 0


COMMANDS = {"motion": motion, "index": index, "build": build, "check": check, "flow": flow, "bench": bench}


def need(values, *names):
    """Raises UsageError for a flag that is lacking."""
    for name in names:
        if not getattr(values, name):
            raise UsageError(f"--{name} is missing; see --help for an example.")


def one(words, example):
    """The only word of a command line besides its flags."""
    if len(words) != 1:
        raise UsageError(f"say `{example}`.")
    return words[0]


def split_off(argv):
    """The words before `--` and those after it."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def estimator(method):
    """A picklable flow function of one of the methods: of OpenCV's, or of those in JAX."""
    from vidjax.data import flow as host

    if method in host.METHODS:
        return host.estimator(method)
    from vidjax import flow as device
    from vidjax.flow.host import flow

    method = method.removesuffix("_jax")
    return functools.partial(flow, method=method, **device.options_of(method))  # the manifest names them all


def size(manifest):
    """The bytes of a manifest's shards, for people."""
    return f"{sum(shard['bytes'] for shard in manifest['shards']) / 2**20:,.1f} MiB"


def name_unreadable(errors, out):
    """Prints the first of some unreadable videos, and where all are listed."""
    for name, error in list(errors.items())[:20]:
        print(f"unreadable {name}: {error}")
    if errors:
        print(f"{len(errors)} unreadable in all, listed in {out}/manifest.json")


def suite_flag(values):
    text = "motion, correspondence or order; default motion"
    flags.DEFINE_enum("suite", "motion", ["motion", "correspondence", "order"], text, flag_values=values)


def out_flag(values):
    flags.DEFINE_string("out", "", "the folder to write", flag_values=values)


def csv_flag(values):
    flags.DEFINE_string("csv", "", "a file to write the list to", flag_values=values)


def build_flags(values):
    names = "the data set's name, such as ucf101, kinetics400 or folder"
    flags.DEFINE_string("dataset", "", names, flag_values=values)
    flags.DEFINE_string("source", "", "the folder with its official files and videos", flag_values=values)
    flags.DEFINE_integer("short_side", 0, "pixels; 0 keeps the videos' own bytes", flag_values=values)
    flags.DEFINE_enum("store", "video", ["video", "frames"], "what a shard holds", flag_values=values)
    flags.DEFINE_enum("pixels", "rgb", ["rgb", "yuv420"], "of packed frames", flag_values=values)
    flags.DEFINE_integer("frame_stride", 1, "packed frames: every how many-th is kept", flag_values=values)
    flags.DEFINE_integer("shard_videos", 0, "videos in a shard; 0: by the data set's size", flag_values=values)


def flow_flags(values):
    flags.DEFINE_string("method", "dis", "dis, farneback, tvl1, farneback_jax or horn_schunck", flag_values=values)
    flags.DEFINE_string("dataset", "", "of official files: the data set's name", flag_values=values)
    flags.DEFINE_float("bound", 20.0, "pixels per frame at which flow is clipped", flag_values=values)
    flags.DEFINE_enum("encoding", "png", ["png", "jpeg", "video"], "how fields are stored", flag_values=values)
    flags.DEFINE_integer(
        "short_side", 0, "pixels of the pictures it is computed on; 0: as they are", flag_values=values
    )


def work_flags(values):
    flags.DEFINE_integer("workers", 0, "processes; 0: this one", flag_values=values)
    flags.DEFINE_string("runner", "", "an Apache Beam runner, such as direct", flag_values=values)


def bench_flags(values):
    flags.DEFINE_list("workers", ["0", "1", "2"], "worker processes to try", flag_values=values)
    flags.DEFINE_float("seconds", 10.0, "how long to time each", flag_values=values)
