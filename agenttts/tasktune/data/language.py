"""Whether a row is in a language of its sub-task: by its script, else by py3langid."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence

from agenttts.errors import UserError
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.data.subtask import SubTask
from pipelines.extras import library

_LETTERS = 40  # a shorter text does not tell its language
_SURE = 0.95
_COMMON = {"ar", "de", "en", "es", "fr", "he", "hi", "it", "ja", "ko"} | {
    "nl",
    "pt",
    "ru",
    "th",
    "tr",
    "uk",
    "vi",
    "zh",
}
_CJK = {"zh", "ja", "ko"}
_Identify = Callable[[str, Sequence[str]], tuple[str, float]]


def language_check(tasks: Mapping[str, SubTask]) -> Callable[[TaskRow], str | None]:
    """A check of rows.

    Args:
        tasks: The sub-tasks by name, with their languages.

    Returns:
        A function that says which language a row is in when it is none of its sub-task's, and None when it is
        in one of them or can't be told.

    Raises:
        MissingDependency: py3langid is not installed.
    """
    identify = _identifier()
    return lambda row: _problem(tasks[row.task], row, identify)


def _problem(task: SubTask, row: TaskRow, identify: _Identify) -> str | None:
    if not task.languages:
        return None
    text = " ".join([*(v for v in row.inputs.values() if isinstance(v, str)), row.completion])
    letters = [char for char in text if char.isalpha()]
    is_cjk = bool(letters) and 3 * sum(map(_is_cjk, letters)) >= len(letters)
    other_script = not _CJK & set(task.languages) if is_cjk else letters and set(task.languages) <= _CJK
    if other_script:
        return f"its script is not that of {', '.join(task.languages)}"
    if len(letters) < _LETTERS or is_cjk:
        return None
    language, probability = identify(text, task.languages)
    if language not in task.languages and probability >= _SURE:
        return f"its language is {language}, not {' or '.join(task.languages)}"
    return None


def _is_cjk(letter: str) -> bool:
    """Whether a letter is Chinese, Japanese or Korean."""
    name = unicodedata.name(letter, "")
    return any(script in name for script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL"))


def _identifier() -> _Identify:
    langid = library("py3langid.langid", "checking languages")
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

    def identify(text: str, wanted: Sequence[str]) -> tuple[str, float]:
        try:
            identifier.set_languages(sorted(_COMMON | set(wanted)))
        except ValueError as error:
            raise UserError(
                f"languages are ISO 639-1 codes such as en, got {', '.join(wanted)}: {error}"
            ) from None
        language, probability = identifier.classify(text)
        return str(language), float(probability)

    return identify
