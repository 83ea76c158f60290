"""The page of a generator: what is in it, and what a person sees who opens it from a disk."""

import dataclasses
import re
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.errors import InputError
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.formats import FORMATS, Settings
from stugan_tf.serving.web import page
from tests.helpers.browsers import chromium
from tests.helpers.served_networks import CLASSES, generator, interface_of

NAMES = tuple(f"<b>{number}</b>" for number in range(CLASSES))


@given(st.binary(max_size=300), st.sampled_from([2, 4]))
def test_a_page_holds_each_byte_of_its_file(tmp_path_factory, data, item_size):
    path = tmp_path_factory.getbasetemp() / "page.html"
    page.write(path, "a title", data, 3, item_size)
    assert page.read(path) == data
    # What HTML drops or changes is not in it.
    text = path.read_bytes().decode()
    assert not {"\0", "\r"} & set(text)
    assert len(re.findall("<script|<!--|</script", text)) == 8


def test_a_page_of_floats_is_little_more_than_its_file(tmp_path):
    for dtype in (np.float32, np.float16):
        values = np.random.default_rng(0).normal(0, 0.05, 10**6).astype(dtype)
        path = tmp_path / "page.html"
        page.write(path, "a title", values.tobytes(), 3, values.itemsize)
        assert path.stat().st_size < values.nbytes + 300_000


def test_what_is_in_a_title_stays_text(tmp_path):
    page.write(tmp_path / "page.html", "</title><script>alert(1)</script>", b"", 1, 4)
    assert "<script>alert" not in (tmp_path / "page.html").read_text()


def test_images_that_are_not_colours_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"1 or 3 channels, got 2\. Export with --format=sparse"):
        page.write(tmp_path / "page.html", "a title", b"", 2, 4)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: text.index('id="generator"')],
        lambda text: text[: text.index('id="generator"') + 100],
        lambda text: text.replace('data-stride="4"', 'data-stride="0"'),
        lambda text: re.sub('(data-stride="4" data-size=)"[0-9]+"', r'\1"30"', text),
        lambda text: re.sub('(data-stride="4" data-size="[0-9]+">)', r"\1ä", text),
        lambda text: re.sub('(data-stride="4" data-size="[0-9]+">)..', r"\1  ", text),
    ],
)
def test_a_damaged_page_is_refused(tmp_path, damage):
    path = tmp_path / "page.html"
    page.write(path, "a title", bytes(range(256)) * 20, 3, 4)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match="is damaged"):
        page.read(path)


def test_a_page_takes_memory_in_proportion_to_its_size(tmp_path):
    path = tmp_path / "page.html"
    bomb = bytes(100 << 20)
    assert len(zlib.compress(bomb)) < 1 << 20
    page.write(path, "a title", bomb, 3, 4)
    with pytest.raises(InputError, match="is too large"):
        page.read(path)


