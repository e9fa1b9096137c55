"""The life of a crew's process: takes chunks from its pipe, and gives a reply for each, until the pipe is closed."""

import gc
import os
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from cvmboot.crew.chunk import Record, Reply

READY = "ready"


def serve(connection: Connection, work: Callable[[list[Record]], Reply], at_once: bool = False) -> None:
    """Begins with READY; a closed pipe ends it, also if who dealt the records was killed: behind the chunk that is in work, or
    `at_once`."""
    gc.collect()
    gc.freeze()  # what is there now stays: no need to look through it again and again
    chunks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # The pipe is read while a chunk is worked on, so that whoever deals never waits for us, nor both for each other.
    threading.Thread(target=_take, args=(connection, chunks, at_once), daemon=True).start()
    try:
        connection.send(READY)
        while (records := chunks.get()) is not None:
            connection.send(work(records))
    except (BrokenPipeError, ConnectionResetError):
        return


def _take(connection: Connection, chunks: "queue.SimpleQueue[Any]", at_once: bool) -> None:
    try:
        while True:
            chunks.put(connection.recv())
    except (EOFError, OSError):
        if at_once:
            os._exit(1)
        chunks.put(None)
