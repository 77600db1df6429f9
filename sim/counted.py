"""How many there are of something, in words."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """`1 request`, `2,000 requests`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
