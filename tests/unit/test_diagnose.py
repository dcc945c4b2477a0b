"""Verdicts on machines with several ports, addresses and interfaces, and on what cannot be judged."""

from __future__ import annotations

from typing import Optional

from ec2ssh_agent import diagnose, plan
from ec2ssh_agent.assessment import Assessment
from ec2ssh_agent.config import Config
from ec2ssh_agent.diagnose import Baseline
from ec2ssh_agent.facts import (
    Address,
    Banner,
    ConfigTest,
    Effective,
    Facts,
    HostKey,
    Interface,
    Listener,
    Network,
    Sshd,
    UnitState,
    Wrappers,
)
from ec2ssh_agent.model import Fact, Health, Seen, Severity, Symptom, Unseen
from ec2ssh_agent.observe import question
from ec2ssh_agent.reach import addresses, analyse, iptables, merged
from ec2ssh_agent.reach.question import Reach, Route
from ec2ssh_agent.reach.ruleset import Backend, Family, Ruleset
from ec2ssh_agent.steps import commands
from test_plan import DOWN, DROP, GOOD, Story

V4, V6 = Family.IPV4, Family.IPV6
SPACE = addresses.SPACE


def ip(text: str) -> int:
    return addresses.parse_address(text)[1]


def eth(name: str, *texts: str, index: int = 2) -> Interface:
    """An interface with addresses as ip-address(8) writes them."""
    own = []
    for text in texts:
        address, _, prefix = text.partition("/")
        family, value = addresses.parse_address(address)
        own.append(Address(family, value, int(prefix)))
    return Interface(name, index, True, True, "", tuple(own))


def default(device: str, family: Family = V4) -> Route:
    return Route(family, SPACE[family][0], device)


AUTO = Config()
ETH0 = eth("eth0", "10.0.5.20/24")


class Judged:
    """A machine and the verdict on it."""

    def __init__(
        self,
        *interfaces: Interface,
        rules: str = "",
        sshd: Sshd = GOOD,
        routes: tuple[Route, ...] = (default("eth0"),),
        baseline: Baseline = {},
        config: Config = AUTO,
        facts: Optional[Facts] = None,
    ) -> None:
        ruleset = iptables.parse(rules, family=V4, backend=Backend.IPTABLES_NFT) if rules else Ruleset(())
        base = facts or Story().facts
        self.facts = base._replace(
            sshd=sshd, ruleset=Seen(ruleset), network=Seen(Network(interfaces or (ETH0,), routes, ()))
        )
        self.asked = question.ask(self.facts, config)
        self.assessment: Assessment = diagnose.diagnose(self.facts, self._analysed(ruleset), config, baseline=baseline)
        situation = plan.Situation(self.facts, self.assessment, config, ruleset, self._analysed, {}, {})
        self.ladders = plan.plan(situation)

    def _analysed(self, ruleset: Ruleset) -> Reach:
        return merged(analyse(self.asked._replace(port=port), ruleset) for port in question.ports(self.facts))

    @property
    def ids(self) -> list[str]:
        return [finding.id for finding in self.assessment.findings]

    @property
    def health(self) -> Health:
        return self.assessment.health

    @property
    def typed(self) -> list[str]:
        return [c for ladder in self.ladders for rung in ladder.rungs for step in rung.steps for c in commands(step)]


def listening(*ports: tuple[str, int]) -> Sshd:
    made = tuple(Listener(addresses.parse_address(text)[0], ip(text), port) for text, port in ports)
    return GOOD._replace(listeners=Seen(made), port=Seen(tuple(dict.fromkeys(port for _, port in ports))))


# -- several ports, several addresses: one that lets clients in is enough

OTHER_PORT = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 2222 -j ACCEPT\nCOMMIT\n"


