"""Certificates: from the `ssl` option to an `ssl.SSLContext`, a clear error for each mistake; and again, on reload.

A connection keeps the context it began with, so new files never touch one that is open.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from channelkit._lifecycle import logger
from channelkit.errors import ConfigError
from channelkit.tls import PASSWORD, TLS

#: What we speak, for ALPN (RFC 7301 6).
PROTOCOLS = ("http/1.1", "http/1.0")
_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Certificates:
    """What new handshakes are made with."""

    def __init__(self, option: ssl.SSLContext | TLS) -> None:
        """Raises ConfigError for files or a context that cannot work."""
        self._option = option
        self.context = self.fresh()

    def fresh(self) -> ssl.SSLContext:
        """A context by what the files say now; a context of the user's own is returned as it is."""
        option = self._option
        if isinstance(option, ssl.SSLContext):
            _try_out(option)
            return option
        return _context(option)

    @property
    def reloadable(self) -> bool:
        """Whether there are files to read again."""
        return isinstance(self._option, TLS)


def reload_all(all_certificates: Iterable[Certificates]) -> None:
    """New contexts for all that have files, or, if one cannot be made, for none.  Raises ConfigError then.

    From any thread: what it takes is read here, and what changes is one assignment each.
    """
    reloadable = [certificates for certificates in all_certificates if certificates.reloadable]
    if not reloadable:
        raise ConfigError(
            "there are no files to read again: no ssl=TLS(...); for a context of your own call its load_cert_chain()"
        )
    fresh = [certificates.fresh() for certificates in reloadable]
    for certificates, context in zip(reloadable, fresh, strict=True):
        certificates.context = context


def _context(files: TLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(PROTOCOLS))
    certificate, key = Path(files.certificate), Path(files.key or files.certificate)
    chain = _read("certificate", certificate)
    _read("key", key)
    _load_chain(context, certificate, key, files)
    _check_dates(certificate, chain)
    if files.client_ca is not None:
        _load_authorities(context, Path(files.client_ca))
        context.verify_mode = ssl.CERT_REQUIRED if files.client_certificate == "required" else ssl.CERT_OPTIONAL
    return context


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="latin-1")
    except OSError as error:
        raise ConfigError(f"TLS({name}=): cannot read {path}: {error.strerror or error}") from error


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path, files: TLS) -> None:
    asked = False

    def password() -> str:
        # Always given: without it OpenSSL would ask at the terminal, and the server would stand still.
        nonlocal asked
        asked = True
        return files.password or ""

    try:
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(_why(error, asked, certificate, key, files)) from error


def _why(error: Exception, asked: bool, certificate: Path, key: Path, files: TLS) -> str:
    reason = getattr(error, "reason", None) or ""
    if asked and files.password is None:
        return f"TLS(key=): {key} is encrypted; give its password=, to the command as {PASSWORD} in its environment"
    if asked:
        return f"TLS(password=) does not open {key}; the command takes it from {PASSWORD} in its environment"
    if reason == "KEY_VALUES_MISMATCH":
        return f"TLS(key=): {key} is not the key of {certificate}"
    if not _PEM.search(_read("certificate", certificate)):
        return f"TLS(certificate=): there is no certificate in PEM form in {certificate}"
    if "PRIVATE KEY-----" not in _read("key", key):
        hint = "" if files.key is not None else "; give key= if it is in a file of its own"
        return f"TLS(key=): there is no private key in PEM form in {key}{hint}"
    return f"TLS: {certificate} with {key} cannot be used: {reason.lower().replace('_', ' ') or error}"


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _read("client_ca", path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"TLS(client_ca=): there is no certificate in PEM form in {path}") from error


# -- dates


def _check_dates(path: Path, text: str) -> None:
    """Warn: an expired certificate works with clients that do not look, and an outage at night is no better."""
    found = _PEM.search(text)
    try:
        begin, end = validity(ssl.PEM_cert_to_DER_cert(found[0])) if found else (0.0, float("inf"))
    except (ValueError, IndexError):
        return  # OpenSSL could read it, so it is we who cannot
    now = time.time()
    if now > end:
        logger.warning("the certificate in %s has expired (%s): clients will refuse it", path, _date(end))
    elif now < begin:
        logger.warning("the certificate in %s is not valid before %s: clients will refuse it", path, _date(begin))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def validity(der: bytes) -> tuple[float, float]:
    """From when to when a certificate is valid, in seconds of the epoch (RFC 5280 4.1).  ValueError if it is none."""
    _, body, _ = _element(der, 0)  # Certificate
    _, body, _ = _element(body, 0)  # tbsCertificate
    at = 0
    if body[0] == 0xA0:  # version
        at = _element(body, at)[2]
    for _ in range(3):  # serialNumber, signature, issuer
        at = _element(body, at)[2]
    _, dates, _ = _element(body, at)
    kind, begin, at = _element(dates, 0)
    end_kind, end, _ = _element(dates, at)
    return _seconds(kind, begin), _seconds(end_kind, end)


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the DER element at `at` (X.690 8.1)."""
    tag, size, start = data[at], data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size = int.from_bytes(data[start : start + count])
        start += count
    end = start + size
    if end > len(data):
        raise ValueError("cut off")
    return tag, data[start:end], end


def _seconds(tag: int, text: bytes) -> float:
    form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"  # RFC 5280 4.1.2.5
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


# -- a context of the user's own


def _try_out(context: ssl.SSLContext) -> None:
    """Begin a handshake in memory: what fails here would fail for every client, and nobody would tell why."""
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ConfigError("ssl= is a context for clients; make it with ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)")
    if context.sni_callback is not None:
        return  # the user's own code decides, by names we do not know
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.wrap_bio(back, there).do_handshake()
    except ssl.SSLWantReadError:
        pass
    try:
        context.wrap_bio(there, back, server_side=True).do_handshake()
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise ConfigError(f"no handshake works with the context ssl= ({reason}); call its load_cert_chain()") from error
