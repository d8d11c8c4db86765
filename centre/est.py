"""Enrolment at the centre: an EST server (RFC 7030) and the few words that EST has none for, on a TLS port of its own.

Who may do what there:

* anybody: the CA's certificates, the addresses a home will need, and a block of bytes to measure the line with;
* who has the installer's one-time code of a registered gateway: one certificate for one key;
* who shows a certificate of ours: register keys, ask how things stand, hand in the protocol, renew.

At the console, behind its login: make a code, see who enrolled, say whether the short codes are the same. Only after
that is the device a home of this centre.

A refusal to a device has one word in the header `X-Tillsyn-Refusal`; a wrong code and an unknown gateway have the same.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import ipaddress
import json
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from centre.answer import TooLargeError, answer, body_of, error
from centre.config import EstConfig
from centre.session import Session
from centre.state import CentreState, Home
from centre.store import Enrolment, Store
from centre.witness import read_ledger_key
from gateway.core.error import ConfigError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.edge.http_uvicorn import Server, peer_certificate, server_config, server_tls
from gateway.protocol import strict_json
from gateway.protocol.envelope import make_trust, verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import GatewayId, InstallationProtocol, Role, TunnelSettings
from provisioning.authority import tunnel_config
from provisioning.authority.error import AuthorityError
from provisioning.authority.x509 import CertificateAuthority
from provisioning.enrolment import pkcs
from provisioning.enrolment.word import (
    MAX_WORD_BYTES,
    AlarmState,
    BrokerPlace,
    EndPoint,
    Fallback,
    Keys,
    Place,
    ProtocolTaken,
    Standing,
    Targets,
    TunnelPlace,
    Word,
    decode,
    encode,
    short_code,
)
from provisioning.factory.word import CODE_LENGTH, in_groups, make_word, read_word

LINE_BYTES: Final = 256 * 1024
BODY_LIMIT_S: Final = 10.0
MAY_ENROL: Final = frozenset({Role.INSTALLER, Role.PLANNER, Role.STEWARD})
TEST_ALARM_LINE: Final = "set-up"
"""The line that a test alarm's hand-over names. Source: gateway.services.guard_setup."""

LOG = logging.getLogger(__name__)


class _NewCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gateway: GatewayId
    certificate_sha256: str | None = None
    """With it, the line of the factory's register is entered first."""


class _Compared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    is_same: bool


