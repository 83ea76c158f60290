"""Tables as text: in columns for terminals, in Markdown for pages."""


def columns(rows, num_left=None):
    """Rows of strings as lines in which columns are aligned, two spaces between them.

    Args:
        rows: of equal length, the first is the header.
        num_left: how many of the first columns are aligned to the left, the others to the right;
            None is all.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if num_left is None or index < num_left else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(header, rows, num_left=None):
    """A Markdown table.

    Args:
        header: strings.
        rows: of strings, each as many as in the header.
        num_left: how many of the first columns are aligned to the left, the others to the right;
            None is all.
    """
    num_left = len(header) if num_left is None else num_left
    rules = ["---"] * num_left + ["---:"] * (len(header) - num_left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rules, *rows))
