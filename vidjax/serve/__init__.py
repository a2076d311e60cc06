"""`vidjax serve`: a page to drop a video on, and its HTTP API, on this machine alone unless told otherwise.

FastAPI and uvicorn answer; predictions are `predict.Predictor`'s, explanations `explain.command.Explainer`'s and camera
streams `predict.live`'s. Needs the extra `web`.
"""

import contextlib
import gc
import ipaddress
import os
import shutil
import signal
import socket
import sys
import tempfile

import uvicorn

from vidjax.serve import app, guard
from vidjax.serve.answers import Limits
from vidjax.serve.camera import LARGEST

__all__ = ["Limits", "ServeError", "run"]

BACKLOG = 128
CONNECTIONS = 256  # open at once; more are answered with 503
ENDING = 3.0  # seconds that what is being computed has to end after Ctrl-C


class ServeError(RuntimeError):
    """A server that cannot begin; the message says what to do."""


def run(predictor, limits, host="127.0.0.1", port=8000, names=()):
    """Serves until SIGINT or SIGTERM, then ends what is being computed; -> 0. ServeError where it cannot begin.

    `names` are more names that the server may be called by.
    """
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(listening(host, port))
        folder = tempfile.mkdtemp(prefix="vidjax-serve-")  # for this user alone
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        address = opened.getsockname()
        local = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        known = guard.names(host, names)
        warm(predictor)
        made, device = app.build(predictor, limits, folder, known, anywhere=not local)
        tell(host, address, local)
        with ended_by_signals():
            server(made).run(sockets=[opened])
        ended = device.end(ENDING)
    if not ended:  # it is in the middle of a compilation; nothing is left to be done
        sys.stdout.flush()
        os._exit(0)
    return 0


@contextlib.contextmanager
def listening(host, port):
    """A socket that listens; ServeError where it cannot."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind)
    except OSError as error:
        raise ServeError(f"--host={host} is no address of this machine ({error.strerror}).") from error
    with opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind(address)
            opened.listen(BACKLOG)
        except OSError as error:
            why = f"cannot listen on {host}, port {port} ({error.strerror})"
            raise ServeError(f"{why}: give another --port, or end what uses it.") from error
        yield opened


def warm(predictor):
    """Compiles the net for one window, so that a net that cannot run is told before anybody comes."""
    predictor.batch([{key: x[None].repeat(crops(predictor), 0) for key, x in predictor.blank().items()}])
    gc.collect()


def crops(predictor):
    """Views of a window."""
    return predictor.meta["preprocess"]["crops"]


def tell(host, address, local):
    """Prints where the server is, and who can reach it."""
    shown = host if local else address[0]
    where = f"[{shown}]" if ":" in shown else shown
    print(f"serving  http://{where}:{address[1]}/  (API: http://{where}:{address[1]}/api; Ctrl-C ends it)", flush=True)
    if not local:
        print(
            f"vidjax serve: --host={host} is open to others: anyone who can reach this machine's port"
            f" {address[1]} can use it, without a password.",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def ended_by_signals():
    """Within it SIGINT and SIGTERM, which uvicorn raises anew when it has ended, do nothing more."""
    try:
        before = {number: signal.signal(number, ended) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # in a test's thread
        before = {}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ended(number, frame):
    """What SIGINT and SIGTERM do: end the server."""
    raise KeyboardInterrupt


def server(made):
    """uvicorn's server of an application; what nobody foresaw is told by the application itself."""
    options = {"log_level": "critical", "access_log": False, "server_header": False, "proxy_headers": False}
    limits = {"limit_concurrency": CONNECTIONS, "timeout_graceful_shutdown": 1, "ws_max_size": LARGEST}
    return uvicorn.Server(uvicorn.Config(made, lifespan="off", **options, **limits))
