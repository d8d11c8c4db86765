"""Mutations of what decides: each one breaks a promise, and a test of the guard must turn red on it.

An edit is (file, text that stands there exactly once, text in its place). `python -m tests.mutations` tries them all;
tests/mutations/test_guard_mutations.py holds that every one still fits the source.
"""
# ruff: noqa: E501 - the source is quoted as it stands

from __future__ import annotations

from dataclasses import dataclass

GATE = "gateway/decision/gate.py"
NONCE = "gateway/decision/nonce.py"
GUARD = "gateway/services/guard.py"
CHECK = "gateway/services/guard_check.py"
COMMAND = "gateway/services/guard_command.py"
EYE = "gateway/services/guard_eye.py"
HAND = "gateway/services/guard_hand.py"
LINK = "gateway/services/guard_link.py"
REPLY = "gateway/services/guard_reply.py"
STATE = "gateway/services/guard_state.py"
MACHINE = "gateway/check/machine.py"
DECISION = "gateway/agreement/decision.py"
ATTEMPT = "gateway/agreement/attempt.py"
ENVELOPE = "gateway/protocol/envelope.py"
CLOCK = "gateway/core/interval_clock.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`promise` is what the mutated gateway no longer keeps."""

    promise: str
    edits: tuple[tuple[str, str, str], ...]


def _one(promise: str, file: str, old: str, new: str) -> Mutation:
    return Mutation(promise, ((file, old, new),))


