"""The files and contexts of the `ssl` option: every mistake gets an error that names it, and its cure."""

from __future__ import annotations

import datetime
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from channelkit import TLS, ConfigError, run_server
from channelkit.server.certificates import Certificates, reload_all, validity

CA = trustme.CA()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return issue(tmp_path, "server")


def issue(folder: Path, name: str, **options: Any) -> tuple[Path, Path]:
    issued = CA.issue_cert("localhost", **options)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return certificate, key


def encrypt(key: Path, password: bytes) -> None:
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(password)
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, secret))


def test_good_files_make_a_safe_context(files: tuple[Path, Path]) -> None:
    """TLS 1.2 at least, no renegotiation, no compression, no client certificates unless asked for."""
    context = Certificates(TLS(certificate=files[0], key=files[1])).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.verify_mode == ssl.CERT_NONE


def test_key_and_certificate_may_be_one_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    """As many tools write them."""
    both = tmp_path / "both.pem"
    both.write_bytes(files[0].read_bytes() + files[1].read_bytes())
    Certificates(TLS(certificate=str(both)))


def test_an_encrypted_key_is_opened_by_its_password(files: tuple[Path, Path]) -> None:
    """And the password is in no repr."""
    encrypt(files[1], b"open sesame")
    tls = TLS(certificate=files[0], key=files[1], password="open sesame")
    Certificates(tls)
    assert "sesame" not in repr(tls)


def wrong(files: tuple[Path, Path], tmp_path: Path) -> dict[str, tuple[TLS, str]]:
    certificate, key = files
    encrypted = issue(tmp_path, "encrypted")
    encrypt(encrypted[1], b"secret")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    return {
        "no certificate": (TLS(certificate=tmp_path / "no.pem"), r"TLS\(certificate=\): cannot read .*no.pem: No such"),
        "no key": (TLS(certificate=certificate, key=tmp_path / "no.key"), r"TLS\(key=\): cannot read .*no.key"),
        "a folder": (TLS(certificate=tmp_path, key=key), "Is a directory"),
        "another's key": (
            TLS(certificate=certificate, key=issue(tmp_path, "other")[1]),
            "not the key of .*server.pem",
        ),
        "key not in the file": (
            TLS(certificate=certificate),
            "no private key .*give key= if it is in a file",
        ),
        "no PEM": (TLS(certificate=empty, key=key), "no certificate in PEM form in .*empty.pem"),
        "no PEM key": (TLS(certificate=certificate, key=empty), "no private key in PEM form in .*empty.pem$"),
        "exchanged": (TLS(certificate=key, key=certificate), "no certificate in PEM form in .*server.key"),
        "no password": (
            TLS(certificate=encrypted[0], key=encrypted[1]),
            "encrypted.key is encrypted; give its pass",
        ),
        "wrong password": (TLS(certificate=encrypted[0], key=encrypted[1], password="x"), r"password=\) does not open"),
        "no authorities": (
            TLS(certificate=certificate, key=key, client_ca=empty),
            r"client_ca=\): there is no certificate in PEM form",
        ),
        "no file of them": (
            TLS(certificate=certificate, key=key, client_ca=tmp_path / "ca"),
            r"client_ca=\): cannot read",
        ),
    }


def test_every_mistake_has_its_text(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The option, the file, what is wrong with it."""
    for name, (tls, text) in wrong(files, tmp_path).items():
        with pytest.raises(ConfigError, match=text):
            Certificates(tls)
            pytest.fail(name)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"certificate": None}, r"certificate=\) must be the path"),
        ({"certificate": b"x"}, r"certificate=\) must be the path"),
        ({"certificate": "x", "key": 1}, r"key=\) must be the path"),
        ({"certificate": "x", "password": 1}, r"password=\) must be a str"),
        ({"certificate": "x", "client_certificate": "maybe"}, "'required' or 'optional'"),
        ({"certificate": "x", "client_certificate": "optional"}, "needs client_ca="),
    ],
)
def test_values_that_make_no_sense(options: dict[str, Any], text: str) -> None:
    """They fail where they are written, before any file is read."""
    with pytest.raises(ConfigError, match=text):
        TLS(**options)


def test_the_server_does_not_start_with_them(tmp_path: Path) -> None:
    """The error is the caller's, at once; no port stays open."""

    async def handler(request: Any) -> None: ...

    with pytest.raises(ConfigError, match="cannot read"):
        run_server(handler, port=0, ssl=TLS(certificate=tmp_path / "no.pem"))
    with pytest.raises(ConfigError, match="ssl must be an"):
        run_server(handler, port=0, ssl="cert.pem")  # type: ignore[arg-type]


# -- a context of one's own


def test_contexts_that_cannot_work() -> None:
    """One for clients, and one without a certificate."""
    with pytest.raises(ConfigError, match="context for clients"):
        Certificates(ssl.create_default_context())
    with pytest.raises(ConfigError, match="call its load_cert_chain"):
        Certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_contexts_that_work(files: tuple[Path, Path]) -> None:
    """Also one that wants client certificates, which the trial has none of, and one that decides by name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    CA.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    assert Certificates(context).context is context
    by_name = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    by_name.sni_callback = lambda *_: None
    assert Certificates(by_name).context is by_name


# -- dates


def test_an_expired_certificate_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It starts: the operator may know; the log tells in any case, with the date."""
    past = datetime.datetime(2020, 2, 29, 12, 30, tzinfo=datetime.UTC)
    certificate, key = issue(tmp_path, "old", not_before=past - datetime.timedelta(days=9), not_after=past)
    Certificates(TLS(certificate=certificate, key=key))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "old.pem has expired (2020-02-29 12:30 UTC)" in caplog.text


def test_one_that_is_not_valid_yet_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A clock that is wrong, or a certificate for next month; beyond 2049 dates are written differently."""
    begin = datetime.datetime(2199, 1, 2, tzinfo=datetime.UTC)
    certificate, key = issue(tmp_path, "new", not_before=begin, not_after=begin + datetime.timedelta(days=1))
    Certificates(TLS(certificate=certificate, key=key))
    assert "new.pem is not valid before 2199-01-02 00:00 UTC" in caplog.text


def test_what_is_no_certificate_has_no_dates() -> None:
    """It raises what its caller expects, whatever the bytes."""
    der = ssl.PEM_cert_to_DER_cert(CA.cert_pem.bytes().decode())
    assert validity(der)[0] < validity(der)[1]
    for end in range(150):
        with pytest.raises((ValueError, IndexError)):
            validity(der[:end])


# -- reload


def test_a_reload_is_for_all_or_for_none(tmp_path: Path) -> None:
    """One bad file, and every listener keeps what it had; with good ones each has a new context."""
    one, two = (Certificates(TLS(certificate=c, key=k)) for c, k in (issue(tmp_path, "a"), issue(tmp_path, "b")))
    before = one.context, two.context
    good = (tmp_path / "b.pem").read_bytes()
    (tmp_path / "b.pem").write_text("half a fi")
    with pytest.raises(ConfigError, match="no certificate in PEM form"):
        reload_all([one, two])
    assert (one.context, two.context) == before
    (tmp_path / "b.pem").write_bytes(good)
    reload_all([one, two])
    assert one.context is not before[0]
    assert two.context is not before[1]


def test_a_context_of_ones_own_is_not_read_again(files: tuple[Path, Path]) -> None:
    """There is nothing to read; the text says what to do instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with pytest.raises(ConfigError, match="call its load_cert_chain"):
        reload_all([Certificates(context)])
