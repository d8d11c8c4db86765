"""The tree against an independent one that is written straight from the formulas of RFC 6962, section 2.1."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ledger.tree import (
    EMPTY_ROOT,
    CompactTree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

# Source: the test data of Google's certificate-transparency implementation, which goes with RFC 6962.
LEAVES = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def data(size: int) -> list[bytes]:
    return [str(number).encode() for number in range(size)]


def hashes(size: int) -> list[bytes]:
    return [leaf_hash(each) for each in data(size)]


def k_of(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_mth(d: list[bytes]) -> bytes:
    if not d:
        return sha256().digest()
    if len(d) == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = k_of(len(d))
    return sha256(b"\x01" + naive_mth(d[:k]) + naive_mth(d[k:])).digest()


def naive_path(m: int, d: list[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = k_of(len(d))
    if m < k:
        return [*naive_path(m, d[:k]), naive_mth(d[k:])]
    return [*naive_path(m - k, d[k:]), naive_mth(d[:k])]


def naive_subproof(m: int, d: list[bytes], b: bool) -> list[bytes]:
    if m == len(d):
        return [] if b else [naive_mth(d)]
    k = k_of(len(d))
    if m <= k:
        return [*naive_subproof(m, d[:k], b), naive_mth(d[k:])]
    return [*naive_subproof(m - k, d[k:], False), naive_mth(d[:k])]


sizes = st.integers(1, 70)


def test_known_roots_are_reproduced():
    tree = CompactTree()
    for size in range(len(LEAVES) + 1):
        if size in ROOTS:
            assert tree.root().hex() == ROOTS[size]
        if size < len(LEAVES):
            tree.append(leaf_hash(LEAVES[size]))


def test_every_root_up_to_130_is_that_of_the_formula():
    tree = CompactTree()
    for size in range(130):
        assert (tree.size, tree.root()) == (size, naive_mth(data(size)))
        tree.append(leaf_hash(str(size).encode()))


@pytest.mark.slow
@given(sizes, st.data())
def test_an_inclusion_proof_is_that_of_the_formula_and_verifies(size, draw):
    index = draw.draw(st.integers(0, size - 1))
    proof = inclusion_proof(hashes(size), index)
    assert list(proof) == naive_path(index, data(size))
    assert verify_inclusion(hashes(size)[index], index, size, proof, naive_mth(data(size)))


@pytest.mark.slow
@given(sizes, st.data())
def test_a_consistency_proof_is_that_of_the_formula_and_verifies(size, draw):
    old = draw.draw(st.integers(1, size))
    proof = consistency_proof(hashes(size), old)
    assert list(proof) == naive_subproof(old, data(size), True)
    assert verify_consistency(old, naive_mth(data(old)), size, naive_mth(data(size)), proof)


@settings(max_examples=60)
@given(sizes, st.data())
def test_a_false_proof_is_refused(size, draw):
    index, old = draw.draw(st.integers(0, size - 1)), draw.draw(st.integers(1, size))
    leaves, root, old_root = hashes(size), naive_mth(data(size)), naive_mth(data(old))
    wrong = bytes(32)
    inclusion, consistency = inclusion_proof(leaves, index), consistency_proof(leaves, old)
    assert not verify_inclusion(wrong, index, size, inclusion, root)
    assert not verify_inclusion(leaves[index], index, size, inclusion, wrong)
    assert not verify_inclusion(leaves[index], index, size, (*inclusion, wrong), root)
    assert not verify_inclusion(leaves[index], size, size, inclusion, root)
    assert not verify_consistency(old, wrong, size, root, consistency)
    assert not verify_consistency(old, old_root, size, wrong, consistency)
    assert not verify_consistency(old, old_root, size, root, (*consistency, wrong))
    assert not verify_consistency(size + 1, root, size, root, consistency)
    for proof, holds in (
        (inclusion, lambda p: verify_inclusion(leaves[index], index, size, p, root)),
        (consistency, lambda p: verify_consistency(old, old_root, size, root, p)),
    ):
        for at in range(len(proof)):
            assert not holds((*proof[:at], wrong, *proof[at + 1 :]))
        if proof:
            assert not holds(proof[:-1])
            assert not holds(proof[1:])


def test_a_proof_that_is_too_short_or_too_long_for_the_size_is_refused():
    # Mutations: drop `last == 0` in the loop or at the end of either verifier -> red.
    leaves, other = hashes(8), bytes(32)
    two, four = naive_mth(data(2)), naive_mth(data(4))
    assert not verify_inclusion(leaves[0], 0, 2, (), leaves[0])
    assert not verify_inclusion(leaves[0], 0, 1, (other,), node_hash(other, leaves[0]))
    proof = consistency_proof(leaves[:4], 2)
    assert verify_consistency(2, two, 4, four, proof)
    assert not verify_consistency(2, two, 8, four, proof)
    # Both roots as a verifier would compute them that does not see that the path goes on above the root.
    old_root = node_hash(other, node_hash(two, leaves[2]))
    new_root = node_hash(other, node_hash(two, node_hash(leaves[2], leaves[3])))
    assert not verify_consistency(3, old_root, 4, new_root, (leaves[2], leaves[3], two, other))


def test_every_tree_extends_the_empty_one_and_itself():
    root = naive_mth(data(5))
    assert verify_consistency(0, EMPTY_ROOT, 5, root, ())
    assert verify_consistency(5, root, 5, root, ())
    assert not verify_consistency(0, root, 5, root, ())
    assert not verify_consistency(5, EMPTY_ROOT, 5, root, ())


def test_there_is_no_proof_of_what_is_not_there():
    with pytest.raises(IndexError):
        inclusion_proof(hashes(3), 3)
    with pytest.raises(IndexError):
        consistency_proof(hashes(3), 4)