def test_who_gets_in_by_another_port_of_sshd_gets_in() -> None:
    both = listening(("0.0.0.0", 22), ("0.0.0.0", 2222))
    open_ = Judged(rules=OTHER_PORT, sshd=both)
    assert (open_.health, open_.ids, open_.typed) == (Health.OK, [], [])
    shut = Judged(rules=DROP, sshd=both)
    assert shut.ids == ["firewall-drop"] and "--dport 22 " in shut.typed[0] and len(shut.typed) == 1


def test_the_port_that_is_opened_is_one_that_listens_outside() -> None:
    made = Judged(rules=DROP, sshd=listening(("127.0.0.1", 22), ("0.0.0.0", 2222)))
    assert made.ids == ["firewall-drop"]
    inside = Judged(sshd=listening(("127.0.0.1", 22), ("0.0.0.0", 2222)))
    assert (inside.health, inside.ids) == (Health.OK, [])


def test_an_address_that_sshd_does_not_listen_on_is_no_loss() -> None:
    two = eth("eth0", "10.0.5.20/24", "10.0.5.21/24")
    everybody = {("eth0", V4): Judged(two).assessment.reach.answers[0].sources[0][1]}
    made = Judged(two, sshd=listening(("10.0.5.20", 22)), baseline=everybody)
    assert (made.health, made.ids) == (Health.OK, [])
    expected = Config(expect_clients=((V4, addresses.parse_cidr("203.0.113.0/24")[1]),))
    assert Judged(two, sshd=listening(("10.0.5.20", 22)), config=expected).health is Health.OK
    nobody = Judged(two, sshd=listening(("127.0.0.1", 22)), baseline=everybody)
    assert nobody.ids == ["sshd-not-listening-outside"]
    walled = Judged(two, sshd=listening(("10.0.5.20", 22)), baseline=everybody, rules=DROP)
    assert walled.ids == ["firewall-drop"], "the other address is refused, as ever"


# -- interfaces that come and go


def test_a_baseline_of_interfaces_that_are_gone_proves_nothing() -> None:
    old = {("eth0", V4): SPACE[V4]}
    renamed = eth("ens5", "10.0.5.20/24")
    made = Judged(renamed, routes=(default("ens5"),), rules=DROP, baseline=old)
    assert (made.health, made.ids) == (Health.UNREACHABLE, ["firewall-drop"])
    assert made.typed and not made.assessment.gaps[0].regression
    assert Judged(renamed, routes=(default("ens5"),), baseline=old).health is Health.OK


def test_the_symptom_is_what_those_see_who_got_in_before() -> None:
    rules = (
        "*filter\n:INPUT DROP [0:0]\n"
        "-A INPUT -s 203.0.113.0/28 -p tcp --dport 22 -j REJECT --reject-with tcp-reset\nCOMMIT\n"
    )
    bastion = {("eth0", V4): (addresses.parse_cidr("203.0.113.0/27")[1],)}
    nearly = rules.replace("/28", "/27")
    assert Judged(rules=nearly, baseline=bastion).assessment.findings[0].symptom is Symptom.REFUSED
    most = {("eth0", V4): addresses.normal((ip("203.0.113.0"), ip("203.0.113.0") + n) for n in (16,))}
    assert Judged(rules=rules, baseline=most).assessment.findings[0].symptom is Symptom.REFUSED


def test_a_ban_is_no_loss() -> None:
    everybody = {("eth0", V4): Judged().assessment.reach.answers[0].sources[0][1]}
    chains = "*filter\n:INPUT ACCEPT [0:0]\n:f2b-sshd - [0:0]\n-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd\n"
    ban = chains + "-A f2b-sshd -s 198.51.100.9/32 -j REJECT\n-A f2b-sshd -j RETURN\n"
    assert Judged(rules=ban + "COMMIT\n", baseline=everybody).health is Health.OK
    both = ban + "-A INPUT -s 203.0.113.9/32 -p tcp --dport 22 -j DROP\nCOMMIT\n"
    made = Judged(rules=both, baseline=everybody)
    assert made.ids == ["reach-shrunk"] and made.assessment.findings[0].evidence[0] == "no more: 203.0.113.9"


