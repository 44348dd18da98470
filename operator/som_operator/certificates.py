"""The certificates of the fleet API and of its way to the agents: minted here, kept in Secrets.

One authority for the release, whose key only the operator reads. It signs the API's certificate,
the operator's as the agents' client, and one that all agents serve with. A certificate for a
server does not pass as a client, so no agent can ask another one. The leader alone mints.
"""

import base64
import dataclasses
import datetime
import ipaddress
import logging
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from som_api import kube
from som_api.run import clock

AUTHORITY_LASTS: Final = datetime.timedelta(days=3650)
AUTHORITY_SPARE: Final = datetime.timedelta(days=365)
"""A new one, and with it all certificates, when less is left."""
LASTS: Final = datetime.timedelta(days=90)
SPARE: Final = datetime.timedelta(days=30)
CLOCKS_DIFFER: Final = datetime.timedelta(hours=1)
LOOK_S: Final = 300.0
AGAIN_S: Final = 10.0

OPERATOR_SECRET: Final = "som-operator-tls"
AGENT_SECRET: Final = "som-agent-tls"
AUTHORITY_CONFIGMAP: Final = "som-api-ca"
AGENT_NAME: Final = "som-agent"
"""In the certificate that every agent serves with."""

SECRETS: Final = kube.Resource("v1", "Secret", "secrets")
_CONFIGMAPS: Final = kube.Resource("v1", "ConfigMap", "configmaps")
_SERVER: Final = oid.ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT: Final = oid.ExtendedKeyUsageOID.CLIENT_AUTH
_log = logging.getLogger(__name__)

Pems = Mapping[str, bytes]
"""PEM by the name that it has in a Secret."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the two Secrets hold."""

    operator: Pems
    agent: Pems


def renewed(old: Kept, *, namespace: str, now: datetime.datetime) -> Kept:
    """What the Secrets should hold: what is sound and lasts is kept."""
    authority = _Pair.read(old.operator, "ca")
    if authority is None or not authority.lasts(AUTHORITY_SPARE, now):
        authority = _Pair.authority(now)
    names = ["som-api", f"som-api.{namespace}", f"som-api.{namespace}.svc", "localhost"]

    def leaf(pems: Pems, name: str, hosts: Sequence[str], use: x509.ObjectIdentifier) -> Pems:
        found = _Pair.read(pems, name)
        sound = found and found.is_of(authority) and found.lasts(SPARE, now)
        pair = found if found and sound else _Pair.signed(authority, hosts, use, now)
        return {f"{name}.crt": pair.certificate_pem, f"{name}.key": pair.key_pem}

    ca = {"ca.crt": authority.certificate_pem}
    return Kept(
        operator={
            **ca,
            "ca.key": authority.key_pem,
            **leaf(old.operator, "tls", names, _SERVER),
            **leaf(old.operator, "client", ["som-operator"], _CLIENT),
        },
        agent={**ca, **leaf(old.agent, "tls", [AGENT_NAME], _SERVER)},
    )


@dataclasses.dataclass(frozen=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def read(cls, pems: Pems, name: str) -> "_Pair | None":
        """The pair of that name; None: there is none that can be used."""
        try:
            certificate = x509.load_pem_x509_certificate(pems[f"{name}.crt"])
            key = serialization.load_pem_private_key(pems[f"{name}.key"], password=None)
        except (KeyError, ValueError, TypeError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            return None
        return cls(certificate, key) if certificate.public_key() == key.public_key() else None

    @classmethod
    def authority(cls, now: datetime.datetime) -> "_Pair":
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("som")
        limits = x509.BasicConstraints(ca=True, path_length=0)
        builder = _builder(name, name, key, key, now, AUTHORITY_LASTS).add_extension(
            limits, critical=True
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def signed(
        cls,
        by: "_Pair",
        hosts: Sequence[str],
        use: x509.ObjectIdentifier,
        now: datetime.datetime,
    ) -> "_Pair":
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        if "localhost" in hosts:
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        builder = (
            _builder(_name(hosts[0]), by.certificate.subject, key, by.key, now, LASTS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        )
        return cls(builder.sign(by.key, hashes.SHA256()), key)

    def lasts(self, spare: datetime.timedelta, now: datetime.datetime) -> bool:
        return self.certificate.not_valid_after_utc - now > spare

    def is_of(self, authority: "_Pair") -> bool:
        try:
            self.certificate.verify_directly_issued_by(authority.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, common[:64])])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    lasts: datetime.timedelta,
) -> x509.CertificateBuilder:
    """With the extensions that RFC 5280 wants, which strict clients check."""
    is_authority = key is issuer_key
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(of_issuer, critical=False)
        .add_extension(usage, critical=True)
    )


def decode(secret: kube.Json) -> Pems:
    """What a Secret of the API server holds; what is no base64 is left out."""
    found = dict[str, bytes]()
    for name, value in (secret.get("data") or {}).items():
        try:
            found[name] = base64.b64decode(value, validate=True)
        except ValueError:
            continue
    return found


class Minter:
    """Keeps the Secrets of the release sound, as long as this process leads."""

    def __init__(self, client: kube.Client, *, namespace: str, time: clock.Clock) -> None:
        self._client = client
        self._namespace = namespace
        self._time = time

    async def run(self) -> NoReturn:
        """Look, mint what is missing, and look again, until cancelled."""
        while True:
            try:
                await self.look()
            except kube.KubeError as error:
                _log.warning("certificates of the fleet API are not looked after: %s", error)
                await self._time.sleep(AGAIN_S)
            else:
                await self._time.sleep(LOOK_S)

    async def look(self) -> None:
        """One look. A Secret that was changed meanwhile is a conflict, and looked at again."""
        secrets = [await self._get(SECRETS, name) for name in (OPERATOR_SECRET, AGENT_SECRET)]
        old = Kept(*(decode(secret) for secret in secrets))
        new = renewed(old, namespace=self._namespace, now=self._time.now())
        # First what trusts, then what is trusted.
        for secret, before, pems in zip(
            secrets[::-1], (old.agent, old.operator), (new.agent, new.operator), strict=True
        ):
            if pems.items() - before.items():
                data = {name: base64.b64encode(pem).decode() for name, pem in pems.items()}
                await self._patch(SECRETS, secret, data)
        configmap = await self._get(_CONFIGMAPS, AUTHORITY_CONFIGMAP)
        public = {"ca.crt": new.operator["ca.crt"].decode()}
        if configmap.get("data") != public:
            await self._patch(_CONFIGMAPS, configmap, public)

    async def _get(self, kind: kube.Resource, name: str) -> kube.Json:
        return await self._client.get(kind.path(namespace=self._namespace, name=name))

    async def _patch(self, kind: kube.Resource, old: kube.Json, data: Mapping[str, str]) -> None:
        name, version = old["metadata"]["name"], old["metadata"]["resourceVersion"]
        path = kind.path(namespace=self._namespace, name=name)
        body = {"metadata": {"resourceVersion": version}, "data": dict(data)}
        await self._client.merge_patch(path, body)
        _log.info("certificates minted", extra={"into": f"{kind.kind} {name}"})
