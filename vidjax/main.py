"""The one program: `vidjax COMMAND [flags]`, and how it ends."""

import importlib.metadata
import os
import pathlib
import sys
import traceback

import vidjax
from vidjax import peers
from vidjax.commandline import choose
from vidjax.commands import COMMANDS

BUGS = (AttributeError, LookupError, NameError, TypeError, ArithmeticError, AssertionError)  # never a user's doing
# On CPU, Eigen runs a 2-D convolution on all cores where XLA's newer default leaves one of few features on one. A
# jaxlib that does not know the flag would abort, hence the versions that were tried.
EIGEN, EIGEN_IN = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT", ("0.10.", "0.11.", "0.12.0")


def main(argv):
    """Runs `vidjax ARGV...` and returns its exit code; what vidjax itself raises is printed as its sentence."""
    name = f"vidjax {argv[0]}" if argv else "vidjax"
    try:
        return choose("vidjax", COMMANDS, argv)
    except KeyboardInterrupt:
        leave(name, "stopped by Ctrl-C", 130)
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        ours = not isinstance(error, BUGS) and raised_in.is_relative_to(pathlib.Path(vidjax.__file__).parent)
        if of_the_devices(error):
            leave(name, traceback.format_exc(), wait=True)
        leave(name, error if ours else traceback.format_exc())
        if not ours:
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def of_the_devices(error):
    """Whether an error comes from the runtime, as where another process left in the middle of a sum over all."""
    seen = []
    while error and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return any(type(one).__name__ in ("JaxRuntimeError", "XlaRuntimeError") for one in seen)


def leave(name, error, code=1, wait=False):
    """In a run of several processes, tells the others of an error and ends this one at once: they shall not wait.

    With `wait` first finds out whether the error is but another's end, in which case that one is named instead.
    """
    if not peers.watch or not peers.watch.here.is_set():
        return
    if wait:
        peers.watch.await_verdict()
    print(f"{name}: process {peers.watch.process} failed: {error}", file=sys.stderr, flush=True)
    peers.watch.end("error", str(error).strip().splitlines()[-1])
    os._exit(code)


def run():
    """The console script."""
    if importlib.metadata.version("jaxlib").startswith(EIGEN_IN):
        os.environ["XLA_FLAGS"] = f"{EIGEN} {os.environ.get('XLA_FLAGS', '')}"
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "vidjax", "xla")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    from vidjax import logs

    logs.setup()
    sys.exit(main(sys.argv[1:]))
