"""The mutable set of sources does what the immutable ranges do."""

from __future__ import annotations

import os
import random

from ec2ssh_agent.reach import addresses, sources


def test_taking_adding_and_looking_agree_with_plain_ranges() -> None:
    seed = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for _ in range(3):
        top = chosen.choice((200, 100_000))
        plain: addresses.Ranges = ((0, top),)
        kept = sources.Sources(plain)
        for _ in range(4000):
            wide = chosen.choice((0, 0, 1, 3, 50))
            part = addresses.normal(
                (low, low + chosen.randint(0, wide))
                for low in (chosen.randrange(top) for _ in range(chosen.choice((1, 1, 3))))
            )
            shared = addresses.intersect(plain, part)
            assert kept.overlap(part) == shared
            if chosen.random() < 0.4:
                kept.add(part)
                plain = addresses.union(plain, part)
            else:
                assert kept.cut(part) == shared
                plain = addresses.subtract(plain, part)
            assert bool(kept) == bool(plain)
        assert kept.all() == plain
