"""The bill of materials of an image: CycloneDX 1.6 as JSON, for Debian's packages and for Python's, by the two locks.

It is made from the locks and not from the finished root: the build refuses a root that isn't what the locks say. The
same locks give the same bytes.
"""

from __future__ import annotations

import re
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from provisioning.image.lock import LockedPackage

NAMESPACE: Final = uuid.UUID("2f3a8f0e-4f5e-5d55-8f0c-3f0f6f4f1f7a")


def document(
    packages: Iterable[LockedPackage],
    wheels: Iterable[tuple[str, str]],
    *,
    board: str,
    version: str,
    suite: str,
    epoch_unix_s: int,
    licences: Mapping[str, Iterable[str]] | None = None,
    support_until: str = "",
) -> dict[str, Any]:
    """The whole document. `wheels` are (name, version); `licences` by component name, where known."""
    known = licences or {}
    image = f"tillsyn-{board}"
    components = [_deb(package, suite, known.get(package.name, ())) for package in packages]
    components += [_wheel(name, number, known.get(f"pypi:{name}", ())) for name, number in wheels]
    components.sort(key=lambda each: str(each["purl"]))
    top = f"pkg:generic/{image}@{version}"
    properties = [{"name": "tillsyn:support-until", "value": support_until}] if support_until else []
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, '/'.join([top, *(str(c['purl']) for c in components)]))}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "operating-system",
                "bom-ref": top,
                "name": image,
                "version": version,
                "purl": top,
                "properties": properties,
            },
        },
        "components": components,
        "dependencies": [{"ref": top, "dependsOn": [str(each["bom-ref"]) for each in components]}],
    }


def security_txt(contact: str, epoch_unix_s: int) -> str:
    """Whom to tell of a weakness; good for a year from the release on. Source: RFC 9116."""
    expires = datetime.fromtimestamp(epoch_unix_s, UTC) + timedelta(days=360)
    return f"Contact: {contact}\nExpires: {expires:%Y-%m-%dT%H:%M:%SZ}\nPreferred-Languages: sv, en\n"


def wheels_of(lock: str) -> tuple[tuple[str, str], ...]:
    """(name, version) of each requirement of a pip lock."""
    return tuple(sorted(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE)))


def licence_names(copyright_text: str) -> tuple[str, ...]:
    """Short names of a machine-readable debian/copyright; empty for one in prose."""
    if not copyright_text.lstrip().startswith("Format:"):
        return ()
    names = {name.strip() for name in re.findall(r"^License:[ \t]*(\S[^\n]*)$", copyright_text, re.MULTILINE)}
    return tuple(sorted(names))


def _deb(package: LockedPackage, suite: str, licences: Iterable[str]) -> dict[str, Any]:
    name, version = urllib.parse.quote(package.name), urllib.parse.quote(package.version, safe="+.~")
    purl = f"pkg:deb/debian/{name}@{version}?arch={package.architecture}&distro={suite}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
        "licenses": [{"license": {"name": each}} for each in sorted(licences)],
        "properties": [
            {"name": "tillsyn:source", "value": package.source},
            {"name": "tillsyn:source-version", "value": package.source_version},
        ],
    }


def _wheel(name: str, version: str, licences: Iterable[str]) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [{"license": {"name": each}} for each in sorted(licences)],
    }
