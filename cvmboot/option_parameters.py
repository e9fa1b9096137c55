"""The options of `cvmboot run` as typer wants them, for every command that boots a machine."""

import inspect
from typing import Annotated, Any

import typer

from cvmboot.arguments import Option


def parameter(option: Option) -> inspect.Parameter:
    """What typer has to know of an option."""
    kind: Any = bool if option.convert is None else list[str] if option.many else str
    info = typer.Option(
        option.spelling, help=option.help, metavar=option.metavar or None, show_default=bool(option.default)
    )
    default: Any = False if option.convert is None else option.default or None
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind | None, info]
    )
