"""Scores and an export -> a blessing: may it be pushed?

The model is compared with fixed limits, and with the served version by one protocol. If that
version was scored by another protocol (other data, another evaluator), it is scored again, from the
files that are served.
"""

import json

from stugan_tf.errors import InputError
from stugan_tf.evaluation.table import METRICS
from stugan_tf.files import write_atomically
from stugan_tf.pipelines import serving
from stugan_tf.pipelines.artifacts import Blessing
from stugan_tf.pipelines.components import scoring
from stugan_tf.pipelines.settings import plain
from stugan_tf.pipelines.steps import Component


def _depends_on(context, examples, references, run, exported, scores):
    del examples, references, run, scores
    baseline = baseline_of(context, exported)
    return {
        "baseline": None if baseline is None else [baseline["version"], baseline["export"]],
        **plain(context.settings.bless),
    }


def _make(context, workplace, examples, references, run, exported, scores):
    baseline = baseline_of(context, exported)
    settings = context.settings.bless
    if baseline is not None and settings.compare:
        of_pipeline = (context, workplace, examples, references, run)
        baseline = _by_protocol_of(scores, baseline, *of_pipeline)
    checks = [*limits(settings, scores, exported), *comparison(settings, scores, baseline)]
    blessing = Blessing(
        folder=workplace.folder,
        id=workplace.id,
        blessed=all(check["passed"] for check in checks),
        checks=checks,
        baseline=None if baseline is None else baseline["version"],
    )
    text = f"{'Blessed' if blessing.blessed else 'Not blessed'}.\n\n{blessing.words}\n"
    write_atomically(workplace.folder / "blessing.txt", text.encode())
    return blessing


def baseline_of(context, exported):
    """The record of the version to compare with, None if there is none.

    That is the served version. If the served version is this export itself, it is the version that
    the export was compared with when it was pushed: so a second run asks the same question.
    """
    current = serving.current(context.serving)
    if current is not None and current["export"] == exported.id:
        return serving.record(context.serving, current["baseline"])
    return current


def limits(settings, scores, exported):
    """Checks against fixed limits; each is {'passed': bool, 'words': str}."""
    checks = []
    for name, limit in settings.at_most.items():
        checks.append(_limit(name, scores.scores.get(name), limit, at_most=True))
    for name, limit in settings.at_least.items():
        checks.append(_limit(name, scores.scores.get(name), limit, at_most=False))
    budgets = [
        ("sparsity under masks", exported.sparsity, settings.min_sparsity, False),
        ("active weights", exported.active_weights, settings.max_active_weights, True),
        ("bytes", exported.num_bytes, settings.max_bytes, True),
        ("theoretical FLOPs of an image", exported.flops, settings.max_flops, True),
    ]
    for name, value, limit, at_most in budgets:
        if limit is not None:
            checks.append(_limit(name, value, limit, at_most))
    return checks


def _limit(name, value, limit, at_most):
    word = "at most" if at_most else "at least"
    if value is None:
        return _check(False, f"{name} is not known or not finite; {word} {_short(limit)} is asked")
    passed = value <= limit if at_most else value >= limit
    return _check(passed, f"{name} is {_short(value)}; {word} {_short(limit)} is asked")


def comparison(settings, scores, baseline):
    """Checks against the record of a served version, with scores by the same protocol.

    `baseline["scores"]` may be a str instead, which says why there are none.
    """
    if not settings.compare:
        return []
    if baseline is None:
        return [_check(True, "no version is served yet, so there is nothing to compare with")]
    version = baseline["version"]
    if isinstance(baseline["scores"], str):
        return [_check(False, f"version {version} cannot be compared with: {baseline['scores']}")]
    return [
        _compared(name, scores.scores.get(name), baseline["scores"].get(name), version, settings)
        for name in settings.compare
    ]


def _compared(name, new, old, version, settings):
    if new is None:
        return _check(False, f"{name} is not known or not finite, so cannot be compared")
    if old is None:
        return _check(True, f"{name} is {_short(new)}; that of version {version} is not finite")
    cost = METRICS[name].cost
    worse = cost(new) - cost(old)
    passed = worse <= settings.tolerance * abs(old)
    relation = "equal to" if worse == 0 else f"{'worse' if worse > 0 else 'better'} than"
    allowed = f"; up to {settings.tolerance:.3g} of it worse is allowed" if worse > 0 else ""
    return _check(
        passed, f"{name} is {_short(new)}, {relation} {_short(old)} of version {version}{allowed}"
    )


def _by_protocol_of(scores, baseline, context, *of_pipeline):
    """The record of a version with its scores by the protocol of `scores`."""
    same = baseline["protocol"] == json.loads(json.dumps(scores.protocol))
    # Protocols do not say which scores were computed.
    if same and baseline["scores"].keys() >= set(context.settings.bless.compare):
        return baseline
    folder = serving.place_of(context.serving, baseline["version"])
    context.say(f"bless: scoring version {baseline['version']} by the present protocol")
    try:
        found = scoring.score(context, *of_pipeline, folder)
    except InputError as error:  # Another failure may pass; this one is kept as a reason.
        reason = str(error).splitlines()[0]
        return {**baseline, "scores": f"it was scored in another way, and now: {reason}"}
    if found.protocol != scores.protocol:
        return {**baseline, "scores": "its protocol is another one even now"}
    return {**baseline, "scores": found.scores}


def _check(passed, words):
    return {"passed": bool(passed), "words": words}


def _short(number):
    return f"{number:,}" if isinstance(number, int) else f"{number:.5g}"


COMPONENT = Component(
    name="bless",
    inputs=("ingest", "reference", "train", "export", "evaluate"),
    code=(
        "stugan_tf/evaluation/metrics.py",
        "stugan_tf/evaluation/table.py",
        "stugan_tf/pipelines/components/bless.py",
    ),
    depends_on=_depends_on,
    make=_make,
)