def test_the_networks_of_other_interfaces_are_not_waited_for_on_this_one() -> None:
    docker = eth("docker0", "172.17.0.1/16", index=3)
    routes = (default("eth0"), Route(V4, addresses.parse_cidr("172.17.0.0/16")[1], "docker0"))
    assert Judged(ETH0, docker, routes=routes).health is Health.OK
    # Two network interfaces, and replies of both leave by the first: who comes in by the second may wait in vain.
    two = (ETH0, eth("eth1", "10.0.7.20/24", index=3))
    near = tuple(Route(V4, addresses.parse_cidr(f"10.0.{n}.0/24")[1], name) for n, name in ((5, "eth0"), (7, "eth1")))
    made = Judged(*two, routes=(default("eth0"), *near))
    assert made.ids == ["reach-uncertain"] and made.assessment.findings[0].subject == "eth1/ipv4"
    tunnel = Route(V4, (0, (1 << 31) - 1), "tun0"), Route(V4, (1 << 31, (1 << 32) - 1), "tun0")
    assert Judged(ETH0, routes=(default("eth0"), *tunnel)).ids == ["reach-uncertain"], "everybody's replies leave by it"


# -- routes


def test_nobody_is_healthy_who_cannot_be_answered() -> None:
    made = Judged(eth("eth0", "10.0.5.20/32"), routes=())
    assert (made.health, made.ids, made.typed) == (Health.UNREACHABLE, ["no-route"], [])
    assert made.assessment.findings[0].symptom is Symptom.TIMEOUT and "sets none" in made.ladders[0].withheld
    local = Judged(routes=(Route(V4, (ip("10.0.5.0"), ip("10.0.5.255")), "eth0"),))
    assert local.health is Health.OK, "the neighbours get in, and nobody else ever did"


def test_expected_clients_without_a_route_or_a_family_are_not_healthy() -> None:
    office = Config(expect_clients=((V4, addresses.parse_cidr("203.0.113.0/24")[1]),))
    near = Route(V4, (ip("10.0.5.0"), ip("10.0.5.255")), "eth0")
    assert Judged(routes=(near,), config=office).health is Health.UNREACHABLE
    everybody = Config(expect_clients=((V4, SPACE[V4][0]), (V6, SPACE[V6][0])))
    assert Judged(config=everybody).health is Health.OK, "127/8 and the like are nobody's"
    cut = Judged(routes=(near,), config=everybody)
    assert (cut.health, cut.ids, cut.assessment.findings[0].severity) == (
        Health.DEGRADED, ["no-route"], Severity.WARNING,
    )  # fmt: skip
    six = eth("eth0", "2001:db8:5::20/64")
    heard = GOOD._replace(listeners=Seen((Listener(V6, 0, 22),)))
    assert Judged(six, sshd=heard, routes=(default("eth0", V6),)).health is Health.OK
    assert Judged(six, sshd=heard, routes=(default("eth0", V6),), config=office).health is Health.UNKNOWN


# -- who listens

IDLE = GOOD._replace(
    process=Seen(None),
    unit=Seen(UnitState("ssh.service", "loaded", "failed", "failed", "enabled", "exit-code", exit_status=255)),
)


def test_another_program_on_the_port_is_not_sshd() -> None:
    web = Judged(sshd=IDLE._replace(banner=Seen(Banner("", 2.0))))
    assert (web.health, web.ids, web.typed) == (Health.UNREACHABLE, ["sshd-port-taken"], [])
    assert Judged(sshd=IDLE._replace(banner=Seen(Banner("SSH-2.0-OpenSSH_9.2", 0.1)))).health is Health.OK
    assert Judged(sshd=IDLE._replace(banner=Unseen("not probed"))).health is Health.OK, "not known to be another"
    assert Judged(sshd=IDLE._replace(banner=Seen(Banner("", 0.0, refused=True)))).health is Health.OK, "lo's firewall"
    on_demand = IDLE._replace(socket_unit=Seen(UnitState("ssh.socket", "loaded", "active", "listening", "enabled")))
    assert Judged(sshd=on_demand._replace(banner=Seen(Banner("", 2.0)))).ids == ["sshd-banner-late"]


