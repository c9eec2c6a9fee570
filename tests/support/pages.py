"""The pages of the documentation: their blocks of code, and the marks of those that are not run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/*.md")])
SHELL = frozenset({"shell", "bash", "console"})

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<not_run>.+) -->\n)?```(?P<language>\S*).*\n(?P<code>(?:.*\n)*?)^```$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """
    A block of code on a page.

    :param not_run: the reason in the mark above the block, ``<!-- not run: reason -->``; None without a mark.
    """

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def typed(self) -> str:
        """The commands of a shell block, without prompts and output."""
        lines = self.code.splitlines()
        typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return "\n".join(typed or lines)


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page in any of the languages, in order; all without a language."""
    text = page.read_text()
    found = [
        Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"].strip("{}"),
            match["code"],
            match["not_run"],
        )
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def code_spans(page: Path) -> list[str]:
    """Return the code within the sentences and tables of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [span.replace(r"\|", "|") for span in re.findall(r"`([^`\n]+)`", text)]
