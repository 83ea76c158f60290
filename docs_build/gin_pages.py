"""The reference of the gin files: what each is for, and all of it."""

from stugan_tf import gin_files


def page_text() -> str:
    """The page in Markdown."""
    files = gin_files.all_files()
    lines = ["# Gin files", ""]
    lines += ["`--gin_file` and `include` find these files from anywhere, after your own files of"]
    lines += ["the same names. `stugan list` prints this list.", "", "| file | what it is |"]
    lines += ["| --- | --- |"]
    lines += [
        f"| [`{name}`](#{_anchor(name)}) | {gin_files.first_sentence(name)} |" for name in files
    ]
    for name in files:
        text = (gin_files.folder() / name).read_text(encoding="utf-8").rstrip()
        lines += ["", f"## {name} {{ #{_anchor(name)} }}", "", f"```ini\n{text}\n```"]
    return "\n".join(lines) + "\n"


def _anchor(name: str) -> str:
    return name.removesuffix(".gin").replace("/", "-")