def test_an_address_that_another_program_took_first_is_not_sshds() -> None:
    web = Listener(V4, 0, 22, unit="web.service")
    half = GOOD._replace(listeners=Seen((web, Listener(V6, 0, 22, v6only=True, unit="ssh.service"))))
    made = Judged(sshd=half)
    assert made.ids == ["sshd-not-listening-outside"] and made.typed == []
    assert "web.service" in made.assessment.findings[0].evidence[-1] and "web.service" in made.ladders[0].withheld
    by_hand = GOOD._replace(listeners=Seen((web._replace(unit="session-1.scope"),)))
    assert Judged(sshd=by_hand).health is Health.OK


def test_dropbear_answers_clients_as_well() -> None:
    dropbear = IDLE._replace(installed=Seen(""), unit=Seen(UnitState("")), socket_unit=Seen(UnitState("")))
    made = Judged(sshd=dropbear._replace(banner=Seen(Banner("SSH-2.0-dropbear_2022.83", 0.0))))
    assert (made.health, made.ids) == (Health.DEGRADED, ["sshd-not-installed"])
    assert Judged(sshd=dropbear._replace(listeners=Seen(()))).health is Health.UNREACHABLE


def test_an_sshd_on_another_port_than_expected_runs() -> None:
    elsewhere = GOOD._replace(
        listeners=Seen((Listener(V4, 0, 2222, unit="ssh.service"),)),
        effective=Seen(Effective((2222,), ("0.0.0.0:2222",))),
        test=Seen(ConfigTest(True), "/usr/sbin/sshd -T -f /etc/other"),
    )
    made = Judged(sshd=elsewhere)
    assert made.ids == ["sshd-other-port"] and not made.typed, "a restart would change nothing"
    late = Judged(sshd=elsewhere._replace(effective=Seen(Effective((22,), ("0.0.0.0:22",)))))
    assert late.typed == ["/usr/sbin/sshd -t -f /etc/other", "systemctl restart ssh.service"]


def test_an_sshd_that_ends_every_connection_is_not_healthy() -> None:
    ended = Judged(sshd=GOOD._replace(banner=Seen(Banner("", 0.1, ended=True))))
    assert (ended.health, ended.ids, ended.typed) == (Health.DEGRADED, ["sshd-closes"], [])


def test_an_sshd_that_accepts_is_not_hung_however_long_its_queue() -> None:
    flooded = GOOD._replace(listeners=Seen((Listener(V4, 0, 22, queue=100, unit="ssh.service"),)))
    assert Judged(sshd=flooded._replace(banner=Seen(Banner("", 2.0)))).ids == ["sshd-hung"]
    made = Judged(sshd=flooded._replace(banner=Seen(Banner("", 2.0, taken=True))))
    assert (made.ids, made.typed) == (["sshd-banner-late"], [])


def test_doubt_is_no_reason_to_restart_an_sshd_that_gives_no_banner() -> None:
    silent = GOOD._replace(
        listeners=Seen((Listener(V4, 0, 22, queue=3, unit="ssh.service"),)), banner=Seen(Banner("", 2.0))
    )

    def ids(sshd: Sshd, pressure: Fact[float]) -> list[str]:
        facts = Story().facts
        return Judged(sshd=sshd, facts=facts._replace(machine=facts.machine._replace(pressure=pressure))).ids

    assert ids(silent, Seen(0.0)) == ["sshd-hung"]
    assert ids(silent, Seen(80.0)) == ["sshd-banner-late"]
    assert ids(silent, Unseen("no PSI, no load average")) == ["sshd-banner-late"]
    hidden = silent._replace(process=Unseen("/proc/7/status: Input/output error"))
    assert ids(hidden, Seen(0.0)) == ["sshd-banner-late"], "a debugger may hold it"


