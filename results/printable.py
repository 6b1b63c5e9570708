"""Text out of files that anyone may have written, for a terminal."""

import unicodedata


def printable(text: str) -> str:
    """One line without control characters."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def in_cell(text: str) -> str:
    """Text for a cell of a markdown table, which bars divide."""
    return text.replace("|", "\\|")


def has_controls(text: str) -> bool:
    """Whether a name holds what steers a terminal, breaks a line or is no character at all."""
    return any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)
