"""The site of the documentation: it builds strictly, and its pages load nothing from elsewhere."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers.pages import ROOT

pytest.importorskip("griffe", reason="it comes with pip install 'stugan_tf[docs]'")
pytest.importorskip("mkdocs", reason="it comes with pip install 'stugan_tf[docs]'")
pytest.importorskip("material", reason="it comes with pip install 'stugan_tf[docs]'")
pytest.importorskip("mkdocstrings", reason="it comes with pip install 'stugan_tf[docs]'")

import stugan_tf as st
from docs_build import hooks, links, notebooks


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. mkdocs.yml says that a warning ends the build."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.ci
def test_pages_load_nothing_from_other_servers(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\" >]+)", text)
        loads += re.findall(r"<link\b[^>]*\bhref=\"?([^\" >]+)", text)
        assert not [load for load in loads if re.match(r"(https?:)?//", load)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", style.read_text("utf-8"))


@pytest.mark.ci
def test_the_search_finds_each_public_name_setting_and_command(site):
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    titles = {re.sub("<[^>]*>", "", entry["title"]) for entry in found["docs"]}
    for name in st.__all__:
        assert any(f"st.{name}" in title for title in titles), name
    assert {"stugan train", "stugan pipeline rollback", "Exploration", "train"} <= titles


@pytest.mark.ci
def test_the_paper_is_shown_beside_its_code(site):
    text = re.sub("<[^>]*>", "", (site / "paper.html").read_text(encoding="utf-8"))
    assert "num_kept = tf.maximum(num_kept, num_after - num_zeros)" in text
    assert "code:" not in text


@pytest.mark.ci
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[x](b.md#part)", None),
        ("[x](c.md)", "contains a link 'c.md', but the target is not found"),
        ("[x](b.md#port)", "does not contain an anchor '#port'"),
        ("[x](/b.md)", "contains an absolute link '/b.md'"),
    ],
)
def test_a_dead_link_or_anchor_ends_the_build(tmp_path, text, told):
    """With the settings of the site, but two pages of its own."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text(f"# A\n\n{text}\n")
    (tmp_path / "docs" / "b.md").write_text("# B\n\n## Part\n")
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {tmp_path / 'docs'}\n"
        "hooks: []\nplugins: []\nwatch: []\nnav: [a.md, b.md]\n"
    )
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (built.returncode == 0) == (told is None), built.stderr
    assert told is None or told in built.stderr


@pytest.mark.parametrize(
    ("page", "link", "changed"),
    [
        ("index.md", "[x](docs/data.md#order)", "[x](data.md#order)"),
        ("index.md", "[![p](docs/images/page.png)](docs/digits.html)", None),
        ("results/cpu/README.md", "[x](../../fidelity.md)", "[x](../../fidelity.md)"),
        ("export.md", "[runtime/](../runtime/README.md)", "[runtime/](runtime.md)"),
        ("fit.md", "[x](tutorials/sparse_classifier.ipynb)", "[x](tutorials/sparse_classifier.md)"),
        ("a.md", "[x](https://arxiv.org) [y](#z)", "[x](https://arxiv.org) [y](#z)"),
        (
            "paper.md",
            "[`sema`](../stugan_tf/sparsity/averaging.py)",
            "[`sema`][stugan_tf.sparsity.averaging.sema]",
        ),
        ("paper.md", "[`Steps.run`](../stugan_tf/training/steps.py)", "`Steps.run`"),
        ("a.md", "```\n[x](docs/y.md)\n```", "```\n[x](docs/y.md)\n```"),
    ],
)
def test_a_link_leads_to_the_same_in_the_site(page, link, changed):
    changed = changed or "[![p](images/page.png)](digits.html)"
    assert links.in_site(f"a {link} b", page) == f"a {changed} b"


def test_a_link_to_a_file_that_is_not_there_is_an_error():
    with pytest.raises(links.DeadLinkError, match=r"docs/fit.md links to ../stugan_tf/none.py"):
        links.in_site("[x](../stugan_tf/none.py)", "fit.md")


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("import keras\nx = 1", "python"),
        ("include 'methods/stu.gin'\ntrain.seed = 1", "ini"),
        ("python -m stugan_tf.train \\\n    --workdir=runs/a", "sh"),
        ("stugan_tf/\n  train.py   the command", "text"),
    ],
)
def test_indented_code_is_shown_in_its_language(code, language):
    indented = "".join(f"    {line}\n" for line in code.split("\n"))

    class Page:
        class file:  # noqa: N801
            src_uri = "a.md"

    shown = hooks.on_page_markdown(f"Text:\n\n{indented}\nMore.\n", Page)
    assert shown == f"Text:\n\n```{language}\n{code}\n```\n\nMore.\n"


def test_a_notebook_becomes_a_page_with_its_outputs_and_pictures():
    path = ROOT / "docs" / "tutorials" / "sparse_gan_with_fit.ipynb"
    page, pictures = notebooks.as_markdown(path)
    assert page.startswith("# A sparse GAN")
    assert "```python\nimport pathlib" in page
    assert "80% of the generator are zeros" in page
    ((name, content),) = pictures.items()
    assert f"]({name})" in page
    assert content.startswith(b"\x89PNG")
