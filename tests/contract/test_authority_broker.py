"""The broker's two files under a real Mosquitto: who has which certificate reaches what, and nothing else.

Clients are paho's, not ours: a hostile one asks for whatever it likes. Mosquitto acknowledges every subscription and
applies the access list to each message on its way out; so what counts is what arrives, up to a last message that must.

Mutations that turn a test here red (provisioning/authority/broker_config.py):
* `%u` → `+` in a pattern → test_each_gateway_writes_its_own_branch_only, …_hears_its_own_commands_only
* `%u` → `%c` and no `use_username_as_clientid` → test_a_client_id_of_another_home_gives_nothing
* `pattern write` → `pattern readwrite` → test_each_gateway_hears_its_own_commands_only
* drop `use_username_as_clientid` → test_a_client_id_of_another_home_gives_nothing
* drop `require_certificate` → test_who_has_no_certificate_of_our_ca_is_not_let_in
* drop `acl_file` → test_each_gateway_writes_its_own_branch_only
* drop `tls_version` → test_nothing_older_than_tls_1_3_is_spoken
* raise `message_size_limit` and `max_packet_size` (either alone still holds) → test_a_message_larger_than_the_limit…
* x509.py: a server's certificate for clients too → test_who_has_no_certificate_of_our_ca_is_not_let_in
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.cli import main
from provisioning.authority.x509 import CertificateAuthority, private_pem

pytestmark = pytest.mark.slow

GATEWAYS = ("gw-a", "gw-b", "gw-ab")
UP = ("reply", "ledger", "signal", "log", "health", "status", "ask")
DOWN = ("command", "time", "relay")
NOT_AUTHORIZED = 0x87
GREEDY = (
    "#", "+/#", "tillsyn/#", "tillsyn/v1/+/+", "tillsyn/v1/+/command", "tillsyn/v1/gw-b/#", "tillsyn/v1/gw-b/command",
    "tillsyn/v1/%u/command", "tillsyn/v1/%c/command", "$SYS/#", "$share/g/#", "$share/g/tillsyn/v1/+/+",
)  # fmt: skip
PATIENCE_S = 20.0


def command(*words):
    assert main(["authority", *map(str, words)]) == 0


def certificate(directory: Path, authority: CertificateAuthority, name: str, *, ends: timedelta = timedelta(days=1)):
    """A client's certificate that the command would not issue."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + ends)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    directory.mkdir()
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(private_pem(key))
    return directory


