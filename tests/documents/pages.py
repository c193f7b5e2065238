"""The pages of the documentation and the blocks of code in them."""

import dataclasses
import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
# Reports in docs/results/ are written by programs and have no code.
PAGES = [README, *sorted(p for p in DOCS.rglob("*.md") if "results" not in p.parts)]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: file that it is in.
        line: number of its first line in that file.
        language: name behind the opening fence, or "".
        code: its text.
    """

    page: pathlib.Path
    line: int
    language: str
    code: str

    def __str__(self):
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: pathlib.Path) -> str:
    """Return the path of a page relative to the top of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: pathlib.Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start(3)) + 1,
            found[2],
            textwrap.dedent(found[3]),
        )
        for found in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
