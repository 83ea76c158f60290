"""The page of `python -m stugan_tf.demo`: Streamlit runs it from the top at each touch.

It only lays out: what is drawn and said comes from `serving`. Its arguments are artifacts.
"""

import contextlib
import re
import sys

import streamlit as st

from stugan_tf.demo import drawing, exhibits, latency, tables
from stugan_tf.errors import InputError

NUMBERS = (4, 16, 36, 64)
BATCHES = (1, 16, 64)
GRID = 540  # pixels
FRAME = 280
STRIP = 8
WIDTH = 156  # of a control: two fit beside each other on a phone


def show(shown):
    """Lays the page out.

    Args:
        shown: `Exhibit`s.
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
def said():
    """Says on the page what was wrong with what was asked for."""
    try:
        yield
    except InputError as error:
        st.error(plain(str(error)))


def plain(text):
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])", r"\\\1", text)


def images(shown):
    """Images by seed, class and truncation, of all generators."""
    with st.container(horizontal=True):
        sheet = drawing.Sheet(
            seed=seed_input("Seed", 0, "seed"),
            label=class_input(shown, "Class", "class", [drawing.ANY, drawing.EACH]),
            truncation=truncation_input("truncation"),
            num_images=st.selectbox("Images", NUMBERS, 1, key="num_images", width=WIDTH),
        )
    for column, exhibit in side_by_side(shown):
        with column, said():
            found, in_a_row = drawing.draw(exhibit.generator, sheet)
            words = drawing.describe(exhibit.generator, sheet)
            picture(drawing.picture(found, in_a_row, GRID), f"{exhibit.name}. {words}")
            st.caption(plain(words))


def walk(shown):
    """From one image to another."""
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


def cost(shown):
    """What generators cost: theory, bytes and what is measured."""
    measured = st.session_state.setdefault("latencies", {})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        batch_size = st.selectbox("Images in a batch", BATCHES, key="batch_size", width=WIDTH)
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
            "Theoretical FLOPs leave out every zero; what computes these artifacts may not. "
            f"Measured on {latency.machine()}: calls of each in turn, median and quartiles, "
            "compilation not counted."
        )
    )


def density(shown):
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


def _layer_columns():
    whole = st.column_config.NumberColumn(format="localized")
    return {
        "Weights": whole,
        "Active": whole,
        "Density": st.column_config.ProgressColumn(format="%.4f", min_value=0, max_value=1),
        f"FLOPs, {tables.THEORY}": whole,
    }


def side_by_side(shown):
    """A column for each exhibit, under its name."""
    pairs = list(zip(st.columns(len(shown)), shown, strict=True))
    for column, exhibit in pairs:
        column.subheader(plain(exhibit.name))
    return pairs


def picture(image, alt):
    """A picture, pixel by pixel."""
    st.image(image, alt=alt, output_format="PNG")


def seed_input(label, value, key):
    """A natural number."""
    return st.number_input(label, 0, drawing.MAX_SEED, value, key=key, width=WIDTH)


def truncation_input(key):
    """Where latents are cut off, or None."""
    choices = drawing.TRUNCATIONS
    text = st.select_slider("Truncation", choices, drawing.NO_TRUNCATION, key=key, width=WIDTH)
    return drawing.truncation_of(text)


def class_input(shown, label, key, first):
    """A class by its number, or one of what is offered first; nothing to ask without classes."""
    names = drawing.classes_of([exhibit.generator.interface for exhibit in shown])
    if not names:
        return drawing.ANY
    if len(names) > drawing.MAX_ROWS:
        first = [choice for choice in first if choice != drawing.EACH]

    def named(choice):
        return choice if isinstance(choice, str) else names[choice]

    choices = [*first, *range(len(names))]
    return st.selectbox(label, choices, format_func=named, key=key, width=WIDTH)


if __name__ == "__main__":
    show(exhibits.open_exhibits(tuple(sys.argv[1:])))
