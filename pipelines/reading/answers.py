"""The final answer in what models write at length: in a box, in a tag, after a mark or a phrase."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.reading.noanswer import NoAnswer


@dataclass(frozen=True, slots=True)
class _Marked:
    """A marked answer: where its mark begins, where it ends, and its text."""

    start: int
    end: int
    text: str


UNMARKED = NoAnswer("no marked answer")
"""What `final_answer` returns for a text that marks no answer; a cut mark has another reason."""
_BOX = re.compile(r"\\f?boxed\s*\{|\\fbox\s*\{|\\boxed\s+(?=[^\s{$])")
_TAG = re.compile(r"<\s*(answer|final_answer|final|ans)(?:\s[^<>]*)?>", re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|textsf|mathrm|mathbf|mathit|mathsf|mathtt|operatorname|mbox|bm"
    r"|boldsymbol|boxed|fbox)\s*\{"
)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?=[^\s#])([^\n]+)", re.MULTILINE)
_NUMBER_FIRST = re.compile(r"[-+(\\$€£¥₹]*\s*[0-9.]")
_PHRASE = re.compile(
    r"""
    (?<![^\W_])
    (?: answers? (?:\s+to\s[^.:\n]{1,120}?)? [*_"'”)\s]*
        (?: (?:is|was|are|(?:would|should|must|will)\ be)\b
            (?:\s+(?:therefore|thus|simply|then|indeed)\b)? [*_\s]*[:：]? | [:：=] )
      | (?:respuesta|réponse|risposta|resposta)
        (?:\s+(?:correcta|final|finale|corretta|correta|correcte))?
        [*_\s]* (?: (?:es|est|è|é)(?![^\W_]) [*_\s]*[:：]? | [:：] )
      | antwort [*_\s]* (?: (?:ist|lautet)\b [*_\s]*[:：]? | [:：] )
      | ответ [*_\s]* [:：]
    )
    | (?:答案|答え|回答|答) [*_」』\s]* (?:应该|應該|应|應)? (?:是|为|為|は|[:：]) [*_\s]*[:：]?
    | (?:选择|選擇|选|選)(?=\s*[（(]?[A-Z](?![A-Za-z]))
    | (?:정답|답변|답) [*_\s]* (?: (?:은|는) [*_\s]*[:：]? | [:：] )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_HEADING = re.compile(
    r"[ \t]*(?:#{1,6}[ \t]*|\*\*|__)?(?:the[ \t]+)?(?:(?:final|correct)[ \t]+)?answer[ \t]*(?:\*\*|__)?\s*\Z"
    r"|[ \t]*(?:#{1,6}[ \t]*|\*\*)?【?(?:最终|最終|正确|正確)?答案】?(?:\*\*)?[ \t]*\Z",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=[\"'”’*_)\s]*(?:\s+[A-Z(\"“*]|\Z))")
_ABBREVIATION = re.compile(
    r"(?:^|[\s.(\"'“])(?:[^\W\d_]|St|Dr|Mr|Ms|Mrs|Jr|Sr|Mt|vs|No|Co|Ft|Inc|Ltd|Rev|Gen|Col|Prof|approx|ca|e\.g|i\.e|[AaPp]\.m)\Z"
)
_CJK_END = re.compile(r"[。！？]")
_BECAUSE = re.compile(r"[,，;；]?\s+because\s|[,;]\s*since\s|[,，;；]?\s*(?:因为|因為|なぜなら|왜냐하면)")
_NOT = re.compile(r"[,;]\s+not\s|，而?不是")
_COPULA = re.compile(r"(?:です|でした|である|となります|になります|입니다|이다|예요|이에요)[。.．]?\Z")
_AROUND = re.compile(
    r"""\A(?:\s|\*\*|__|`+|\$\$?|\\\(|\\\[|["'“”‘’「『«*_])+|(?:\s|\*\*|__|`+|\$\$?|\\\)|\\\]|["'“”‘’」』»*_])+\Z"""
)
_MOST_TAGS = 20  # so that texts that repeat themselves are read in linear time
_SAYS = re.compile(r"[\w+-]")
_PHRASE_WORDS = (
    "answer",
    "答",
    "选",
    "選",
    "답",
    "respuesta",
    "réponse",
    "risposta",
    "resposta",
    "antwort",
    "ответ",
)


def final_answer(text: str) -> str | NoAnswer:
    """Read the final answer that a text marks as such.

    Marks are `\\boxed{...}`, `<answer>...</answer>`, GSM8K's `####`, and phrases such as "The answer is",
    "Final answer:", "答案是", "最终答案：", "答えは", "정답은". The last mark of all counts; a mark within a
    marked answer is read in its turn. Empty marks, as instructions quote them, are passed over.

    Args:
        text: What the model wrote, without its thinking.

    Returns:
        The answer without markup, quotes, the sentence's full stop and what follows that. UNMARKED where
        nothing is marked, another NoAnswer where the last box is cut.
    """
    boxed = _boxed(text)
    if isinstance(boxed, NoAnswer):
        return boxed
    marks = [mark for mark in (boxed, _tagged(text), _hashed(text), _phrased(text)) if mark is not None]
    if not marks:
        return UNMARKED
    last = max(marks, key=lambda mark: (mark.end, mark.start))
    if last is boxed:
        return _without_wrappers(last.text)
    inner = final_answer(last.text)
    return inner if isinstance(inner, str) else clean(last.text)


def marks_nothing(text: str) -> bool:
    """Whether a text for which `final_answer` is UNMARKED has a mark, which is then empty.

    Args:
        text: What the model wrote, without its thinking.
    """
    return any(mark.search(text) for mark in (_BOX, _TAG, _PHRASE))


def clean(text: str) -> str:
    """Take markup, quotes and a final full stop off a short answer.

    Args:
        text: An answer, perhaps with `**`, backticks, `$`, quotes of any script around it.

    Returns:
        The answer; initials and abbreviations keep their full stop.
    """
    before = None
    while text != before:
        before = text
        text = _AROUND.sub("", text)
        text = text[:-1] if text[-1:] in ("。", "．") else text
        if text.endswith(".") and not text.endswith("..") and not _ABBREVIATION.search(text[:-1]):
            text = text[:-1]
    return text


def _boxed(text: str) -> _Marked | NoAnswer | None:
    """Find the last box that holds something; NoAnswer where the last one is not closed."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    last: _Marked | None = None
    for box in _BOX.finditer(text):
        if last is not None and box.start() < last.end:
            continue
        if not box.group().endswith("{"):
            content = re.compile(r"[^\s$]+").match(text, box.end())
            assert content is not None
            last = _Marked(box.start(), content.end(), content.group().rstrip(".,"))
            continue
        end = _closing_brace(text, box.end())
        if end is None:
            return NoAnswer("the boxed answer is cut off")
        content_text = text[box.end() : end].strip()
        if _SAYS.search(content_text):
            last = _Marked(box.start(), end + 1, content_text)
    return last


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in _BRACE.finditer(text, start):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return None


def _without_wrappers(text: str) -> str:
    """Take `\\text{}`, `\\mathrm{}` and the like off, wherever they stand."""
    while wrapper := _WRAPPED.search(text):
        end = _closing_brace(text, wrapper.end())
        if end is None:
            break
        text = text[: wrapper.start()] + text[wrapper.end() : end] + text[end + 1 :]
    return _AROUND.sub("", text.strip()).strip()


def _tagged(text: str) -> _Marked | None:
    if "<" not in text:
        return None
    for tag in list(_TAG.finditer(text))[: -_MOST_TAGS - 1 : -1]:
        close = re.compile(rf"<\s*/\s*{tag.group(1)}\s*>", re.IGNORECASE).search(text, tag.end())
        end = close.start() if close else len(text)
        if _SAYS.search(text, tag.end(), end):
            return _Marked(tag.start(), close.end() if close else end, text[tag.end() : end].strip())
    return None


def _hashed(text: str) -> _Marked | None:
    if "####" not in text:
        return None
    last = None
    for mark in _HASHES.finditer(text):
        if _NUMBER_FIRST.match(mark.group(1)) or not text[mark.end() :].strip():
            last = _Marked(mark.start(), mark.end(), mark.group(1).strip())
    return last


def _phrased(text: str) -> _Marked | None:
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = text  # a letter whose small form is longer: positions would not fit
    positions = sorted((i for word in _PHRASE_WORDS for i in _positions(lowered, word)), reverse=True)
    for position in positions:
        phrase = _PHRASE.match(text, position)
        start = phrase.end() if phrase else _end_of_heading(text, position)
        rest_of_line = None if start is None else _rest_of_line(text, start)
        if rest_of_line is None:
            continue
        content = _first_sentence(text[slice(*rest_of_line)])
        if _SAYS.search(content):
            return _Marked(position, rest_of_line[0] + len(content), content)
    return None


def _positions(text: str, word: str) -> Iterator[int]:
    position = text.find(word)
    while position >= 0:
        yield position
        position = text.find(word, position + len(word))


def _end_of_heading(text: str, position: int) -> int | None:
    """Find the end of the line around a position if that is a heading such as "## Final answer"."""
    start, end = text.rfind("\n", 0, position) + 1, text.find("\n", position)
    return end if end >= 0 and _HEADING.match(text[start:end]) else None


def _rest_of_line(text: str, start: int) -> tuple[int, int] | None:
    """Find the text that follows a phrase on its line, else the next line with text."""
    for line in re.compile(r"[^\n]+").finditer(text, start):
        if re.search(r"[^\s*_#:：$\[\]\\`]", line.group()):
            return line.start(), line.end()
    return None


def _first_sentence(line: str) -> str:
    """Cut an answer where its sentence ends, or where it begins to give reasons or what is not the answer."""
    if (end := _CJK_END.search(line)) and end.start():
        line = line[: end.start()]
    if (because := _BECAUSE.search(line)) and because.start():
        line = line[: because.start()]
    if (refuted := _NOT.search(line)) and refuted.start():
        line = line[: refuted.start()]
    for stop in _SENTENCE_END.finditer(line):
        if not _ABBREVIATION.search(line[: stop.start()]):
            line = line[: stop.start()]
            break
    return _COPULA.sub("", line.strip())
