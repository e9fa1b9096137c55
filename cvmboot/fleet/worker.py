"""A process that judges: takes chunks of records from a pipe, and gives back a reply for each, until the pipe is closed."""

import gc
import queue
import threading
from multiprocessing.connection import Connection
from typing import Any

from cvmboot.fleet.judge import Judge, Settings

READY = "ready"


def serve(connection: Connection, settings: Settings) -> None:
    """The process's life. It begins with READY; a closed pipe ends it, also if who dealt the records was killed."""
    judge = Judge(settings)
    gc.collect()
    gc.freeze()  # what is there now stays: no need to look through it again and again
    chunks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # The pipe is read while a chunk is judged, so that whoever deals never waits for us, nor both for each other.
    threading.Thread(target=_take, args=(connection, chunks), daemon=True).start()
    try:
        connection.send(READY)
        while (records := chunks.get()) is not None:
            connection.send(judge.judge_all(records))
    except (BrokenPipeError, ConnectionResetError):
        return


def _take(connection: Connection, chunks: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            chunks.put(connection.recv())
    except (EOFError, OSError):
        chunks.put(None)
