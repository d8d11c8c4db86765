"""What the gateway asks of a camera, and the one thread that every camera of ours runs in.

Theory of operation. Camera libraries block, so each open camera has exactly one thread, which captures and encodes. It
crosses to the event loop by `call_soon_threadsafe` into a `UnitQueue` of bounded length. The sensor is on from a point
inside `open()` until `close()` returns: the thread itself holds whatever is the sensor, and `close()` waits for the
thread to end. A thread that does not end in time is a CameraFaultError, and the process must end: the kernel then
closes the device.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.core.error import CameraFaultError, ConfigError, GatewayError
from gateway.edge.bench_world import BenchWorld

UNIT_TIMEOUT_S = 1.0
"""A camera that gives nothing for this long has failed."""
MOST_UNIT_TIMEOUT_S = 5.0
"""What the setting may raise it to, for a machine that is emulated."""
OPEN_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
QUEUE_UNITS = 15
"""One second at 15 fps. A reader that is further behind is better off with the newest key frame than with the past."""
LUMA_HEIGHT_PX, LUMA_WIDTH_PX = 90, 160
LUMA_INTERVAL_US = 190_000
"""Five small pictures a second at 15 fps; each costs, and the view signals come once a second."""
LEAST_BIT_RATE_BPS, MOST_BIT_RATE_BPS = 50_000, 8_000_000

NAL_IDR, NAL_SPS, NAL_PPS = 5, 7, 8
"""nal_unit_type. Source: ITU-T H.264, table 7-1."""


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """What to encode. Sizes are even; raises ConfigError for a value of the wrong type or out of range."""

    width_px: int = 1280
    height_px: int = 720
    fps: int = 15
    bit_rate_bps: int = 1_500_000
    key_interval_s: float = 2.0
    unit_timeout_s: float = UNIT_TIMEOUT_S

    def __post_init__(self) -> None:
        _demand_whole("width_px", self.width_px, 160, 1920)
        _demand_whole("height_px", self.height_px, 90, 1080)
        _demand_whole("fps", self.fps, 1, 30)
        _demand_whole("bit_rate_bps", self.bit_rate_bps, LEAST_BIT_RATE_BPS, MOST_BIT_RATE_BPS)
        if self.width_px % 2 or self.height_px % 2:
            raise ConfigError("camera: width_px and height_px must be even")
        if isinstance(self.key_interval_s, bool) or not isinstance(self.key_interval_s, int | float):
            raise ConfigError("camera: key_interval_s must be a number")
        if not 0.2 <= self.key_interval_s <= 60.0:
            raise ConfigError(f"camera: key_interval_s must be 0.2 to 60, not {self.key_interval_s}")
        if not UNIT_TIMEOUT_S <= self.unit_timeout_s <= MOST_UNIT_TIMEOUT_S:
            raise ConfigError(f"camera: unit_timeout_s must be 1 to 5, not {self.unit_timeout_s}")

    @property
    def sizes_px(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The full size and the small one."""
        return (self.width_px, self.height_px), half_px((self.width_px, self.height_px))

    @property
    def key_interval_frames(self) -> int:
        """Frames from one key frame to the next when nobody asks for one; at least 1."""
        return max(1, round(self.key_interval_s * self.fps))


@dataclass(frozen=True, slots=True)
class EncodedUnit:
    """One picture: an H.264 access unit in Annex B, constrained baseline; `key` units carry SPS, PPS and an IDR.

    `pts_us` is BOOTTIME at capture, in µs.
    """

    data: bytes
    pts_us: int
    key: bool


@dataclass(frozen=True, slots=True)
class LumaSample:
    """A small picture for the view signals: `plane` is uint8 of shape (90, 160), read-only; `pts_us` as EncodedUnit's.

    A new sample has a new `pts_us`, whether or not the picture changed.
    """

    plane: NDArray[np.uint8]
    pts_us: int


