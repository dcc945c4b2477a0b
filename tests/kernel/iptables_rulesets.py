"""Random iptables and ip6tables rulesets with ipsets, made of what the analysis claims to know exactly.

A ruleset is text for iptables-restore, the sets it needs as text for `ipset restore`, and the addresses at whose edges
its answers may change. Every choice comes from one random.Random, so a seed is a ruleset.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from ec2ssh_agent.reach import addresses
from ec2ssh_agent.reach.ruleset import Family

HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
_REJECTS = {
    Family.IPV4: (
        "icmp-net-unreachable",
        "icmp-host-unreachable",
        "icmp-port-unreachable",
        "icmp-proto-unreachable",
        "icmp-net-prohibited",
        "icmp-host-prohibited",
        "icmp-admin-prohibited",
        "tcp-reset",
    ),
    Family.IPV6: (
        "icmp6-no-route",
        "icmp6-adm-prohibited",
        "icmp6-addr-unreachable",
        "icmp6-port-unreachable",
        "icmp6-policy-fail",
        "icmp6-reject-route",
        "tcp-reset",
    ),
}
_NETS = {
    Family.IPV4: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.51.100.0/24", "203.0.113.0/24", "0.0.0.0/1"),
    Family.IPV6: ("2001:db8::/32", "2001:db8:1::/48", "fd00::/8", "2000::/3", "2001:db8:5::/64"),
}
_STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
_MARKS = ("0x1", "0x2", "0x3", "0x0", "0x10/0xf0", "0x1/0x3", "0x0/0xff")


class Made(NamedTuple):
    """`unknowable`: a match is in it whose result nobody can know, or that hangs on the client's port."""

    text: str
    sets: str
    edges: tuple[int, ...]
    unknowable: bool


