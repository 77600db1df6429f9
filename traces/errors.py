"""The one root of errors that a user can cause."""

from __future__ import annotations


class BadInput(ValueError):
    """Something a user gave cannot be used: what it is, where (file, row, option), and why. Its text is one line."""

    def __init__(self, what: str, where: str, why: str) -> None:
        super().__init__(what, where, why)
        self.what, self.where, self.why = what, where, why

    def __str__(self) -> str:
        return " ".join(f"{self.what}: {self.where}: {self.why}".split())
