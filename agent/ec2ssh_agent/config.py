"""INI files to one frozen Config: /etc/ec2ssh-agent/agent.conf, then agent.conf.d/*.conf in order; later files win.

The format is contracts.md's: one key a line, comments on lines of their own, durations `300ms 2s 5m 1h`, sizes
`16MiB`. Every key has a default. An unknown key or section and a bad value are errors that name file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Optional

from . import codec
from .host import Host, HostError
from .model import ConfigError
from .plain import NamedTuple
from .reach.addresses import parse_cidr
from .reach.ruleset import Family

DIRECTORY = "/etc/ec2ssh-agent"
FILE = f"{DIRECTORY}/agent.conf"


class Config(NamedTuple):
    """Durations in seconds, sizes in bytes. The names are `section_key`; `origin` says where each value comes from."""

    expect_port: Optional[int] = None
    expect_clients: tuple[tuple[Family, tuple[int, int]], ...] = ()
    expect_interfaces: tuple[str, ...] = ()
    watch_interval: float = 1800.0
    watch_pulse: float = 1.0
    watch_probe_interval: float = 60.0
    repair_mode: str = "repair"
    repair_settle: float = 0.3
    repair_baseline_after: float = 60.0
    repair_without_baseline: str = "open"
    repair_firewall: str = "open"
    repair_sshd: str = "restore"
    repair_tcp_wrappers: str = "allow"
    repair_max_attempts: int = 3
    repair_window: float = 600.0
    repair_grace: float = 0.0
    report_url: str = ""
    report_format: str = "json"
    report_interval: float = 300.0
    report_token_file: str = ""
    report_hmac_key_file: str = ""
    report_client_cert: str = ""
    report_client_key: str = ""
    report_ca_file: str = ""
    report_spool_max: int = 16 << 20
    identity_imds: str = "auto"
    console_summary: str = "on-change"
    origin: tuple[tuple[str, str], ...] = ()

    def where(self, name: str) -> str:
        return dict(self.origin).get(name, "default")


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_duration(text: str) -> float:
    """Seconds. `300ms`, `2s`, `5m`, `1h`, `1d`, `0s`. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)", text)
    if not match:
        raise ValueError("a duration is a number and a unit: 300ms, 2s, 5m, 1h")
    return float(match.group(1)) * _UNITS[match.group(2)]


def _duration(least: float, most: float = 366 * 86400.0) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = parse_duration(text)
        if not least <= value <= most:
            raise ValueError(f"out of range, from {least:g}s to {most:g}s")
        return value

    return parse


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12})\s*(B|KiB|MiB|GiB)?", text)
    if not match:
        raise ValueError("a size is a number and a unit: 512KiB, 16MiB")
    value = int(match.group(1)) * _SIZES[match.group(2) or ""]
    if value < 64 << 10:
        raise ValueError("not under 64KiB")
    return value


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text

    return parse


def _port(text: str) -> Optional[int]:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise ValueError("auto, or a port from 1 to 65535")
    return int(text)


def _clients(text: str) -> tuple[tuple[Family, tuple[int, int]], ...]:
    return tuple(parse_cidr(word) for word in text.replace(",", " ").split())


def _interfaces(text: str) -> tuple[str, ...]:
    names = tuple(text.replace(",", " ").split())
    if names == ("auto",):
        return ()
    for name in names:
        if len(name) > 15 or "/" in name:
            raise ValueError(f"no interface has the name {name}")
    return names


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1000):
        raise ValueError("a number from 1 to 1000")
    return int(text)


def _path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("an absolute path")
    return text


def _url(text: str) -> str:
    if text and not re.match(r"(https?|http\+unix)://[^\s/]", text):
        raise ValueError("an https://, http:// or http+unix:// address")
    return text


def _imds(text: str) -> str:
    return text if text in ("auto", "off") else _url(text)