class Maker:
    """`local`: the host's address; `port` sshd's, on `other` something listens as well, on `closed` nothing."""

    def __init__(self, seed: str, family: Family, *, local: str, port: int, other: int, closed: int) -> None:
        self.random = random.Random(seed)
        self.family = family
        self.local, self.port, self.other, self.closed = local, port, other, closed
        self.edges: set[int] = set()
        self.sets: list[str] = []
        self.names: list[tuple[str, int, bool]] = []  # set, number of its dimensions, whether it holds addresses
        self.unknowable = False
        self.prefix = "a" if family is Family.IPV4 else "b"
        # Few rulesets may hold what makes an answer uncertain: the others must be certain everywhere.
        self.odd = self.chance(0.08)

    def make(self) -> Made:
        self._make_sets()
        tables = "".join(self._table(table) for table in HOOKS)
        return Made(tables, "\n".join(self.sets) + "\n", tuple(sorted(self.edges)), self.unknowable)

    # -- values

    def pick(self, *given: str) -> str:
        return self.random.choice(given)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def _point(self) -> int:
        low, high = addresses.parse_cidr(self.pick(*_NETS[self.family]))[1]
        low = low or 1  # no set holds 0.0.0.0
        return self.random.choice((low, high, self.random.randint(low, high), self.random.randint(low, high)))

    def _net(self) -> str:
        if self.chance(0.3):
            text = self.pick(*_NETS[self.family])
        else:
            bits = addresses.BITS[self.family]
            length = self.random.choice((bits, bits, bits - 3, bits - 8, bits // 2, bits // 4, bits - 20, 1))
            low, _ = addresses.prefix_range(self.family, self._point(), length)
            text = f"{addresses.format_address(low, self.family)}/{length}"
        self.edges.update(addresses.parse_cidr(text)[1])
        return text

    def _span(self) -> str:
        low, high = sorted((self._point(), self._point()))
        self.edges.update((low, high))
        return f"{addresses.format_address(low, self.family)}-{addresses.format_address(high, self.family)}"

    def _no(self, share: float = 0.2) -> str:
        return "! " if self.chance(share) else ""

    # -- sets

    def _make_sets(self) -> None:
        v6 = " family inet6" if self.family is Family.IPV6 else ""
        for number in range(self.random.randrange(4)):
            name = f"{self.prefix}{number}"
            kind = self.pick("hash:ip", "hash:net", "hash:net", "hash:ip,port", "hash:net,iface", "bitmap:port")
            ports = kind == "bitmap:port"
            self.sets.append(f"create {name} {kind}" + (" range 0-65535" if ports else v6))
            for _ in range(self.random.randrange(6)):
                self.sets.append(f"add {name} {self._member(kind)} -exist")
            self.names.append((name, kind.count(",") + 1, not ports))
        if len(self.names) > 1 and self.chance(0.4):
            name = f"{self.prefix}l"
            inner = [each for each, dimensions, holds in self.names if dimensions == 1 and holds]
            self.sets.append(f"create {name} list:set")
            self.sets += [f"add {name} {each}" for each in inner]
            self.names.append((name, 1, True))
        if self.chance(0.3):
            # One that rules add to.
            self.sets.append(f"create {self.prefix}d hash:ip{v6}")
            self.names.append((f"{self.prefix}d", 1, True))

    def _member(self, kind: str) -> str:
        if kind == "bitmap:port":
            return self.pick(str(self.port), str(self.other), "100-200")
        if kind == "hash:ip":
            point = self._point()
            self.edges.add(point)
            return addresses.format_address(point, self.family)
        if kind == "hash:ip,port":
            point = self._point()
            self.edges.add(point)
            return f"{addresses.format_address(point, self.family)},tcp:{self.pick(str(self.port), str(self.other))}"
        net = self._net()
        if kind == "hash:net,iface":
            return f"{net},{self.pick('eth0', 'eth0', 'eth1')}"
        return net + (" nomatch" if self.chance(0.25) else "")

    # -- chains

    def _table(self, table: str) -> str:
        lines = [f"*{table}"]
        hooks = HOOKS[table]
        quiet = 0.3 if table == "filter" else 0.7
        refusing = set()
        for hook in hooks:
            share = {"filter": 0.35 if hook == "INPUT" else 0.08, "raw": 0.01, "mangle": 0.01}.get(table, 0)
            if self.chance(share):
                refusing.add(hook)
            lines.append(f":{hook} {'DROP' if hook in refusing else 'ACCEPT'} [0:0]")
        users = [f"u{number}" for number in range(self.random.randrange(4))] if self.chance(1 - quiet / 2) else []
        lines += [f":{name} - [0:0]" for name in users]
        for hook in hooks:
            if hook in refusing:
                lines.append(f"-A {hook} -p tcp {self._parting(hook)} -j ACCEPT")
            if self.chance(quiet) or hook == "FORWARD":
                continue
            if table == "filter" and self.chance(0.8):
                lines.append(f"-A {hook} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
            for _ in range(self.random.randrange(7)):
                lines.append(self._rule(table, hook, hook, users))
        for place, name in enumerate(users):
            for _ in range(self.random.randrange(5)):
                lines.append(self._rule(table, "", name, users[place + 1 :]))
        return "\n".join([*lines, "COMMIT", ""])

    def _rule(self, table: str, hook: str, chain: str, users: list[str]) -> str:
        """`hook` "": a user chain, which may stand in any."""
        words: list[str] = []
        target = self._target(table, hook, users)
        tcp = "tcp-reset" in target or "--to" in target or self.chance(0.45)
        if tcp:
            words.append("-p tcp -m tcp")
            words += self._tcp()
        elif self.chance(0.15):
            words.append(self.pick("-p udp", "! -p udp", self._icmp(), self._icmp()))
        if self.chance(0.93 if "DROP" in target or "REJECT" in target else 0.75):
            # Most rules are about some of the sources, or the rulesets would answer all of them alike.
            words.append(self._parting(hook))
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 2))):
            words.append(self._match(table, hook, tcp))
        return " ".join(word for word in (f"-A {chain}", *_options_once(words), target) if word)

    def _icmp(self) -> str:
        v4 = self.family is Family.IPV4
        protocol, match, option = ("icmp", "icmp", "--icmp-type") if v4 else ("ipv6-icmp", "icmp6", "--icmpv6-type")
        kinds = ("3", "3/1", "3/3", "host-prohibited", "8") if v4 else ("1", "1/1", "1/4", "no-route", "135")
        return f"-p {protocol}" + (f" -m {match} {self._no()}{option} {self.pick(*kinds)}" if self.chance(0.7) else "")

    def _tcp(self) -> list[str]:
        ports = self.pick(
            "--dport 22", "--dport 22", "--dport 20:30", "! --dport 22", "--sport 22", f"--dport {self.other}"
        )
        flags = self.pick(
            "--tcp-flags FIN,SYN,RST,ACK SYN",
            "! --tcp-flags FIN,SYN,RST,ACK SYN",
            "--tcp-flags SYN,ACK SYN,ACK",
            "--tcp-flags RST RST",
            "--tcp-flags ALL ACK",
            "--tcp-flags PSH PSH",
        )
        out = [ports] if self.chance(0.6) else []
        if self.chance(0.1):
            out = [self.pick("--sport 1024:65535", "--sport 0:1023", "! --sport 0:1023 --dport 22")]
        return out + ([flags] if self.chance(0.2) else [])

    def _match(self, table: str, hook: str, tcp: bool) -> str:
        kind = self.random.choices(
            ("address", "other", "state", "interface", "set", "range", "conntrack", "type", "mark", "limiter", "odd"),
            (30, 6, 12, 10, 10, 6, 8, 6, 10, 6, 3),
        )[0]
        if kind == "address":
            return self._address()
        if kind == "state":
            states = ",".join(self.random.sample(_STATES, self.random.choice((1, 1, 2, 3))))
            return self.pick(f"-m conntrack {self._no()}--ctstate {states}", f"-m state {self._no()}--state {states}")
        if kind == "interface":
            return self._interface(table, hook)
        if kind == "set" and self.names:
            return self._in_set()
        if kind == "range":
            return f"-m iprange {self._no()}--{self.pick('src', 'src', 'dst')}-range {self._span()}"
        if kind == "conntrack":
            return self._conntrack()
        if kind == "type":
            kinds = ("LOCAL", "UNICAST", "MULTICAST") + (("BROADCAST",) if self.family is Family.IPV4 else ())
            return f"-m addrtype {self._no()}--{self.pick('src', 'dst')}-type {self.pick(*kinds)}"
        if kind == "mark":
            return f"-m {self.pick('mark', 'mark', 'connmark')} {self._no()}--mark {self.pick(*_MARKS)}"
        if kind == "limiter":
            return self._limiter(tcp)
        if kind == "odd" and self.odd:
            self.unknowable = True
            far = ("-m multiport --sports 30000:65535",) if tcp else ()
            return self.pick("-m statistic --mode random --probability 0.5", "-m length --length 40:60", *far)
        if tcp and self.chance(0.6):
            ports = self.pick("22", "1:30", "80,443", "22,222", "200:400")
            return f"-m multiport {self._no()}--{self.pick('dports', 'dports', 'ports', 'sports')} {ports}"
        return self.pick(
            '-m comment --comment "a b"', "-m pkttype --pkt-type unicast", "-m pkttype --pkt-type multicast", ""
        )

    def _parting(self, hook: str) -> str:
        """A match that tells remote addresses apart."""
        far = {"PREROUTING": "s", "INPUT": "s", "OUTPUT": "d", "POSTROUTING": "d"}.get(hook) or self.pick("s", "s", "d")
        kind = self.random.random()
        if kind < 0.15 and any(holds for _, _, holds in self.names):
            name, dimensions, _ = self.random.choice([each for each in self.names if each[2]])
            flags = ",".join(
                ["src" if far == "s" else "dst", *(self.pick("src", "dst") for _ in range(dimensions - 1))]
            )
            return f"-m set {self._no()}--match-set {name} {flags}"
        if kind < 0.25:
            return f"-m iprange {self._no()}--{'src' if far == 's' else 'dst'}-range {self._span()}"
        if kind < 0.45:
            return f"-m {self.pick('mark', 'connmark')} {self._no()}--mark {self.pick(*_MARKS)}"
        return f"{self._no()}-{far} {self._net()}"

    def _address(self) -> str:
        side = self.pick("-s", "-s", "-s", "-d")
        if self.chance(0.12):
            return f"{self._no()}{self.pick('-s', '-d')} {self.local}"
        return f"{self._no()}{side} {self._net()}"

    def _interface(self, table: str, hook: str) -> str:
        """iptables takes `-i` only where there is an input interface; in a user chain, both."""
        if hook == "PREROUTING" and table in ("raw", "mangle") and self.chance(0.3):
            return f"-m rpfilter{self.pick('', ' --loose', ' --invert')}"
        sides = {"PREROUTING": ("-i",), "INPUT": ("-i",), "OUTPUT": ("-o",), "POSTROUTING": ("-o",)}.get(
            hook, ("-i", "-o")
        )
        return f"{self._no()}{self.pick(*sides)} {self.pick('eth0', 'eth0', 'eth+', 'eth1', 'lo', 'e+')}"

    def _in_set(self) -> str:
        name, dimensions, _ = self.random.choice(self.names)
        flags = ",".join(self.pick("src", "src", "dst") for _ in range(dimensions))
        return f"-m set {self._no()}--match-set {name} {flags}"

    def _conntrack(self) -> str:
        return "-m conntrack " + self.pick(
            "--ctdir ORIGINAL",
            "--ctdir REPLY",
            f"{self._no()}--ctstatus SEEN_REPLY",
            f"{self._no()}--ctstatus ASSURED",
            f"{self._no()}--ctstatus CONFIRMED",
            "--ctstatus NONE",
            f"{self._no()}--ctorigsrc {self._net()}",
            f"{self._no()}--ctorigdst {self.local}",
            f"{self._no()}--ctorigdstport {self.port}",
            f"{self._no()}--ctproto 6",
            f"{self._no()}--ctstate DNAT",
        )

    def _limiter(self, tcp: bool) -> str:
        name, table = self.pick("x", "y"), f"--hashlimit-name h{self.random.randrange(1 << 20)}"
        choices = [
            "-m limit --limit 100/sec --limit-burst 2000",
            f"-m hashlimit --hashlimit-above 1/hour --hashlimit-burst 50 --hashlimit-mode srcip {table}",
            f"-m hashlimit --hashlimit-upto 100/min --hashlimit-burst 90 --hashlimit-mode srcip,dstport {table}",
            f"-m recent --set --name {name} {self.pick('--rsource', '--rdest')}",
            f"-m recent {self._no()}--rcheck --name {name} --rsource",
            f"-m recent --update --seconds 600 --hitcount {self.pick('1', '2', '5')} --name {name} --rsource",
            f"-m recent --remove --name {name} --rsource",
        ]
        if tcp:
            choices.append("-m connlimit --connlimit-above 20")
        return self.pick(*choices)

    def _target(self, table: str, hook: str, users: list[str]) -> str:
        if users and self.chance(0.25):
            return f"-{self.pick('j', 'j', 'g')} {self.pick(*users)}"
        if self.chance(0.06):
            return ""
        plain = ["-j ACCEPT", "-j ACCEPT", "-j RETURN", "-j LOG --log-prefix x", self._marking()]
        if any("d" in name for name, _, _ in self.names) and self.chance(0.3):
            change, flag = self.pick("--add-set", "--add-set", "--del-set"), self.pick("src", "dst")
            return f"-j SET {change} {self.prefix}d {flag}" + (" --exist" if change == "--add-set" else "")
        if table == "nat":
            return self._translation(hook, plain)
        plain += ["-j DROP"] * (3 if table in ("filter", "security") else 1)
        if table == "filter":
            plain += [f"-j REJECT --reject-with {self.pick(*_REJECTS[self.family])}"] * 3
        if table == "raw" or (table == "mangle" and not hook):
            plain += ["-j CT --notrack"] * 2 if table == "raw" else []
        return self.pick(*plain)

    def _marking(self) -> str:
        return self.pick(
            f"-j MARK --set-mark {self.pick('1', '2', '0x10/0xf0')}",
            f"-j MARK --{self.pick('or', 'and', 'xor')}-mark {self.pick('1', '3', '0x10')}",
            f"-j CONNMARK --set-mark {self.pick('1', '2', '0x10/0xf0')}",
            "-j CONNMARK --save-mark",
            "-j CONNMARK --restore-mark",
            "-j CONNMARK --restore-mark --nfmask 0xf0 --ctmask 0xf0",
        )

    def _translation(self, hook: str, plain: list[str]) -> str:
        if hook == "PREROUTING":
            port = self.pick(str(self.other), str(self.port), str(self.closed))
            plain += [
                f"-j REDIRECT --to-ports {port}",
                "-j REDIRECT --to-ports 20-30",
                f"-j DNAT --to-destination :{port}",
            ]
            target = self.local if self.family is Family.IPV4 else f"[{self.local}]"
            plain += [f"-j DNAT --to-destination {target}:{port}"]
            if self.odd:
                self.unknowable = True
                plain += [
                    f"-j DNAT --to-destination {'192.0.2.99' if self.family is Family.IPV4 else '2001:db8:77::1'}"
                ]
        if hook == "INPUT":
            others = ("192.168.1.99", "203.0.113.9") if self.family is Family.IPV4 else ("2001:db8:77::1", "fd00::99")
            plain += [f"-j SNAT --to-source {self.pick(*others, self.local)}"] * 2
        if hook == "POSTROUTING":
            plain += ["-j MASQUERADE"]
        return self.pick(*plain)


def _options_once(words: list[str]) -> list[str]:
    """Options that iptables takes once in a rule: the first of each stays; xt_ matches may stand again."""
    seen: set[str] = set()
    out = []
    for word in words:
        name = word.lstrip("! ").split(" ")[0]
        if name in ("-s", "-d", "-i", "-o", "-p", "-m"):
            name = " ".join(word.lstrip("! ").split(" ")[: 2 if name == "-m" else 1])
            if name in seen:
                continue
            seen.add(name)
        out.append(word)
    return out
