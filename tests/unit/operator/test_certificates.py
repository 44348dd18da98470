"""Certificates of the fleet API: what is kept, what is minted, and who minted it."""

import base64
import datetime

import pytest

from fakes.object_store import Place
from som_operator import certificates
from unit.operator.cluster import Cluster

NAMESPACE = "som-system"
NOW = datetime.datetime(2026, 11, 28, 12, 0, tzinfo=datetime.UTC)
NOTHING = certificates.Kept({}, {})


def renewed(old: certificates.Kept, *, days: int = 0) -> certificates.Kept:
    now = NOW + datetime.timedelta(days=days)
    return certificates.renewed(old, namespace=NAMESPACE, now=now)


def test_what_is_sound_is_kept() -> None:
    first = renewed(NOTHING)
    assert renewed(first, days=59) == first


def test_certificates_are_renewed_in_time_and_the_authority_stays() -> None:
    first = renewed(NOTHING)
    second = renewed(first, days=61)
    assert second.operator["ca.crt"] == first.operator["ca.crt"]
    assert second.operator["tls.crt"] != first.operator["tls.crt"]
    assert second.agent["tls.key"] != first.agent["tls.key"]


def test_a_new_authority_makes_everything_new() -> None:
    first = renewed(NOTHING)
    second = renewed(first, days=9 * 365 + 30)
    assert not first.operator.items() & second.operator.items()
    assert second.agent["ca.crt"] == second.operator["ca.crt"]


@pytest.mark.parametrize(
    "broken", [{"tls.crt": b"x"}, {"tls.key": b""}, {"ca.key": b"x"}, {"ca.crt": b"\x00"}]
)
def test_what_somebody_broke_is_made_again(broken: dict[str, bytes]) -> None:
    first = renewed(NOTHING)
    second = renewed(certificates.Kept({**first.operator, **broken}, first.agent))
    (name,) = broken
    assert second.operator[name] not in (broken[name], first.operator[name])


def test_a_certificate_of_another_authority_is_not_kept() -> None:
    first, other = renewed(NOTHING), renewed(NOTHING)
    second = renewed(certificates.Kept(first.operator, other.agent))
    assert second.agent["tls.crt"] != other.agent["tls.crt"]


async def test_the_minter_fills_the_secrets_once(cluster: Cluster) -> None:
    server = cluster.server
    for plural, name in (
        ("secrets", certificates.OPERATOR_SECRET),
        ("secrets", certificates.AGENT_SECRET),
        ("configmaps", certificates.AUTHORITY_CONFIGMAP),
    ):
        server.put("v1", plural, {"metadata": {"name": name, "namespace": NAMESPACE}})
    async with server.client() as client:
        minter = certificates.Minter(client, namespace=NAMESPACE, time=cluster.clock)
        await minter.look()
        await minter.look()
    assert server.verbs().count("patch") == 3
    agent = server.store.get(Place("v1", "secrets", NAMESPACE, certificates.AGENT_SECRET))
    public = server.store.get(
        Place("v1", "configmaps", NAMESPACE, certificates.AUTHORITY_CONFIGMAP)
    )
    assert agent and public
    assert agent["data"].keys() == {"ca.crt", "tls.crt", "tls.key"}
    assert base64.b64decode(agent["data"]["ca.crt"]).decode() == public["data"]["ca.crt"]
