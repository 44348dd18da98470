"""Requests made from the fleet API's own schema, sensible ones and others."""

import pathlib
import subprocess
import sys
from collections.abc import Callable

from fakes.reviewer import ADMIN, NOBODY
from web.serving import Served

SCHEMATHESIS = str(pathlib.Path(sys.executable).parent / "st")
# A watch has no end.
OPTIONS = (
    "--exclude-path=/api/v1/watch",
    "--max-examples=10",
    "--phases=coverage,fuzzing",
    "--no-color",
    # A busy machine makes examples slowly, and answers so.
    "--suppress-health-check=too_slow",
    "--request-timeout=60",
)


def fuzz(served: Served, *, token: str, checks: str) -> None:
    target = f"{served.origin}/openapi.json"
    words = [SCHEMATHESIS, "run", target, f"--checks={checks}", *OPTIONS, "--tls-verify=false"]
    words += ["--header", f"Authorization: Bearer {token}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_nothing_that_is_asked_is_a_mistake(fleet_of: Callable[[int], Served]) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    fuzz(fleet_of(3), token=ADMIN, checks=f"{checks},response_schema_conformance,ignored_auth")


def test_who_has_no_right_gets_no_row(fleet_of: Callable[[int], Served]) -> None:
    served = fleet_of(3)
    before = len(served.fleet.asked)
    fuzz(served, token=NOBODY, checks="not_a_server_error,response_schema_conformance")
    assert len(served.fleet.asked) == before
