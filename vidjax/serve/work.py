"""One computation at a time on the device: requests wait in a short line, and what takes too long is ended."""

import asyncio
import contextlib
import ctypes
import threading

from vidjax.serve.refusals import Refusal

AFTER = 5  # seconds after which a client that found no place may try again


class Stopped(BaseException):
    """Raised in a thread whose work nobody waits for any more."""


class Device:
    """The device, for requests that are answered (`run`) and for streams, which hold the lock `turn` for each step.

    A thread is ended as Ctrl-C ends the main one, by an exception between two of its operations: at the latest when
    the device has computed a batch and the window that is being decoded is there. The next in line waits for that.
    """

    def __init__(self, places):
        self.places, self.taken, self.cameras = places, 0, 0
        self.line, self.turn = asyncio.Lock(), threading.Lock()
        self.threads = set()

    @contextlib.contextmanager
    def place(self):
        """A place in the line, which a request has from its upload's beginning on. Refusal where all are taken."""
        if self.taken >= self.places:
            raise Refusal(503, "The line is full; try again in a moment.", AFTER)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def run(self, work, seconds):
        """What work() gives or raises, alone on the device; Refusal where it takes longer than `seconds`."""
        await self.line.acquire()
        found, loop = {}, asyncio.get_running_loop()
        ended = loop.create_future()

        def computed():
            with self.turn:
                found["value"] = work()

        def land():
            self.line.release()
            ended.done() or ended.set_result(None)

        thread = self.start(computed, lambda: loop.call_soon_threadsafe(land), found)
        try:
            await asyncio.wait_for(asyncio.shield(ended), seconds)
        except TimeoutError:
            raise Refusal(504, f"Computing took longer than {seconds:g} s and was stopped.") from None
        finally:
            stop(thread)
        if "error" in found:
            raise found["error"]
        return found["value"]

    def start(self, work, after=lambda: None, found=None):
        """A thread that does work(); what it raises goes to `found`, and after() is called when it has ended."""
        found = {} if found is None else found

        def worked():
            try:
                work()
            except BaseException as error:  # Stopped too; it is raised again where it is waited for
                found["error"] = error

        def awaited():
            thread.join()
            self.threads.discard(thread)
            with contextlib.suppress(RuntimeError):  # the server has ended
                after()

        thread = threading.Thread(target=worked, name="computing", daemon=True)
        self.threads.add(thread)
        thread.start()
        threading.Thread(target=awaited, name="waiting", daemon=True).start()
        return thread

    def end(self, seconds):
        """Ends what is being computed; -> whether all threads ended within that time."""
        for thread in list(self.threads):
            stop(thread)
            thread.join(seconds)
        return not any(thread.is_alive() for thread in list(self.threads))


async def given_up(tasks):
    """Cancels tasks and waits for their ends; what they raise is not told."""
    for task in tasks:
        task.cancel()
    for task in (await asyncio.wait(tasks))[0]:
        task.cancelled() or task.exception()


def stop(thread):
    """Raises Stopped in a thread, if it has not ended."""
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stopped))
