"""Data source -> shards and statistics."""

import functools
import hashlib
import json

from stugan_tf.data.inspection import fingerprint as fingerprint_of
from stugan_tf.data.paths import escaped
from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically
from stugan_tf.pipelines import configuration, ingestion
from stugan_tf.pipelines.artifacts import Examples
from stugan_tf.pipelines.settings import plain
from stugan_tf.pipelines.steps import Component


def _depends_on(context):
    source = _source(context)
    settings = plain(context.settings.ingest)
    # The shards do not depend on it; `_is_intact` asks for it.
    del settings["skip_unreadable"]
    return {
        "fingerprint": _fingerprint(source),
        "num_images": source.num_images,
        "image_shape": list(source.image_shape),
        "class_names": source.class_names,
        "flip": source.flip,
        "cache_gib": source.cache_gib,
        **settings,
    }


def _make(context, workplace):
    source = _source(context)
    fingerprint = _fingerprint(source)
    text, folder = context.configuration.training, str(workplace.folder)
    settings = context.settings
    for remark in source.remarks:
        context.say(f"ingest: {remark}")
    found = ingestion.ingest(source, text, settings.ingest, settings.beam, folder)
    source_of.cache_clear()  # The images it may hold are not needed any more.
    fixed, pattern = gin_lines(source, workplace.folder, found["shards"])
    content = hashlib.sha256(f"{found['content']}\n{fixed}".encode()).hexdigest()[:16]
    examples = Examples(
        folder=workplace.folder,
        id=content,
        fingerprint=fingerprint,
        num_images=found["images"],
        num_shards=found["shards"],
        source=source.name,
    )
    write_atomically(examples.gin_file, f"{fixed}{pattern}".encode())
    text = json.dumps({"fingerprint": fingerprint, **found}, indent=1, ensure_ascii=False)
    write_atomically(examples.statistics, f"{text}\n".encode())
    return examples


def _source(context):
    return source_of(context.configuration.training)


@functools.lru_cache(maxsize=1)
def source_of(training):
    """The source of data that the gin text of a training chooses; the last one is kept."""
    return configuration.source(training)


def _fingerprint(source):
    """A fingerprint of the content; if some of it cannot be read, of the length of each file."""
    try:
        return source.inspect().fingerprint
    except InputError:
        return "layout-" + fingerprint_of(source.num_images, (), (), source.layout())


def gin_lines(source, folder, num_shards):
    """Gin that sets `data.source` to shards: what depends on their content, and where they are.

    All parameters are set, because bindings without a scope would otherwise be inherited.
    """
    values = {
        "image_size": None,
        "channels": source.image_shape[-1],
        "num_classes": source.num_classes,
        "image_feature": "image/encoded",
        "label_feature": "image/class/label",
        "label_offset": 0,
        "flip": source.flip,
        "cache_gib": source.cache_gib,
        "class_names": source.class_names,
    }
    lines = [f"ingested/tfrecords.{name} = {value!r}\n" for name, value in values.items()]
    return "".join(["data.source = @ingested/tfrecords()\n", *lines]), _where(folder, num_shards)


def _where(folder, num_shards):
    pattern = f"{escaped(str(folder))}/train-*-of-{num_shards:05}.tfrecord"
    return f"ingested/tfrecords.pattern = {pattern!r}\n"


def _is_intact(context, examples):
    """Whether all shards are there, where `data.gin` says, and all images are in them."""
    try:
        found = json.loads(examples.statistics.read_text())
        lines = examples.gin_file.read_text()
        sizes = [path.stat().st_size for path in examples.folder.glob("train-*.tfrecord")]
    except (OSError, ValueError):
        return False
    return (
        (len(sizes), sum(sizes)) == (examples.num_shards, found["bytes"]["shards"])
        and lines.endswith(_where(examples.folder, examples.num_shards))  # The root may be moved.
        and (context.settings.ingest.skip_unreadable or not found["anomalies"]["unreadable"])
    )


COMPONENT = Component(
    name="ingest",
    inputs=(),
    code=(
        "stugan_tf/data",
        "stugan_tf/pipelines/ingestion.py",
        "stugan_tf/pipelines/components/ingest.py",
    ),
    depends_on=_depends_on,
    make=_make,
    is_intact=_is_intact,
)
