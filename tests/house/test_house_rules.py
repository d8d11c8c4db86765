"""House rules that no linter of ours knows: what may lie in the tree, what things are called, what a room may touch.

Each rule has a function that names offenders, and a test that the function finds a planted one: a rule that can't turn
red holds nothing.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = {".git", ".venv", "node_modules", "__pycache__", "artefacts", "dist", "build"}
CACHES = r"\.\w+_cache|\.hypothesis"
PACKAGES = ("gateway", "centre", "provisioning")
PURE = ("core", "protocol", "agreement", "check", "mount", "view", "update", "decision")
FOLDERS = ("gateway", "systemd", "provisioning", "image-build", "tests", "centre", "docs", "bench")
FILES = ("pyproject.toml", "README.md", "LICENSE", "requirements/dev.lock", "Makefile")

README_LINES = 150
FORBIDDEN_WORDS = {"manager", "helper", "helpers", "utils", "util", "handler", "handlers", "data", "info"}
PURE_FORBIDDEN_IMPORTS = {"asyncio", "socket", "threading", "subprocess", "selectors", "sqlite3", "multiprocessing"}
PURE_FORBIDDEN_CALLS = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "monotonic"),
    ("time", "sleep"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
}
BOOTTIME = ROOT / "gateway" / "core" / "boottime.py"

MACHINE_PATHS = re.compile(r"(?<![\w.~$}/-])/(?:work|root|home/[a-z]+|Users/[A-Za-z]+)(?![\w-])")
REGISTRIES = re.compile(
    r"files\.pythonhosted\.org|pypi\.org/simple|--(?:extra-)?index-url|registry\.npmjs|artifactory|codeartifact|devpi\.",
    re.IGNORECASE,
)
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\\[nr]|\s|\"|')*[A-Za-z0-9+/]{24}|AGE-SECRET-KEY-1[A-Z0-9]"
)
"""A marker with a key after it: a marker alone is a text about keys, or a test's false one."""


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file that may be tracked but this one, which names what it looks for, with its text."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not re.fullmatch(CACHES, name))
        for path in sorted(Path(folder, name) for name in files):
            if path != Path(__file__) and path.is_file() and not path.is_symlink():
                raw = path.read_bytes()
                if b"\0" not in raw[:8192]:
                    yield path, raw.decode("utf-8", errors="replace")


TEXTS = list(texts())


def modules(*folders: str) -> list[Path]:
    return [path for path, _ in TEXTS if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(path)))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_with(pattern: re.Pattern[str], text: str) -> list[int]:
    return [text.count("\n", 0, match.start()) + 1 for match in pattern.finditer(text)]


# What lies in the tree


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRIES, PRIVATE_KEY], ids=["paths", "registries", "keys"])
def test_no_file_names_a_machine_a_registry_or_holds_a_key(pattern):
    found = [f"{shown(path)}:{line}" for path, text in TEXTS for line in lines_with(pattern, text)]
    assert found == []


@pytest.mark.parametrize(
    ("pattern", "planted"),
    [
        (MACHINE_PATHS, "see /work/main"),
        (MACHINE_PATHS, 'Path("/root/x")'),
        (MACHINE_PATHS, "cd /home/anna/src"),
        (REGISTRIES, "https://files.pythonhosted.org/x"),
        (REGISTRIES, "--index-url https://example.org"),
        (PRIVATE_KEY, f"-----BEGIN EC PRIVATE KEY-----\n{'MHcCAQEE' * 8}"),
        (PRIVATE_KEY, 'b"-----BEGIN PRIVATE KEY-----\\n' + "MHcCAQEE" * 8),
    ],
)
def test_what_is_looked_for_would_be_found(pattern, planted):
    assert lines_with(pattern, f"first\n{planted}\n") == [2]


@pytest.mark.parametrize(
    "innocent", ["docs/work/x", "$HOME/x", "https://x.test/root/", "/homes/{id}", "/rooted", "/workers"]
)
def test_what_only_looks_like_a_machine_path_is_left_alone(innocent):
    assert lines_with(MACHINE_PATHS, innocent) == []


@pytest.mark.parametrize("name", FOLDERS)
def test_every_folder_that_was_asked_for_is_there(name):
    assert (ROOT / name).is_dir()


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_was_asked_for_is_there(name):
    assert (ROOT / name).is_file()


def test_the_readme_can_be_read_in_one_go():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


