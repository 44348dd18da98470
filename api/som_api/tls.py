"""TLS contexts from certificates that change while the process runs.

A server's certificate is chosen in each handshake, so that a new one is used from the next
connection on, and no request is refused. Sessions are never resumed: each connection shows what
certificates it has now.
"""

import contextlib
import dataclasses
import os
import ssl
from collections.abc import Iterator

from som_api import SomError


class BadCertificate(SomError):
    """Certificate, key and authority do not make an identity."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who we are, and whom we trust: PEM, as in a Secret of type kubernetes.io/tls."""

    certificate: bytes
    key: bytes = dataclasses.field(repr=False)
    authority: bytes


def client_context(identity: Identity) -> ssl.SSLContext:
    """For connections to servers of the same authority, whose names are checked."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity)


class Rotating:
    """A server's `context`, whose handshakes take the identity of the last `use`.

    With `asks_clients`, only clients with a certificate of that identity's authority get in.
    Before the first `use` every handshake fails.
    """

    def __init__(self, *, asks_clients: bool) -> None:
        self._asks_clients = asks_clients
        self._newest: ssl.SSLContext | None = None
        self.context = _bare(ssl.PROTOCOL_TLS_SERVER)
        self.context.sni_callback = self._choose
        if asks_clients:
            self.context.verify_mode = ssl.CERT_REQUIRED

    def use(self, identity: Identity) -> None:
        """From the next handshake on. BadCertificate: it is none, and the last one stays."""
        newest = _context(ssl.PROTOCOL_TLS_SERVER, identity)
        if self._asks_clients:
            newest.verify_mode = ssl.CERT_REQUIRED
        self._newest = newest

    # OpenSSL calls it for every client, also for one that names no server.
    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> int | None:
        if self._newest is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._newest
        return None


def _bare(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


def _context(protocol: int, identity: Identity) -> ssl.SSLContext:
    context = _bare(protocol)
    try:
        with _as_file(identity.certificate + b"\n" + identity.key) as path:
            context.load_cert_chain(path)
        context.load_verify_locations(cadata=identity.authority.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise BadCertificate(f"reading certificate, key and authority: {error}") from error
    return context


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path in memory: OpenSSL's binding reads keys from files alone."""
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
