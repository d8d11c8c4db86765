"""What an account may be. Some roles go into grants and count at the device; the others count at the centre only."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from gateway.protocol.message import Role


class CentreRole(StrEnum):
    OPERATOR = "operator"
    PLANNER = "planner"
    INSTALLER = "installer"
    STEWARD = "steward"
    RELEASE = "release"
    HOME_CARE = "home-care"
    """Takes on the hand-overs of one unit, and sees nothing else."""
    AUDITOR = "auditor"
    """Reads the audit log and the logs of the homes; changes nothing."""
    SYSTEM = "system"
    """A municipal system: agreements in, outcomes out."""


ANYBODY: Final = frozenset(CentreRole)
OPERATOR: Final = frozenset({CentreRole.OPERATOR})
PLANNER: Final = frozenset({CentreRole.PLANNER})
AT_THE_DESK: Final = frozenset(
    {CentreRole.OPERATOR, CentreRole.PLANNER, CentreRole.STEWARD, CentreRole.INSTALLER, CentreRole.AUDITOR}
)
"""Who sees which homes there are."""
ANSWERS_HANDOVERS: Final = frozenset({CentreRole.OPERATOR, CentreRole.HOME_CARE})
READS_LOGS: Final = frozenset({CentreRole.OPERATOR, CentreRole.AUDITOR, CentreRole.STEWARD})


def granted(roles: tuple[str, ...]) -> list[Role]:
    """Those of `roles` that a grant can name."""
    known = {role.value for role in Role}
    return [Role(role) for role in roles if role in known]
