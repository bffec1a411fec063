"""The engine process: receives requests from a socket, steps the engine, and sends deltas back.

`supervisor` starts it. It ends when the server sends `Stop` or closes the socket.
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
from octavo.backends.base import BackendLost
from octavo.errors import OctavoError
from octavo.server import logs
from octavo.server.engine import report as engine_report
from octavo.server.engine.protocol import Failed, Loading, Start
from octavo.server.engine.server_connection import Closed, ServerConnection
from octavo.server.engine.worker import Worker

log = logging.getLogger(__name__)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(descriptor: int) -> int:
    """descriptor: file descriptor of the inherited socket. Returns the exit status."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches the whole group; the server decides
        signal.signal(number, signal.SIG_IGN)
    connection = ServerConnection(socket.socket(fileno=descriptor))
    try:
        parts = load(connection)
        if parts is None:
            return 2
        gc.collect()
        gc.freeze()  # loaded objects stay alive, so the collector can skip them
        Worker(connection, parts).run()
        parts.close()
    except Closed:
        return 0
    except BackendLost as error:
        log.error("%s", error)
        connection.send(Failed(str(error), mistake=False))
        return 1
    except Exception:
        log.exception("the engine process fails")
        return 1
    return 0


def die_with_parent() -> None:
    """Asks Linux to kill this process when the server dies. On other systems the closed socket ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def load(connection: ServerConnection) -> assemble.Assembly | None:
    """Builds the engine that the server asks for. If that fails, sends the reason to the server and returns None."""
    start = connection.receive_one()
    assert isinstance(start, Start)
    logs.configure(*start.logs)
    try:
        parts = _assemble(connection, start)
    except OctavoError as error:
        connection.send(Failed(str(error), mistake=not isinstance(error, BackendLost)))
        return None
    except MemoryError:
        connection.send(Failed("not enough memory: lower kv_cache_memory or max_model_len", mistake=True))
        return None
    connection.send(engine_report.ready(parts))
    return parts


def _assemble(connection: ServerConnection, start: Start) -> assemble.Assembly:
    def report_progress(done: int, total: int) -> None:
        connection.send(Loading(done, total))

    return assemble.assemble(start.model, assemble.engine_config(**start.settings), start.tokenizer, report_progress)


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(status)  # skips the interpreter's clean-up: the system frees the memory faster
