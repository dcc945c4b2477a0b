"""Random native nftables rulesets, loaded into a kernel and asked by real connections: the analysis says the same.

Seeds and counts: differential.py. The full run of issue 3:
`EC2SSH_RULESETS=2000 python -m pytest -q tests/kernel/test_nft_random.py`.
"""

from __future__ import annotations

import random
from typing import Optional

from differential import LOCALS, agree, near, question, said
from ec2ssh_agent.reach import analyse, nftables
from ec2ssh_agent.reach.ruleset import Family
from nft_rulesets import Maker
from nft_world import OTHER, PORT, World

QUESTION = question(OTHER)


def compared(place: World, seed: int) -> Optional[str]:
    """What differs between the kernel and the analysis; None: nothing. `!`: nft does not take the ruleset."""
    made = Maker(seed, port=PORT, locals=LOCALS, other=OTHER).make()
    refused = place.load(made.text)
    if refused:
        return "!" + refused.split("\n")[0]
    reach = analyse(QUESTION, nftables.parse(nftables.load(place.listing())))
    chosen = random.Random(seed)
    asked = [source for family in Family for source in near(set(made.edges[family]), family, chosen=chosen)]
    wrong = []
    for source, lived in zip(asked, place.ask(asked)):
        found = said(reach, source)
        # The SYN that follows a dropped one finds what that one put into sets.
        fits = lived == found.outcome.value or found.limited and lived in found.possible
        if lived is not None and not fits:
            wrong.append(f"{source}: kernel {lived}, analysis {found.outcome.value} by {found.why}")
    for _ in range(3):
        # A packet that is late on a busy machine is no difference: what differs does so every time.
        if not wrong:
            return None
        again = place.ask([line.split(": ")[0] for line in wrong])
        wrong = [line for line, lived in zip(wrong, again) if f"kernel {lived}," in line]
    return f"seed {seed}\n" + "\n".join(wrong[:10]) + f"\n{made.text}" if wrong else None


def test_the_analysis_says_what_the_kernel_does() -> None:
    agree(compared, count=80, other=OTHER)
