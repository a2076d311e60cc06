"""Lines of JSON and passed-on bytes over plain connections, and what is said where one fails."""

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import socket
import time


async def message(reader):
    """The next message of a connection; None where it has ended, or says what no process of a run says."""
    try:
        said = json.loads(await reader.readline())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


async def relay(reader, writer, address, hello, deadline):
    """Passes a connection on to an address, after a `hello`, in both directions.

    Where the other end is gone the near one stays open, unanswered: JAX would abort where it closes.
    """
    while True:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*address)
            break
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.05)
    if hello:
        far_writer.write(json.dumps(hello).encode() + b"\n")

    async def pump(source, target):
        with contextlib.suppress(OSError):
            while data := await source.read(2**16):
                target.write(data)
                await target.drain()

    back = asyncio.ensure_future(pump(far_reader, writer))
    await pump(reader, far_writer)
    back.cancel()
    far_writer.close()


def reason(error):
    """Why a connection failed, in a few words; of several addresses the last one's reason."""
    if isinstance(error, socket.gaierror):
        return error.strerror
    codes = re.findall(r"Errno (\d+)", str(error)) or [error.errno]
    return os.strerror(int(codes[-1])) if codes[-1] else "no answer"


def where(address):
    return f"{address[0]}:{address[1]}"


def hint(address):
    """What may be wrong with an address that is this machine's own."""
    with contextlib.suppress(OSError, ValueError):
        if ipaddress.ip_address(socket.gethostbyname(address[0])).is_loopback:
            return f"; {address[0]} is each machine itself: on several machines give the name of process 0's"
    return ""


def named(numbers):
    """process 1, or processes 1, 2 and 5."""
    *most, last = map(str, numbers)
    return f"processes {', '.join(most)} and {last}" if most else f"process {last}"
