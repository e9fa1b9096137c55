"""A process that judges: takes chunks of records from a pipe, and gives back a reply for each, until the pipe is closed."""

from multiprocessing.connection import Connection

from cvmboot.fleet.judge import Judge, Settings

READY = "ready"


def serve(connection: Connection, settings: Settings) -> None:
    """The process's life. It begins with READY; a closed pipe ends it, also if who dealt the records was killed."""
    judge = Judge(settings)
    try:
        connection.send(READY)
        while True:
            connection.send(judge.judge_all(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
