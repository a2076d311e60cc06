"""How the processes of a run meet, and how each learns that another is gone.

JAX ends a process by an abort, without a sentence, where its coordinator cannot be reached, is lost or waits in vain.
So the processes call the roll before `jax.distributed` starts, over the coordinator's one port: process 0 listens there
and passes the connections of JAX's own service on (`relay`). Each process keeps one connection to process 0 (`Watch`),
with a sign of life every second: process 0 hears all and judges, the others hear process 0. Compiling does not silence
a process, for XLA lets other threads run.
"""

import asyncio
import atexit
import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import sys
import threading
import time

from vidjax.peers.sockets import hint, message, named, reason, relay, where
from vidjax.peers.stopping import Stopping

EXIT_LOST = 76  # a peer process or the coordinator was lost: start the same command again
BEAT = 1.0  # seconds between two signs of life
PATIENCE = 15.0  # seconds of silence after which a peer is lost, unless config.peers says otherwise
LINE = 2**22  # bytes of a message at most
AGAIN = "start the same command again, it continues from the last checkpoint"

watch = None  # this process's Watch, in a run of several


class JoinError(RuntimeError):
    """The processes of a run could not meet; the message says who is missing or what is wrong."""


def join(address, processes=None, process=None, timeout=300.0):
    """Meets the other processes and starts `jax.distributed`, before anything touches a device.

    `address` is host:port of process 0, or auto where JAX finds out by itself (Slurm, Open MPI, Kubernetes, TPU pods).
    Raises JoinError after `timeout` seconds, or at once where waiting cannot help.
    """
    global watch
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # see stopping.py
    devices = None
    if address == "auto":
        address, processes, process, devices = detect(timeout)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise JoinError(f"--coordinator={address} is no host:port.")
    watch = Watch((host.strip("[]"), int(port)), processes, process, timeout)
    watch.start()
    jax.distributed.initialize(
        watch.near,
        processes,
        process,
        local_device_ids=devices,
        cluster_detection_method="deactivate",  # it would hide all GPUs but one from a process that Slurm started
        coordinator_bind_address=watch.near,
        initialization_timeout=int(timeout) + 60,  # the watch speaks before these three do
        heartbeat_timeout_seconds=300,
        shutdown_timeout_seconds=3600,
    )
    atexit.register(watch.end, "done")  # before JAX's own, which waits for all processes to end


def detect(timeout):
    """What JAX knows of its job: (address of process 0, processes, number of this one, its devices or None)."""
    from jax._src.clusters import ClusterEnv

    own = os.environ.get("JAX_LOCAL_DEVICE_IDS")  # else each process takes the GPU of its number on the machine
    devices = [int(number) for number in own.split(",")] if own else None
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, devices, None, int(timeout))
    if None in found[:3]:
        raise JoinError("--coordinator=auto finds no Slurm, Open MPI, Kubernetes or TPU job here; give host:port.")
    return found


def wait_at_most(seconds):
    """Sets after how many seconds of silence a peer counts as lost."""
    if watch:
        watch.patience = seconds


def agree(topic, values):
    """Ends the run, naming the process and the key, unless all processes say the same {name: JSON} on a topic."""
    if watch:
        watch.agree(topic, values)


def facts():
    """What must be the same in all processes before they talk: versions of JAX, and a digest of vidjax's own code."""
    code, root = hashlib.sha256(), pathlib.Path(__file__).parent.parent
    for file in sorted(root.rglob("*.py")):
        code.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return versions | {"vidjax's code": code.hexdigest()[:12]}


def differing(number, host, theirs, ours):
    """The sentence that names which of process `number`'s facts is not as process 0 has it; None if none is."""
    for name in sorted({*theirs, *ours}):
        if (one := theirs.get(name)) != (other := ours.get(name)):
            return f"process {number} on {host} has {name} {one}, but process 0 has {other}: all must have the same."
    return None


