"""What of a worker's output may reach the user's terminal.

Text, colours (SGR), CR, LF, TAB and backspace, and what nested progress bars need (cursor up, erase line). Everything
else could retitle the window, write the clipboard, or make the terminal type an answer: other control sequences (CSI)
are dropped, and any other control character is shown as a visible one, so that what follows it is harmless text.
"""

from __future__ import annotations

import codecs
import re

_PARAMETERS = 64
_INTERMEDIATES = 2
_INCOMPLETE = rf"\x1b(?:\[[0-?]{{0,{_PARAMETERS}}}[ -/]{{0,{_INTERMEDIATES}}})?"
_LONGEST = len("\x1b[") + _PARAMETERS + _INTERMEDIATES
_ALLOWED = rf"\[(?:[0-9;:]{{0,{_PARAMETERS}}}m|[0-9]{{0,4}}A|[0-2]?K)"
_SEQUENCE = rf"\[[0-?]{{0,{_PARAMETERS}}}[ -/]{{0,{_INTERMEDIATES}}}[@-~]"
_CONTROLS = r"\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f"

# The set comes first, as the regex engine then skips ordinary text at full speed.
_forbidden = re.compile(rf"[{_CONTROLS}](?:(?<!\x1b)|(?<=\x1b)(?!{_ALLOWED})(?:{_SEQUENCE})?)")
_incomplete = re.compile(_INCOMPLETE)
_harmless = bytes([*range(ord(" "), 0x7F), *b"\b\t\n\r"])
_no_text = re.compile(rf"\x1b(?:{_SEQUENCE})?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def neutralise(text: str) -> str:
    """Returns `text` without anything that could drive a terminal; idempotent."""
    if text.isascii() and not text.encode().translate(None, delete=_harmless):  # five times faster, for floods
        return text
    return _forbidden.sub(_substitute, text)


def plain(text: str) -> str:
    """Returns `text` without colours, carriage returns and all else that is not text, TAB or LF: for messages."""
    return _no_text.sub(_substitute, text)


def _substitute(match: re.Match[str]) -> str:
    found = match.group()
    if len(found) > 1:
        return ""
    if found < " ":
        return chr(0x2400 + ord(found))  # Unicode's picture of the control character
    return "\u2421" if found == "\x7f" else "\ufffd"


class EscapeFilter:
    """Bytes of one stream to harmless text; a sequence or a character may be split over chunks."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes) -> str:
        text = self._held + self._decoder.decode(data)
        cut = _start_of_incomplete(text)
        self._held = text[cut:]
        return neutralise(text[:cut])

    def end(self) -> str:
        """Returns what is left, after which the filter is as new."""
        text = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        self._decoder.reset()
        return neutralise(text)


def _start_of_incomplete(text: str) -> int:
    """Where a sequence starts that the next chunk may complete; the length of `text` where there is none."""
    start = text.rfind("\x1b", max(0, len(text) - _LONGEST))
    return start if start >= 0 and _incomplete.fullmatch(text, start) else len(text)
