"""The ways to lose SSH that the document knows, each as the commands that do it and those that mend it by hand."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness import SERVER4, SERVER6

PID = "$(systemctl show -P MainPID ssh.service)"
RESTART = "systemctl reset-failed ssh.service; systemctl restart ssh.service"


class Fault(NamedTuple):
    """`symptom`: what a client sees; `finding`: the id that the agent gives; `heal`: by hand, after the test."""

    name: str
    breaks: str
    symptom: str
    finding: str
    heal: str
    to: str = SERVER4
    firewall: bool = False  # also a fault on first boot, without a baseline


def _firewall(name: str, breaks: str, symptom: str, heal: str, *, finding: str = "", to: str = SERVER4) -> Fault:
    word = {"timeout": "drop", "refused": "reject", "unreachable": "unreachable"}[symptom]
    return Fault(name, breaks, symptom, finding or f"firewall-{word}", heal, to, True)


_KEEP = "cp -a /etc/ssh /etc/ssh.kept; "
_BACK = f"rm -rf /etc/ssh; mv /etc/ssh.kept /etc/ssh; {RESTART}"

_LIMIT = "/run/systemd/system/ssh.service.d"

SSHD = (
    Fault("stopped", "systemctl stop ssh.service", "refused", "sshd-not-running", RESTART),
    Fault("hung", f"kill -STOP {PID}", "silent", "sshd-hung", "true"),
    Fault(
        "start-limit",
        # Within a day, not within ten seconds, which a busy machine does not keep.
        f"mkdir -p {_LIMIT}; printf '[Unit]\\nStartLimitIntervalSec=1d\\n' > {_LIMIT}/limit.conf;"
        " systemctl daemon-reload; for n in 1 2 3 4 5 6 7 8; do systemctl restart ssh.service || true; done",
        "refused",
        "sshd-not-running",
        f"rm -r {_LIMIT}; systemctl daemon-reload; {RESTART}",
    ),
    Fault(
        "configuration-error",
        f"{_KEEP} echo 'Bogus yes' >> /etc/ssh/sshd_config; systemctl restart ssh.service || true",
        "refused",
        "sshd-config-invalid",
        _BACK,
    ),
    Fault(
        "configuration-error-in-a-drop-in",
        f"{_KEEP} echo 'PermitRootLogin perhaps' > /etc/ssh/sshd_config.d/90-new.conf;"
        " systemctl restart ssh.service || true",
        "refused",
        "sshd-config-invalid",
        _BACK,
    ),
    Fault(
        "host-keys-gone",
        f"{_KEEP} rm /etc/ssh/ssh_host_*; systemctl restart ssh.service || true",
        "refused",
        "host-keys-missing",
        _BACK,
    ),
    Fault(
        "key-modes",
        f"{_KEEP} chmod 0666 /etc/ssh/ssh_host_*_key; systemctl restart ssh.service || true",
        "refused",
        "host-key-modes",
        _BACK,
    ),
    Fault(
        "listen-address",
        f"{_KEEP} echo 'ListenAddress 127.0.0.1' >> /etc/ssh/sshd_config; systemctl restart ssh.service",
        "refused",
        "sshd-not-listening-outside",
        _BACK,
    ),
)

# -- sshd started by a socket: what stops ssh.service alone keeps nobody out

STOP_SOCKET = "systemctl stop ssh.socket ssh.service"
START_SOCKET = "systemctl reset-failed ssh.socket ssh.service; systemctl start ssh.socket"
# sshd does not start for the first client, and systemd gives the socket up.
_COME = (
    "systemctl start ssh.socket; for n in $(seq 100); do ! systemctl -q is-failed ssh.socket || break;"
    " bash -c ': < /dev/tcp/127.0.0.1/22' 2>/dev/null; sleep 0.1; done"
)


def _by_socket(name: str, change: str, finding: str) -> Fault:
    back = f"{STOP_SOCKET}; rm -rf /etc/ssh; mv /etc/ssh.kept /etc/ssh; {START_SOCKET}"
    return Fault(name, f"{_KEEP} {STOP_SOCKET}; {change}; {_COME}", "refused", finding, back)


BY_SOCKET = (
    Fault("stopped", STOP_SOCKET, "refused", "sshd-not-running", START_SOCKET),
    _by_socket("configuration-error", "echo 'Bogus yes' >> /etc/ssh/sshd_config", "sshd-config-invalid"),
    _by_socket(
        "configuration-error-in-a-drop-in",
        "echo 'PermitRootLogin perhaps' > /etc/ssh/sshd_config.d/90-new.conf",
        "sshd-config-invalid",
    ),
    _by_socket("host-keys-gone", "rm /etc/ssh/ssh_host_*", "host-keys-missing"),
    _by_socket("key-modes", "chmod 0666 /etc/ssh/ssh_host_*_key", "host-key-modes"),
)


def xtables(suffix: str) -> tuple[Fault, ...]:
    """The same through iptables-nft (suffix "") and iptables-legacy (suffix "-legacy")."""
    rule = f"iptables{suffix} -A INPUT -p tcp --dport 22"
    flush = f"iptables{suffix} -F INPUT"
    prohibited = "-j REJECT --reject-with icmp-host-prohibited"
    name = suffix or "-nft"
    chains = "; ".join(
        (
            f"iptables{suffix} -N outer",
            f"iptables{suffix} -N inner",
            f"iptables{suffix} -A outer -p tcp -j inner",
            f"iptables{suffix} -A inner -p tcp --dport 22 -j DROP",
            f"iptables{suffix} -A INPUT -i eth0 -j outer",
        )
    )
    policy = f"iptables{suffix} -A INPUT -i lo -j ACCEPT; iptables{suffix} -P INPUT DROP"
    every = f"iptables{suffix} -P INPUT ACCEPT; iptables{suffix} -F; iptables{suffix} -X"
    return (
        _firewall(f"iptables{name}-drop", f"{rule} -j DROP", "timeout", flush),
        _firewall(f"iptables{name}-policy-drop", policy, "timeout", every),
        _firewall(f"iptables{name}-reject", f"{rule} -j REJECT", "refused", flush),
        _firewall(f"iptables{name}-tcp-reset", f"{rule} -j REJECT --reject-with tcp-reset", "refused", flush),
        _firewall(f"iptables{name}-host-prohibited", f"{rule} {prohibited}", "unreachable", flush),
        _firewall(f"iptables{name}-user-chains", chains, "timeout", every),
    )  # fmt: skip


OTHER_RULES = (
    _firewall(
        "ip6tables-drop", "ip6tables -A INPUT -p tcp --dport 22 -j DROP", "timeout", "ip6tables -F INPUT", to=SERVER6
    ),
    _firewall(
        "nft-policy-drop",
        "nft 'table inet mine { chain input { type filter hook input priority 0; policy drop;"
        " iif lo accept; ip6 nexthdr icmpv6 accept; ct state established,related accept; tcp dport 80 accept; }; }'",
        "timeout",
        "nft delete table inet mine",
    ),
    _firewall(
        "nft-reject-set",
        "nft 'table inet mine { set ports { type inet_service; elements = { 22, 23 }; };"
        " chain input { type filter hook input priority 0; tcp dport @ports reject with tcp reset; }; }'",
        "refused",
        "nft delete table inet mine",
    ),
    _firewall(
        "nft-second-base-chain",
        "nft 'table ip mine { chain early { type filter hook input priority -10; tcp dport 22 accept; };"
        " chain late { type filter hook input priority 10; policy accept; tcp dport { 21-25 } drop; }; }'",
        "timeout",
        "nft delete table ip mine",
    ),
    _firewall(
        "raw-prerouting-drop",
        "iptables -t raw -A PREROUTING -p tcp --dport 22 -j DROP",
        "timeout",
        "iptables -t raw -F PREROUTING",
    ),
    _firewall("output-drop", "iptables -A OUTPUT -p tcp --sport 22 -j DROP", "timeout", "iptables -F OUTPUT"),
)

WRAPPERS = (
    Fault("hosts-deny-all", "echo 'ALL: ALL' > /etc/hosts.deny", "closed", "wrappers-deny", "rm -f /etc/hosts.deny"),
    Fault(
        "hosts-deny-except",
        "echo 'sshd: ALL EXCEPT 127.0.0.1' > /etc/hosts.deny",
        "closed",
        "wrappers-deny",
        "rm -f /etc/hosts.deny",
    ),
    Fault(
        "hosts-allow-deny",
        "echo 'sshd: ALL: deny' > /etc/hosts.allow",
        "closed",
        "wrappers-deny",
        "rm -f /etc/hosts.allow",
    ),
)

UFW = (
    _firewall("ufw-without-ssh", "ufw --force enable", "timeout", "ufw --force disable"),
    _firewall(
        "ufw-deny",
        "ufw deny 22/tcp; ufw --force enable",
        "timeout",
        "ufw --force disable; ufw --force delete deny 22/tcp",
    ),
    _firewall(
        "ufw-flushed",
        "ufw allow 22/tcp; ufw --force enable; iptables -F",
        "timeout",
        "ufw --force disable; ufw --force delete allow 22/tcp; iptables -P INPUT ACCEPT",
    ),
)

_FIREWALLD_BACK = "rm -f /etc/firewalld/zones/*; systemctl restart firewalld.service"
_RELOAD = "firewall-cmd -q --reload"
FIREWALLD = (
    _firewall(
        "firewalld-zone-drop",
        f"firewall-cmd -q --permanent --zone=drop --change-interface=eth0; {_RELOAD}",
        "timeout",
        _FIREWALLD_BACK,
    ),
    _firewall(
        "firewalld-ssh-removed",
        f"firewall-cmd -q --permanent --zone=public --remove-service=ssh; {_RELOAD}",
        "unreachable",
        _FIREWALLD_BACK,
    ),
)

RULES = (*xtables(""), *xtables("-legacy"), *OTHER_RULES, *UFW)


def at_2222(fault: Fault) -> Fault:
    """The same for an sshd that listens there: 22, and the ports beside it, become 2222 and those beside that."""
    breaks, heal = (re.sub(r"\b2([1-5])\b", r"222\1", text) for text in (fault.breaks, fault.heal))
    return fault._replace(breaks=breaks, heal=heal)


def by_ipv6(fault: Fault) -> Fault:
    """The same for a client that comes by IPv6."""
    words = (
        (r"\biptables", "ip6tables"),
        (r"(ip6tables\S*) -A INPUT -i lo -j ACCEPT", r"\1 -A INPUT -i lo -j ACCEPT; \1 -A INPUT -p icmpv6 -j ACCEPT"),
        # Without neighbour discovery it would be another fault.
        (r"ip6tables -F$", "ip6tables -F; ip6tables -A INPUT -p icmpv6 -j ACCEPT"),
        ("icmp-host-prohibited", "icmp6-adm-prohibited"),
        (r"\bip mine", "ip6 mine"),
    )
    breaks, heal = fault.breaks, fault.heal
    for pattern, word in words:
        breaks, heal = re.sub(pattern, word, breaks), re.sub(pattern, word, heal)
    return fault._replace(breaks=breaks, heal=heal, to=SERVER6)
