"""Tables of text in columns of equal width."""

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return the lines of a table whose columns are as wide as their widest cell.

    Args:
        rows: the cells of each line; all lines have the same number.
        right: indices of the columns whose cells are on the right.

    Example:

    >>> from keras_vit.text_table import aligned
    >>> aligned([("name", "bytes"), ("kernel", "64")], right=[1])
    ['name    bytes', 'kernel     64']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
