"""Random iptables rulesets, legacy, nft and both at once, against the kernel: real connections from every set's edges.

Seeds and counts: differential.py; one is an IPv4 and an IPv6 ruleset. The full run of issue 3:
`EC2SSH_RULESETS=2000 python -m pytest -q tests/kernel/test_differential_iptables.py`.
"""

from __future__ import annotations

import random
from typing import Optional

from differential import LOCALS, agree
from ec2ssh_agent.reach.ruleset import Backend, Family
from iptables_rulesets import Maker
from iptables_world import CLOSED, OTHER, VARIANTS, Layer, differences, load, shown, sources
from nft_world import PORT, World


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


def test_the_analysis_says_what_the_kernel_does_with_iptables() -> None:
    agree(compared, count=60, other=OTHER)
