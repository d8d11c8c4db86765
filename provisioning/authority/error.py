"""What stops an act of the authority."""

from __future__ import annotations

from gateway.core.error import GatewayError


class AuthorityError(GatewayError):
    """Nothing was signed or written: what was asked breaks a rule. The message says what to do."""
