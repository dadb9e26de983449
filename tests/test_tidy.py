"""The style of the house, held by a test: what a linter does not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "sentinel"
PYTHON_FILES = sorted(
    path
    for folder in ("src", "tests", "examples", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
ROOMS = sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file())

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 6

# Names that say nothing about what is inside.
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
# Files that stay pure: what they know comes in as arguments.
PURE = (
    "contract/*.py",
    "features/aggregates.py",
    "features/kernel.py",
    "features/plan.py",
    "monitoring/drift.py",
    "release/manifest.py",
    "scoring/breaker.py",
)
IMPURE_MODULES = {"time", "random", "os", "socket", "asyncio", "logging"}
# The three named boundaries where everything may be caught.
BROAD_EXCEPT_BOUNDARIES = {
    "cli/boundary.py",
    "serving/batching/attempt.py",
    "streaming/file_worker.py",
}
# Words of pickles, by any of their names.
PICKLES = re.compile(r"\b(pickle|joblib|dill|cloudpickle|torch\.load|allow_pickle=True)\b")


def tracked_text_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    suffixes = {
        ".py",
        ".md",
        ".toml",
        ".yml",
        ".yaml",
        ".in",
        ".lock",
        ".sh",
        ".json",
        ".j2",
        ".txt",
        "",
    }
    paths = [ROOT / name for name in listing if name]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_file_is_short_enough_to_do_one_thing(path: Path) -> None:
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= FILE_LINES_MAX, f"{relative(path)} has {n_lines} lines"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=relative)
def test_functions_fit_on_a_screen(path: Path) -> None:
    for function in functions(ast.parse(path.read_text())):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        if not body:
            continue
        n_lines = (function.end_lineno or 0) - body[0].lineno + 1
        is_kernel = any("native" in ast.unparse(d) for d in function.decorator_list)
        bound = 2 * FUNCTION_LINES_MAX if is_kernel else FUNCTION_LINES_MAX
        assert n_lines <= bound, f"{relative(path)}:{function.lineno} {function.name}: {n_lines}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=relative)
def test_file_names_say_what_is_inside(path: Path) -> None:
    assert path.stem not in EMPTY_NAMES
    is_a_room_file = path.parent != SOURCE and path.stem not in {"__init__", "__main__"}
    if is_a_room_file:
        assert path.stem not in sys.stdlib_module_names, f"{path.stem} is in the standard library"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=relative)
def test_everything_is_caught_only_at_a_named_boundary(path: Path) -> None:
    name = path.relative_to(SOURCE).as_posix()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            if caught in {"", "Exception", "BaseException"}:
                assert name in BROAD_EXCEPT_BOUNDARIES, f"{name}:{node.lineno}: except {caught}"


@pytest.mark.parametrize("pattern", PURE)
def test_pure_files_import_no_time_chance_or_system(pattern: str) -> None:
    paths = sorted(SOURCE.glob(pattern))
    assert paths, f"{pattern} names no file"
    for path in paths:
        if path.name in {"__init__.py", "quarantine.py"}:
            continue
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in imported_names(node)
        }
        assert not imported & IMPURE_MODULES, f"{relative(path)}: {imported & IMPURE_MODULES}"


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=relative)
def test_no_pickle_is_read_or_written(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        for name in imported_names(node):
            assert not PICKLES.search(name), f"{relative(path)}: imports {name}"
        if isinstance(node, ast.Call):
            call = ast.unparse(node)
            assert "allow_pickle=True" not in call, relative(path)
            assert "torch.load" not in call, relative(path)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=relative)
def test_assert_is_not_used_on_input(path: Path) -> None:
    """`python -O` removes assertions: what must hold in production is an error of its own."""
    tree = ast.parse(path.read_text())
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not lines, f"{relative(path)}: lines {lines}"


def test_every_file_with_a_kernel_is_in_the_cache_key() -> None:
    from sentinel.core.native import NATIVE_MODULES

    with_kernels = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if re.search(r"^@native", path.read_text(), re.MULTILINE)
    }
    assert with_kernels == set(NATIVE_MODULES)


@pytest.mark.parametrize("name", ["bootstrap", "serve", "train", "dev", "spark", "kserve"])
def test_locks_pin_every_version_with_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    requirements = re.findall(r"^[A-Za-z0-9][^\n]*", text, re.MULTILINE)
    assert requirements
    for requirement in requirements:
        assert re.match(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+ ", requirement), requirement
    assert "://" not in text
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    for block in blocks:
        if "==" in block.split("\n", maxsplit=1)[0]:
            assert "--hash=sha256:" in block, block.split("\n", maxsplit=1)[0]


def test_locks_agree_with_each_other() -> None:
    """One table of versions: what serves is what was trained with and tested."""
    versions = {}
    for name in ("serve", "train", "dev", "spark"):
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;]+)( ;[^\\\n]*)?", text, re.MULTILINE)
        versions[name] = {(package, marker.strip()): version for package, version, marker in pins}
    for smaller, larger in (("serve", "train"), ("train", "dev"), ("serve", "spark")):
        names = {package for package, _ in versions[smaller]}
        here = {(p, v) for (p, _), v in versions[smaller].items()}
        there = {(p, v) for (p, _), v in versions[larger].items() if p in names}
        assert here == there, here ^ there


def test_serving_needs_no_training_library() -> None:
    text = (ROOT / "requirements" / "serve.lock").read_text()
    for heavy in ("torch", "lightgbm", "scikit-learn", "scipy", "pandas", "onnx==", "mlflow"):
        assert not re.search(rf"^{heavy}", text, re.MULTILINE), heavy


def test_committed_text_names_no_place_and_no_unfinished_work() -> None:
    """Paths of a machine, hosts of registries, marks of unfinished work: none is committed."""
    # Written in parts, so that this file passes its own test.
    words = [
        "/wor" + "k/",
        "/roo" + "t/",
        "TO" + "DO",
        "FIX" + "ME",
        "XX" + "X:",
        "NotImplemented" + "Error",
    ]
    hosts = ["pypi." + "org", "registry.npmjs." + "org"]
    found = [
        f"{relative(path)}: {word}"
        for path in tracked_text_files()
        for word in [*words, *hosts]
        if word in path.read_text(errors="replace")
    ]
    assert not found, "\n".join(found)


def test_every_room_is_in_the_layers() -> None:
    import tomllib

    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = config["tool"]["importlinter"]["contracts"][0]
    layered = {room.strip() for layer in contract["layers"] for room in layer.split(":")}
    assert layered | set(contract["exhaustive_ignores"]) == set(ROOMS)


def test_every_test_file_mirrors_a_module_or_says_why() -> None:
    """A newcomer finds the tests of `room/module.py` in `tests/room/test_module.py`.

    Tests of what several modules do together have a name of their own, and say what that is.
    """
    for path in (ROOT / "tests").rglob("test_*.py"):
        room = path.relative_to(ROOT / "tests").parts[0]
        subject = path.stem.removeprefix("test_")
        if room == path.name or any((SOURCE / room).rglob(f"{subject}.py")):
            continue
        assert room in {*ROOMS, "oracle", "examples"}, relative(path)
        assert ast.get_docstring(ast.parse(path.read_text())), relative(path)
