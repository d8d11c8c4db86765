"""The drawn room and the encoder: what is seen follows the servo, and a marker survives the way through H.264."""

import asyncio

import av
import numpy as np
import pytest

from gateway.core.boottime import boottime_s
from gateway.edge.bench_world import BenchWorld, RoomScene
from gateway.edge.camera_file import luma_plane
from gateway.edge.camera_port import NAL_IDR, NAL_PPS, NAL_SPS, CameraSettings, nal_types, small_luma
from gateway.edge.camera_room import HEIGHT_PX, RoomCamera, RoomPainter, find_marker, marker_luma
from gateway.edge.h264_libx264 import Libx264Encoder
from gateway.edge.mount_gpiozero import GpiozeroMount
from gateway.mount.calibration import Calibration

SETTINGS = CameraSettings()
PARKED, AIMED = 1.0, 0.0


@pytest.fixture(scope="module")
def painter():
    return RoomPainter()


@pytest.fixture
def world(tmp_path):
    return BenchWorld(tmp_path / "world")


def luma_of(painter, scene=None, raised=AIMED, at_s=0.0):
    return painter.paint(scene or RoomScene(), raised, at_s)[:HEIGHT_PX].copy()


def small_of(painter, **scene):
    painter.paint(RoomScene(**scene), AIMED, 0.0)
    return small_luma(painter.sensor_luma()).astype(int)


def decode_last(units):
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [frame for unit in units for frame in decoder.decode(av.Packet(unit.data))]
    return luma_plane((frames + decoder.decode(None))[-1])


