"""Command lines: a command's flags, a config whose every value is a flag, help and errors that read well."""

import difflib
import sys
import textwrap

from absl import flags
from ml_collections import config_flags

import vidjax
from vidjax import config

OWN_CONFIG = "a config file, such as configs/quickstart.py, or FILE.py:smoke for its small form; default: the run's own"
OVERRIDE = "any value of the config, such as --config.optim.lr=0.01 or --config.eval.batch_size=8"


class UsageError(ValueError):
    """A command line that cannot be meant; the message says what to write instead."""


def choose(program, commands, argv):
    """Calls the command of a program that the first word names, with the rest; -> its exit code.

    Without a word, or with --help, prints the commands. A wrong word is an error, exit code 2.
    """
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(f"{program}, vidjax {vidjax.__version__}: video action recognition in JAX, from a laptop to a TPU pod.\n")
        for name, command in commands.items():
            print(f"  {program} {name:<8} {command.__doc__.splitlines()[0]}")
        print(f"\n{program} COMMAND --help shows examples and flags.")
        return 0 if argv else 2
    if argv[0] not in commands:
        near = difflib.get_close_matches(argv[0], commands, 1, 0.0)[0]
        print(f"{program}: no command '{argv[0]}'; did you mean '{near}'? See {program} --help.", file=sys.stderr)
        return 2
    return commands[argv[0]](argv[1:])


def parse(command, argv, define=(), load=None, workdir=True):
    """Parses a command's words: (flag values, other words). `--help` prints its docstring and flags, and exits.

    `define` are functions of a FlagValues that add flags. With `load`, a function of (--config's value or None,
    --workdir) -> ConfigDict, the values have `workdir` and `config`, and `--config.KEY=VALUE` changes the config;
    `workdir` says whether there must be one.
    """
    values = flags.FlagValues()
    for add in define:
        add(values)
    if load and workdir:
        workdir_flag(values)
    if {"--help", "-h", "-help"} & set(argv):
        print(help_text(command, values, load))
        sys.exit(0)
    if load:
        argv = add_config(values, argv, load, workdir)
    try:
        return values, values([command.__name__, *argv])[1:]
    except flags.Error as error:
        raise UsageError(f"{str(error).rstrip('.')}.") from None


def workdir_flag(values):
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=values)


def add_config(values, argv, load, needs_workdir):
    """Defines the config's flags; returns the words without --config=FILE. Raises UsageError, ConfigError."""
    file, argv = take(argv, "config")
    workdir, _ = take(argv, "workdir")
    if needs_workdir and not workdir:
        raise UsageError("give --workdir=DIR, the run's folder.")
    if not needs_workdir and not file:
        raise UsageError("give --config=FILE, such as configs/quickstart.py.")
    cfg = complete(load(file, workdir))
    known = config.keys(cfg)
    for word in argv:
        key = word.lstrip("-").partition("=")[0].removeprefix("config.")
        if word.lstrip("-").startswith("config.") and key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.0)[0]
            raise UsageError(f"the config has no key '{key}'; the nearest is '{near}'.")
    config_flags.DEFINE_config_dict("config", cfg, OVERRIDE, flag_values=values, sys_argv=argv)
    return argv


def complete(cfg):
    """A config with every value that it may leave out, so that each is a flag."""
    from vidjax import data, optim, peers, sharding, transfer
    from vidjax.data import sources

    defaults = sharding.DEFAULTS | {
        "data": data.DEFAULTS | sources.DEFAULTS,
        "eval": {"protocol": "", "precise_bn": 0, "features": ""},
        "mix": {"mixup": 0.0, "cutmix": 0.0},
        "optim": optim.DEFAULTS,
        "init": transfer.DEFAULTS,
        "on_nan": "stop",
        "peers": peers.PATIENCE,
        "watchdog": 600.0,
    }
    return config.complete(cfg, defaults)


def take(argv, name):
    """The value of `--name=VALUE` or `--name VALUE` and the words without it; None if it is not there."""
    for i, word in enumerate(argv):
        key, equals, value = word.partition("=")
        if word.startswith("-") and key.lstrip("-") == name:
            rest = argv[i + 1 :]
            return (value, argv[:i] + rest) if equals else ((rest or [None])[0], argv[:i] + rest[1:])
    return None, argv


def help_text(command, values, load):
    """A command's docstring, then its flags."""
    rows = {f"--{name}": values[name].help for name in values}
    if load:
        rows |= {"--config": OWN_CONFIG, "--config.KEY": OVERRIDE}
    width = max(map(len, rows), default=0)
    lines = [*(line.removeprefix("    ") for line in command.__doc__.strip().splitlines()), ""]
    for name, text in sorted(rows.items()):
        first, *rest = textwrap.wrap(text, 100 - width)
        lines += [f"  {name:<{width}}  {first}"] + [" " * (width + 4) + line for line in rest]
    return "\n".join(lines)


def join(argv):
    """Joins the processes of a multi-process run, before anything touches a device."""
    names = ("coordinator", "processes", "process", "join_timeout")
    coordinator, processes, process, timeout = (take(argv, name)[0] for name in names)
    if not coordinator:
        return
    if coordinator != "auto" and not (processes and process):
        raise UsageError("--coordinator=host:port needs --processes=N and --process=I, this one's number from 0.")
    try:
        numbers = [None, None] if coordinator == "auto" else [int(processes), int(process)]
        timeout = float(timeout or 300)
    except ValueError:
        raise UsageError("--processes, --process and --join_timeout are numbers.") from None
    if coordinator != "auto" and not 0 <= numbers[1] < numbers[0]:
        raise UsageError(
            f"--process={process} is none of 0 ... {numbers[0] - 1}, the numbers of {processes} processes."
        )
    from vidjax import peers

    peers.join(coordinator, *numbers, timeout)