class CameraPort(Protocol):
    """A camera that is off until opened. All coroutines are for one task at a time, except `close`."""

    @property
    def width_px(self) -> int:
        """Width of the units; before `open` what was asked for, after it what it gives."""

    @property
    def height_px(self) -> int:
        """Height of the units; as `width_px`."""

    @property
    def fps(self) -> float:
        """Units in a second; as `width_px`."""

    @property
    def adapts(self) -> bool:
        """Whether `set_bit_rate_bps` changes anything; known once open. A film that is passed through keeps its own."""

    @property
    def opens(self) -> int:
        """How often the sensor was switched on by this object."""

    @property
    def dropped(self) -> int:
        """Units that nobody read in time, since the last `open`."""

    async def open(self, *, softened: bool = False) -> None:
        """Switch the sensor on. Raises CameraFaultError, and RuntimeError when open; the sensor is off after either
        of an error and a cancellation.

        `softened` holds until the close: every picture loses its detail before it is encoded. A camera that could only
        pass on what something else encoded raises CameraFaultError instead. The luma samples stay as the sensor has
        them: they never leave the device.
        """

    async def read(self) -> EncodedUnit:
        """The next unit, in order; the first one is key. Raises CameraFaultError when the camera failed, gave nothing
        for `unit_timeout_s`, or is closed (also while waiting). Safe to cancel: no unit is lost.
        """

    def request_key_frame(self) -> None:
        """Ask for a key unit as soon as possible; several requests before it count as one."""

    def set_bit_rate_bps(self, bit_rate_bps: int) -> None:
        """Aim at this rate from the next picture on, where the camera encodes. ValueError out of 50 k to 8 M."""

    def set_small(self, small: bool) -> None:
        """Give half the width and height from one of the next pictures on, or the whole again; also before `open`.

        The first unit of another size is key; `width_px` and `height_px` say what is given by now. A camera that does
        not encode (a film passed through) keeps its size.
        """

    def luma(self) -> LumaSample | None:
        """The newest small picture; None while closed and before the first."""

    async def close(self) -> None:
        """Switch the sensor off; it is off when this returns. Repeating it is allowed. Unread units are gone.

        Raises CameraFaultError if that took more than 2 s: end the process. Cancelled, the sensor still goes off.
        """


