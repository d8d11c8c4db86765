"""A lent device goes back, and is lent again: ordered, confirmed by a second person, erased by itself, enrolled anew.

What was planted is looked for in every block of the opened data partition: before, with the header that the card then
has, and after, with the header that somebody might have copied before. What only a real card shows is not here: the
stand-in gives blocks back when it is told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from centre.operator import Operator, OperatorError
from gateway.ledger import NoteSigner
from gateway.protocol.envelope import split
from gateway.protocol.key import SigningKey, b64url_decode
from gateway.protocol.message import AgreementPut, DeviceErase, DeviceReturn, Message, Role
from provisioning import bench_home, demo
from provisioning.bench_home import PLANNER, BenchHome, new_id
from tests.image_lab.enrol import STATE, WORLD
from tests.image_lab.lab import ImageLab, enrol_card, hits_in
from tests.image_lab.people import SECOND, second_token
from tests.net_lab.network import within

RESIDENT, CONSENT, LINE = "r-planted-7f3a91c2", "c-planted-19d04e77", "night-planted-1"
LABEL = b'{"label": "planted by the factory 4471"}\n'
BUTTON = json.dumps({"low": [17]}).encode()
SETUP_UID = 964


@dataclass
class Return:
    lab: ImageLab
    version: int = 1
    nonce: str = field(default_factory=lambda: f"{secrets.token_urlsafe(16)[:21]}A")
    second: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def home(self) -> BenchHome:
        return self.lab.net.home

    async def send(self, message: Message, key: SigningKey, who: str, role: Role, token: str) -> dict[str, Any]:
        """By the centre; what the home's signed answer says, unverified here. Raises OperatorError."""
        envelope = self.home.command(message, key, self.home.grant(key, who, (role,)))
        async with Operator(self.lab.net.url, token) as person:
            reply = await person.send_envelope(self.home.gateway, envelope)
        return _said(reply)

    async def order(self) -> dict[str, Any]:
        message = DeviceReturn(self.home.audience, new_id("j"), self.version, self.nonce)
        return await self.send(message, self.home.planner, PLANNER, Role.STEWARD, self.home.planner_token)

    async def facts(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.home.planner_token}"}
        async with httpx.AsyncClient(base_url=self.lab.net.url, headers=headers, trust_env=False) as client:
            (told,) = (await client.get("/api/v1/returns")).json()
        return dict(told)

    async def confirm(self, code: str) -> dict[str, Any]:
        """Once the witness has all of the device's log; until then it says that it is busy."""
        message = DeviceErase(self.home.audience, new_id("j"), self.version, code)
        for _ in range(15):
            token = second_token(self.home.centre_config)
            told = await self.send(message, self.second, SECOND, Role.INSTALLER, token)
            if told.get("code") != "busy":
                break
            message = msgspec.structs.replace(message, jti=new_id("j"))
            await asyncio.sleep(20.0)
        return told


def needles(home: BenchHome) -> dict[bytes, str]:
    """What was planted, and every private key of the device, as they lie on the data partition."""
    made = home.directory / "home"

    def body(name: str) -> bytes:
        return (made / name).read_bytes().splitlines()[1][48:64]  # behind what all keys of a kind have in common

    return {
        RESIDENT.encode(): "resident", CONSENT.encode(): "consent", LINE.encode(): "agreed line",
        body("device.pem"): "device key", body("ledger.pem"): "ledger key", body("key.pem"): "link key",
        (made / "tunnel.key").read_bytes().strip()[:32]: "tunnel key",
    }  # fmt: skip


