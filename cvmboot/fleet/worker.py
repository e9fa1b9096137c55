"""A process that judges: takes chunks of records from a pipe, and gives back a reply for each, until the pipe is closed."""

import gc
from multiprocessing.connection import Connection

from cvmboot.fleet.judge import Judge, Settings

READY = "ready"


def serve(connection: Connection, settings: Settings) -> None:
    """The process's life. It begins with READY; a closed pipe ends it, also if who dealt the records was killed."""
    judge = Judge(settings)
    gc.collect()
    gc.freeze()  # what is there now stays: no need to look through it again and again
    try:
        connection.send(READY)
        while True:
            connection.send(judge.judge_all(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
