"""A process that judges: chunks of records come by a pipe, replies go back."""

from multiprocessing.connection import Connection

from cvmboot.crew.chunk import Settings
from cvmboot.crew.life import serve
from cvmboot.fleet.judge import Judge


def judge(connection: Connection, settings: Settings) -> None:
    """The process's life."""
    serve(connection, Judge(settings).judge_all)
