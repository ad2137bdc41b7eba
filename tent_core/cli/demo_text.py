"""The demo's prompts: real conversations of several turns about a long manual that all of them share.

The manual is Python's own language reference, which every interpreter carries (``pydoc_data``); the conversations are
below. A prompt of some thousand tokens is one system prompt, one conversation so far, and one new question.
"""

from __future__ import annotations

from pydoc_data.topics import topics

__all__ = ["CONVERSATIONS", "WARM_UP", "prompt", "system_prompt"]

_ROLE = """\
You are the reference desk of a small software company. Engineers come to you with questions about the Python language
while they review each other's changes. Answer from the manual below and from nothing else. Say which statement or
expression the rule belongs to, quote the sentence that decides the matter when there is one, and add a short example
when it helps. When the manual leaves something open, say that it does. Keep the tone calm and friendly: the person who
asks is in the middle of a review and wants to go on with it. Never guess about versions that the manual does not
mention, and never recommend a library where a statement of the language will do.

The manual:

"""

# (what is asked, which chapter of the manual the answer quotes, what the answer adds)
_Turn = tuple[str, str, str]

CONVERSATIONS: dict[str, list[_Turn]] = {
    "exceptions": [
        (
            "A colleague wrote a try statement with a bare except at the top and two narrower handlers below it. The "
            "linter accepts it, but I remember that the order matters. What does the manual say, and what should I "
            "write in my review?",
            "raise",
            "In short: put the narrow handlers first and the general one last. A bare except has to be the last one, "
            "because it matches everything, and what stands after it could never run.",
        ),
        (
            "Thank you. The handler then raises another exception so that callers see one type of error only. Does "
            "the first one get lost? We need it in the logs, with its traceback.",
            "assert",
            "It is not lost. The new exception carries the old one as its context, and the traceback prints both. If "
            "the first is the reason for the second, raise the second from the first, so that a reader sees that it "
            "was done on purpose.",
        ),
        (
            "Good. One more about the same change: there is a return inside the finally clause, and the test that "
            "expects an exception does not see one any more. Is that a bug of the test?",
            "break",
            "The test is right. A return, break or continue in a finally clause ends the statement, and an exception "
            "that was on its way is discarded with it. Move the return behind the statement.",
        ),
    ],
    "imports": [
        (
            "We have a package whose modules import each other, and after a cleanup one of the names is missing when "
            "the program starts, though never in the tests. How does the import statement bind names, and when?",
            "with",
            "The order of execution decides. A module is entered into the table of modules before its body has run, "
            "so a second import in the circle finds it half filled. Import the module, and look the name up when you "
            "need it.",
        ),
        (
            "That explains it. In the same change somebody wrote a star import inside a function. My editor shows "
            "nothing unusual. Is that allowed?",
            "global",
            "It is not: a star import belongs at the level of the module, and inside of a function or a class it is a "
            "syntax error. Name what you need.",
        ),
        (
            "And what decides which names a star import brings in, when the module has helper functions whose names "
            "start with an underscore?",
            "nonlocal",
            "If the module defines a list of its public names, that list is taken as it is. Otherwise every name "
            "comes that does not start with an underscore.",
        ),
    ],
}

_QUESTION = (
    "One last thing before I approve the change. Please sum up the rules of this conversation in three sentences "
    "that I can paste into the review, the most important one first."
)
_CHAPTERS = ("if", "while", "for", "try")
_MANUAL_CHARACTERS = 9000
_QUOTE_CHARACTERS = 1100


# Some hundred tokens that have nothing to do with the conversations.
WARM_UP = "A few words to warm up before the questions come. " * 40


def _chapter(name: str, limit: int) -> str:
    return topics.get(name, "").strip()[:limit]


def system_prompt() -> str:
    """What all conversations begin with: the role and the manual."""
    manual = "\n\n".join(_chapter(name, _MANUAL_CHARACTERS) for name in _CHAPTERS)
    return f"{_ROLE}{manual[:_MANUAL_CHARACTERS]}\n\n"


def prompt(conversation: str, *, next_turn: bool) -> str:
    """The conversation so far; with `next_turn` the user's next question after it."""
    parts = [system_prompt()]
    for question, chapter, advice in CONVERSATIONS[conversation]:
        quote = _chapter(chapter, _QUOTE_CHARACTERS)
        parts.append(
            f"user: {question}\n\nassistant: The manual has this on the matter.\n\n{quote}\n\n{advice}\n\n"
        )
    if next_turn:
        parts.append(f"user: {_QUESTION}\n\nassistant:")
    return "".join(parts)
