"""The view signals' numbers, words and signature. How good the words are: test_view_table.py.

Mutations that turn a test here red, each tried: PATIENCE 2 → 1, SLACK 1.15 → 1, `found_for` not reset, `can_compare` →
`signature is not None`, dark only where something changes (judge.py); the noise not subtracted in `_sharpness`,
`noise` left out of `moved` (measure.py); `_STEP` 0.6 → 0.1, `unsmooth` left out of `_pattern` (signature.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from view_scenes import Scene, drawn

from gateway.protocol.picture import Aim, View
from gateway.view import Judged, Measures, Signature, SignatureError, judge, measure, thresholds
from gateway.view.measure import COLUMNS, HEIGHT_PX, ROWS, WIDTH_PX

SECOND = slice(0, 5)


@pytest.fixture(scope="module")
def clear() -> Scene:
    return drawn(View.CLEAR, 4)


@pytest.fixture(scope="module")
def clear_measures(clear) -> Measures:
    return measure(clear.planes[SECOND])


def flat(level: int, count: int = 5) -> list[np.ndarray]:
    return [np.full((HEIGHT_PX, WIDTH_PX), level, np.uint8)] * count


def said(*seconds: Measures, signature: Signature | None = None) -> list[View]:
    words, judged = [], None
    for number, second in enumerate(seconds):
        judged = judge(second, judged, signature=signature, t_us=number)
        assert judged.signal.view is judged.view
        words.append(judged.view)
    return words


# Measures


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from([1, 10, 90]), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_whatever_the_planes_hold_the_measures_are_shares_and_every_word_can_be_said(seed, count, size_px, top):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, top + 1, (count, HEIGHT_PX // size_px, WIDTH_PX // min(size_px, 40) + 1), dtype=np.uint8)
    planes = [cell.repeat(size_px, 0).repeat(min(size_px, 40), 1)[:HEIGHT_PX, :WIDTH_PX] for cell in cells]
    measures = measure(planes)
    for name in ("luma", "contrast", "sharpness", "motion", "change"):
        assert 0.0 <= getattr(measures, name) <= 1.0
    assert np.isfinite(measures.structure)
    assert judge(measures, None, signature=Signature.of(measures), t_us=0).view in View


@pytest.mark.parametrize("planes", [[], flat(9, 1), flat(9, 9), [np.zeros((HEIGHT_PX, WIDTH_PX - 1), np.uint8)] * 3])
def test_another_number_or_size_of_planes_is_our_own_mistake(planes):
    with pytest.raises(ValueError, match="planes"):
        measure(planes)


def test_noise_looks_neither_sharp_nor_moving():
    rng = np.random.default_rng(3)
    ramp = np.linspace(60, 180, WIDTH_PX)[None, :] * np.ones((HEIGHT_PX, 1))
    noisy = [np.clip(ramp + rng.normal(0, 6, ramp.shape), 0, 255).astype(np.uint8) for _ in range(5)]
    measures = measure(noisy)
    assert measures.sharpness < 0.1
    assert measures.motion == 0.0
    assert measures.change > 0.9


def test_what_moves_is_counted_in_tiles(clear):
    planes = [plane.copy() for plane in clear.planes[SECOND]]
    for plane in planes[3:]:
        plane[: HEIGHT_PX // 3, : WIDTH_PX // 2] //= 2
    still, moving = measure(clear.planes[SECOND]).motion, measure(planes).motion
    assert still < 0.1
    assert moving == pytest.approx(1 / 6, abs=0.1)


# Words


def test_the_first_second_speaks_at_once_and_one_odd_second_changes_nothing(clear_measures):
    dark = measure(flat(10))
    assert said(dark) == [View.DARK]
    assert said(clear_measures, dark, clear_measures, dark, clear_measures) == [View.CLEAR] * 5
    assert said(clear_measures, dark, dark) == [View.CLEAR, View.CLEAR, View.DARK]
    # Two odd seconds of different kinds are not two of one kind.
    covered = measure([plane + number % 3 for number, plane in enumerate(flat(90))])
    assert said(covered) == [View.COVERED]
    assert said(clear_measures, dark, covered, dark) == [View.CLEAR] * 4


def test_a_word_is_left_only_with_some_distance(clear_measures):
    def of_luma(luma: float) -> Measures:
        return Measures(luma, 0.3, 0.5, 0.0, 0.2, 0.9, clear_measures.tiles)

    under, over = of_luma(thresholds.DARK_LUMA * 0.99), of_luma(thresholds.DARK_LUMA * 1.01)
    well_over = of_luma(thresholds.DARK_LUMA * 1.2)
    assert said(over) == [View.CLEAR]
    assert said(under, over, over, over) == [View.DARK] * 4
    assert said(under, well_over, well_over) == [View.DARK, View.DARK, View.CLEAR]


def test_black_that_stands_still_is_dark_and_not_frozen(clear):
    assert said(measure(flat(0))) == [View.DARK]
    assert said(measure([clear.planes[0]] * 5)) == [View.FROZEN]


def test_where_it_points_is_measured_only_where_there_is_something_to_compare(clear, clear_measures):
    signature = Signature.of(measure(clear.calibration))

    def aim(measures: Measures, known: Signature | None) -> Aim:
        return judge(measures, None, signature=known, t_us=0).signal.aim

    assert aim(clear_measures, signature) is Aim.MEASURED
    assert aim(clear_measures, None) is Aim.COMMANDED
    for blind in (flat(10), [clear.planes[0]] * 5, [plane + number % 3 for number, plane in enumerate(flat(90))]):
        assert aim(measure(blind), signature) is Aim.COMMANDED
    turned = drawn(View.MISAIMED, 4)
    elsewhere = measure(turned.planes[SECOND])
    assert said(elsewhere, signature=Signature.of(measure(turned.calibration))) == [View.MISAIMED]
    # Without a calibration nobody can know.
    assert said(elsewhere) == [View.CLEAR]


def test_the_signal_carries_the_measures_of_its_own_second(clear_measures):
    judged = judge(clear_measures, None, signature=None, t_us=7)
    dark: Judged = judge(measure(flat(10)), judged, signature=None, t_us=8)
    assert judged.signal.luma == pytest.approx(clear_measures.luma, abs=0.001)
    assert (dark.signal.view, dark.signal.t_us) == (View.CLEAR, 8)
    assert dark.signal.luma == pytest.approx(10 / 255, abs=0.001)


# Signature


def test_a_signature_is_54_bytes_of_pattern_and_comes_back_from_its_text(clear_measures):
    signature = Signature.of(clear_measures)
    assert Signature.from_text(signature.to_text()) == signature
    assert len(signature.steps) * 3 == 54 * 8
    assert set(signature.steps) == set(range(8))
    assert sum(step in (0, 7) for step in signature.steps) < 50
    for text in ("", "0" * 143, "0" * 145, "8" + "0" * 143, "٣" + "0" * 143, "0" * 143 + "\n"):
        with pytest.raises(SignatureError):
            Signature.from_text(text)


def test_a_signature_holds_nothing_finer_than_a_tile_and_no_brightness():
    """Whatever is in the tiles, of one mean: the same signature. So no face, hand or text can be read from it."""
    planes = drawn(View.CLEAR, 12).calibration
    plain = Signature.of(measure(planes))
    order = np.random.default_rng(5).permuted(np.tile(np.arange(100), (ROWS * COLUMNS, 1)), axis=1)
    shuffled = []
    for plane in planes:
        tiles = plane.reshape(ROWS, 10, COLUMNS, 10).swapaxes(1, 2).reshape(-1, 100)
        mixed = np.take_along_axis(tiles, order, 1).reshape(ROWS, COLUMNS, 10, 10).swapaxes(1, 2)
        shuffled.append(mixed.reshape(HEIGHT_PX, WIDTH_PX))
    assert np.abs(shuffled[0].astype(int) - planes[0]).mean() > 5
    assert Signature.of(measure(shuffled)) == plain
    dimmed = Signature.of(measure([(plane * 0.6 + 20).astype(np.uint8) for plane in planes]))
    # A few tiles lie at a step's edge.
    assert sum(a != b for a, b in zip(plain.steps, dimmed.steps, strict=True)) <= 6


def test_light_from_another_side_is_not_another_aim():
    scene = drawn(View.CLEAR, 12)
    signature = Signature.of(measure(scene.calibration))
    light = np.linspace(0.5, 1.3, WIDTH_PX)[None, :] * np.linspace(1.2, 0.8, HEIGHT_PX)[:, None]
    lit = [np.clip(plane * light, 0, 255).astype(np.uint8) for plane in scene.calibration]
    assert signature.likeness(measure(lit)) > 0.85
    assert signature.likeness(measure(scene.calibration)) > 0.95
