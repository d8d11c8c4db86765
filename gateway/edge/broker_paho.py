"""MQTT 5 over TLS 1.3 with a client certificate, by paho-mqtt.

paho has its own network thread; everything crosses into the event loop by `call_soon_threadsafe` into a bounded queue.
The broker may have `RECEIVE_MAXIMUM` messages on their way to us without an acknowledgement, fewer than the queue
holds, so that a slow reader makes the broker wait. When the queue is full all the same, an incoming message is not
acknowledged and dropped (`dropped` counts): the broker still has it, for the next connection of a session.
Source: paho-mqtt 2 documentation; MQTT 5.0 §3.1.2, §3.3.2, §3.8.3 (retain handling).
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.core.error import ConfigError, TransientError

MAX_PAYLOAD_BYTES = 64 * 1024
NO_MATCHING_SUBSCRIBERS = 0x10
"""PUBACK reason code. Source: MQTT 5.0 §3.4.2.1."""
_QUEUE_LENGTH = 1024
RECEIVE_MAXIMUM = 256
FALLBACK_AFTER_S = 2.5
"""How long a first address gets for its TCP connection, and again for its TLS handshake, where there is a second one.
Both broker and operator wait on this: a home whose UDP is blocked is to be back within 5 s."""
_UP_LIMIT_S = 8.0
_CLOSED_WITHIN_S = 4.0
_LEAST_WINDOW_S = 1.0
_MOST_WINDOW_S = 60.0
_ANSWERED = (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, ssl.SSLError)
"""Somebody on the broker's side said something: the line is well, and what is wrong is wrong for everybody."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is and who we are to it; the CA is ours, no public one is trusted."""

    host: str
    port: int
    ca_path: Path
    cert_path: Path
    key_path: Path
    server_name: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message; PUBACK is sent only when `ack()` is called, from the loop's thread."""

    topic: str
    payload: bytes
    correlation: bytes
    response_topic: str | None
    retain: bool
    ack: Callable[[], None]


@dataclass(frozen=True, slots=True)
class BrokerUp:
    """Connected and subscribed; `by_fallback` when the first address could not be reached and the second one could."""

    by_fallback: bool = False


@dataclass(frozen=True, slots=True)
class BrokerDown:
    why: str


BrokerEvent = Incoming | BrokerUp | BrokerDown


@dataclass(slots=True)
class Absence:
    """How long to wait before the next try; docs/adr/0103 says why. Times are monotonic seconds, `dice` is in [0, 1).

    An outage of our own line is over soon after the line is back: up to a quarter of what it has lasted. Where the
    broker is what ended, every home was thrown off in the same moment, so each comes back at a moment of its own within
    `spread_s`: drawn once, and kept from refusal to refusal, which spreads evenly whenever the broker returns.
    """

    spread_s: float
    since_s: float
    """When the connection was last up, or when the first try began."""
    _has_been_up: bool = False
    _has_moment: bool = False

    def ended(self, now_s: float, *, by_peer: bool, dice: float) -> float:
        """The pause after a connection that had been up. A router that starts anew also ends it from the other side."""
        self.since_s, self._has_been_up, self._has_moment = now_s, True, False
        window_s = max(_LEAST_WINDOW_S, min(self.spread_s, _CLOSED_WITHIN_S)) if by_peer else _LEAST_WINDOW_S
        return window_s * dice

    def failed(self, now_s: float, *, answered: bool, dice: float) -> float:
        """The pause after a try that came to nothing; `answered` when somebody at the broker's address said no."""
        if not (answered and self._has_been_up):
            return min(max((now_s - self.since_s) / 4.0, _LEAST_WINDOW_S), _MOST_WINDOW_S) * dice
        if self._has_moment:
            return self.spread_s
        self._has_moment = True
        return self.spread_s * dice


