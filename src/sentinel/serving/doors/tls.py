"""TLS of both doors: certificate, key, and whose clients may come; renewed without a restart.

* TLS 1.2 or later.
* With a client CA a client must show a certificate that it signed (mutual TLS), or the handshake
  fails.
* Renewing reads all files again and changes what the *next* handshakes use, in one assignment;
  connections that stand are not touched. Files that do not fit each other change nothing.

The server asks its own door too (:mod:`sentinel.serving.door_canary`). For that it makes itself a
client certificate when it starts, that only this process knows and only this process trusts.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded, read_secret
from sentinel.serving.settings import ServerSettings

_OWN_DAYS = 3_650


@dataclass(frozen=True, slots=True)
class _Files:
    """What the files held when they were last read, and the context that came of it."""

    certificate: bytes
    private_key: bytes
    client_ca: bytes
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnClient:
    """How a server comes through its own door; it is never written anywhere.

    Attributes
    ----------
    token : str
        May do everything.
    certificate, private_key : bytes
        PEM, of a client that only the server's own processes trust.
    """

    token: str = field(repr=False)
    certificate: bytes = field(repr=False)
    private_key: bytes = field(repr=False)

    @classmethod
    def make(cls) -> OwnClient:
        """Make a new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sentinel door canary")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=_OWN_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
            .sign(key, hashes.SHA256())
        )
        private_key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return cls(
            token=secrets.token_urlsafe(32),
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            private_key=private_key,
        )


class Tls:
    """The TLS of one server.

    Parameters
    ----------
    certificate, private_key : Path
        PEM.
    client_ca : Path or None
        PEM; None: clients need no certificate.
    own : OwnClient, optional
        The server as a client of itself; None: a new one.

    Raises
    ------
    SentinelError
        ``configuration-invalid``, ``file-missing``, ``file-unreadable``; ``file-exposed`` for a key
        that others may read.
    """

    def __init__(
        self,
        certificate: Path,
        private_key: Path,
        client_ca: Path | None,
        own: OwnClient | None = None,
    ) -> None:
        self.paths = tuple(path for path in (certificate, private_key, client_ca) if path)
        self._certificate, self._private_key, self._client_ca = certificate, private_key, client_ca
        self._own = own or OwnClient.make()
        self._files = self._read()
        # Handshakes begin with this one, and go on with the newest.
        self.context = self._files.context
        self.context.sni_callback = self._choose

    @classmethod
    def of(cls, settings: ServerSettings, own: OwnClient | None = None) -> Tls | None:
        """Read the TLS files of a server; None without."""
        if settings.certificate is None or settings.private_key is None:
            return None
        return cls(settings.certificate, settings.private_key, settings.client_ca, own)

    def renew(self) -> None:
        """Read the files again; a fault leaves everything as it was.

        Raises
        ------
        SentinelError
            As the constructor.
        """
        self._files = self._read()

    def client_context(self) -> ssl.SSLContext:
        """Return what the server itself needs to come through its own door.

        It trusts the certificate that is shown now, and nothing else; it asks by an address.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # we ask for the certificate itself, by an address
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=self._files.certificate.decode("ascii", "replace"))
        if self._client_ca is not None:
            _load_chain(context, self._own.certificate, self._own.private_key)
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that ask for the newest files at every handshake."""
        seen = [self._files]

        def newest() -> grpc.ServerCertificateConfiguration | None:
            if self._files is seen[0]:
                return None
            seen[0] = self._files
            return _grpc_configuration(self._files)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(self._files),
            newest,
            require_client_authentication=self._client_ca is not None,
        )

    # --- private -----------------------------------------------------------------------------

    def _choose(self, handshake: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """Go on with the newest files (OpenSSL asks for every handshake, named or not)."""
        handshake.context = self._files.context

    def _read(self) -> _Files:
        certificate = _read_named(self._certificate)
        private_key = read_secret(self._private_key, n_bytes_max=limits.TLS_FILE_BYTES_MAX)
        ca_path = self._client_ca
        client_ca = b"" if ca_path is None else _read_named(ca_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            _load_chain(context, certificate, private_key)
        except (OSError, ValueError) as error:
            raise _invalid(self._certificate, "a certificate and its key in PEM", error) from error
        if ca_path is not None:
            try:
                context.load_verify_locations(cadata=client_ca.decode("ascii"))
            except (OSError, ValueError) as error:
                raise _invalid(ca_path, "certificates of a CA in PEM", error) from error
            context.load_verify_locations(cadata=self._own.certificate.decode("ascii"))
            context.verify_mode = ssl.CERT_REQUIRED
        return _Files(certificate, private_key, client_ca, context)


def _read_named(path: Path) -> bytes:
    """Read a file that the operator named; volumes of Kubernetes consist of links."""
    return read_bounded(path, n_bytes_max=limits.TLS_FILE_BYTES_MAX, may_be_link=True)


def _load_chain(context: ssl.SSLContext, certificate: bytes, private_key: bytes) -> None:
    """Load a chain from memory; OpenSSL wants names of files, so it gets those of one in memory.

    What was read is what is used: nothing is read twice.
    """
    handle = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(certificate.rstrip() + b"\n" + private_key)
        # A key behind a passphrase is none that a server could open by itself.
        context.load_cert_chain(f"/proc/self/fd/{handle}", password=b"")
    finally:
        os.close(handle)


def _grpc_configuration(files: _Files) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(files.private_key, files.certificate)], root_certificates=files.client_ca or None
    )


def _invalid(path: Path, expected: str, error: Exception) -> SentinelError:
    return SentinelError(
        ErrorCode.CONFIGURATION_INVALID, at=str(path), expected=expected, got=type(error).__name__
    )
