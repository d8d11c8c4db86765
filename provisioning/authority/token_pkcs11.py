"""Keys in a token (smart card, HSM, SoftHSM) by PKCS #11: made there, used there, never taken out.

A key is named by a URI of RFC 7512:

    pkcs11:token=tillsyn-root;object=root-2026?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin.txt

`token` and `object` (or `id`) name the key, `module-path` the vendor's library. The PIN comes from the file that
`pin-source` names, with mode 0600, or is asked for at the terminal; never from the command line or the environment,
which other processes may read.

Only CKM_ECDSA over a SHA-256 digest made here is asked of a token, because some have nothing more. Each act opens a
session and closes it, so that two keys of one token don't stand in each other's way.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import importlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives.asymmetric import ec

from gateway.core.error import ConfigError
from gateway.core.refusal import RefusedError
from gateway.protocol.key import SIGNATURE_BYTES, VerifyingKey
from provisioning.authority.error import AuthorityError
from provisioning.authority.secret_file import read_secret

SCHEME: Final = "pkcs11:"
_PATH: Final = ("token", "object", "id", "type", "manufacturer", "model", "serial")
_QUERY: Final = ("module-path", "pin-source")
_EXAMPLE: Final = "pkcs11:token=NAME;object=NAME?module-path=/path/to/library.so&pin-source=file:/path/to/pin"
_ATTRIBUTE: Final = re.compile(r"([a-z][a-z-]*)=((?:[A-Za-z0-9\-._~\[\]:@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*)\Z")
_P256_OID_DER: Final = bytes.fromhex("06082a8648ce3d030107")
"""CKA_EC_PARAMS of P-256: the DER of 1.2.840.10045.3.1.7. Source: RFC 5480 §2.1.1.1."""


@dataclass(frozen=True, slots=True)
class TokenAddress:
    """A key's place in a token, as its URI names it."""

    module: Path
    token: str
    label: str | None
    id: bytes | None
    pin_source: Path | None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None

    def __str__(self) -> str:
        name = self.label if self.label is not None else f"id {(self.id or b'').hex()}"
        return f"key {name!r} of token {self.token!r}"


def is_uri(source: str) -> bool:
    return source.lower().startswith(SCHEME)


def parse(uri: str) -> TokenAddress:
    """Take a `pkcs11:` URI apart. Raises ConfigError, also for what RFC 7512 allows and we don't, such as pin-value."""
    path, _, query = uri[len(SCHEME) :].partition("?")
    given = _attributes(path, ";", _PATH)
    asked = _attributes(query, "&", _QUERY)
    if given.get("type", b"private") != b"private":
        raise ConfigError(f"type={_text(given['type'])} in a pkcs11: URI; a private key is needed, leave `type` out")
    if "module-path" not in asked:
        raise ConfigError(f"a pkcs11: URI needs the path of the token's library: {_EXAMPLE}")
    if not given.get("token") or not (given.get("object") or given.get("id")):
        raise ConfigError(f"a pkcs11: URI needs `token` and one of `object` and `id`: {_EXAMPLE}")
    module = Path(_text(asked["module-path"]))
    if not module.is_absolute():
        raise ConfigError(f"module-path={module}: give the whole path, from / on")
    source = asked.get("pin-source")
    return TokenAddress(
        module,
        _text(given["token"]),
        _text(given["object"]) if given.get("object") else None,
        given.get("id") or None,
        _pin_path(_text(source)) if source is not None else None,
        *(_text(given[name]) if name in given else None for name in ("serial", "manufacturer", "model")),
    )


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        match = _ATTRIBUTE.match(part)
        if match is None:
            raise ConfigError(f"not a pkcs11: URI. Write spaces and special characters as %20 and so on: {_EXAMPLE}")
        name, value = match.groups()
        if name == "pin-value":
            # Not even repeated in the message: a PIN on the command line is seen by all who list the processes.
            raise ConfigError(
                "pin-value is refused: others on this machine can read the command line. Change that PIN, and put the "
                "new one into a file with mode 0600 (pin-source=file:PATH), or leave it out and be asked."
            )
        if name not in known or name in found:
            raise ConfigError(f"`{name}` in a pkcs11: URI is not known here, or stands there twice: {_EXAMPLE}")
        found[name] = unquote_to_bytes(value)
    return found


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError("a pkcs11: URI must be UTF-8 behind its %xx") from exc


