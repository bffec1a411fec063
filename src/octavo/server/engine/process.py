"""The engine's own process: takes requests off a socket, steps, sends deltas back. Started by `supervisor`.

It ends when the server says so, or is gone.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import socket
import sys

from octavo.assembly import engine as assemble
from octavo.errors import OctavoError
from octavo.server import logs
from octavo.server.engine import report as engine_report
from octavo.server.engine.protocol import Failed, Loading, Start
from octavo.server.engine.server_connection import Channel, Closed
from octavo.server.engine.worker import Worker

log = logging.getLogger(__name__)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(descriptor: int) -> int:
    """descriptor: of the inherited socket. Returns the exit status."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the server decides what they mean
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        parts = load(channel)
        if parts is None:
            return 2
        gc.collect()
        gc.freeze()  # what is loaded now stays: the collector need not look at it again
        Worker(channel, parts).run()
    except Closed:
        return 0
    except Exception:
        log.exception("the engine process fails")
        return 1
    return 0


def die_with_parent() -> None:
    """Asks Linux to kill this process when the server dies, however it dies. Elsewhere the closed socket must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def load(channel: Channel) -> assemble.Assembly | None:
    """The engine that the server asks for. If there can be none, the server is told why."""
    start = channel.receive_one()
    assert isinstance(start, Start)
    logs.configure(*start.logs)
    try:
        parts = _assemble(channel, start)
    except OctavoError as error:
        channel.send(Failed(str(error), mistake=True))
        return None
    except MemoryError:
        channel.send(Failed("not enough memory: lower kv_cache_memory or max_model_len", mistake=True))
        return None
    channel.send(engine_report.ready(parts))
    return parts


def _assemble(channel: Channel, start: Start) -> assemble.Assembly:
    def tell(done: int, total: int) -> None:
        channel.send(Loading(done, total))

    return assemble.assemble(start.model, assemble.engine_config(**start.settings), start.tokenizer, tell)


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(status)  # nothing is left to tidy up that the system does not free faster
