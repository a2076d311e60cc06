"""Several iterators run ahead in threads of their own, and their items come out in a fixed order: by turns."""

import collections
import concurrent.futures
import contextlib
import queue
import threading

END = object()


def taken(iterators, threads, depth):
    """Yields the items of `iterators`, one of each in turn, `threads` of them at once, each up to `depth` ahead.

    `iterators` is a deque that whoever takes the items may add to; one that ends makes room for the next. The order
    does not depend on which thread is fast. An iterator's exception is raised here.
    """
    running, stop = collections.deque(), threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(threads, "decode")

    def start():
        if iterators:
            running.append(queue.Queue(depth))
            pool.submit(fill, iterators.popleft(), running[-1], stop)

    try:
        for _ in range(threads):
            start()
        while running:
            item, error = running[0].get()
            if error:
                raise error
            waiting = running.popleft()
            if item is END:
                start()
            else:
                running.append(waiting)
                yield item
                while iterators and len(running) < threads:  # some were added
                    start()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def fill(iterator, target, stop):
    """Puts (item, None) of an iterator into a queue as there is room, or (None, its exception); ends with END."""
    with contextlib.closing(iterator):
        try:
            for item in iterator:
                if not put(target, (item, None), stop):
                    return
            put(target, (END, None), stop)
        except BaseException as error:  # raised by whoever takes the items
            put(target, (None, error), stop)


def put(target, item, stop):
    """Whether an item found room in a queue before `stop` was set."""
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            target.put(item, timeout=0.1)
            return True
    return False
