"""Tables as text: in columns for terminals, in Markdown for pages."""

from collections.abc import Iterable, Sequence


def columns(rows: Sequence[Sequence[str]], num_left: int | None = None) -> str:
    """A table as lines of text, with aligned columns and two spaces between them.

    Args:
        rows: rows of strings, all of the same length; the first is the header.
        num_left: the first `num_left` columns are aligned to the left, the others to the right.
            None aligns all to the left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if num_left is None or index < num_left else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(
    header: Sequence[str], rows: Iterable[Sequence[str]], num_left: int | None = None
) -> str:
    """A Markdown table.

    Args:
        header: names of the columns.
        rows: rows of strings, each as long as the header.
        num_left: the first `num_left` columns are aligned to the left, the others to the right.
            None aligns all to the left.
    """
    num_left = len(header) if num_left is None else num_left
    rules = ["---"] * num_left + ["---:"] * (len(header) - num_left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rules, *rows))