# The lock


def lock_faults(lock: str) -> list[str]:
    """Requirements without a hash or a version, and lines that name an address."""
    joined = re.sub(r"\\\n\s*", "", lock)
    faults = [line for line in joined.splitlines() if "://" in line]
    for line in joined.splitlines():
        if not line or line.lstrip().startswith("#"):
            continue
        if not re.match(r"[A-Za-z0-9._-]+(\[[a-z,_-]+\])?==\S+", line) or not re.search(
            r"--hash=sha256:[0-9a-f]{64}\b", line
        ):
            faults.append(line)
    return faults


def test_the_lock_holds_every_wheel_by_version_and_hash_and_no_address():
    lock = (ROOT / "requirements" / "dev.lock").read_text()
    assert lock.count("==") > 20
    assert lock_faults(lock) == []


def test_a_fault_in_the_lock_would_be_found():
    good = f"aioice==0.13.0 \\\n    --hash=sha256:{'0' * 64}\n    # via aiortc\n"
    assert lock_faults(good) == []
    assert len(lock_faults(good + "aiortc==1.16.0\n    # via x\n")) == 1
    assert len(lock_faults(good + f"aiortc>=1.16.0 \\\n    --hash=sha256:{'0' * 64}\n")) == 1
    assert len(lock_faults("--find-links https://example.org\n" + good)) == 2


# Names


def named_badly(name: str) -> bool:
    return bool(FORBIDDEN_WORDS & set(name.split("_")))


def test_no_module_or_folder_is_called_after_nothing():
    names = {path: [*path.relative_to(ROOT).parts[:-1], path.stem] for path in modules(*PACKAGES, "tests", "bench")}
    assert [shown(path) for path, parts in names.items() if any(map(named_badly, parts))] == []
    assert named_badly("media_utils")
    assert not named_badly("database")


def empty_class_names(text: str) -> list[str]:
    """Classes called after nothing. The standard library calls what answers a request or takes a log line a handler."""
    # Reading is a hundred times cheaper than parsing: only a text with such a word in it is parsed.
    if not re.search(r"\bclass \w*(Manager|Helper|Utils|Handler|Data|Info)\b", text):
        return []
    return [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
        and re.search(r"(Manager|Helper|Utils|Handler|Data|Info)\Z", node.name)
        and not any("Handler" in ast.unparse(base) for base in node.bases)
    ]


def test_no_class_is_called_after_nothing():
    found = {shown(path): empty_class_names(path.read_text()) for path in modules(*PACKAGES)}
    assert {path: names for path, names in found.items() if names} == {}


def test_a_class_called_after_nothing_would_be_found():
    assert empty_class_names("class HomeManager:\n    pass\nclass Home:\n    class Data(Base): pass\n") == [
        "HomeManager",
        "Data",
    ]
    assert (
        empty_class_names("class Answers(BaseHTTPRequestHandler): pass\nclass Handler(BaseHTTPRequestHandler): pass")
        == []
    )


LIBRARIES_OF_A_NAME = {
    "aioice": {"aioice", "ifaddr"},
    "aiortc": {"aiortc", "aioice", "av"},
    "gpiozero": {"gpiozero"},
    "libx264": {"av"},
    "networkmanager": {"dbus_fast"},
    "paho": {"paho"},
    "picamera2": {"picamera2", "libcamera"},
    "rauc": {"dbus_fast"},
    "swscale": {"av"},
    "systemd": {"systemd"},
    "v4l2": {"av"},
    "file": {"av"},
}
EDGE_FOR_ALL = {"numpy", "msgspec"}
"""Arrays and frozen facts are a language here, not a way out of the process."""


