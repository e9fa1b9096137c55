"""What a deployment will make, as a table for people and as plain data for machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import IO, TYPE_CHECKING, Any

from cloud.journal import DELETED, DONE, MADE, StepRecord
from cloud.steps import Step

if TYPE_CHECKING:
    from rich.console import Console

CREATE, FINISH, KEEP = "create", "finish", "keep"
OK, WARNING, BAD = "ok", "warning", "bad"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at before anything costs money. `text` says what was seen, and for BAD what was wanted."""

    what: str
    outcome: str
    text: str = ""


@dataclass(frozen=True)
class PlanRow:
    """One line of a plan. `action`: CREATE, FINISH (begun by an earlier try) or KEEP."""

    action: str
    step: str
    what: str
    cost: str


@dataclass(frozen=True)
class Plan:
    """What `deploy` is about to do."""

    title: str
    rows: list[PlanRow]
    checks: list[Check]
    settings: dict[str, str]
    """What a person should see once more: image digest, machine type, whether it is reachable from outside, ..."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "title": self.title,
            "settings": self.settings,
            "checks": [vars(check) for check in self.checks],
            "steps": [vars(row) for row in self.rows],
        }


def plan_of(
    title: str,
    steps: Sequence[Step],
    records: Mapping[str, StepRecord],
    checks: list[Check],
    settings: dict[str, str],
) -> Plan:
    """The plan of a run, of which `records` are the steps that earlier tries took."""
    rows = []
    for step in steps:
        record = records.get(step.name)
        done = record is not None and record.state in (DONE, DELETED)
        action = KEEP if done else FINISH if record is not None and record.state == MADE else CREATE
        rows.append(PlanRow(action, step.name, *step.describe()))
    return Plan(title, rows, checks, settings)


def write_plan(plan: Plan, output: IO[str]) -> None:
    """Write a plan as a table; colours only on a terminal."""
    from rich.console import Console

    if not output.isatty():
        text = StringIO()
        _write(plan, Console(file=text, highlight=False, width=200, no_color=True, markup=False))
        output.write("".join(line.rstrip() + "\n" for line in text.getvalue().splitlines()))
    else:
        _write(plan, Console(file=output, highlight=False, markup=False))


def _write(plan: Plan, console: "Console") -> None:
    from rich.table import Table

    console.print(plan.title, style="bold")
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    for name, value in plan.settings.items():
        facts.add_row(name, value)
    console.print(facts)
    table = Table(box=None, padding=(0, 2, 0, 1), header_style="bold")
    for title in ("", "what", "cost"):
        table.add_column(title)
    for row in plan.rows:
        table.add_row(row.action, row.what, row.cost)
    console.print(table)
    for check in plan.checks:
        style = {OK: "green", WARNING: "yellow", BAD: "red"}[check.outcome]
        console.print(f" {check.outcome:8} {check.what}{': ' if check.text else ''}{check.text}", style=style)
