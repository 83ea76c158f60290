"""The page of `python -m stugan_tf.demo`. Streamlit runs it from the top at each user action.

It contains only the layout: other modules make pictures, tables and texts. Its arguments are
artifacts.
"""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import streamlit as st

from stugan_tf.demo import drawing, exhibits, latency, tables
from stugan_tf.errors import InputError

NUMBERS = (4, 16, 36, 64)
BATCHES = (1, 16, 64)
GRID = 540  # pixels
FRAME = 280
STRIP = 8
WIDTH = 156  # of a control: two fit side by side on a phone

Exhibits = Sequence[exhibits.Exhibit]


def show(shown: Exhibits) -> None:
    """Lays out the page.

    Args:
        shown: the generators, side by side.
    """
    st.set_page_config("stugan_tf: generators", layout="wide")
    st.header("Generators")
    pages = {"Images": images, "Walk": walk, "Cost": cost, "Density": density}
    tabs = st.tabs(list(pages), on_change="rerun", key="tab")
    for tab, page in zip(tabs, pages.values(), strict=True):
        if tab.open:
            with tab, said():
                page(shown)


@contextlib.contextmanager
def said() -> Iterator[None]:
    """Shows an `InputError` on the page."""
    try:
        yield
    except InputError as error:
        st.error(plain(str(error)))


def plain(text: str) -> str:
    """Escapes a text so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])", r"\\\1", text)


def images(shown: Exhibits) -> None:
    """Images of all generators by seed, class and truncation."""
    with st.container(horizontal=True):
        sheet = drawing.Sheet(
            seed=seed_input("Seed", 0, "seed"),
            label=class_input(shown, "Class", "class", [drawing.ANY, drawing.EACH]),
            truncation=truncation_input("truncation"),
            num_images=choice_input("Images", NUMBERS, 1, "num_images"),
        )
    for column, exhibit in side_by_side(shown):
        with column, said():
            found, in_a_row = drawing.draw(exhibit.generator, sheet)
            words = drawing.describe(exhibit.generator, sheet)
            picture(drawing.picture(found, in_a_row, GRID), f"{exhibit.name}. {words}")
            st.caption(plain(words))


def walk(shown: Exhibits) -> None:
    """A walk from one image to another."""
    with st.container(horizontal=True):
        seeds = seed_input("From seed", 0, "from_seed"), seed_input("To seed", 1, "to_seed")
        labels = (
            class_input(shown, "From class", "from_class", [drawing.ANY]),
            class_input(shown, "To class", "to_class", [drawing.ANY]),
        )
        way = drawing.Walk(seeds, labels, truncation_input("cut"))
    position = st.slider("Position", 0, 100, 50, format="%d %%", key="position")
    for column, exhibit in side_by_side(shown):
        with column, said():
            found = drawing.walk_images(
                exhibit.generator, way, [position, *drawing.strip_positions(STRIP)]
            )
            words = drawing.describe_walk(exhibit.generator, way)
            frame = drawing.picture(found[:1], 1, FRAME)
            picture(frame, f"{exhibit.name} at {position} % of the way")
            strip = drawing.picture(found[1:], STRIP, GRID)
            picture(strip, f"{exhibit.name}, {STRIP} images of the way. {words}")
            st.caption(plain(words))


def cost(shown: Exhibits) -> None:
    """The cost of generators: theoretical FLOPs, bytes, measured times."""
    measured = st.session_state.setdefault("latencies", {})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        batch_size = choice_input("Images in a batch", BATCHES, 0, "batch_size")
        if st.button("Measure the time", key="measure"):
            with st.spinner("Measuring"):
                generators = [exhibit.generator for exhibit in shown]
                measured[batch_size] = latency.measure(generators, batch_size)
    rows = tables.cost_rows(shown, measured)
    st.table(
        {" ": [plain(row["what"]) for row in rows]}
        | {plain(exhibit.name): [plain(row[exhibit.name]) for row in rows] for exhibit in shown}
    )
    st.caption(
        plain(
            "Theoretical FLOPs leave out every zero; the runtimes of these artifacts may compute "
            f"zeros. Measured on {latency.machine()}: calls of each generator in turn, median and "
            "quartiles, without compilation."
        )
    )


def density(shown: Exhibits) -> None:
    """The density of each layer."""
    rows = tables.density_rows(shown)
    names = dict.fromkeys(row["layer"] for row in rows)
    st.bar_chart(
        {name: [row[name] for row in rows] for name in ("layer", "generator", "density")},
        x="layer",
        y="density",
        color="generator",
        horizontal=True,
        stack=False,
        sort=False,
        x_label="",
        y_label="density",
        height=110 + len(names) * (10 + 14 * len(shown)),
        alt="Density of each layer",
    )
    st.caption("Density: the fraction of a kernel's weights that no mask makes zero.")
    for exhibit in shown:
        st.subheader(plain(exhibit.name))
        st.dataframe(
            tables.layer_rows(exhibit.facts), hide_index=True, column_config=_layer_columns()
        )


def _layer_columns() -> dict[str, Any]:
    whole = st.column_config.NumberColumn(format="localized")
    return {
        "Weights": whole,
        "Active": whole,
        "Density": st.column_config.ProgressColumn(format="%.4f", min_value=0, max_value=1),
        f"FLOPs, {tables.THEORY}": whole,
    }


def side_by_side(shown: Exhibits) -> list[tuple[Any, exhibits.Exhibit]]:
    """A column for each exhibit, with its name as a heading."""
    pairs = list(zip(st.columns(len(shown)), shown, strict=True))
    for column, exhibit in pairs:
        column.subheader(plain(exhibit.name))
    return pairs


def picture(image: np.ndarray, alt: str) -> None:
    """Shows a picture without loss."""
    st.image(image, alt=alt, output_format="PNG")


def seed_input(label: str, value: int, key: str) -> int:
    """Asks for a seed."""
    return st.number_input(label, 0, drawing.MAX_SEED, value, key=key, width=WIDTH)


def choice_input(label: str, choices: Sequence[int], index: int, key: str) -> Any:
    """Asks for one of some numbers; `index` is the place of the default."""
    return st.selectbox(label, choices, index, key=key, width=WIDTH)


def truncation_input(key: str) -> float | None:
    """Asks where latents are cut off; None for nowhere."""
    choices = drawing.TRUNCATIONS
    text = st.select_slider("Truncation", choices, drawing.NO_TRUNCATION, key=key, width=WIDTH)
    return drawing.truncation_of(text)


def class_input(shown: Exhibits, label: str, key: str, first: Sequence[str]) -> int | str:
    """Asks for a class or one of the choices in `first`; does not ask if there are no classes."""
    names = drawing.classes_of([exhibit.generator.interface for exhibit in shown])
    if not names:
        return drawing.ANY
    if len(names) > drawing.MAX_ROWS:
        first = [choice for choice in first if choice != drawing.EACH]

    def named(choice: int | str) -> str:
        return choice if isinstance(choice, str) else names[choice]

    choices = [*first, *range(len(names))]
    return st.selectbox(label, choices, format_func=named, key=key, width=WIDTH)


if __name__ == "__main__":
    show(exhibits.open_exhibits(tuple(sys.argv[1:])))
