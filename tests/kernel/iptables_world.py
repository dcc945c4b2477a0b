"""iptables rulesets loaded into a kernel, read back, analysed, and compared with what real connections live through."""

from __future__ import annotations

import random
from typing import NamedTuple, Optional

from differential import Said, near, question, said
from ec2ssh_agent.reach import analyse, ipsets
from ec2ssh_agent.reach import iptables as parser
from ec2ssh_agent.reach.addresses import parse_address
from ec2ssh_agent.reach.question import Outcome
from ec2ssh_agent.reach.ruleset import Backend, Family, Ruleset
from iptables_rulesets import HOOKS, Made
from nft_world import World

# Under 1024, where no client port is: else an answer may hang on that, and be uncertain.
OTHER, CLOSED = 222, 333
PROGRAMS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
VARIANTS = {Backend.LEGACY: "legacy", Backend.IPTABLES_NFT: "nft"}
EMPTY = "".join(
    "\n".join([f"*{table}", *(f":{hook} ACCEPT [0:0]" for hook in hooks), "COMMIT", ""])
    for table, hooks in HOOKS.items()
)
QUESTION = question(OTHER)


class Layer(NamedTuple):
    """One family's rules in one backend."""

    family: Family
    backend: Backend
    made: Made

    @property
    def restore(self) -> str:
        return f"{PROGRAMS[self.family]}-{VARIANTS[self.backend]}-restore"

    @property
    def save(self) -> str:
        return f"{PROGRAMS[self.family]}-{VARIANTS[self.backend]}-save"


def clean(place: World) -> None:
    for program in PROGRAMS.values():
        for variant in VARIANTS.values():
            place.host.run(f"{program}-{variant}-restore", stdin=EMPTY)
    # nf_tables lets go of what its rules used some time after they are gone.
    place.host.run(
        "sh", "-c", "ipset flush; for n in $(seq 100); do ipset destroy 2>/dev/null && exit; sleep 0.05; done; exit 1"
    )


def load(place: World, wanted: list[Layer]) -> Optional[str]:
    """iptables' complaint, where it has one."""
    clean(place)
    try:
        place.host.run("ipset", "restore", stdin="".join(layer.made.sets for layer in wanted))
        for layer in wanted:
            place.host.run(layer.restore, stdin=layer.made.text)
    except AssertionError as error:
        return f"{error}\n{wanted}"
    return None


def read(wanted: list[Layer], saved: dict[str, str], sets: str) -> Ruleset:
    found = ipsets.parse(sets)
    tables = [
        table
        for layer in wanted
        for table in parser.parse(saved[layer.save], family=layer.family, backend=layer.backend, ipsets=found).tables
    ]
    return Ruleset(tuple(tables))


def sources(wanted: list[Layer], family: Family, chosen: random.Random) -> list[str]:
    return near(
        {edge for layer in wanted if layer.family is family for edge in layer.made.edges}, family, chosen=chosen
    )


def wrongness(lived: str, found: Said, *, unknowable: bool, mixed: bool) -> bool:
    if lived == found.outcome.value:
        return False
    if found.limited:
        # The SYN that follows a dropped one finds what that one left in lists; limits are shared by all who ask.
        return lived not in found.possible
    if found.outcome is Outcome.UNCERTAIN and (unknowable or mixed):
        return lived not in found.possible
    return True


def differences(place: World, wanted: list[Layer], asked: list[str]) -> list[str]:
    """What the analysis of the rules that are loaded says otherwise than the kernel does."""
    saved = {layer.save: place.host.run(layer.save) for layer in wanted}
    # Once: the last packets of connections of before may still add to sets.
    sets = place.host.run("ipset", "save")
    reach = analyse(QUESTION, read(wanted, saved, sets))
    wrong = []
    written = analyse(QUESTION, read(wanted, {layer.save: layer.made.text for layer in wanted}, sets))
    for ours, theirs in zip(written.answers, reach.answers):
        if ours.sources != theirs.sources:
            wrong.append(f"{ours.family.value}: the text that was loaded and the text that was saved differ")
    for wait in (0.0, 0.0, 4.0):
        # A packet lost on a busy machine is no difference: what differs does so again, however long one waits.
        differing = []
        for source, lived in zip(asked, place.ask(asked, wait=wait)):
            family = parse_address(source)[0]
            mine = [layer for layer in wanted if layer.family is family]
            unknowable = any(layer.made.unknowable for layer in mine)
            found = said(reach, source)
            if lived is not None and wrongness(lived, found, unknowable=unknowable, mixed=len(mine) > 1):
                differing.append((source, f"{source}: kernel {lived}, analysis {found.outcome.value} by {found.why}"))
        asked = [source for source, _ in differing]
        if not asked:
            break
    return wrong + [line for _, line in differing]


def shown(wanted: list[Layer]) -> str:
    return "\n".join(f"# {layer.restore}\n{layer.made.sets}{layer.made.text}" for layer in wanted)
