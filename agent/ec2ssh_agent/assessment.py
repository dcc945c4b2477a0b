"""What a diagnosis hands to the plan: the verdict, the findings, and who ought to get in but does not. Pure data."""

from __future__ import annotations

from .model import Finding, Health
from .plain import NamedTuple
from .reach.question import Deciding, Reach
from .reach.ruleset import Family, Ranges


class Gap(NamedTuple):
    """Sources that ought to connect and surely do not. `blockers`: the rules of the firewall or libwrap that decide."""

    interface: str
    family: Family
    port: int
    wanted: Ranges
    blockers: tuple[Deciding, ...]
    regression: bool = True  # they got in before, or the configuration expects them; else nobody ever did


class Assessment(NamedTuple):
    health: Health
    findings: tuple[Finding, ...]
    reach: Reach = Reach(())
    gaps: tuple[Gap, ...] = ()
    summary: str = ""
