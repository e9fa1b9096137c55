"""Help texts as typer shows them best: paragraphs that fit the terminal, and examples on lines of their own."""

import inspect
from typing import Any

import typer

_WRAPPED = 80
"""A line of at least so many characters was wrapped to fit our source; a shorter one ends where its writer wanted it to end."""


def lay_out(part: typer.Typer) -> None:
    """Mend the texts of an application's commands, and of the groups in it."""
    for command in part.registered_commands:
        command.help = command.help or inspect.getdoc(command.callback)
    infos: list[Any] = [*part.registered_commands, *filter(None, (part.registered_callback,)), part.info]
    for info in infos:
        if isinstance(info.help, str):
            info.help = _unwrapped(info.help)
        info.epilog = _with_lines(info.epilog)
    for group in part.registered_groups:
        if group.typer_instance is not None:
            lay_out(group.typer_instance)


def _unwrapped(text: str) -> str:
    lines: list[str] = []
    wrapped = False
    for line in inspect.cleandoc(text).split("\n"):
        if wrapped and line.strip() and not line.startswith(" "):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
        wrapped = len(line) >= _WRAPPED
    return "\n".join(lines)


def _with_lines(text: Any) -> Any:
    """An epilog whose examples stay on lines of their own: typer makes one paragraph of what no empty line parts."""
    if not isinstance(text, str) or "\b\n" not in text:
        return text
    before, *blocks = text.replace("[", "\\[").split("\b\n")
    lines = [line for block in blocks for line in block.strip("\n").split("\n") if line.strip()]
    return "\n\n".join((before.strip(), *lines))