def _pin_path(source: str) -> Path:
    if source.startswith("|"):
        raise ConfigError("pin-source with a program (`|…`) is not supported; name a file with mode 0600")
    name = source.removeprefix("file:")
    name = name.removeprefix("//") if source.startswith("file:///") else name
    if not name or "://" in source.replace("file:///", "", 1):
        raise ConfigError(f"pin-source={source}: name a file, as file:PATH")
    return Path(name)


def read_pin(address: TokenAddress) -> str:
    """The PIN from its file, or from the terminal. Raises ConfigError when there is neither."""
    if not address.module.is_file():
        raise ConfigError(f"{address.module}: no such library; module-path names the token's PKCS #11 module")
    if address.pin_source is None:
        try:
            # Standard input may be a pipe with a JWK in it; the terminal is still there to ask at.
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError as exc:
            raise ConfigError(
                f"the PIN of token {address.token!r} is needed and there is no terminal to ask at. Put it into a file "
                "with mode 0600 and add pin-source=file:PATH to the URI."
            ) from exc
        return getpass.getpass(f"PIN of token {address.token!r}: ")
    content = read_secret(address.pin_source).removesuffix(b"\n").removesuffix(b"\r")
    try:
        pin = content.decode("utf-8")
    except UnicodeDecodeError:
        pin = ""
    if not pin or "\n" in pin:
        raise ConfigError(f"{address.pin_source}: must hold the PIN and nothing else, on one line")
    return pin


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """A P-256 key that stays in its token. The PIN is kept in memory for as long as this lives."""

    address: TokenAddress
    verifying: VerifyingKey
    _pin: str = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """Raw r‖s, 64 bytes. Raises ConfigError, and AuthorityError when it does not verify under the public key."""
        digest = hashlib.sha256(data).digest()
        with _session(self.address, self._pin) as (pkcs11, session):
            key = _one(pkcs11, session, self.address, pkcs11.ObjectClass.PRIVATE_KEY)
            signature = bytes(key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))
        try:
            self.verifying.verify(signature, data)
        except RefusedError as exc:
            what = "signature" if len(signature) == SIGNATURE_BYTES else f"{len(signature)} bytes"
            raise AuthorityError(
                f"{self.address}: its {what} does not verify under the public key of the same name. Are they of one "
                "pair? Nothing was written."
            ) from exc
        return signature


def open_token_signer(address: TokenAddress, pin: str | None = None) -> TokenSigner:
    """Log in once and find the key. Raises ConfigError for a wrong PIN, a missing key, or one that is not P-256."""
    pin = read_pin(address) if pin is None else pin
    with _session(address, pin) as (pkcs11, session):
        _one(pkcs11, session, address, pkcs11.ObjectClass.PRIVATE_KEY)
        public = _one(pkcs11, session, address, pkcs11.ObjectClass.PUBLIC_KEY)
        return TokenSigner(address, _verifying(pkcs11, public, address), pin)


def generate(address: TokenAddress) -> TokenSigner:
    """Make a P-256 key in the token that can't be taken out. Raises ConfigError, also where the name is taken."""
    if address.label is None:
        raise ConfigError("a new key needs a name: `object=NAME` in the pkcs11: URI")
    pin = read_pin(address)
    with _session(address, pin, write=True) as (pkcs11, session):
        names: list[dict[Any, Any]] = [{pkcs11.Attribute.LABEL: address.label}]
        if address.id is not None:
            names.append({pkcs11.Attribute.ID: address.id})
        if any(list(session.get_objects(name)) for name in names):
            raise AuthorityError(f"{address}: exists already. A key is never overwritten; choose another name.")
        curve = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: _P256_OID_DER}, local=True
        )
        public, private = curve.generate_keypair(
            store=True,
            label=address.label,
            id=address.id or secrets.token_bytes(16),
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            private_template={
                pkcs11.Attribute.PRIVATE: True,
                pkcs11.Attribute.SENSITIVE: True,
                pkcs11.Attribute.EXTRACTABLE: False,
            },
        )
        if private[pkcs11.Attribute.EXTRACTABLE] or not private[pkcs11.Attribute.SENSITIVE]:
            private.destroy()
            public.destroy()
            raise AuthorityError(f"{address}: this token would let the key be taken out. It was removed again.")
        return TokenSigner(address, _verifying(pkcs11, public, address), pin)


