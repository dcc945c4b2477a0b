"""Random native nftables rulesets, made of what the analysis claims to know exactly.

A ruleset is text for `nft -f`, and the addresses at whose edges its answers may change. Every choice comes from one
random.Random, so a seed is a ruleset. Sources are asked once, and idle: limits are wide, or per source.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from ec2ssh_agent.reach import addresses
from ec2ssh_agent.reach.ruleset import Family

BITS = {Family.IPV4: 32, Family.IPV6: 128}
_REJECTS = {
    "ip": (
        "icmp port-unreachable",
        "icmp host-unreachable",
        "icmp net-unreachable",
        "icmp prot-unreachable",
        "icmp admin-prohibited",
        "icmp host-prohibited",
        "tcp reset",
    ),
    "ip6": (
        "icmpv6 port-unreachable",
        "icmpv6 no-route",
        "icmpv6 admin-prohibited",
        "icmpv6 addr-unreachable",
        "tcp reset",
    ),
    "inet": (
        "icmpx port-unreachable",
        "icmpx host-unreachable",
        "icmpx admin-prohibited",
        "icmpx no-route",
        "tcp reset",
    ),
}
_NETS4 = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "0.0.0.0/1",
    "100.64.0.0/10",
)
_NETS6 = ("2001:db8::/32", "2001:db8:1::/48", "fd00::/8", "2000::/3", "2001:db8:5::/64")


class Made(NamedTuple):
    text: str
    edges: dict[Family, tuple[int, ...]]  # where an address range of the ruleset begins or ends


class Maker:
    """One ruleset. `port` is sshd's; `locals` the addresses that it is asked about."""

    def __init__(self, seed: int, *, port: int, locals: dict[Family, str], other: int) -> None:
        self.random = random.Random(seed)
        self.port = port
        self.other = other  # a second port, on which something listens, too
        self.locals = locals
        self.edges: dict[Family, set[int]] = {Family.IPV4: set(), Family.IPV6: set()}
        self.family = "inet"
        self.side = Family.IPV4
        self.sets: dict[str, list[str]] = {}
        self.count = 0
        self.blocks: list[str] = []

    def make(self) -> Made:
        families = self.random.choice(
            (["inet"], ["ip"], ["inet", "ip"], ["ip6", "ip"], ["inet", "ip6"], ["inet", "inet"])
        )
        text = "".join(self._table(family, number) for number, family in enumerate(families))
        if self._chance(0.2):
            text += self._ingress()
        edges = {family: tuple(sorted(found)) for family, found in self.edges.items()}
        return Made(text, edges)

    # -- values

    def _pick(self, *given: str) -> str:
        return self.random.choice(given)

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _side(self) -> Family:
        """The family that a rule is about: nft refuses a rule about both."""
        return self.side

    def _choose_side(self) -> None:
        if self.family == "inet":
            self.side = self.random.choice((Family.IPV4, Family.IPV4, Family.IPV6))
        else:
            self.side = Family.IPV4 if self.family == "ip" else Family.IPV6

    def _noted(self, side: Family, low: int, high: int) -> None:
        self.edges[side].update((low, high))

    def _address(self, side: Family) -> int:
        low, high = addresses.parse_cidr(self._pick(*(_NETS4 if side is Family.IPV4 else _NETS6)))[1]
        if self._chance(0.3):
            return self.random.choice((low, high))
        return self.random.randint(low, high)

    def _range(self, side: Family) -> tuple[int, int]:
        kind = self.random.random()
        if kind < 0.35:
            value = self._address(side)
            found = (value, value)
        elif kind < 0.75:
            if self._chance(0.5):
                found = addresses.parse_cidr(self._pick(*(_NETS4 if side is Family.IPV4 else _NETS6)))[1]
            else:
                found = addresses.prefix_range(side, self._address(side), self.random.randint(1, BITS[side]))
        else:
            low, high = sorted((self._address(side), self._address(side)))
            found = (low, high)
        self._noted(side, *found)
        return found

    def _shown(self, side: Family, found: tuple[int, int]) -> str:
        low, high = found
        written = addresses.cidrs((found,), side)
        if len(written) == 1:
            return written[0]
        return f"{addresses.format_address(low, side)}-{addresses.format_address(high, side)}"

    def _one(self, side: Family) -> str:
        return self._shown(side, self._range(side))

    def _several(self, side: Family, most: int = 5) -> list[str]:
        """Ranges that do not overlap."""
        found = addresses.normal(self._range(side) for _ in range(self.random.randint(1, most)))
        return [self._shown(side, each) for each in found]

    def _ports(self, most: int = 4) -> list[str]:
        found = []
        for _ in range(self.random.randint(1, most)):
            low = self.random.choice((self.port, self.port, 1, 80, 443, self.port + 1, self.random.randint(1, 65535)))
            high = low if self._chance(0.7) else min(65535, low + self.random.choice((1, 10, 5000)))
            found.append((low, high))
        return [f"{low}-{high}" if low < high else str(low) for low, high in addresses.normal(found)]

    def _interface(self, wild: bool = True) -> str:
        return self._pick('"eth0"', '"eth0"', '"lo"', '"eth1"', *(('"eth*"', '"wg*"') if wild else ()))

    # -- matches

    def _match(self, hook: str) -> str:
        inbound = hook in ("prerouting", "input", "any")
        makers = [
            self._addresses,
            self._addresses,
            self._port,
            self._port,
            self._state,
            self._protocol,
            self._flags,
            self._mark,
        ]
        makers += [self._odd, self._connection, self._concatenated]
        makers += [self._input_interface] if inbound else []
        makers += [self._output_interface] if hook in ("output", "postrouting") else []
        return self.random.choice(makers)(hook)

    def _key(self, side: Family, end: str) -> str:
        return f"{'ip' if side is Family.IPV4 else 'ip6'} {end}"

    def _addresses(self, hook: str) -> str:
        side = self._side()
        outbound = hook in ("output", "postrouting")
        if self._chance(0.2):
            end = "saddr" if outbound else "daddr"
            return f"{self._key(side, end)} {self._pick('', '!= ')}{self._pick(self.locals[side], self._one(side))}"
        key = self._key(side, "daddr" if outbound else "saddr")
        negation = self._pick("", "", "!= ")
        kind = self.random.random()
        if kind < 0.35:
            return f"{key} {negation}{self._one(side)}"
        if kind < 0.6:
            return f"{key} {negation}{{ {', '.join(self._several(side))} }}"
        if kind < 0.7 and side is Family.IPV4:
            mask = self.random.choice((0xFF00FFFF, 0xE00FFFFF, 0xFFFF00FF, 0x80000000))
            value = self._address(side) & mask
            wanted = addresses.format_address(value, side)
            return f"{key} & {addresses.format_address(mask, side)} {self._pick('==', '!=')} {wanted}"
        return f"{key} {negation}@{self._named('addresses', side)}"

    def _port(self, hook: str) -> str:
        outbound = hook in ("output", "postrouting")
        # Outbound, `th` would be of the kernel's own ICMP errors, too: what stands there, their checksum has a part in.
        key = "tcp sport" if outbound else self._pick("tcp dport", "tcp dport", "tcp dport", "th dport")
        kind = self.random.random()
        if kind < 0.4:
            return f"{key} {self._pick('', '', '!= ')}{self.port}"
        if kind < 0.55:
            near = self.random.choice((self.port - 1, self.port, self.port + 1))
            return f"{key} {self._pick('<', '>', '<=', '>=')} {near}"
        if kind < 0.8:
            return f"{key} {self._pick('', '!= ')}{{ {', '.join(self._ports())} }}"
        return f"{key} {self._pick('', '!= ')}@{self._named('ports', Family.IPV4)}"

    def _state(self, hook: str) -> str:
        return self._pick(
            "ct state new",
            "ct state established,related",
            "ct state { new, established }",
            "ct state invalid",
            "ct state != established",
            "ct state ! invalid",
            "ct state untracked",
            "ct state & (new | untracked) != 0",
            "ct state != { new, invalid }",
        )

    def _protocol(self, hook: str) -> str:
        common = ["meta l4proto tcp", "meta l4proto != tcp", "meta l4proto != { udp, icmp }"]
        if self.side is Family.IPV4:
            common += ["ip protocol tcp", "ip protocol != { udp, icmp }", "ip frag-off & 0x1fff != 0", "ip version 4"]
            common += ["meta nfproto ipv4", "meta protocol ip"] if self.family == "inet" else []
        else:
            common += ["ip6 nexthdr tcp", "ip6 nexthdr != udp", "exthdr frag missing", "ip6 version 6"]
            common += ["meta nfproto ipv6", "meta protocol ip6"] if self.family == "inet" else []
        common += ["meta nfproto != ipv4", "meta protocol != ip6"] if self.family == "inet" else []
        if hook in ("output", "postrouting"):
            version = "" if self.side is Family.IPV4 else "v6"
            codes = "port-unreachable", *(("host-unreachable",) if self.side is Family.IPV4 else ("no-route",))
            common += [f"icmp{version} code {self._pick('', '!= ')}{code}" for code in codes]
        return self._pick(*common)

    def _flags(self, hook: str) -> str:
        return self._pick(
            "tcp flags syn",
            "tcp flags == syn",
            "tcp flags & (fin|syn|rst|ack) == syn",
            "tcp flags & (fin|syn|rst|ack) != syn",
            "tcp flags & (syn|ack) == (syn|ack)",
            "tcp flags != syn",
            "tcp flags ! syn,rst",
            "tcp flags { syn, syn|ack, ack }",
            "tcp option maxseg exists",
            "tcp option timestamp exists",
            "tcp option fastopen exists",
            "tcp option sack-perm missing",
            "sctp chunk data missing",
        )

    def _mark(self, hook: str) -> str:
        key = self._pick("meta mark", "meta mark", "ct mark")
        return f"{key} " + self._pick(
            "1",
            "!= 1",
            "0",
            "{ 1, 3-5 }",
            "& 0x3 == 1",
            "& 0x4 != 0",
            "| 0x2 == 3",
            "^ 0x1 == 0",
            "1-3",
            "> 1",
            "!= 2-9",
        )

    def _connection(self, hook: str) -> str:
        return self._pick("ct direction original", "ct direction reply", "ct status dnat", "ct status ! snat,dnat")

    def _odd(self, hook: str) -> str:
        choices = ["fib daddr type local", "fib saddr type != local", "pkttype host", "pkttype != host"]
        if self.side is Family.IPV4:
            choices += [f"ct original ip saddr {self._one(Family.IPV4)}", "ip hdrlength 5"]
        if hook in ("prerouting", "input", "any"):
            choices.append("fib saddr . iif oif missing" if hook != "any" else "pkttype host")
        return self._pick(*choices)

    def _input_interface(self, hook: str) -> str:
        kind = self.random.random()
        if kind < 0.5:
            return f"iifname {self._pick('', '!= ')}{self._interface()}"
        if kind < 0.7:
            return f'iifname {self._pick("", "!= ")}{{ {self._interface(False)}, "wg0", "lo9" }}'
        return self._pick(
            "iif eth0", "iif != eth0", "iif lo", "iif { eth0, lo }", f"iifname @{self._named('names', Family.IPV4)}"
        )

    def _output_interface(self, hook: str) -> str:
        return self._pick('oifname "eth0"', 'oifname != "eth0"', "oif eth0", "oif lo", 'oifname { "eth*", "lo" }')

    def _concatenated(self, hook: str) -> str:
        side = self._side()
        if hook not in ("prerouting", "input", "any"):
            return self._addresses(hook)
        keys, elements = self._tuples(side, 4)
        return f"{keys} {self._pick('', '', '!= ')}{{ {', '.join(elements)} }}"

    def _tuples(self, side: Family, most: int) -> tuple[str, list[str]]:
        """A concatenation, and elements whose address ranges do not overlap."""
        key = self._key(side, "saddr")
        ranges = self._several(side, most)
        ports = [self._pick(*self._ports(1)) for _ in ranges]
        names = [self._interface(False) for _ in ranges]
        shape = self._pick("address . port", "name . address", "name . address . port")
        if shape == "address . port":
            return f"{key} . tcp dport", [f"{each} . {port}" for each, port in zip(ranges, ports)]
        if shape == "name . address":
            return f"iifname . {key}", [f"{name} . {each}" for name, each in zip(names, ranges)]
        return (
            f"iifname . {key} . tcp dport",
            [f"{name} . {each} . {port}" for name, each, port in zip(names, ranges, ports)],
        )

    def _named(self, kind: str, side: Family) -> str:
        """A named set of this table, made or met again."""
        name = f"{kind}{'4' if side is Family.IPV4 else '6'}_{self.random.randint(1, 2)}"
        if name not in self.sets:
            if kind == "addresses":
                elements, head = self._several(side, 12), f"type {'ipv4_addr' if side is Family.IPV4 else 'ipv6_addr'}"
                if self._chance(0.3):
                    elements = [f"{each} timeout 1h" for each in elements]
            elif kind == "ports":
                elements, head = self._ports(6), "type inet_service"
            else:
                elements, head = ['"eth*"', '"lo"'] if self._chance(0.5) else ['"eth1"', '"wg*"'], "type ifname"
            flags = "interval, timeout" if "timeout" in elements[0] else "interval"
            self.sets[name] = [f"set {name} {{ {head}; flags {flags}; elements = {{ {', '.join(elements)} }}; }}"]
        return name

    # -- statements

    def _action(self, hook: str) -> str:
        side = self._side()
        outbound = hook in ("output", "postrouting")
        choices = [
            "counter",
            "meta mark set 1",
            "meta mark set meta mark | 0x2",
            "meta mark set meta mark & 0xfe ^ 0x5",
            "meta mark set ct mark",
            "ct mark set 1",
            "ct mark set meta mark",
            "ct mark set meta mark | 0x4",
            "limit rate 100000/second burst 100000 packets",
            "quota 1000 mbytes",
            "quota over 1000 mbytes",
            "ct count 100000",
        ]
        if not outbound:
            key = self._key(side, "saddr")
            parts = addresses.normal(self._range(side) for _ in range(3))
            mapped = ", ".join(f"{self._shown(side, each)} : {self.random.randint(0, 5)}" for each in parts)
            choices += [f"meta mark set {key} map {{ {mapped} }}", self._learning(side), self._learning(side)]
        return self._pick(*choices)

    def _learning(self, side: Family) -> str:
        name = f"learned{'4' if side is Family.IPV4 else '6'}"
        kind = "ipv4_addr" if side is Family.IPV4 else "ipv6_addr"
        self.sets[name] = [f"set {name} {{ type {kind}; flags dynamic; size 65535; }}"]
        key = self._key(side, "saddr")
        if self._chance(0.4):
            return f"{key} {self._pick('', '!= ')}@{name}"
        limit = self._pick(
            "",
            "",
            " limit rate 100000/second burst 100000 packets",
            " limit rate over 100000/second burst 100000 packets",
        )
        return f"{self._pick('add', 'update')} @{name} {{ {key}{limit} }}"

    def _verdict(self, hook: str, targets: list[str]) -> str:
        choices = ["accept"] * 4 + ["drop"] * 4 + ["return", "continue"]
        if hook in ("input", "any"):
            choices += [f"reject with {self._pick(*_REJECTS[self.family])}"] * 3
        choices += [f"{self._pick('jump', 'jump', 'goto')} {target}" for target in targets]
        return self._pick(*choices)

    def _vmap(self, hook: str, targets: list[str]) -> str:
        verdicts = ["accept", "drop", "return", "continue"] + [
            f"{self._pick('jump', 'goto')} {name}" for name in targets
        ]
        kind = self.random.random()
        if kind < 0.3:
            new, established = self._pick(*verdicts), self._pick(*verdicts)
            return f"ct state vmap {{ new : {new}, established : {established}, invalid : drop }}"
        if hook in ("output", "postrouting") or kind < 0.5:
            key = "tcp sport" if hook in ("output", "postrouting") else "tcp dport"
            listed = [f"{port} : {self._pick(*verdicts)}" for port in self._ports()]
        elif kind < 0.8:
            side = self._side()
            key = self._key(side, "saddr")
            listed = [f"{each} : {self._pick(*verdicts)}" for each in self._several(side)]
            if self._chance(0.3):
                listed.append(f"* : {self._pick(*verdicts)}")
        elif kind < 0.9:
            key = "iifname"
            listed = [f'"eth0" : {self._pick(*verdicts)}', f'"lo" : {self._pick(*verdicts)}']
        else:
            side = self._side()
            key, elements = self._tuples(side, 3)
            listed = [f"{each} : {self._pick(*verdicts)}" for each in elements]
            if self._chance(0.3):
                listed.append(f"* : {self._pick(*verdicts)}")
        if hook in ("prerouting", "input") and self._chance(0.2):
            name = f"verdicts_{len(self.sets)}"
            head = f"typeof {key} : verdict; flags interval;"
            self.sets[name] = [f"map {name} {{ {head} elements = {{ {', '.join(listed)} }}; }}"]
            return f"{key} vmap @{name}"
        return f"{key} vmap {{ {', '.join(listed)} }}"

    def _rule(self, hook: str, targets: list[str]) -> str:
        self._choose_side()
        words = [self._match(hook) for _ in range(self.random.choice((0, 1, 1, 1, 2, 2, 3)))]
        words = [word for word in words if word.startswith("icmp")][:1] or words  # nft takes no other protocol beside
        if self._chance(0.25):
            words.insert(self.random.randint(0, len(words)), self._action(hook))
        if self._chance(0.15):
            words.append(self._vmap(hook, targets))
        elif self._chance(0.8) or not words:
            words.append(self._verdict(hook, targets) if words else self._action(hook))
        if words[-1] == "reject with tcp reset" and any(
            word.startswith(("meta nfproto", "meta protocol")) for word in words
        ):
            words[-1] = "drop"  # nft 1.0.6 forgets the family when it lists such a rule
        return " ".join(words)

    # -- chains

    def _priority(self, near: int) -> int:
        """No two alike: which of those runs first is the kernel's affair."""
        self.count += 1
        return near + self.count

    def _chain(self, name: str, head: str, *, hook: str, targets: list[str], most: int) -> str:
        rules = [self._rule(hook, targets) for _ in range(self.random.randint(0, most))]
        return f"  chain {name} {{\n    {head}\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"

    def _table(self, family: str, number: int) -> str:
        self.family, self.sets = family, {}
        count = self.random.randint(0, 4)
        names = [f"c{place}" for place in range(count)]
        chains = [
            self._chain(name, "", hook="any", targets=names[place + 1 :], most=5) for place, name in enumerate(names)
        ]
        bases = []
        for place in range(self.random.choice((1, 1, 2))):
            priority = self._priority(self.random.choice((0, 0, 0, -50, 50, 100, -90)))
            policy = self._pick("accept", "drop", "drop")
            head = f"type filter hook input priority {priority}; policy {policy};"
            rules = self._chain(f"in{place}", head, hook="input", targets=names, most=10)
            if policy == "drop" and self._chance(0.7):
                rules = rules.replace(head + "\n", head + "\n    ct state established,related accept\n", 1)
            bases.append(rules)
        bases += self._further()
        self.random.shuffle(bases)
        sets = "".join(f"  {line}\n" for lines in self.sets.values() for line in lines)
        return f"table {family} t{number} {{\n{sets}{''.join(chains)}{''.join(bases)}}}\n"

    def _dnat(self) -> list[str]:
        own, port, other = self.locals[Family.IPV4], self.port, self.other
        return [
            f"tcp dport {port} dnat ip to {own}:{other}",
            f"{self._source()} tcp dport {port} dnat ip to {own}",
            f"meta l4proto tcp dnat ip addr . port to tcp dport map {{ {port} : {own} . {other}, 80 : {own} . 8 }}",
            f"dnat ip to ip saddr map {{ {self._one(Family.IPV4)} : {own} }}",
        ]

    def _source(self) -> str:
        return f"{self._key(self.side, 'saddr')} {self._one(self.side)}"

    def _ingress(self) -> str:
        """A table of the device: before conntrack, before everything."""
        rules = []
        for _ in range(self.random.randint(1, 4)):
            self._choose_side()
            several = f"ip saddr {{ {', '.join(self._several(Family.IPV4))} }}"
            port = f"tcp dport {self._ports(1)[0]}"
            match = self._pick(
                self._source(), port, several, "meta protocol ip", "tcp flags == syn", "ip protocol != tcp"
            )
            rules.append(f"    {match} {self._pick('accept', 'drop', 'meta mark set 1', 'counter', 'continue')}\n")
        head = f'type filter hook ingress device "eth0" priority {self._priority(0)};'
        return f"table netdev t9 {{\n  chain i {{\n    {head}\n{''.join(rules)}  }}\n}}\n"

    def _further(self) -> list[str]:
        found = []
        if self._chance(0.4):
            priority = self._priority(self.random.choice((-300, -150, -290, -110)))
            head = f"type filter hook prerouting priority {priority};"
            text = self._chain("pre", head, hook="prerouting", targets=[], most=4)
            self._choose_side()
            if priority < -250 and self._chance(0.5):
                text = text.replace(
                    head + "\n",
                    head + f"\n    {self._port('prerouting')} {self._pick('notrack', 'counter notrack')}\n",
                    1,
                )
            found.append(text)
        if self._chance(0.25):
            self._choose_side()
            rule = self._pick(
                f"tcp dport {self.port} redirect to :{self.other}",
                f"{self._addresses('prerouting')} tcp dport {self.port} redirect to :{self.other}",
                f"tcp dport {self.port} redirect to :{self.other + 1}",
                f"tcp dport {{ {self.port}, 99 }} redirect to :tcp dport map {{ {self.port} : {self.other}, 99 : 98 }}",
                f"tcp dport {self.port} redirect",
                *(self._dnat() if self.side is Family.IPV4 else ()),
            )
            found.append(
                f"  chain nat {{\n    type nat hook prerouting priority {self._priority(-100)};\n    {rule}\n  }}\n"
            )
        if self._chance(0.15):
            self._choose_side()
            family = "ip" if self.side is Family.IPV4 else "ip6"
            to = self._pick(
                *(("10.9.9.9", "192.168.1.99") if family == "ip" else ("fd00::99",)), self.locals[self.side]
            )
            head = f"type nat hook input priority {self._priority(100)};"
            found.append(
                f"  chain natin {{\n    {head}\n    {self._source()} tcp dport != 9 snat {family} to {to}\n  }}\n"
            )
        if self._chance(0.3):
            policy = self._pick("accept", "accept", "drop")
            priority = self._priority(self.random.choice((0, -300, -150)))
            head = f"type filter hook output priority {priority}; policy {policy};"
            text = self._chain("out", head, hook="output", targets=[], most=4)
            if policy == "drop":
                text = text.replace(head + "\n", head + "\n    ct state established,related accept\n", 1)
            found.append(text)
        if self._chance(0.15):
            head = f"type filter hook postrouting priority {self._priority(-150)};"
            found.append(self._chain("post", head, hook="postrouting", targets=[], most=3))
        return found
