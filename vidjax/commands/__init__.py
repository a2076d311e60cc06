"""The commands of `vidjax`: each turns its flags into a call of the function that owns it."""

from vidjax.commandline import choose
from vidjax.commands import runs, seeing, sharing, weights


def data(argv):
    """Make, build, check and time data sets.

    vidjax data motion|index|build|check|flow|bench --help
    """
    from vidjax import data_main

    return choose("vidjax data", data_main.COMMANDS, argv)


COMMANDS = {
    "train": runs.train,
    "eval": runs.evaluate,
    "predict": seeing.predict,
    "explain": seeing.explain,
    "serve": sharing.serve,
    "convert": weights.convert,
    "export": weights.export,
    "fit": runs.fit,
    "features": seeing.features,
    "search": seeing.search,
    "fuse": seeing.fuse,
    "compare": seeing.compare,
    "series": seeing.series,
    "models": weights.models,
    "data": data,
    "plan": runs.plan,
}
