"""What stands in the path of a packet besides netfilter, and that nobody can evaluate: XDP, tc filters, BPF, XFRM.

XDP and tc (classic filters, and tcx) belong to an interface; BPF on sshd's cgroup and IPsec policies to the host.
Sources: tc(8), bpf(2) BPF_PROG_QUERY, ip-xfrm(8), include/uapi/linux/{if_link,rtnetlink,bpf,xfrm}.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

from ..host import Host, HostError, NotFound
from ..model import Fact, Seen, Unseen
from ..netlink import Message
from .dumps import attributes, dump, text, translate
from .network import Hardware, read_links

Found = tuple[str, str]  # interface or "", what

_GETQDISC, _GETTFILTER = 38, 46
_NEWQDISC, _NEWTFILTER = 36, 44
_TC = struct.Struct("=BxxxiIII")
_INGRESS, _CLSACT_INGRESS, _CLSACT_EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
_TCX = (46, 47)  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
_CGROUP_INET = (0, 1)  # BPF_CGROUP_INET_INGRESS, _EGRESS
_EFFECTIVE = 1  # BPF_F_QUERY_EFFECTIVE: those inherited from the groups above, too
_PROG_QUERY = 16
_BPF_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351, "i686": 357}
_XFRM, _GETPOLICY = 6, 0x15
_POLICY = struct.Struct("=16s16sHHHHHBBBxxxiI")  # struct xfrm_selector
_POLICY_SIZE = 168  # struct xfrm_userpolicy_info
_POLICY_DIRECTION = 160
_TEMPLATES = 5


def collect(host: Host, control_groups: Iterable[str]) -> Fact[tuple[Found, ...]]:
    """(interface or "", xdp, tc-bpf, tc-<kind>, cgroup-bpf or xfrm). `control_groups` are those of sshd's units."""
    found: list[Found] = []
    hidden: list[str] = []
    if not host.exists("/proc/sys/net"):
        return Unseen("no network of a running kernel")
    looks: tuple[tuple[str, Callable[[], Iterable[Found]]], ...] = (
        ("XDP and tc", lambda: _on_links(read_links())),
        ("tcx", lambda: _tcx(read_links())),
        ("cgroup BPF", lambda: _on_groups(host, control_groups)),
        ("XFRM", lambda: policies(dump(_XFRM, _GETPOLICY, b"\0" * 64))),
    )
    for name, look in looks:
        try:
            found += tuple(look())
        except NotFound:
            continue  # this kernel has nothing of the kind
        except HostError as error:
            hidden.append(f"{name}: {error}")
    if hidden and not found:
        return Unseen("; ".join(hidden))
    return Seen(tuple(dict.fromkeys(found)), "; ".join(hidden))


# -- interfaces


def _on_links(links: tuple[Hardware, ...]) -> Iterator[Found]:
    names = {link.interface.index: link.interface.name for link in links}
    for link in links:
        if link.xdp:
            yield link.interface.name, "xdp"
    parents = tuple(qdiscs(dump(socket.NETLINK_ROUTE, _GETQDISC, _TC.pack(0, 0, 0, 0, 0))))
    for index, parent in parents:
        for kind in filters(dump(socket.NETLINK_ROUTE, _GETTFILTER, _TC.pack(0, index, 0, parent, 0))):
            yield names.get(index, ""), f"tc-{kind}"


def _tcx(links: tuple[Hardware, ...]) -> Iterator[Found]:
    """tc's BPF programs by links, which no dump shows. Kernels before 6.6 have none: NotFound."""
    for link in links:
        if any(attached(link.interface.index, kind) for kind in _TCX):
            yield link.interface.name, "tc-bpf"


def qdiscs(messages: Iterable[Message]) -> Iterator[tuple[int, int]]:
    """Of RTM_NEWQDISC messages (interface index, parent) where filters may hang that see every packet."""
    for message in messages:
        if message.type == _NEWQDISC and len(message.body) >= _TC.size:
            index = _TC.unpack_from(message.body)[1]
            kind = text(attributes(message.body, _TC.size).get(1, b""))
            if kind == "clsact":
                yield index, _CLSACT_INGRESS
                yield index, _CLSACT_EGRESS
            elif kind == "ingress":
                yield index, _INGRESS


def filters(messages: Iterable[Message]) -> Iterator[str]:
    """The kinds of the filters: bpf, flower, u32, ..."""
    for message in messages:
        if message.type == _NEWTFILTER and len(message.body) >= _TC.size:
            yield text(attributes(message.body, _TC.size).get(1, b"")) or "filter"


# -- cgroups


def _on_groups(host: Host, control_groups: Iterable[str]) -> Iterator[Found]:
    """On the root group and on those of sshd's units, whatever is in force there."""
    mount = next((path for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if _is_v2(host, path)), "")
    for group in dict.fromkeys(("/", *control_groups)):
        path = f"{mount}{group}".rstrip("/")
        if not mount or not host.exists(path):
            continue
        try:
            descriptor = os.open(host.path(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise translate(error.errno or 0, path) from error
        try:
            if any(attached(descriptor, kind, _EFFECTIVE) for kind in _CGROUP_INET):
                yield "", "cgroup-bpf"
        finally:
            os.close(descriptor)


def _is_v2(host: Host, path: str) -> bool:
    return host.exists(f"{path}/cgroup.procs") and not host.exists(f"{path}/release_agent")


class _Query(ctypes.Structure):
    """union bpf_attr's query part."""

    _fields_ = [
        ("target", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("programs", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("rest", ctypes.c_uint64 * 4),
    ]


def attached(target: int, attach_type: int, query_flags: int = 0) -> int:
    """How many BPF programs hang there. `target` is a cgroup's descriptor, or an interface's index (tcx).

    Raises Denied; NotFound where this kernel has no such attach point.
    """
    number = _BPF_CALL.get(os.uname().machine)
    if number is None:
        raise NotFound(f"bpf(2): not known on {os.uname().machine}")
    query = _Query(target=target, attach_type=attach_type, query_flags=query_flags)
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(number, _PROG_QUERY, ctypes.byref(query), ctypes.sizeof(query)) < 0:
        code = ctypes.get_errno()
        if code == errno.ENOSPC:
            return int(query.count)
        if code == errno.ENOSYS:
            raise NotFound("bpf(2): not in this kernel")
        raise translate(code, "bpf(2)")
    return int(query.count)


# -- IPsec


def policies(messages: Iterable[Message]) -> Iterator[Found]:
    """One ("", "xfrm") for each policy that may concern TCP to or from this host, and demands or blocks something."""
    for message in messages:
        if len(message.body) < _POLICY_SIZE:
            continue
        direction, action = message.body[_POLICY_DIRECTION], message.body[_POLICY_DIRECTION + 1]
        protocol = message.body[44]
        demands = bool(attributes(message.body, _POLICY_SIZE).get(_TEMPLATES))
        if direction < 2 and protocol in (0, socket.IPPROTO_TCP) and (action != 0 or demands):
            yield "", "xfrm"
