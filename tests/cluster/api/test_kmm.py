"""examples/kmm.yaml on a real API server, which knows KMM's Module by a fake of its CRD."""

import collections.abc
import pathlib

import pytest

from cluster.api.conftest import ApiServer

ROOT = pathlib.Path(__file__).parents[3]
CRD = ROOT / "tests/fakes/kmm_module.yaml"
EXAMPLE = (ROOT / "examples/kmm.yaml").read_text()


@pytest.fixture(scope="module")
def kmm(api_server: ApiServer) -> collections.abc.Iterator[ApiServer]:
    """The API server knows the kind; no KMM runs."""
    api_server.kubectl("apply", "--server-side", f"--filename={CRD}")
    crd = "crd/modules.kmm.sigs.x-k8s.io"
    api_server.kubectl("wait", "--for=condition=Established", crd, "--timeout=60s")
    yield api_server
    api_server.kubectl("delete", crd)


def complaint(kmm: ApiServer, text: str) -> str:
    """What the API server has against these manifests; "" for nothing."""
    words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-")
    done = kmm.try_kubectl(*words, stdin=text)
    return done.stderr if done.returncode else ""


def test_the_example_is_accepted(kmm: ApiServer) -> None:
    assert complaint(kmm, EXAMPLE) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "why"),
    [
        ("dockerfileConfigMap", "configMap", "kernelMappings[0].build.configMap"),
        ("regexp: ^.+$\n        ", "", "regexp or literal must be set"),
        ("som-module:0.1.0-${KERNEL_FULL_VERSION}", "som-module", "a tag or digest"),
        ("moduleName: som", "dirName: /opt", "moduleName is unset"),
    ],
)
def test_a_slip_in_it_would_be_refused(kmm: ApiServer, right: str, wrong: str, why: str) -> None:
    assert EXAMPLE.count(right) == 1
    assert why in complaint(kmm, EXAMPLE.replace(right, wrong))
