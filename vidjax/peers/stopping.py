"""How several processes, each somewhere else in its work, find the place where all of them stop."""

import threading


class Stopping:
    """One process's part in the agreement; `tell` sends a message to process 0, or from there to all others.

    The first that is asked to stop tells process 0, which has all wait and say how often they have called `now`. They
    stop at the call after the furthest one's. JAX's own `reached_preemption_sync_point` does the same, but waits for
    its messages with the GIL held, which the relay that passes them on needs: now and then a run hung.
    """

    def __init__(self, process, processes, tell):
        self.process, self.processes, self.tell = process, processes, tell
        self.turn, self.waiting, self.calls, self.last = threading.Condition(), False, 0, None
        self.heard_calls = {}

    def now(self):
        """Whether to stop now: all processes, which call this equally often, get the same answers."""
        with self.turn:
            self.turn.wait_for(lambda: self.last or not self.waiting)
            self.calls += 1
            return self.last is not None and self.calls >= self.last

    def hear(self, number, said):
        """Takes in what a process said, itself included: `stop`, `count`, `calls` or `last`."""
        if "stop" in said and self.process:
            self.tell(said)
        elif "stop" in said and not self.waiting:
            self.tell({"count": True})
            self.count()
        if "count" in said:
            self.count()
        if "calls" in said:
            self.heard_calls[number] = said["calls"]
            if len(self.heard_calls) == self.processes:
                last = {"last": max(self.heard_calls.values()) + 1}
                self.tell(last)
                self.go_on(**last)
        if "last" in said:
            self.go_on(said["last"])

    def count(self):
        """Holds this process at its next call of `now`, and says how many it has made."""
        with self.turn:
            self.waiting, calls = True, {"calls": self.calls}
        if self.process:
            self.tell(calls)
        else:
            self.hear(0, calls)

    def go_on(self, last):
        """Lets this process go on, up to the call at which all stop."""
        with self.turn:
            self.last = last
            self.turn.notify_all()
