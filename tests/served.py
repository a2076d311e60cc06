"""The tiny net with random weights behind `vidjax serve`, videos to drop on it, and a real server in a thread."""

import contextlib
import threading

import numpy as np
import tiny

from vidjax import predict, serve
from vidjax.data import video
from vidjax.serve import app, guard

NAMES = ["rise", "fall", "turn <b>&"]
URL = "http://127.0.0.1:8000"


def predictor(**changes):
    """A Predictor of the tiny net, whose windows differ in score."""
    return predict.Predictor(loaded=tiny.untrained(NAMES, **changes))


def frames(count=24, height=30, width=40):
    """Noise (count, height, width, 3), darker in the second third, so that three windows differ."""
    made = np.random.RandomState(0).randint(0, 255, (count, height, width, 3), np.uint8)
    made[count // 3 : 2 * count // 3] //= 4
    return made


def clip(folder, name="clip.mp4", **size):
    """A file of `frames` at 10 frames a second."""
    video.write(folder / name, frames(**size), fps=10)
    return folder / name


def built(found, folder, **limits):
    """(ASGI application, its Device) with uploads in `folder`."""
    return app.build(found, serve.Limits(**limits), str(folder))


@contextlib.contextmanager
def running(made):
    """The address of a server of an application, in a thread."""
    with serve.listening("127.0.0.1", 0) as opened:
        server = serve.server(made)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{opened.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


__all__ = ["NAMES", "URL", "built", "clip", "frames", "guard", "predictor", "running"]