# -- what `sshd -t` says


def broken(complaint: str, sshd: Sshd = DOWN, file: str = "") -> Sshd:
    return sshd._replace(test=Seen(ConfigTest(False, complaint, file, 1 if file else 0)))


def test_an_option_whose_name_is_like_a_keys_is_a_wrong_configuration() -> None:
    text = "/etc/ssh/sshd_config: line 1: Bad configuration option: HostKeyX"
    assert Judged(sshd=broken(text, file="/etc/ssh/sshd_config")).ids == ["sshd-config-invalid"]


def test_what_keeps_a_socket_activated_sshd_from_starting_keeps_every_client_out() -> None:
    socket = UnitState("ssh.socket", "loaded", "active", "listening", "enabled")
    idle = IDLE._replace(unit=Seen(UnitState("ssh.service", "loaded", "inactive")), socket_unit=Seen(socket))
    text = "/etc/ssh/sshd_config: line 1: Bad configuration option: Bogus"
    made = Judged(sshd=broken(text, idle, "/etc/ssh/sshd_config"))
    assert (made.health, made.ids) == (Health.UNREACHABLE, ["sshd-config-invalid"])
    assert made.assessment.findings[0].symptom is Symptom.CLOSED
    missing = broken("Missing privilege separation directory: /run/sshd", idle)
    assert Judged(sshd=missing).health is Health.OK, "systemd makes it"


BY_SOCKET = DOWN._replace(
    unit=Seen(UnitState("ssh.service", "loaded", "inactive", "dead", "disabled", "success")),
    socket_unit=Seen(UnitState("ssh.socket", "loaded", "failed", "failed", "enabled", "trigger-limit-hit")),
)


def test_a_socket_that_systemd_gave_up_is_named_and_started() -> None:
    made = Judged(sshd=BY_SOCKET)
    finding = made.assessment.findings[0]
    assert made.ids == ["sshd-not-running"] and "(trigger-limit-hit)" in finding.summary
    assert [line.split(":")[0] for line in finding.evidence] == ["ssh.service", "ssh.socket"]
    assert made.typed == ["systemctl reset-failed ssh.socket", "systemctl restart ssh.socket"]
    masked = Judged(sshd=BY_SOCKET._replace(unit=Seen(UnitState("ssh.service", "masked", file_state="masked"))))
    assert (masked.ids, masked.typed) == (["sshd-masked"], []), "it would fail at the first client again"
    failed = UnitState("ssh.service", "loaded", "failed", "failed", "enabled", "exit-code")
    socket = UnitState("ssh.socket", "masked", file_state="masked")
    assert Judged(sshd=BY_SOCKET._replace(unit=Seen(failed), socket_unit=Seen(socket))).ids == ["sshd-not-running"]


def test_an_administrators_socket_is_named_with_its_addresses() -> None:
    socket = UnitState("ssh.socket", "loaded", "active", "running", "enabled", "success", listen=("127.0.0.1:22",))
    loopback: Seen[tuple[Listener, ...]] = Seen((Listener(V4, 0x7F000001, 22, unit="ssh.socket"),))
    made = Judged(sshd=GOOD._replace(socket_unit=Seen(socket), listeners=loopback))
    assert made.ids == ["sshd-not-listening-outside"]
    assert made.assessment.findings[0].evidence[1:] == ("ssh.socket: ListenStream 127.0.0.1:22",)


