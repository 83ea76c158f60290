"""The page of `python -m stugan_tf.demo`. Streamlit runs it from the top at each user action.

It contains only the layout: other modules make pictures, tables and texts. Its arguments are
artifacts.
"""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import streamlit as st

from stugan_tf.demo import drawing, exhibits, latency, tables
from stugan_tf.errors import InputError
from stugan_tf.images import png

NUMBERS = (4, 16, 36, 64)
BATCHES = (1, 16, 64)
GRID = 1080  # pixels, which the browser fits into a column
FRAME = 400
SINGLE = 512
STRIP = 8
WIDTH = 156  # of a control: two fit side by side on a phone

Exhibits = Sequence[exhibits.Exhibit]
Models = Sequence[exhibits.Model]


def show(shown: Exhibits) -> None:
    """Lays out the page.

    Args:
        shown: the generators, side by side. Formats of one generator share a column.
    """
    models = exhibits.models_of(shown)
    alone = len(models) == 1
    title = models[0].name if alone else "Generators"
    st.set_page_config(f"{title}: stugan_tf", layout="centered" if alone else "wide")
    st.header(plain(title))
    if alone:
        st.markdown(plain(models[0].about))
    pages = {
        "Images": lambda: images(models),
        "Walk": lambda: walk(models),
        "Cost": lambda: cost(shown),
        "Density": lambda: density(models),
    }
    tabs = st.tabs(list(pages), on_change="rerun", key="tab")
    for tab, page in zip(tabs, pages.values(), strict=True):
        if tab.open:
            with tab, said():
                page()


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


def images(models: Models) -> None:
    """Images of all generators by seed, class and truncation, to look at and to keep."""
    with st.container(horizontal=True):
        sheet = drawing.Sheet(
            seed=seed_input("Seed", 0, "seed"),
            label=class_input(models, "Class", "class", [drawing.ANY, drawing.EACH]),
            truncation=truncation_input("truncation"),
            num_images=choice_input("Images", NUMBERS, 1, "num_images"),
        )
    for number, (column, model) in enumerate(side_by_side(models)):
        with column, said():
            exhibit = chosen_format(model, f"images_by_{number}")
            found, in_a_row = drawing.draw(exhibit.generator, sheet)
            words = drawing.describe(exhibit.generator, sheet)
            grid = drawing.picture(found, in_a_row, GRID)
            picture(grid, f"{exhibit.name}. {words}")
            st.caption(plain(words))
            keep(found, grid, f"{file_name(model.name)}-seed-{sheet.seed}", number)


def keep(found: np.ndarray, grid: np.ndarray, name: str, number: int) -> None:
    """Buttons to download the grid, and one of its images enlarged by a whole factor.

    Args:
        found: uint8 [n, H, W, C].
        grid: uint8 [height, width, C].
        name: how the files begin.
        number: the column, for the keys of the controls.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.download_button(
            "Download the grid",
            png(grid),
            f"{name}.png",
            "image/png",
            key=f"grid_{number}",
            on_click="ignore",
        )
        chosen = st.number_input(
            "Image, row by row", 1, len(found), 1, key=f"image_{number}", width=WIDTH
        )
        st.download_button(
            "Download the image",
            png(drawing.enlarged(found[chosen - 1], SINGLE)),
            f"{name}-image-{chosen}.png",
            "image/png",
            key=f"single_{number}",
            on_click="ignore",
        )


def walk(models: Models) -> None:
    """A walk from one image to another."""
    with st.container(horizontal=True):
        seeds = seed_input("From seed", 0, "from_seed"), seed_input("To seed", 1, "to_seed")
        labels = (
            class_input(models, "From class", "from_class", [drawing.ANY]),
            class_input(models, "To class", "to_class", [drawing.ANY]),
        )
        way = drawing.Walk(seeds, labels, truncation_input("cut"))
    position = st.slider("Position", 0, 100, 50, format="%d %%", key="position")
    for number, (column, model) in enumerate(side_by_side(models)):
        with column, said():
            exhibit = chosen_format(model, f"walk_by_{number}")
            found = drawing.walk_images(
                exhibit.generator, way, [position, *drawing.strip_positions(STRIP)]
            )
            words = drawing.describe_walk(exhibit.generator, way)
            strip = drawing.picture(found[1:], STRIP, GRID)
            picture(strip, f"{exhibit.name}, {STRIP} images of the way. {words}")
            with st.container(horizontal_alignment="center"):
                frame = drawing.picture(found[:1], 1, 2 * FRAME)
                picture(frame, f"{exhibit.name} at {position} % of the way", FRAME)
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


def density(models: Models) -> None:
    """The density of each layer."""
    shown = [model.exhibits[0] for model in models]
    rows = tables.density_rows({model.name: model.exhibits[0].facts for model in models})
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
    for model in models:
        if len(models) > 1:
            st.subheader(plain(model.name))
        st.dataframe(
            tables.layer_rows(model.exhibits[0].facts),
            hide_index=True,
            column_config=_layer_columns(),
        )


def _layer_columns() -> dict[str, Any]:
    whole = st.column_config.NumberColumn(format="localized")
    return {
        "Weights": whole,
        "Active": whole,
        "Density": st.column_config.ProgressColumn(format="%.4f", min_value=0, max_value=1),
        f"FLOPs, {tables.THEORY}": whole,
    }


def side_by_side(models: Models) -> list[tuple[Any, exhibits.Model]]:
    """A column for each of several models, with what it is as a heading; for one the whole page."""
    if len(models) == 1:
        return [(st.container(), models[0])]
    pairs = list(zip(st.columns(len(models)), models, strict=True))
    for column, model in pairs:
        column.subheader(plain(model.name))
        column.markdown(plain(model.about))
    return pairs


def chosen_format(model: exhibits.Model, key: str) -> exhibits.Exhibit:
    """Asks which of several formats of a model draws; they differ by rounding."""
    names = [f"{one.facts.format} {one.facts.precision}" for one in model.exhibits]
    if len(names) == 1:
        return model.exhibits[0]
    number = st.segmented_control(
        "Drawn by", range(len(names)), format_func=names.__getitem__, default=0, key=key
    )
    return model.exhibits[number or 0]


def picture(image: np.ndarray, alt: str, width: int | Literal["stretch"] = "stretch") -> None:
    """Shows a picture, uint8 [H, W, C], without loss; by default as wide as its column."""
    st.image(png(image), alt=alt, width=width)


def file_name(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:80] or "generator"


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


def class_input(models: Models, label: str, key: str, first: Sequence[str]) -> int | str:
    """Asks for a class or one of the choices in `first`; does not ask if there are no classes."""
    names = drawing.classes_of([model.exhibits[0].generator.interface for model in models])
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
