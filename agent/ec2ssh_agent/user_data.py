"""User data for an instance that nobody can log in to: the document's method 4, made from this configuration.

A MIME multipart of two parts, as EC2's user data for cloud-init: a cloud-config that makes scripts run at *every* boot,
and a script. The script lets an installed agent repair first, and does by hand only what is left to do: the document's
steps, in their first form (one accepting rule) unless `[repair] firewall = disable` asks for the second (flush). It
needs a POSIX shell and nothing else, so it also mends instances that do not carry the agent.
"""

from __future__ import annotations

from .config import Config
from .model import AgentError
from .reach.addresses import cidrs
from .reach.ruleset import Family

#: Bytes of user data that EC2 takes (EC2 User Guide, "Run commands when you launch an instance").
LIMIT = 16384
_BOUNDARY = "//"

_CLOUD_CONFIG = """\
#cloud-config
cloud_final_modules:
- [scripts-user, always]
"""

_HEAD = """\
#!/bin/sh
# Written by `ec2ssh-agent user-data`. It runs at every boot until it is taken out of the instance's user data:
# once SSH is back, stop the instance, remove the user data, start it, and review the firewall's configuration.
say() { echo "ec2ssh-agent user-data: $*"; }

if command -v ec2ssh-agent >/dev/null 2>&1; then
    timeout 120 ec2ssh-agent repair@OPTIONS@
    case $? in
        0 | 1) exit 0 ;;
    esac
    say "the agent could not mend it; by hand, then"
fi
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""

_PORT = """\
port=$(sshd -T 2>/dev/null | sed -n 's/^port //p' | head -n 1)
port=${port:-22}
"""

_OPEN = """\
# Step 1, first form: a rule in front of all others, where there are rules.
configured() { "$1" -S 2>/dev/null | grep -qv -e '^-P [A-Z]* ACCEPT$'; }
accept() {
    tool=$1
    shift
    configured "$tool" || return 0
    while "$tool" -D INPUT "$@" -j ACCEPT 2>/dev/null; do :; done
    say "$tool -I INPUT 1 $* -j ACCEPT"
    "$tool" -I INPUT 1 "$@" -j ACCEPT
}
"""

_NFT = """\
# Native nf_tables: in front of every chain at the input hook, but firewalld's and those that iptables made.
accept_nft() {
    match=$1
    command -v nft >/dev/null 2>&1 || return 0
    nft list chains 2>/dev/null | awk '
        $1 == "table" { family = $2; table = $3 }
        $1 == "chain" { chain = $2 }
        /hook input/ && family ~ /^(ip|ip6|inet)$/ && table != "firewalld" && chain != "INPUT" {
            print family, table, chain
        }
    ' | while read -r family table chain; do
        case "$family $match" in "ip ip6 "* | "ip6 ip "*) continue ;; esac
        first=$(nft list chain "$family" "$table" "$chain" | sed -n '/hook input/{n;s/^[[:space:]]*//p;}')
        [ "$first" != "${match}tcp dport $port accept" ] || continue
        say "nft insert rule $family $table $chain ${match}tcp dport $port accept"
        nft "insert rule $family $table $chain ${match}tcp dport $port accept"
    done
}
"""

_FIREWALLD = """\
accept_firewalld() {
    [ "$(firewall-cmd --state 2>/dev/null)" = running ] || return 0
    for zone in $(firewall-cmd --get-active-zones | grep -v '^ ') $(firewall-cmd --get-default-zone); do
        say "firewalld: zone $zone: $1, until a reload"
        firewall-cmd -q --zone="$zone" "$1"
    done
}
"""

_DISABLE = """\
# Step 1, second form: policies first, so that nothing is shut in between; then no rules, and no firewall at boot.
flush() {
    say "$1: policies ACCEPT, no rules"
    "$1" -P INPUT ACCEPT && "$1" -P OUTPUT ACCEPT && "$1" -F
}
for tool in iptables ip6tables; do
    ! command -v "$tool" >/dev/null 2>&1 || flush "$tool"
