"""The ledger as FHIR R4: a Bundle of AuditEvents, the look of an operator being a read of a patient.

A look that gave a picture follows IHE BALP's PatientRead and says so in `meta.profile`; what did not succeed may not
claim that profile (its outcome is fixed to success) and follows it in form only. What the profile demands and the
ledger does not have, the network address of the operator's browser, is marked with FHIR's own data-absent-reason.
The first entry says what was exported, and whether it verified (DICOM "Audit Log Used").

Source: HL7 FHIR R4 (4.0.1), AuditEvent; IHE ITI BALP 1.1.3, PatientRead; DICOM PS3.16, CID 400 and 402.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from centre.export.account import Account, Look, Refusals, clock_uncertain, shown
from gateway.agreement import Agreement

PROFILE: Final = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PatientRead"
_DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_EVENT_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_ENTITY_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_OBJECT_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
_PARTICIPATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_SOURCE_TYPE: Final = "http://terminology.hl7.org/CodeSystem/security-source-type"
_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_INTERACTION: Final = "http://hl7.org/fhir/restful-interaction"
_ABSENT: Final = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_SUCCESS, _MINOR_FAILURE, _SERIOUS_FAILURE = "0", "4", "8"
_FAULTS: Final = frozenset(
    {"camera-fault", "mount-fault", "ledger-unwritable", "integrity-alarm", "low-power", "not-parked"}
)
"""Refusals by the device's own state: a serious failure. All others are the request's: minor."""


def bundle(account: Account, agreement: Agreement | None, *, now: datetime) -> dict[str, Any]:
    """A Bundle of type collection: the export itself, then looks and refusals in the order of the ledger.

    The patient is the agreement's `resident_ref`, or the gateway where no agreement is given. Ids are derived from the
    ledger's leaf hashes: the same record has the same id in every export.
    """
    resident = account.gateway if agreement is None else agreement.resident_ref
    events = [_export(account, now)]
    events += [_look(account, look, resident) for look in account.looks]
    events += [_refused(account, each, resident) for each in account.refusals]
    events[1:] = sorted(events[1:], key=lambda event: event["recorded"])
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": _instant(now.timestamp()),
        "entry": [{"fullUrl": f"urn:uuid:{event['id']}", "resource": event} for event in events],
    }


def encode(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def _look(account: Account, look: Look, resident: str) -> dict[str, Any]:
    period = {"start": _instant(look.first.time_lo)}
    ended = look.ended
    if ended is not None:
        # From the earliest it can have begun to the latest it can have ended, where a latest is known.
        period["end"] = _instant(ended[0] if ended[1] is None else ended[1])
    last = look.first if look.closed is None else look.closed
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": _id(look.leaf_hash),
        "type": {"system": _EVENT_TYPE, "code": "rest", "display": "Restful Operation"},
        "subtype": [{"system": _INTERACTION, "code": "read", "display": "read"}],
        "action": "R",
        "period": period,
        "recorded": _instant(last.time_lo),
        "outcome": _SUCCESS if look.went_live else _SERIOUS_FAILURE,
        "outcomeDesc": look.outcome,
        "purposeOfEvent": [_purpose()],
        "agent": [_operator(look.who, look.first.role), _console(), _gateway(account)],
        "source": _source(account),
        "entity": [
            _patient(resident),
            {
                "what": {"identifier": {"value": shown(look.first.check)}},
                "type": _coding(_ENTITY_TYPE, "2", "System Object"),
                "role": _coding(_OBJECT_ROLE, "4", "Domain Resource"),
                "description": "the live picture of one check; nothing of it was recorded",
                "detail": _details(
                    line=shown(look.first.line),
                    occasion=shown(look.first.occasion),
                    attempt=look.first.attempt,
                    watched_s=look.watched_s,
                    why=look.why,
                    clock="uncertain" if clock_uncertain(look.first) else "certain",
                    opening="erased" if look.opening_erased else None,
                    sw=shown(look.first.sw),
                ),
            },
        ],
    }
    if look.went_live:
        event["meta"] = {"profile": [PROFILE]}
    return event


def _refused(account: Account, refused: Refusals, resident: str) -> dict[str, Any]:
    record = refused.record
    asking = [_operator(shown(record.who), record.role)] if record.who is not None else []
    return {
        "resourceType": "AuditEvent",
        "id": _id(refused.leaf_hash),
        "type": {"system": _DCM, "code": "110113", "display": "Security Alert"},
        "action": "E",
        "recorded": _instant(record.time_lo),
        "outcome": _SERIOUS_FAILURE if refused.code in _FAULTS else _MINOR_FAILURE,
        "outcomeDesc": shown(refused.code),
        "agent": [*asking, _gateway(account)],
        "source": _source(account),
        "entity": [
            {**_patient(resident), "detail": _details(refused=refused.count, clock=_clock_word(refused))},
        ],
    }


def _export(account: Account, now: datetime) -> dict[str, Any]:
    verified = account.report is not None
    seed = f"{account.gateway}/{account.size}/{account.erased}/{now.timestamp()}"
    return {
        "resourceType": "AuditEvent",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, seed)),
        "type": {"system": _DCM, "code": "110101", "display": "Audit Log Used"},
        "action": "R",
        "recorded": _instant(now.timestamp()),
        "outcome": _SUCCESS if verified else _SERIOUS_FAILURE,
        "outcomeDesc": "the ledger verified" if verified else f"NOT VERIFIED: {account.fault}",
        "agent": [{"who": {"display": "tillsyn ledger export"}, "requestor": True}],
        "source": _source(account),
        "entity": [
            {
                "what": {"identifier": {"value": f"tillsyn/{account.gateway}"}},
                "type": _coding(_ENTITY_TYPE, "2", "System Object"),
                "role": _coding(_OBJECT_ROLE, "13", "Security Resource"),
                "detail": _details(
                    records=account.size,
                    erased=account.erased,
                    root=None if account.report is None else account.report.root_hex,
                    signed=None if account.report is None else account.report.checkpoint_size,
                ),
            }
        ],
    }


def _clock_word(refused: Refusals) -> str:
    return "uncertain" if clock_uncertain(refused.record) else "certain"


def _operator(who: str, role: str | None) -> dict[str, Any]:
    agent: dict[str, Any] = {
        "type": {"coding": [_coding(_PARTICIPATION, "IRCP", "information recipient")]},
        "who": {"type": "Practitioner", "identifier": {"value": who or "not recorded"}},
        "requestor": True,
    }
    if role is not None:
        agent["role"] = [{"text": shown(role)}]
    return agent


def _console() -> dict[str, Any]:
    return {
        "type": {"coding": [_coding(_DCM, "110152", "Destination Role ID")]},
        "who": {"type": "Device", "display": "operator's console"},
        "requestor": False,
        "network": {"extension": [{"url": _ABSENT, "valueCode": "unknown"}]},
    }


def _gateway(account: Account) -> dict[str, Any]:
    return {
        "type": {"coding": [_coding(_DCM, "110153", "Source Role ID")]},
        "who": {"type": "Device", "identifier": {"value": account.gateway}},
        "requestor": False,
        "network": {"address": account.gateway, "type": "1"},
    }


def _source(account: Account) -> dict[str, Any]:
    return {
        "observer": {"type": "Device", "identifier": {"value": account.gateway}},
        "type": [_coding(_SOURCE_TYPE, "2", "Data Interface")],
    }


def _patient(resident: str) -> dict[str, Any]:
    return {
        "what": {"type": "Patient", "identifier": {"value": resident}},
        "type": _coding(_ENTITY_TYPE, "1", "Person"),
        "role": _coding(_OBJECT_ROLE, "1", "Patient"),
    }


def _purpose() -> dict[str, Any]:
    return {"coding": [_coding(_REASON, "TREAT", "treatment")], "text": "agreed check by camera"}


def _details(**values: str | float | None) -> list[dict[str, str]]:
    return [{"type": name, "valueString": str(value)} for name, value in values.items() if value not in (None, "")]


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}


def _id(leaf_hash: bytes) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, leaf_hash.hex()))


def _instant(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
