"""From a ruleset and the facts to the commands that would be typed."""

from __future__ import annotations

from typing import Any

import pytest

from ec2ssh_agent import diagnose, plan, policy
from ec2ssh_agent.config import Config
from ec2ssh_agent.facts import (
    ConfigTest,
    Effective,
    Facts,
    Firewalld,
    FirewalldZone,
    HostKey,
    Listener,
    Machine,
    Network,
    Process,
    Sshd,
    Ufw,
    UnitState,
    Wrappers,
)
from ec2ssh_agent.model import Health, Seen, Symptom, Unseen
from ec2ssh_agent.reach import addresses, analyse, iptables, wrappers
from ec2ssh_agent.reach.question import Link, Listening, Local, Question, Route
from ec2ssh_agent.reach.ruleset import Backend, Chain, Family, Kind, Ranges, Ruleset, Table
from ec2ssh_agent.steps import Ladder, Run, Write, commands

HOST = addresses.parse_address("10.0.5.20")[1]
EMPTY = Ruleset(())
EVERY = addresses.SPACE[Family.IPV4][0]
GOOD = Sshd(
    installed=Seen("/usr/sbin/sshd"),
    unit=Seen(UnitState("ssh.service", "loaded", "active", "running", "enabled", main_pid=7)),
    socket_unit=Seen(UnitState("ssh.socket", "loaded", "inactive", "dead", "disabled")),
    listeners=Seen((Listener(Family.IPV4, 0, 22),)),
    port=Seen((22,)),
    process=Seen(Process(7, "sshd")),
    test=Seen(ConfigTest(True)),
    host_keys=Seen((HostKey("/etc/ssh/ssh_host_ed25519_key", True),)),
)
DOWN = GOOD._replace(
    listeners=Seen(()),
    process=Seen(None),
    unit=Seen(UnitState("ssh.service", "loaded", "failed", "failed", "enabled", "exit-code", exit_status=255)),
)


def rules(text: str, backend: Backend = Backend.IPTABLES_NFT) -> Ruleset:
    return iptables.parse(text, family=Family.IPV4, backend=backend)


class Story:
    """One machine: its facts, what is wrong, what would be done."""

    def __init__(self, ruleset: Ruleset = EMPTY, sshd: Sshd = GOOD, **more: Any) -> None:
        config: Config = more.pop("config", Config())
        baseline = more.pop("baseline", {("eth0", Family.IPV4): diagnose_possible()})
        known, current = more.pop("known", {}), more.pop("current", {})
        decided = more.pop("decided", None)
        allow_disable = more.pop("allow_disable", False)
        unseen = more.pop("unseen", ())
        facts = Facts(
            0.0, sshd, Seen(ruleset), Seen(None), Seen(None), Seen(()), Wrappers(), Seen(Network((), (), ())), Seen(()),
            Machine(systemd=Seen(True), pressure=Seen(0.0), immutable=Seen(())),
        )._replace(**more)  # fmt: skip
        listeners = tuple(
            Listening(item.family, item.address, item.port)
            for item in (facts.sshd.listeners.value if isinstance(facts.sshd.listeners, Seen) else ())
        )
        asked = Question(
            22,
            (Link("eth0", 2, (Local(Family.IPV4, HOST, 24),)),),
            listeners,
            (Route(Family.IPV4, EVERY, "eth0"),),
            local=(Local(Family.IPV4, HOST, 24),),
            unseen=unseen,
        )
        self.facts = facts
        self.reach = analyse(asked, ruleset, decided)
        self.assessment = diagnose.diagnose(facts, self.reach, config, baseline=baseline)
        situation = plan.Situation(
            facts, self.assessment, config, ruleset, lambda changed: analyse(asked, changed, decided), known, current,
            allow_disable,
        )  # fmt: skip
        self.ladders = plan.plan(situation)

    @property
    def ids(self) -> list[str]:
        return [finding.id for finding in self.assessment.findings]

    @property
    def ladder(self) -> Ladder:
        assert len(self.ladders) == 1, self.ids
        return self.ladders[0]

    def typed(self, number: int = 0) -> list[str]:
        return [line for step in self.ladder.rungs[number].steps for line in commands(step)]


