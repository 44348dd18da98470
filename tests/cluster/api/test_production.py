"""The example of values for production, on a real API server: nothing of it is refused."""

import pathlib

import pytest

from cluster.api.conftest import ApiServer

VALUES = pathlib.Path(__file__).parents[3] / "examples/values-production.yaml"
EGRESS = 'networkPolicy.egressTo=[{"ipBlock": {"cidr": "192.0.2.0/28"}}]'
# Of Prometheus Operator, whose CRDs are not here.
WITHOUT = [f"--set=metrics.{kind}.create=false" for kind in ("podMonitor", "alerts")]


@pytest.mark.parametrize("more", [[], [f"--set-json={EGRESS}"]], ids=["as-it-is", "with-egress"])
def test_every_object_is_accepted(api_server: ApiServer, more: list[str]) -> None:
    text = api_server.chart("--no-hooks", f"--values={VALUES}", *WITHOUT, *more)
    words = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename=-"]
    answers = api_server.kubectl(*words, "--validate=strict", stdin=text)
    assert "configmap/som-dashboard serverside-applied" in answers
    assert "deployment.apps/som-operator serverside-applied" in answers
