"""TOML to frozen facts, strictly, once. A wrong configuration means refusing to start."""

from gateway.config.file import EyeConfig, GuardConfig, LinkConfig, ParkConfig, TunnelConfig, UpkeepConfig, load

__all__ = ["EyeConfig", "GuardConfig", "LinkConfig", "ParkConfig", "TunnelConfig", "UpkeepConfig", "load"]