class Site:
    """A CA, certificates, and a broker that runs with the files as the command wrote them."""

    def __init__(self, place: Path, form: str) -> None:
        self.place = place
        self.form = form
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command("ca", "new", "--out", place / "ca")
        command("ca", "issue-broker", "localhost", "127.0.0.1", "--ca", place / "ca", "--out", place / "broker")
        command("ca", "issue-centre", "--ca", place / "ca", "--out", place / "centre")
        for gateway in GATEWAYS:
            command("ca", "issue-gateway", gateway, "--ca", place / "ca", "--out", place / gateway)
        self.authority = CertificateAuthority.load(place / "ca")
        self.write_config(GATEWAYS)
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.fail("no Mosquitto on this machine; `make apt` installs it (apt-get install mosquitto)")
        self.log = (place / "broker.log").open("wb")
        self.process = subprocess.Popen([program, "-c", str(place / "etc" / "mosquitto.conf")], stderr=self.log)
        self.wait_for_port()

    def write_config(self, homes) -> None:
        words = ()
        if self.form == "list":
            (self.place / "homes").write_text("".join(f"{home}\n" for home in homes))
            words = ("--homes", self.place / "homes")
        command(
            "broker-config", "--out", self.place / "etc", "--ca", self.place / "broker" / "ca.pem",
            "--cert", self.place / "broker" / "cert.pem", "--key", self.place / "broker" / "key.pem",
            "--address", "127.0.0.1", "--port", self.port, "--user", getpass.getuser() if os.getuid() == 0 else "root",
            "--replace", *words,
        )  # fmt: skip

    def wait_for_port(self) -> None:
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                pytest.fail(f"mosquitto ended: {(self.place / 'broker.log').read_text()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return
            time.sleep(0.02)
        pytest.fail("mosquitto does not listen")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()

    def peer(self, who, **kwargs):
        return Peer(self, who if isinstance(who, Path) or who is None else self.place / who, **kwargs)


class Peer:
    """One client that remembers what arrived. `reached` is None when the handshake or CONNECT was refused."""

    def __init__(self, site: Site, identity: Path | None, *, client_id: str | None = None, will: str | None = None):
        self.heard: list[tuple[str, bytes, bool]] = []
        self.reached = None
        self.lost = threading.Event()
        self._came = threading.Condition()
        self._settled = threading.Event()
        self._codes: dict[int, int] = {}
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id or (identity.name if identity else "x"),
            protocol=mqtt.MQTTv5, reconnect_on_failure=False,
        )  # fmt: skip
        context = ssl.create_default_context(cafile=str(site.place / "ca" / "ca.pem"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if identity is not None:
            context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        self._client.tls_set_context(context)
        if will is not None:
            self._client.will_set(will, b"will", qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = lambda _c, _u, mid, code, _p: self._note(mid, code.value)
        self._client.on_subscribe = lambda _c, _u, mid, codes, _p: self._note(mid, codes[0].value)
        try:
            self._client.connect(
                "localhost" if socket.gethostbyname("localhost") == "127.0.0.1" else "127.0.0.1", site.port
            )
        except (ssl.SSLError, OSError):
            return
        self._client.loop_start()
        assert self._settled.wait(PATIENCE_S), "neither let in nor refused"

    def _on_connect(self, _client, _userdata, _flags, code, _properties):
        if not code.is_failure:
            self.reached = code
        self._settled.set()

    def _on_disconnect(self, *_):
        self.lost.set()
        self._settled.set()

    def _on_message(self, _client, _userdata, message):
        with self._came:
            self.heard.append((message.topic, message.payload, message.retain))
            self._came.notify_all()

    def _note(self, mid, code):
        with self._came:
            self._codes[mid] = code
            self._came.notify_all()

    def _code(self, mid):
        with self._came:
            assert self._came.wait_for(lambda: mid in self._codes, PATIENCE_S), "no acknowledgement"
            return self._codes[mid]

    def publish(self, topic, payload=b"x", *, retain=False):
        """Whether the broker took it."""
        return self._code(self._client.publish(topic, payload, qos=1, retain=retain).mid) != NOT_AUTHORIZED

    def subscribe(self, *filters):
        for each in filters:
            _, mid = self._client.subscribe(each, qos=1)
            self._code(mid)

    def wait_for(self, topic, payload):
        with self._came:
            assert self._came.wait_for(
                lambda: any((t, p) == (topic, payload) for t, p, _ in self.heard), PATIENCE_S
            ), f"{topic} never came; heard {self.heard}"  # fmt: skip

    def topics(self):
        return {topic for topic, _, _ in self.heard}

    def close(self):
        properties = Properties(PacketTypes.DISCONNECT)
        self._client.disconnect(properties=properties)
        self._client.loop_stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture(scope="module", params=["pattern", "list"])
def site(request, tmp_path_factory):
    made = Site(tmp_path_factory.mktemp(request.param), request.param)
    yield made
    made.close()


def topic(gateway, branch):
    return f"tillsyn/v1/{gateway}/{branch}"


def test_the_three_kinds_of_certificate_are_let_in_where_they_belong(site):
    for who in ("centre", *GATEWAYS):
        with site.peer(who) as peer:
            assert peer.reached is not None


def test_who_has_no_certificate_of_our_ca_is_not_let_in(site, tmp_path):
    other = CertificateAuthority.make("tillsyn CA")
    strangers = {
        "nobody": None,
        "another CA of the same name": certificate(tmp_path / "gw-a", other, "gw-a"),
        "signed by himself": certificate(tmp_path / "self", CertificateAuthority.make("gw-a"), "gw-a"),
        "ended": certificate(tmp_path / "ended", site.authority, "gw-a", ends=-timedelta(hours=1)),
        "a server": site.place / "broker",
    }
    let_in = {}
    for who, identity in strangers.items():
        with site.peer(identity) as peer:
            let_in[who] = peer.reached is not None
    assert let_in == dict.fromkeys(strangers, False)


def test_nothing_older_than_tls_1_3_is_spoken(site):
    context = ssl.create_default_context(cafile=str(site.place / "ca" / "ca.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(site.place / "gw-a" / "cert.pem", site.place / "gw-a" / "key.pem")
    with socket.create_connection(("127.0.0.1", site.port)) as raw, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


@pytest.mark.parametrize("sender", GATEWAYS)
def test_each_gateway_writes_its_own_branch_only(site, sender):
    """The matrix of D and D' over every branch, as the broker answers and as the centre hears it."""
    with site.peer("centre") as centre, site.peer(sender) as peer:
        centre.subscribe("#")
        mark = os.urandom(8)
        taken = {
            (owner, branch)
            for owner in (*GATEWAYS, "gw-c", "centre", "%u", sender.upper())
            for branch in (*UP, *DOWN, "x", "")
            if peer.publish(topic(owner, branch), mark)
        }
        taken |= {
            other
            for other in (
                "tillsyn",
                "tillsyn/v1",
                f"/tillsyn/v1/{sender}/reply",
                f"tillsyn/v2/{sender}/reply",
                f"{sender}/reply",
            )
            if peer.publish(other, mark)
        }
        assert taken == {(sender, branch) for branch in UP}
        peer.publish(topic(sender, "ask"), mark + b"last")
        centre.wait_for(topic(sender, "ask"), mark + b"last")
        heard = {name for name, payload, _ in centre.heard if payload.startswith(mark)}
        assert heard == {topic(sender, branch) for branch in UP}


@pytest.mark.parametrize("hearer", GATEWAYS)
def test_each_gateway_hears_its_own_commands_only(site, hearer):
    others = [gateway for gateway in GATEWAYS if gateway != hearer]
    with site.peer("centre") as centre, site.peer(hearer) as peer, site.peer(others[0]) as neighbour:
        peer.subscribe(*GREEDY, topic(hearer, "command"))
        mark = os.urandom(8)
        for gateway in (*others, hearer):
            for branch in DOWN:
                assert centre.publish(topic(gateway, branch), mark)
        for branch in UP:
            assert neighbour.publish(topic(others[0], branch), mark)
            assert peer.publish(topic(hearer, branch), mark)
        assert centre.publish(topic(hearer, "command"), mark + b"last")
        peer.wait_for(topic(hearer, "command"), mark + b"last")
        assert {name for name, payload, _ in peer.heard if payload.startswith(mark)} == {
            topic(hearer, branch) for branch in DOWN
        }
        assert not any(name.startswith("$SYS") for name in peer.topics())


def test_the_centre_speaks_in_its_own_direction_only(site):
    with site.peer("centre") as centre:
        taken = {branch for branch in (*UP, *DOWN, "x") if centre.publish(topic("gw-a", branch))}
        assert taken == set(DOWN)
        assert not centre.publish("tillsyn/v1/command")
        assert not centre.publish("$SYS/broker/x")


def test_a_retained_status_of_another_home_is_not_shown(site):
    with site.peer("gw-b") as neighbour:
        assert neighbour.publish(topic("gw-b", "status"), b"kept", retain=True)
    with site.peer("centre") as centre:
        centre.subscribe(topic("+", "status"))
        centre.wait_for(topic("gw-b", "status"), b"kept")
        with site.peer("gw-a") as peer:
            peer.subscribe(*GREEDY, topic("+", "status"), topic("gw-b", "status"))
            assert centre.publish(topic("gw-a", "command"), b"last")
            peer.wait_for(topic("gw-a", "command"), b"last")
            assert peer.topics() == {topic("gw-a", "command")}


def test_a_will_on_another_homes_status_never_comes(site):
    with site.peer("centre") as centre:
        centre.subscribe("#")
        liar = site.peer("gw-a", will=topic("gw-b", "status"))
        if liar.reached is not None:
            liar._client.socket().shutdown(socket.SHUT_RDWR)
            liar.lost.wait(PATIENCE_S)
        liar.close()
        with site.peer("gw-a") as peer:
            peer.publish(topic("gw-a", "ask"), b"after the will")
            centre.wait_for(topic("gw-a", "ask"), b"after the will")
        assert (topic("gw-b", "status"), b"will") not in {(name, payload) for name, payload, _ in centre.heard}


def test_a_client_id_of_another_home_gives_nothing(site):
    """Neither its topics, nor its connection: the client id is the certificate's name, whatever is asked for."""
    with site.peer("gw-b") as victim, site.peer("centre") as centre:
        victim.subscribe(topic("gw-b", "command"))
        with site.peer("gw-a", client_id="gw-b") as thief:
            assert not thief.publish(topic("gw-b", "reply"))
            thief.subscribe("#", topic("gw-b", "command"))
            assert centre.publish(topic("gw-b", "command"), b"to b")
            victim.wait_for(topic("gw-b", "command"), b"to b")
            assert centre.publish(topic("gw-a", "command"), b"to a")
            thief.wait_for(topic("gw-a", "command"), b"to a")
            assert topic("gw-b", "command") not in thief.topics()
        assert not victim.lost.is_set()


@pytest.mark.parametrize("name", ["+", "#", "gw-+", "+/+", "gw-a/reply", "gw-c/../gw-a", "Centre", "gw-unknown"])
def test_a_certificate_that_is_never_issued_would_reach_no_home_either(site, tmp_path, name):
    """A second fence: were there a certificate with a wildcard as its name, it would still have no home's topics."""
    identity = certificate(tmp_path / "odd", site.authority, name)
    with site.peer(identity, client_id="odd") as peer, site.peer("centre") as centre, site.peer("gw-a") as home:
        if peer.reached is None:
            return
        home.subscribe(topic("gw-a", "command"))
        peer.subscribe(*GREEDY, topic("gw-a", "command"))
        for gateway in GATEWAYS:
            for branch in (*UP, *DOWN):
                assert not peer.publish(topic(gateway, branch)), (gateway, branch)
        assert centre.publish(topic("gw-a", "command"), b"last")
        home.wait_for(topic("gw-a", "command"), b"last")
        assert not any(name.startswith("tillsyn/v1/gw-a") for name in peer.topics())


def test_a_message_larger_than_the_limit_is_not_carried(site):
    with site.peer("centre") as centre, site.peer("gw-a") as peer:
        peer.subscribe(topic("gw-a", "command"))
        assert centre.publish(topic("gw-a", "command"), b"y" * 60_000)
        peer.wait_for(topic("gw-a", "command"), b"y" * 60_000)
        centre._client.publish(topic("gw-a", "command"), b"y" * 80_000, qos=1)
        assert centre.lost.wait(PATIENCE_S)
        with site.peer("centre") as again:
            assert again.publish(topic("gw-a", "command"), b"last")
        peer.wait_for(topic("gw-a", "command"), b"last")
        assert max(len(payload) for _, payload, _ in peer.heard) == 60_000


def test_a_home_that_is_struck_off_the_list_hears_and_says_nothing_at_once(tmp_path):
    """Its connection and its subscription are still there; the list alone decides."""
    site = Site(tmp_path, "list")
    try:
        with site.peer("gw-a") as struck, site.peer("gw-b") as stays, site.peer("centre") as centre:
            for peer, name in ((struck, "gw-a"), (stays, "gw-b")):
                peer.subscribe(topic(name, "command"))
            assert centre.publish(topic("gw-a", "command"), b"before")
            struck.wait_for(topic("gw-a", "command"), b"before")
            site.write_config(["gw-b"])
            site.process.send_signal(signal.SIGHUP)
            ends = time.monotonic() + PATIENCE_S
            while struck.publish(topic("gw-a", "ask")) and time.monotonic() < ends:
                time.sleep(0.02)
            assert not struck.publish(topic("gw-a", "reply"))
            centre.publish(topic("gw-a", "command"), b"after")
            assert centre.publish(topic("gw-b", "command"), b"after")
            stays.wait_for(topic("gw-b", "command"), b"after")
            with site.peer("gw-b") as again:
                assert again.reached is not None
            assert (topic("gw-a", "command"), b"after", False) not in struck.heard
    finally:
        site.close()


def test_an_empty_list_lets_no_home_in_and_the_centre_stays(tmp_path):
    site = Site(tmp_path, "list")
    try:
        site.write_config([])
        site.process.send_signal(signal.SIGHUP)
        with site.peer("gw-a") as peer, site.peer("centre") as centre:
            ends = time.monotonic() + PATIENCE_S
            while peer.publish(topic("gw-a", "ask")) and time.monotonic() < ends:
                time.sleep(0.02)
            assert not any(peer.publish(topic("gw-a", branch)) for branch in (*UP, *DOWN))
            assert centre.publish(topic("gw-a", "command"))
    finally:
        site.close()
