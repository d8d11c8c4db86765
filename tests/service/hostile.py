"""Somebody who owns the broker: reads everything, writes anything, whenever it likes."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from provisioning.bench_home import ADDRESS, BenchHome

NAME = "gw-evil"


def open_the_broker_to(home: BenchHome) -> None:
    """What only the broker's owner can do: no topic is closed to it. Call before the broker starts."""
    acl = home.directory / "broker" / "acl"
    acl.write_text(acl.read_text() + f"\nuser {NAME}\ntopic readwrite #\n")


class Hostile:
    """A client with every right; keeps what it hears."""

    def __init__(self, home: BenchHome) -> None:
        identity = home.authority.issue(NAME)
        folder = home.directory / "evil"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "cert.pem").write_bytes(identity.certificate)
        (folder / "key.pem").write_bytes(identity.key)
        self._topic = f"tillsyn/v1/{home.gateway}"
        self.heard: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=NAME, protocol=mqtt.MQTTv5)
        context = ssl.create_default_context(cafile=str(home.directory / "broker" / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._client.tls_set_context(context)
        self._client.max_inflight_messages_set(0)
        self._client.max_queued_messages_set(0)
        self._client.on_connect = lambda client, *_: client.subscribe("tillsyn/#", qos=1)
        self._client.on_message = self._on_message
        self._client.connect(ADDRESS, home.broker_port)
        self._client.loop_start()

    def _on_message(self, _client: object, _user: object, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            self.heard.append((message.topic.rsplit("/", 1)[1], bytes(message.payload)))

    def commands(self) -> list[bytes]:
        with self._lock:
            return [payload for branch, payload in self.heard if branch == "command"]

    def send(self, payload: bytes, *, retain: bool = False, branch: str = "command", qos: int = 1) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = b"evil-correlation"
        self._client.publish(f"{self._topic}/{branch}", payload, qos=qos, retain=retain, properties=properties)

    def wait_for_command(self, kind: str, limit_s: float = 10.0) -> bytes:
        """The newest command of a kind that passed."""
        from gateway.protocol.envelope import split

        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            for payload in reversed(self.commands()):
                if payload.count(b"~") == 1 and split(payload.split(b"~")[1]).kind == kind:
                    return payload
            time.sleep(0.05)
        raise AssertionError(f"no {kind} passed the broker")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def hostile(home: BenchHome) -> Iterator[Hostile]:
    client = Hostile(home)
    try:
        yield client
    finally:
        client.close()
