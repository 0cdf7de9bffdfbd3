"""Independent random streams addressed by what they are for, instead of by how many numbers were drawn before."""

from __future__ import annotations

__all__ = ["stream_seed"]

_MASK = (1 << 64) - 1


def stream_seed(*key: int) -> int:
    """Return the seed of the random stream with the given address, such as ``(seed, rank, step)``.

    A generator seeded by its address needs no state in a checkpoint: step k draws the same noise whether or not the
    run was interrupted before it. The mixing function is the finaliser of SplitMix64, applied once a word. The result
    has 32 bits, because torch's generator on the CPU ignores the upper half of a seed.

    Args:
        *key: integers; equal addresses give equal seeds.

    Returns:
        An integer in [0, 2^32).
    """
    state = 0x9E3779B97F4A7C15
    for word in key:
        state = (state ^ (word & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 32