def diagnose_possible() -> Ranges:
    """Everybody who gets in without a rule."""
    asked = Question(
        22,
        (Link("eth0", 2, (Local(Family.IPV4, HOST, 24),)),),
        (Listening(Family.IPV4, 0, 22),),
        (Route(Family.IPV4, EVERY, "eth0"),),
        local=(Local(Family.IPV4, HOST, 24),),
    )
    return diagnose.admitted(analyse(asked, Ruleset(())).answers[0])


def test_a_healthy_machine_has_no_finding() -> None:
    story = Story()
    assert (story.assessment.health, story.ids, story.ladders) == (Health.OK, [], ())


DROP = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"


def test_a_policy_that_drops_is_opened_by_the_documents_command() -> None:
    story = Story(rules(DROP))
    assert story.ids == ["firewall-drop"]
    finding = story.assessment.findings[0]
    assert finding.symptom is Symptom.TIMEOUT and "-P INPUT DROP" in finding.evidence[0]
    assert story.typed() == [
        "iptables -w 5 -I INPUT 1 -p tcp --dport 22 -m comment --comment ec2ssh-agent:@CHANGE@ -j ACCEPT"
    ]


def test_input_and_output_are_opened_together() -> None:
    text = DROP.replace(":OUTPUT ACCEPT", ":OUTPUT DROP")
    assert [line.split(" -m ")[0] for line in Story(rules(text)).typed()] == [
        "iptables -w 5 -I INPUT 1 -p tcp --dport 22",
        "iptables -w 5 -I OUTPUT 1 -p tcp --sport 22",
    ]


def test_a_rule_names_its_interface_where_another_one_has_no_address_now() -> None:
    six, away = ("eth0", Family.IPV6, "no address"), tuple(("eth1", family, "no address") for family in Family)
    assert "-i" not in Story(rules(DROP), unseen=(six,)).typed()[0].split()
    assert "-i eth0 -p tcp --dport 22" in Story(rules(DROP), unseen=(six, *away)).typed()[0]


def test_only_the_baseline_is_opened_and_nobody_else() -> None:
    office = (addresses.parse_cidr("203.0.113.0/24")[1],)
    story = Story(rules(DROP), baseline={("eth0", Family.IPV4): office})
    assert "-s 203.0.113.0/24 -p tcp --dport 22" in story.typed()[0]


def test_a_bastion_that_gets_in_is_intent() -> None:
    text = DROP.replace("COMMIT", "-A INPUT -s 203.0.113.7 -p tcp --dport 22 -j ACCEPT\nCOMMIT")
    story = Story(rules(text))
    assert story.ladders == () and story.ids == ["reach-shrunk"]
    assert story.assessment.health is Health.DEGRADED
    assert story.assessment.findings[0].evidence[1] == "iptables-nft: ip filter INPUT: -P INPUT DROP"
    assert Story(rules(text), baseline={}).assessment.health is Health.OK


def test_an_opening_stays_behind_the_bans() -> None:
    text = DROP.replace(
        "-A INPUT -i lo", ":f2b-sshd - [0:0]\n-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd\n-A INPUT -i lo"
    ).replace("COMMIT", "-A f2b-sshd -s 198.51.100.9 -j REJECT\n-A f2b-sshd -j RETURN\nCOMMIT")
    assert "-I INPUT 2 " in Story(rules(text)).typed()[0]


def test_expected_clients_are_opened_though_somebody_else_gets_in() -> None:
    text = DROP.replace("COMMIT", "-A INPUT -s 203.0.113.7 -p tcp --dport 22 -j ACCEPT\nCOMMIT")
    expected = Config(expect_clients=((Family.IPV4, addresses.parse_cidr("192.0.2.0/24")[1]),))
    assert "-s 192.0.2.0/24 -p tcp --dport 22" in Story(rules(text), config=expected).typed()[0]


def test_without_a_baseline_the_configuration_may_ask_for_a_report_only() -> None:
    story = Story(rules(DROP), baseline={}, config=Config(repair_without_baseline="report"))
    assert not story.ladder.rungs and "without_baseline" in story.ladder.withheld
    assert Story(rules(DROP), baseline={}).typed()


