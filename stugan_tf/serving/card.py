"""Model cards: what an artifact is, where it comes from and what it is good for, in JSON and words.

After Mitchell et al. (2019), "Model Cards for Model Reporting".
"""

import json
import pathlib
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


def write(folder: pathlib.Path, card: dict[str, Any]) -> None:
    """Adds the sizes of the files in a folder to a card, and writes it there in both forms."""
    files = sizes(folder)
    card = {**card, "bytes": sum(files.values()), "files": files}
    write_atomically(folder / CARD, (json.dumps(card, indent=1) + "\n").encode())
    write_atomically(folder / CARD_TEXT, in_words(card).encode(errors="backslashreplace"))


def in_words(card: dict[str, Any]) -> str:
    """A card as Markdown."""
    return (
        "\n\n".join(
            section
            for section in (
                _what(card),
                _use(card),
                _data(card),
                _scores(card),
                _sparsity(card),
                _size(card),
                _origin(card),
            )
            if section
        )
        + "\n"
    )


def _what(card: dict[str, Any]) -> str:
    interface = card["interface"]
    height, width, channels = interface["image_shape"]
    kind = "A class-conditional" if interface["conditional"] else "An unconditional"
    sparsity = card["generator"]["sparsity_under_masks"]
    return (
        f"# {card['name']}\n\n"
        f"{kind} generator of images of {height}x{width} pixels and {channels} channel(s), trained "
        f"by stugan_tf: {sparsity:.2%} of its {card['generator']['weights_under_masks']:,} weights "
        f"under masks are zero. Format {card['format']}, {card['precision']}; the "
        f"{card['checkpoint']['weights']} weights of step {card['checkpoint']['step']}, batch norm "
        f"by {card['checkpoint']['batch_norm']} statistics. Images differ from those of the "
        f"checkpoint by up to {card['largest_difference']:.3g} of 255 levels "
        f"({card['num_compared']} images compared)."
    )


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
    lines += [*card["notes"], "", _TRUSTED if trusted else _FROM_ANYBODY, "", *_LIMITS]
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
    "A generator repeats what was in its training data, biases included, and its images are not",
    "photographs of anything. Nothing is known of its quality beyond the scores below, if any.",
)


def _data(card: dict[str, Any]) -> str:
    data = card["training"].get("data", {})
    lines = [f"- {name}: {value}" for name, value in data.items()]
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
        rows = [(name, str(value)) for name, value in values]
        settings = [f"- {name}: {value}" for name, value in protocol.items()]
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
            f"{generator['sparsity_of_all_parameters']:.2%} of all {generator['parameters']:,} "
            f"parameters are zero. Theoretical FLOPs of an image: {flops['sparse']:.4g}{share}. "
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
