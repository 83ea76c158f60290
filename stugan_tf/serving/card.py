"""Model cards: what an artifact is, where it comes from and what it is good for, in JSON and words.

After Mitchell et al. (2019), "Model Cards for Model Reporting".
"""

import json
import os
import pathlib
import re
import shlex
from typing import Any

import keras

from stugan_tf.files import write_atomically
from stugan_tf.serving.artifact import CARD, CARD_TEXT, sizes
from stugan_tf.serving.formats import format_of
from stugan_tf.sparsity.flops import counted, layer_costs, total_flops
from stugan_tf.sparsity.sparsify import count_weights
from stugan_tf.tables import markdown


def describe_generator(model: keras.Model) -> dict[str, Any]:
    """Sparsity and theoretical FLOPs of a trained generator, layer by layer.

    Args:
        model: the generator with its masks.

    Returns:
        A dictionary that JSON can hold.
    """
    costs, counts = layer_costs(model), count_weights(model)
    sparse, dense = total_flops(counted(costs))
    return {
        "parameters": counts.trainable,
        "weights_under_masks": counts.maskable,
        "active_weights_under_masks": counts.active,
        "sparsity_under_masks": counts.sparsity,
        "sparsity_of_all_parameters": counts.overall_sparsity,
        "theoretical_flops_per_image": {"sparse": sparse, "dense": dense},
        "layers": [
            {
                "name": cost.name,
                "kernel_shape": list(cost.kernel_shape),
                "masked": cost.masked,
                "weights": cost.size,
                "active": cost.active,
                "density": cost.density,
                "theoretical_flops": cost.flops,
            }
            for cost in costs
        ],
    }


# Paths of a machine: in quotes, and bare. What follows a letter, a colon or a slash is the rest of
# a relative path or of an address.
_QUOTED_PATH = re.compile(r"""(["'])(?:~|\.{1,2})?/[^"'\n]*\1""")
_PATH = re.compile(r"""(?<![\w:/.~'"-])(?:~|\.{1,2})?/[^\s'",;)\]]+""")
_KEPT = ("--gin_file", "--gin_param")  # Flags whose relative paths and bindings are worth telling.


def without_places(record: Any, key: str = "") -> Any:
    """A record without the name and the folders of a machine: of a path its last part is left.

    Args:
        record: anything that JSON can hold.
        key: its name in a larger record.
    """
    if isinstance(record, dict):
        return {name: without_places(one, name) for name, one in record.items() if name != "host"}
    if isinstance(record, (list, tuple)):
        return [without_places(one, key) for one in record]
    if not isinstance(record, str) or key == "devices":
        return record
    return _command_without_places(record) if key == "command" else _text_without_places(record)


def _text_without_places(text: str) -> str:
    def last_in_quotes(found: re.Match[str]) -> str:
        quote = found.group(1)
        return f"{quote}{_last_part(found.group()[1:-1])}{quote}"

    text = _QUOTED_PATH.sub(last_in_quotes, text)
    return _PATH.sub(lambda found: _last_part(found.group()), text)


