"""What somebody probably meant: the hint beside a problem. Guesses only; none of them changes what is accepted."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from config.reference import settings, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from config.reference import Setting

_TRUE, _FALSE = {"yes", "on", "true", "y", "enabled"}, {"no", "off", "false", "n", "disabled"}


def closest(found: str, known: Iterable[str]) -> str | None:
    """The known word that is most like this one: in other letters, its beginning, similar, or a part of it."""
    words = tuple(known)
    wanted = _normal(found[:64])
    by_normal = {_normal(word): word for word in reversed(words)}
    for same in (wanted, f"{wanted}s"):
        if same in by_normal:
            return by_normal[same]
    longer = [word for word in words if wanted and _normal(word).startswith(f"{wanted}_")]
    if len(longer) == 1:
        return longer[0]
    similar = difflib.get_close_matches(wanted, by_normal, n=1)
    if similar:
        return by_normal[similar[0]]
    parts = [word for word in words if _normal(word) in wanted.split("_")]
    return parts[0] if len(parts) == 1 else None


def did_you_mean(found: object, known: Iterable[str]) -> str:
    """A word of the known ones, if there is one like it."""
    word = closest(str(found), known)
    return f"did you mean '{word}'?" if word else ""


def for_key(key: str, known: Sequence[str]) -> str:
    """Another key of the same section, or the section that has this one."""
    if key == "<<":
        return "merge keys are not read: write the keys out"
    if hint := did_you_mean(key, known):
        return hint
    elsewhere = [each.path[:-1] for each in settings() if each.path[-1] == key]
    if len(elsewhere) == 1:
        return (
            f"it belongs under '{'.'.join(elsewhere[0])}'"
            if elsewhere[0]
            else "it belongs at the top of the file"
        )
    return ""


def for_truth(value: object) -> str:
    """`true` or `false`, if the word or number is another way to say so."""
    word = str(value).lower()
    if word in {"true", "false"} and value == word:
        return "write it without quotes"
    if word in _TRUE | {"1"}:
        return "did you mean true?"
    return "did you mean false?" if word in _FALSE | {"0"} else ""


def for_list(value: object, *, of_mappings: bool) -> str:
    """A list of what stands there alone."""
    if isinstance(value, dict):
        return "begin each entry with '- '" if of_mappings else "write it as [a, b]"
    if isinstance(value, bool) or of_mappings or not isinstance(value, str | int) or len(str(value)) > 40:
        return ""
    return f"did you mean [{', '.join(written(part.strip()) for part in str(value).split(','))}]?"


def for_number(value: object, unit: str) -> str:
    """The number in a text that holds one."""
    if not isinstance(value, str):
        return ""
    if re.fullmatch(r"0|[1-9][0-9]{0,17}", value):
        return "write it without quotes"
    if re.fullmatch(r"0[0-9]{1,17}", value):
        return f"did you mean {int(value)}? a number has no leading zero"
    if re.fullmatch(r"[0-9]{1,3}([,_ '][0-9]{3})+", value):
        return f"did you mean {re.sub('[^0-9]', '', value)}?"
    counted = re.fullmatch(r"([0-9]{1,18}) ?[A-Za-z]+", value)
    if counted and unit:
        return f"did you mean {int(counted[1])}? it is in {unit}"
    return ""


def takes_numbers(setting: Setting) -> bool:
    """Whether what may be written is, or may be, a number."""
    return any(word in setting.accepts for word in ("number", "port "))


def _normal(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")
