"""The configuration files that sshd reads, and what they say of ports, addresses and host keys.

`sshd -T` is the authority; this is for knowing *which* files it read (for their hashes, and for the last known good
copy), and for an answer where `sshd -T` gives none. Source: sshd_config(5), OpenSSH's servconf.c.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Iterator

from ..facts import Effective
from ..host import Failed, Host, HostError
from ..plain import NamedTuple
from ..quick import sha256

MAIN = "/etc/ssh/sshd_config"
DIRECTORY = "/etc/ssh"
DEFAULT_KEYS = tuple(f"{DIRECTORY}/ssh_host_{kind}_key" for kind in ("rsa", "ecdsa", "ed25519"))
_DEPTH = 16  # SERVCONF_MAX_DEPTH
_FILES = 512
_LINE = re.compile(rb"^[ \t]*(include|match|port|listenaddress|hostkey)(?:[ \t]*=[ \t]*|[ \t]+)([^\n\0]*)", re.I | re.M)
_WORD = re.compile(r'"([^"]*)"|([^\s"]+)')


class Read(NamedTuple):
    """`files`: every file read, with its SHA-256, in order. `said`: (keyword in lower case, words) outside of Match.
    `places`: the directories that Include looks into, whether there is anything or not."""

    files: tuple[tuple[str, str], ...]
    said: tuple[tuple[str, tuple[str, ...]], ...]
    places: tuple[str, ...] = ()


def words(text: str) -> tuple[str, ...]:
    """The arguments of a line, quotes taken off; a word that begins with # starts a comment."""
    found = []
    for match in _WORD.finditer(text):
        if match.group(2) and match.group(2).startswith("#"):
            break
        found.append(match.group(1) if match.group(2) is None else match.group(2))
    return tuple(found)


def read(host: Host, main: str = MAIN) -> Read:
    """Raises NotFound where there is no `main`; Denied, TooLarge (a file over 1 MiB), Failed."""
    reader = _Reader(host)
    reader.file(main, 0, in_match=False)
    return Read(tuple(reader.files), tuple(reader.said), tuple(dict.fromkeys(reader.places)))


def places(host: Host, main: str) -> tuple[str, ...]:
    """Of a configuration that cannot be read whole: where its main file lies, and the directories that Include looks
    into, as far as it can be read."""
    reader = _Reader(host)
    with contextlib.suppress(HostError):
        reader.file(main, 0, in_match=False)
    return tuple(dict.fromkeys((main.rpartition("/")[0] or "/", *reader.places)))


class _Reader:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.files: list[tuple[str, str]] = []
        self.said: list[tuple[str, tuple[str, ...]]] = []
        self.places: list[str] = []

    def file(self, path: str, depth: int, *, in_match: bool) -> None:
        if depth > _DEPTH or len(self.files) >= _FILES:
            raise Failed(f"{path}: too many levels or files of Include")
        content = self.host.read(path)
        self.files.append((path, sha256(content).hexdigest()))
        for match in _LINE.finditer(content):
            keyword = match.group(1).decode().lower()
            given = words(match.group(2).decode("utf-8", "replace"))
            if keyword == "match":
                in_match = True  # to the end of this file
            elif keyword == "include":
                for pattern in given:
                    self.places.append(place(pattern))
                    for name in expand(self.host, pattern):
                        self.file(name, depth + 1, in_match=in_match)
            elif not in_match:
                self.said.append((keyword, given))


def expand(host: Host, pattern: str) -> tuple[str, ...]:
    """The files of an Include argument, as glob(3) gives them: sorted, hidden names only where asked for."""
    return tuple(_expand(host, "", _absolute(pattern).strip("/").split("/")))


def place(pattern: str) -> str:
    """The directory that an Include argument looks into; of a pattern for directories, the one above them."""
    return re.split(r"[*?[]", _absolute(pattern), maxsplit=1)[0].rpartition("/")[0] or "/"


def _absolute(pattern: str) -> str:
    return pattern if pattern.startswith("/") else f"{DIRECTORY}/{pattern}"


