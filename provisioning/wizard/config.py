"""The configuration of `tillsyn setup`: one strict TOML file, part of the image."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from gateway.config.file import AbsolutePath, Config


class SetupConfig(Config, frozen=True):
    factory_dir: AbsolutePath
    """The device's stub of an identity. Source: provisioning.factory.stub."""
    state_dir: AbsolutePath
    guard_socket: AbsolutePath
    """The guard's set-up socket."""
    link_dir: AbsolutePath
    """Where the link's identity and `link.toml` are to lie."""
    link_template: AbsolutePath
    act_path: AbsolutePath
    """Appears when somebody did the physical act; removed when it was noticed."""
    listen: Annotated[str, Meta(max_length=64)]
    """Address for the pages; `::` or `0.0.0.0` on a device."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 443
    portal_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Plain HTTP that sends everybody to the pages, while the device is its own access point; 80 on a device."""
    link_named_dir: AbsolutePath | None = None
    """Where they lie for the link, if root moves them there afterwards; `link_dir` where None."""
    bus: str | None = None
    """D-Bus address of NetworkManager's bus; the system's where None."""
    announce: bool = True
    """Have Avahi answer for `gw-xxxx.local` on the local network."""
    access_point: bool = True
    """Raise the device's own network while it has no other."""
    try_s: Annotated[float, Meta(ge=1, le=120)] = 45.0
    linger_s: Annotated[float, Meta(ge=1, le=60)] = 20.0
    """How long the last page stays, for the resident's papers to be fetched, after set-up is over for all else."""
