"""The user data is what cloud-init takes, and a script that a shell and a linter take, for any configuration."""

from __future__ import annotations

import email.message
import subprocess

import pytest

from ec2ssh_agent import user_data
from ec2ssh_agent.config import Config, parse

TEXTS = {
    "default": "",
    "ranges": "[expect]\nport = 2222\nclients = 10.0.0.0/8 2001:db8::/32\n",
    "disable": "[repair]\nfirewall = disable\n",
    "nothing": "[repair]\nfirewall = off\nsshd = off\ntcp_wrappers = off\n",
}


def _config(text: str) -> Config:
    return Config(**{name: value for name, value, _ in parse(text, "agent.conf")})


def test_it_is_a_multipart_of_a_cloud_config_and_a_script() -> None:
    text = user_data.multipart(Config())
    message = email.message_from_string(text)
    parts = message.get_payload()
    assert isinstance(parts, list)
    messages = [part for part in parts if isinstance(part, email.message.Message)]
    assert [part.get_content_type() for part in messages] == ["text/cloud-config", "text/x-shellscript"]
    bodies = [part.get_payload() for part in messages]
    assert bodies[0] == "#cloud-config\ncloud_final_modules:\n- [scripts-user, always]\n"
    assert str(bodies[1]).startswith("#!/bin/sh\n")
    assert text.isascii() and len(text) < 16384


def test_every_script_passes_the_shell_and_shellcheck() -> None:
    for name, text in TEXTS.items():
        made = user_data.script(_config(text)).encode()
        for argv in (["sh", "-n"], ["shellcheck", "-"]):
            done = subprocess.run(argv, input=made, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
            assert done.returncode == 0, f"{name}: {done.stdout.decode()}"


def test_the_default_flushes_nothing_and_disables_nothing() -> None:
    text = user_data.script(Config())
    assert "-F" not in text.split() and "ufw disable" not in text and "disable --now" not in text
    assert "iptables" in text and "hosts.allow" in text and "restart" in text


def test_only_the_ranges_that_are_expected_are_let_in() -> None:
    text = user_data.script(_config(TEXTS["ranges"]))
    assert 'accept iptables -s "$1" -p tcp --dport "$port"\n' in text and "admit_ip 10.0.0.0/8\n" in text
    assert 'accept ip6tables -s "$1" -p tcp --dport "$port"\n' in text and "admit_ip6 2001:db8::/32\n" in text
    assert "port=2222\n" in text
    assert "accept iptables -p tcp" not in text and "--add-port" not in text


def test_it_fits_what_ec2_takes_or_is_refused() -> None:
    ranges = [f"10.{number // 200}.{number % 200}.0/24" for number in range(0, 4000, 2)]
    made = user_data.multipart(_config(f"[expect]\nclients = {' '.join(ranges[:300])}\n"))
    assert len(made) <= user_data.LIMIT and ranges[299] in made
    with pytest.raises(user_data.TooLong) as caught:
        user_data.multipart(_config(f"[expect]\nclients = {' '.join(ranges)}\n"))
    assert "16384" in str(caught.value)


def test_what_is_off_is_not_done() -> None:
    text = user_data.script(_config(TEXTS["nothing"]))
    assert not any(word in text for word in ("iptables", "restart", "hosts.allow"))
