"""Random native nftables rulesets, loaded into a kernel and asked by real connections: the analysis says the same.

EC2SSH_SEED is the first seed (printed), EC2SSH_RULESETS how many rulesets. For one that differs, its text and the
sources that do are shown: `EC2SSH_SEED=n EC2SSH_RULESETS=1` makes it again.
"""

from __future__ import annotations

import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

from ec2ssh_agent.reach import analyse, nftables
from ec2ssh_agent.reach.addresses import format_address, parse_address, parse_cidr
from ec2ssh_agent.reach.question import Link, Listening, Local, Outcome, Question, Reach, Route
from ec2ssh_agent.reach.ruleset import Family
from nft_rulesets import Made, Maker
from nft_world import OTHER, PORT, V4, V6, World, world

WORLDS = 4
SOURCES = {Family.IPV4: 90, Family.IPV6: 50}
LOCALS = {Family.IPV4: V4, Family.IPV6: V6}
QUESTION = Question(
    PORT,
    (Link("eth0", 2, (Local(Family.IPV4, parse_address(V4)[1], 32), Local(Family.IPV6, parse_address(V6)[1], 128))),),
    tuple(Listening(family, 0, port, True) for family in Family for port in (PORT, OTHER)),
    (
        Route(Family.IPV4, parse_cidr("0.0.0.0/0")[1], "eth0"),
        Route(Family.IPV6, parse_cidr("::/0")[1], "eth0"),
    ),
)
#: Nobody can be these: loopback, multicast, class E's end, mapped and link-local ones, and the host itself.
_BARRED = {
    Family.IPV4: ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", f"{V4}/32"),
    Family.IPV6: ("::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8", f"{V6}/128"),
}


def sources(made: Made, family: Family, chosen: random.Random) -> list[str]:
    bits = 32 if family is Family.IPV4 else 128
    near = {edge + step for edge in made.edges[family] for step in (-1, 0, 1)}
    barred = [parse_cidr(text)[1] for text in _BARRED[family]]
    fair = [a for a in sorted(near) if 0 <= a < 1 << bits and not any(low <= a <= high for low, high in barred)]
    if len(fair) > SOURCES[family]:
        fair = chosen.sample(fair, SOURCES[family])
    while len(fair) < SOURCES[family] // 3:
        address = chosen.randrange(1 << bits) if family is Family.IPV4 else (0x2001 << 112) + chosen.randrange(1 << 112)
        if not any(low <= address <= high for low, high in barred):
            fair.append(address)
    return [format_address(address, family) for address in fair]


def said(reach: Reach, source: str) -> tuple[Outcome, frozenset[str], str]:
    """The outcome, what else there is for a source that is not idle, and the rules that make it, for a message."""
    family, address = parse_address(source)
    answer = next(answer for answer in reach.answers if answer.family is family)
    for outcome, ranges in answer.sources:
        if any(low <= address <= high for low, high in ranges):
            why = [d for d in answer.rules if any(low <= address <= high for low, high in d.sources)]
            others = frozenset(each.value for d in why if d.rate_limited for each in d.possible)
            return (
                outcome,
                others,
                " | ".join(f"{d.stage} {d.chain} {d.rule} {[p.value for p in d.possible]}" for d in why),
            )
    raise AssertionError(f"no answer for {source}")


def compared(place: World, seed: int) -> Optional[str]:
    """What differs between the kernel and the analysis; None: nothing. `!`: nft does not take the ruleset."""
    made = Maker(seed, port=PORT, locals=LOCALS, other=OTHER).make()
    refused = place.load(made.text)
    if refused:
        return "!" + refused.split("\n")[0]
    reach = analyse(QUESTION, nftables.parse(nftables.load(place.listing())))
    chosen = random.Random(seed)
    asked = [source for family in Family for source in sources(made, family, chosen)]
    wrong = []
    for source, lived in zip(asked, place.ask(asked)):
        outcome, others, why = said(reach, source)
        # The SYN that follows a dropped one finds what that one put into sets.
        if lived is not None and outcome.value != lived and lived not in others:
            wrong.append(f"{source}: kernel {lived}, analysis {outcome.value} by {why}")
    for _ in range(3):
        # A packet that is late on a busy machine is no difference: what differs does so every time.
        if not wrong:
            return None
        again = place.ask([line.split(": ")[0] for line in wrong])
        wrong = [line for line, lived in zip(wrong, again) if f"kernel {lived}," in line]
    return f"seed {seed}\n" + "\n".join(wrong[:10]) + f"\n{made.text}" if wrong else None


def run(seeds: list[int]) -> list[str]:
    with world() as place:
        return [found for found in (compared(place, seed) for seed in seeds) if found]


def test_the_analysis_says_what_the_kernel_does() -> None:
    first = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 31))
    count = int(os.environ.get("EC2SSH_RULESETS") or 80)
    print(f"EC2SSH_SEED={first} EC2SSH_RULESETS={count}")
    seeds = list(range(first, first + count))
    with ThreadPoolExecutor(WORLDS) as pool:
        parts = pool.map(run, [seeds[start::WORLDS] for start in range(WORLDS) if seeds[start::WORLDS]])
        found = [line for part in parts for line in part]
    refused = [line for line in found if line.startswith("!")]
    wrong = [line for line in found if not line.startswith("!")]
    print(f"{count} rulesets, {len(refused)} not taken by nft, {len(wrong)} wrong", file=sys.stderr)
    assert not wrong, "\n\n".join(wrong[:3])
    assert len(refused) <= count // 20 + 1, "\n".join(refused[:5])
