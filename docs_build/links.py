"""Links of pages: true on GitHub, where they name files of the repository, and true in the site."""

import posixpath
import re

from docs_build import ROOT, api

# Pages of the repository that are not in docs/, and where the site has them.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "runtime/README.md": "runtime.md",
    "stugan_tf/evaluation/digits_classifier/CARD.md": "digits_classifier.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\s*([^()\s]+)\s*\)")
FENCED = re.compile(r"(^```.*?^```[ ]*$)", re.MULTILINE | re.DOTALL)


class DeadLinkError(Exception):
    """A link to a file that the repository does not have."""


def in_repository(page: str) -> str:
    """The file of the repository that a page of the site is made of."""
    origins = {site: file for file, site in OUTSIDE.items()}
    return origins.get(page, f"docs/{page}")


def in_site(text: str, page: str) -> str:
    """The text of a page with its links to files of the repository as links of the site.

    Args:
        text: Markdown.
        page: path of the page in the site's sources.

    Raises:
        DeadLinkError: if a file is not there.
    """
    return "".join(
        piece if piece.startswith("```") else _LINK.sub(lambda link: _changed(link, page), piece)
        for piece in FENCED.split(text)
    )


def _changed(link: re.Match[str], page: str) -> str:
    picture, label, target = link.groups()
    label = _LINK.sub(lambda inner: _changed(inner, page), label)  # A picture that is a link.
    if re.match(r"[a-z]+:|#", target):
        return link.group()
    target, _, anchor = target.partition("#")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository(page)), target))
    if (ROOT / file).is_dir():
        file += "/README.md"
    site = OUTSIDE.get(file) or (file[len("docs/") :] if file.startswith("docs/") else None)
    if site is None and not (ROOT / file).exists():
        raise DeadLinkError(f"{in_repository(page)} links to {target}, which is not there.")
    if site is None:
        return _symbol(label, file)
    if site.endswith(".ipynb") and site.replace(".ipynb", ".md") != page:
        site = site.replace(".ipynb", ".md")
    relative = posixpath.relpath(site, posixpath.dirname(page) or ".")
    return f"{picture}[{label}]({relative}{'#' if anchor else ''}{anchor})"


def _symbol(label: str, file: str) -> str:
    """A link to source code: a public name has a place in the reference, other code is named."""
    name = label.strip("`").removeprefix("st.")
    path = api.public().get(name)
    if path and file == path.rpartition(".")[0].replace(".", "/") + ".py":
        return f"[{label}][{api.resolved(name).path}]"
    return label if label.startswith("`") else f"{label} (`{file}`)"
