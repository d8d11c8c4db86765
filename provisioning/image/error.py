"""What can go wrong with an image, sorted by who has to act."""

from __future__ import annotations

from gateway.core.error import ConfigError, GatewayError


class RecipeError(ConfigError):
    """The recipe, the lock or this machine is not as the build needs it; the message says what to mend."""


class ImageMismatchError(GatewayError):
    """Bytes are not what the lock or the release says. Nothing was built on them."""
