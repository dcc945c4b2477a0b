"""The commands: arguments in, one function each, no logic. Results on stdout, messages on stderr.

Every command imports what it needs when it runs: `status` must answer in a blink, and the supervisor stays small.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import json
import os
import sys
from typing import Any, NoReturn, Optional

from . import __version__
from .config import FILE, Config, load
from .host import Denied, Host, HostError, Locked
from .model import AgentError, UsageError
from .plain import say


def _columns() -> int:
    """As shutil.get_terminal_size has it, which is slow to import."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):  # no terminal, or closed
        return 80


class _Help(argparse.HelpFormatter):
    """argparse makes one for every option, and asks shutil for the width each time."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **given: Any) -> None:
        super().__init__(formatter_class=_Help, **given)

    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(UsageError.exit_status, f"{self.prog}: {message}\n")

    def exit(self, status: int = 0, message: Optional[str] = None) -> NoReturn:
        sys.stdout.flush()  # help that a full disk loses is said like any other output
        super().exit(status, message)


def parser() -> argparse.ArgumentParser:
    """The whole command line (contracts.md, "Commands")."""
    top = _Parser(prog="ec2ssh-agent", description="Keeps SSH reachable on this instance, and says who can reach it.")
    top.add_argument("--version", action="version", version=f"ec2ssh-agent {__version__}")
    top.add_argument("--config", default=FILE, metavar="FILE", help=f"configuration (default {FILE})")
    top.add_argument("--root", default="/", metavar="DIR", help="look at an attached volume instead of this machine")
    commands = top.add_subparsers(prog="ec2ssh-agent", dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    command("run", "the daemon")
    command("status", "what the daemon last saw").add_argument("--watch", action="store_true", help="again each second")
    command("check", "one pass that changes nothing")
    repair = command("repair", "one pass that repairs")
    repair.add_argument("--dry-run", action="store_true", help="print the commands, change nothing")
    repair.add_argument(
        "--allow-disable", action="store_true", help="the firewall may be switched off as the last rung"
    )
    undo = command("undo", "puts back what a repair changed")
    undo.add_argument("id", nargs="?", metavar="ID", help="the change (default: the latest)")
    undo.add_argument("--list", action="store_true", help="list what can be undone")
    _reach(command("reach", "who can connect, and what the others see"))
    command("explain", "the document's checklist for an error").add_argument("error", choices=("timeout", "refused"))
    command("history", "repairs and events, newest first")
    command("pause", "no repairs for that long").add_argument("duration", metavar="DURATION", help="90s, 30m, 8h, 2d")
    command("resume", "repairs again, and forgets what `undo` silenced")
    report = command("report", "sends reports").add_mutually_exclusive_group(required=True)
    report.add_argument("--test", action="store_true", help="send one test report")
    report.add_argument("--drain", action="store_true", help="send all that waits")
    command("config", "the effective configuration, or its validation").add_argument(
        "action", choices=("show", "check")
    )
    command("user-data", "the document's method 4 as user data, for this configuration")
    command("purge", "forgets state").add_argument("--undo", action="store_true", help="put everything back first")
    command("prepare-image", "makes this instance fit to become an image")
    return top


def _reach(made: argparse.ArgumentParser) -> None:
    made.add_argument("--port", type=int, metavar="N")
    for option, name in (("--from", "ADDR"), ("--to", "ADDR[/LEN]"), ("--interface", "IF"), ("--iptables-save", "FILE"),
                         ("--ip6tables-save", "FILE"), ("--nft-json", "FILE")):  # fmt: skip
        made.add_argument(option, action="append", default=[], metavar=name, dest=option[2:].replace("-", "_"))
    made.add_argument("--hosts-allow", metavar="FILE")
    made.add_argument("--hosts-deny", metavar="FILE")


def process() -> NoReturn:
    """`main` as a program, which ends at once: to take apart first all that was made costs 5 ms and more."""
    gc.enable()
    status = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def main(argv: Optional[list[str]] = None) -> int:
    """Exit status: contracts.md, "Commands"; 64 and 78 for usage and configuration."""
    _streams()
    try:
        arguments = parser().parse_args(argv)
        status = int(_COMMANDS[arguments.command](arguments))
        sys.stdout.flush()
        return status
    except AgentError as error:
        from .status import printable

        hint = " (run it as root)" if isinstance(error, Denied) and os.geteuid() else ""
        print(f"ec2ssh-agent: {printable(error)}{hint}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        # Commands turn their own into AgentError: it is standard output that fails. A reader (head, less) has seen
        # enough; what a full disk loses is said. The interpreter is not to fail once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 1
        print(f"ec2ssh-agent: standard output: {error.strerror}", file=sys.stderr)
        return 74  # EX_IOERR
    except KeyboardInterrupt:
        return 130


def _streams() -> None:
    """What the terminal's character set lacks is printed as an escape; where a stream is closed, nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _host(arguments: argparse.Namespace) -> Host:
    if not os.path.isdir(arguments.root):
        raise UsageError(f"--root {arguments.root}: no such directory")
    return Host(arguments.root)


def _config(arguments: argparse.Namespace) -> Config:
    return load(_host(arguments), arguments.config, must_exist=arguments.config != FILE)


def _say(document: Any, arguments: argparse.Namespace, text: str) -> None:
    print(json.dumps(document, indent=1) if arguments.json else text, end="\n" if arguments.json else "")


