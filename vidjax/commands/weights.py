"""Other libraries' weights in and out, and the architectures there are."""

import shlex

from vidjax.commandflags import convert_flags, export_flags, step_flag
from vidjax.commandline import UsageError, parse, workdir_flag


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
