"""Errors, sorted by what whoever catches them must do.

A leaf exists only if someone catches it. Our own mistakes are standard-library errors and end the process.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Root of the gateway's errors; never raised itself."""


class UntrustedInputError(GatewayError):
    """Drop the input, count it, never retry, give the peer no detail beyond a closed refusal code."""


class TransientError(GatewayError):
    """Retry with jittered back-off."""


class HardwareFaultError(GatewayError):
    """Go to the safe state (sensor off, mount up), then report."""


class CameraFaultError(HardwareFaultError):
    """The camera could not be opened, stopped giving frames, or failed while it ran."""


class MountFaultError(HardwareFaultError):
    """The mount could not be driven, or is not where it was sent."""


class NotParkedError(MountFaultError):
    """The travel up has ended, and the end stop says that the camera is not up."""


class LedgerUnwritableError(HardwareFaultError):
    """A record could not be made durable; nothing more may be opened in this process."""


class IntegrityError(HardwareFaultError):
    """Stored evidence or signed state is not what was written; the camera stays disabled."""


class ConfigError(GatewayError):
    """Refuse to start (exit 78): the configuration is wrong, and defaults would hide it."""


EXIT_CONFIG = 78
"""Exit status for a wrong configuration. Source: sysexits.h, EX_CONFIG; units list it in RestartPreventExitStatus."""