@pytest.fixture(scope="module")
def browser():
    """See `chromium`."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """`(family) -> (tab, generator in Python)`: a page opened from a disk."""
    tabs = []

    def opened(family, **options):
        interface = interface_of(generator(family))
        if interface.conditional:
            interface = dataclasses.replace(interface, class_names=NAMES)
        graph = fold_into_plain_layers(generator(family))
        FORMATS["html"].write(tmp_path, graph, interface, Settings(about={"name": "<mine>"}))
        tab = browser.new_page(**options)
        tabs.append(tab)
        tab.set_default_timeout(120_000)
        tab.asked, tab.wrong = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.on("console", lambda said: tab.wrong.append(said.text) if said.type == "error" else 0)
        # Nothing is computed where the page would wait for it.
        tab.add_init_script("delete globalThis.WebAssembly.instantiate; WebAssembly.compile = 0")
        tab.goto((tmp_path / FORMATS["html"].file).as_uri())
        return tab, FORMATS["html"].read(tmp_path, interface, {})

    yield opened
    for tab in tabs:
        tab.close()


def pixels(tab, canvas):
    """uint8 [H, W, 4] of what a canvas shows."""
    tab.locator(canvas).wait_for()
    width, *values = tab.locator(canvas).evaluate(
        """canvas => [canvas.width, ...canvas.getContext("2d")
            .getImageData(0, 0, canvas.width, canvas.height).data]"""
    )
    return np.array(values, np.uint8).reshape(-1, width, 4)


def check(tab, expected):
    """The first images of the grid are these, up to a level."""
    for number, image in enumerate(expected):
        found = pixels(tab, f'[data-number="{number}"] canvas')
        assert np.abs(found[..., :3].astype(int) - image).max() <= 1
        assert (found[..., 3] == 255).all()


@pytest.mark.ci
@pytest.mark.parametrize("family", ["biggan", "sngan"])
def test_a_person_can_use_the_page(opened, family):
    tab, reference = opened(family)
    assert tab.get_by_role("heading").text_content() == "<mine>"
    check(tab, reference(6))

    tab.get_by_label("Seed", exact=True).fill("12")
    tab.get_by_role("button", name="Next seed").click()
    labels = {}
    if reference.interface.conditional:
        labels = {"labels": 4}
        tab.get_by_label("Class", exact=True).select_option(label="4 <b>4</b>")
    tab.get_by_role("slider", name="Truncation").fill("0.7")
    assert tab.locator("#cut").text_content() == "0.70"
    check(tab, reference(6, seed=13, truncation=0.7, **labels))
    assert re.match(r"[\d.]+ ms an image of \d+ ", tab.locator("#time").text_content())

    # The grid has no end.
    for _ in range(3):
        count = tab.locator("#tiles button").count()
        tab.mouse.wheel(0, 100_000)
        tab.locator(f'[data-number="{count}"] canvas').wait_for()
    numbers = tab.locator("#tiles button").evaluate_all("all => all.map(x => x.dataset.number)")
    assert numbers == [str(number) for number in range(len(numbers))]

    tab.evaluate("scrollTo(0, 0)")
    tab.locator('[data-number="2"]').click()
    tab.get_by_role("button", name="Pause").click()
    position = tab.get_by_label("Position")
    shown = {}
    for value in (0, 0.5, 1):
        position.fill(str(value))
        tab.get_by_text(f"From image {2 + int(value)} to image {3 + int(value)}").wait_for()
        tab.wait_for_function("!isBusy && !walkIsStale")
        shown[value] = pixels(tab, "#picture")[..., :3].astype(int)
    ends = reference(4, seed=13, truncation=0.7, **labels)[2:].astype(int)
    assert np.abs(shown[0] - ends[0]).max() <= 1
    assert np.abs(shown[1] - ends[1]).max() <= 1
    assert np.abs(shown[0.5] - ends[0]).max() > 1

    tab.keyboard.press("Escape")
    tab.locator("h1").click()
    tab.keyboard.press("g")
    tab.keyboard.press("ArrowLeft")
    check(tab, reference(2, seed=12, truncation=0.7, **labels))
    assert [url.split(":")[0] for url in tab.asked] == ["file", "blob"]
    assert not tab.wrong


def test_nothing_sticks_out_on_a_phone_and_the_dark_is_dark(opened):
    tab, _ = opened("biggan", color_scheme="dark", viewport={"width": 375, "height": 700})
    tab.locator('[data-number="0"] canvas').wait_for()
    for view in ("A walk", "Images"):
        tab.get_by_text(view, exact=True).click()
        wide = tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= 375
    shade = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert max(map(int, re.findall(r"\d+", shade))) < 64


@pytest.mark.ci
def test_a_damaged_generator_is_told_in_the_page(browser, tmp_path):
    page.write(tmp_path / "page.html", "damaged", bytes(1000), 3, 4)
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.get_by_text("The file is damaged or not a sparse file of stugan_tf").wait_for()
    tab.close()
