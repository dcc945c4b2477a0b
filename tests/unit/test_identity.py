"""Which instance it is, without any network; and what the reporter adds of the metadata service, which may lie."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import jsonschema

from ec2ssh_agent.config import Config
from ec2ssh_agent.report import identity, spool
from ec2ssh_agent.report.reporter import Reporter
from endpoint import Got, forever, reply, serving, url
from status_example import example
from test_reporter import SCHEMA, config_for, host_in, publish, reports


def metadata(changes: Callable[[Got], Optional[str]] = lambda got: None) -> Any:
    """An IMDSv2 that answers only to a token; `changes` overrides bodies."""
    document = {
        "instanceId": "i-0aaaaaaaaaaaaaaaa", "region": "eu-west-1", "availabilityZone": "eu-west-1a",
        "imageId": "ami-0123456789abcdef0", "instanceType": "t4g.micro", "accountId": "123456789012",
    }  # fmt: skip

    def behaviour(got: Got, connection: socket.socket) -> None:
        other = changes(got)
        if other is not None:
            return reply(body=other.encode())(got, connection)
        if (
            got.method == "PUT"
            and got.path == "/latest/api/token"
            and "x-aws-ec2-metadata-token-ttl-seconds" in got.headers
        ):
            return reply(body=b"tok")(got, connection)
        if got.headers.get("x-aws-ec2-metadata-token") != "tok" or got.method != "GET":
            return reply("401 Unauthorized")(got, connection)
        body = json.dumps(document) if got.path.endswith("/document") else "MIIsignature"
        return reply(body=body.encode())(got, connection)

    return behaviour


def test_the_metadata_service_is_asked_with_a_token_and_its_answer_kept(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server, serving(metadata()) as service:
        config = config_for(server)._replace(identity_imds=url(service, path=""))
        spool.enqueue(host, config, example(), None, "change")
        Reporter(host, config).run()
        Reporter(host, config).run()
        assert [got.method for got in service.got] == ["PUT", "GET"]
        report = reports(server)[0]
        # What root knows stands: the metadata service is believed in nothing that root has said.
        assert report["instance"] == {
            "id": "i-0123456789abcdef0", "source": "dmi", "region": "eu-west-1", "az": "eu-west-1a",
            "ami": "ami-0123456789abcdef0", "type": "t4g.micro", "account": "123456789012",
        }  # fmt: skip
        assert "document" not in report["instance"]
        id = spool.enqueue(host, config, example(), None, "test")
        Reporter(host, config).run(only=id)
        test = reports(server)[-1]
        assert json.loads(test["instance"]["document"])["region"] == "eu-west-1"
        assert test["instance"]["signature"] == "MIIsignature"
        jsonschema.validate(test, SCHEMA)


def test_what_the_metadata_service_said_stays_with_the_instance(tmp_path: Path) -> None:
    """Also where the first run was killed before its heartbeat: an image that is started elsewhere begins afresh."""
    host = host_in(tmp_path)
    with serving() as server, serving(metadata()) as service:
        config = config_for(server)
        id = spool.enqueue(host, config, example(), None, "change")
        Reporter(host, config._replace(identity_imds=url(service, path=""))).run(only=id)
        publish(host, {**example(), "instance": {"id": "i-0fedcba9876543210"}})
        Reporter(host, config).run()
        assert [report["instance"].get("az") for report in reports(server)] == ["eu-west-1a", None]


def test_a_metadata_service_that_redirects_is_not_read() -> None:
    """requests would read all of a redirect's body to see where it leads."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(forever(b"HTTP/1.1 302 Found\r\nLocation: /latest\r\n\r\n", b"x" * 65536)) as service:
        started = time.monotonic()
        assert identity.imds(url(service, path="")) == {}
    assert time.monotonic() - started < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_metadata_service_that_lies_or_hangs_is_harmless() -> None:
    for body in ("", "[]", "null", "[" * 5000, '{"region": ["x"]}', '{"region": "a b\\r\\nc"}', "x" * 100_000):
        with serving(metadata(lambda got, body=body: body if got.path.endswith("document") else None)) as service:  # type: ignore[misc]
            assert identity.imds(url(service, path="")) == {}
    with serving(lambda got, connection: time.sleep(10)) as service:
        started = time.monotonic()
        assert identity.imds(url(service, path="")) == {}
        assert time.monotonic() - started < 5

    def drips(got: Got, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.2)

    def stops(got: Got, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nx")
        time.sleep(3)

    for slow in (drips, stops):
        with serving(slow) as service:
            started = time.monotonic()
            assert identity.imds(url(service, path="")) == {}
            assert time.monotonic() - started < 8
    with serving(metadata(lambda got: "tok\r\nX: y" if got.method == "PUT" else None)) as service:
        assert identity.imds(url(service, path="")) == {}


def test_who_the_instance_is_without_any_network(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    etc = Path(host.path("/etc/machine-id"))
    etc.write_text("0123456789abcdef0123456789abcdef\n")
    about = identity.local(host)
    assert about["source"] == "machine-id" and "0123456789abcdef0123456789abcdef" not in json.dumps(about)
    data = Path(host.path("/run/cloud-init"))
    data.mkdir(parents=True)
    (data / "instance-data.json").write_text(
        json.dumps(
            {
                "v1": {"region": "eu-west-1", "availability_zone": "eu-west-1a", "instance_id": "i-0bbbbbbbbbbbbbbbb"},
                "ds": {"meta_data": {"ami-id": "ami-0123456789abcdef0", "instance-type": "t3.nano"}},
            }
        )
    )
    (data / ".instance-id").write_text("i-0bbbbbbbbbbbbbbbb\n")
    assert identity.local(host) == {
        "id": "i-0bbbbbbbbbbbbbbbb", "source": "cloud-init", "region": "eu-west-1", "az": "eu-west-1a",
        "type": "t3.nano", "ami": "ami-0123456789abcdef0",
    }  # fmt: skip
    for content in ("", "[]", '{"v1": 1}', '{"v1": {}, "ds": []}', "[" * 3000):
        (data / "instance-data.json").write_text(content)
        assert identity.local(host)["id"] == "i-0bbbbbbbbbbbbbbbb"


def test_only_an_ec2_machine_asks_the_metadata_service(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    assert identity.endpoint(host, Config()) == ""
    dmi = Path(host.path("/sys/class/dmi/id"))
    dmi.mkdir(parents=True)
    (dmi / "sys_vendor").write_text("QEMU\n")
    assert identity.endpoint(host, Config()) == ""
    (dmi / "sys_vendor").write_text("Amazon EC2\n")
    assert identity.endpoint(host, Config()) == "http://169.254.169.254"
    assert identity.endpoint(host, Config(identity_imds="off")) == ""
    assert identity.endpoint(host, Config(identity_imds="http://[fd00:ec2::254]/")) == "http://[fd00:ec2::254]"
