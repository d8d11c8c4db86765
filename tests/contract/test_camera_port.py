"""One suite for every camera that runs without hardware: the drawn room, a film passed through, a film encoded."""

import asyncio
import itertools
import subprocess
import sys
import threading
import time
from fractions import Fraction
from importlib.util import find_spec

import av
import pytest

from gateway.config import EyeConfig
from gateway.core.boottime import boottime_s
from gateway.core.error import CameraFaultError, ConfigError
from gateway.edge import camera_port
from gateway.edge.bench_world import BenchWorld, RoomScene
from gateway.edge.camera_file import FileCamera
from gateway.edge.camera_open import make_camera
from gateway.edge.camera_port import (
    NAL_IDR,
    NAL_PPS,
    NAL_SPS,
    UNIT_TIMEOUT_S,
    CameraSettings,
    EncodedUnit,
    ThreadedCamera,
    UnitQueue,
    nal_types,
)
from gateway.edge.camera_room import RoomPainter

pytestmark = pytest.mark.slow

SETTINGS = CameraSettings()
KINDS = ("room", "passed", "encoded")


def make_film(path, *, options, fps, frames, gop, size=(1280, 720)):
    painter = RoomPainter()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 1_500_000
        stream.time_base = Fraction(1, fps)
        stream.codec_context.gop_size = gop
        stream.options = {"preset": "ultrafast", "threads": "1", "sc_threshold": "0", **options}
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(painter.paint(RoomScene(), 0.0, index / fps), "yuv420p")
            frame = frame.reformat(width=size[0], height=size[1])
            frame.pts = index
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {
        "passed": make_film(folder / "as-sent.mp4", options={"profile": "baseline"}, fps=15, frames=45, gop=15),
        "encoded": make_film(
            folder / "high.mkv", options={"bf": "2", "preset": "veryfast"}, fps=30, frames=45, gop=30, size=(1600, 900)
        ),
        "raw": make_film(
            folder / "raw.h264", options={"profile": "baseline"}, fps=15, frames=20, gop=10, size=(640, 360)
        ),
    }


@pytest.fixture
def world(tmp_path):
    return BenchWorld(tmp_path / "world")


@pytest.fixture(params=KINDS)
def spec(request, films):
    return "room" if request.param == "room" else f"file:{films[request.param]}"


@pytest.fixture
def camera(spec, world):
    return make_camera(spec, SETTINGS, world)


async def read_units(camera, count):
    return [await camera.read() for _ in range(count)]


def decode(units):
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = []
    for unit in units:
        frames += decoder.decode(av.Packet(unit.data))
    return frames + decoder.decode(None)


def camera_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("camera-")]


def test_nothing_is_opened_before_open(camera, world):
    # Mutation: hold_sensor in ThreadedCamera.__init__.
    assert world.sensor_opens() == 0
    assert not world.sensor_on()
    assert camera.opens == 0
    assert camera.luma() is None
    assert camera_threads() == []


def test_it_streams_constrained_baseline_at_its_rate_and_the_sensor_is_on_meanwhile(camera, world):
    async def session():
        await camera.open()
        assert world.sensor_on()
        first = await camera.read()
        began_s = time.monotonic()
        units = [first, *await read_units(camera, 15)]
        took_s = time.monotonic() - began_s
        sample = camera.luma()
        await camera.close()
        return units, took_s, sample

    units, took_s, sample = asyncio.run(session())
    first = units[0]
    assert first.key
    types = nal_types(first.data)
    assert types.index(NAL_SPS) < types.index(NAL_PPS) < types.index(NAL_IDR)
    # profile_idc 66 with constraint_set1: constrained baseline. Source: ITU-T H.264, A.2.1.1.
    at = first.data.index(b"\0\0\1\x67") + 4
    assert first.data[at] == 66
    assert first.data[at + 1] & 0x40
    assert 0.6 < took_s < 3.0
    frames = decode(units)
    assert len(frames) == 16
    assert {(frame.width, frame.height) for frame in frames} == {(camera.width_px, camera.height_px)} == {(1280, 720)}
    assert camera.fps == pytest.approx(15)
    assert all(unit.key == (NAL_IDR in nal_types(unit.data)) for unit in units)
    assert sample.plane.shape == (90, 160)
    assert sample.plane.dtype == "uint8"
    assert not sample.plane.flags.writeable
    assert 60 < sample.plane.mean() < 200


def test_capture_times_are_boottime_and_rise(camera):
    async def session():
        before_us = boottime_s() * 1e6
        await camera.open()
        units = await read_units(camera, 4)
        after_us = boottime_s() * 1e6
        await camera.close()
        return before_us, [unit.pts_us for unit in units], after_us

    before_us, times_us, after_us = asyncio.run(session())
    assert before_us <= times_us[0] < times_us[1] < times_us[2] < times_us[3] <= after_us


