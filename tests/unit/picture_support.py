"""Words of the eye, and texts that are none; for both readers, the device's and the browser's."""

from __future__ import annotations

import json
from typing import Any

from gateway.protocol import picture

A_SIGNAL = picture.ViewSignal(1_234_567_890, picture.View.DARK, 0.07, 0.125, 0.5, 1.0, picture.Aim.MEASURED)
WORDS: list[picture.PictureWord] = [
    picture.ViewWord(A_SIGNAL),
    picture.ViewWord(picture.ViewSignal(0, picture.View.CLEAR, 0.0, 0.0, 0.0, 0.0, picture.Aim.COMMANDED)),
    picture.ViewWord(picture.ViewSignal(2**53 - 1, picture.View.MISAIMED, 1.0, 1.0, 1.0, 1.0, picture.Aim.MEASURED)),
    picture.FormWord(picture.Form.STILLS),
    picture.FormWord(picture.Form.VIDEO),
    picture.StillWord(0, 0, 1),
    picture.StillWord(2**32 - 1, 2**53 - 1, picture.MAX_STILL_BYTES),
    picture.ClockWord(1, 1_234_567_890, None, None),
    picture.ClockWord(0, 2**53 - 1, 2**32 - 1, 0),
]
"""At least one of each kind; a new kind adds its own."""


def _altered(**changes: Any) -> str:
    said = json.loads(picture.encode(WORDS[0]))
    said["signal"].update(changes)
    return json.dumps(said)


def _without(name: str) -> str:
    said = json.loads(picture.encode(WORDS[0]))
    del said["signal"][name]
    return json.dumps(said)


NO_WORDS: dict[str, str] = {
    "empty": "",
    "no JSON": "{",
    "null": "null",
    "a text": '"view"',
    "a list": '["view"]',
    "no kind": "{}",
    "kind is null": '{"kind":null}',
    "kind of every object": '{"kind":"toString"}',
    "kind of a prototype": '{"kind":"__proto__"}',
    "unknown kind": '{"kind":"verdict","verdict":"not_seen"}',
    "no signal": '{"kind":"view"}',
    "signal is null": '{"kind":"view","signal":null}',
    "signal is a list": '{"kind":"view","signal":[1,"dark",0,0,0,0,"measured"]}',
    "a field too many": _altered(seen=False),
    "a prototype as field": _altered(__proto__={}),
    "a field beside the signal": json.dumps({**json.loads(picture.encode(WORDS[0])), "why": "dark"}),
    "a field missing": _without("aim"),
    "unknown view": _altered(view="not_seen"),
    "view in capitals": _altered(view="Dark"),
    "view as a list": _altered(view=["dark"]),
    "share above one": _altered(luma=1.0001),
    "share below zero": _altered(motion=-0.1),
    "share as text": _altered(contrast="0.5"),
    "share as truth": _altered(sharpness=True),
    "share without a value": _altered(luma=None),
    "not a number": _altered(luma=float("nan")),
    "beyond every number": _altered(luma=0).replace('"luma": 0', '"luma": 1e999'),
    "time before boot": _altered(t_us=-1),
    "time in parts": _altered(t_us=1.5),
    "time beyond what is exact": _altered(t_us=2**53),
    "unknown form": '{"kind":"form","form":"film"}',
    "a still of nothing": '{"kind":"still","number":1,"t_us":1,"size_bytes":0}',
    "a still that is too large": f'{{"kind":"still","number":1,"t_us":1,"size_bytes":{picture.MAX_STILL_BYTES + 1}}}',
    "a clock without its capture": '{"kind":"clock","asked":1,"now_us":1}',
    "a clock beyond 32 bits": '{"kind":"clock","asked":1,"now_us":1,"rtp":4294967296,"rtp_us":1}',
    "a word of the page": '{"kind":"ask-clock","asked":1}',
    "too long": picture.encode(WORDS[0]).decode() + " " * picture.MAX_WORD_BYTES,
}
