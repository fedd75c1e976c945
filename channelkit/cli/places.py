"""Where `channelkit serve` listens, and as whom: the arguments that make `listen=` and `ssl=`."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from channelkit import TLS, ConfigError, Listen
from channelkit.cli.arguments import port, whole
from channelkit.tls import PASSWORD


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a command's."""
    places = parser.add_argument_group("where it listens: --ip and --port, or any number of these")
    places.add_argument("--listen", action="append", type=_address, default=[], metavar="IP:PORT", help="a TCP port")
    places.add_argument("--uds", action="append", default=[], metavar="PATH", help="a UNIX socket")
    places.add_argument("--uds-mode", type=_mode, metavar="MODE", help="of its file (default: 660)")
    places.add_argument("--fd", action="append", type=whole, default=[], metavar="N", help="an inherited descriptor")
    places.add_argument("--systemd", action="store_true", help="the sockets that systemd has opened for this service")
    tls = parser.add_argument_group(
        "TLS (docs/tls.md); SIGHUP reads the files again",
        f"A key's password is taken from the environment: {PASSWORD}.",
    )
    tls.add_argument("--ssl-certificate", metavar="FILE", help="PEM; the server's own first")
    tls.add_argument("--ssl-key", metavar="FILE", help="its private key, if it is not in the same file")
    tls.add_argument("--ssl-client-ca", metavar="FILE", help="clients must show a certificate by one of these")
    proxies = parser.add_argument_group("behind a proxy")
    proxies.add_argument(
        "--trusted-proxies", type=_list, metavar="LIST", help='addresses, networks, "unix", "*", with commas between'
    )


def options_of(given: argparse.Namespace) -> dict[str, Any]:
    """The options of the server that the arguments make.  Raises ConfigError for what does not go together."""
    options: dict[str, Any] = {}
    listen = [Listen(ip=ip, port=number) for ip, number in given.listen]
    mode = {} if given.uds_mode is None else {"mode": given.uds_mode}
    if mode and not given.uds:
        raise ConfigError("--uds-mode is of a --uds, and there is none")
    listen += [Listen(unix=path, **mode) for path in given.uds]
    listen += [Listen(fd=number) for number in given.fd]
    if given.systemd:
        listen += Listen.from_systemd()
    if listen:
        options["listen"] = listen
        if unused := [name for name in ("ip", "port") if hasattr(given, f"server_{name}")]:
            raise ConfigError(
                f"--{' and --'.join(unused)} would be ignored beside --listen, --uds, --fd or --systemd: "
                "--listen IP:PORT, as often as wanted, says all of it"
            )
    if given.ssl_certificate is not None:
        options["ssl"] = TLS(
            certificate=given.ssl_certificate,
            key=given.ssl_key,
            password=os.environ.get(PASSWORD),
            client_ca=given.ssl_client_ca,
        )
    elif given.ssl_key is not None or given.ssl_client_ca is not None:
        raise ConfigError("--ssl-key and --ssl-client-ca belong to a --ssl-certificate, and there is none")
    if given.trusted_proxies is not None:
        options["trusted_proxies"] = given.trusted_proxies
    return options


def metrics_address(text: str) -> Listen:
    """`9100`, `10.0.0.7:9100`, `[::1]:9100`."""
    ip, number = _address(text if ":" in text else f"127.0.0.1:{text}")
    return Listen(ip=ip, port=number)


def _address(text: str) -> tuple[str, int]:
    ip, colon, number = text.rpartition(":")
    if not colon or not ip:
        raise argparse.ArgumentTypeError(f"127.0.0.1:8090 or [::1]:8090 is wanted, not {text!r}")
    return ip.removeprefix("[").removesuffix("]"), port(number)


def _mode(text: str) -> int:
    if not re.fullmatch("[0-7]{3,4}", text):
        raise argparse.ArgumentTypeError(f"a mode is three octal digits, such as 660, not {text!r}")
    return int(text, 8)


def _list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
