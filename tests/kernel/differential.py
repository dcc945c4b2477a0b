"""Random rulesets, one a seed, each in a kernel of its own: what the analysis says otherwise than real connections.

EC2SSH_SEED is the first seed (printed), EC2SSH_RULESETS how many; `EC2SSH_SEED=n EC2SSH_RULESETS=1` makes one again.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Optional

from ec2ssh_agent.reach.addresses import BITS, SPACE, format_address, parse_address, parse_cidr
from ec2ssh_agent.reach.question import Link, Listening, Local, Outcome, Question, Reach, Route
from ec2ssh_agent.reach.ruleset import Family
from nft_world import PORT, V4, V6, World, world

#: They mostly wait, for connections that time out.
WORLDS = 4


#: Asked of each ruleset, in each family.
SOURCES = 100
LOCALS = {Family.IPV4: V4, Family.IPV6: V6}
#: Nobody can be these: loopback, multicast, class E's end, mapped and link-local ones, and the host itself.
_BARRED = {
    Family.IPV4: ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", f"{V4}/32"),
    Family.IPV6: ("::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8", f"{V6}/128"),
}


def question(other: int) -> Question:
    """Of a `world`. `other`: the second port that something listens on."""
    own = tuple(Local(family, parse_address(text)[1], BITS[family]) for family, text in LOCALS.items())
    return Question(
        PORT,
        (Link("eth0", 2, own),),
        tuple(Listening(family, 0, port, True) for family in Family for port in (PORT, other)),
        tuple(Route(family, SPACE[family][0], "eth0") for family in Family),
    )


def near(edges: set[int], family: Family, *, chosen: random.Random) -> list[str]:
    """Sources at the edges of a ruleset's sets of addresses; where they are few, others besides."""
    barred = [parse_cidr(text)[1] for text in _BARRED[family]]

    def fair(address: int) -> bool:
        return 0 <= address < 1 << BITS[family] and not any(low <= address <= high for low, high in barred)

    found = [address for address in sorted({edge + step for edge in edges for step in (-1, 0, 1)}) if fair(address)]
    if len(found) > SOURCES:
        found = chosen.sample(found, SOURCES)
    while len(found) < SOURCES:
        address = chosen.randrange(1 << 32) if family is Family.IPV4 else (0x2001 << 112) + chosen.randrange(1 << 112)
        if fair(address):
            found.append(address)
    return [format_address(address, family) for address in found]


class Said(NamedTuple):
    """What the analysis says of one source, and the rules that make it, for a message."""

    outcome: Outcome
    possible: frozenset[str]
    limited: bool
    why: str


def said(reach: Reach, source: str) -> Said:
    family, address = parse_address(source)
    answer = next(answer for answer in reach.answers if answer.family is family)
    for outcome, ranges in answer.sources:
        if any(low <= address <= high for low, high in ranges):
            rules = [d for d in answer.rules if any(low <= address <= high for low, high in d.sources)]
            why = " | ".join(f"{d.stage} {d.table} {d.chain} {d.rule} {[p.value for p in d.possible]}" for d in rules)
            possible = frozenset(each.value for d in rules for each in d.possible)
            return Said(outcome, possible, any(d.rate_limited for d in rules), why)
    raise AssertionError(f"no answer for {source}")


def agree(compared: Callable[[World, int], Optional[str]], *, count: int, other: int) -> None:
    """Fails where `compared` finds a difference, or where more than a few rulesets are not taken by the kernel's tools.

    `compared` gives what differs for one seed, None: nothing; `!` and a complaint: the ruleset could not be loaded.
    `other`: the second port that something listens on.
    """
    first = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 31))
    count = int(os.environ.get("EC2SSH_RULESETS") or count)
    print(f"EC2SSH_SEED={first} EC2SSH_RULESETS={count}")

    def run(seeds: range) -> list[str]:
        with world(other=other) as place:
            return [found for found in (compared(place, seed) for seed in seeds) if found]

    seeds = range(first, first + count)
    with ThreadPoolExecutor(WORLDS) as pool:
        parts = pool.map(run, [seeds[start::WORLDS] for start in range(min(WORLDS, count))])
        found = [line for part in parts for line in part]
    refused = [line for line in found if line.startswith("!")]
    wrong = [line for line in found if not line.startswith("!")]
    print(f"{count} rulesets, {len(refused)} not taken by the tools, {len(wrong)} wrong", file=sys.stderr)
    print("\n".join(line[:400] for line in refused), file=sys.stderr)
    assert not wrong, "\n\n".join(wrong[:3])
    assert len(refused) <= count // 20 + 1, "\n".join(refused[:5])