def imported(path: Path) -> set[str]:
    """Top-level names of third-party packages that a module imports itself."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"gateway", "__future__"}


def test_an_edge_module_is_called_by_its_port_and_its_library_and_imports_no_other():
    wrong = []
    for path in modules("gateway"):
        if path.parent.name != "edge":
            continue
        libraries = imported(path) - EDGE_FOR_ALL
        port, _, library = path.stem.partition("_")
        if libraries and not (port and libraries <= LIBRARIES_OF_A_NAME.get(library, {library})):
            wrong.append(f"{shown(path)} imports {', '.join(sorted(libraries))}")
    assert wrong == []


def test_only_the_edge_imports_hardware_and_network_libraries():
    reserved = set().union(*LIBRARIES_OF_A_NAME.values())
    wrong = [
        f"{shown(path)} imports {library}"
        for path in modules("gateway")
        if path.parent.name != "edge"
        for library in sorted(imported(path) & reserved)
    ]
    assert wrong == []


# What a room may touch


def impure(tree: ast.AST) -> list[str]:
    """Imports and calls by which a pure room would read the world."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.split(".")[0] in PURE_FORBIDDEN_IMPORTS]
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in PURE_FORBIDDEN_IMPORTS:
                    found.append(module)
                found += [f"{module}.{name.name}" for name in names if (module, name.name) in PURE_FORBIDDEN_CALLS]
            case ast.Call(func=ast.Attribute(attr=attr, value=value)):
                owner = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
                if (owner, attr) in PURE_FORBIDDEN_CALLS:
                    found.append(f"{owner}.{attr}()")
            case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                found.append(f"{name}()")
    return found


def test_pure_rooms_read_no_clock_and_touch_no_loop_socket_thread_or_process():
    found = {
        shown(path): impure(parsed(path))
        for path in modules("gateway")
        if path.relative_to(ROOT).parts[1] in PURE and path != BOOTTIME
    }
    assert len(found) > 15
    assert {name: faults for name, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import asyncio",
        "from socket import socket",
        "import threading as t",
        "def f():\n    import subprocess",
        "import time\nnow = time.time()",
        "from time import time",
        "import datetime\nx = datetime.datetime.now()",
        "from datetime import datetime\nx = datetime.now(UTC)",
        "open('x')",
    ],
)
def test_a_room_that_is_not_pure_would_be_found(planted):
    assert impure(ast.parse(planted))


def broad_excepts(text: str) -> list[int]:
    """Lines that catch everything and keep it, without a comment on them, just after, or in the three lines before."""
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = [] if node.type is None else [one.id for one in ast.walk(node.type) if isinstance(one, ast.Name)]
        if node.type is None or {"Exception", "BaseException"} & set(caught):
            near = lines[max(0, node.lineno - 4) : node.lineno + 1]
            passed_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if not passed_on and not any("#" in line for line in near):
                found.append(node.lineno)
    return found


def waits_that_forget(text: str) -> list[int]:
    """Lines with `asyncio.wait_for`: Python 3.11's gives a result that came together with a cancelling, and forgets
    the cancelling. `asyncio.timeout` does not. Source: CPython issue 86296."""
    return [number for number, line in enumerate(text.splitlines(), 1) if "asyncio.wait_for(" in line]


def test_nothing_waits_in_a_way_that_may_forget_that_it_was_cancelled():
    found = [f"{shown(path)}:{line}" for path in modules(*PACKAGES) for line in waits_that_forget(path.read_text())]
    assert found == []


def test_a_wait_that_may_forget_would_be_found():
    assert waits_that_forget("x = 1\nawait asyncio.wait_for(queue.get(), 1.0)\n") == [2]


def test_nothing_is_caught_wholesale_without_saying_why():
    found = [f"{shown(path)}:{line}" for path in modules("gateway") for line in broad_excepts(path.read_text())]
    assert found == []


def test_a_wholesale_catch_would_be_found():
    assert broad_excepts("try:\n    f()\nexcept Exception:\n    pass\n") == [3]
    assert broad_excepts("try:\n    f()\nexcept (ValueError, Exception):\n    pass\n") == [3]
    assert broad_excepts("try:\n    f()\nexcept:\n    pass\n") == [3]
    assert broad_excepts("try:\n    f()\nexcept BaseException:\n    g()\n    raise\n") == []
    assert broad_excepts("try:\n    f()\n# the library raises what it likes\nexcept Exception:\n    pass\n") == []


# Tests and docstrings


def test_no_test_replaces_parts_in_the_middle():
    unwanted = "unittest.mock"
    wrong = []
    for path in (path for path in modules("tests") if "mock" in path.read_text()):
        for node in nodes(path):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()
            module = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            if unwanted in names or module == unwanted or (module == "unittest" and "mock" in names) or "mock" in names:
                wrong.append(shown(path))
    assert wrong == []


def test_every_module_says_what_it_is_for():
    silent = [
        shown(path) for path in modules(*PACKAGES) if path.read_text().strip() and not ast.get_docstring(parsed(path))
    ]
    assert silent == []
