"""The page's reckoning of a picture's age, run by Node.js as the browser runs it.

Mutations that turn these red (centre/static/age.js), each tried: the offset without half the round trip; a longer trip
taken like a short one; an answer that nobody asked for taken; the difference of RTP timestamps without its wrap.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MODULE = Path(__file__).parents[2] / "centre" / "static" / "age.js"
SCRIPT = """
const {EyeClock} = await import(process.argv[1]);
const results = {};
const word = (asked, now_us, rtp = null, rtp_us = null) => ({kind: "clock", asked, now_us, rtp, rtp_us});
// The eye's BOOTTIME is the page's clock plus 5,000 s; the way there takes 30 ms and back 10 ms.
const eyeUs = (pageMs) => (pageMs + 5_000_000) * 1000;

{ const clock = new EyeClock();
  results.unknown = clock.ageMs(eyeUs(0), 100);
  const asked = clock.ask(1000);
  clock.hear(word(asked, eyeUs(1030)), 1040);
  results.one = clock.ageMs(eyeUs(900), 1100);
  results.future = clock.ageMs(eyeUs(2000), 1100);
  // A congested answer a moment later says less, and is not believed.
  const late = clock.ask(2000);
  clock.hear(word(late, eyeUs(2010)), 3500);
  results.kept = clock.ageMs(eyeUs(3400), 3500);
  // Nobody asked for this one.
  clock.hear(word(999, eyeUs(9_000_000)), 3600);
  clock.hear(word(asked, eyeUs(9_000_000)), 3600);
  results.unasked = clock.ageMs(eyeUs(3400), 3600);
  // After 20 s even a long trip is better than an old one.
  const renewed = clock.ask(25000);
  clock.hear(word(renewed, eyeUs(25300) + 500_000), 25600);
  results.renewed = clock.ageMs(eyeUs(25500) + 500_000, 25600); }

{ const clock = new EyeClock();
  results.noCapture = clock.capturedUs(5);
  clock.hear(word(clock.ask(0), eyeUs(5), 2 ** 32 - 90, 1_000_000), 10);
  results.before = clock.capturedUs(2 ** 32 - 180);
  results.same = clock.capturedUs(2 ** 32 - 90);
  results.wrapped = clock.capturedUs(810);
  results.noStamp = clock.capturedUs(undefined); }
console.log(JSON.stringify(results));
"""


@pytest.fixture(scope="module")
def reckoned() -> dict[str, float | None]:
    node = shutil.which("node")
    assert node, "node is not installed: `make apt-test` installs it"
    done = subprocess.run(
        [node, "--input-type=module", "-e", SCRIPT, MODULE.as_uri()],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_age_is_known_to_half_the_round_trip(reckoned):
    assert reckoned["unknown"] is None
    assert reckoned["one"] == pytest.approx(200, abs=20)
    assert reckoned["future"] == 0


def test_the_shortest_round_trip_is_believed_and_answers_nobody_asked_for_are_not(reckoned):
    assert reckoned["kept"] == pytest.approx(100, abs=20)
    assert reckoned["unasked"] == pytest.approx(200, abs=20)
    assert reckoned["renewed"] == pytest.approx(100, abs=1)


def test_a_frames_capture_time_follows_from_its_rtp_timestamp(reckoned):
    assert reckoned["noCapture"] is None
    assert reckoned["noStamp"] is None
    assert reckoned["same"] == pytest.approx(1_000_000)
    assert reckoned["before"] == pytest.approx(999_000)
    assert reckoned["wrapped"] == pytest.approx(1_010_000)
