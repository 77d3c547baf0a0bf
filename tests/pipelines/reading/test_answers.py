"""Final answers are read where a text marks them; of several marks the last wins."""

from __future__ import annotations

import pytest

from pipelines.reading.readers import NoAnswer, clean, final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{12}.", "12"),
        (r"$$\boxed{\frac{a}{\sqrt{b}}}$$", r"\frac{a}{\sqrt{b}}"),
        (r"\boxed{3}, no, $\boxed{\dfrac{1}{2}}$.", r"\dfrac{1}{2}"),
        (r"\boxed{\text{Friday}}", "Friday"),
        (r"\boxed{7\text{ km}}", "7 km"),
        (r"\boxed{\mathrm{H_2O}}", "H_2O"),
        (r"\boxed{\textbf{(D)}}", "(D)"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{9}", "9"),
        (r"\boxed 9", "9"),
        (r"Put it in \boxed{}: the answer is 8.", "8"),
        ("<answer>Quito</answer>", "Quito"),
        ("<answer>Lima</answer>, no: <ANSWER>\n Quito\n</ANSWER>", "Quito"),
        ("<answer>Quito", "Quito"),
        (r"<answer>The answer is \boxed{4}.</answer>", "4"),
        ("2 + 2 = 4\n#### 4", "4"),
        ("#### 1,250", "1,250"),
        ("#### Step 1\nAdd.\n#### Step 2\nThe answer is 9.", "9"),
        ("The answer is 5. Check.\nThe answer is 7.", "7"),
        ("Final Answer: The final answer is $12$. I hope it is correct.", "12"),
        (r"The answer is \(x = 5\).", "x = 5"),
        ("The answer to the question is **Quito**.", "Quito"),
        ("The correct answer is: B", "B"),
        ("The answer is therefore 6", "6"),
        ("the answer is B because A is wrong", "B"),
        ("The answer is 5, not 4.", "5"),
        ("**Answer:** 42", "42"),
        ("**Answer**: 42", "42"),
        ("Answer:\n\n**42**", "42"),
        ("## Final answer\n\n42\n", "42"),
        ("Answer: J. R. R. Tolkien.", "J. R. R. Tolkien"),
        ("The answer is St. Louis. It is in Missouri.", "St. Louis"),
        ("Answer: -5", "-5"),
        ("Answer: 3.14", "3.14"),
        ("Answer: -", "-"),
        ("答案是B", "B"),
        ("最终答案：42。谢谢", "42"),
        ("因此，正确答案应为：消极。因为语气不好。", "消极"),
        ("**答案：** 北京", "北京"),
        ("故选C。", "C"),
        ("答えはBです。", "B"),
        ("정답은 서울입니다.", "서울"),
        ("La respuesta correcta es Quito.", "Quito"),
        ("La réponse est : Paris", "Paris"),
        ("Die Antwort lautet: 7", "7"),
    ],
)
def test_marked_answers_are_read(text: str, answer: str) -> None:
    """Boxes, tags, hashes and phrases, in several languages, without markup and what follows."""
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    ["It is Quito.", "", "I can't answer.", r"\boxed{}", "<answer></answer>", "#### Overview\nText\nmore"],
)
def test_unmarked_answers_are_none(text: str) -> None:
    """Empty marks say nothing either."""
    assert final_answer(text) == NoAnswer("no marked answer")


def test_a_cut_box_is_no_answer() -> None:
    """The one before it was not the final one."""
    assert final_answer(r"\boxed{3} and then \boxed{\frac{1}{") == NoAnswer("the boxed answer is cut off")


def test_clean_takes_off_what_stands_around() -> None:
    """Markup, quotes and the full stop; not the stop of initials."""
    cleaned = {
        '**"Oslo."**': "Oslo",
        "`x`": "x",
        "“Oslo”": "Oslo",
        "J. R.": "J. R",
        "p.m.": "p.m.",
        "7.": "7",
    }
    cleaned["J. R."] = "J. R."
    assert {text: clean(text) for text in cleaned} == cleaned


@pytest.mark.parametrize(
    "piece", ["the answer is ", "answer: ", "<answer>", r"\boxed{", "answer to ", "#### 5\n"]
)
def test_texts_that_repeat_themselves_are_read_quickly(piece: str) -> None:
    """A model that loops up to its token limit does not stop the reader (the test has a time limit)."""
    final_answer(piece * 5000)
