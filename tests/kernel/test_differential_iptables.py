"""Random iptables rulesets, legacy, nft and both at once, against the kernel: real connections from every set's edges.

EC2SSH_SEED is the first seed (printed), EC2SSH_RULESETS how many rulesets (one is an IPv4 and an IPv6 ruleset).
`EC2SSH_SEED=n EC2SSH_RULESETS=1` makes one again. The full run of issue 3:
`EC2SSH_RULESETS=2000 python -m pytest -q tests/kernel/test_differential_iptables.py`.
"""

from __future__ import annotations

import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

from ec2ssh_agent.reach.ruleset import Backend, Family
from iptables_rulesets import Maker
from iptables_world import CLOSED, LOCALS, OTHER, VARIANTS, Layer, differences, load, shown, sources
from nft_world import PORT, World, world

WORLDS = 4


def layers(seed: int) -> list[Layer]:
    chosen = random.Random(f"layers {seed}")
    out = []
    for family in Family:
        backends = chosen.choice(((Backend.LEGACY,), (Backend.LEGACY,), (Backend.IPTABLES_NFT,), tuple(VARIANTS)))
        for backend in backends:
            maker = Maker(
                f"{seed} {family} {backend}", family, local=LOCALS[family], port=PORT, other=OTHER, closed=CLOSED
            )
            if backend is not backends[0]:
                maker.prefix += "x"  # ipsets are shared by both backends
            out.append(Layer(family, backend, maker.make()))
    return out


def compared(place: World, seed: int) -> Optional[str]:
    """What differs between the kernel and the analysis; None: nothing. `!`: iptables does not take the ruleset."""
    wanted = layers(seed)
    refused = load(place, wanted)
    if refused:
        return "!" + refused
    chosen = random.Random(f"sources {seed}")
    asked = [source for family in Family for source in sources(wanted, family, chosen)]
    wrong = differences(place, wanted, asked)
    return f"seed {seed}\n" + "\n".join(wrong[:10]) + f"\n{shown(wanted)}" if wrong else None


def run(seeds: list[int]) -> list[str]:
    with world(other=OTHER) as place:
        return [found for found in (compared(place, seed) for seed in seeds) if found]


def test_the_analysis_says_what_the_kernel_does_with_iptables() -> None:
    first = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 31))
    count = int(os.environ.get("EC2SSH_RULESETS") or 60)
    print(f"EC2SSH_SEED={first} EC2SSH_RULESETS={count}")
    seeds = list(range(first, first + count))
    with ThreadPoolExecutor(WORLDS) as pool:
        parts = pool.map(run, [seeds[start::WORLDS] for start in range(WORLDS) if seeds[start::WORLDS]])
        found = [line for part in parts for line in part]
    refused = [line for line in found if line.startswith("!")]
    wrong = [line for line in found if not line.startswith("!")]
    print(f"{count} rulesets, {len(refused)} not taken by iptables, {len(wrong)} wrong", file=sys.stderr)
    print("\n".join(line[:400] for line in refused), file=sys.stderr)
    print("\n".join("\n".join(line.split("\n")[:2]) for line in wrong), file=sys.stderr)
    assert not wrong, "\n\n".join(wrong[:3])
    assert len(refused) <= count // 20 + 1, "\n".join(refused[:5])
