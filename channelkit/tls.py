"""TLS as a user of the server sees it: which files it needs, and what a request tells of its connection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from channelkit.errors import ConfigError

PathLike = str | os.PathLike[str]

PASSWORD = (
    "CHANNELKIT_SSL_PASSWORD"  # where the command takes it from: its arguments every user of the machine can read
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """The files a server needs to speak TLS: `ssl=TLS(certificate="cert.pem", key="key.pem")`.

    `certificate` is PEM, the server's own certificate first, then those between it and a root; `key` is its private
    key, None if it is in the same file, and `password` opens it if it is encrypted.  With `client_ca`, a PEM file of
    authorities, clients must show a certificate by one of them; `client_certificate="optional"` also lets those in
    that show none.  TLS 1.2 and 1.3 are spoken, without renegotiation and compression.  Anything else: give `ssl=` an
    `ssl.SSLContext` of your own.

    The files are read when the server starts, and again by `Server.reload_certificates()` or SIGHUP.
    """

    certificate: PathLike
    key: PathLike | None = None
    password: str | None = field(default=None, repr=False)
    client_ca: PathLike | None = None
    client_certificate: Literal["required", "optional"] = "required"

    def __post_init__(self) -> None:
        for name in ("certificate", "key", "client_ca"):
            value = getattr(self, name)
            if not isinstance(value, str | os.PathLike) and (value is not None or name == "certificate"):
                raise ConfigError(f"TLS({name}=) must be the path of a PEM file, not {value!r}")
        if self.password is not None and not isinstance(self.password, str):
            raise ConfigError(f"TLS(password=) must be a str, not {type(self.password).__name__}")
        if self.client_certificate not in ("required", "optional"):
            raise ConfigError(
                f"TLS(client_certificate=) must be 'required' or 'optional', not {self.client_certificate!r}"
            )
        if self.client_certificate == "optional" and self.client_ca is None:
            raise ConfigError("TLS(client_certificate='optional') needs client_ca=, the authorities of the clients")


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What is known of a request's TLS connection.

    `client_certificate` is what `ssl.SSLSocket.getpeercert()` says, verified; None if the client showed none.
    """

    version: str  # "TLSv1.3"
    cipher: str  # "TLS_AES_256_GCM_SHA384"
    client_certificate: Mapping[str, Any] | None = None