def test_a_socket_on_another_port_than_expected_is_bound_anew() -> None:
    socket = UnitState("ssh.socket", "loaded", "active", "listening", "enabled", "success")
    other = BY_SOCKET._replace(
        socket_unit=Seen(socket),
        listeners=Seen((Listener(V4, 0, 2222, unit="ssh.socket"),)),
        effective=Seen(Effective((22,), ("0.0.0.0:22",))),
        test=Seen(ConfigTest(True), "/usr/sbin/sshd -T"),
    )
    again = ["systemctl daemon-reload", "systemctl stop ssh.socket ssh.service", "systemctl start ssh.socket"]
    made = Judged(sshd=other)
    assert (made.ids, made.typed) == (["sshd-other-port"], again), "without sshd's directory the test would fail"
    running = UnitState("ssh.service", "loaded", "active", "running", "disabled", "success", main_pid=7)
    made = Judged(sshd=other._replace(unit=Seen(running), process=GOOD.process))
    assert made.typed == ["/usr/sbin/sshd -t", *again]


def test_what_a_sockets_addresses_are_generated_from_is_put_back_and_read_again() -> None:
    path, text = "/etc/ssh/sshd_config", "/etc/ssh/sshd_config: line 1: Bad configuration option: Bogus"
    known, current = {path: b"Port 22\n"}, {path: b"Bogus\n"}
    story = Story(sshd=broken(text, BY_SOCKET, path), known=known, current=current)
    assert story.typed()[1:] == ["systemctl daemon-reload"]
    assert len(Story(sshd=broken(text, DOWN, path), known=known, current=current).typed()) == 1


def test_host_keys_that_are_gone_end_the_connections_of_older_versions_only() -> None:
    gone = broken("sshd: no hostkeys available -- exiting.", GOOD)
    gone = gone._replace(host_keys=Seen((HostKey("/etc/ssh/ssh_host_ed25519_key", False),)))
    assert Judged(sshd=gone).health is Health.UNREACHABLE
    for made in (
        Judged(sshd=gone._replace(session=Seen(True))),
        Judged(sshd=gone._replace(banner=Seen(Banner("SSH-2.0-OpenSSH_10.0", 0.0)))),
    ):
        assert (made.health, made.ids, made.typed) == (Health.DEGRADED, ["host-keys-missing"], [])


def test_damaged_host_keys_are_not_replaced_and_keys_that_never_were_give_way_to_the_known_good() -> None:
    said = "Unable to load host key: /nonexistent; sshd: no hostkeys available -- exiting."
    empty = broken(said)._replace(host_keys=Seen((HostKey("/etc/ssh/ssh_host_rsa_key", True, size=0),)))
    made = Judged(sshd=empty)
    assert made.ids == ["host-keys-missing"] and "damaged" in made.ladders[0].withheld
    renamed = broken(said)._replace(host_keys=Seen((HostKey("/nonexistent", False),)))
    config, old = "/etc/ssh/sshd_config", b"Port 22\n"
    ladder = Story(sshd=renamed, known={config: old}, current={config: b"HostKey /nonexistent\n"}).ladder
    assert [rung.name for rung in ladder.rungs] == ["known-good"]


def test_keys_that_red_hats_group_may_read_keep_their_mode() -> None:
    keys = (
        HostKey("/etc/ssh/ssh_host_rsa_key", True, 0o666),
        HostKey("/etc/ssh/ssh_host_ecdsa_key", True, 0o640, 0, 9),
    )
    made = Judged(sshd=broken("sshd: no hostkeys available -- exiting.")._replace(host_keys=Seen(keys)))
    assert made.ids == ["host-key-modes"]
    assert made.typed == ["chown 0:0 /etc/ssh/ssh_host_rsa_key", "chmod 0600 /etc/ssh/ssh_host_rsa_key"]


def test_the_privilege_separation_directory_that_sshd_names_is_mended() -> None:
    loose = "/run/sshd must be owned by root and not group or world-writable."
    made = Judged(sshd=broken(loose, GOOD)._replace(privsep=Seen(HostKey("/run/sshd", True, 0o777))))
    assert made.ids == ["privsep-missing"] and made.typed == ["chown 0:0 /run/sshd", "chmod 0755 /run/sshd"]
    other = broken("Missing privilege separation directory: /usr/share/empty.sshd", GOOD)
    made = Judged(sshd=other._replace(privsep=Seen(None)))
    assert made.typed == ["install -d -m 0755 -o root -g root /usr/share/empty.sshd"]