async def returned(lab: ImageLab) -> None:
    """The whole way, with the device's own power cuts out of it: those are in the unit tests, one for each change."""
    back = Return(lab)
    known = needles(back.home)
    agreement = bench_home.agreement_now(back.home, version=lab.version + 1, offset_min=-600)
    agreement["resident_ref"], agreement["consent"]["resident"]["ref"] = RESIDENT, CONSENT
    agreement["lines"] = [agreement["lines"][0] | {"id": LINE}]
    lab.version += 1
    await lab.put(agreement)
    old_command = AgreementPut(back.home.audience, new_id("j"), agreement | {"version": lab.version + 1})

    told = await back.order()
    lab.say(f"returned: ordered: {told.get('kind', told)}")
    await asyncio.sleep(3.0)
    # The button is held while power comes.
    await lab.machine.ask("systemctl --no-block reboot")
    await lab.machine.until_off()
    plain = lab.directory / "data.plain"
    data = lab.machine.card.data(lab.key_hex, plain)
    before = hits_in(plain, known)
    lab.say(f"  before: {len(before)} of {len(known)} kinds found in the opened data partition: {sorted(before)}")
    assert before == set(known.values()), set(known.values()) - before
    data.put(
        {"world/hands.json": (BUTTON, 0o660, 0, 973), "factory/setup.json": (LABEL, 0o600, SETUP_UID, SETUP_UID)},
        lab.directory,
    )
    data.write_back()
    header = lab.machine.card.head()
    lab.machine.takes_discards = True
    lab.say(f"  the button was held as power came; {await held(lab)}")

    facts = await back.facts()
    lab.say(f"  at the centre: {facts['gateway']}/{facts['install_epoch']} code {facts['code']}")
    wrong = f"{(int(facts['code']) + 1) % 1_000_000:06d}"
    told = await back.confirm(wrong)
    lab.say(f"  a wrong code: {told['kind']} {told.get('code')}")
    assert told.get("code") == "nonce-unknown", told
    assert "erase-now" not in await lab.machine.order(f"ls {STATE}/guard")
    # It has cost the act: held again while power comes.
    await lab.machine.order("sync")
    await lab.machine.order(f"printf '%s' '{BUTTON.decode()}' >{WORLD}/hands.json; sync")
    await lab.machine.ask("systemctl --no-block reboot")
    await lab.machine.until_off()
    await held(lab)
    told = await back.confirm(facts["code"])
    lab.say(f"  the right code by a second person: {told['kind']} {told.get('code', '')}")
    assert told["kind"] == "accepted", told

    # Nobody's hand from here on: the last word is said and witnessed, then it erases itself and starts anew.
    await lab.machine.until_off(900.0)
    lab.say(f"  erased, and started anew: {_words(lab.machine.console)}")
    assert not any(lab.machine.card.head()), "the header is gone"
    copied = lab.machine.card.data(lab.key_hex, plain, head=header)
    after = hits_in(copied.plain, known)
    lab.say(f"  after, with a header that somebody had copied before: {sorted(after) or 'nothing'}")
    assert after == set()
    carried = lab.machine.card.read_fat("select", "carried")
    assert carried is not None
    assert LABEL.strip() not in carried, "what is carried aside is sealed"
    facts = await back.facts()
    assert facts["statement"] is not None, "the device's last word"

    await lab.power_on()
    await lab.machine.until_off(900.0)
    assert lab.machine.card.read_fat("select", "carried") is None
    await lab.power_on()
    await lab.machine.until("mountpoint -q /var/lib/tillsyn")
    await lab.until_settled()
    said = await lab.machine.order(
        f"cd {STATE}; cat factory/setup.json; stat -c '%a %u %n' factory/setup.json; ls -A config secret guard link"
    )
    lab.say(f"  factory-fresh: {' '.join(said.split())}; failed units {await lab.failed_units()}")
    assert said.startswith(LABEL.decode().strip()), said
    assert f"600 {SETUP_UID} factory/setup.json" in said, said
    assert ".toml" not in said, said
    assert await lab.failed_units() == []
    await lab.machine.order("sync")
    await lab.machine.cut()
    fresh = lab.machine.card.data(lab.key_hex, plain)
    assert fresh.volume_key != data.volume_key, "another key"
    known_now = known | {LABEL.strip(): "label"}
    after = hits_in(plain, known_now)
    lab.say(f"  after, opened: {sorted(after)}")
    assert after == {"label"}

    await lend_again(lab)
    lab.say(f"  enrolled again from outside: {enrol_card(lab)} sectors; epoch {lab.net.home.install_epoch}")
    await lab.power_on()
    lab.say(f"  armed again: {await lab.until_armed()}")
    lab.version = 0
    await lab.agree()
    lab.say("  an agreement of the new installation is in force")
    home = lab.net.home
    grant = home.grant(home.planner, PLANNER, (Role.PLANNER,))
    async with Operator(lab.net.url, home.planner_token) as planner:
        # Its refusal names no command that the centre could know, so the centre hears nothing; the ledger says it.
        with contextlib.suppress(OperatorError):
            await planner.send_envelope(home.gateway, home.command(old_command, home.planner, grant))
    await lab.machine.order("sync")
    await lab.machine.cut()
    kinds = lab.ledger()["kinds"]
    lab.say(f"  a command of the old installation; the new ledger, verified: {kinds}")
    assert kinds[0].startswith("boot"), "it begins at nothing"
    assert kinds[-1] == "refused:wrong-device", kinds


async def held(lab: ImageLab) -> dict[str, Any]:
    """Power on with the button down, as `hands.json` says, and let it go when the guard has seen it."""
    await lab.power_on()
    await lab.machine.until("systemctl --quiet is-active tillsyn-guard", every_s=0.3)
    await lab.machine.order(f"sleep 3; rm {WORLD}/hands.json")
    return await lab.until_armed()


def _said(reply: bytes) -> dict[str, Any]:
    untrusted = split(reply)
    return {"kind": untrusted.kind} | dict(json.loads(b64url_decode(untrusted.untrusted_payload)))


def _words(console: str) -> str:
    return " / ".join(line.strip()[:100] for line in console.splitlines()[-3:])


async def lend_again(lab: ImageLab) -> None:
    """The centre expects this gateway under the next epoch, with other keys. The tunnel's key stays the bench's."""
    old, net = lab.net.home, lab.net
    device, ledger = SigningKey.generate(), Ed25519PrivateKey.generate()
    made = old.directory / "home"
    pem = ledger.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    identity = old.authority.issue(old.gateway, server_names=())
    for name, content in {"device.pem": device.to_pem(), "ledger.pem": pem, "cert.pem": identity.certificate,
                          "key.pem": identity.key}.items():  # fmt: skip
        (made / name).write_bytes(content)
    home = replace(old, install_epoch=old.install_epoch + 1, device=device)
    guard = msgspec.toml.decode((made / "guard.toml").read_bytes()) | {"install_epoch": home.install_epoch}
    (made / "guard.toml").write_bytes(msgspec.toml.encode(guard))
    table = msgspec.toml.decode(home.centre_config.read_bytes())
    (one,) = table["homes"]
    one |= {
        "install_epoch": home.install_epoch, "device_jwk": device.verifying.jwk(),
        "ledger_vkey": str(NoteSigner(f"tillsyn/{home.gateway}", ledger).verifier),
    }  # fmt: skip
    home.centre_config.write_bytes(msgspec.toml.encode(table))
    centre = net.processes["centre"]
    centre.terminate()
    await centre.wait()
    net.home = home
    net.processes["centre"], net.url = await demo.start_centre(home, before=within("centre"))