def _page() -> dict[str, Any]:
    """Width and colour for whoever reads: 80 columns and none where it is not a terminal."""
    if not sys.stdout.isatty():
        return {"width": 80, "colour": False}
    return {"width": _columns(), "colour": not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"}


def _lines() -> int:
    """Of the terminal; a serial console does not tell. 0 where there is none."""
    if not sys.stdout.isatty():
        return 0
    return os.get_terminal_size(sys.stdout.fileno()).lines or 24


def _run(arguments: argparse.Namespace) -> int:
    from .publish import RUN
    from .repair.execute import Busy
    from .supervise import loop

    host = _host(arguments)
    with contextlib.ExitStack() as held:
        try:
            host.mkdir(RUN, 0o755, sync=False)
            held.enter_context(host.lock(f"{RUN}/daemon.lock", for_good=True))
        except Locked as error:
            raise Busy(f"the daemon runs already ({error})") from error
        except HostError as error:  # a full or read-only /run: to be of use is worth more than to be alone
            say(f"{error}; whether another daemon runs is not known")
        return loop.run(arguments.config, arguments.root)


def _status(arguments: argparse.Namespace) -> int:
    from . import publish, status

    while True:
        host = _host(arguments)
        document, stale = publish.latest(host)
        if (document.get("report") or {}).get("url"):
            from .report import spool

            document = {**document, "report": spool.latest(host, document["report"])}
        page = status.render(document, stale=stale, height=_lines(), **_page())
        if arguments.watch and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        _say({**document, "stale": stale}, arguments, page)
        if not arguments.watch:
            return status.exit_status(document, stale)
        sys.stdout.flush()
        host.sleep(1.0)


def _check(arguments: argparse.Namespace) -> int:
    from . import passes, status

    document = passes.check(_host(arguments), _config(arguments))
    _say(document, arguments, status.render(document, height=_lines(), **_page()))
    return status.exit_status(document)


def _repair(arguments: argparse.Namespace) -> int:
    from . import passes, status

    host, config = _host(arguments), _config(arguments)
    document = passes.repair(host, config, dry_run=arguments.dry_run, allow_disable=arguments.allow_disable)
    text = passes.would_do(document) if arguments.dry_run else status.render(document, height=_lines(), **_page())
    _say(document, arguments, text)
    return status.exit_status(document)


def _undo(arguments: argparse.Namespace) -> int:
    from . import administer

    host = _host(arguments)
    document = administer.undoable(host) if arguments.list else administer.undo(host, arguments.id)
    _say(document, arguments, document["text"])
    return int(document.get("exit", 0))


def _reach_command(arguments: argparse.Namespace) -> int:
    from . import reach_command

    document = reach_command.answer(_host(arguments), arguments, lambda: _config(arguments))
    if arguments.json:
        sys.stdout.writelines(reach_command.written(document))
        print()
    else:
        sys.stdout.write(reach_command.render(document, **_page()))
    return reach_command.exit_status(document, arguments)


def _explain(arguments: argparse.Namespace) -> int:
    from . import explain, passes

    document = passes.check(_host(arguments), _config(arguments))
    found = explain.causes(arguments.error, document)
    answer = {"schema": "ec2ssh-agent.explain/1", "error": arguments.error, "causes": [c._asdict() for c in found]}
    _say(answer, arguments, explain.render(arguments.error, document, found, width=_page()["width"]))
    return 0


def _history(arguments: argparse.Namespace) -> int:
    from . import publish

    document = publish.history(_host(arguments))
    _say(document, arguments, publish.render_history(document))
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    from . import administer

    document = administer.pause(_host(arguments), arguments.duration)
    _say(document, arguments, document["text"])
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    from . import administer

    document = administer.resume(_host(arguments))
    _say(document, arguments, document["text"])
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from .report import command

    document = command.send(_host(arguments), _config(arguments), test=arguments.test)
    _say(document, arguments, document["text"])
    return int(document["exit"])


def _config_command(arguments: argparse.Namespace) -> int:
    from .config import KEYS, shown

    config = _config(arguments)
    values = {name: {"value": shown(getattr(config, name)), "from": config.where(name)} for name in KEYS}
    document = {"schema": "ec2ssh-agent.config/1", "values": values}
    if arguments.action == "check":
        _say({**document, "good": True}, arguments, "the configuration is good\n")
        return 0
    lines, section = [], ""
    for name, item in values.items():
        if name.split("_")[0] != section:
            section = name.split("_")[0]
            lines.append(f"[{section}]")
        # A comment stands on a line of its own, so that the output can be a configuration again.
        lines += [f"# from {item['from']}", f"{name.split('_', 1)[1]} = {item['value']}"]
    _say(document, arguments, "\n".join(lines) + "\n")
    return 0


def _user_data(arguments: argparse.Namespace) -> int:
    from . import user_data

    text = user_data.multipart(_config(arguments))
    _say({"schema": "ec2ssh-agent.user-data/1", "user_data": text}, arguments, text)
    return 0


def _purge(arguments: argparse.Namespace) -> int:
    from . import administer

    document = administer.purge(_host(arguments), undo_first=arguments.undo)
    _say(document, arguments, document["text"])
    return int(document.get("exit", 0))


def _prepare_image(arguments: argparse.Namespace) -> int:
    from . import image

    document = image.prepare(_host(arguments))
    _say(document, arguments, document["text"])
    return int(document.get("exit", 0))


_COMMANDS = {
    "run": _run,
    "status": _status,
    "check": _check,
    "repair": _repair,
    "undo": _undo,
    "reach": _reach_command,
    "explain": _explain,
    "history": _history,
    "pause": _pause,
    "resume": _resume,
    "report": _report,
    "config": _config_command,
    "user-data": _user_data,
    "purge": _purge,
    "prepare-image": _prepare_image,
}