class _RefusalError(Exception):
    """The device hears `code` and nothing else."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass(slots=True)
class Desk:
    """The enrolment service of one centre."""

    state: CentreState
    config: EstConfig
    authority: CertificateAuthority
    roots: list[dict[str, str]]
    trust: str
    witness: str | None = None
    """The vkey of the centre's own witness, for the homes to believe."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of those that are given an address."""
    _line: bytes = field(default_factory=lambda: secrets.token_bytes(LINE_BYTES))

    @property
    def store(self) -> Store:
        return self.state.store

    def app(self) -> Starlette:
        """What listens at `config.host`."""
        return Starlette(
            routes=[
                self._route("/.well-known/est/cacerts", self._cacerts, "GET"),
                self._route("/.well-known/est/simpleenroll", self._enrol, "POST"),
                self._route("/.well-known/est/simplereenroll", self._renew, "POST"),
                self._route("/tillsyn/register", self._register, "POST"),
                self._route("/tillsyn/standing", self._standing, "GET"),
                self._route("/tillsyn/protocol", self._protocol, "POST"),
                self._route("/tillsyn/targets", self._targets, "GET"),
                self._route("/tillsyn/line", self._give_line, "GET"),
            ]
        )

    def _route(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str) -> Route:
        async def guarded(request: Request) -> Response:
            try:
                async with asyncio.timeout(BODY_LIMIT_S):
                    return await endpoint(request)
            except _RefusalError as refusal:
                return _refuse(refusal.status, refusal.code)
            except RefusedError as refused:
                LOG.info("enrolment: %s", refused)
                return _refuse(400, refused.code.value)
            except TooLargeError:
                return _refuse(413, "too-large")
            except AuthorityError as exc:
                LOG.error("enrolment: %s", exc)
                return _refuse(503, "ca-ended")
            except TimeoutError:
                return _refuse(408, "too-slow")

        return Route(path, guarded, methods=[method])

    # EST

    async def _cacerts(self, _request: Request) -> Response:
        return _certificates([self.authority.certificate])

    async def _enrol(self, request: Request) -> Response:
        gateway, code = _basic(request)
        name, key = pkcs.read_csr(pkcs.from_base64(await body_of(request, max_bytes=pkcs.MAX_REQUEST_BYTES)))
        if name != gateway:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "request for another gateway")
        digest = hashlib.sha256(pkcs.spki(key)).hexdigest()
        why_not = await asyncio.to_thread(
            self.store.claim_enrolment_code, gateway, code, digest, now_unix_s=self.state.clock()
        )
        if why_not is not None:
            LOG.warning("enrolment of %s refused: %s", gateway, why_not)
            raise _RefusalError(401, why_not)
        pem = await asyncio.to_thread(self.store.issued_certificate, gateway, digest)
        if pem is None:
            fresh = _pem(self.authority.certify(gateway, key))
            pem = await asyncio.to_thread(self.store.put_issued_certificate, gateway, digest, fresh)
        return _certificates([x509.load_pem_x509_certificate(pem.encode())])

    async def _renew(self, request: Request) -> Response:
        enrolment, shown = await self._peer(request)
        if enrolment is None or enrolment.is_same is not True:
            raise _RefusalError(403, "not-enrolled")
        name, key = pkcs.read_csr(pkcs.from_base64(await body_of(request, max_bytes=pkcs.MAX_REQUEST_BYTES)))
        if name != enrolment.gateway:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "request for another gateway")
        certificate = self.authority.certify(enrolment.gateway, key)
        renewed = await asyncio.to_thread(
            self.store.put_renewed_certificate,
            enrolment.gateway,
            enrolment.install_epoch,
            old=shown,
            spki_sha256=hashlib.sha256(pkcs.spki(key)).hexdigest(),
            pem=_pem(certificate),
        )
        if not renewed:
            raise _RefusalError(409, "renewed-meanwhile")
        return _certificates([certificate])

    # Our own words

    async def _register(self, request: Request) -> Response:
        certificate, gateway, shown = _shown(request)
        keys = decode(await body_of(request, max_bytes=MAX_WORD_BYTES), Keys)
        VerifyingKey.from_jwk(keys.device_jwk)
        try:
            read_ledger_key(gateway, keys.ledger_vkey)
        except ConfigError as exc:
            raise RefusedError(RefusalCode.WRONG_DEVICE, str(exc)) from exc
        async with self._turn:
            return await self._registered(certificate, gateway, shown, keys)

    async def _registered(self, certificate: x509.Certificate, gateway: str, shown: str, keys: Keys) -> Response:
        known = await asyncio.to_thread(self.store.newest_enrolment, gateway)
        if known is None or known.first_spki_sha256 != shown:
            if await asyncio.to_thread(self.store.issued_certificate, gateway, shown) is None:
                # Of our CA, and yet not what the newest code has brought: an earlier installation's.
                raise _RefusalError(403, "not-enrolled")
            epoch = await asyncio.to_thread(self.store.next_install_epoch, gateway)
            place = await asyncio.to_thread(self._place, gateway, epoch, keys)
            known = Enrolment(
                gateway, epoch, shown, shown, _pem(certificate), keys.device_jwk, keys.ledger_vkey,
                encode(place).decode(), short_code(certificate_der=_der(certificate), keys=keys, place=place),
                self.state.clock(), None, None, None,
            )  # fmt: skip
            await asyncio.to_thread(self.store.put_enrolment, known)
            self.state.events.send("enrolment", {"gateway": gateway})
        tunnel = decode(known.place_json.encode(), Place).tunnel
        known_keys = Keys(known.device_jwk, known.ledger_vkey, keys.tunnel_key if tunnel is None else tunnel.home_key)
        if known_keys != keys:
            raise _RefusalError(409, "other-keys")
        return Response(known.place_json.encode(), media_type="application/json")

    def _place(self, gateway: str, epoch: int, keys: Keys) -> Place:
        """Blocking."""
        broker = self.config.broker_for_homes
        return Place(
            gateway,
            epoch,
            list(self.config.groups),
            self.roots,
            self.trust,
            BrokerPlace(broker.host, broker.port, broker.server_name),
            self.witness,
            self._tunnel(keys.tunnel_key),
        )

    def _tunnel(self, home_key: str | None) -> TunnelPlace | None:
        """The next free address; one that was given once is not given again, whatever became of it."""
        config = self.config.tunnel
        if config is None or home_key is None:
            return None
        given = {tunnel.settings.address for tunnel in map(tunnel_of, self.store.enrolments()) if tunnel is not None}
        network = ipaddress.ip_network(config.network)
        free = (str(each) for each in network.hosts() if str(each) not in {*given, *config.centre})
        address = next(free, None)
        if address is None:
            raise _RefusalError(503, "no-address")
        settings = TunnelSettings(
            1,
            address,
            list(config.centre),
            config.centre_key,
            config.endpoint_host,
            config.endpoint_port,
            tunnel_config.MTU_BYTES,
        )
        fallback = None
        if config.fallback_broker is not None and config.fallback_relay is not None:
            port = config.fallback_port
            fallback = Fallback(config.fallback_broker, port, config.fallback_relay, port)
        return TunnelPlace(settings, home_key, fallback)

    async def _standing(self, request: Request) -> Response:
        enrolment, _ = await self._peer(request)
        if enrolment is None:
            raise _RefusalError(403, "not-enrolled")
        alarm = await asyncio.to_thread(self._test_alarm, enrolment)
        return _word(Standing(enrolment.is_same, alarm, enrolment.protocol_jws is not None))

    def _test_alarm(self, enrolment: Enrolment) -> AlarmState | None:
        """The newest hand-over that a set-up of this installation has begun."""
        rows = [
            row
            for row in self.state.store.handovers()
            if (row["gateway"], row["install_epoch"]) == (enrolment.gateway, enrolment.install_epoch)
            and row["line"] == TEST_ALARM_LINE
        ]
        if not rows:
            return None
        newest = max(rows, key=lambda row: float(row["created_unix_s"]))
        return AlarmState(newest["occasion"], begun=True, acknowledged=newest["state"] != "open")

    async def _protocol(self, request: Request) -> Response:
        enrolment, _ = await self._peer(request)
        if enrolment is None or enrolment.is_same is not True:
            raise _RefusalError(403, "not-enrolled")
        jws = await body_of(request, max_bytes=MAX_WORD_BYTES)
        key = VerifyingKey.from_jwk(enrolment.device_jwk)
        protocol = verify(jws, {key.kid: key}, InstallationProtocol)
        if (protocol.gateway, protocol.install_epoch) != (enrolment.gateway, enrolment.install_epoch):
            raise RefusedError(RefusalCode.WRONG_DEVICE, "protocol of another installation")
        await asyncio.to_thread(
            self.store.put_installation_protocol, enrolment.gateway, enrolment.install_epoch, jws.decode("ascii")
        )
        self.state.events.send("enrolment", {"gateway": enrolment.gateway})
        return _word(ProtocolTaken(hashlib.sha256(jws).hexdigest()))

    async def _targets(self, _request: Request) -> Response:
        broker, relay = self.config.broker_for_homes, self.config.relay
        return _word(
            Targets(
                EndPoint(broker.host, broker.port, broker.server_name),
                None if relay is None else EndPoint(relay.host, relay.port),
            )
        )

    async def _give_line(self, _request: Request) -> Response:
        return Response(self._line, media_type="application/octet-stream")

    async def _peer(self, request: Request) -> tuple[Enrolment | None, str]:
        """The newest enrolment of the certificate's gateway if this is its key, and the key's digest."""
        _, gateway, shown = _shown(request)
        known = await asyncio.to_thread(self.store.newest_enrolment, gateway)
        return (known if known is not None and known.spki_sha256 == shown else None), shown

    # The console

    async def make_code(self, _state: CentreState, session: Session, request: Request) -> Response:
        """A one-time code for one gateway; it is shown this once."""
        if not MAY_ENROL & set(session.account.roles):
            return _not_allowed()
        try:
            order = _json(await body_of(request, max_bytes=2048), _NewCode)
        except RefusedError:
            return error(400, "malformed", 'Send {"gateway", "certificate_sha256"}: the line that the factory printed.')
        if order.certificate_sha256 is not None and not await asyncio.to_thread(
            self.store.register_device, order.gateway, order.certificate_sha256
        ):
            return error(409, "other-certificate", "This gateway is in the register with another label. Do not use it.")
        if not await asyncio.to_thread(self.store.is_registered_device, order.gateway):
            return error(404, "not-registered", "This gateway is not in the factory's register. Enter its line first.")
        code = make_word(CODE_LENGTH)
        until_unix_s = await asyncio.to_thread(
            partial(
                self.store.put_enrolment_code,
                order.gateway,
                code,
                made_by=session.account.who,
                now_unix_s=self.state.clock(),
            )
        )
        return answer({"gateway": order.gateway, "code": in_groups(code), "until_unix_s": until_unix_s})

    async def list_enrolments(self, _state: CentreState, session: Session, _request: Request) -> Response:
        if not MAY_ENROL & set(session.account.roles):
            return _not_allowed()
        found = await asyncio.to_thread(self.store.enrolments)
        return answer(
            [
                {
                    "gateway": one.gateway,
                    "install_epoch": one.install_epoch,
                    "short_code": one.short_code,
                    "at_unix_s": one.at_unix_s,
                    "is_same": one.is_same,
                    "compared_by": one.compared_by,
                    "protocol": one.protocol_jws,
                }
                for one in found
            ]
        )

    async def compare(self, _state: CentreState, session: Session, request: Request) -> Response:
        """Somebody has heard the installer read the device's short code, and says whether it is the one shown here."""
        if not MAY_ENROL & set(session.account.roles):
            return _not_allowed()
        try:
            said = _json(await body_of(request, max_bytes=256), _Compared)
        except RefusedError:
            return error(400, "malformed", 'Send {"is_same": true} or {"is_same": false}.')
        known = await asyncio.to_thread(self.store.newest_enrolment, request.path_params["gateway"])
        if known is None:
            return error(404, "unknown-home", "Nobody has enrolled under this name.")
        if not await asyncio.to_thread(
            partial(
                self.store.compare_enrolment,
                known.gateway,
                known.install_epoch,
                is_same=said.is_same,
                who=session.account.who,
            )
        ):
            return error(
                409, "said-before", "That was said before, and can't be changed. Make a new code and enrol anew."
            )
        if said.is_same:
            await asyncio.to_thread(self.admit, known)
        self.state.events.send("enrolment", {"gateway": known.gateway})
        return answer({"gateway": known.gateway, "is_same": said.is_same})

    def admit(self, enrolment: Enrolment) -> None:
        """Make it a home of this centre: now, and at each start. Blocking."""
        home = home_of(enrolment, frozenset(self.config.groups))
        self.state.store.put_home(home.gateway, install_epoch=home.install_epoch, device_kid=home.device_key.kid)
        self.state.admit(home)

    def admit_all(self) -> None:
        """At the centre's start. Blocking."""
        for enrolment in self.store.enrolments():
            if enrolment.is_same:
                self.admit(enrolment)

    async def serve(self, listening: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
        """Listen until cancelled."""
        config = self.config
        tls = server_tls(config.cert_path, config.key_path, clients_of=config.ca_path)
        server = Server(server_config(self.app(), tls=tls), ready)
        try:
            await server.serve(sockets=[listening])
        finally:
            if server.started:
                await server.shutdown(sockets=[listening])


def enrolment_routes(route: Callable[..., Route], desk: Desk) -> list[Route]:
    """The console's part; `route` is the console's own, which lets nobody in who isn't logged in."""
    return [
        route("/api/v1/enrolments", desk.list_enrolments),
        route("/api/v1/enrolments", desk.make_code, "POST"),
        route("/api/v1/enrolments/{gateway}/compared", desk.compare, "POST"),
    ]


def make_desk(config: EstConfig, state: CentreState) -> Desk:
    """Raises ConfigError for files that don't fit one another."""
    try:
        roots = json.loads(config.roots_path.read_bytes())
        keys = {key.kid: key for key in map(VerifyingKey.from_jwk, roots)}
        trust = config.trust_path.read_bytes()
        make_trust(trust, keys)
        server_tls(config.cert_path, config.key_path, clients_of=config.ca_path)
        certificate = x509.load_pem_x509_certificate(config.ca_path.read_bytes())
        key = serialization.load_pem_private_key(config.ca_key_path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, RefusedError) as exc:
        raise ConfigError(f"est: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError("est: ca_path and ca_key_path are not of one pair")
    witness = None if state.cosigner is None else str(state.cosigner.public)
    return Desk(state, config, CertificateAuthority(certificate, key), roots, trust.decode("ascii"), witness)


def tunnel_of(enrolment: Enrolment) -> TunnelPlace | None:
    return decode(enrolment.place_json.encode(), Place).tunnel


def peers(enrolments: list[Enrolment]) -> str:
    """The homes whose codes were the same, as `tillsyn authority tunnel-config` reads them: the newest of each."""
    newest = {one.gateway: one for one in sorted(enrolments, key=lambda one: one.install_epoch) if one.is_same}
    places = {gateway: tunnel_of(one) for gateway, one in sorted(newest.items())}
    return "".join(
        f"{gateway} {tunnel.home_key} {tunnel.settings.address}\n"
        for gateway, tunnel in places.items()
        if tunnel is not None
    )


def home_of(enrolment: Enrolment, groups: frozenset[str]) -> Home:
    return Home(
        enrolment.gateway,
        enrolment.install_epoch,
        VerifyingKey.from_jwk(enrolment.device_jwk),
        groups,
        read_ledger_key(enrolment.gateway, enrolment.ledger_vkey),
    )


def _json(untrusted: bytes, kind: Any) -> Any:
    try:
        return msgspec.convert(strict_json.loads(untrusted), kind, strict=True)
    except msgspec.ValidationError as exc:
        raise RefusedError(RefusalCode.MALFORMED, str(exc)) from exc


def _basic(request: Request) -> tuple[str, str]:
    """(gateway, code) of HTTP Basic. Source: RFC 7617."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme.lower() != "basic" or len(encoded) > 400:
            raise ValueError
        gateway, _, typed = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (ValueError, binascii.Error) as exc:
        raise _RefusalError(401, "code-wrong") from exc
    code = read_word(typed, CODE_LENGTH)
    if code is None:
        # Not counted: it can't be anybody's code, and a slip of the finger is to cost no try.
        raise _RefusalError(401, "code-wrong")
    return gateway, code


def _shown(request: Request) -> tuple[x509.Certificate, str, str]:
    """The peer's certificate, verified by TLS under our CA; its gateway; its key's digest."""
    der = peer_certificate(request.state)
    if der is None:
        raise _RefusalError(401, "no-certificate")
    certificate = x509.load_der_x509_certificate(der)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _RefusalError(401, "no-certificate")
    name = str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    return certificate, name, hashlib.sha256(pkcs.spki(key)).hexdigest()


def _certificates(certificates: list[x509.Certificate]) -> Response:
    return Response(
        pkcs.to_base64(pkcs.certs_only(certificates)),
        media_type=f"{pkcs.CERTS_TYPE}; smime-type=certs-only",
        headers={"Content-Transfer-Encoding": "base64"},
    )


def _word(word: Word) -> Response:
    return Response(encode(word), media_type="application/json")


def _refuse(status: int, code: str) -> Response:
    headers = {"X-Tillsyn-Refusal": code}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="tillsyn"'
    return Response(b"", status, headers)


def _not_allowed() -> Response:
    return error(403, "wrong-role", "Your account may not enrol devices.")


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
