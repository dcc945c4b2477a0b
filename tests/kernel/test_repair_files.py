"""Files, keys, an owner's tool, the second form, on real file systems and rulesets: made, undone, killed half-way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ec2ssh_agent.reach.ruleset import Backend
from ec2ssh_agent.steps import Directory, Disable, HostKeys, Insert, Mode, Run, Rung, Step, Write
from repair_world import World, kill_everywhere, said, world

LINE = b"sshd2 sshd : ALL: allow\n"

# A tool as ufw is one: it writes its file of rules anew, with a comment that it never takes away, and loads it.
TOOL = r"""
cat > /run/fw <<'EOF'
#!/bin/sh -e
rules=/etc/fw/rules
case $1 in
allow) grep -qx "$2" $rules || echo "$2" >>$rules ;;
delete) grep -vx "$2" $rules >$rules.new || true; echo "# deleted $2" >>$rules.new; mv $rules.new $rules ;;
fail) echo "fw: no such thing" >&2; exit 3 ;;
esac
cp $rules /run/fw.loaded
EOF
chmod 755 /run/fw
mkdir /etc/fw; printf '# rules\n80/tcp\n' >/etc/fw/rules; cp /etc/fw/rules /run/fw.loaded
"""
FW = Run(
    (("/run/fw", "allow", "22/tcp"),),
    (("/run/fw", "delete", "22/tcp"),),
    ("/etc/fw/rules",),
    (("/run/fw", "reload"),),
    "ufw",
)

SETUP: dict[str, str] = {
    "write": "printf 'ALL: 10.\\n' >/etc/hosts.allow; chmod 640 /etc/hosts.allow; chown 0:4 /etc/hosts.allow",
    "new file": "rm -f /etc/hosts.allow",
    "mode": "mkdir -p /etc/ssh; echo key >/etc/ssh/key; chmod 666 /etc/ssh/key; chown 5:6 /etc/ssh/key",
    "directory": "true",
    "keys": "mkdir -p /etc/ssh; cd /etc/ssh; rm -f a b c; echo old >b.pub; echo mine >c",
    "tool": TOOL,
    "disable": (
        "iptables-nft -P INPUT DROP; iptables-nft -N mine; iptables-nft -A mine -s 10.0.0.1 -j ACCEPT;"
        "iptables-nft -A INPUT -j mine; ip6tables-nft -P INPUT DROP; ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT;"
        "iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -p tcp --dport 80 -j ACCEPT; nft add table inet f;"
        "nft add chain inet f i '{ type filter hook input priority 5; policy drop; }';"
        "nft add set inet f s '{ type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }';"
        "nft add chain inet f o; nft add rule inet f i ip saddr @s counter jump o;"
        "nft add rule inet f o accept comment hm"
    ),
}
STEPS: dict[str, tuple[Step, ...]] = {
    "write": (Write("/etc/hosts.allow", LINE + b"ALL: 10.\n"),),
    "new file": (Write("/etc/hosts.allow", LINE),),
    "mode": (Mode("/etc/ssh/key", 0o600, 0, 0),),
    "directory": (Directory("/run/sshd", 0o755),),
    "keys": (HostKeys((("ed25519", "/etc/ssh/a"), ("ecdsa", "/etc/ssh/b"), ("ed25519", "/etc/ssh/c"))),),
    "tool": (FW,),
    "disable": (Disable(("iptables", "ip6tables", "iptables-legacy"), nft=(("inet", "f"),)),),
}
WHOLE = ("write", "tool", "keys")


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.mark.parametrize("case", STEPS)
def test_made_and_undone(place: World, case: str) -> None:
    place.sh(SETUP[case])
    before = place.listing()
    made = said(place.drive("apply", rung=Rung("it", "", STEPS[case])))
    changed = place.listing()
    assert changed != before
    for _ in range(2):
        assert said(place.drive("undo", id=made["records"][0]["id"]))["records"][0]["state"] == "undone"
        assert place.listing() == before
    assert said(place.drive("recover"))["records"][0]["state"] == "undone"


@pytest.mark.parametrize("case", STEPS)
def test_killed_at_some_changes_of_files(place: World, case: str) -> None:
    place.sh(SETUP[case])
    kill_everywhere(place, Rung("it", "", STEPS[case]), every=11)


@pytest.mark.slow
@pytest.mark.parametrize("case", STEPS)
def test_killed_at_every_change_of_files(place: World, case: str) -> None:
    place.sh(SETUP[case])
    kill_everywhere(place, Rung("it", "", STEPS[case]), every=1)


def test_several_kinds_in_one_change(place: World) -> None:
    for case in WHOLE:
        place.sh(SETUP[case])
    insert = Insert(Backend.IPTABLES_NFT, "ip", "filter", "INPUT", ("-p", "tcp", "--dport", "22", "-j", "ACCEPT"))
    kill_everywhere(place, Rung("it", "", (insert, *(step for case in WHOLE for step in STEPS[case]))), every=17)


def test_what_is_kept_of_a_file(place: World) -> None:
    note = '/usr/bin/python3 -c \'import os; print(os.{}xattr("/etc/hosts.allow", "trusted.note"{}))\''
    place.sh(SETUP["write"] + "; " + note.format("set", ', b"hello"'))
    made = said(place.drive("apply", rung=Rung("it", "", STEPS["write"])))
    look = "stat -c '%a %u %g' /etc/hosts.allow; " + note.format("get", "")
    assert place.sh(look).split() == ["640", "0", "4", "b'hello'"]
    assert place.sh("cat /etc/hosts.allow").encode() == LINE + b"ALL: 10.\n"
    said(place.drive("undo", id=made["records"][0]["id"]))
    assert place.sh(look).split() == ["640", "0", "4", "b'hello'"]


def test_keys_are_whole_private_and_their_own(place: World) -> None:
    place.sh(SETUP["keys"])
    said(place.drive("apply", rung=Rung("it", "", STEPS["keys"])))
    for name in ("a", "b"):
        pair = place.sh(f"ssh-keygen -y -f /etc/ssh/{name} | cut -d' ' -f1,2; cut -d' ' -f1,2 /etc/ssh/{name}.pub")
        assert len(set(pair.splitlines())) == 1
        assert place.sh(f"stat -c '%a %u' /etc/ssh/{name} /etc/ssh/{name}.pub").split() == ["600", "0", "644", "0"]
    assert place.sh("cat /etc/ssh/c") == "mine\n"
    record = place.sh("cat /var/lib/ec2ssh-agent/changes/*/record.json")
    assert "PRIVATE" not in record and place.sh("base64 -w0 /etc/ssh/a")[100:160] not in record
    assert place.sh("stat -c %a /var/lib/ec2ssh-agent/changes /var/lib/ec2ssh-agent/changes/*/*").split() == [
        "700",
        "600",
    ]


def test_immutable_is_respected_and_said(place: World) -> None:
    place.sh(SETUP["write"] + "; chattr +i /etc/hosts.allow")
    before = place.listing()
    answer = place.drive("apply", rung=Rung("it", "", (Directory("/run/sshd", 0o755), *STEPS["write"])))
    place.sh("chattr -i /etc/hosts.allow")
    assert answer and answer["error"] == "StepFailed" and "immutable" in answer["text"]
    assert place.listing() == before
    assert said(place.drive("list"))["records"][0]["state"] == "failed"


@pytest.mark.parametrize(
    ("setup", "followed"),
    [
        ("mkdir /etc/site; echo x >/etc/site/allow; ln -s site/allow /etc/hosts.allow", True),
        ("mkdir -m 777 /etc/site; echo x >/etc/site/allow; ln -s site/allow /etc/hosts.allow", False),
        ("echo x >/run/allow; ln -s /run/allow /etc/hosts.allow", False),
        (
            "mkdir /etc/site; install -o 1000 /dev/null /etc/site/allow; ln -s site/allow /etc/hosts.allow",
            False,
        ),
        ("ln -s /etc/nothing /etc/hosts.allow", False),
        ("mkdir /etc/hosts.allow", False),
        ("mkfifo /etc/hosts.allow", False),
    ],
)
def test_symlinks_and_strange_files(place: World, setup: str, followed: bool) -> None:
    place.sh(f"rm -rf /etc/hosts.allow; {setup}")
    before = place.listing()
    answer = place.drive("apply", rung=Rung("it", "", STEPS["new file"]))
    assert answer
    if followed:
        assert place.sh("cat /etc/site/allow").encode() == LINE
        assert place.sh("readlink /etc/hosts.allow") == "site/allow\n"
        said(place.drive("undo", id=answer["records"][0]["id"]))
    else:
        assert "error" in answer
    assert place.listing() == before


def test_a_failing_step_takes_the_others_back(place: World) -> None:
    place.sh(SETUP["tool"] + SETUP["write"])
    before = place.listing()
    bad = Run((("/run/fw", "fail"),), owner="ufw")
    answer = place.drive("apply", rung=Rung("it", "", (FW, *STEPS["write"], bad)))
    assert answer and answer["error"] == "StepFailed" and "no such thing" in answer["text"]
    assert place.listing() == before
    assert place.sh("cat /run/fw.loaded") == "# rules\n80/tcp\n"


def test_undo_refuses_what_was_changed_and_shows_it(place: World) -> None:
    place.sh(SETUP["write"])
    made = said(place.drive("apply", rung=Rung("it", "", STEPS["write"])))
    place.sh("echo 'sshd: 192.0.2.' >>/etc/hosts.allow")
    before = place.listing()
    answer = place.drive("undo", id=made["records"][0]["id"])
    assert answer and answer["error"] == "ChangedSince" and "+sshd: 192.0.2." in answer["text"]
    assert place.listing() == before


def test_undo_of_a_tool_leaves_what_others_added(place: World) -> None:
    place.sh(SETUP["tool"])
    made = said(place.drive("apply", rung=Rung("it", "", (FW,))))
    place.sh("/run/fw allow 443/tcp")
    said(place.drive("undo", id=made["records"][0]["id"]))
    rules = [line for line in place.sh("cat /etc/fw/rules").splitlines() if not line.startswith("#")]
    assert rules == ["80/tcp", "443/tcp"]


def test_undo_of_the_second_form_refuses_new_rules(place: World) -> None:
    place.sh(SETUP["disable"])
    made = said(place.drive("apply", rung=Rung("it", "", STEPS["disable"])))
    place.sh("iptables-nft -A INPUT -s 192.0.2.1 -j DROP")
    answer = place.drive("undo", id=made["records"][0]["id"])
    assert answer and answer["error"] == "ChangedSince" and "+-A INPUT -s 192.0.2.1/32 -j DROP" in answer["text"]


def test_the_second_form_lets_everyone_in(place: World) -> None:
    place.sh(SETUP["disable"])
    said(place.drive("apply", rung=Rung("it", "", STEPS["disable"])))
    rules = place.sh("nft list ruleset 2>/dev/null; iptables-legacy-save; iptables-nft-save; ip6tables-nft-save")
    assert "drop" not in rules.lower() and "-A" not in rules