def test_a_key_unit_comes_within_three_after_it_was_asked_for(camera):
    async def session():
        await camera.open()
        units = await read_units(camera, 3)
        for _ in range(2):
            camera.request_key_frame()
            camera.request_key_frame()
            answer = await read_units(camera, 3)
            assert any(unit.key and NAL_SPS in nal_types(unit.data) for unit in answer)
            units += answer
            units += await read_units(camera, 2)
        await camera.close()
        return units

    assert len(decode(asyncio.run(session()))) == 13


def test_close_switches_the_sensor_off_and_ends_the_thread_and_repeating_it_is_allowed(camera, world):
    # Mutation: return from close() without waiting for the thread.
    async def session():
        await camera.open()
        await camera.read()
        assert len(camera_threads()) == 1
        await camera.close()
        assert not world.sensor_on()
        assert camera_threads() == []
        assert camera.luma() is None
        await camera.close()
        with pytest.raises(CameraFaultError):
            await camera.read()

    asyncio.run(session())


def test_it_opens_again_after_close_and_begins_with_a_key_unit(camera, world):
    async def session():
        for _ in range(2):
            await camera.open()
            assert (await camera.read()).key
            await camera.close()

    asyncio.run(session())
    assert camera.opens == world.sensor_opens() == 2
    assert not world.sensor_on()


def test_a_closed_camera_can_be_opened_on_another_loop(camera):
    async def session():
        await camera.open()
        unit = await camera.read()
        await camera.close()
        return unit

    assert asyncio.run(session()).key
    assert asyncio.run(session()).key


def test_opening_it_twice_is_a_mistake_of_ours_and_leaves_it_running(camera):
    async def session():
        await camera.open()
        with pytest.raises(RuntimeError):
            await camera.open()
        await camera.read()
        await camera.close()

    asyncio.run(session())


def test_two_cameras_can_not_have_the_sensor_and_the_second_leaves_it_to_the_first(camera, spec, world):
    async def session():
        await camera.open()
        second = make_camera(spec, SETTINGS, world)
        with pytest.raises(CameraFaultError, match="in use"):
            await second.open()
        await second.close()
        assert world.sensor_on()
        await camera.read()
        await camera.close()

    asyncio.run(session())
    assert not world.sensor_on()


def test_a_cancelled_read_loses_nothing_and_a_read_ends_when_the_camera_is_closed(camera):
    async def session():
        await camera.open()
        units = []
        for _ in range(6):
            task = asyncio.ensure_future(camera.read())
            await asyncio.sleep(0.01)
            if not task.done():
                task.cancel()
            try:
                units.append(await task)
            except asyncio.CancelledError:
                units.append(await camera.read())
        assert len(decode(units)) == 6
        waiting = asyncio.ensure_future(camera.read())
        await asyncio.sleep(0)
        while camera._queue:
            await waiting
            waiting = asyncio.ensure_future(camera.read())
            await asyncio.sleep(0)
        began_s = time.monotonic()
        await camera.close()
        # Either it had just got its unit, or it ends with the camera.
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(outcome, EncodedUnit | CameraFaultError)
        with pytest.raises(CameraFaultError):
            await camera.read()
        assert time.monotonic() - began_s < 0.9

    asyncio.run(session())


def test_a_cancelled_open_leaves_the_sensor_off(camera, world):
    async def session():
        task = asyncio.ensure_future(camera.open())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not world.sensor_on()
        assert camera_threads() == []

    asyncio.run(session())


def test_a_reader_that_stops_reading_costs_bounded_memory_and_gets_a_picture_that_decodes(camera, monkeypatch):
    # Mutation: UnitQueue(10**9).
    monkeypatch.setattr(camera_port, "QUEUE_UNITS", 4)

    async def session():
        await camera.open()
        await camera.read()
        async with asyncio.timeout(20):
            while not camera.dropped:
                await asyncio.sleep(0.05)
        assert len(camera._queue) <= 4
        units = await read_units(camera, 3)
        assert units[0].key
        assert len(decode(units)) == 3
        await camera.close()

    asyncio.run(session())


OPEN_AND_HANG = """
import asyncio, sys, time
from gateway.edge.bench_world import BenchWorld
from gateway.edge.camera_open import make_camera
from gateway.edge.camera_port import CameraSettings


async def main():
    camera = make_camera(sys.argv[2], CameraSettings(), BenchWorld(sys.argv[1]))
    await camera.open()
    await camera.read()
    print("on", flush=True)
    time.sleep(60)
asyncio.run(main())
"""


