"""Tables as text."""

from stugan_tf.tables import columns, markdown


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces():
    rows = [("name", "state", "steps"), ("a", "", "1,000"), ("longer", "done", "")]
    assert columns(rows).splitlines() == [
        "name    state  steps",
        "a              1,000",
        "longer  done",
    ]
    assert columns(rows, num_left=1).splitlines() == [
        "name    state  steps",
        "a              1,000",
        "longer   done",
    ]


def test_numbers_in_markdown_are_aligned_to_the_right():
    lines = markdown(("file", "bytes"), [("a", "1")], num_left=1).splitlines()
    assert lines == ["| file | bytes |", "| --- | ---: |", "| a | 1 |"]
    assert markdown(("", ""), []).splitlines() == ["|  |  |", "| --- | --- |"]
