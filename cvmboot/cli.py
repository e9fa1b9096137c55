"""The command line's door: `cvmboot` and `python -m cvmboot`.

Nothing heavy is imported here: a run has to stand at the guest's prompt a fraction of a second later.
"""

import os
import sys

from cvmboot.errors import CvmbootError, UsageError
from cvmboot.status import BROKEN_PIPE, ERROR, INTERRUPTED, USAGE


def complain(text: str) -> None:
    """One line of our own on standard error."""
    try:
        sys.stderr.write(f"cvmboot: {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody listens


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    try:
        return _main(words)
    except UsageError as error:
        complain(str(error))
        return USAGE
    except CvmbootError as error:
        if debug:
            raise
        complain(str(error))
        return ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What Python still holds back for standard output must not fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except Exception as error:
        if debug:
            raise
        complain(f"internal error: {type(error).__name__}: {error}; run again with --debug for the traceback")
        return ERROR


def _main(words: list[str]) -> int:
    if words[:1] == ["run"]:
        from cvmboot.arguments import read_quickly

        plain = read_quickly(words[1:])
        if plain is not None:
            from cvmboot.run import run

            return run(*plain)
    elif words == ["--version"]:
        from cvmboot.version import version

        sys.stdout.write(f"cvmboot {version()}\n")
        return 0
    from cvmboot.commands import run_command_line

    return run_command_line(words)