def test_the_death_of_the_process_switches_the_sensor_off(spec, world):
    process = subprocess.Popen([sys.executable, "-c", OPEN_AND_HANG, str(world.path), spec], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"on\n"
        assert world.sensor_on()
        process.kill()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert not world.sensor_on()
    assert world.sensor_opens() == 1


def test_no_picture_for_a_second_is_a_camera_fault(world):
    # Mutation: UNIT_TIMEOUT_S = 1e9.
    camera = make_camera("room", SETTINGS, world)

    async def session():
        await camera.open()
        await camera.read()
        world.set_scene(RoomScene(no_frames=True))
        began_s = time.monotonic()
        with pytest.raises(CameraFaultError, match="no picture"):
            await read_units(camera, 20)
        took_s = time.monotonic() - began_s
        await camera.close()
        return took_s

    assert 0.9 < asyncio.run(session()) < 2.0
    assert not world.sensor_on()


def test_the_second_may_be_made_longer_within_bounds_and_never_shorter(world):
    # Mutations: in CameraSettings `unit_timeout_s: float = MOST_UNIT_TIMEOUT_S`; in EyeConfig `picture_limit_s` = 5.0.
    assert CameraSettings().unit_timeout_s == UNIT_TIMEOUT_S == 1.0
    eye = EyeConfig(camera="room", eye_socket="/run/eye.sock", demand_isolation=True)
    assert eye.picture_limit_s == UNIT_TIMEOUT_S
    for wrong in (0.5, 5.1):
        with pytest.raises(ConfigError, match="unit_timeout_s"):
            CameraSettings(unit_timeout_s=wrong)


def test_a_raw_film_is_passed_through_at_its_own_size_and_loops(films):
    camera = FileCamera(films["raw"], SETTINGS)

    async def session():
        await camera.open()
        units = await read_units(camera, 22)
        await camera.close()
        return units

    units = asyncio.run(session())
    assert camera.passes_through
    assert (camera.width_px, camera.height_px) == (640, 360)
    assert units[20].key
    assert all(NAL_SPS in nal_types(unit.data) for unit in units if unit.key)
    assert len(decode(units)) == 22


def test_only_what_we_would_send_ourselves_is_passed_through(films):
    async def session(film, settings):
        camera = FileCamera(film, settings)
        await camera.open()
        await camera.read()
        await camera.close()
        return camera.passes_through, (camera.width_px, camera.height_px)

    assert asyncio.run(session(films["passed"], SETTINGS)) == (True, (1280, 720))
    assert asyncio.run(session(films["encoded"], SETTINGS)) == (False, (1280, 720))
    small = CameraSettings(width_px=640, height_px=480)
    assert asyncio.run(session(films["passed"], small)) == (False, (640, 360))


def test_a_film_that_is_missing_or_none_says_what_to_do(tmp_path, world):
    (tmp_path / "words.mp4").write_text("not a film" * 100)
    for name, advice in (("none.mp4", "put one there"), ("words.mp4", "convert it")):
        camera = make_camera(f"file:{tmp_path / name}", SETTINGS, world)
        with pytest.raises(CameraFaultError, match=advice):
            asyncio.run(camera.open())
        assert camera.opens == 0
        assert not world.sensor_on()


@pytest.mark.parametrize("path", ["/dev/video-none", "/dev/null"])
def test_a_device_that_is_missing_or_no_camera_is_a_camera_fault(path, world):
    camera = make_camera(f"v4l2:{path}", SETTINGS, world)
    with pytest.raises(CameraFaultError, match=path):
        asyncio.run(camera.open())
    assert not world.sensor_on()


def test_a_board_camera_without_its_libraries_is_a_camera_fault(world):
    if find_spec("picamera2") is not None:
        pytest.skip("picamera2 is installed")
    camera = make_camera("picamera2", SETTINGS, world)
    with pytest.raises(CameraFaultError, match="apt install"):
        asyncio.run(camera.open())


@pytest.mark.parametrize(
    "wrong", ["", "rooms", "room:", "file:", "file", "v4l2:", "v4l2:video0", "picamera2:0", "http://x"]
)
def test_an_unknown_camera_is_refused_with_the_list_of_known_ones(wrong, world):
    with pytest.raises(ConfigError, match="v4l2:/dev/videoN"):
        make_camera(wrong, SETTINGS, world)


def test_the_room_needs_a_world_and_a_size_it_is_drawn_for(world):
    with pytest.raises(ConfigError):
        make_camera("room", SETTINGS, None)
    with pytest.raises(ConfigError):
        make_camera("room", CameraSettings(width_px=800, height_px=600), world)


@pytest.mark.parametrize(
    "wrong",
    [{"width_px": 1281}, {"fps": 0}, {"fps": True}, {"fps": 15.0}, {"bit_rate_bps": 1}, {"key_interval_s": 0}],
)
def test_settings_that_can_not_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        CameraSettings(**wrong)


class Stuck(ThreadedCamera):
    """A driver that does not come back."""

    def __init__(self):
        super().__init__(SETTINGS)
        self.freed = threading.Event()

    def _capture(self):
        self._opened(2, 2, 1.0)
        self.freed.wait()


class Broken(ThreadedCamera):
    """A mistake of ours in the thread."""

    def _capture(self):
        self._opened(2, 2, 1.0)
        raise ZeroDivisionError


def test_a_camera_that_does_not_stop_is_a_camera_fault_and_is_not_opened_again(monkeypatch):
    monkeypatch.setattr(camera_port, "CLOSE_TIMEOUT_S", 0.05)
    camera = Stuck()

    async def session():
        await camera.open()
        with pytest.raises(CameraFaultError, match="did not stop"):
            await camera.close()
        with pytest.raises(RuntimeError):
            await camera.open()
        camera.freed.set()
        await camera.close()

    asyncio.run(session())


def test_our_own_mistake_in_the_thread_reaches_the_reader_as_it_is():
    async def session():
        camera = Broken(SETTINGS)
        await camera.open()
        with pytest.raises(ZeroDivisionError):
            await camera.read()
        await camera.close()

    asyncio.run(session())


def unit(number, *, key=False):
    return EncodedUnit(b"", number, key)


def test_a_full_queue_drops_up_to_the_next_key_unit():
    queue = UnitQueue(4)
    for number, key in enumerate((True, False, True, False, False)):
        queue.put(unit(number, key=key))
    assert queue.dropped == 2
    assert [queue.take().pts_us for _ in range(3)] == [2, 3, 4]
    assert queue.take() is None


def test_a_full_queue_without_a_key_unit_waits_for_one_and_asks_for_it():
    queue = UnitQueue(3)
    for number in range(3):
        queue.put(unit(number, key=number == 0))
    queue.put(unit(3))
    assert queue.wants_key
    queue.put(unit(4))
    assert len(queue) == 0
    queue.put(unit(5, key=True))
    assert not queue.wants_key
    assert queue.take().pts_us == 5
    assert queue.dropped == 5


def test_the_small_size_comes_with_a_key_unit_and_the_whole_one_comes_back(camera, spec):
    """A film that is passed through keeps its size; that is what its docstring says, and what is seen here."""

    # Mutation: return False from Libx264Encoder.set_size_px without taking the size.
    async def session():
        await camera.open()
        units = await read_units(camera, 2)
        seen = []
        for small in (True, False):
            camera.set_small(small)
            later = await read_units(camera, 5)
            seen.append((camera.width_px, camera.height_px))
            units += later
        await camera.close()
        return units, seen

    units, seen = asyncio.run(session())
    full_px, small_px = SETTINGS.sizes_px
    passed = isinstance(camera, FileCamera) and camera.passes_through
    assert seen == ([full_px, full_px] if passed else [small_px, full_px])
    sizes = [(frame.width, frame.height) for frame in decode(units)]
    assert len(sizes) == 12
    assert sizes[0] == sizes[-1] == full_px
    assert (small_px in sizes) is not passed
    changes = [index for index, (a, b) in enumerate(itertools.pairwise(sizes), 1) if a != b]
    assert len(changes) == (0 if passed else 2)
    assert all(units[index].key for index in changes)


class LeakyCamera(ThreadedCamera):
    """A library that says it is closed and keeps its device open."""

    def _capture(self):
        self._opened(640, 360, 15)
        self._stop.wait(10)


def test_a_closed_camera_that_still_holds_its_device_is_a_fault(tmp_path):
    # Mutation: drop the question after the thread's end in close().
    node = tmp_path / "video0"
    node.touch()

    async def session(held):
        camera = LeakyCamera(SETTINGS)
        camera.device_nodes = (str(tmp_path / "video"),)
        await camera.open()
        with node.open():
            if held:
                with pytest.raises(CameraFaultError, match="video0"):
                    await camera.close()
        if not held:
            await camera.close()

    asyncio.run(session(True))
    asyncio.run(session(False))


def test_where_nobody_can_tell_what_is_held_it_is_a_fault(tmp_path):
    assert camera_port.held_nodes(()) == ()
    with pytest.raises(CameraFaultError):
        camera_port.held_nodes(("/dev/video",), tmp_path)