@pytest.mark.slow
def test_the_ceiling_is_not_the_bed_and_on_the_way_there_is_neither(painter):
    views = [luma_of(painter, raised=raised).astype(int) for raised in (PARKED, 0.5, AIMED)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert np.abs(views[one] - views[other]).mean() > 15


@pytest.mark.slow
def test_a_small_turn_moves_the_picture_a_little(painter):
    # 0.01 of the way is 14 rows.
    still, moved = luma_of(painter, raised=0.50).astype(int), luma_of(painter, raised=0.51).astype(int)
    assert np.abs(still[:600, 200:] - moved[14:614, 200:]).mean() < 8


@pytest.mark.parametrize("raised", [-9.0, 9.0])
def test_a_servo_beyond_the_scene_shows_its_edge(painter, raised):
    assert luma_of(painter, raised=raised).shape == (720, 1280)


def test_somebody_in_the_bed_is_seen_and_breathes(painter):
    person, empty = small_of(painter), small_of(painter, person=False)
    assert np.abs(person - empty).max() > 60
    inhaled, exhaled = (luma_of(painter, at_s=at_s)[300:560, 560:760].astype(int) for at_s in (0.0, 2.25))
    assert np.abs(inhaled - exhaled).mean() > 3


def test_darkness_and_a_covered_lens_are_seen(painter):
    lit, dark, covered = small_of(painter), small_of(painter, light=0.1), small_of(painter, covered=True)
    assert lit.mean() > 90
    assert dark.mean() < 35
    assert covered.std() < 4


@pytest.mark.slow
@pytest.mark.parametrize("light", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("raised", [PARKED, 0.5, AIMED])
def test_no_sum_of_scene_noise_and_vignette_wraps(painter, light, raised):
    # A wrapped value is a bright dot in a dark picture or a dark one in a bright: far from all its neighbours.
    luma = luma_of(painter, RoomScene(light=light, person=False), raised).astype(int)[:650]
    jumps = np.abs(np.diff(luma, axis=1))
    assert jumps.max() < 180
    assert luma.min() > 0
    assert luma.max() < 255


@pytest.mark.slow
def test_two_pictures_differ_by_noise_alone_unless_frozen(painter, world):
    assert np.abs(luma_of(painter).astype(int) - luma_of(painter).astype(int)).mean() > 1
    camera = RoomCamera(SETTINGS, world)
    world.set_scene(RoomScene(frozen=True))

    async def session():
        await camera.open()
        samples = []
        for _ in range(6):
            await camera.read()
            samples.append(camera.luma())
        await camera.close()
        return samples

    first, *_, last = asyncio.run(session())
    assert last.pts_us > first.pts_us
    assert np.array_equal(first.plane, last.plane)


@pytest.mark.slow
@pytest.mark.parametrize("scene", [RoomScene(), RoomScene(light=0.0), RoomScene(covered=True)])
@pytest.mark.parametrize("raised", [PARKED, AIMED])
def test_the_marker_survives_h264_and_is_nowhere_else(painter, scene, raised):
    encoder = Libx264Encoder(1280, 720, SETTINGS)
    units = [encoder.encode(painter.paint(scene, raised, n / 15), pts_us=n, key=n == 3) for n in range(6)]
    shown = decode_last(units)
    assert find_marker(shown)
    assert not find_marker(shown[:-16])
    assert not find_marker(shown[::-1])
    assert not find_marker(255 - shown)
    assert not find_marker(painter.sensor_luma())


@pytest.mark.slow
@pytest.mark.parametrize("divisor", [2, 4])
def test_the_marker_is_found_in_a_smaller_stream(world, divisor):
    settings = CameraSettings(width_px=1280 // divisor, height_px=720 // divisor, bit_rate_bps=400_000)
    camera = RoomCamera(settings, world)

    async def session():
        await camera.open()
        units = [await camera.read() for _ in range(3)]
        await camera.close()
        return units

    shown = decode_last(asyncio.run(session()))
    assert shown.shape == (720 // divisor, 1280 // divisor)
    assert find_marker(shown)


def test_the_marker_is_the_same_for_ever():
    marker = marker_luma()
    assert marker.shape == (64, 64)
    assert (marker[::8, ::8] > 128).sum() == 32
    assert np.packbits(marker[::8, ::8] > 128).tobytes().hex() == "d5e5948117b99b83"


@pytest.mark.parametrize("plane", [np.zeros((720, 1280), np.uint8), np.full((720, 1280), 99, np.uint8)])
def test_a_flat_picture_has_no_marker(plane):
    assert not find_marker(plane)


def test_noise_has_no_marker():
    rng = np.random.default_rng(7)
    assert not any(find_marker(rng.integers(0, 256, (180, 320), dtype=np.uint8)) for _ in range(200))


@pytest.mark.slow
def test_what_the_camera_sees_follows_the_mount(world):
    calibration = Calibration()
    camera = RoomCamera(SETTINGS, world, calibration)

    async def seen():
        # What was painted after this moment, however many older pictures still wait to be read.
        since_us = boottime_s() * 1e6
        while (sample := camera.luma()) is None or sample.pts_us <= since_us:
            await camera.read()
        return sample.plane.astype(int)

    async def session():
        await camera.open()
        mount = GpiozeroMount.on_bench(world, calibration)
        ceiling = await seen()
        # Faster than the profile: only the ends matter here.
        await asyncio.to_thread(mount.park_now, sleep=lambda _: None)
        assert np.abs(await seen() - ceiling).mean() < 5
        mount._axes[0].servo.angle = calibration.aim_deg
        bed = await seen()
        mount._axes[0].servo.detach()
        assert np.abs(await seen() - bed).mean() < 5
        mount.close()
        await camera.close()
        return ceiling, bed

    ceiling, bed = asyncio.run(session())
    assert np.abs(ceiling - bed).mean() > 15


def test_the_first_unit_has_its_headers_and_a_forced_key_comes_at_once(painter):
    encoder = Libx264Encoder(1280, 720, SETTINGS)
    units = [encoder.encode(painter.paint(RoomScene(), AIMED, 0.0), pts_us=n, key=n == 4) for n in range(6)]
    assert [unit.key for unit in units] == [True, False, False, False, True, False]
    assert [unit.pts_us for unit in units] == list(range(6))
    for unit in (units[0], units[4]):
        assert {NAL_SPS, NAL_PPS, NAL_IDR} <= set(nal_types(unit.data))
    # One slice in a picture, so that one access unit is what one packet run carries.
    assert all(sum(kind in (1, 5) for kind in nal_types(unit.data)) == 1 for unit in units)


def test_key_units_come_by_themselves_at_the_interval(painter):
    encoder = Libx264Encoder(320, 180, CameraSettings(320, 180, 15, 200_000, 1.0))
    small = np.full((270, 320), 128, np.uint8)
    keys = [n for n in range(46) if encoder.encode(small, pts_us=n).key]
    assert keys == [0, 15, 30, 45]


def rate_bps(encoder, painter, seconds=3):
    sizes = [len(encoder.encode(painter.paint(RoomScene(), AIMED, n / 15), pts_us=n).data) for n in range(15 * seconds)]
    return 8 * sum(sizes[15:]) / (seconds - 1)


@pytest.mark.slow
def test_the_rate_follows_down_and_up_without_a_key_and_above_its_first_rate_with_one(painter):
    # Mutation: drop the `else` in set_bit_rate_bps.
    encoder = Libx264Encoder(1280, 720, CameraSettings(key_interval_s=60))
    assert rate_bps(encoder, painter) == pytest.approx(1_500_000, rel=0.25)
    encoder.set_bit_rate_bps(500_000)
    assert not encoder.encode(painter.paint(RoomScene(), AIMED, 0.0), pts_us=0).key
    assert rate_bps(encoder, painter) == pytest.approx(500_000, rel=0.3)
    encoder.set_bit_rate_bps(3_000_000)
    assert encoder.encode(painter.paint(RoomScene(), AIMED, 0.0), pts_us=0).key
    assert rate_bps(encoder, painter) == pytest.approx(3_000_000, rel=0.3)


def test_a_room_file_that_is_half_written_changes_nothing(world):
    world.set_scene(RoomScene(light=0.5))
    assert world.scene().light == 0.5
    (world.path / "room.json").write_text('{"light": 0.')
    assert world.scene().light == 0.5
    (world.path / "room.json").write_text('{"lamp": 1}')
    assert world.scene().light == 0.5
    (world.path / "room.json").write_text('{"light": 7}')
    assert world.scene() == RoomScene(light=1.0)
    (world.path / "room.json").unlink()
    assert world.scene() == RoomScene()
