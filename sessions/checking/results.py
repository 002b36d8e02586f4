"""Results of checks: what `moe-watch check` prints."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

CheckStatus = Literal["ok", "warning", "fail"]


class CheckResult(Struct, frozen=True, kw_only=True):
    """One check."""

    name: Annotated[str, Meta(description="Subject of the check.")]
    status: Annotated[
        CheckStatus,
        Meta(description="`ok`, `warning` (a run works, with a limitation) or `fail` (a run does not work)."),
    ]
    value: Annotated[str, Meta(description="What was measured or found, or why nothing was.")]
    advice: Annotated[str, Meta(description="What to do about it; empty if there is nothing to do.")]


class CheckReport(Struct, frozen=True, kw_only=True):
    """Checks of the machine, and of a model if one was given."""

    ok: Annotated[bool, Meta(description="No check failed; warnings are allowed. If false, the exit status is 1.")]
    model: Annotated[
        str | None, Meta(description="The checked model, as given; null if the machine alone was checked.")
    ]
    checks: Annotated[list[CheckResult], Meta(description="The checks in the order in which they were made.")]


def report_of(checks: list[CheckResult], model: str | None) -> CheckReport:
    """Return the report of finished checks."""
    return CheckReport(ok=all(each.status != "fail" for each in checks), model=model, checks=checks)


def fine(name: str, value: str, advice: str = "") -> CheckResult:
    """Return a check without a problem."""
    return CheckResult(name=name, status="ok", value=value, advice=advice)


def warning(name: str, value: str, advice: str = "") -> CheckResult:
    """Return a check with a limitation that a run can live with."""
    return CheckResult(name=name, status="warning", value=value, advice=advice)


def failure(name: str, value: str, advice: str = "") -> CheckResult:
    """Return a check with a problem that a run does not survive, or whose result cannot be trusted."""
    return CheckResult(name=name, status="fail", value=value, advice=advice)


def gigabytes(count: int) -> str:
    """Return bytes in GB (10⁹), or in MB below one GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