class Broker:
    """One connection at a time, kept up for as long as `run` runs.

    With `fallback` there are two ways to the broker. Each connection is tried by the first one first.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        subscriptions: Sequence[str],
        keepalive_s: int = 30,
        session_expiry_s: int = 0,
        will: tuple[str, bytes] | None = None,
        fallback: BrokerAddress | None = None,
        spread_s: float = 1.0,
    ) -> None:
        """`session_expiry_s` 0 means that nothing is queued for us while we are away; `spread_s` is the time within
        which many of our kind come back to a broker that was restarted. Raises ConfigError.
        """
        self.up = False
        self._spread_s = spread_s
        self._came_up = False
        self._ended_by_peer = False
        self.dropped = 0
        self._ways = (address,) if fallback is None else (address, fallback)
        self._way = 0
        self._subscriptions = tuple(subscriptions)
        self._keepalive_s = keepalive_s
        self._session_expiry_s = session_expiry_s
        self._events: asyncio.Queue[BrokerEvent] = asyncio.Queue(_QUEUE_LENGTH)
        self._unacknowledged: dict[int, tuple[asyncio.Future[None], bool]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event = asyncio.Event()
        self._client_id = client_id
        self._will = will
        self._tls = tuple(_tls(each) for each in self._ways)
        self._client = self._make_client()

    async def run(self) -> None:
        """Connect, and connect again with jittered back-off, until cancelled."""
        self._loop = asyncio.get_running_loop()
        absence = Absence(self._spread_s, time.monotonic())
        answered = False
        try:
            while True:
                self._ended.clear()
                self._came_up = False
                # A client of its own for each connection: paho would send again what an older one still held, and a
                # command that arrives late is worse than one that never does.
                self._client = self._make_client()
                was_up = False
                try:
                    await asyncio.to_thread(self._connect)
                except (OSError, ValueError) as exc:
                    answered = answered or isinstance(exc, _ANSWERED)
                    self._put(BrokerDown(type(exc).__name__))
                else:
                    self._client.loop_start()
                    was_up = await self._until_ended()
                    await asyncio.to_thread(self._client.loop_stop)
                    answered = True  # TLS stood: a broker without a word, or with a no
                # The other way at once, and the first one first again after whatever worked.
                self._way = 0 if was_up else (self._way + 1) % len(self._ways)
                if self._way > 0:
                    continue
                now_s, dice = time.monotonic(), random.random()  # noqa: S311
                if was_up:
                    pause_s = absence.ended(now_s, by_peer=self._ended_by_peer, dice=dice)
                else:
                    pause_s = absence.failed(now_s, answered=answered, dice=dice)
                answered = False
                await asyncio.sleep(pause_s)
        finally:
            self._client.disconnect()
            self._client.loop_stop()
            self.up = False
            self._fail_unacknowledged()

    def move_to(self, address: BrokerAddress, fallback: BrokerAddress | None) -> None:
        """Look for the broker there from now on. Raises ConfigError where a TLS file is unusable; all stays then."""
        ways = (address,) if fallback is None else (address, fallback)
        self._tls = tuple(_tls(each) for each in ways)
        self._ways, self._way = ways, 0
        self.hang_up()

    def hang_up(self) -> None:
        """End this connection; the next one is tried by the first way. Does nothing without a connection."""
        self._client.disconnect()
        if self.up:
            self._went_down("hung up")

    async def next_event(self) -> BrokerEvent:
        return await self._events.get()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        correlation: bytes = b"",
        response_topic: str | None = None,
        expiry_s: int | None = None,
        demand_listener: bool = False,
    ) -> asyncio.Future[None]:
        """Publish at QoS 1; the future is done at PUBACK, and fails with TransientError when the connection is lost.

        With `demand_listener` it also fails when the broker took the message and had nobody to give it to: a broker
        that was started anew knows no sessions, and acknowledges what it throws away.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.up:
            done.set_exception(TransientError("no broker"))
            done.exception()  # a publisher that doesn't wait is no mistake
            return done
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if correlation:
            properties.CorrelationData = correlation
        if response_topic is not None:
            properties.ResponseTopic = response_topic
        if expiry_s is not None:
            properties.MessageExpiryInterval = expiry_s
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc not in (mqtt.MQTT_ERR_SUCCESS, mqtt.MQTT_ERR_NO_CONN):
            done.set_exception(TransientError(mqtt.error_string(info.rc)))
        else:
            self._unacknowledged[info.mid] = (done, demand_listener)
        return done

    def _make_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=mqtt.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.tls_set_context(self._tls[self._way])
        if len(self._ways) > 1:
            client.connect_timeout = FALLBACK_AFTER_S
        client.max_inflight_messages_set(64)
        if self._will is not None:
            client.will_set(self._will[0], self._will[1], qos=1, retain=True)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session_expiry_s
        properties.MaximumPacketSize = MAX_PAYLOAD_BYTES + 4096
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        self._client.connect(
            self._ways[self._way].host,
            self._ways[self._way].port,
            keepalive=self._keepalive_s,
            clean_start=self._session_expiry_s == 0,
            properties=properties,
        )

    async def _until_ended(self) -> bool:
        """Whether it had come up, however briefly."""
        began_s = time.monotonic()
        while not self._ended.is_set():
            try:
                async with asyncio.timeout(1.0):
                    await self._ended.wait()
            except TimeoutError:
                if not self._came_up and time.monotonic() - began_s > _UP_LIMIT_S:
                    # TLS stood, and nothing came after it: a path that loses what is large, or a broker that hangs.
                    self._put(BrokerDown("no answer"))
                    self._client.disconnect()
                    break
        return self._came_up

    # The following run in paho's thread.

    def _on_connect(self, _client: mqtt.Client, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._call(self._went_down, f"refused: {reason}")
            return
        # Retain handling 2: a message retained on a command topic is never delivered at subscription.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        retained = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
        if not self._subscriptions:
            self._call(self._went_up)
            return
        result, _ = self._client.subscribe(
            [(name, retained if name.endswith("/status") else options) for name in self._subscriptions]
        )
        if result != mqtt.MQTT_ERR_SUCCESS:
            self._call(self._went_down, "subscribe failed")

    def _on_subscribe(self, _client: mqtt.Client, _user: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._call(self._went_down, "subscription refused")
        else:
            self._call(self._went_up)

    def _on_disconnect(self, _client: mqtt.Client, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        # On its own side paho ends a connection that is told to, or whose pings are not answered.
        by_peer = str(reason) not in ("Normal disconnection", "Success", "Keep alive timeout")
        self._call(self._went_down, str(reason), by_peer)

    def _on_message(self, client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
        properties = message.properties
        incoming = Incoming(
            message.topic,
            bytes(message.payload),
            bytes(getattr(properties, "CorrelationData", b"") or b""),
            getattr(properties, "ResponseTopic", None),
            bool(message.retain),
            lambda: _ack(client, message),
        )
        self._call(self._put, incoming)

    def _on_publish(self, _client: mqtt.Client, _user: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._call(self._published, mid, reason.value)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return  # the loop closed in between: nobody is left to tell

    # The following run in the loop's thread.

    def _put(self, event: BrokerEvent) -> None:
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self.dropped += 1

    def _went_up(self) -> None:
        self.up = self._came_up = True
        self._put(BrokerUp(by_fallback=self._way > 0))

    def _went_down(self, why: str, by_peer: bool = False) -> None:
        if not self._ended.is_set():
            self._ended_by_peer = by_peer
        if self.up or not self._ended.is_set():
            self.up = False
            self._put(BrokerDown(why))
        self._fail_unacknowledged()
        self._ended.set()

    def _published(self, mid: int, reason: int) -> None:
        done, demand_listener = self._unacknowledged.pop(mid, (None, False))
        if done is None or done.done():
            return
        if demand_listener and reason == NO_MATCHING_SUBSCRIBERS:
            done.set_exception(TransientError("nobody listens"))
        else:
            done.set_result(None)

    def _fail_unacknowledged(self) -> None:
        for done, _ in self._unacknowledged.values():
            if not done.done():
                done.set_exception(TransientError("connection lost"))
                done.exception()
        self._unacknowledged.clear()


async def can_reach(host: str, port: int, *, limit_s: float = FALLBACK_AFTER_S) -> None:
    """Make and drop one TCP connection. Raises TransientError when there is none within `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as exc:
        raise TransientError(f"no connection: {type(exc).__name__}") from exc
    writer.transport.abort()


def _send_at_once(_client: mqtt.Client, _user: Any, sock: Any) -> None:
    # Two small messages in a row otherwise wait 40 ms for each other's acknowledgement (Nagle and delayed ACK).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _ack(client: mqtt.Client, message: mqtt.MQTTMessage) -> None:
    client.ack(message.mid, message.qos)


def _tls(address: BrokerAddress) -> ssl.SSLContext:
    """TLS 1.3, our own CA only, host name checked. Raises ConfigError when a file is missing or unusable."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cafile=address.ca_path)
        context.load_cert_chain(address.cert_path, address.key_path)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"TLS files of the broker: {exc}") from exc
    return context
