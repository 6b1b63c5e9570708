"""Any text as LaTeX in ASCII that prints it: names of models and files may hold whatever a file name holds."""

import re
import unicodedata
from itertools import pairwise

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "*": "{*}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "≠": r"\ensuremath{\neq}",
    "∞": r"\ensuremath{\infty}",
    "→": r"\ensuremath{\rightarrow}",
    "−": r"\ensuremath{-}",
    "’": r"\textquoteright{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "ø": r"\o{}",
}
_ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING ACUTE ACCENT}": "'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^",
    "\N{COMBINING TILDE}": "~",
    "\N{COMBINING DIAERESIS}": '"',
    "\N{COMBINING RING ABOVE}": "r",
    "\N{COMBINING CARON}": "v",
    "\N{COMBINING CEDILLA}": "c",
}


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is: no command, comment, option or ligature, and no character without a glyph."""
    parts = [_SPECIAL.get(char) or _plain(char) for char in unicodedata.normalize("NFC", text)]
    return "".join(
        f"{{}}{part}" if part in "-," and part == before else part for before, part in pairwise(["", *parts])
    )


def breakable(text: str) -> str:
    """`escaped`, for running text: long names may be broken where a path or an option ends."""
    pieces = re.split(r"(?<=[/@,=])(?=\S)", text)
    return r"\allowbreak{}".join(map(escaped, pieces))


def stacked(text: str, widest: int, side: str) -> str:
    """`escaped`, for a cell: a name that is longer than `widest` on several lines, `side` l or r."""
    if len(text) <= widest:
        return escaped(text)
    lines = [""]
    for piece in re.split(r"(?<=/)|(?=@)|(?<=,)", text):
        if lines[-1] and (piece.startswith("@") or len(lines[-1] + piece) > widest):
            lines.append("")
        lines[-1] += piece
    return rf"\shortstack[{side}]{{" + r"\\".join(map(escaped, lines)) + "}"


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    if " " <= char <= "~":
        return char
    letter, mark = (*unicodedata.normalize("NFD", char), "", "")[:2]
    if letter.isascii() and letter.isalpha() and mark in _ACCENTS and len(unicodedata.normalize("NFD", char)) == 2:
        return rf"\{_ACCENTS[mark]}{{{letter}}}"
    return f"[U+{ord(char):04X}]"
