"""The script of a crew's process: its argument is the descriptor of a pipe, which says the rest.

It is run by its path, not as a module of a package, so that nothing is imported before `sys.path` is who started it has. (What
`multiprocessing` starts, a Dask worker may not start.)
"""

import sys
from multiprocessing.connection import Connection


def main() -> None:
    """Take over `sys.path`, then live the life that the pipe names."""
    connection: Connection = Connection(int(sys.argv[1]))
    try:
        sys.path[:] = connection.recv()
        life, settings = connection.recv()
    except EOFError:  # who started us is gone already
        return
    life(connection, settings)


if __name__ == "__main__":
    main()
