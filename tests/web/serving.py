"""The page over TLS on a free port, as the operator serves it, with a fleet that is a fake."""

import asyncio
import contextlib
import dataclasses
import datetime
import ipaddress
import pathlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from fakes import fleet as fakes
from fakes import reviewer as reviewers
from som_api.run import clock
from som_api.web import app

CHROMIUM = "/usr/bin/chromium"


class Shifted(clock.SystemClock):
    """A clock that a test can set ahead."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


@dataclasses.dataclass
class Served:
    """A page that is being served: its origin, and what stands behind it."""

    origin: str
    fleet: fakes.FakeFleet
    reviewer: reviewers.FakeReviewer
    loop: asyncio.AbstractEventLoop
    time: Shifted

    def end_sessions(self) -> None:
        """Every token has expired, and what was known of it as well."""
        self.reviewer.tokens.clear()
        self.time.ahead_s += 60

    def change(self, what: Callable[[], Any]) -> None:
        """Have something done to the fleet, in the thread that it belongs to."""
        done = threading.Event()

        def run() -> None:
            what()
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(30)


@contextlib.contextmanager
def serving(
    fleet: fakes.FakeFleet,
    certificate: pathlib.Path,
    reviewer: reviewers.FakeReviewer | None = None,
) -> Iterator[Served]:
    """Serve the page of `fleet` inside the block."""
    reviewer, time_shifted = reviewer or reviewers.FakeReviewer(), Shifted()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app.create(fleet, reviewer, time=time_shifted),
            log_level="warning",
            timeout_graceful_shutdown=1,
            ssl_certfile=certificate,
            ssl_keyfile=certificate,
        )
        server, loop = uvicorn.Server(config), asyncio.new_event_loop()
        thread = threading.Thread(
            target=lambda: loop.run_until_complete(server.serve(sockets=[listener])), daemon=True
        )
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            assert server.started, "uvicorn did not start"
            port = listener.getsockname()[1]
            yield Served(f"https://localhost:{port}", fleet, reviewer, loop, time_shifted)
        finally:
            server.should_exit = True
            thread.join(30)
            loop.close()


def certify(folder: pathlib.Path) -> pathlib.Path:
    """A certificate of localhost with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(path)
    return path
