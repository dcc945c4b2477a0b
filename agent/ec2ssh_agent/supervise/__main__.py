"""The daemon in an interpreter of its own: python3 -I …/supervise/__main__.py CONFIG ROOT (loop.run starts it so)."""

from __future__ import annotations

import os
import sys


def main() -> int:
    # Isolated mode leaves PYTHONPATH and the working directory out, so the package's place has to be put in.
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if package not in sys.path:
        sys.path.insert(0, package)
    from ec2ssh_agent.supervise.loop import serve

    return serve(sys.argv[1], sys.argv[2])


sys.exit(main())
