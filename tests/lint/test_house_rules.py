"""The rules of the house that a machine can hold: sizes, exceptions, how tests are written."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from test_lint_tools import ROOT, tracked

FILE_LINES = 700
FUNCTION_LINES = 70


def _python(*directories: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in tracked():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in directories:
            yield path, ast.parse(path.read_text(), str(path))


def test_files_are_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p, _ in _python("agent", "tests")}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = [
        f"{path.name}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path, tree in _python("agent")
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not long


def test_no_exception_is_caught_broadly_or_swallowed() -> None:
    wrong = []
    for path, tree in _python("agent", "tests"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            names = [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)] if node.type else ["(bare)"]
            if {"Exception", "BaseException", "(bare)"} & set(names) and not _reraises(node):
                wrong.append(f"{path.name}:{node.lineno} catches {', '.join(names)}")
            if all(isinstance(statement, ast.Pass) for statement in node.body):
                wrong.append(f"{path.name}:{node.lineno} swallows an error")
    assert not wrong


def _reraises(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


def test_every_module_says_what_it_is_and_postpones_annotations() -> None:
    wrong = []
    for path, tree in _python("agent"):
        if tree.body and ast.get_docstring(tree) is None:
            wrong.append(f"{path.name}: no docstring")
        future = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
        # __main__ of the supervisor imports next to nothing, by its own rule.
        if any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in tree.body) and not (
            future or path.name == "__main__.py"
        ):
            wrong.append(f"{path.name}: no `from __future__ import annotations`")
    assert not wrong


def test_tests_replace_nothing_and_skip_nothing() -> None:
    banned = {"monkeypatch", "MagicMock", "mock", "skip", "skipif", "xfail", "importorskip"}
    wrong = []
    for path, tree in _python("tests"):
        for node in ast.walk(tree):
            if isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.Name):
                name = node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
                name = node.attr if owner in ("pytest", "mark", "unittest", "mock") else ""
            else:
                continue
            if name in banned:
                wrong.append(f"{path.name}:{node.lineno} uses {name}")
    assert not wrong


def test_names_of_test_files_are_unique() -> None:
    names = [path.name for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] == "tests"]
    twice = {name for name in names if names.count(name) > 1} - {"conftest.py", "__init__.py"}
    assert not twice
