"""The budget of the tail, and what our code never does; what ruff can say, pyproject.toml says."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

import pytest

REPO = Path(__file__).resolve().parent.parent
FOLDERS = ("vla", "policies", "sim", "robot_bridge", "tests/benchmarks")
SOURCES = sorted(path.relative_to(REPO) for folder in FOLDERS for path in (REPO / folder).rglob("*.py"))
LIBRARY = [path for path in SOURCES if path.parts[0] != "tests"]
TOP_LEVEL = {
    *("vla", "policies", "sim", "robot_bridge", "configs", "tests"),
    *("pyproject.toml", "README.md", "Makefile", "requirements.lock", "requirements-hands.lock", "LICENSE"),
    *("requirements-robosuite.lock", "requirements-libero.lock"),
}
DUMPING_GROUNDS = {"utils", "util", "common", "shared", "helpers", "misc"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def tree(path: Path) -> ast.Module:
    return ast.parse((REPO / path).read_text("utf-8"))


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, FUNCTIONS))


def length(function: ast.AST) -> int:
    return function.end_lineno - function.lineno + 1


def depth(node: ast.AST, inside: int = 0) -> int:
    """Blocks within blocks; an ``elif`` is no deeper than its ``if``, and a nested function starts anew."""
    deepest = inside
    for name, value in ast.iter_fields(node):
        chained = isinstance(node, ast.If) and name == "orelse" and len(value) == 1 and isinstance(value[0], ast.If)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, FUNCTIONS) or not isinstance(child, ast.AST):
                continue
            deepest = max(deepest, depth(child, inside + (isinstance(child, BLOCKS) and not chained)))
    return deepest


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def forbidden(node: ast.AST) -> str | None:
    """What ``node`` does that our code never does."""
    match node:
        case ast.Import(names=aliases):
            return next((f"imports {a.name}" for a in aliases if a.name.partition(".")[0] in UNSAFE_MODULES), None)
        case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in UNSAFE_MODULES:
            return f"imports {module}"
        case ast.Call(func=ast.Name(id="eval" | "exec" | "__import__" as name)):
            return f"calls {name}"
        case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
            return "calls torch.load"
        case ast.Attribute(value=ast.Name(id="sys"), attr="path"):
            return "touches sys.path"
        case _:
            return None


def listed(*arguments: str) -> list[str]:
    done = subprocess.run(["git", "-C", REPO, "ls-files", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_guard_sees_what_it_guards_against():
    code = "def f(a, *, b):\n if a:\n  x\n elif b:\n  for c in b:\n   y\n"
    function = next(functions(ast.parse(code)))
    assert (length(function), depth(function), parameters(function)) == (6, 2, 2)
    for bad in ("import pickle", "from dill import x", "eval(a)", "torch.load(p)", "sys.path.append(x)"):
        assert any(forbidden(node) for node in ast.walk(ast.parse(bad))), bad
    assert not any(forbidden(node) for node in ast.walk(ast.parse("model.eval(); torch.save; safetensors.load(p)")))
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_can_be_read_at_a_sitting(path):
    lines = len((REPO / path).read_text("utf-8").splitlines())
    assert lines <= 400, f"{path} has {lines} lines, 400 are allowed"
    long = [f"{f.name} ({length(f)} lines)" for f in functions(tree(path)) if length(f) > 60]
    deep = [f"{f.name} ({depth(f)} deep)" for f in functions(tree(path)) if depth(f) > 4]
    many = [f"{f.name} ({parameters(f)} parameters)" for f in functions(tree(path)) if parameters(f) > 7]
    assert not long + deep + many


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_does_nothing_that_our_code_never_does(path):
    assert not [f"line {node.lineno} {told}" for node in ast.walk(tree(path)) if (told := forbidden(node))]
    assert path.stem not in DUMPING_GROUNDS


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_a_library_does_not_print(path):
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert not [f"line {call.lineno}" for call in calls if call.func.id == "print"]


def test_nine_functions_of_ten_fit_on_a_screen():
    lengths = [length(function) for path in SOURCES for function in functions(tree(path))]
    assert quantiles(lengths, n=10)[-1] <= 40


def test_every_package_folder_says_that_it_is_one():
    folders = {path.parent for path in LIBRARY}
    assert not [str(folder) for folder in folders if not (REPO / folder / "__init__.py").exists()]
    assert not list((REPO / "tests").rglob("__init__.py"))


def test_the_top_level_holds_only_what_it_should():
    files = listed() + listed("--others", "--exclude-standard")
    names = {Path(file).parts[0] for file in files}
    assert not {name for name in names - TOP_LEVEL if not name.startswith(".")}
