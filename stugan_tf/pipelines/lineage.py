"""Shows where a served version comes from.

    python -m stugan_tf.pipelines.lineage --serving=DIR [--version=3]

Prints data, configuration, commit, scores and reasons; --output=lineage.html draws them. All of it
lies with the version itself, so it is known even if the folders of the pipeline are gone.
"""

import html
from typing import Any

from absl import flags

from stugan_tf import command
from stugan_tf.errors import InputError
from stugan_tf.files import local_path, output_file, write_atomically

FLAGS = flags.FLAGS
flags.DEFINE_string("serving", None, "Folder of versions: `serving` in the pipeline root.")
flags.DEFINE_integer("version", None, "The version to show; by default the one that is served.")
flags.DEFINE_string("output", None, "HTML file to write; without it the lineage is printed.")
flags.DEFINE_bool("gin", False, "Also print the whole configuration.")


def _check_flags():
    if not FLAGS.serving:
        raise InputError("--serving is missing: the folder of versions, ROOT/serving by default.")


with command.late_imports(__name__, _check_flags):
    from stugan_tf.pipelines import serving


def main(_):
    """Does what the flags say."""
    history = serving.history(local_path(FLAGS.serving, "--serving"))
    record = _chosen(history)
    if FLAGS.output:
        write_atomically(output_file(FLAGS.output, "--output"), drawn(record, history).encode())
        print(f"{FLAGS.output} shows version {record['version']}.")
        return
    for title, facts in sections(record).items():
        print(f"{title}\n" + "\n".join(f"  {name:<22} {value}" for name, value in facts.items()))
    if FLAGS.gin:
        print(f"configuration of the training\n{record['gin']}")


def _chosen(history):
    there = {record["version"]: record for record in history}
    served = [version for version, record in there.items() if "withdrawn" not in record]
    version = FLAGS.version if FLAGS.version is not None else max(served, default=None)
    if version not in there:
        raise InputError(
            f"{FLAGS.serving} has no version {version if version is not None else 'at all'}; "
            f"there are {sorted(there) or 'none'}."
        )
    return there[version]


def sections(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{title: {fact: value}} in the order of the pipeline."""
    training, data = record["training"], record["data"]
    finished = training["finished"]
    statistics, size = data["statistics"], record["size"]
    anomalies = {name: len(found) for name, found in statistics["anomalies"].items() if found}
    version = {"number": record["version"], "pushed": _time(record["pushed"])}
    if "withdrawn" in record:
        withdrawn = record["withdrawn"]
        version["withdrawn"] = f"{_time(withdrawn['time'])}: {withdrawn['reason']}"
    return {
        "data": {
            "source": statistics["source"],
            "fingerprint": data["fingerprint"],
            "images": f"{statistics['images']:,} of {_times(statistics['image_shape'])}",
            "shards": f"{statistics['shards']} ({data['shards']})",
            "anomalies": ", ".join(f"{n} {name}" for name, n in anomalies.items()) or "none",
            "folder": record["folders"]["ingest"],
        },
        "training": {
            "commit": training["commit"] or "not known",
            "versions": ", ".join(f"{k} {v}" for k, v in training["versions"].items()),
            "seed": training.get("seed"),
            "command": training["command"],
            "begun": _time(training["time"]),
            "finished": f"step {finished['step']}, {_time(finished['time'])}",
            "resumed": f"{len(training['resumes'])} time(s)",
            "folder": record["folders"]["train"],
        },
        "scores": {
            "checkpoint": f"step {record['step']}",
            "of": _scored(record.get("scored")),
            **{k: "not finite" if v is None else f"{v:.5g}" for k, v in record["scores"].items()},
            "protocol": record["protocol"]["id"],
            "extractor": f"{record['protocol']['extractor']['name']} "
            f"({record['protocol']['extractor']['sha256']})",
            "folder": record["folders"]["evaluate"],
        },
        "export": {
            "format": size["format"],
            "bytes": f"{size['bytes']:,}",
            "sparsity under masks": f"{size['sparsity']:.4f}",
            "active weights": f"{size['active_weights']:,}",
            "theoretical FLOPs": f"{size['theoretical_flops_per_image']:.4g} an image",
            "folder": record["folders"]["export"],
        },
        "blessing": {
            "compared with": f"version {record['baseline']}" if record["baseline"] else "none",
            **{
                f"{'passed' if check['passed'] else 'failed'} {number}": check["words"]
                for number, check in enumerate(record["blessing"]["checks"], 1)
            },
        },
        "version": version,
    }


def _scored(about):
    """Which generator was scored; versions of former pipelines do not say it."""
    if about is None:
        return "the checkpoint, not the export"
    return (
        f"{about['format']} {about['precision']} of the {about['weights']} weights, "
        f"{about['sha256'][:16]}"
    )


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; padding: 0 1em; max-width: 70em;
  color: #222; }
h1 small { font-size: 55%; font-weight: normal; color: #666; margin-left: .6em; }
h2 { font-size: 1.05em; margin: 0 0 .5em; color: #2c4a7c; }
section, details { border: 1px solid #d5dbe6; border-radius: 8px; padding: .9em 1.1em;
  margin-bottom: 1.2em; }
summary { cursor: pointer; font-weight: bold; color: #2c4a7c; }
.chain { display: flex; flex-wrap: wrap; align-items: center; gap: .5em; margin: 1.5em 0; }
.chain a { border: 1px solid #7a8ba8; border-radius: 8px; padding: .5em .9em; background: #f3f6fb;
  color: inherit; text-decoration: none; }
.chain small { display: block; color: #555; }
.facts { columns: 2; column-gap: 1.2em; margin-bottom: 1.2em; }
.facts section { break-inside: avoid; }
table { border-collapse: collapse; }
td, th { padding: .15em 1.2em .15em 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; white-space: pre-wrap; }
.versions { overflow-x: auto; font-size: 13px; }
.versions td, .versions th { overflow-wrap: normal; padding-right: .8em; }
.facts td:first-child { color: #555; white-space: nowrap; }
.classes { columns: 4 15em; }
.classes div { position: relative; break-inside: avoid; display: flex; padding: 0 .4em; }
.classes i { position: absolute; left: 0; top: .15em; bottom: .15em; background: #dde6f5; }
.classes span { position: relative; flex: 1; overflow-wrap: anywhere; }
.classes b { position: relative; font-weight: normal; }
.passed { color: #1a7f37; }
.failed { color: #b42318; }
tr.shown td { font-weight: bold; }
tr.withdrawn td { color: #999; text-decoration: line-through; }
tr.withdrawn td:last-child { text-decoration: none; }
pre { overflow-x: auto; font-size: 13px; }
@media (max-width: 50em) { .facts { columns: 1; } }
"""
_MARKS = {True: '<b class="passed">&#10003;</b>', False: '<b class="failed">&#10007;</b>'}


def drawn(record: dict[str, Any], history: list[dict[str, Any]]) -> str:
    """An HTML page that needs no other file."""
    found = sections(record)
    title = f"Lineage of version {record['version']}"
    checks = [(_MARKS[check["passed"]], check["words"]) for check in record["blessing"]["checks"]]
    command = found["training"].pop("command").replace(" --", " \\\n    --")
    found["blessing"] = {"compared with": found["blessing"]["compared with"]}
    cards = [
        _card(name, _table(facts) + (_table(checks) if name == "blessing" else ""))
        for name, facts in found.items()
    ]
    classes = record["data"]["statistics"]["classes"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}<small>{_pushed(record)}</small></h1>"
        f'<div class="chain">{_chain(record, found)}</div>'
        f'<div class="facts">{"".join(cards)}</div>'
        + (_card("images of each class", _bars(classes)) if classes else "")
        + _card("all versions", _versions(history, record["version"]))
        + "<details><summary>Command and configuration of the training</summary>"
        f"<pre>{html.escape(command)}</pre>"
        f"<pre>{html.escape(record['gin'])}</pre></details></html>\n"
    )


