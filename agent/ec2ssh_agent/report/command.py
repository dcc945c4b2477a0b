"""`report --test` and `report --drain`: the reporter is run at once, as its own user, and what it was told is shown.

Root opens no connection here either: the child has the reporter's user, no capability, and only the spool to read.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Any

from ..config import FILE, Config
from ..host import Denied, Host, HostError
from ..model import UsageError
from ..status import printable
from . import spool
from .reporter import heartbeat_status

_USER = "ec2ssh-agent"
_UNIT = "ec2ssh-agent-report.service"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
#: A whole queue of answers that each come at the last moment is not waited for (seconds).
_DEADLINE = 300.0


def send(host: Host, config: Config, *, test: bool) -> dict[str, Any]:
    """Sends one test report, or all that waits. Raises UsageError, HostError.

    Gives `schema`, `text` for a person and `exit` (0: all was delivered), with the counts and the endpoint's answer.
    """
    if not config.report_url:
        raise UsageError("[report] url is empty: no endpoint is configured")
    try:
        return _test(host, config) if test else _drain(host, config)
    except Denied as error:
        raise Denied(f"{error} (are you root?)") from error


def _result(text: str, *, good: bool, **more: object) -> dict[str, Any]:
    return {"schema": "ec2ssh-agent.report-command/1", "text": text + "\n", "exit": 0 if good else 1, **more}


def _test(host: Host, config: Config) -> dict[str, Any]:
    status = heartbeat_status(host)
    id = spool.enqueue(host, config, {**status, "repairs": []}, None, "test")
    try:
        ran = _run(host, config, "--only", id)
        said = spool.acknowledgement(host, id)
    finally:
        # Delivered or not: a test is not tried again behind the person's back.
        for entry in spool.entries(host):
            if entry.id == id:
                host.remove(entry.path)
    url, answer = spool.shown_url(config.report_url), printable(said.answer if said else ran["answer"])
    if said and not said.parked:
        return _result(f"delivered to {url}: {answer}", good=True, id=id, answer=answer)
    how = "refused the test report" if said else "did not take the test report"
    return _result(f"{url} {how}: {answer}", good=False, id=id, answer=answer)


def _drain(host: Host, config: Config) -> dict[str, Any]:
    ran = _run(host, config, "--now")
    spool.sweep(host)
    left = spool.summary(host, config)
    lines = [f"{ran['sent']} delivered, {left['parked']} refused, {left['waiting']} wait"]
    if ran["answer"]:
        lines.append(f"the endpoint's last answer: {printable(ran['answer'])}")
    good = not left["parked"] and not left["waiting"]
    return _result("\n".join(lines), good=good, **{**left, "sent": int(ran["sent"])})


def argv(config_path: str, *arguments: str) -> list[str]:
    """The reporter's command line with its privileges dropped, for where systemd does not start it."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = (
        f"import sys; sys.path.insert(0, {package!r}); from ec2ssh_agent.report.reporter import main; sys.exit(main())"
    )
    return [
        "setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
        "--bounding-set=-all", sys.executable, "-I", "-c", program, f"--config={config_path}", *arguments,
    ]  # fmt: skip


def start(host: Host, config: Config) -> None:
    """Where systemd does not: has the reporter look whether there is anything to send, and does not wait for it. It is
    no child of this process, whose CPU time would count for the pass's.

    Raises HostError where it cannot be started.
    """
    if config.report_url and not host.exists("/run/systemd/system"):
        words = ["setsid", "--fork", *argv(_path(config), "--background")]
        ran = host.run(words, deadline=10.0, cap=1 << 16, environment=_proxies(host))
        if ran.code or ran.err:
            raise HostError(f"the reporter did not start: {ran.complaint}")


def _run(host: Host, config: Config, *arguments: str) -> dict[str, Any]:
    # A run that waits for its next try would keep this one out; it may be ended at any point.
    if host.exists("/run/systemd/system"):
        host.run(["systemctl", "stop", _UNIT], deadline=30.0)
    ran = host.run(argv(_path(config), *arguments), deadline=_DEADLINE, cap=1 << 16, environment=_proxies(host))
    try:
        said = json.loads(ran.out)
    except ValueError as error:
        raise HostError(f"the reporter did not run: {ran.complaint}") from error
    return {"sent": int(said["sent"]), "answer": str(said["answer"])}


def _proxies(host: Host) -> dict[str, str]:
    """The proxy variables that the reporter's unit has, else this process's."""
    said = dict(os.environ)
    if host.exists("/run/systemd/system"):
        shown = host.run(["systemctl", "show", "--property=Environment", "--value", _UNIT], deadline=10.0).text
        try:
            said.update(word.partition("=")[::2] for word in shlex.split(shown))
        except ValueError as error:
            raise HostError(f"the environment of {_UNIT} cannot be read: {error}") from error
    return {name: value for name, value in said.items() if name.lower() in _PROXIES}


def _path(config: Config) -> str:
    """The configuration file that `config` was read from: itself, or the one that its drop-in belongs to."""
    file = config.where("report_url").rpartition(":")[0]
    directory = file.rpartition("/")[0]
    return directory[: -len(".d")] if directory.endswith(".d") else file or FILE
