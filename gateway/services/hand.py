"""The resident's hand at the device: one word to the guard on its control socket, and what holds after it.

Used by `tillsyn pause`, `stop`, `resume` and `state`, and by the button's service. No network is involved.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.core.error import TransientError
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError, connect

LIMIT_S: Final = 5.0


async def tell(path: Path, word: frame.Frame) -> frame.LocalFacts:
    """Say `word` and get what holds afterwards. Raises TransientError that says what to do."""
    try:
        async with asyncio.timeout(LIMIT_S):
            channel: Channel[frame.ToHand] = Channel(await connect(str(path)), frame.ToHand)
            try:
                channel.send(word)
                facts, _ = await channel.receive()
                return facts
            finally:
                channel.close()
    except (ChannelLostError, TimeoutError) as exc:
        raise TransientError(
            f"the guard does not answer on {path} ({exc or 'silent'}). "
            "Pull the camera's plug to be sure that it is off, and call the alarm centre."
        ) from exc


def in_words(facts: frame.LocalFacts) -> str:
    """The same for a person."""
    lines = ["The camera is in use now." if facts.checking else "The camera is off."]
    lines.append("It is turned up." if facts.parked else "It is not turned up.")
    if facts.withdrawn:
        lines.append("Stopped: nothing opens until a new agreement with a fresh consent is signed.")
    elif facts.paused and facts.paused_until_unix_s is None:
        lines.append("Paused, until twelve hours after the device knows the time again.")
    elif facts.paused and facts.paused_until_unix_s is not None:
        until = datetime.fromtimestamp(facts.paused_until_unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(f"Paused until {until}.")
    elif facts.agreement is None:
        lines.append("There is no agreement: nothing opens.")
    else:
        lines.append(f"Agreement {facts.agreement}, version {facts.version}, is in force.")
    if facts.obstacle is not None:
        lines.append(f"Nothing can open: {facts.obstacle}.")
    lines.append(f"Clock: {facts.clock}.")
    return "\n".join(lines)
