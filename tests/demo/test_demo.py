"""The command `demo`: what it refuses, its page without a browser, and in one."""

import contextlib
import dataclasses
import http.client
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from PIL import Image

import stugan_tf
from stugan_tf.demo import exhibits
from stugan_tf.demo.exhibits import read_facts
from tests.helpers.browsers import chromium
from tests.helpers.exhibited import CARD, exhibit, write
from tests.helpers.served_networks import served_generator, unlike_new

ROOT = pathlib.Path(stugan_tf.__file__).parents[1]
PAGE = ROOT / "stugan_tf" / "demo" / "page.py"


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--artifact is missing: a folder that python -m stugan_tf.export wrote."),
        (["--artifact=a"] * 5, "A page shows up to 4 artifacts side by side, got 5."),
        (["--artifact=a", "--port=0"], "--port must be from 1 to 65535, got 0."),
        (["--artifact=a", "--gin_param=a = 1"], "The demo does not use gin"),
    ],
)
def test_flags_that_cannot_be_are_refused(use, flags, message):
    code, _, errors = use("demo", flags)
    assert code == 1
    assert errors.startswith(f"error: {message}")


def test_without_streamlit_it_says_what_to_install(use, monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit.starlette", None)
    code, _, errors = use("demo", ["--artifact=nowhere"])
    assert code == 1
    assert "pip install 'stugan_tf[demo]'" in errors


def test_what_is_no_artifact_is_refused(use, tmp_path):
    flags = [f"--artifact={tmp_path / 'nowhere'}", f"--port={_free_port()}"]
    code, _, errors = use("demo", flags)
    assert code == 1
    assert errors.startswith(f"error: There is no artifact {tmp_path / 'nowhere'}")


def test_a_port_in_use_is_refused(use):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, errors = use("demo", ["--artifact=nowhere", f"--port={port}"])
    assert code == 1
    assert f"--port={port} of --host=127.0.0.1 cannot be used: Address already in" in errors


def test_a_host_that_is_none_is_refused(use):
    code, _, errors = use("demo", ["--artifact=nowhere", "--host=256.0.0.1"])
    assert code == 1
    assert errors.startswith("error: --host=256.0.0.1 is not an address.")


@pytest.fixture
def page(monkeypatch):
    """`(*exhibits) -> a running page`, without a browser."""
    from streamlit.testing.v1 import AppTest

    def open_page(*shown):
        monkeypatch.setattr(exhibits, "open_exhibits", lambda paths: shown)
        running = AppTest.from_file(PAGE, default_timeout=60).run()
        assert not running.exception
        return running

    return open_page


def _go(running, tab):
    """Runs the page with a tab open, which Streamlit's test of 1.65 forgets at each run."""
    running.session_state["tab"] = tab
    running.run()
    assert not running.exception


def _captions(running):
    return [re.sub(r"\\(.)", r"\1", caption.value) for caption in running.caption]


@pytest.mark.ci
def test_the_page_asks_for_classes_where_there_are_any(page):
    plain = page(exhibit())
    assert [box.label for box in plain.selectbox] == ["Images"]
    conditional = page(exhibit(), exhibit("named", num_classes=2, class_names=("cat", "dog")))
    (classes,) = (box for box in conditional.selectbox if box.label == "Class")
    assert classes.options == ["drawn by the seed", "a row of each", "0 cat", "1 dog"]
    classes.set_value(1).run()
    assert _captions(conditional) == [
        "Seed 0. This generator takes no classes.",
        "Seed 0. All are of class 1 dog.",
    ]


@pytest.mark.ci
def test_what_a_generator_cannot_do_is_a_message_beside_the_images_of_others(page):
    running = page(exhibit("few", num_classes=2), exhibit("many", num_classes=3))
    running.selectbox(key="class").set_value(2).run()
    assert not running.exception
    (error,) = running.error
    assert re.sub(r"\\(.)", r"\1", error.value).startswith("labels must be from 0 to 1, got 2")
    assert _captions(running) == ["Seed 0. All are of class 2."]


@pytest.mark.ci
def test_the_page_walks(page):
    running = page(exhibit(num_classes=3), exhibit("stays", num_classes=3, mixes=False))
    _go(running, "Walk")
    running.selectbox(key="from_class").set_value(0)
    running.selectbox(key="to_class").set_value(2)
    running.number_input(key="to_seed").set_value(5)
    running.slider(key="position").set_value(25)
    _go(running, "Walk")
    assert _captions(running) == ["From seed 0, class 0 to seed 5, class 2."]
    assert len(running.error) == 1


@pytest.mark.ci
def test_the_page_tells_costs_and_measures(page):
    running = page(exhibit("dense"), exhibit("sparse"))
    _go(running, "Cost")
    assert list(running.table[0].value.columns) == [" ", "dense", "sparse"]
    rows = len(running.table[0].value)
    running.button(key="measure").click()
    _go(running, "Cost")
    added = running.table[0].value.iloc[rows:]
    assert [what.replace("\\", "") for what in added[" "]] == ["Batch of 1, measured"]
    assert all(" ms " in words for words in added["sparse"])


@pytest.mark.ci
def test_the_page_lists_layers(page):
    running = page(exhibit("dense"), exhibit("sparse"))
    _go(running, "Density")
    assert [list(frame.value["Layer"]) for frame in running.dataframe] == [["first", "last"]] * 2


def _of(digest, **changes):
    """An exhibit with a card that says which generator it is."""
    facts = read_facts({**CARD, "run": "mine", "digest": digest, **changes})
    return dataclasses.replace(exhibit(), facts=facts)


@pytest.mark.ci
def test_formats_of_one_generator_share_a_column_and_differ_in_cost(page):
    lite = _of("d", format="tflite")
    running = page(_of("d"), dataclasses.replace(lite, name="mine, tflite"))
    assert [header.value for header in running.header] == ["mine"]
    assert not running.subheader
    assert len(_captions(running)) == 1
    (choice,) = running.button_group
    assert choice.options == ["sparse float32", "tflite float32"]
    _go(running, "Cost")
    assert len(running.table[0].value.columns) == 3
    _go(running, "Density")
    assert len(running.dataframe) == 1


@pytest.mark.ci
def test_an_image_and_the_grid_can_be_downloaded(page):
    running = page(exhibit())
    assert [button.label for button in running.download_button] == [
        "Download the grid",
        "Download the image",
    ]
    (chosen,) = (box for box in running.number_input if box.label == "Image, row by row")
    assert (chosen.min, chosen.max) == (1, 16)
    chosen.set_value(16).run()
    assert not running.exception


@pytest.mark.ci
def test_markdown_in_a_name_stays_text(page):
    running = page(exhibit("![a](http://example.com/a.png) $x$"))
    (name,) = running.header
    assert name.value == r"\!\[a\]\(http\:\/\/example\.com\/a\.png\) \$x\$".replace(r"\/", "/")


@pytest.fixture(scope="module")
def browser():
    """See `chromium`."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a page of two conditional generators, one of them sparse; its process; log."""
    folder = tmp_path_factory.mktemp("demo")
    for name, density in (("dense", 1.0), ("sparse", 0.1)):
        write(folder / name, unlike_new(served_generator((8, 8, 3)), density))
    flags = [f"--artifact={folder / name}" for name in ("dense", "sparse")]
    port, path = _free_port(), folder / "log"
    with open(path, "w") as log:
        command = [sys.executable, "-m", "stugan_tf.demo", *flags, f"--port={port}"]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        try:
            _wait_for(path, "Ctrl-C", process)
            yield f"http://127.0.0.1:{port}", process, path
        finally:
            process.kill()
            process.wait()


def _wait_for(log, words, process):
    end = time.monotonic() + 120
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def test_a_person_can_use_the_page(browser, served):
    address, _, _ = served
    tab = browser.new_page()
    tab.set_default_timeout(120_000)
    asked, wrong = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    _open(tab, address)

    pictures = tab.get_by_role("img", name=re.compile(r"^(dense|sparse)\. Seed 0"))
    _until(lambda: pictures.count() == 2)
    drawn = _sources(pictures)
    assert len(set(drawn)) == 2
    _choose(tab, "Class", "3")
    _until(lambda: tab.get_by_text("Seed 0. All are of class 3").count() == 2)
    of_class = _sources(pictures)
    assert not set(of_class) & set(drawn)
    tab.get_by_role("slider", name="Truncation").first.press("Home")
    _until(lambda: not set(_sources(pictures)) & set(of_class))
    for what, size in (("grid", (1064, 1064)), ("image", (512, 512))):
        with tab.expect_download() as download:
            tab.get_by_role("button", name=f"Download the {what}").first.click()
        assert Image.open(download.value.path()).size == size
    _check_width(tab)

    tab.get_by_role("tab", name="Walk").click()
    frames = tab.get_by_role("img", name=re.compile("of the way$"))
    _until(lambda: frames.count() == 2)
    halfway = _sources(frames)
    tab.get_by_role("slider", name="Position").press("End")
    _until(lambda: tab.get_by_role("img", name="sparse at 100 % of the way").count() == 1)
    assert not set(_sources(frames)) & set(halfway)
    _check_width(tab)

    tab.get_by_role("tab", name="Cost").click()
    tab.get_by_role("button", name="Measure the time").click()
    tab.get_by_role("cell", name="Batch of 1, measured").wait_for()
    assert tab.get_by_role("cell", name="FLOPs an image, theoretical").is_visible()
    _check_width(tab)

    tab.get_by_role("tab", name="Density").click()
    tab.get_by_test_id("stVegaLiteChart").locator("canvas, svg").first.wait_for()
    _until(lambda: tab.get_by_test_id("stDataFrame").count() == 2)
    _check_width(tab)

    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked
    assert not wrong, wrong
    tab.close()


def _check_width(tab):
    """Nothing sticks out to the side, on a phone and on a desk."""
    page = tab.get_by_test_id("stMain")
    for width in (390, 1280):
        tab.set_viewport_size({"width": width, "height": 900})
        _until(lambda: page.evaluate("page => page.scrollWidth <= page.clientWidth"))


def _open(tab, address):
    _until(lambda: _answers(address))
    tab.goto(address)
    tab.get_by_role("tab", name="Walk").wait_for()


def _answers(address):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/_stcore/health"):
        return True
    return False


def _choose(tab, label, option):
    tab.get_by_role("combobox", name=label).first.click()
    tab.get_by_role("option", name=option).first.click()


def _sources(pictures):
    """Of pictures that have arrived: the server forgets them when the page is changed."""
    arrived = "picture => picture.complete && picture.naturalWidth > 0"
    _until(lambda: all(picture.evaluate(arrived) for picture in pictures.all()))
    return [picture.get_attribute("src") for picture in pictures.all()]


def _until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_browser_refuses_what_is_from_elsewhere(browser, served):
    tab = browser.new_page()
    _open(tab, served[0])
    refused = tab.evaluate(
        """async elsewhere => {
        const refused = []
        document.addEventListener("securitypolicyviolation", one => refused.push(one.blockedURI))
        await fetch(`http://${elsewhere}/fetched`).catch(() => {})
        try { new WebSocket(`ws://${elsewhere}/connected`) } catch {}
        new Image().src = `http://${elsewhere}/shown.png`
        await new Promise(resolve => setTimeout(resolve, 500))
        return refused.map(url => url.split("/").pop()).sort()
    }""",
        f"127.0.0.1:{_free_port()}",
    )
    assert refused == ["connected", "fetched", "shown.png"]
    tab.close()


@pytest.mark.parametrize(("origin", "status"), [("", 101), (":1", 403), (".example.com", 403)])
def test_only_its_own_page_may_connect(served, origin, status):
    """Asked by others, Streamlit would look up this machine's address, which is elsewhere."""
    host = served[0].removeprefix("http://")
    assert _status(host, "/_stcore/stream", f"http://{host}{origin}") == status


def test_a_name_that_was_rebound_to_this_machine_gets_nothing(served):
    host = served[0].removeprefix("http://")
    rebound = f"evil.example:{host.rpartition(':')[2]}"
    assert _status(host, "/_stcore/stream", f"http://{rebound}", Host=rebound) == 403
    assert _status(host, "/", Host=rebound) == 403
    assert _status(host, "/", Host=host) == 200


def _status(host, path, origin=None, **headers):
    """The status of a request; with an `Origin`, of one for a WebSocket."""
    if origin is not None:
        headers |= {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Origin": origin,
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
    connection = http.client.HTTPConnection(host)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.ci
def test_interrupted_it_ends_well(served):
    _, process, log = served
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()
