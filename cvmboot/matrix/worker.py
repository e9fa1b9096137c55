"""A process that plays cases: one after the other, each with a machine of its own. If who dealt them is gone, it ends at once."""

from multiprocessing.connection import Connection
from pathlib import Path

from cvmboot.crew.chunk import Record, Reply, Settings
from cvmboot.crew.life import serve
from cvmboot.matrix.play import Play


def play(connection: Connection, settings: Settings) -> None:
    """The process's life; the settings name a folder as `scratch`, which who started it removes: it may be killed."""
    scratch = Path(settings["scratch"])

    def work(records: list[Record]) -> Reply:
        return {"results": [Play(record, scratch, connection.send).run() for record in records]}

    serve(connection, work, at_once=True)