def _pushed(record):
    words = f"pushed {_time(record['pushed'])}"
    if "withdrawn" in record:
        words += f', <span class="failed">{_withdrawn(record)}</span>'
    return words


def _withdrawn(record):
    """When and why a version was withdrawn, as HTML; '' if it was not."""
    about = record.get("withdrawn")
    if about is None:
        return ""
    return html.escape(f"withdrawn {_time(about['time'])}: {about['reason']}")


def _chain(record, names):
    """A box for each section, in the order of the pipeline."""
    fid = record["scores"].get("fid")
    notes = {
        "data": record["data"]["fingerprint"],
        "training": (record["training"]["commit"] or "commit not known")[:12],
        "scores": f"step {record['step']}" + ("" if fid is None else f", FID {fid:.4g}"),
        "export": f"{record['size']['bytes']:,} bytes",
        "blessing": f"{len(record['blessing']['checks'])} checks",
        "version": f"{record['version']}",
    }
    boxes = (
        f'<a href="#{name}">{name}<small>{html.escape(notes[name])}</small></a>' for name in names
    )
    return "<span>&#8594;</span>".join(boxes)


def _card(title, content):
    return f'<section id="{title}"><h2>{title.capitalize()}</h2>{content}</section>'


def _table(facts):
    """An HTML table of {name: value}, or of pairs whose first part is already HTML."""
    rows = facts
    if isinstance(facts, dict):
        rows = [(html.escape(name), str(value)) for name, value in facts.items()]
    cells = (f"<tr><td>{name}<td>{html.escape(value)}" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _bars(classes):
    """HTML with the count of each class on a bar."""
    most = max(classes.values()) or 1
    rows = (
        f'<div><i style="width: {100 * count / most:.1f}%"></i>'
        f"<span>{html.escape(name)}</span><b>{count:,}</b></div>"
        for name, count in classes.items()
    )
    return f'<div class="classes">{"".join(rows)}</div>'


def _versions(history, shown):
    names = list(dict.fromkeys(name for record in history for name in record["scores"]))
    columns = ("version", "pushed", *names, "protocol", "")
    rows = ["".join(f"<th>{html.escape(name.replace('_', ' '))}" for name in columns)]
    for record in history:
        values = [record["scores"].get(name) for name in names]
        cells = [
            record["version"],
            _time(record["pushed"]),
            *("-" if value is None else f"{value:.5g}" for value in values),
            record["protocol"]["id"],
        ]
        marks = "withdrawn " * ("withdrawn" in record) + "shown" * (record["version"] == shown)
        text = "".join(f"<td>{html.escape(str(cell))}" for cell in cells)
        rows.append(f'<tr class="{marks.strip()}">{text}<td>{_withdrawn(record)}')
    return f'<div class="versions"><table>{"".join(rows)}</table></div>'


def _time(text):
    """An ISO time as people write it."""
    return text.replace("T", " ").replace("+00:00", " UTC")


def _times(shape):
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    command.run(main, prints_result=True)
