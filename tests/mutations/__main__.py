"""Try every mutation on a copy of the tree: `python -m tests.mutations [words of a promise] [--random]`.

For each one the promises are tried first, then the random histories; `--random` tries the random histories alone. Exit
status 1 when one survives that tests/mutations/guard.py does not explain. Takes some minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations.guard import EXPLAINED, MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
PROMISES = "tests/unit/test_guard_promises.py"
RANDOM = "tests/unit/test_guard_random.py"
LIMIT_S = 120.0


def mutated(mutation: Mutation, directory: Path) -> None:
    """Copy what the tests need and edit it."""
    for name in ("gateway", "tests"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", "vectors"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, directory)
    for file, old, new in mutation.edits:
        path = directory / file
        source = path.read_text()
        if source.count(old) != 1:
            raise SystemExit(f"{mutation.promise}: the text stands {source.count(old)} times in {file}")
        path.write_text(source.replace(old, new))


def killer(mutation: Mutation, files: tuple[str, ...]) -> str | None:
    """The test that turned red, or None when all stayed green."""
    with tempfile.TemporaryDirectory(prefix="tm") as name:
        directory = Path(name)
        mutated(mutation, directory)
        environment = {**os.environ, "PYTHONPATH": name, "GUARD_SHRINK": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        for file in files:
            command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider", file]
            try:
                done = subprocess.run(
                    command,
                    cwd=directory,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=LIMIT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return f"{Path(file).stem}: takes for ever"
            if done.returncode not in (0, 1):
                return f"{Path(file).stem}: does not start"
            if done.returncode == 1:
                failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
                return failed[0].split("::", 1)[-1].split(" - ", 1)[0] if failed else Path(file).stem
    return None


def main() -> int:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    files = (RANDOM,) if "--random" in sys.argv else (PROMISES, RANDOM)
    chosen = [each for each in MUTATIONS if all(word in each.promise for word in words)]
    begun_s = time.monotonic()
    survivors = []
    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2))) as pool:
        for mutation, red in zip(chosen, pool.map(lambda each: killer(each, files), chosen), strict=True):
            print(f"{'red  ' if red else 'GREEN'}  {mutation.promise}  [{red or 'survived'}]", flush=True)
            if red is None and mutation.promise not in EXPLAINED:
                survivors.append(mutation.promise)
    print(f"{len(chosen)} mutations, {len(survivors)} unexplained survivors, {time.monotonic() - begun_s:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