KEYS: dict[str, Callable[[str], Any]] = {
    "expect_port": _port,
    "expect_clients": _clients,
    "expect_interfaces": _interfaces,
    "watch_interval": _duration(1.0),
    "watch_pulse": _duration(0.1, 3600.0),
    "watch_probe_interval": _duration(10.0),
    "repair_mode": _one_of("off", "dry-run", "repair"),
    "repair_settle": _duration(0.0, 3600.0),
    "repair_baseline_after": _duration(0.0),
    "repair_without_baseline": _one_of("open", "report"),
    "repair_firewall": _one_of("off", "open", "disable"),
    "repair_sshd": _one_of("off", "restart", "restore"),
    "repair_tcp_wrappers": _one_of("off", "allow"),
    "repair_max_attempts": _count,
    "repair_window": _duration(1.0),
    "repair_grace": _duration(0.0),
    "report_url": _url,
    "report_format": _one_of("json", "otlp", "alertmanager"),
    "report_interval": _duration(10.0),
    "report_token_file": _path,
    "report_hmac_key_file": _path,
    "report_client_cert": _path,
    "report_client_key": _path,
    "report_ca_file": _path,
    "report_spool_max": _size,
    "identity_imds": _imds,
    "console_summary": _one_of("off", "on-change"),
}
_SECTIONS = {name.split("_", 1)[0] for name in KEYS}


def parse(text: str, file: str) -> Iterable[tuple[str, Any, str]]:
    """(name, value, file:line) of each key. Raises ConfigError."""
    section = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        where = f"{file}:{number}"
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            section = line[1:-1].strip()
            if not line.endswith("]") or section not in _SECTIONS:
                raise ConfigError(f"{where}: unknown section {line}")
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        name = f"{section}_{key}"
        if not equals:
            raise ConfigError(f"{where}: not a section, `key = value` or a comment: {line[:80]!r}")
        if name not in KEYS or "_" in section:
            raise ConfigError(f"{where}: unknown key {key!r}" + (f" in [{section}]" if section else ", in no section"))
        try:
            yield name, KEYS[name](value), where
        except ValueError as error:
            raise ConfigError(f"{where}: {key} = {value[:80]}: {error}") from error


def files(host: Host, path: str = FILE) -> tuple[str, ...]:
    """The files that are there, in the order in which they are read."""
    directory = path + ".d"
    names = [f"{directory}/{name}" for name in host.listdir(directory) if name.endswith(".conf")]
    return tuple(name for name in (path, *names) if host.exists(name))


def load(host: Host, path: str = FILE, *, must_exist: bool = False) -> Config:
    """The effective configuration. Raises ConfigError for what cannot be used.

    Files that others than root can write are refused while repairs are on: who can write them is root.
    """
    try:
        return _load(host, path, must_exist=must_exist)
    except HostError as error:
        raise ConfigError(str(error)) from error


def _load(host: Host, path: str, *, must_exist: bool) -> Config:
    """Raises ConfigError, HostError."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    found = files(host, path)
    if must_exist and path not in found:
        raise ConfigError(f"{path}: no such file")
    loose = ""
    for file in found:
        try:
            content, status = host.read(file).decode("utf-8"), host.stat(file)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: not UTF-8 text") from error
        place = host.stat(file.rpartition("/")[0] or "/")
        if status and (status.mode & 0o022 or status.uid != 0):
            loose = loose or file
        elif place and (place.mode & 0o022 and not place.mode & 0o1000 or place.uid != 0):
            loose = loose or file.rpartition("/")[0]  # who can write that can put another file in its place
        for name, value, where in parse(content, file):
            values[name], origin[name] = value, where
    config = Config(**values, origin=tuple(sorted(origin.items())))
    if loose and config.repair_mode == "repair":
        raise ConfigError(f"{loose}: others than root can write it; refused while [repair] mode = repair")
    return config


def restored(content: bytes) -> Config:
    """One that this program wrote, with every field: the default of a missing one may be to repair. Raises Garbage."""
    said = codec.loads(content)
    if not isinstance(said, dict) or not said.keys() >= set(Config._fields):
        raise codec.Garbage("not a whole configuration")
    return codec.decode(Config, said)


def shown(value: Any) -> str:
    """A value as a person would write it in the file."""
    if value is None or value == ():
        return "auto" if value is None else ""
    if isinstance(value, float):
        for unit, factor in (("h", 3600.0), ("m", 60.0), ("s", 1.0)):
            if value >= factor and value % factor == 0:
                return f"{value / factor:g}{unit}"
        return f"{value * 1000:g}ms" if value else "0s"
    if isinstance(value, tuple):
        from .reach.addresses import cidrs

        return " ".join(item if isinstance(item, str) else cidrs((item[1],), item[0])[0] for item in value)
    return str(value)