def test_switching_the_firewall_off_is_the_last_rung_and_only_where_it_is_allowed() -> None:
    assert [rung.name for rung in Story(rules(DROP)).ladder.rungs] == ["open"]
    story = Story(rules(DROP), allow_disable=True)
    assert [rung.name for rung in story.ladder.rungs] == ["open", "disable"]
    assert story.typed(1) == [
        "iptables -w 5 -P INPUT ACCEPT", "iptables -w 5 -P OUTPUT ACCEPT", "iptables -w 5 -F",
    ]  # fmt: skip
    docker = Story(rules(DROP), allow_disable=True, foreign=Seen(("docker",)))
    assert [rung.name for rung in docker.ladder.rungs] == ["open"] and "docker" in docker.ladder.withheld


UFW = """*filter
:INPUT DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -j ufw-user-input
COMMIT
"""


def test_ufw_makes_its_own_rule() -> None:
    story = Story(rules(UFW), ufw=Seen(Ufw(True, True)))
    assert story.ladder.rungs[0].name == "ufw-allow" and story.typed() == ["ufw prepend allow 22/tcp"]


def test_ufws_own_denial_is_deleted_first() -> None:
    denial = "deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in"
    text = UFW.replace("COMMIT", "-A ufw-user-input -p tcp -m tcp --dport 22 -j DROP\nCOMMIT")
    story = Story(rules(text), ufw=Seen(Ufw(True, True, (denial,))))
    assert story.typed() == ["ufw --force delete deny 22/tcp", "ufw prepend allow 22/tcp"]


def test_ufws_own_denial_that_comes_first_is_made_an_allowance_where_it_stands() -> None:
    text = UFW.replace("COMMIT", "-A ufw-user-input -p tcp -m tcp --dport 22 -j DROP\nCOMMIT")
    four, six = "deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", "deny tcp 22 ::/0 any ::/0 in"
    other = "allow tcp 80 ::/0 any ::/0 in"

    def told(*tuples: str) -> list[str]:
        story = Story(rules(text), ufw=Seen(Ufw(True, True, tuples)))
        (step,) = story.ladder.rungs[0].steps
        assert isinstance(step, Run)
        return [*story.typed(), *(" ".join(words) for words in step.inverse)]

    deleted = ["ufw --force delete deny 22/tcp", "ufw prepend allow 22/tcp"]
    assert told(four, six, other) == ["ufw allow 22/tcp", "ufw deny 22/tcp"]
    assert told(four, other, six)[:2] == deleted, "in one family another stands before it"
    assert told(four)[:2] == deleted, "its undoing would shut the other family"
    assert told(f"{four} comment=73", six)[:2] == deleted
    assert told(four, six, four.replace("deny", "deny_log"))[1] == "ufw --force delete deny log 22/tcp"