class Watch:
    """This process's connection to its peers, in a thread of its own.

    Ends the process with the verdict's exit code, after printing its sentence, once a peer is lost or has failed.
    """

    def __init__(self, address, processes, process, timeout):
        self.address, self.processes, self.process, self.timeout = address, processes, process, timeout
        self.patience, self.facts, self.host = PATIENCE, facts(), platform.node()
        self.hosts, self.writers, self.seen, self.states = {process: self.host}, {}, {}, {}
        self.topics, self.agreed, self.tasks = {}, {}, set()
        self.stopping = Stopping(process, processes, lambda what: self._begin(self._tell(what)))
        self.verdict, self.here, self.near = None, threading.Event(), None
        self.deadline = time.monotonic() + timeout
        self.loop = asyncio.new_event_loop()

    def start(self):
        """Calls the roll: returns once all processes are here. Raises JoinError."""
        threading.Thread(target=self.loop.run_forever, name="peers", daemon=True).start()
        begin = self._member() if self.process else self._hub()
        asyncio.run_coroutine_threadsafe(begin, self.loop).result()
        asyncio.run_coroutine_threadsafe(self._listen_for_silence(), self.loop)

    def agree(self, topic, values):
        """Returns once all processes have said the same `values` {name: JSON} on a topic; ends the run where not."""
        self.agreed[topic], values = threading.Event(), json.loads(json.dumps(values))
        self.loop.call_soon_threadsafe(self._heard, self.process, {"topic": topic, "values": values})
        self.agreed[topic].wait()

    def stop(self):
        """Asks all processes to stop at the same call of `stopping.now`; may be called from a signal's handler."""
        self.loop.call_soon_threadsafe(self.stopping.hear, self.process, {"stop": True})

    def end(self, state, why=""):
        """Tells the others that this process is done, or has failed with an `error`; returns when they were told."""
        self.states[self.process] = state
        said = {"state": state, "why": why}
        if state == "error" and not self.process:
            said = {"verdict": self._failed(0, why), "code": 1}
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._tell(said), self.loop).result(5)

    def await_verdict(self):
        """Waits as long as it takes to find out whether a peer was lost, which ends this process."""
        time.sleep(self.patience + 3 * BEAT)

    # Process 0 -------------------------------------------------------------------------------------------------------

    async def _hub(self):
        """Opens the port and waits for all others to come."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.near = f"127.0.0.1:{free.getsockname()[1]}"
        try:
            await asyncio.start_server(self._welcome, None, self.address[1], limit=LINE)
        except OSError as error:
            raise JoinError(
                f"port {self.address[1]} of process 0 on {self.host} cannot be opened ({reason(error)}); give "
                f"--coordinator=host:port another port."
            ) from None
        while len(self.hosts) < self.processes and not self.verdict:
            if time.monotonic() > self.deadline:
                missing = sorted(set(range(self.processes)) - set(self.hosts))
                await self._judge(
                    f"{named(missing)} of {self.processes} did not come to {where(self.address)} within "
                    f"{self.timeout:g} s{hint(self.address)}; start them all, or raise --join_timeout.",
                    1,
                )
            await asyncio.sleep(0.05)
        if self.verdict:
            raise JoinError(self.verdict)
        self.here.set()
        await self._tell({"all": self.host})

    async def _welcome(self, reader, writer):
        """Someone has come: another process, or the client of its JAX."""
        hello = await message(reader)
        if not hello or "kind" not in hello:
            writer.close()
        elif hello["kind"] == "relay":
            await relay(reader, writer, ("127.0.0.1", int(self.near.rpartition(":")[2])), None, self.deadline + 60)
        else:
            await self._keep(hello, reader, writer)

    async def _keep(self, hello, reader, writer):
        """Hears a process until its connection ends."""
        number, host = hello["process"], hello["host"]
        wrong = differing(number, host, hello["facts"], self.facts)
        if hello["processes"] != self.processes or not 0 < number < self.processes:
            wrong = (
                f"process {number} on {host} was started as one of {hello['processes']} processes, "
                f"but process 0 as one of {self.processes}."
            )
        elif number in self.hosts:
            wrong = f"two processes, on {self.hosts[number]} and {host}, were started as --process={number}."
        self.writers[-1 if number in self.writers else number] = writer  # the verdict goes to both of two that clash
        if wrong:
            await self._judge(wrong, 1)
            return
        self.hosts[number], self.seen[number] = host, time.monotonic()
        while said := await message(reader):
            self.seen[number] = time.monotonic()
            self._heard(number, said)
        del self.writers[number]
        if self.states.get(number) != "done":
            await self._lost(number, "its connection closed")

    def _heard(self, number, said):
        """Takes note of what a process says of itself; process 0 compares the values of a topic once it has all."""
        if "state" in said:
            self.states[number] = said["state"]
            if said["state"] == "error":
                self._begin(self._judge(self._failed(number, said["why"]), 1))
        self.stopping.hear(number, said)
        if "topic" not in said:
            return
        if self.process:
            self._begin(self._tell(said))
            return
        heard = self.topics.setdefault(said["topic"], {})
        heard[number] = said["values"]
        if len(heard) < self.processes:
            return
        del self.topics[said["topic"]]  # it may come again, as for the next of several splits
        wrong = (differing(n, self.hosts[n], heard[n], heard[0]) for n in sorted(heard))
        if text := next(filter(None, wrong), None):
            self._begin(self._judge(text, 1))
        else:
            self.agreed[said["topic"]].set()
            self._begin(self._tell({"agreed": said["topic"]}))

    # The others ------------------------------------------------------------------------------------------------------

    async def _member(self):
        """Comes to process 0 and waits until all are here."""
        hello = {"kind": "process", "process": self.process, "processes": self.processes, "host": self.host}
        reader, writer = await self._reach()
        self.writers[0], self.hosts[0] = writer, where(self.address)
        await self._tell(hello | {"facts": self.facts})
        try:  # process 0's deadline passes at about the same time, and it knows who is missing
            said = await asyncio.wait_for(message(reader), self.deadline + 3 - time.monotonic())
        except TimeoutError:
            silent = f"what listens at {where(self.address)} did not answer as process 0 within {self.timeout:g} s."
            said = {"verdict": silent}
        if not said or "all" not in said:
            other = f"what listens at {where(self.address)} is not process 0 of this run, or it has ended."
            raise JoinError((said or {}).get("verdict", other))
        self.hosts[0], self.seen[0] = said["all"], time.monotonic()
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.near = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.here.set()
        self._begin(self._hear(reader))

    async def _reach(self):
        """The connection to process 0; JoinError once the time is up."""
        while True:
            try:
                return await asyncio.wait_for(asyncio.open_connection(*self.address, limit=LINE), 5)
            except OSError as error:
                why = reason(error)
            if time.monotonic() > self.deadline:
                raise JoinError(
                    f"process {self.process} cannot reach process 0 at {where(self.address)} within "
                    f"{self.timeout:g} s ({why}){hint(self.address)}; see that process 0 runs and its port is open."
                )
            await asyncio.sleep(0.2)

    async def _pass_on(self, reader, writer):
        """This process's JAX has connected: it is passed on to process 0."""
        await relay(reader, writer, self.address, {"kind": "relay"}, time.monotonic() + 5)

    async def _hear(self, reader):
        """Hears process 0 until its connection ends."""
        while said := await message(reader):
            self.seen[0] = time.monotonic()
            if "verdict" in said:
                await self._leave(said["verdict"], said["code"])
            if "state" in said:
                self.states[0] = said["state"]
            self.stopping.hear(0, said)
            if "agreed" in said:
                self.agreed[said["agreed"]].set()
        if self.states.get(0) != "done":
            await self._lost(0, "its connection closed")

    # Both ------------------------------------------------------------------------------------------------------------

    async def _listen_for_silence(self):
        """Gives a sign of life and looks who has given none for too long."""
        since = time.monotonic()
        while True:
            asleep, since = time.monotonic() - since > 3 * BEAT, time.monotonic()
            await self._tell({"beat": 1})
            for number, seen in list(self.seen.items()):
                if asleep:  # it was this process that was stopped for a while
                    self.seen[number] = since
                elif since - seen > self.patience and self.states.get(number) != "done":
                    await self._lost(number, f"it was silent for {self.patience:g} s")
            await asyncio.sleep(BEAT)

    def _begin(self, what):
        """Does something in the background, kept until it is done: the loop itself keeps no task alive."""
        task = self.loop.create_task(what)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _tell(self, what):
        """Sends a message: to process 0, or from there to all."""
        text = json.dumps(what).encode() + b"\n"
        for writer in list(self.writers.values()):
            with contextlib.suppress(OSError, TimeoutError):
                writer.write(text)
                await asyncio.wait_for(writer.drain(), BEAT)

    def _failed(self, number, why):
        return f"process {number} on {self.hosts[number]} stopped with an error: {why}"

    async def _lost(self, number, why):
        role = "" if number else " (the coordinator)"
        await self._judge(f"process {number}{role} on {self.hosts[number]} was lost: {why}; {AGAIN}.", EXIT_LOST)

    async def _judge(self, verdict, code):
        """Ends the run with a sentence: the first one counts."""
        if not self.verdict:
            self.verdict = verdict
            if not self.process:
                await self._tell({"verdict": verdict, "code": code})
            await self._leave(verdict, code)

    async def _leave(self, verdict, code):
        """Ends this process, unless it is still waiting for the others and ends by itself."""
        self.verdict = verdict
        if self.here.is_set() and self.states.get(self.process) != "error":
            print(f"vidjax: {verdict}", file=sys.stderr, flush=True)
            os._exit(code)