class UnitQueue:
    """A bounded queue of units that never gives a reader a unit whose reference is missing.

    Drop rule: full, it drops its oldest units up to the next key unit; without one in the queue it drops all and takes
    nothing until a key unit comes, which `wants_key` asks for. `dropped` counts.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._units: deque[EncodedUnit] = deque()
        self.wants_key = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._units)

    def put(self, unit: EncodedUnit) -> None:
        """Take a unit, or drop by the rule."""
        if unit.key:
            self.wants_key = False
        if self.wants_key:
            self.dropped += 1
            return
        if len(self._units) >= self._limit:
            self._drop_oldest()
            if not self._units and not unit.key:
                self.wants_key = True
                self.dropped += 1
                return
        self._units.append(unit)

    def take(self) -> EncodedUnit | None:
        """The oldest unit, or None."""
        return self._units.popleft() if self._units else None

    def clear(self) -> None:
        self._units.clear()

    def _drop_oldest(self) -> None:
        self._units.popleft()
        self.dropped += 1
        while self._units and not self._units[0].key:
            self._units.popleft()
            self.dropped += 1


class ThreadedCamera(ABC):
    """The CameraPort that the adapters share; an adapter is its `_capture`.

    With a `world`, its sensor is held while the camera is on, so that tests see every camera in the same way.
    """

    first_unit_timeout_s: ClassVar[float] = UNIT_TIMEOUT_S
    """How long the first unit may take: hardware settles its exposure first."""

    device_nodes: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the paths that are closed when the sensor is off; a closed camera that holds one is a fault."""

    def __init__(self, settings: CameraSettings, world: BenchWorld | None = None) -> None:
        self.settings = settings
        self.world = world
        self._size_px = (settings.width_px, settings.height_px)
        self._fps = float(settings.fps)
        self._bit_rate_bps = settings.bit_rate_bps
        self._small = False
        self._softened = False
        self._opens = 0
        self._stop = threading.Event()
        self._key_wanted = threading.Event()
        self._poke = threading.Event()
        self._thread: threading.Thread | None = None
        self._reading = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue = UnitQueue(QUEUE_UNITS)
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._running: asyncio.Future[None] | None = None
        self._fault: BaseException | None = None
        self._seen_first = False
        self._luma: LumaSample | None = None

    @property
    def width_px(self) -> int:
        return self._size_px[0]

    @property
    def height_px(self) -> int:
        return self._size_px[1]

    @property
    def fps(self) -> float:
        return self._fps

    @property
    def adapts(self) -> bool:
        return True

    @property
    def opens(self) -> int:
        return self._opens

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    async def open(self, *, softened: bool = False) -> None:
        """See CameraPort.open."""
        if self._thread is not None:
            raise RuntimeError("the camera is open already")
        self._softened = softened
        self._loop = asyncio.get_running_loop()
        self._queue = UnitQueue(QUEUE_UNITS)
        self._changed, self._ended = asyncio.Event(), asyncio.Event()
        self._running = self._loop.create_future()
        self._fault, self._seen_first, self._luma = None, False, None
        self._stop.clear()
        self._key_wanted.clear()
        self._poke.clear()
        self._reading = True
        # A daemon: if the loop dies without closing us, the process must still end, and with it the device.
        self._thread = threading.Thread(target=self._run, name=f"camera-{type(self).__name__}", daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self._running
        except BaseException as error:
            # The first error is the one to report; a thread that also hangs shows at the next close().
            with contextlib.suppress(CameraFaultError):
                await self.close()
            if isinstance(error, TimeoutError):
                raise CameraFaultError(f"the camera did not start within {OPEN_TIMEOUT_S:g} s") from error
            raise

    async def read(self) -> EncodedUnit:
        """See CameraPort.read."""
        limit_s = self.settings.unit_timeout_s
        if not self._seen_first:
            limit_s = max(limit_s, self.first_unit_timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                while not self._queue and self._fault is None and self._reading:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            # A loop that was held up sees the units and the timeout in the same turn: the units count.
            if not self._queue:
                raise CameraFaultError(f"the camera gave no picture for {limit_s:g} s") from None
        unit = self._queue.take()
        if unit is not None:
            self._seen_first = True
            return unit
        if isinstance(self._fault, GatewayError):
            raise CameraFaultError(str(self._fault)) from self._fault
        if self._fault is not None:
            raise self._fault
        raise CameraFaultError("the camera is closed")

    def request_key_frame(self) -> None:
        """See CameraPort.request_key_frame."""
        self._key_wanted.set()
        self._poke.set()

    def set_bit_rate_bps(self, bit_rate_bps: int) -> None:
        """See CameraPort.set_bit_rate_bps; it also holds for the next `open`."""
        if not LEAST_BIT_RATE_BPS <= bit_rate_bps <= MOST_BIT_RATE_BPS:
            raise ValueError(f"a bit rate is {LEAST_BIT_RATE_BPS} to {MOST_BIT_RATE_BPS} bit/s, not {bit_rate_bps}")
        self._bit_rate_bps = bit_rate_bps

    def set_small(self, small: bool) -> None:
        """See CameraPort.set_small; it also holds for the next `open`."""
        self._small = small

    def luma(self) -> LumaSample | None:
        """See CameraPort.luma."""
        return self._luma

    async def close(self) -> None:
        """See CameraPort.close."""
        self._stop.set()
        self._poke.set()
        self._reading = False
        self._queue.clear()
        self._luma = None
        self._changed.set()
        thread = self._thread
        if thread is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            raise CameraFaultError(f"the camera did not stop within {CLOSE_TIMEOUT_S:g} s") from None
        # `_ended` is the last thing the thread does, so this join is over at once.
        thread.join(CLOSE_TIMEOUT_S)
        self._thread = None
        self._luma = None
        if held := held_nodes(self.device_nodes):
            # The library says that it is closed. The kernel closes it for certain, with the process.
            raise CameraFaultError(f"the closed camera still holds {', '.join(held)}")

    @abstractmethod
    def _capture(self) -> None:
        """Run the camera in its thread until `_stop` is set; leave the device closed, whatever happens.

        Calls `_opened` once the device gives pictures, then `_deliver` and, where `_wants_luma`, `_show` for each. With
        `_softened` what it encodes has been through a Softener. Library errors are translated to CameraFaultError here;
        any other error is a mistake of ours and reaches the reader as it is.
        """

    def _opened(self, width_px: int, height_px: int, fps: float) -> None:
        """Thread: the sensor is on, and this is what it gives."""
        self._cross(self._on_opened, (width_px, height_px), fps)

    def _resized(self, width_px: int, height_px: int) -> None:
        """Thread: units of this size follow."""
        self._cross(self._on_resized, (width_px, height_px))

    def _deliver(self, unit: EncodedUnit) -> None:
        """Any thread: hand a unit over."""
        self._cross(self._on_unit, unit)

    def _wants_luma(self, pts_us: int) -> bool:
        """Thread: whether a small picture is wanted of the picture captured then; some in a second are enough."""
        newest = self._luma
        return newest is None or pts_us - newest.pts_us >= LUMA_INTERVAL_US

    def _show(self, luma: NDArray[np.uint8], pts_us: int) -> None:
        """Thread: hand over a luma plane of any size, from which the small picture is taken."""
        if not self._stop.is_set():
            self._luma = LumaSample(small_luma(luma), pts_us)

    def _take_key_request(self) -> bool:
        """Thread: whether a key unit was asked for since the last call."""
        wanted = self._key_wanted.is_set()
        if wanted:
            self._key_wanted.clear()
        return wanted

    def _run(self) -> None:
        fault: BaseException | None = None
        try:
            with self.world.hold_sensor() if self.world is not None else contextlib.nullcontext():
                self._capture()
            if not self._stop.is_set():
                fault = CameraFaultError("the camera stopped by itself")
        except BaseException as error:  # noqa: BLE001  crosses to the reader, which raises it
            fault = error
        self._cross(self._on_ended, fault)

    def _cross(self, call: object, *arguments: object) -> None:
        loop = self._loop
        assert loop is not None
        assert callable(call)
        try:
            loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # The loop is closed: nobody will ever read, so nothing may go on being captured.
            self._stop.set()
            self._poke.set()

    def _on_opened(self, size_px: tuple[int, int], fps: float) -> None:
        self._size_px, self._fps = size_px, fps
        self._opens += 1
        if self._running is not None and not self._running.done():
            self._running.set_result(None)

    def _on_resized(self, size_px: tuple[int, int]) -> None:
        self._size_px = size_px

    def _on_unit(self, unit: EncodedUnit) -> None:
        if not self._reading:
            return
        self._queue.put(unit)
        if self._queue.wants_key:
            self._key_wanted.set()
        self._changed.set()

    def _on_ended(self, fault: BaseException | None) -> None:
        self._fault = fault
        self._changed.set()
        self._ended.set()
        if self._running is not None and not self._running.done():
            self._running.set_exception(fault or CameraFaultError("the camera was closed while it started"))
            # Nobody may be waiting any more, and then nobody would retrieve it.
            self._running.exception()


class Pacer:
    """Waits for moments at a steady rate; for the thread of a camera whose source has no time of its own.

    `poke` ends a wait early: with `stop` set for good, without it because the next picture is wanted now.
    """

    def __init__(self, stop: threading.Event, poke: threading.Event) -> None:
        self._stop = stop
        self._poke = poke
        self._start_s: float | None = None

    def restart(self) -> None:
        """Let the next `wait_until` be now."""
        self._start_s = None

    def wait_until(self, offset_s: float) -> bool:
        """Sleep until `offset_s` after the first call, whose offset is "now"; True when the camera is to stop."""
        now_s = time.monotonic()
        # After a stop of the process the past is not made up for in a burst.
        if self._start_s is None or now_s - (self._start_s + offset_s) > 0.5:
            self._start_s = now_s - offset_s
        if self._poke.wait(max(0.0, self._start_s + offset_s - now_s)):
            self._poke.clear()
        return self._stop.is_set()


def held_nodes(beginnings: tuple[str, ...], process: Path = Path("/proc/self")) -> tuple[str, ...]:
    """The files whose paths begin so and that `process` has open, sorted. Source: proc(5), /proc/pid/fd.

    Raises CameraFaultError where that can't be told.
    """
    if not beginnings:
        return ()
    held = set()
    try:
        links = list((process / "fd").iterdir())
    except OSError as error:
        raise CameraFaultError(f"nobody can tell whether the camera is closed: {error}") from error
    for link in links:
        with contextlib.suppress(OSError):
            held.add(str(link.readlink()))
    return tuple(sorted(path for path in held if path.startswith(beginnings)))


def half_px(size_px: tuple[int, int]) -> tuple[int, int]:
    """Half of a size, even."""
    return max(2, size_px[0] // 4 * 2), max(2, size_px[1] // 4 * 2)


def small_luma(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean of four points in each cell of a 90 x 160 grid over `plane` (uint8, 2-D, any size); read-only.

    Four points, not the whole cell: a fiftieth of the work at 1280 x 720, and enough to keep sensor noise visible, by
    which a frozen picture is told from a quiet one.
    """
    height_px, width_px = plane.shape
    total = np.zeros((LUMA_HEIGHT_PX, LUMA_WIDTH_PX), np.uint16)
    for down in (0.25, 0.75):
        rows = _points(height_px, LUMA_HEIGHT_PX, down)
        for across in (0.25, 0.75):
            columns = _points(width_px, LUMA_WIDTH_PX, across)
            total += plane[rows, columns] if isinstance(rows, slice) else plane[rows, :][:, columns]
    small = (total >> 2).astype(np.uint8)
    small.setflags(write=False)
    return small


def _points(size_px: int, cells: int, share: float) -> slice | NDArray[np.intp]:
    """One point in each cell. Of cells that are whole pixels a slice, which numpy reads four times as fast."""
    step = size_px // cells
    if step * cells == size_px:
        return slice(int(share * step), None, step)
    return ((np.arange(cells) + share) * size_px / cells).astype(np.intp)


def nal_types(data: bytes) -> tuple[int, ...]:
    """The nal_unit_types of an Annex B unit, in order. Source: ITU-T H.264, 7.3.1 and B.1."""
    found = []
    at = data.find(b"\0\0\1")
    while at != -1 and at + 3 < len(data):
        found.append(data[at + 3] & 0x1F)
        at = data.find(b"\0\0\1", at + 3)
    return tuple(found)


def _demand_whole(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"camera: {name} must be a whole number, not {value!r}")
    if not least <= value <= most:
        raise ConfigError(f"camera: {name} must be {least} to {most}, not {value}")
