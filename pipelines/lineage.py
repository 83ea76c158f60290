"""Where a served version comes from: `python -m pipelines.lineage --serving=DIR [--version=3]`.

Data, configuration, commit, scores, reasons: as text, or drawn by --output=lineage.html. What it
prints lies with the version itself, so it is known even where the pipeline's folders are gone.
"""

from stugan_tf import command  # isort: skip - quiets TensorFlow before it is imported
import html

from absl import flags

from pipelines import serving
from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically

FLAGS = flags.FLAGS
flags.DEFINE_string("serving", None, "Folder of versions: `serving` in the pipeline root.")
flags.DEFINE_integer("version", None, "By default that which is served.")
flags.DEFINE_string("output", None, "HTML file to draw it in; without it, it is printed.")
flags.DEFINE_bool("gin", False, "Print the whole configuration, too.")


def main(_):
    """Does what the flags say."""
    if not FLAGS.serving:
        raise InputError("--serving is missing: the folder of versions, ROOT/serving by default.")
    history = serving.history(FLAGS.serving)
    record = _chosen(history)
    if FLAGS.output:
        write_atomically(FLAGS.output, drawn(record, history).encode())
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


def sections(record):
    """{title: {fact: value}} in the order of the pipeline."""
    training, data = record["training"], record["data"]
    statistics, size = data["statistics"], record["size"]
    anomalies = {name: len(found) for name, found in statistics["anomalies"].items() if found}
    version = {"number": record["version"], "pushed": record["pushed"]}
    if "withdrawn" in record:
        withdrawn = record["withdrawn"]
        version["withdrawn"] = f"{withdrawn['time']}: {withdrawn['reason']}"
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
            "begun": training["time"],
            "finished": f"step {training['finished']['step']}, {training['finished']['time']}",
            "resumed": f"{len(training['resumes'])} time(s)",
            "folder": record["folders"]["train"],
        },
        "scores": {
            "checkpoint": f"step {record['step']}",
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


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; color: #222; }
.chain { display: flex; flex-wrap: wrap; gap: 0 1.6em; margin: 1.5em 0; }
.chain a { position: relative; border: 1px solid #7a8ba8; border-radius: 6px; padding: .5em .9em;
  margin: .4em 0; background: #f3f6fb; color: inherit; text-decoration: none; }
.chain a:not(:last-child)::after { content: "\\2192"; position: absolute; right: -1.3em; }
.chain small { display: block; color: #555; }
table { border-collapse: collapse; margin: .4em 0 1.6em; }
td, th { padding: .15em 1.2em .15em 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
td:first-child { color: #555; white-space: nowrap; }
tr.withdrawn { color: #999; text-decoration: line-through; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 13px; }
"""


def drawn(record, history):
    """A page of HTML that needs nothing else."""
    found = sections(record)
    title = f"Lineage of version {record['version']}"
    fid = record["scores"].get("fid")
    notes = {
        "data": record["data"]["fingerprint"],
        "training": (record["training"]["commit"] or "commit not known")[:12],
        "scores": f"step {record['step']}" + ("" if fid is None else f", FID {fid:.4g}"),
        "export": f"{record['size']['bytes']:,} bytes",
        "blessing": f"{len(record['blessing']['checks'])} checks",
        "version": f"{record['version']}",
    }
    chain = "".join(
        f'<a href="#{name}">{name}<small>{html.escape(notes[name])}</small></a>' for name in found
    )
    parts = [
        f"<h2 id={name!r}>{name.capitalize()}</h2>{_table(facts)}" for name, facts in found.items()
    ]
    if record["data"]["statistics"]["classes"]:
        parts.append("<h2>Classes</h2>" + _table(record["data"]["statistics"]["classes"]))
    parts += [
        "<h2>Configuration of the training</h2>",
        f"<pre>{html.escape(record['gin'])}</pre>",
        "<h2>All versions</h2>",
        _versions(history),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        f'<div class="chain">{chain}</div>{"".join(parts)}</html>\n'
    )


def _table(facts):
    rows = (
        f"<tr><td>{html.escape(str(name))}<td>{html.escape(str(value))}"
        for name, value in facts.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _versions(history):
    names = list(dict.fromkeys(name for record in history for name in record["scores"]))
    rows = [
        "".join(f"<th>{html.escape(name)}" for name in ("version", "pushed", *names, "protocol"))
    ]
    for record in history:
        values = [record["scores"].get(name) for name in names]
        cells = [
            record["version"],
            record["pushed"],
            *("-" if value is None else f"{value:.5g}" for value in values),
            record["protocol"]["id"],
        ]
        mark = ' class="withdrawn"' if "withdrawn" in record else ""
        rows.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(str(cell))}" for cell in cells))
    return f"<table>{''.join(rows)}</table>"


def _times(shape):
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    command.run(main)