@contextlib.contextmanager
def _session(address: TokenAddress, pin: str, *, write: bool = False) -> Iterator[tuple[Any, Any]]:
    """A logged-in session with the library's errors turned into ours."""
    try:
        pkcs11 = importlib.import_module("pkcs11")
    except ModuleNotFoundError as exc:
        raise ConfigError(
            "keys in tokens need python-pkcs11: install the extra `pkcs11` (pip install 'tillsyn-gateway[pkcs11]')"
        ) from exc
    session = None
    try:
        library = _first(lambda: pkcs11.lib(str(address.module)), pkcs11, f"{address.module}: does not load")
        session = _token(pkcs11, library, address).open(rw=write, user_pin=pin)
        yield pkcs11, session
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange) as exc:
        raise ConfigError(
            f"wrong PIN for token {address.token!r}. Most tokens lock after a few wrong ones, so look before you try "
            "again."
        ) from exc
    except pkcs11.PinLocked as exc:
        raise ConfigError(f"the PIN of token {address.token!r} is locked; its security officer can unlock it") from exc
    except pkcs11.PKCS11Error as exc:
        raise ConfigError(f"{address}: the token answered {type(exc).__name__} {exc}".rstrip()) from exc
    finally:
        if session is not None:
            with contextlib.suppress(pkcs11.PKCS11Error):  # a token that was pulled out has no session to close
                session.close()


def _first(load: Callable[[], Any], pkcs11: Any, words: str) -> Any:
    try:
        return load()
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as exc:
        raise ConfigError(f"{words} ({exc or type(exc).__name__}). Is it a PKCS #11 module of this machine?") from exc


def _token(pkcs11: Any, library: Any, address: TokenAddress) -> Any:
    asked = {"serial": address.serial, "manufacturer_id": address.manufacturer, "model": address.model}
    found = []
    for token in library.get_tokens(token_label=address.token):
        has = {
            "serial": bytes(token.serial).decode("utf-8", errors="replace").strip(),
            "manufacturer_id": token.manufacturer_id,
            "model": token.model,
        }
        if all(value is None or has[name] == value for name, value in asked.items()):
            found.append(token)
    if not found:
        raise ConfigError(f"no token {address.token!r} at {address.module}. Is it plugged in, is its name right?")
    if len(found) > 1:
        raise ConfigError(f"{len(found)} tokens are called {address.token!r}; add serial=… to the URI")
    if not found[0].flags & pkcs11.TokenFlag.USER_PIN_INITIALIZED:
        raise ConfigError(f"token {address.token!r} has no user PIN yet; initialise it first")
    return found[0]


def _one(pkcs11: Any, session: Any, address: TokenAddress, kind: Any) -> Any:
    """The one object of `kind` with the address's name. Raises ConfigError for none, several, and other key types."""
    word = "private" if kind == pkcs11.ObjectClass.PRIVATE_KEY else "public"
    wanted: dict[Any, Any] = {pkcs11.Attribute.CLASS: kind}
    if address.label is not None:
        wanted[pkcs11.Attribute.LABEL] = address.label
    if address.id is not None:
        wanted[pkcs11.Attribute.ID] = address.id
    found = list(session.get_objects(wanted))
    if not found:
        raise ConfigError(f"{address}: there is no such {word} key. `tillsyn authority root new --token` makes one.")
    if len(found) > 1:
        raise ConfigError(f"{address}: there are {len(found)} {word} keys of that name; add id=… to the URI")
    key = found[0]
    if key.key_type != pkcs11.KeyType.EC or bytes(key[pkcs11.Attribute.EC_PARAMS]) != _P256_OID_DER:
        raise ConfigError(f"{address}: not a P-256 key; the profile knows no other (ES256)")
    return key


def _verifying(pkcs11: Any, public: Any, address: TokenAddress) -> VerifyingKey:
    raw = bytes(public[pkcs11.Attribute.EC_POINT])
    # CKA_EC_POINT is a DER octet string by the standard; some tokens give the bare point. Source: PKCS #11 2.40 §2.3.3.
    if len(raw) == 67 and raw[:2] == b"\x04\x41":
        raw = raw[2:]
    try:
        return VerifyingKey.of(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw))
    except ValueError as exc:
        raise ConfigError(f"{address}: its public key is not a point of P-256") from exc