def _expand(host: Host, above: str, parts: list[str]) -> Iterator[str]:
    first, rest = parts[0], parts[1:]
    if any(c in first for c in "*?["):
        names = [name for name in host.listdir(above or "/") if fnmatch.fnmatchcase(name, first)]
        names = [name for name in names if not name.startswith(".") or first.startswith(".")]
    else:
        names = [first] if host.exists(f"{above}/{first}") else []
    for name in names:
        if rest:
            yield from _expand(host, f"{above}/{name}", rest)
        else:
            yield f"{above}/{name}"


def effective(said: tuple[tuple[str, tuple[str, ...]], ...]) -> Effective:
    """What the files say, with sshd's defaults for the rest: every Port, ListenAddress and HostKey line counts."""
    ports = [_port(given[0]) for keyword, given in said if keyword == "port" and given and _port(given[0])]
    listen = [given[0] for keyword, given in said if keyword == "listenaddress" and given]
    keys = [given[0] for keyword, given in said if keyword == "hostkey" and given]
    explicit = [port for port in map(port_of, listen) if port]
    if listen and len(explicit) == len(listen):
        ports = explicit  # Port counts only for addresses without one
    else:
        ports = (ports or [22]) + explicit
    keys = [key if key.startswith("/") else f"{DIRECTORY}/{key}" for key in keys]
    return Effective(tuple(dict.fromkeys(ports)), tuple(listen), tuple(dict.fromkeys(keys)) or DEFAULT_KEYS)


def port_of(address: str) -> int:
    """The port of `[::]:22`, `0.0.0.0:22`, `22`; 0 where there is none."""
    head, colon, tail = address.rpartition(":")
    if not colon:
        return _port(address)
    if ":" in head and not head.endswith("]"):
        return 0  # a bare IPv6 address
    return _port(tail)


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65536 else 0


def parse_dump(text: str) -> Effective:
    """The output of `sshd -T`: one keyword in lower case and its value a line."""
    ports: list[int] = []
    listen, keys, allow = [], [], []
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        if keyword == "port" and _port(value):
            ports.append(_port(value))
        elif keyword == "listenaddress":
            listen.append(value)
        elif keyword == "hostkey":
            keys.append(value)
        elif keyword in ("allowusers", "denyusers", "allowgroups", "denygroups"):
            allow.append(line)
    # `listenaddress` lines carry the port that sshd binds; `port` alone may not be used at all.
    bound = [port for port in map(port_of, listen) if port]
    return Effective(tuple(dict.fromkeys(bound or ports)), tuple(listen), tuple(keys), tuple(allow))


def environment(text: str) -> tuple[tuple[str, str], ...]:
    """An EnvironmentFile= (systemd.exec(5)) as far as sshd's need it: NAME=value lines, quotes, comments."""
    found = []
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and re.fullmatch(r"[A-Za-z_]\w*", name):
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found.append((name, value))
    return tuple(found)


def options(start: tuple[str, ...], variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """sshd's options out of ExecStart's argument list: `$NAME` is words, `${NAME}` a part of one (systemd.service(5)).

    Those that make it a daemon or a debug run are left out: -D, -d, -e, -i, -q, -t, -T, and -E with its file.
    """
    known = dict(variables)
    expanded: list[str] = []
    for word in start[1:]:
        if re.fullmatch(r"\$[A-Za-z_]\w*", word):
            expanded += known.get(word[1:], "").split()
        else:
            expanded.append(re.sub(r"\$\{(\w+)\}", lambda match: known.get(match.group(1), ""), word))
    kept: list[str] = []
    skip = False
    for word in expanded:
        if skip:
            skip = False
        elif word == "-E":
            skip = True
        elif word and not re.fullmatch(r"-[DdeiqtT]+|-E.+", word):
            kept.append(word)
    return tuple(kept)


def main_file(given: tuple[str, ...]) -> str:
    """The file that `-f` names, else sshd's own."""
    for number, word in enumerate(given):
        if word == "-f" and number + 1 < len(given):
            return given[number + 1]
        if word.startswith("-f") and len(word) > 2:
            return word[2:]
    return MAIN
