"""Flags of the commands, and where the config comes from that others change."""

import functools
import os

from absl import flags

from vidjax import config
from vidjax.commandline import UsageError, take


def step_flag(values):
    flags.DEFINE_integer("step", None, "the checkpoint's step; default: the newest", flag_values=values)


def splits_flag(values):
    text = "splits of the data set to run one after another, such as 1,2,3 or 1-10; default: config.data.split alone"
    flags.DEFINE_string("splits", "", text, flag_values=values)


def series_flags(values):
    flags.DEFINE_integer("window", 20, "rows that the LSTM sees; default 20", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("epochs", 100, "passes over the training part; default 100", lower_bound=1, flag_values=values)


def split_flag(values):
    text = "which videos: eval, or train; default eval"
    flags.DEFINE_enum("split", "eval", ["eval", "train"], text, flag_values=values)


def eval_flags(values):
    flags.DEFINE_string("weights", None, "a folder of weights, as of vidjax convert, or a step's", flag_values=values)
    flags.DEFINE_boolean("all", False, "every checkpoint that has no report yet", flag_values=values)
    flags.DEFINE_boolean("watch", False, "beside training: each checkpoint as it comes", flag_values=values)
    text = "with --watch: seconds without a new checkpoint after which to give up; default 21600"
    flags.DEFINE_float("timeout", 21600.0, text, lower_bound=0, flag_values=values)
    text = "test protocols, such as own,slowfast_10x3; own: the views of the config; default: config.eval.protocol"
    flags.DEFINE_list("protocol", [], text, flag_values=values)
    text = "another data set, PATH or NAME=PATH, as often as you like; own is the run's, the default"
    flags.DEFINE_multi_string("data", [], text, flag_values=values)
    flags.DEFINE_string("out", "", "the reports' folder; default: the run's", flag_values=values)


def fuse_flags(values):
    flags.DEFINE_string("weights", "", "one number per model, such as 1,1.5; default: equal", flag_values=values)
    flags.DEFINE_boolean("svm", False, "fit a linear classifier on the training scores instead", flag_values=values)
    flags.DEFINE_string("out", "", "a folder for the fused scores and their figures", flag_values=values)


def compare_flags(values):
    flags.DEFINE_string("out", "", "a new HTML page of the comparison", flag_values=values)
    flags.DEFINE_string("json", "", "a new JSON file of every number of it", flag_values=values)


def features_flags(values):
    text = "activations by name, such as layer3,pre_logits; a wrong name is told the right ones; default pre_logits"
    flags.DEFINE_list("layer", ["pre_logits"], text, flag_values=values)
    flags.DEFINE_string("out", "", "a folder for the features and their manifest", flag_values=values)
    text = "npz (default; all rows are held in memory), parquet or array_record (written as they come)"
    flags.DEFINE_string("format", "npz", text, flag_values=values)
    text = "of a data set: a row for each window of time, as of plain videos, in place of one for each video"
    flags.DEFINE_boolean("windows", False, text, flag_values=values)
    text = "keep times, places and tokens of a layer: (t, h, w, C) in place of their mean (C,)"
    flags.DEFINE_boolean("raw", False, text, flag_values=values)
    windows_flags(values)


def search_flags(values):
    flags.DEFINE_integer("top", 10, "how many neighbours; default 10", lower_bound=1, flag_values=values)
    text = "the index's layer; default: the first that was written"
    flags.DEFINE_string("layer", "", text, flag_values=values)
    flags.DEFINE_enum("metric", "cosine", ["cosine", "l2"], "cosine (default), or l2: distance", flag_values=values)
    flags.DEFINE_boolean("per_video", False, "the nearest window of each video alone", flag_values=values)
    text = "the query's own windows too, where the index has them; default: left out"
    flags.DEFINE_boolean("self", False, text, flag_values=values)
    text = "look through the nearest lists of rows alone (IVF), kept in the index's folder: for millions; not exact"
    flags.DEFINE_boolean("approximate", False, text, flag_values=values)
    flags.DEFINE_string("json", "", "a new file of JSON lines, one a query", flag_values=values)
    flags.DEFINE_string("out", "", "a new HTML page with pictures of the query and its neighbours", flag_values=values)
    windows_flags(values)


def windows_flags(values):
    text = "from one window's beginning to the next: 0.5s (seconds) or 8f (frames); default: where one ends"
    flags.DEFINE_string("stride", "", text, flag_values=values)
    text = "how long a window is, as --stride, for a net that sees frames of a whole video; default: the whole video"
    flags.DEFINE_string("window", "", text, flag_values=values)
    text = "videos that are decoded at the same time; default 4"
    flags.DEFINE_integer("threads", 4, text, lower_bound=1, flag_values=values)


def top_flag(values):
    flags.DEFINE_integer("top", 5, "how many classes to print; default 5", lower_bound=1, flag_values=values)


def stream_flag(values):
    """Flags of `vidjax predict --stream`; `vidjax.predict.live.Options` says what they are."""
    text = "frames as they come, of a camera's number, a URL, a file at its own pace, or - for standard input"
    flags.DEFINE_boolean("stream", False, text, flag_values=values)
    text = "the standard input has RGB frames, WIDTHxHEIGHT@FPS such as 640x480@25; default: JPEG pictures"
    flags.DEFINE_string("raw", "", text, flag_values=values)
    text = "--nopace takes files and standard input as fast as the net goes, and drops no frame"
    flags.DEFINE_boolean("pace", True, text, flag_values=values)
    text = "frames a second that the net sees; default: its stride in files, else every stride-th of 25"
    flags.DEFINE_float("rate", 0.0, text, lower_bound=0.0, flag_values=values)
    text = "frames that the net sees between two predictions; default: 1, or a quarter of a clip for 3-D nets"
    flags.DEFINE_integer("every", 0, text, lower_bound=0, flag_values=values)
    text = "seconds after which a net's state is renewed; default: two clips' time; -1: never"
    flags.DEFINE_float("memory", 0.0, text, flag_values=values)
    text = "a class that raises alarms, CLASS or CLASS:on=0.6,off=0.4,minimum=0.5,cooldown=10; may be repeated"
    flags.DEFINE_multi_string("alarm", [], text, flag_values=values)
    text = 'a JSON file of alarms, {"CLASS": {"on": 0.6, "off": 0.4, "minimum": 0.5, "cooldown": 10}}; "*": all others'
    flags.DEFINE_string("alarms", "", text, flag_values=values)
    text = "the file that alarms are added to as JSON lines; default: standard output, without classes"
    flags.DEFINE_string("events", "", text, flag_values=values)
    text = "seconds between two lines on frames, drops and latency; default 60"
    flags.DEFINE_float("status", 60.0, text, lower_bound=0.0, flag_values=values)


def weights_flags(values):
    text = "a run, a folder of vidjax convert, or a published file; in place of --workdir"
    flags.DEFINE_string("weights", None, text, flag_values=values)
    text = "a published file's source and net, SOURCE:ARCH; default: the one that it fits"
    flags.DEFINE_string("from", None, text, flag_values=values)
    text = "a file of class names, one on a line, where a published file's are not known"
    flags.DEFINE_string("classes", None, text, flag_values=values)


def explain_flags(values):
    text = "gradcam (default), integrated, guided, occlusion, shap and others; a wrong name is told the right ones"
    flags.DEFINE_string("method", "gradcam", text, flag_values=values)
    flags.DEFINE_string("class", "", "the class to explain; default: the best", flag_values=values)
    text = "the layer of gradcam, a name in the net's out; default: the last that has places"
    flags.DEFINE_string("layer", "", text, flag_values=values)
    text = "what lime and shap cover: blocks (default), or supervoxels of like colour (pip install 'vidjax[explain]')"
    flags.DEFINE_enum("regions", None, ["blocks", "supervoxels"], text, flag_values=values)
    text = "rgb (default), flow or difference, of a net that sees several"
    flags.DEFINE_string("modality", "", text, flag_values=values)
    text = "the window of time, from 0; default: where the class scores highest"
    flags.DEFINE_integer("window", None, text, flag_values=values)
    flags.DEFINE_string("out", "explained", "a folder for what is written; default explained", flag_values=values)


def serve_flags(values):
    text = "the address to listen on; default 127.0.0.1, this machine alone; 0.0.0.0: all who can reach it"
    flags.DEFINE_string("host", "127.0.0.1", text, flag_values=values)
    flags.DEFINE_integer("port", 8000, "its port; default 8000; 0: a free one", 0, 65535, flag_values=values)
    text = "other names by which it may be called, such as that of a proxy in front of it"
    flags.DEFINE_list("names", [], text, flag_values=values)
    text = "the largest upload, in MB; default 200"
    flags.DEFINE_float("max_upload", 200.0, text, lower_bound=0.001, flag_values=values)
    text = "the longest video, in frames; default 20000"
    flags.DEFINE_integer("max_frames", 20_000, text, lower_bound=1, flag_values=values)
    text = "seconds that an upload may take, and then computing; default 300"
    flags.DEFINE_float("timeout", 300.0, text, lower_bound=0.001, flag_values=values)
    text = "requests at once, those that wait included; more are told to try again; default 8"
    flags.DEFINE_integer("queue", 8, text, lower_bound=1, flag_values=values)


def predict_flags(values):
    flags.DEFINE_string("list", "", "a text file of more videos, a path on each line", flag_values=values)
    text = "score the whole video as vidjax eval does: a test such as slowfast_10x3, or own, as the run was evaluated"
    flags.DEFINE_string("protocol", "", text, flag_values=values)
    text = "the share that a class needs for a segment; default 0.3"
    flags.DEFINE_float("threshold", 0.3, text, 0, 1, flag_values=values)
    flags.DEFINE_string("json", "", "a new file of JSON lines, one a video", flag_values=values)
    text = "a new CSV file: a row for each class of a video and of a window, and for each segment"
    flags.DEFINE_string("csv", "", text, flag_values=values)
    flags.DEFINE_string("srt", "", "a folder for subtitles of the segments, or FILE.srt", flag_values=values)
    flags.DEFINE_string("video", "", "a folder for copies with the labels drawn, or FILE.mp4", flag_values=values)
    windows_flags(values)


def convert_flags(values):
    flags.DEFINE_string("from", None, "the weights' source and net, SOURCE:ARCH", flag_values=values)
    flags.DEFINE_string("to", None, "the new run's folder", flag_values=values)
    flags.DEFINE_string("classes", None, "a file of class names, one on a line, or JSON", flag_values=values)


def export_flags(values):
    flags.DEFINE_string("as", None, "the library and its name of the net, SOURCE:ARCH", flag_values=values)
    flags.DEFINE_enum("format", "safetensors", ["safetensors"], "the file's format", flag_values=values)


def plan_flags(values):
    flags.DEFINE_string("topology", "", "the chips, such as v5e:4x4, v5p:2x2x4, h200:8 or cpu:8", flag_values=values)
    text = "classes of the head; default: config.model.num_classes, else 400"
    flags.DEFINE_integer("classes", 0, text, flag_values=values)
    text = "clips a chip and step; default: config.data.batch_size over the chips"
    flags.DEFINE_integer("per_chip", 0, text, flag_values=values)
    flags.DEFINE_integer("seconds", 600, "that one compilation may take; default 600", flag_values=values)
    text = "where it does not fit, compile smaller changes until one does"
    flags.DEFINE_boolean("fix", True, text, flag_values=values)
    text = "--nocompile only traces, in seconds: no temporaries, estimated collectives"
    flags.DEFINE_boolean("compile", True, text, flag_values=values)


def process_flags(values):
    text = "host:port of process 0 of a multi-process run, or auto on Slurm, Open MPI, Kubernetes and TPU pods"
    flags.DEFINE_string("coordinator", "", text, flag_values=values)
    flags.DEFINE_integer("processes", None, "number of processes, with --coordinator=host:port", flag_values=values)
    flags.DEFINE_integer("process", None, "number of this one, with --coordinator=host:port", flag_values=values)
    flags.DEFINE_float("join_timeout", 300.0, "seconds to wait for all processes; default 300", flag_values=values)


def from_run(file, workdir, init_from=None):
    """The config of a file, or of the run in a workdir; with the net of `init_from` where that is given."""
    cfg = config.from_file(file) if file else config.load(workdir)
    if file and "init_from" in cfg and not (init_from or cfg.model.get("net", cfg.model).name):
        raise UsageError(f"{file} starts from a net: give --config.init_from=DIR, a run or a folder of vidjax convert.")
    if not (file and init_from):
        return cfg
    if "init_from" not in cfg:
        raise UsageError(f"{file} has a net of its own; --config.init_from=DIR is for configs/finetune.py.")
    from vidjax import transfer

    return transfer.adopt(cfg, init_from)


def from_fit(file, workdir):
    """The config of a file, or of a workdir's classifier, with every value that `vidjax fit` knows."""
    from vidjax import fit as owner

    return config.complete(from_run(file, workdir), owner.DEFAULTS)


def from_checkpoint(file, workdir, step=None):
    """The config that was saved with a workdir's checkpoint: the newest, or of `step`."""
    from vidjax import checkpoint

    if file:
        raise UsageError("--config=FILE is for training; a checkpoint carries its config, and --config.KEY changes it.")
    return config.from_dict(checkpoint.read_meta(workdir, step)["config"])


def of_step(argv):
    """`from_checkpoint` for the step that --step names, if it does."""
    step, _ = take(argv, "step")
    return functools.partial(from_checkpoint, step=int(step) if step and step.isdecimal() else None)


def of_split(argv):
    """`of_step` for the runs of several splits, in `split_<name>/` of a workdir: the first one's config."""
    from vidjax import splits

    load, first = of_step(argv), splits.parse(take(argv, "splits")[0])[0]
    return lambda file, workdir: load(file, os.path.join(workdir, f"split_{first}"))