# -- units


def test_a_unit_that_nobody_could_ask_about_is_not_started() -> None:
    assert Judged(sshd=DOWN._replace(unit=Unseen("systemd: no answer"))).typed == []
    unknown = DOWN._replace(unit=Seen(UnitState("")), socket_unit=Seen(UnitState("")))
    made = Judged(sshd=unknown)
    assert made.typed == [] and made.ladders[0].withheld == "systemd has no unit of sshd's"


def test_without_systemd_the_script_has_its_own_name() -> None:
    facts = Story().facts
    facts = facts._replace(machine=facts.machine._replace(systemd=Seen(False)))
    unit = Seen(UnitState("sshd", "loaded", "inactive"))
    made = Judged(sshd=DOWN._replace(unit=unit, socket_unit=Seen(UnitState(""))), facts=facts)
    assert made.typed == ["service sshd restart"]


def test_a_hung_service_is_restarted_though_its_socket_is_enabled() -> None:
    hung = GOOD._replace(
        process=Seen(Story().facts.sshd.process.value._replace(stopped=True)),  # type: ignore[union-attr]
        unit=Seen(UnitState("ssh.service", "loaded", "active", "running", "disabled", main_pid=7)),
        socket_unit=Seen(UnitState("ssh.socket", "loaded", "active", "running", "enabled")),
    )
    assert Judged(sshd=hung).typed == ["systemctl restart ssh.service"]


# -- what could not be looked at


def test_wrappers_that_cannot_be_read_are_unknown() -> None:
    facts = Story().facts

    def health(allow: object, deny: object, linked: object) -> Health:
        return Judged(facts=facts._replace(wrappers=Wrappers(allow, deny, linked))).health  # type: ignore[arg-type]

    assert health(Seen(None), Unseen("/etc/hosts.deny: larger than 1 MiB"), Seen(True)) is Health.UNKNOWN
    assert health(Seen(None), Unseen("/etc/hosts.deny: larger than 1 MiB"), Seen(False)) is Health.OK
    assert health(Seen(None), Seen(b"ALL: ALL\n"), Unseen("not an ELF file")) is Health.UNKNOWN
    assert health(Seen(None), Seen(b"# ALL: ALL\n"), Unseen("not an ELF file")) is Health.OK


# -- an attached volume


def test_the_files_of_an_attached_volume_tell_what_will_keep_clients_out() -> None:
    facts = Story().facts._replace(at_rest=True)
    hidden = Unseen("an attached volume has no sockets")
    keys: tuple[HostKey, ...] = (HostKey("/etc/ssh/ssh_host_rsa_key", True, 0o666),)
    inside = Seen(Effective((22,), ("127.0.0.1:22",)))
    masked = Seen(UnitState("ssh.service", "masked"))
    sshd = GOOD._replace(
        listeners=hidden, forbidden=Seen(True), host_keys=Seen(keys), effective=inside, unit=masked, process=Seen(None)
    )
    denied = facts._replace(wrappers=Wrappers(Seen(None), Seen(b"ALL: ALL\n"), Seen(True)))
    made = Judged(sshd=sshd, facts=denied)
    assert made.health is Health.UNKNOWN and made.typed == []
    assert made.ids == [
        "sshd-masked", "sshd-forbidden", "host-key-modes", "sshd-not-listening-outside", "wrappers-deny",
    ]  # fmt: skip
    some = facts._replace(wrappers=Wrappers(Seen(b"sshd: 10.0.0.0/8\n"), Seen(b"ALL: ALL\n"), Seen(True)))
    assert Judged(sshd=GOOD._replace(listeners=hidden), facts=some).ids == []
    gone = GOOD._replace(listeners=hidden, host_keys=Seen((HostKey("/etc/ssh/ssh_host_rsa_key", False),)))
    assert Judged(sshd=gone, facts=facts).ids == ["host-keys-missing"]
