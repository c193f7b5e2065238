"""Extension of griffe, which reads the docstrings for the API pages."""

import re

import griffe

# The lines of a doctest, without a blank line among them, at one indentation.
DOCTEST = re.compile(r"^([ ]*)>>> .*(?:\n\1\S.*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fence the doctests of a docstring, which Markdown would take for quotations."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Replace the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(
                lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```",
                obj.docstring.value,
            )
