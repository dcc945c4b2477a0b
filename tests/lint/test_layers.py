"""Imports run one way: cli -> supervise, passes -> observe, repair, report -> plan -> diagnose -> reach -> model."""

from __future__ import annotations

import ast

from test_lint_tools import ROOT, tracked

PACKAGE = ROOT / "agent" / "ec2ssh_agent"

# What is pure imports none of these, and nothing that does.
SYSTEM = {"subprocess", "socket", "os", "shutil", "time", "select", "signal", "fcntl", "ctypes", "tempfile"}
PURE = ("reach", "diagnose", "plan", "model", "facts")

# What a module may not import at its top: it would be in memory all the supervisor's life, or slow every command.
HEAVY = {"dataclasses", "ipaddress", "logging", "asyncio", "psutil", "requests", "iptc"}

# Each layer, lowest first. A module imports from its own layer and from those below.
LAYERS = (
    ("model",),
    ("reach",),
    ("facts",),
    ("host",),
    ("config",),
    ("diagnose",),
    ("plan",),
    ("observe", "repair", "report"),
    ("passes", "supervise"),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def modules() -> list[tuple[str, ast.Module]]:
    """(dotted name below the package, syntax tree) of every module."""
    found = []
    for path in sorted(path for path in tracked() if path.suffix == ".py" and PACKAGE in path.parents):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append((name, ast.parse(path.read_text(), str(path))))
    return found


def _is_package(name: str) -> bool:
    return (PACKAGE / name.replace(".", "/")).is_dir()


def imports(name: str, tree: ast.AST) -> set[str]:
    """What a module imports: `.x.y` of this package as `x.y`, of others as `/x`."""
    package = name.split(".") if name else []
    if not _is_package(name):
        package = package[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update("/" + alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add("/" + (node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
            found.update(".".join([*base, alias.name]) for alias in node.names)
    return found


def test_no_layer_imports_from_above() -> None:
    wrong = []
    for name, tree in modules():
        rank = RANK.get(name.split(".")[0])
        if rank is None:
            continue
        for target in imports(name, tree):
            other = RANK.get(target.split(".")[0])
            if other is not None and other > rank:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_diagnose_and_plan_get_their_facts_handed_in() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in modules()
        for target in imports(name, tree)
        if name.split(".")[0] in PURE and target.split(".")[0] in ("observe", "host")
    ]
    assert not wrong


def test_pure_modules_touch_no_operating_system() -> None:
    wrong = [
        f"{name} imports {target[1:]}"
        for name, tree in modules()
        for target in imports(name, tree)
        if name.split(".")[0] in PURE and target.startswith("/") and target[1:] in SYSTEM
    ]
    assert not wrong


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    wrong = []
    for name, tree in modules():
        top = ast.Module(body=[n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))], type_ignores=[])
        heavy = {target[1:] for target in imports(name, top) if target.startswith("/")} & HEAVY
        wrong += [f"{name} imports {word} at its top" for word in heavy]
    assert not wrong


def test_only_the_door_starts_processes() -> None:
    wrong = [
        name
        for name, tree in modules()
        if "/subprocess" in imports(name, tree) and name != "host" and not name.startswith(("supervise", "report"))
    ]
    assert not wrong
