"""A camera's frames in, labels out, over the WebSocket /api/camera.

The client sends each frame as one binary message, a JPEG picture of at most 4 MB, from the server's message {state:
"ready", fps, side, classes} on: `fps` frames a second are enough, and `side` pixels on the shorter side. The server
answers with {time, latency, frame, top: [{label, score}, ...], frames, dropped}: `time` of the newest frame that the
net saw, in seconds since the first; `latency` from that frame's coming to its scores, in seconds; `frame`, which of the
messages it was, from 0; `frames` and `dropped` count. Where frames come faster than they are computed the oldest are
dropped, and so are answers that nobody has read. {error: one sentence} comes before the server closes.
"""

import asyncio
import collections
import contextlib
import threading
import time
import traceback

import fastapi
from starlette.websockets import WebSocketDisconnect

from vidjax.data import live as pictures
from vidjax.data import video
from vidjax.predict import live, outputs
from vidjax.predict.live import rows
from vidjax.serve.refusals import Refusal
from vidjax.serve.work import given_up

LARGEST = 4 << 20  # bytes of a message
PATIENCE = 60.0  # seconds without a frame
SIDE = 240  # pixels of the shorter side that a frame has at least, for the net may see less of it
WAITING = 2  # frames that wait to be decoded
LATE = 1013  # a WebSocket's close code: try again later


class Mailbox:
    """The newest of what one thread puts and another takes; older items are dropped."""

    def __init__(self, size):
        self.items, self.changed, self.ended = collections.deque(maxlen=size), threading.Condition(), False
        self.dropped = 0

    def put(self, item):
        """Adds an item."""
        with self.changed:
            self.dropped += len(self.items) == self.items.maxlen
            self.items.append(item)
            self.changed.notify_all()

    def end(self):
        """Nothing comes any more."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def __iter__(self):
        """Yields items as they come, until the end."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.items or self.ended)
                if self.ended:
                    return
                item = self.items.popleft()
            yield item


def add(app, predictor, device, limits):
    """Adds the WebSocket to an application."""

    @app.websocket("/api/camera")
    async def camera(socket: fastapi.WebSocket, top: int = 5):
        await socket.accept()
        try:
            with seat(device, limits.cameras):
                await followed(socket, predictor, device, max(1, min(top, 1000)))
        except WebSocketDisconnect:
            pass
        except Refusal as error:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client has gone
                await socket.send_json({"error": error.sentence})
                await socket.close(LATE if error.after else 1008)
        except Exception:
            traceback.print_exc()
            raise


@contextlib.contextmanager
def seat(device, cameras):
    """Counts a camera; Refusal where there are too many."""
    if device.cameras >= cameras:
        raise Refusal(503, f"There are {cameras} cameras already; try again when one has ended.", 5)
    device.cameras += 1
    try:
        yield
    finally:
        device.cameras -= 1


async def followed(socket, predictor, device, top):
    """Follows a client's frames until it goes. Refusal for what cannot be followed."""
    frames, loop, answers, stop = Mailbox(WAITING), asyncio.get_running_loop(), asyncio.Queue(), threading.Event()

    def tell(message):
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(newest, answers, message)

    ready = threading.Event()
    device.start(lambda: stream(predictor, device, frames, ready, stop, top, tell))
    tasks = [asyncio.ensure_future(one) for one in (heard(socket, frames, ready), said(socket, answers))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stop.set()
        frames.end()
        await given_up(tasks)


def newest(answers, message):
    """Puts a message into a queue in place of predictions that nobody has read."""
    while not answers.empty() and "time" in message:
        answers.get_nowait()
    answers.put_nowait(message)


async def heard(socket, frames, ready):
    """Puts a client's frames into the mailbox (number, time, bytes) until it goes. Refusal, as where none comes."""
    number = 0
    while True:
        try:
            async with asyncio.timeout(PATIENCE):
                message = await socket.receive()
        except TimeoutError:
            if not ready.is_set():
                continue
            raise Refusal(408, f"No frame came for {PATIENCE:g} s.") from None
        if message["type"] == "websocket.disconnect":
            return
        if not message.get("bytes"):
            raise Refusal(422, "A frame is a binary message, a JPEG picture.")
        frames.put((number, time.monotonic(), message["bytes"]))
        number += 1


async def said(socket, answers):
    """Sends what the stream says; raises what it raises."""
    while True:
        message = await answers.get()
        if isinstance(message, Exception):
            raise message
        await socket.send_json(message)


def stream(predictor, device, mailbox, ready, stop, top, tell):
    """Follows the frames of a mailbox through `predict.live`, in a thread of its own; tells what comes of it."""
    numbers = collections.OrderedDict()  # of messages, by the times of their frames

    def contents():
        first = None
        for number, arrived, content in mailbox:
            first = arrived if first is None else first
            numbers[arrived - first] = number
            while len(numbers) > 1000:
                numbers.popitem(last=False)
            yield arrived, content

    try:
        made = pictures.of_jpegs(contents(), "camera", stop)
        counts, found = live.of_frames(predictor, made, live.Options(), turn=device.turn)
        ready.set()
        tell({"state": "ready", "classes": predictor.class_names} | wanted(predictor.section))
        with contextlib.closing(found):
            for seen in found:
                tell(
                    {
                        "time": seen.time,
                        "latency": seen.latency,
                        "frame": numbers.get(seen.time, 0),
                        "top": outputs.ranked(seen.scores, predictor.class_names, top),
                        "frames": counts.frames,
                        "dropped": counts.dropped + mailbox.dropped,
                    }
                )
                if stop.is_set():
                    return
    except video.VideoError as error:
        tell(Refusal(422, f"{error}."))
    except ValueError as error:  # a net that needs more than pictures
        tell(Refusal(422, str(error)))
    except Exception as error:
        tell(error)


def wanted(section):
    """{fps, side}: how many frames a second, and how large, are enough for a net."""
    fps = pictures.FPS if rows.reach(section) != (0, 0) else min(pictures.FPS, 2 * rows.rate(section["clip"]))
    return {"fps": fps, "side": max(SIDE, section["short_side"])}
