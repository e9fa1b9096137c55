"""compute.efi finds what other programs find: the engine computes right, in integers of all sizes and in doubles."""

import hashlib
import math
import struct
from itertools import permutations
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cvmboot import VirtualMachine

COMPUTE = Path(__file__).parents[2] / "samples" / "built" / "compute.efi"
_64 = (1 << 64) - 1


def first_result(kernel: str) -> str:
    with VirtualMachine(COMPUTE, args=kernel, timeout=120) as vm:
        vm.expect(rf"{kernel} 1 ([0-9a-f]{{16}})")
        assert vm.match is not None
        return str(vm.match.group(1))


def test_sha256() -> None:
    data = bytearray(number & 0xFF for number in range(65536))
    for _ in range(160):
        data[:32] = hashlib.sha256(data).digest()
    assert first_result("sha256") == data[:8].hex()


def test_p256() -> None:
    scalar = 0x6B17D1F2_E12C4247_F8BCE6E5_63A440F2_77037D81_2DEB33A0_F4A13945_D898C296  # the base point's x
    for _ in range(400):
        scalar = ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers().x
    assert first_result("p256") == f"{scalar & _64:016x}"


def test_sort() -> None:
    random, total = 0x9E3779B97F4A7C15, 0
    for _ in range(20):
        numbers = []
        for _ in range(32768):
            random ^= random << 13 & _64
            random ^= random >> 7
            random ^= random << 17 & _64
            numbers.append(random)
        for number in sorted(numbers):
            total = (total * 31 + number) & _64
    assert first_result("sort") == f"{total:016x}"


@pytest.mark.slow
def test_nbody() -> None:
    """In Python's doubles, operation by operation as the C source has them."""
    bodies = [
        (
            [i * (2.0 if k == i % 3 else 0.25) for k in range(3)],
            [3.0 / i if i and k == (i + 1) % 3 else 0.0 for k in range(3)],
            0.1 * i if i else 10.0,
        )
        for i in range(5)
    ]
    pairs = [(bodies[i], bodies[j]) for i, j in permutations(range(5), 2) if i < j]
    for _ in range(250_000):
        for (at, speed, mass), (other_at, other_speed, other_mass) in pairs:
            x, y, z = at[0] - other_at[0], at[1] - other_at[1], at[2] - other_at[2]
            square = 0.01 + x * x + y * y + z * z
            pull = 0.001 / (square * math.sqrt(square))
            for k, away in enumerate((x, y, z)):
                speed[k] -= away * other_mass * pull
                other_speed[k] += away * mass * pull
        for at, speed, _ in bodies:
            for k in range(3):
                at[k] += 0.001 * speed[k]
    assert first_result("nbody") == struct.pack(">d", bodies[1][0][0]).hex()