def test_a_ufw_whose_chains_were_flushed_is_not_taken_down_and_up() -> None:
    text = UFW.replace("-A INPUT -j ufw-before-input\n", "")
    story = Story(rules(text), ufw=Seen(Ufw(True, False)))
    assert story.typed()[0].startswith("iptables -w 5 -I INPUT 1 ") and story.typed()[1] == "ufw prepend allow 22/tcp"
    allowed = Ufw(True, False, ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in",))
    assert [rung.name for rung in Story(rules(text), ufw=Seen(allowed)).ladder.rungs] == ["open"]


def test_firewalld_is_asked_for_what_is_missing_only() -> None:
    public = FirewalldZone("public", ("eth0",), (), (), ())
    permanent = public._replace(services=("ssh",))
    firewalld = Firewalld(True, default_zone="public", zones=(public,), permanent=(permanent,))
    story = Story(rules(DROP), firewalld=Seen(firewalld))
    assert story.typed() == ["firewall-cmd --zone=public --add-service=ssh"]
    panic = Story(rules(DROP), firewalld=Seen(firewalld._replace(panic=True)))
    assert not panic.ladder.rungs and "panic" in panic.ladder.withheld


def test_an_owner_that_cannot_be_looked_at_keeps_what_it_made() -> None:
    """It may be in panic mode."""
    table = Table("inet", "firewalld", Backend.NFTABLES, {"filter_INPUT": Chain("filter_INPUT", (), "input", 10)})
    firewalld = Ruleset((*rules(DROP).tables, table))
    hangs = Unseen("firewalld: /run/dbus/system_bus_socket: no answer within its deadline")
    old = rules(DROP.replace("-A", ":INPUT_ZONES - [0:0]\n-A"))
    for ruleset in (firewalld, old):
        withheld = Story(ruleset, firewalld=hangs, allow_disable=True).ladder
        assert not withheld.rungs and "no answer within" in withheld.withheld and withheld.blind
    withheld = Story(rules(UFW), ufw=Unseen("ufw: Input/output error")).ladder
    assert not withheld.rungs and "Input/output error" in withheld.withheld and withheld.blind
    assert Story(firewalld, firewalld=Seen(Firewalld(False))).typed(), "a table that it left behind"
    assert Story(rules(DROP), firewalld=hangs, ufw=Unseen("ufw: Input/output error")).typed(), "none of theirs"


def test_files_of_which_it_is_not_seen_whether_they_are_immutable_are_left() -> None:
    unseen = Machine(systemd=Seen(True), immutable=Unseen("/etc/hosts.deny: Permission denied"))
    public = FirewalldZone("public", ("eth0",), (), (), ())
    decided = {Family.IPV4: wrappers.evaluate(wrappers.parse(b"", b"ALL: ALL\n"), family=Family.IPV4)}
    read = Wrappers(Seen(b""), Seen(b"ALL: ALL\n"), Seen(True))
    for story in (
        Story(rules(UFW), ufw=Seen(Ufw(True, True)), machine=unseen),
        Story(rules(DROP), firewalld=Seen(Firewalld(True, zones=(public,))), machine=unseen),
        Story(decided=decided, wrappers=read, machine=unseen),
    ):
        assert not story.ladder.rungs and "immutable" in story.ladder.withheld and story.ladder.blind
    assert Story(rules(DROP), machine=unseen).typed(), "no file is written"


def test_a_machine_without_systemd_is_repaired() -> None:
    machine = Machine(systemd=Seen(False), stopping=Unseen("systemd is not pid 1"), target=Seen(""), immutable=Seen(()))
    assert Story(rules(DROP), machine=machine, firewalld=Seen(Firewalld(False))).typed()


def test_wrappers_get_the_documents_line() -> None:
    tables = wrappers.parse(b"", b"ALL: ALL\n")
    decided = {Family.IPV4: wrappers.evaluate(tables, family=Family.IPV4)}
    story = Story(decided=decided, wrappers=Wrappers(Seen(b"# old\n"), Seen(b"ALL: ALL\n"), Seen(True)))
    assert story.ids == ["wrappers-deny"]
    assert story.typed() == ["sed -i '1i sshd2 sshd : ALL: allow' /etc/hosts.allow"]
    step = story.ladder.rungs[0].steps[0]
    assert isinstance(step, Write) and step.content == b"sshd2 sshd : ALL: allow\n# old\n"
    assert step.read == b"# old\n"


def test_a_dead_sshd_is_reset_and_started() -> None:
    story = Story(sshd=DOWN)
    assert story.ids == ["sshd-not-running"]
    assert story.typed() == ["systemctl reset-failed ssh.service", "systemctl restart ssh.service"]


def test_what_was_done_on_purpose_is_left() -> None:
    masked = DOWN._replace(unit=Seen(UnitState("ssh.service", "masked")), socket_unit=Seen(UnitState("ssh.socket")))
    assert "administrator" in Story(sshd=masked).ladder.withheld
    forbidden = Story(sshd=DOWN._replace(forbidden=Seen(True)))
    assert forbidden.ids == ["sshd-forbidden"] and not forbidden.ladder.rungs
    working = UnitState("ssh.service", "loaded", "activating", "start-pre", "enabled")
    ladder = Story(sshd=DOWN._replace(unit=Seen(working))).ladder
    assert "systemd is at work" in ladder.withheld and not ladder.blind
    ladder = Story(sshd=DOWN._replace(unit=Unseen("D-Bus: timed out"))).ladder
    assert "timed out" in ladder.withheld and ladder.blind


@pytest.mark.parametrize("sub", ["auto-restart", "auto-restart-queued"])
def test_an_sshd_that_systemd_would_restart_much_later_is_started(sub: str) -> None:
    waiting = UnitState("ssh.service", "loaded", "activating", sub, "enabled")
    assert Story(sshd=DOWN._replace(unit=Seen(waiting))).typed() == ["systemctl restart ssh.service"]
    queued = waiting._replace(job=True)
    assert "systemd is at work" in Story(sshd=DOWN._replace(unit=Seen(queued))).ladder.withheld


def test_a_broken_configuration_is_put_back_and_a_running_sshd_only_reported() -> None:
    broken = ConfigTest(False, "Bad configuration option: Bogus", "/etc/ssh/sshd_config", 3)
    story = Story(
        sshd=DOWN._replace(test=Seen(broken)),
        known={"/etc/ssh/sshd_config": b"Port 22\n"},
        current={"/etc/ssh/sshd_config": b"Bogus\n"},
    )
    assert story.ids == ["sshd-config-invalid"] and len(story.typed()) == 1
    assert not Story(sshd=DOWN._replace(test=Seen(broken))).ladder.rungs
    running = Story(sshd=GOOD._replace(test=Seen(broken)))
    assert running.ladders == () and running.assessment.health is Health.DEGRADED


def test_host_keys_are_made_only_where_none_is_usable() -> None:
    keys = tuple(HostKey(f"/etc/ssh/ssh_host_{kind}_key", False) for kind in ("rsa", "ed25519"))
    test = ConfigTest(False, "sshd: no hostkeys available -- exiting.")
    story = Story(sshd=DOWN._replace(test=Seen(test), host_keys=Seen(keys)))
    assert story.ids == ["host-keys-missing"]
    assert story.typed()[1] == "ssh-keygen -q -N '' -t ed25519 -f /etc/ssh/ssh_host_ed25519_key"
    waiting = Story(
        sshd=DOWN._replace(test=Seen(test), host_keys=Seen(keys)),
        machine=Machine(systemd=Seen(True), cloud_init_done=Seen(False)),
    )
    assert "cloud-init" in waiting.ladder.withheld


def test_a_stopped_sshd_is_hung_and_a_traced_one_is_not() -> None:
    hung = Story(sshd=GOOD._replace(process=Seen(Process(7, "sshd", stopped=True))))
    assert hung.ids == ["sshd-hung"] and hung.typed() == ["systemctl restart ssh.service"]
    assert Story(sshd=GOOD._replace(process=Seen(Process(7, "sshd", stopped=True, traced=True)))).ids == []


def test_listening_inside_only_is_a_finding() -> None:
    loopback = addresses.parse_address("127.0.0.1")[1]
    sshd = GOOD._replace(listeners=Seen((Listener(Family.IPV4, loopback, 22),)))
    story = Story(
        sshd=sshd, known={"/etc/ssh/sshd_config": b"\n"}, current={"/etc/ssh/sshd_config": b"ListenAddress 127.0.0.1\n"}
    )
    assert story.ids == ["sshd-not-listening-outside"]
    assert story.typed()[-1] == "systemctl restart ssh.service"


def test_an_sshd_that_listens_where_it_is_told_is_not_restarted_in_vain() -> None:
    sshd = GOOD._replace(
        listeners=Seen((Listener(Family.IPV4, addresses.parse_address("127.0.0.1")[1], 22),)),
        effective=Seen(Effective(listen=("127.0.0.1:22",))),
    )
    story = Story(sshd=sshd)
    assert story.ids == ["sshd-not-listening-outside"] and not story.ladder.rungs
    assert "a restart would change nothing" in story.ladder.withheld
    late = Story(sshd=sshd._replace(effective=Seen(Effective(listen=("127.0.0.1:22", "10.0.5.20:22")))))
    assert late.typed() == ["systemctl restart ssh.service"]


def test_a_redirect_to_nowhere_is_a_firewall_fault_and_is_passed_by() -> None:
    text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 99\nCOMMIT\n"
    story = Story(rules(text))
    assert story.ids == ["firewall-reject"] and "--to-ports 99" in story.assessment.findings[0].evidence[0]
    assert story.typed() == [
        "iptables -w 5 -t nat -I PREROUTING 1 -p tcp --dport 22 -m comment --comment ec2ssh-agent:@CHANGE@ -j ACCEPT"
    ]


def test_a_masked_service_is_not_passed_by_through_a_socket_that_is_switched_off() -> None:
    masked = UnitState("ssh.service", "masked", "inactive", "dead", "masked")
    story = Story(sshd=DOWN._replace(unit=Seen(masked)))
    assert story.ids == ["sshd-masked"] and not story.ladder.rungs
    socket = UnitState("ssh.socket", "loaded", "inactive", "dead", "enabled")
    assert Story(sshd=DOWN._replace(unit=Seen(masked), socket_unit=Seen(socket))).ids == ["sshd-not-running"]


def test_a_rule_that_only_moved_is_the_same_fault() -> None:
    drop = "-A INPUT -p tcp --dport 22 -j DROP\nCOMMIT\n"
    start = "*filter\n:INPUT ACCEPT [0:0]\n"
    first, moved, other = (
        Story(rules(text)).assessment.findings[0]
        for text in (start + drop, start + "-A INPUT -p udp -j DROP\n" + drop, start + drop.replace("DROP", "REJECT"))
    )
    assert first.evidence != moved.evidence
    assert policy.fingerprint(first) == policy.fingerprint(moved) != policy.fingerprint(other)


def test_what_was_not_seen_is_unknown_and_repairs_nothing() -> None:
    story = Story(sshd=GOOD._replace(listeners=Unseen("not permitted")))
    assert story.assessment.health is Health.UNKNOWN and story.ladders == ()


def test_an_allow_file_that_cannot_be_read_is_never_written_over() -> None:
    decided = {Family.IPV4: wrappers.evaluate(wrappers.parse(None, b"ALL: ALL\n"), family=Family.IPV4)}
    hidden = Wrappers(Unseen("/etc/hosts.allow: larger than 1048576 bytes"), Seen(b"ALL: ALL\n"), Seen(True))
    story = Story(decided=decided, wrappers=hidden)
    assert story.ids == ["wrappers-deny"] and not story.ladder.rungs and "could not be read" in story.ladder.withheld
    locked = Machine(systemd=Seen(True), immutable=Seen(("/etc/hosts.deny",)))
    read = Wrappers(Seen(None), Seen(b"ALL: ALL\n"), Seen(True))
    assert "chattr" in Story(decided=decided, wrappers=read, machine=locked).ladder.withheld


def test_the_lines_name_who_got_in_before_whatever_the_firewall_does_meanwhile() -> None:
    office = (addresses.parse_cidr("203.0.113.0/24")[1],)
    decided = {Family.IPV4: wrappers.evaluate(wrappers.parse(b"", b"ALL: ALL\n"), family=Family.IPV4)}
    read = Wrappers(Seen(b""), Seen(b"ALL: ALL\n"), Seen(True))
    text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 203.0.113.0/25 -p tcp --dport 22 -j DROP\nCOMMIT\n"
    story = Story(rules(text), decided=decided, wrappers=read, baseline={("eth0", Family.IPV4): office})
    assert story.ids == ["firewall-drop", "wrappers-deny"]
    step = story.ladders[1].rungs[0].steps[0]
    assert isinstance(step, Write) and step.content == b"sshd2 sshd : 203.0.113.0/24 : allow\n"


def test_wrappers_that_shut_the_other_family_on_purpose_go_on_doing_so() -> None:
    host = addresses.parse_address("2001:db8::20")[1]
    local = (Local(Family.IPV4, HOST, 24), Local(Family.IPV6, host, 64))
    asked = Question(
        22,
        (Link("eth0", 2, local),),
        (Listening(Family.IPV4, 0, 22), Listening(Family.IPV6, 0, 22, v6only=True)),
        (Route(Family.IPV4, EVERY, "eth0"), Route(Family.IPV6, addresses.SPACE[Family.IPV6][0], "eth0")),
        local=local,
    )

    def lines(deny: bytes, *families: Family) -> str:
        """What is put in front of an empty hosts.allow, where clients of these families got in before."""
        tables = wrappers.parse(b"", deny)
        decided = {family: wrappers.evaluate(tables, family=family) for family in Family}
        reach, free = analyse(asked, EMPTY, decided), analyse(asked, EMPTY)
        baseline = {("eth0", a.family): diagnose.admitted(a) for a in free.answers if a.family in families}
        facts = Story().facts._replace(wrappers=Wrappers(Seen(b""), Seen(deny), Seen(True)))
        found = diagnose.diagnose(facts, reach, Config(), baseline=baseline)
        situation = plan.Situation(facts, found, Config(), EMPTY, lambda rules: analyse(asked, rules, decided), {}, {})
        step = plan.plan(situation)[0].rungs[0].steps[0]
        assert isinstance(step, Write)
        return step.content.decode()

    document = "sshd2 sshd : ALL: allow\n"
    assert lines(b"ALL: ALL\n", Family.IPV4, Family.IPV6) == lines(b"ALL: ALL\n") == document
    assert lines(b"ALL: ALL\n", Family.IPV4) == "sshd2 sshd : 0.0.0.0/1 128.0.0.0/1 : allow\n"
    assert lines(b"ALL: ALL\n", Family.IPV6) == "sshd2 sshd : [::]/1 [8000::]/1 : allow\n"
    assert lines(b"sshd: 0.0.0.0/1 128.0.0.0/1\n", Family.IPV4) == document, "nothing denies the other"


def test_equal_rules_of_ufw_are_deleted_and_others_left() -> None:
    text = UFW.replace("COMMIT", "-A ufw-user-input -p tcp -m tcp --dport 22 -j DROP\nCOMMIT")
    tuples = (
        "deny_log tcp 22 0.0.0.0/0 any 0.0.0.0/0 in",
        "deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in",  # an application's
        "deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_eth1",
        "allow tcp 22 ::/0 any ::/0 in comment=73",  # it stands behind: ufw would not move it
    )
    assert Story(rules(text), ufw=Seen(Ufw(True, True, tuples))).typed() == [
        "ufw --force delete allow 22/tcp", "ufw --force delete deny log 22/tcp", "ufw prepend allow 22/tcp",
    ]  # fmt: skip
    office = (addresses.parse_cidr("203.0.113.0/24")[1],)
    behind = Ufw(True, True, ("allow tcp 22 0.0.0.0/0 any 203.0.113.0/24 in",))
    story = Story(rules(text), ufw=Seen(behind), baseline={("eth0", Family.IPV4): office})
    assert story.typed()[0] == "ufw --force delete allow proto tcp from 203.0.113.0/24 to any port 22"


def test_an_owner_whose_rule_would_not_help_is_left_alone() -> None:
    no_v4 = UFW.replace(":ufw-user-input - [0:0]\n", "").replace("-A ufw-before-input -j ufw-user-input\n", "")
    story = Story(rules(no_v4), ufw=Seen(Ufw(True, True)))
    assert [rung.name for rung in story.ladder.rungs] == ["open"]
    many = addresses.normal((n << 16, n << 16) for n in range(1 << 13, (1 << 13) + 40))
    story = Story(rules(UFW), ufw=Seen(Ufw(True, True)), baseline={("eth0", Family.IPV4): many})
    assert [rung.name for rung in story.ladder.rungs] == ["open"] and "a set" in story.typed()[0]
    locked = Machine(systemd=Seen(True), immutable=Seen(("/etc/ufw/user.rules",)))
    assert "chattr" in Story(rules(UFW), ufw=Seen(Ufw(True, True)), machine=locked).ladder.withheld
    assert Story(rules(DROP), machine=locked).ladder.rungs, "ufw owns nothing here"


def test_firewalld_is_restarted_only_where_the_kernel_differs_from_what_it_says() -> None:
    chains = {
        "filter_INPUT": Chain("filter_INPUT", (), "input", 10, "filter", Kind.DROP),
        "filter_IN_public_allow": Chain("filter_IN_public_allow", ()),
    }
    kernel = Ruleset((Table("inet", "firewalld", Backend.NFTABLES, chains),))
    public = FirewalldZone("public", ("eth0",), (), (), ())

    def rungs(ruleset: Ruleset, zone: FirewalldZone) -> list[str]:
        firewalld = Firewalld(True, default_zone="public", zones=(zone,), permanent=(zone,))
        return [rung.name for rung in Story(ruleset, firewalld=Seen(firewalld)).ladder.rungs]

    assert rungs(kernel, public) == ["firewalld-allow", "open"], "a restart would forget runtime rules"
    assert rungs(kernel, public._replace(services=("ssh",))) == ["firewalld-restart", "open"]
    assert rungs(rules(DROP), public) == ["firewalld-allow", "firewalld-restart", "open"]


def test_bans_and_containers_outlive_a_firewall_that_is_switched_off() -> None:
    drop = {"input": Chain("input", (), "input", 0, "filter", Kind.DROP)}
    banned = {"f2b-chain": Chain("f2b-chain", (), "input", -1)}
    tables = (Table("inet", "filter", Backend.NFTABLES, drop), Table("inet", "f2b-table", Backend.NFTABLES, banned))
    assert Story(Ruleset(tables), allow_disable=True).typed(1) == ["nft flush table inet filter"]
    lxd = Story(Ruleset(tables), allow_disable=True, foreign=Seen(("lxd",)))
    assert [rung.name for rung in lxd.ladder.rungs] == ["open"] and "lxd" in lxd.ladder.withheld