MUTATIONS = (
    # The gate
    _one(
        "an integrity alarm opens nothing",
        GATE,
        "        if self.obstacle is not None:\n            raise RefusedError(self.obstacle)\n",
        "",
    ),
    _one("an opening needs a nonce", GATE, "        self.nonces.use(command.nonce, verified.kid, now_s=now_s)\n", ""),
    Mutation(
        "one check at a time",
        (
            (GATE, "        if self.current is not None:\n            raise RefusedError(RefusalCode.BUSY)\n", ""),
            (
                COMMAND,
                "        if not isinstance(self.core.state, machine.Parked):\n            raise RefusedError(RefusalCode.BUSY)\n",
                "",
            ),
        ),
    ),
    _one(
        "an opening names the version in force",
        GATE,
        "        if agreement.version != command.version:\n            raise RefusedError(RefusalCode.STALE_VERSION)\n",
        "",
    ),
    _one("a grant opens in its shift only", GATE, "        check_shift(verified.grant, interval)\n", ""),
    _one("an offer has one fingerprint", GATE, "        sdp.only_fingerprint(command.offer)\n", ""),
    _one(
        "only who opened may prolong or judge",
        GATE,
        "        if self.current.kid != kid:",
        "        if self.current.kid == '':",
    ),
    _one("an older agreement is refused", GATE, "agreement.version <= self.version_floor", "agreement.version < 1"),
    _one(
        "the same version is refused",
        GATE,
        "agreement.version <= self.version_floor",
        "agreement.version < self.version_floor",
    ),
    _one(
        "an older trust statement is refused",
        GATE,
        "        if trust.version <= self.trust.version or trust.epoch < self.trust.epoch:",
        "        if trust.version < 1:",
    ),
    _one(
        "the epoch never falls",
        GATE,
        "trust.version <= self.trust.version or trust.epoch < self.trust.epoch",
        "trust.version <= self.trust.version",
    ),
    _one(
        "a withdrawn consent never comes back",
        GATE,
        " or _consent_digest(resident) in self.withdrawn_consents",
        "",
    ),
    _one(
        "a consent of before the withdrawal lifts nothing",
        GATE,
        "        return resident.given >= datetime",
        "        return True or resident.given >= datetime",
    ),
    _one(
        "a time statement answers our nonce",
        GATE,
        "        if self._asked is None or statement.nonce != self._asked[0]:",
        "        if self._asked is None:",
    ),
    _one(
        "a pause of an unknown time lasts on when the time is known",
        GATE,
        "            self.take_pause(NOT_TONIGHT_S, now_s=now_s)\n",
        "",
    ),
    _one(
        "such a pause lasts twelve hours", GATE, "NOT_TONIGHT_S: Final = 12 * 3600.0", "NOT_TONIGHT_S: Final = 3600.0"
    ),
    _one(
        "a clock in doubt opens nothing",
        GATE,
        "clock_may_open=self.clock.may_open(now_s)",
        "clock_may_open=True",
    ),
    _one(
        "earlier attempts count",
        GATE,
        "            history=self.history,\n            local=self.local,\n        )\n        check_shift",
        "            history=[],\n            local=self.local,\n        )\n        check_shift",
    ),
    _one(
        "what the resident did at the device counts",
        GATE,
        "            local=self.local,\n        )\n        check_shift",
        "            local=LocalState(withdrawn=False, paused_until_unix_s=None),\n        )\n        check_shift",
    ),
    # Nonces
    _one("a nonce lives thirty seconds", NONCE, "LIFE_S: Final = 30.0", "LIFE_S: Final = 60.0"),
    _one("a nonce is used once", NONCE, "        issued.used = True\n", ""),
    _one("a nonce belongs to one key", NONCE, " or issued.kid != kid:", ":"),
    # The guard
    _one(
        "no record, no sensor",
        CHECK,
        "            self.core.later(machine.Fault(Why.LEDGER_UNWRITABLE))\n            return False\n        self._heartbeat_s",
        "        self._heartbeat_s",
    ),
    _one("a late record opens nothing", CHECK, "DURABLE_LIMIT_S: Final = 3.0", "DURABLE_LIMIT_S: Final = 300.0"),
    _one(
        "an epoch that rises ends the check",
        COMMAND,
        "            self.core.dispatch(machine.Fault(Why.REVOKED))\n",
        "            pass\n",
    ),
    _one(
        "a withdrawal ends the check",
        COMMAND,
        "        self.core.dispatch(machine.Fault(Why.RESIDENT_STOPPED))\n        digest =",
        "        digest =",
    ),
    _one(
        "a withdrawal is kept",
        COMMAND,
        "        self.records.append(RecordKind.WITHDRAWN, who=who, role=role, why=why, digest_of=digest)\n",
        "",
    ),
    _one(
        "a stop is confirmed also on a full disk",
        COMMAND,
        "        with contextlib.suppress(LedgerUnwritableError):\n            # The record is durable",
        "        with contextlib.suppress(RefusedError):\n            # The record is durable",
    ),
    _one(
        "a pause ends the check",
        HAND,
        "                self.core.dispatch(machine.Fault(Why.RESIDENT_STOPPED))\n                until_unix_s",
        "                until_unix_s",
    ),
    _one(
        "a pause is kept",
        HAND,
        '                self.records.append(RecordKind.PAUSED, why="local", until_unix_s=until_unix_s)\n',
        "",
    ),
    _one(
        "a verdict with an old counter is not recorded",
        COMMAND,
        " or order.counter <= state.last_counter:",
        ":",
    ),
    _one(
        "the picture's way is cut without the eye's help",
        EYE,
        "                self._media.shutdown(socket.SHUT_RDWR)\n            self._media.close()\n            self._media = None\n",
        "                pass\n",
    ),
    _one(
        "no lamp, no picture",
        CHECK,
        "                    self.core.later(machine.Fault(Why.CAMERA_FAULT))\n                    return False\n            case machine.LampOff",
        "                    return True\n            case machine.LampOff",
    ),
    _one(
        "no broker, no opening",
        COMMAND,
        "        if not self.link.up:\n            raise RefusedError(RefusalCode.BUSY",
        "        if self.link.channel is None:\n            raise RefusedError(RefusalCode.BUSY",
    ),
    _one(
        "a new link speaks for itself",
        LINK,
        "                self.broker_up = False  # what the old one said\n",
        "",
    ),
    _one(
        "a lost link ends the check at once",
        LINK,
        "            self.broker_up = False\n            self.core.dispatch(machine.Fault(Why.LINK_LOST))\n",
        "            self.broker_up = False\n",
    ),
    _one(
        "a closing that can't be recorded disables",
        CHECK,
        '            LOG.error("closed: %s", exc)\n            self.core.later(machine.Fault(Why.LEDGER_UNWRITABLE))\n',
        '            LOG.error("closed: %s", exc)\n',
    ),
    _one("refusals are recorded compactly", REPLY, "REFUSALS_EVERY_S: Final = 10.0", "REFUSALS_EVERY_S: Final = 0.0"),
    _one("a flood gets few answers", REPLY, "MAX_REPLIES_PER_S: Final = 50", "MAX_REPLIES_PER_S: Final = 50000"),
    _one(
        "a stopped service records how long was looked",
        CHECK,
        "                    watched_s=ending.watched_s,\n",
        "                    watched_s=0.0,\n",
    ),
    _one(
        "a stopped service keeps why a check ended",
        CHECK,
        "                    why=ending.why,\n",
        "                    why=Why.SERVICE_STOPPED,\n",
    ),
    _one("limits are looked at as time passes", GUARD, "            self._core.dispatch(machine.Tick())\n", ""),
    _one(
        "an agreement is put in force by its record",
        COMMAND,
        "            RecordKind.AGREEMENT,\n",
        "            RecordKind.SETUP,\n",
    ),
    _one(
        "a stop in order stops in order",
        EYE,
        "            eye.channel.close()\n        if self._eye is eye:\n            self._eye = None\n            self.core.dispatch(machine.EyeGone())\n",
        "            eye.channel.close()\n            self._eye = None\n            self.core.dispatch(machine.Fault(Why.EYE_LOST))\n",
    ),
    # What is kept
    _one(
        "an agreement's file is the recorded one",
        STATE,
        "    if hashlib.sha256(stored).hexdigest() != digest:",
        "    if digest is None:",
    ),
    _one(
        "trust never falls behind its record", STATE, "    if trust.version < high_water:", "    if trust.version < 0:"
    ),
    _one(
        "a trust statement may come twice",
        STATE,
        "earlier if stored in earlier else [*earlier, stored]",
        "[*earlier, stored]",
    ),
    _one(
        "a verdict of before a cut counts",
        STATE,
        "        outcome_of(verdict or Why.RECOVERED, watched_s),\n",
        "        outcome_of(Why.RECOVERED, watched_s),\n",
    ),
    _one(
        "such a verdict counts after the next start too",
        STATE,
        'outcome_of(verdicts.get(record.check, record.why or ""), record.watched_s or 0.0)',
        'outcome_of(record.why or "", record.watched_s or 0.0)',
    ),
    _one(
        "a withdrawal is remembered",
        STATE,
        "                withdrawn_unix_s = record.time_lo if record.since_unix_s is None else record.since_unix_s\n",
        "                withdrawn_unix_s = None\n",
    ),
    _one(
        "a pause without an end is remembered",
        STATE,
        '                paused_until_unix_s = float("inf") if record.until_unix_s is None else record.until_unix_s\n',
        "                paused_until_unix_s = record.until_unix_s\n",
    ),
    # The machine
    _one(
        "the record comes before the sensor",
        MACHINE,
        "(RecordOpened(facts), LampOn(), SensorOn(), MountAim())",
        "(LampOn(), SensorOn(), MountAim(), RecordOpened(facts))",
    ),
    _one(
        "the lamp comes before the sensor",
        MACHINE,
        "(RecordOpened(facts), LampOn(), SensorOn(), MountAim())",
        "(RecordOpened(facts), SensorOn(), LampOn(), MountAim())",
    ),
    _one(
        "no frame before the mount has arrived",
        MACHINE,
        "(RecordOpened(facts), LampOn(), SensorOn(), MountAim())",
        "(RecordOpened(facts), LampOn(), SensorOn(), LetFramesOut(), MountAim())",
    ),
    _one("a lease lives nine seconds", MACHINE, "LEASE_LIFE_S = 9.0", "LEASE_LIFE_S = 15.0"),
    _one(
        "a check ends at its agreed length",
        MACHINE,
        "now_s - state.opened_s >= state.facts.max_s:",
        "now_s - state.opened_s >= 3 * state.facts.max_s:",
    ),
    _one(
        "a silent link ends the check",
        MACHINE,
        "    if now_s - state.link_heard_s >= BEAT_LIFE_S:",
        "    if now_s - state.link_heard_s >= 9 * BEAT_LIFE_S:",
    ),
    _one(
        "a lease's counter rises",
        MACHINE,
        "LeaseRenewed(counter) if counter > state.last_counter",
        "LeaseRenewed(counter) if counter >= state.last_counter",
    ),
    _one(
        "every end turns the sensor off",
        MACHINE,
        "    return closing, (SensorOff(), MountUp())\n",
        "    return closing, (MountUp(),)\n",
    ),
    _one(
        "every end turns the camera up",
        MACHINE,
        "    return closing, (SensorOff(), MountUp())\n",
        "    return closing, (SensorOff(),)\n",
    ),
    _one(
        "the lamp shines as long as the sensor is on",
        MACHINE,
        "    return closing, (SensorOff(), MountUp())\n",
        "    return closing, (SensorOff(), LampOff(), MountUp())\n",
    ),
    _one(
        "a check is closed when its eye is gone",
        MACHINE,
        "    if not closing.eye_gone or not (closing.parked",
        "    if not (closing.parked",
    ),
    _one(
        "an eye that shows too early is stopped",
        MACHINE,
        "            return _close(state, Why.CAMERA_FAULT, now_s)\n        case Opening(facts",
        "            return state, ()\n        case Opening(facts",
    ),
    _one("a closing ends", MACHINE, "CLOSING_LIMIT_S = 8.0", "CLOSING_LIMIT_S = 80.0"),
    # The agreement
    _one(
        "the whole interval lies in the window",
        DECISION,
        "    if not (window[0] <= interval.lo_unix_s and interval.hi_unix_s <= window[1]):",
        "    if not (window[0] <= interval.hi_unix_s and interval.lo_unix_s <= window[1]):",
    ),
    _one(
        "a cohabitant who is named consents",
        DECISION,
        "(resident,) if cohabitant is None else (resident, cohabitant)",
        "(resident,)",
    ),
    _one(
        "an agreed pause is a pause",
        DECISION,
        "    return any(first_s <= known[1] and known[0] < last_s for first_s, last_s in bounds)",
        "    return any(first_s > last_s for first_s, last_s in bounds)",
    ),
    _one("a broken look is repeated twice", ATTEMPT, "TECHNICAL_REPEATS: Final = 2", "TECHNICAL_REPEATS: Final = 5"),
    _one("a re-check waits its minutes", ATTEMPT, "max(closed_s) + line.recheck.after_min * 60", "max(closed_s)"),
    _one(
        "who was seen is not looked at again",
        ATTEMPT,
        '    if "seen" in outcomes:\n        return Ending.SEEN\n    looks = [attempt for attempt in attempts if attempt.outcome != "broken"]',
        '    looks = [attempt for attempt in attempts if attempt.outcome not in ("broken", "seen")]',
    ),
    # The envelope
    _one(
        "a revoked grant is dead",
        ENVELOPE,
        "    if grant.epoch < trust.epoch and kind not in (Close, AgreementWithdraw):",
        "    if grant.epoch < 0:",
    ),
    _one(
        "a revoked grant may still close and withdraw",
        ENVELOPE,
        "    if grant.epoch < trust.epoch and kind not in (Close, AgreementWithdraw):",
        "    if grant.epoch < trust.epoch:",
    ),
    _one("a command is for one device", ENVELOPE, "    if command.aud != audience:", "    if not command.aud:"),
    _one(
        "a role may sign its own kinds only",
        ENVELOPE,
        "(role for role in grant.roles if role in roles)",
        "(role for role in grant.roles if role)",
    ),
    _one(
        "a grant is for its own homes",
        ENVELOPE,
        "    if gateway not in grant.homes and groups.isdisjoint(grant.groups):",
        "    if not gateway:",
    ),
    _one(
        "a grant lasts one shift",
        ENVELOPE,
        "    if not grant.nbf < grant.exp <= grant.nbf + MAX_GRANT_LIFE_S:",
        "    if not grant.nbf < grant.exp:",
    ),
    _one(
        "every signature is checked",
        ENVELOPE,
        "    key.verify(untrusted.signature, untrusted.signed)\n",
        "",
    ),
    # The clock
    _one(
        "sources that contradict one another open nothing",
        CLOCK,
        "        return ClockState.CONTRADICTED\n",
        "        return ClockState.ATTESTED\n",
    ),
    _one("a slow answer does not attest", CLOCK, "MAX_ROUND_TRIP_S = 5.0", "MAX_ROUND_TRIP_S = 50.0"),
)

EXPLAINED: dict[str, str] = {}
"""Promises whose mutation may survive, with the reason."""
