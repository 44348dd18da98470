"""No test of a suite that others wrote fails with libsom only.

Both runs are in containers of `som local`. What fails with libsom alone is tried once more, since
some tests of these suites fail now and then by themselves. The rows of the table in
docs/reference/suites.md are left in build/suites.
"""

import dataclasses
import pathlib
import re
import subprocess
import time

import pytest

from suites import conftest, suites

TABLE = conftest.ROOT / "build/suites"
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a suite, and how much of the lease it had."""

    outcome: suites.Outcome
    seconds: float
    in_som_bytes: int
    output: str


@pytest.fixture(scope="session")
def taking() -> pathlib.Path:
    """The library that has a process take its lease at its start, where every user can read it."""
    TABLE.mkdir(parents=True, exist_ok=True)
    library = TABLE / "take.so"
    source = suites.PROGRAMS / "take.c"
    suites.compile_c("-fno-builtin-malloc", "-shared", "-fPIC", "-o", library, source)
    return library


def run(
    suite: suites.Suite, lease: conftest.Lease, folder: pathlib.Path, env: tuple[str, ...]
) -> Run:
    begun = time.monotonic()
    words = ("env", *env, *suite.command)
    status, output, seen = lease.run(words, folder=folder, limit_s=suite.limit_s)
    outcome = suite.read(folder, output)
    text = f"{output}\nexit status {status}\n"
    return Run(outcome, time.monotonic() - begun, seen.most_bytes, text)


@pytest.mark.parametrize("suite", suites.SUITES, ids=lambda each: each.name)
def test_no_test_fails_with_libsom_only(
    suite: suites.Suite, lease: conftest.Lease, folder: pathlib.Path, taking: pathlib.Path
) -> None:
    preload = (f"LD_PRELOAD={conftest.LIBRARY}:{taking}", f"SOM_TAKE={suite.takes}")
    install = conftest.ROOT / "tests/install-packages"
    subprocess.run([install, *suite.packages], check=True)
    version = suite.make(folder)
    without = run(suite, lease, folder, ())
    runs = [run(suite, lease, folder, preload)]
    if runs[0].outcome.failed - without.outcome.failed - suite.explained.keys():
        runs.append(run(suite, lease, folder, preload))
    keep(suite, version, without, runs)

    assert without.outcome.passed
    assert without.outcome.found == runs[-1].outcome.found
    assert runs[0].in_som_bytes > 8 * MIB, "its heap was not in the lease"
    always = frozenset.intersection(*(each.outcome.failed for each in runs))
    new = always - without.outcome.failed - suite.explained.keys()
    assert not new, runs[-1].output[-4000:]


def keep(suite: suites.Suite, version: str, without: Run, runs: list[Run]) -> None:
    """A row of the table, and all that was printed."""
    stem = TABLE / re.sub("[^A-Za-z0-9]+", "-", suite.name)
    for number, each in enumerate([without, *runs]):
        stem.with_suffix(f".{number}.log").write_text(each.output)
    first = runs[0]
    only = first.outcome.failed - without.outcome.failed
    differences = []
    for name in sorted(only):
        said = suite.explained.get(name, "")
        if not said and len(runs) > 1 and name not in runs[1].outcome.failed:
            said = "passed when it ran again"
        differences.append(f"`{name}`: {said or 'FAILS'}")
    cells = (
        f"{suite.name} {version}",
        *(f"{each.outcome.passed} passed, {len(each.outcome.failed)} failed, {each.seconds:.0f} s"
          for each in (without, first)),
        f"{first.in_som_bytes // MIB} MiB",
        "; ".join(differences) or "none",
    )  # fmt: skip
    stem.with_suffix(".md").write_text(f"| {' | '.join(cells)} |\n")
