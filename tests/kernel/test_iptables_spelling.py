"""What iptables takes is read, and means what it means as iptables prints it back: spelling for spelling.

EC2SSH_SEED is the seed (printed), EC2SSH_RULES how many rules.
"""

from __future__ import annotations

import os
import random
import subprocess

from ec2ssh_agent.reach import iptables
from ec2ssh_agent.reach.ruleset import Family, Unknown
from namespace import namespace

RULES = int(os.environ.get("EC2SSH_RULES", "250"))
#: Conditions in the spellings that people use, some of them wrong; a rule takes a few.
PIECES = """
-s 10.0.0.0/8|--source 10.1.2.3/255.255.0.0|-s 10.1|-s ! 10.0.0.1|! --src 10/8|-d 0/0|--dst 10.0.0.5
-s 10.0.0.5/255.0.0.255|--destination 192.0.2.256|-s 192.0.2.1/33|-i eth0|! -i eth+|-i ! eth0|--in-interface wg+
-i +|-f|! -f|-p tcp|-p TCP|-p 6|--protocol tcp|! -p udp|-p all|-p udp|-p tcp --dport ssh|-p tcp -m tcp --dport ! 22
-p tcp --sport 1024:|-p tcp --dport :1023|-p tcp --destination-port 0x16|-p tcp --dport 026|-p tcp --dport 22:20
-p tcp --dport 65536|--dport 22|-p tcp --syn|-p tcp ! --syn|-p tcp --tcp-flags syn,ack syn
-p tcp --tcp-flags ALL NONE|-p tcp --tcp-flags SYN|--tcp-option 8|-p tcp -m multiport --dports ssh,80,1000:2000
-p tcp -m multiport --dport 22|-p tcp -m multiport ! --ports 22|-m multiport --dports 22
-m state --state new,established|-m state ! --state INVALID|-m state --state NWE|-m conntrack --ctstate NEW,DNAT
-m conntrack ! --ctstate UNTRACKED --ctproto tcp|-m conntrack --ctdir reply|-m conntrack --ctorigsrc 10.0.0.0/8
-m conntrack ! --ctorigdstport 22:23|-m conntrack --ctstatus ASSURED,CONFIRMED|-m conntrack --ctexpire 10:20
-m conntrack --ctrep 1.1.1.1|-m addrtype --dst-type local|-m addrtype ! --src-type UNICAST,LOCAL
-m addrtype --src-type LOCAL --limit-iface-in|-m iprange --src-range 10.0.0.1-10.0.0.9
-m iprange ! --dst-range 10.0.0.1|-m iprange --src-range 10.0.0.9-10.0.0.1|-m mark --mark 1
-m mark ! --mark 0x10/0xf0|-m connmark --mark 010|-m mark --mark 0x1 -m connmark --mark 0x2
-m pkttype --pkt-type broadcast|-m ttl --ttl 64|-m ttl ! --ttl-eq 64|-m ttl --ttl-lt 5|-m ttl ! --ttl-gt 5
-m length --length 40:|-m dscp --dscp 0x2e|-m dscp --dscp-class ef|-m tos --tos 0x10|-m tos --tos Minimize-Delay
-m length ! --length 5:9|-m limit --limit 3/minute|-m limit --limit 10/s --limit-b 20|-m limit ! --limit 3/min
-m limit|-m hashlimit --hashlimit 5/sec --hashlimit-name a
-m hashlimit ! --hashlimit-above 5/sec --hashlimit-mode srcip --hashlimit-name b
-m connlimit --connlimit-above 3 --connlimit-mask 24|-m connlimit ! --connlimit-upto 3
-m connlimit --connlimit-upto 0|-m recent --set --name x --rsource|-m recent ! --rcheck --seconds 60 --hitcount 3
-m recent --update --name y --rdest|-m recent --name z|-m comment --comment plain|-m comment --comment "two words"
-m comment --comment "a \\"b\\" -j DROP"|-m comment --comment foo"bar baz"|-m policy --dir in --pol none
-m policy --dir in --pol ipsec ! --proto esp|-m helper --helper ftp|-m rpfilter --loose --invert
-m quota --quota 100|-m string --algo bm --string "x y"|-m statistic --mode random --probability 0.5
-m time --timestart 10:00|-m physdev --physdev-in eth0|-m mac --mac-source 00:11:22:33:44:55
-p tcp -m tcpmss --mss 500:600|-p tcp -m ecn ! --ecn-tcp-cwr|-p icmp --icmp-type echo-request
-p icmp -m icmp --icmp-type 3/1|-p icmp --icmp-type any|-p icmp ! --icmp-type 8|! ! -i eth0|-m nonsense|! -m tcp
-m socket --transparent|-p sctp --dport 22|-p esp|-p vrrp|-p 300
""".strip().replace("\n", "|").split("|")  # fmt: skip
TARGETS = """
-j ACCEPT|-j DROP|--jump RETURN|-j REJECT|-j REJECT --reject-with host-prohib
-j REJECT --reject-with icmp-proto-unreachable|-j REJECT --reject-with tcp-rst
-j LOG --log-prefix "a b: " --log-level debug|-j user|-g user|--goto user|-j nowhere||-j NFLOG --nflog-group 3
-j ACCEPT -j DROP|-j NFQUEUE --queue-num 1 --queue-bypass|! -j DROP|-j TARPIT
""".strip().replace("\n", "|").split("|")  # fmt: skip


def _rule(chosen: random.Random) -> str:
    words = [chosen.choice(PIECES) for _ in range(chosen.choice((1, 1, 2, 2, 3)))] + [chosen.choice(TARGETS)]
    if chosen.random() < 0.1:
        chosen.shuffle(words)
    return "-A INPUT " + " ".join(words)


def _meaning(text: str) -> list[str]:
    """Without conditions that every packet fulfils, which iptables does not print, and without the words of what nobody
    can know, which it prints in another order.
    """
    (rule,) = iptables.parse(text, family=Family.IPV4).tables[0].chains["INPUT"].rules
    telling = [item for item in rule.items if getattr(item, "ranges", ()) != ((0, 0xFFFFFFFF),)]
    return sorted(f"Unknown {item.reason.split()[0]}" if isinstance(item, Unknown) else repr(item) for item in telling)


def test_as_written_and_as_printed() -> None:
    seed = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    wrong, taken, refused_alike = [], 0, 0
    with namespace() as inside:
        for _ in range(RULES):
            rule = _rule(chosen)
            variant = chosen.choice(("nft", "legacy"))
            text = f"*filter\n:user - [0:0]\n{rule}\nCOMMIT\n"
            restored = subprocess.run(
                inside.argv(f"iptables-{variant}-restore"), input=text, capture_output=True, text=True, timeout=60
            )
            if restored.returncode:
                try:
                    _meaning(text)
                except iptables.IptablesError:
                    refused_alike += 1
                continue
            taken += 1
            printed = inside.run(f"iptables-{variant}-save", "-t", "filter")
            try:
                written = _meaning(text)
            except iptables.IptablesError as error:
                wrong.append(f"{rule}: taken by iptables-{variant}, not read: {error.reason}")
                continue
            if written != _meaning(printed):
                wrong.append(f"{rule}:\n  {written}\n  {_meaning(printed)}")
    print(f"{taken} taken, {RULES - taken} refused, {refused_alike} of these by the reader, too")
    assert not wrong, "\n".join(wrong)
    assert taken > RULES / 5
