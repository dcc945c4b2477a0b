"""Attaches trivial BPF programs (that pass everything) by links, which end with the process that holds them.

Source: bpf(2), include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_NUMBER = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_LOAD, _LINK_CREATE = 5, 28
CGROUP_SKB, SCHED_CLS, XDP = 8, 3, 6  # program types
CGROUP_INGRESS, XDP_ATTACH, TCX_INGRESS = 0, 37, 46  # attach types
_PASS = {CGROUP_SKB: 1, SCHED_CLS: 0xFFFFFFFF, XDP: 2}  # allow, TCX_NEXT, XDP_PASS


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    got: int = ctypes.CDLL(None, use_errno=True).syscall(_NUMBER, command, buffer, len(attributes))
    if got < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return got


def attach(program_type: int, attach_type: int, target: int) -> int:
    """The link's descriptor. `target` is a cgroup's descriptor or an interface's index. Raises OSError."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, struct.unpack("=i", struct.pack("=I", _PASS[program_type]))[0])  # r0 = pass
    instructions = ctypes.create_string_buffer(code + struct.pack("=BBhi", 0x95, 0, 0, 0))  # exit
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack("=IIQQIIQII16sII", program_type, 2, ctypes.addressof(instructions), ctypes.addressof(licence),
                       0, 0, 0, 0, 0, b"probe", 0, attach_type)  # fmt: skip
    program = _bpf(_LOAD, load)
    return _bpf(_LINK_CREATE, struct.pack("=IIII", program, target, attach_type, 0) + bytes(32))
