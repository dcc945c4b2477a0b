"""Run inside a network namespace: what observe sees there, pickled, in base64, on standard output.

`network`, or `bypass [xdp=IF|tcx=IF|cgroup=PATH]...` with such programs attached as long as it looks.
"""

from __future__ import annotations

import base64
import os
import pickle
import socket
import sys
from typing import Union

import bpf_attach
from ec2ssh_agent.facts import Network
from ec2ssh_agent.host import Host
from ec2ssh_agent.model import Seen, Unseen
from ec2ssh_agent.observe import bypass, network

MOUNT = next(path for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(f"{path}/cgroup.procs"))


def main() -> None:
    if sys.argv[1] == "network":
        fact: Union[Seen[Network], Seen[tuple[tuple[str, str], ...]], Unseen] = network.collect(Host())
    else:
        groups = []
        for kind, _, target in (word.partition("=") for word in sys.argv[2:]):
            if kind == "cgroup":
                groups.append(target)
                descriptor = os.open(MOUNT + target, os.O_RDONLY | os.O_DIRECTORY)
                bpf_attach.attach(bpf_attach.CGROUP_SKB, bpf_attach.CGROUP_INGRESS, descriptor)
            elif kind == "xdp":
                bpf_attach.attach(bpf_attach.XDP, bpf_attach.XDP_ATTACH, socket.if_nametoindex(target))
            else:
                bpf_attach.attach(bpf_attach.SCHED_CLS, bpf_attach.TCX_INGRESS, socket.if_nametoindex(target))
        fact = bypass.collect(Host(), groups)
    print(base64.b64encode(pickle.dumps(fact.value if isinstance(fact, Seen) else str(fact))).decode())


if __name__ == "__main__":
    main()
