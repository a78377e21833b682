"""The Azurite emulator for tests: installed with npm on first use, started on free ports, kept in memory.

A fresh server per test module, since its deletes slow down with every blob it holds; within the module each test gets a
storage account of its own, since container names are fixed.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import itertools
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from npm import NODE, npm_install

HOME = Path(__file__).parent / "azurite"
KEY = base64.b64encode(b"a key for tests").decode()
ACCOUNTS = 200
# The server ends with its input, thus with the process that started it, however that one dies.
LEASH = 'data:text/javascript,process.stdin.on("end",()=>process.exit()).resume()'
LISTENING = re.compile(rb"Azurite (Blob|Queue|Table) service is successfully listening at https?://127\.0\.0\.1:(\d+)")
START_TIMEOUT = 60.0


class Azurite:
    """A running server. `account()` is the connection string of an account that was not used yet.

    With `secure` it speaks https (by `certificate`) and takes tokens of an identity: it looks at their issuer, audience
    and times, and not at their signature.
    """

    def __init__(self, *, secure: bool = False) -> None:
        npm_install(HOME)  # 10 s and 245 MB on first use
        self._names = (f"account{number}" for number in itertools.count(1))
        accounts = ";".join(f"account{number}:{KEY}" for number in range(1, ACCOUNTS + 1))
        self._folder = tempfile.TemporaryDirectory(prefix="azurite-")
        self.certificate = Path(self._folder.name) / "certificate.pem"
        if secure:
            _certify(self.certificate)
        self._process = subprocess.Popen(
            [
                *(NODE, "--import", LEASH, HOME / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"),
                *("--inMemoryPersistence", "--silent", "--disableTelemetry"),
                *("--blobPort", "0", "--queuePort", "0", "--tablePort", "0"),
                *(("--oauth", "basic", "--cert", self.certificate, "--key", self.certificate) if secure else ()),
            ],
            cwd=self._folder.name,
            env={**os.environ, "AZURITE_ACCOUNTS": accounts},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            self.ports = self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> dict[str, int]:
        """The port of each service, as soon as all three listen."""
        ports: dict[str, int] = {}
        assert self._process.stdout
        alarm = threading.Timer(START_TIMEOUT, self._process.kill)
        alarm.start()
        said = b""
        try:
            while len(ports) < 3:
                line = self._process.stdout.readline()
                if not line:
                    raise RuntimeError(f"Azurite did not start: {said.decode(errors='replace')}")
                said += line
                if found := LISTENING.search(line):
                    ports[found[1].decode().lower()] = int(found[2])
        finally:
            alarm.cancel()
        return ports

    def account(self, blob_port: int | None = None) -> str:
        """A fresh account; `blob_port` is that of a proxy in front of the server."""
        name = next(self._names)
        return (
            f"DefaultEndpointsProtocol=http;AccountName={name};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{blob_port or self.ports['blob']}/{name};"
            f"QueueEndpoint=http://127.0.0.1:{self.ports['queue']}/{name};"
        )

    def account_of_identity(self) -> str:
        """A fresh account for clients with a token: its endpoints, and no key."""
        name = next(self._names)
        blob, queue = (f"https://127.0.0.1:{self.ports[kind]}/{name}" for kind in ("blob", "queue"))
        return f"BlobEndpoint={blob};QueueEndpoint={queue}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._folder.cleanup()


def _certify(file: Path) -> None:
    """A certificate for this machine's address, its key, and who vouches for it: not itself, which rustls refuses."""
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    own = _certificate(x509.Name([]), key, issuer, root, ca=False)
    its = _certificate(issuer, root, issuer, root, ca=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + own + its)


def _certificate(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=not name.rdns)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    """A fresh server for the module."""
    server = Azurite()
    yield server
    server.stop()


@pytest.fixture
def azure_account(azurite: Azurite) -> str:
    """The connection string of a fresh account."""
    return azurite.account()
