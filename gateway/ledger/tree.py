"""The Merkle tree over the ledger's leaves: roots and proofs as pure functions of hashes.

A witness that remembers only a size and a root can tell an honest extension from a rewritten history.
Source: RFC 6962 section 2.1 (hashing), RFC 9162 sections 2.1.3 and 2.1.4 (verifying proofs).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
"""Root of the tree with no leaf. Source: RFC 6962 section 2.1."""


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256 with the leaf prefix, which keeps a leaf from being passed off as an inner node."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class CompactTree:
    """A growing tree that keeps only the roots of its complete subtrees: O(log n) hashes for n leaves."""

    __slots__ = ("_complete", "size")

    def __init__(self) -> None:
        self.size = 0
        self._complete: list[bytes] = []

    def append(self, hash_of_leaf: bytes) -> None:
        # Like adding one to a binary counter: every carry joins two complete subtrees of equal size.
        node, size = hash_of_leaf, self.size
        while size & 1:
            node = node_hash(self._complete.pop(), node)
            size >>= 1
        self._complete.append(node)
        self.size += 1

    def root(self) -> bytes:
        if not self._complete:
            return EMPTY_ROOT
        node = self._complete[-1]
        for left in reversed(self._complete[:-1]):
            node = node_hash(left, node)
        return node


def root_of(leaf_hashes: Iterable[bytes]) -> bytes:
    tree = CompactTree()
    for each in leaf_hashes:
        tree.append(each)
    return tree.root()


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Prove that leaf `index` is in the tree over all `leaf_hashes`. IndexError if there is no such leaf."""
    if not 0 <= index < len(leaf_hashes):
        raise IndexError(f"no leaf {index} in a tree of {len(leaf_hashes)}")
    return _path(leaf_hashes, index)


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """Prove that the tree over the first `old_size` leaves is a prefix of the tree over all of them.

    Empty for an old size of 0 or the whole. IndexError if the old tree is larger than the new one.
    """
    if not 0 <= old_size <= len(leaf_hashes):
        raise IndexError(f"no prefix of {old_size} in a tree of {len(leaf_hashes)}")
    return _subproof(leaf_hashes, old_size, known=True) if old_size else ()


def verify_inclusion(hash_of_leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """True when `proof` leads from the leaf at `index` to `root` of a tree of `size`. Source: RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        return False
    here, last, computed = index, size - 1, hash_of_leaf
    for sibling in proof:
        if last == 0:
            return False
        if here & 1 or here == last:
            computed = node_hash(sibling, computed)
            here, last = _up_to_a_right_child(here, last)
        else:
            computed = node_hash(computed, sibling)
        here, last = here >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """True when the new tree is shown to extend the old one. Source: RFC 9162, 2.1.4.2."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size in (0, new_size):
        return not proof and old_root == (new_root if old_size else EMPTY_ROOT)
    if not proof:
        return False
    # A complete old tree is itself the first node of the path, and is not sent.
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    here, last = old_size - 1, new_size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    old_computed = new_computed = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            here, last = _up_to_a_right_child(here, last)
        else:
            new_computed = node_hash(new_computed, sibling)
        here, last = here >> 1, last >> 1
    return last == 0 and old_computed == old_root and new_computed == new_root


def _up_to_a_right_child(here: int, last: int) -> tuple[int, int]:
    # The last node of an incomplete level has no sibling and rises unchanged.
    while here and not here & 1:
        here, last = here >> 1, last >> 1
    return here, last


def _split(size: int) -> int:
    """Largest power of two below `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1


def _path(leaf_hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    if len(leaf_hashes) == 1:
        return ()
    middle = _split(len(leaf_hashes))
    left, right = leaf_hashes[:middle], leaf_hashes[middle:]
    if index < middle:
        return (*_path(left, index), root_of(right))
    return (*_path(right, index - middle), root_of(left))


def _subproof(leaf_hashes: Sequence[bytes], old_size: int, *, known: bool) -> tuple[bytes, ...]:
    # `known`: the verifier already has this subtree's root, because it is the old root.
    if old_size == len(leaf_hashes):
        return () if known else (root_of(leaf_hashes),)
    middle = _split(len(leaf_hashes))
    left, right = leaf_hashes[:middle], leaf_hashes[middle:]
    if old_size <= middle:
        return (*_subproof(left, old_size, known=known), root_of(right))
    return (*_subproof(right, old_size - middle, known=False), root_of(left))
