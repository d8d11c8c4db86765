"""The browser reads exactly the words that the eye says: one table in Python, one in JavaScript, one suite.

Mutations that turn these red (centre/static/picture.js), each tried: `Object.keys(value).length` not compared;
`Object.hasOwn(WORDS, …)` not asked; `value <= 1` dropped; the length not asked; a view left out of its list.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import typing
from pathlib import Path

import pytest
from picture_support import NO_WORDS, WORDS

from gateway.protocol import picture

pytestmark = pytest.mark.slow

STATIC = Path(__file__).parents[2] / "centre" / "static"
READ = """
const {readWord} = await import(process.argv[1]);
let input = "";
for await (const chunk of process.stdin) input += chunk;
console.log(JSON.stringify(JSON.parse(input).map((text) => readWord(text))));
"""


@pytest.fixture(scope="module")
def readings() -> dict[str, object]:
    """What the browser's module makes of each text."""
    node = shutil.which("node")
    assert node, "node is not installed: `make apt-test` installs it"
    views = [
        picture.encode(picture.ViewWord(picture.ViewSignal(1, view, 0.5, 0.5, 0.5, 0.5, aim))).decode()
        for view in picture.View
        for aim in picture.Aim
    ]
    texts = [*(picture.encode(word).decode() for word in WORDS), *views, *NO_WORDS.values()]
    done = subprocess.run(
        [node, "--input-type=module", "-e", READ, (STATIC / "picture.js").as_uri()],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(texts, json.loads(done.stdout), strict=True))


def test_the_browser_reads_every_word_that_can_be_said(readings):
    kinds = {typing.get_args(picture.AnyWord) or (picture.AnyWord,)}.pop()
    assert {type(word) for word in WORDS} == set(kinds)
    for text, reading in readings.items():
        if text not in NO_WORDS.values():
            assert reading == json.loads(text)


def test_the_browser_reads_nothing_else(readings):
    assert [name for name, text in NO_WORDS.items() if readings[text] is not None] == []
