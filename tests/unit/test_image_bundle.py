"""What an offer names of a bundle: the SHA-256 of the manifest that its signature holds.

Mutations tried, each turns a test here red: hash the whole signature; take the size's bytes in the other order; leave
out the question whether there is a manifest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7

from provisioning.image import bundle
from provisioning.image.error import ImageMismatchError

FACTS = {"compatible": "tillsyn-qemu", "board": "qemu", "variant": "release"}


def signed(tmp_path: Path, content: bytes, *options: pkcs7.PKCS7Options) -> Path:
    """A file that ends as RAUC's verity bundles do."""
    certificate, key = bundle.make_signer(tmp_path, "release")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
    builder = builder.add_signer(x509.load_pem_x509_certificate(certificate.read_bytes()), private, hashes.SHA256())
    signature = builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary, *options])
    target = tmp_path / "update.raucb"
    target.write_bytes(b"images" * 1000 + signature + len(signature).to_bytes(8, "big"))
    return target


def test_the_manifest_in_the_signature_is_what_an_offer_names(tmp_path: Path):
    manifest = bundle.manifest(FACTS, version="0.2.0").encode()
    assert bundle.manifest_sha256(signed(tmp_path, manifest)) == hashlib.sha256(manifest).hexdigest()


def test_what_holds_no_manifest_has_no_such_name(tmp_path: Path):
    target = signed(tmp_path, b"not a manifest")
    with pytest.raises(ImageMismatchError, match="holds no manifest"):
        bundle.manifest_sha256(target)
    target = signed(tmp_path, b"[update]\n", pkcs7.PKCS7Options.DetachedSignature)
    with pytest.raises(ImageMismatchError, match="holds no manifest"):
        bundle.manifest_sha256(target)
    # Without a size, shorter than its size field, with a size that is longer than the file.
    for content in (bytes(5000), b"", b"\x01", (100).to_bytes(8, "big"), b"x" * 99 + (100).to_bytes(8, "big")):
        target.write_bytes(content)
        with pytest.raises(ImageMismatchError, match="ends in no signature"):
            bundle.manifest_sha256(target)


def test_an_update_fetches_only_what_a_slot_lacks_unless_it_is_told_not_to():
    # Mutation: the method at one image only.
    assert bundle.manifest(FACTS, version="0.2.0").count("adaptive=block-hash-index\n") == 2
    assert "adaptive" not in bundle.manifest(FACTS, version="0.2.0", adaptive=False)