def _command_without_places(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:  # Not a command of ours.
        return _text_without_places(text)
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if word.startswith("--") and flag not in _KEPT:
            words[index] = f"{flag}{equals}{_last_part(value)}"
        elif "=" not in word and " " not in word:
            words[index] = _last_part(word)
    return _text_without_places(shlex.join(words))


def _last_part(path: str) -> str:
    return os.path.basename(path.rstrip("/")) or path


def write(folder: pathlib.Path, card: dict[str, Any]) -> None:
    """Adds the sizes of the files in a folder to a card, and writes it there in both forms."""
    files = sizes(folder)
    card = {**card, "bytes": sum(files.values()), "files": files}
    write_atomically(folder / CARD, (json.dumps(card, indent=1) + "\n").encode())
    write_atomically(folder / CARD_TEXT, in_words(card).encode(errors="backslashreplace"))


def in_words(card: dict[str, Any]) -> str:
    """A card as Markdown, with a header that hubs of models read."""
    sections = (_what, _purpose, _use, _data, _scores, _sparsity, _size, _origin)
    parts = [section(card) for section in sections]
    return f"{_header(card)}\n" + "\n\n".join(parts) + "\n"


def _header(card: dict[str, Any]) -> str:
    # JSON is YAML.
    license_ = json.dumps((card.get("license") or "unknown").lower())
    tags = "[gan, image-generation, sparse]"
    return f"---\nlibrary_name: stugan_tf\nlicense: {license_}\ntags: {tags}\n---\n"


def _zeros(generator: dict[str, Any]) -> str:
    """Both fractions of zeros, which differ by the weights that are not under masks."""
    return (
        f"{generator['sparsity_under_masks']:.2%} of the {generator['weights_under_masks']:,} "
        f"weights under masks are zero, which is {generator['sparsity_of_all_parameters']:.2%} of "
        f"all {generator['parameters']:,} parameters"
    )


def _what(card: dict[str, Any]) -> str:
    interface, checkpoint = card["interface"], card["checkpoint"]
    height, width, channels = interface["image_shape"]
    kind = "A class-conditional" if interface["conditional"] else "An unconditional"
    source = card["training"].get("data", {}).get("source")
    return (
        f"# {card['title']}\n\n"
        f"{kind} generator of images of {height}x{width} pixels and {channels} channel(s), trained "
        f"by stugan_tf{f' on {source}' if source else ''}. {_zeros(card['generator'])}. Format "
        f"{card['format']}, {card['precision']}; the {checkpoint['weights']} weights of step "
        f"{checkpoint['step']:,}, batch norm by {checkpoint['batch_norm']} statistics. Images "
        f"differ from those of the checkpoint by up to {card['largest_difference']:.4g} of 255 "
        f"levels ({card['num_compared']} images compared)."
    )


def _purpose(card: dict[str, Any]) -> str:
    source = card["training"].get("data", {}).get("source") or "its training data"
    purpose = card.get("purpose") or (
        f"To draw images like those of {source}, and to compare sparse generators with others. It "
        "is not meant to inform anybody about real things or people."
    )
    license_ = card.get("license") or (
        "not stated. Whoever publishes this generator states it by `export --license=...`, and "
        "looks at the terms of the training data first."
    )
    return f"## Purpose\n\n{purpose}\n\n{_LIMITS}\n\nLicence: {license_}"


def _use(card: dict[str, Any]) -> str:
    interface = card["interface"]
    lines = [
        "## Use",
        "",
        "    from stugan_tf.serving import load",
        "",
        "    generator = load(FOLDER)      # checks versions and checksums",
        "    images = generator(16, seed=0, truncation=0.7)      # uint8 [16, H, W, C]",
        "",
        f"Latents: {interface['latent_dim']} numbers from N(0, 1). Images: float32 in [-1, 1].",
    ]
    if interface["conditional"]:
        names = interface["class_names"]
        classes = ", ".join(f"{i} {name}" for i, name in enumerate(names[:100])) if names else ""
        lines.append(
            f"Labels: integers below {interface['num_classes']}{f': {classes}' if classes else ''}."
        )
    trusted = format_of(card["format"]).trusted
    lines += [*card["notes"], "", _TRUSTED if trusted else _FROM_ANYBODY]
    return "\n".join(lines)


_TRUSTED = (
    "Load it only if you trust its writer: a file of this format can do harm to the process that "
    "reads it. Its checksums guard against damage, not against its writer."
)
_FROM_ANYBODY = (
    "The file of the model may come from anybody: reading it runs no code from it, and takes "
    "memory in proportion to its size."
)
_LIMITS = (
    "A generator repeats what was in its training data, biases included, and its images are not "
    "photographs of anything. Nothing is known of its quality beyond the scores below, if any."
)
MOST_LISTED = 20  # classes


def _data(card: dict[str, Any]) -> str:
    data = card["training"].get("data", {})
    lines = [f"- {name}: {_plain(value)}" for name, value in data.items() if value not in ([], ())]
    return "\n".join(["## Data", "", *(lines or ["Not recorded."])])


def _scores(card: dict[str, Any]) -> str:
    if not card["scores"]:
        return "## Scores\n\nThis checkpoint has not been scored."
    sections = ["## Scores"]
    for record in card["scores"]:
        protocol = record["protocol"]
        values = [
            (name, value)
            for name, value in record.items()
            if name not in ("step", "time", "protocol")
        ]
        rows = [(name, _plain(value)) for name, value in values]
        settings = [f"- {name}: {_plain(value)}" for name, value in protocol.items()]
        generated = protocol.get("generated")
        scored = generated.get("weights") if isinstance(generated, dict) else None
        own = card["checkpoint"]["weights"]
        whose = "" if scored is None else f", of its {scored} weights in the training's precision"
        if scored not in (None, own):
            whose += f" (this export has the {own} weights)"
        sections.append(markdown(("score", ""), rows))
        sections.append(
            "\n".join(
                [
                    f"Protocol {protocol['id']}, of the checkpoint before export{whose}:",
                    "",
                    *settings,
                ]
            )
        )
    return "\n\n".join(sections)


def _plain(value: Any) -> str:
    """A value of JSON in words; a float has four digits, as more would not repeat elsewhere."""
    if isinstance(value, dict):
        inner = {
            k: f"[{_plain(v)}]" if isinstance(v, list) else _plain(v) for k, v in value.items()
        }
        return ", ".join(f"{name} {one}" for name, one in inner.items())
    if isinstance(value, (list, tuple)):
        more = [f"and {len(value) - MOST_LISTED:,} more"] if len(value) > MOST_LISTED else []
        return ", ".join([*map(_plain, value[:MOST_LISTED]), *more])
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sparsity(card: dict[str, Any]) -> str:
    generator = card["generator"]
    flops = generator["theoretical_flops_per_image"]
    share = f" ({flops['sparse'] / flops['dense']:.2%} of dense)" if flops["dense"] else ""
    rows = [
        (
            layer["name"],
            "x".join(map(str, layer["kernel_shape"])),
            f"{layer['weights']:,}",
            f"{layer['active']:,}",
            f"{layer['density']:.4f}",
            "yes" if layer["masked"] else "no",
        )
        for layer in generator["layers"]
        if layer["kernel_shape"]
    ]
    return "\n".join(
        [
            "## Sparsity",
            "",
            f"{_zeros(generator)}. Theoretical FLOPs of an image: {flops['sparse']:.4g}{share}. "
            "The time in seconds depends on the runtime; most runtimes compute zeros, too.",
            "",
            markdown(
                ("layer", "kernel", "weights", "active", "density", "under a mask"),
                rows,
                num_left=2,
            ),
        ]
    )


def _size(card: dict[str, Any]) -> str:
    rows = [(name, f"{size:,}") for name, size in card["files"].items()]
    return "\n".join(
        [
            "## Size",
            "",
            f"{card['bytes']:,} bytes.",
            "",
            markdown(("file", "bytes"), rows, num_left=1),
        ]
    )


def _origin(card: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    training = card["training"]
    return (
        f"## Origin\n\nExported {card['time']} by {versions}; commit {card['commit']}. Trained at "
        f"commit {training.get('commit')} by `{training.get('command')}`, begun "
        f"{training.get('time')}, resumed {len(training.get('resumes', []))} time(s). Its whole "
        "record and configuration are in `model_card.json`."
    )
