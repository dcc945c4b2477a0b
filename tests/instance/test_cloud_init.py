"""cloud-init for real: user data installs the agent, which then repairs; the multipart mends an instance by itself."""

from __future__ import annotations

from pathlib import Path

from ec2ssh_agent import user_data
from ec2ssh_agent.config import Config
from harness import ROOT, Instance, boot, execute, wait_for

LOCAL = """\
datasource_list: [NoCloud]
network: {config: disabled}
disable_root: false
ssh_deletekeys: false
preserve_hostname: true
manage_etc_hosts: false
locale: false
"""


def _seed(root: Path, data: str) -> None:
    """An instance whose user data is `data`."""
    (root / "etc/cloud/cloud.cfg.d/95_test.cfg").write_text(LOCAL)
    seed = root / "var/lib/cloud/seed/nocloud"
    seed.mkdir(parents=True)
    (seed / "user-data").write_text(data)
    (seed / "meta-data").write_text("instance-id: i-test\n")
    # No package is to come from anywhere else than what the test lays out.
    for path in (*(root / "etc/apt/sources.list.d").glob("*"), root / "etc/apt/sources.list"):
        path.unlink(missing_ok=True)


def _done(made: Instance) -> None:
    """Waits for the end of cloud-init's work of this boot, which must be without errors."""

    def ended() -> bool:
        return made.run("cloud-init status", check=False).out.split()[-1:] in (["done"], ["error"])

    wait_for("the end of cloud-init", ended, 180)
    status = made.run("cloud-init status --long", check=False).out
    assert "status: done" in status, status + made.read("/var/log/cloud-init-output.log")


def test_our_user_data_installs_the_agent_which_repairs() -> None:
    text = (ROOT / "packaging/cloud-init/install.yaml").read_text()

    def prepare(root: Path) -> None:
        execute([ROOT / "packaging/build-repository", root / "opt/ec2ssh-agent"])
        _seed(root, text)
        apt = "apt: {preserve_sources_list: true}\n"  # or cloud-init writes Debian's own, which is not to be had
        with open(root / "etc/cloud/cloud.cfg.d/95_test.cfg", "a") as file:
            file.write(apt)

    with boot(agent=False, extra=("cloud-init",), prepare=prepare) as made:
        made.run(["cloud-init", "schema", "--config-file", "/var/lib/cloud/seed/nocloud/user-data"])
        _done(made)
        wait_for("the first look", lambda: made.agent("status").code == 0, 60)
        assert "50-cloud-init.conf" in made.agent("config", "show", check=True).out
        made.run("iptables -I INPUT -p tcp --dport 22 -j DROP; ip6tables -I INPUT -p tcp --dport 22 -j DROP")
        made.client.wait_ssh(60)
        assert made.client.ssh().ok


def test_the_multipart_mends_at_every_boot() -> None:
    def prepare(root: Path) -> None:
        _seed(root, user_data.multipart(Config()))
        # Broken for good, in three ways at once.
        rules = "table inet own {\n chain in {\n  type filter hook input priority 0; policy drop;\n }\n}\n"
        (root / "etc/nftables.conf").write_text("#!/usr/sbin/nft -f\nflush ruleset\n" + rules)
        execute(["systemctl", f"--root={root}", "-q", "enable", "nftables.service"])
        execute(["systemctl", f"--root={root}", "-q", "disable", "ssh.service"])
        (root / "etc/hosts.deny").write_text("ALL: ALL\n")

    with boot(agent=False, extra=("cloud-init",), prepare=prepare) as made:
        _done(made)
        made.client.wait_ssh(60)
        assert made.client.ssh().ok
        made.reboot()
        _done(made)
        made.client.wait_ssh(60)
        assert made.client.ssh().ok
        allow = made.read("/etc/hosts.allow")
        assert allow.count("sshd2 sshd : ALL: allow") == 1, "the line is there once, after two boots"