done
! grep -qs . /proc/net/ip_tables_names || flush iptables-legacy
! grep -qs . /proc/net/ip6_tables_names || flush ip6tables-legacy
! command -v ufw >/dev/null 2>&1 || ufw disable
! command -v firewall-cmd >/dev/null 2>&1 || systemctl disable --now firewalld
"""

_SSHD = """\
# Step 2: sshd runs and listens. One that listens is not stopped where its configuration would not let it start again.
if sshd -t || ! ss -Hltn "sport = :$port" 2>/dev/null | grep -q .; then
    systemctl reset-failed ssh.service sshd.service 2>/dev/null
    systemctl restart sshd.service 2>/dev/null || systemctl restart ssh.service ||
        service sshd restart || service ssh restart
fi
ss -tln "sport = :$port" 2>/dev/null
"""

_WRAPPERS = """\
# Step 3: TCP wrappers, where they have any rule.
line='sshd2 sshd : ALL: allow'
if grep -qsv -e '^#' -e '^[[:space:]]*$' /etc/hosts.allow /etc/hosts.deny &&
    [ "$(head -n 1 /etc/hosts.allow 2>/dev/null)" != "$line" ]; then
    say "hosts.allow: $line"
    new=$(mktemp /etc/hosts.allow.XXXXXX)
    { echo "$line"; cat /etc/hosts.allow 2>/dev/null; } >"$new"
    chmod --reference=/etc/hosts.allow "$new" 2>/dev/null || chmod 0644 "$new"
    chown --reference=/etc/hosts.allow "$new" 2>/dev/null
    mv "$new" /etc/hosts.allow
fi
"""


class TooLong(AgentError):
    """There is no user data that EC2 would take for this configuration."""

    exit_status = 65


def script(config: Config) -> str:
    """The shell script alone."""
    options = " --allow-disable" if config.repair_firewall == "disable" else ""
    parts = [_HEAD.replace("@OPTIONS@", options)]
    parts.append(f"port={config.expect_port}\n" if config.expect_port else _PORT)
    if config.repair_firewall == "disable":
        parts.append(_DISABLE)
    elif config.repair_firewall == "open":
        parts.append(_OPEN + _NFT + _FIREWALLD + _rules(config))
    if config.repair_sshd != "off":
        parts.append(_SSHD)
    if config.repair_tcp_wrappers == "allow":
        parts.append(_WRAPPERS)
    return "\n".join(parts)


def _rules(config: Config) -> str:
    """The rule for everyone, or one for each range of `[expect] clients`."""
    lines: list[str] = []
    for family, tool, names, key in (
        (Family.IPV4, "iptables", "/proc/net/ip_tables_names", "ip"),
        (Family.IPV6, "ip6tables", "/proc/net/ip6_tables_names", "ip6"),
    ):
        ranges = [cidrs((found,), of)[0] for of, found in config.expect_clients if of is family]
        source = ' -s "$1"' if config.expect_clients else ""
        accept = (
            f'accept {tool}{source} -p tcp --dport "$port"',
            # The older kernel interface's rules apply besides those of the newer one.
            f'! grep -qs . {names} || accept {tool}-legacy{source} -p tcp --dport "$port"',
        )
        if not config.expect_clients:
            lines += accept
        elif ranges:
            rule = f"rule family={family.value} source address=$1 port port=$port protocol=tcp accept"
            body = (*accept, f'accept_nft "{key} saddr $1 "', f'accept_firewalld "--add-rich-rule={rule}"')
            lines += [f"admit_{key}() {{", *(f"    {line}" for line in body), "}"]
            lines += [f"admit_{key} {found}" for found in ranges]
    if not config.expect_clients:
        lines += ["accept_nft ''", 'accept_firewalld "--add-port=$port/tcp"']
    return "".join(f"{line}\n" for line in lines)


def multipart(config: Config) -> str:
    """The user data. Raises TooLong."""
    parts = (
        ("text/cloud-config", "cloud-config.txt", _CLOUD_CONFIG),
        ("text/x-shellscript", "userdata.txt", script(config)),
    )
    text = f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"\nMIME-Version: 1.0\n'
    for kind, name, content in parts:
        text += (
            f'\n--{_BOUNDARY}\nContent-Type: {kind}; charset="us-ascii"\nMIME-Version: 1.0\n'
            f'Content-Transfer-Encoding: 7bit\nContent-Disposition: attachment; filename="{name}"\n\n{content}'
        )
    text += f"--{_BOUNDARY}--\n"
    if len(text) > LIMIT:
        raise TooLong(f"{len(text)} bytes of user data, and EC2 takes {LIMIT}: [expect] clients is too long")
    return text
