"""Strict gin: every mistake in a configuration stops the program before it starts.

Gin's own parser resolves an `include` against the working directory only, and reports a misspelt
name without naming the alternatives. So this module walks gin's statements itself.
"""

import codecs
import contextlib
import copy
import difflib
import importlib
import inspect
import os
import pathlib
import re
import sys
import tokenize
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from gin import config_parser

from stugan_tf import gin_files
from stugan_tf.adapters.gin_internals import (
    OPERATIVE_CONFIG,
    REGISTRY,
    GinState,
    config_text,
    copy_state,
    set_state,
    unbind,
)
from stugan_tf.errors import InputError, UserError
from stugan_tf.files import expanded
from stugan_tf.former_settings import MOVED, does_nothing


class _Binding(typing.NamedTuple):
    value: object
    where: str


# (scope, complete selector, parameter) -> binding. Global, like gin's own configuration.
_bindings = {}
# Values that a later file or binding replaced.
_overridden = []
# While a `part` is open: the bindings that it replaces, and the calls made before it.
_replaced = {}
_calls_before = {}


def parse_gin(files: Sequence[str | os.PathLike[str]] = (), bindings: Sequence[str] = ()) -> None:
    """Replaces the configuration with `files`, then `bindings`; later ones override earlier ones.

    Args:
        files: paths of gin files. Each is looked for in the working directory, then among the files
            of the package (`gin_files`); an included one first beside the file that includes it.
        bindings: strings such as `Algorithm.total_steps = 100`.

    Raises:
        InputError: For a file that does not exist, a syntax error, or an unknown name.
    """
    gin.clear_config()
    _bindings.clear()
    _overridden.clear()
    for file in files:
        path = _find(file, [pathlib.Path()])
        _parse_file(path, _included(path, ()))
    for binding in bindings:
        where = f"--gin_param={binding!r}"
        _parse(binding, lambda _, where=where: where, pathlib.Path(), ())
    _check_macros()
    _check_rings()
    try:
        gin.finalize()
    except ValueError as error:
        raise InputError(str(error)) from error


class Configuration:
    """A separate configuration, which applies inside `with configuration.active():` only.

    Afterwards the configuration from before applies again. For one thread at a time.
    """

    def __init__(
        self, files: Sequence[str | os.PathLike[str]] = (), bindings: Sequence[str] = ()
    ) -> None:
        """Reads the configuration; arguments and errors are those of `parse_gin`."""
        self._kept = _Kept(GinState(), {}, [], {}, {})
        with self.active():
            parse_gin(files, bindings)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Applies the configuration inside the context. Its calls count in later contexts, too."""
        outer = _keep()
        _put_back(self._kept)
        try:
            yield
        finally:
            self._kept = _keep()
            _put_back(outer)


class _Kept(typing.NamedTuple):
    """All of gin's state and ours."""

    gin: GinState
    bindings: dict
    overridden: list
    replaced: dict
    calls_before: dict


def _keep():
    return _Kept(
        copy_state(), dict(_bindings), list(_overridden), dict(_replaced), dict(_calls_before)
    )


def _put_back(kept):
    set_state(kept.gin)
    _overridden[:] = kept.overridden
    for stored, values in (
        (_bindings, kept.bindings),
        (_replaced, kept.replaced),
        (_calls_before, kept.calls_before),
    ):
        stored.clear()
        stored.update(values)


def statements(
    files: Sequence[str | os.PathLike[str]] = (), bindings: Sequence[str] = ()
) -> Iterator[tuple[str | None, str]]:
    """The statements of `files` and `bindings`, which were parsed before, as pieces of text.

    Together they are one file with the same configuration, without any `include`.

    Yields:
        `(selector, text)`: for a binding, the complete selector `module.name`; for an import,
        `import module`; for other statements None.
    """
    for statement, text in written(files, bindings):
        selector = None
        if isinstance(statement, config_parser.ImportStatement):
            selector = f"import {statement.module}"
        elif isinstance(statement, config_parser.BlockDeclaration) or statement.arg_name:
            selector = _match(statement.selector).selector
        yield selector, text


def written(
    files: Sequence[str | os.PathLike[str]] = (), bindings: Sequence[str] = ()
) -> Iterator[tuple[Any, str]]:
    """The statements of `files` and `bindings`, with included files in place.

    Names are not looked up, so they need not be registered.

    Yields:
        `(statement, text)`: a statement of `gin.config_parser` other than an include, and its lines
        with the comments in them and below them.

    Raises:
        InputError: if a file or an included file is missing or is not gin.
    """
    for file in files:
        path = _find(file, [pathlib.Path()])
        yield from _written_in(path, _included(path, ()))
    for binding in bindings:
        yield from _pieces(binding, pathlib.Path(), str, ())


def imported(text: str) -> list[str]:
    """The complete names of the modules that gin text imports."""
    return [
        statement.module
        for statement, _ in written(bindings=[text])
        if isinstance(statement, config_parser.ImportStatement)
    ]


def _written_in(path, chain):
    return _pieces(_text_of(path), path.parent, lambda line: f"{path}:{line}", chain)


def _pieces(text, folder, where, chain):
    lines = text.splitlines(keepends=True)
    parsed = list(_statements(text, where, gin.config.ParserDelegate(skip_unknown=True)))
    starts = [statement.location.line_num - 1 for statement in parsed]
    for statement, start, end in zip(parsed, starts, [*starts, len(lines)][1:], strict=True):
        if isinstance(statement, config_parser.IncludeStatement):
            yield from _written_in(*_include(statement, folder, where, chain))
        else:
            yield statement, "".join(lines[start:end]).rstrip() + "\n"


def check_all_used(also: Iterable[str] = (), checked: str | os.PathLike[str] | None = None) -> None:
    """Rejects bindings that nothing uses. Call it when everything is built, before step 1.

    A binding is used if a configurable was called with it, or if references, macros and default
    arguments of such a call lead to it: a schedule need not have been called yet. A binding also
    counts as used if it served a value that a later file replaced: `static.gin` after a file for
    STU-GAN leaves the settings of its exploration without a use.

    Args:
        also: names of configurables that count as called.
        checked: path of a file whose bindings were checked before, such as the config.gin of a run.
            A reader of a run does not call everything that the training called.

    Raises:
        InputError: if nothing uses a binding.
    """
    replaced = [binding.value for binding in _replaced.values()]
    used = _used(_all_calls(), also=_overridden + replaced, names=also)
    unused = [
        f"  {where}: {_key_text(*key)} = {value!r}"
        for key, (value, where) in _bindings.items()
        if key not in used and not (checked and where.startswith(f"{checked}:"))
    ]
    if unused:
        raise InputError(
            "Nothing uses these bindings:\n"
            + "\n".join(unused)
            + "\nRemove them, or check their scope and refer to what they configure (`@name`)."
        )


@contextlib.contextmanager
def part(settings: Mapping[str, Any]) -> Iterator[None]:
    """Opens a part of the program with its own configuration.

    Inside the context, `operative_config` covers the calls made inside.

    Args:
        settings: {'name.parameter': value}, which replace the bindings inside the context.
    """
    keys = {}
    for name, value in settings.items():
        selector, parameter = name.rsplit(".", 1)
        keys["", _match(selector).selector, parameter] = value
    _replaced.update({key: _bindings[key] for key in keys if key in _bindings})
    _calls_before.update({key: dict(values) for key, values in OPERATIVE_CONFIG.items()})
    OPERATIVE_CONFIG.clear()
    for key, value in keys.items():
        _assign(key, _Binding(value, "a phase of the method"))
    try:
        yield
    finally:
        for key in keys:
            _assign(key, _replaced.get(key))
        OPERATIVE_CONFIG.clear()
        OPERATIVE_CONFIG.update(_calls_before)
        _replaced.clear()
        _calls_before.clear()


def _assign(key, binding):
    """Sets a binding; None removes it."""
    if binding is None:
        del _bindings[key]
        unbind(*key)
        return
    _bindings[key] = binding
    with gin.unlock_config():
        gin.bind_parameter(key, binding.value)


def value_of(name: str) -> Any:
    """The value bound to 'name.parameter', with macros resolved; None if it is not bound."""
    try:
        return copy.deepcopy(gin.query_parameter(name))
    except ValueError:
        return None


def settings_of(name: str) -> dict[str, str]:
    """{name: text} of the bindings of a configurable and of everything that they refer to."""
    return {_key_text(*key): repr(_bindings[key].value) for key in _used({}, names=[name])}


def operative_config(whole: bool = False) -> str:
    """All used bindings, and the defaults of all calls so far, as gin text.

    Made at the point where `check_all_used` is called, the text passes that check when it is parsed
    again.

    Args:
        whole: inside a `part`, whether to return the configuration of the whole program.
    """
    calls = _all_calls() if whole else OPERATIVE_CONFIG
    bindings = _bindings | _replaced if whole else _bindings
    parameters = {key: dict(values) for key, values in calls.items()}
    for scope, selector, parameter in _used(calls):
        value = bindings[scope, selector, parameter].value
        parameters.setdefault((scope, selector), {})[parameter] = value
    return config_text(parameters)


def _all_calls():
    """{(scope, selector): {parameter: value}} of all calls, in a `part` and before it."""
    calls = {key: dict(values) for key, values in _calls_before.items()}
    for key, values in OPERATIVE_CONFIG.items():
        calls[key] = calls.get(key, {}) | values
    return calls


def message_of(error: BaseException) -> str | None:
    """The message for the user if `error` is bad input, else None.

    Gin appends `In call to configurable ...` to every error that passes through it, and reports
    a missing required binding as a RuntimeError.
    """
    message = re.split(r"\n  In (?:call to configurable|file|bindings string) ", str(error))[0]
    if isinstance(error, UserError):
        return message
    if isinstance(error, RuntimeError) and message.startswith("Required bindings for"):
        return f"{message}. Set them in a gin file or by --gin_param."
    return None


def _find(file, folders):
    """The first existing `file` below `folders` or among the files of the package."""
    file = pathlib.Path(expanded(file, "The path of a gin file"))
    folders = [*folders, *gin_files.folders_for(file)]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    looked = dict.fromkeys((folder / file).resolve().parent for folder in folders)
    named = pathlib.Path() if file.is_absolute() else file.parent
    near = {path.stem: str(named / path.name) for one in looked for path in one.glob("*.gin")}
    # By its name alone, a file of the package is also known without its folder.
    known = {pathlib.Path(path).stem: path for path in gin_files.all_files()} | near
    suggestion = _suggestion(file.stem, known) or (
        f"{_suggestion(file.stem, near)} `stugan list` shows the files of the package."
    )
    raise InputError(
        f"There is no gin file '{file}'; looked in {', '.join(map(str, looked))}.{suggestion}"
    )


def _include(statement, folder, where, chain):
    """The path of an included file, and the chain of files down to it.

    A chain is a tuple of paths of files, each of which includes the next. For the other arguments
    see `_parse`.
    """
    with _located(where(statement.location.line_num)):
        path = _find(statement.filename, [folder, pathlib.Path()])
        return path, _included(path, chain)


def _included(path, chain):
    """A chain with one more file. Raises InputError if the file is in it already."""
    path = path.resolve()
    if path in chain:
        ring = " includes ".join(file.name for file in (*chain[chain.index(path) :], path))
        raise InputError(f"These files are a ring: {ring}. Remove one `include`.")
    return (*chain, path)


def _text_of(path):
    """The text of a gin file, which is UTF-8, with or without a byte order mark."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise InputError(
            f"{path}:{line}: this is not UTF-8, the encoding of gin files"
            f"{', but UTF-16' if wide else ''}: byte {data[error.start]:#04x}. Save the file as "
            "UTF-8."
        ) from None


def _parse_file(path, chain):
    _parse(_text_of(path), lambda line: f"{path}:{line}", path.parent, chain)


def _parse(text, where, folder, chain):
    """Applies the statements of `text`.

    Args:
        text: the text.
        where: function of a line, which names it in errors.
        folder: where included files are looked for.
        chain: paths of the files that lead to the text, see `_include`.
    """
    for statement in _statements(text, where, _Delegate()):
        line = where(statement.location.line_num)
        if isinstance(statement, config_parser.BindingStatement):
            _bind(statement, line)
        elif isinstance(statement, config_parser.BlockDeclaration):
            with _located(line):
                _match(statement.selector)
        elif isinstance(statement, config_parser.ImportStatement):
            _import(statement, line)
        else:
            _parse_file(*_include(statement, folder, where, chain))


@contextlib.contextmanager
def _located(where):
    try:
        yield
    except ValueError as error:  # ours and gin's
        raise InputError(f"{where}: {error}") from None


def _statements(text, where, delegate):
    try:
        yield from config_parser.ConfigParser(text, delegate)
    except InputError as error:
        line = re.search(r"\n  In .* line (\d+)", str(error)).group(1)
        raise InputError(f"{where(line)}: {message_of(error)}") from None
    except SyntaxError as error:
        reason = error.msg.splitlines()[-1].strip().rstrip(".")
        raise InputError(
            f"{where(error.lineno)}: {reason}: {(error.text or '').strip()}\n"
            "Gin wants `name.parameter = value` with a Python literal (strings in quotes), "
            "@reference or %macro as value."
        ) from None
    except tokenize.TokenError as error:
        reason, (line, _) = error.args
        raise InputError(f"{where(line)}: {reason}: is a bracket or quote left open?") from None


class _Delegate(gin.config.ParserDelegate):
    """Rejects unknown references, and calls that only the program can make; gin says where."""

    def configurable_reference(self, scoped_selector, evaluate):
        configurable = _match(scoped_selector.rsplit("/", 1)[-1])
        if evaluate:
            _check_callable_by_gin(configurable)
        return super().configurable_reference(scoped_selector, evaluate)


def _match(selector):
    """The registered configurable called `selector`, complete or abbreviated."""
    try:
        configurable = REGISTRY.get_match(selector)
    except KeyError as error:
        raise InputError(error.args[0]) from None
    if configurable is None:
        short_names = {
            name.rsplit(".", 1)[-1]: REGISTRY.minimal_selector(name)
            for name, _ in REGISTRY.items()
            if not name.startswith("gin.")
        }
        raise InputError(
            f"There is no configurable '{selector}'."
            + _suggestion(selector.rsplit(".", 1)[-1], short_names)
            + " For your own function or class, add `import its_module` above."
        )
    return configurable


def _check_callable_by_gin(configurable):
    given = [
        name
        for name, parameter in _parameters(configurable).items()
        if name in (configurable.denylist or ()) and parameter.default is parameter.empty
    ]
    if given:
        raise InputError(
            f"'{configurable.name}' is called by the program, which passes {', '.join(given)}. "
            f"Write the reference without parentheses: `@{configurable.name}`."
        )


def _bind(statement, where):
    scope, selector, parameter, value, _ = statement
    with _located(where):
        if does_nothing(f"{selector}.{parameter}", value):
            return
        if parameter:
            configurable = _match(selector)
            _check_parameter(configurable, parameter)
            selector = configurable.selector
        else:  # `NAME = value` defines the macro %NAME.
            scope, selector, parameter = f"{scope}/{selector}".lstrip("/"), "gin.macro", "value"
        gin.bind_parameter((scope, selector, parameter), value)
    if (scope, selector, parameter) in _bindings:
        _overridden.append(_bindings[scope, selector, parameter].value)
    _bindings[scope, selector, parameter] = _Binding(value, where)


def _check_parameter(configurable, parameter):
    denied = configurable.denylist or ()
    if parameter in denied:
        raise InputError(
            f"'{parameter}' of '{configurable.name}' is set by the program, not by gin."
        )
    known = _parameters(configurable)
    if parameter not in known and all(p.kind != p.VAR_KEYWORD for p in known.values()):
        raise InputError(
            f"'{configurable.name}' has no parameter '{parameter}'."
            + _suggestion(parameter, [name for name in known if name not in denied])
        )


def _parameters(configurable):
    wrapped = configurable.wrapped
    if not inspect.isclass(wrapped):
        return inspect.signature(wrapped).parameters
    # Not the signature of the class: Keras has a `__new__` that takes anything.
    _, *parameters = inspect.signature(wrapped.__init__).parameters.items()
    return dict(parameters)


def _import(statement, where):
    if statement.module.startswith("__gin__"):
        raise InputError(
            f"{where}: Dynamic registration is not supported. Decorate with @gin.configurable and "
            "`import` the module."
        )
    if os.getcwd() not in sys.path:  # `python -m` adds it, a console script does not.
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(statement.module)
    except ModuleNotFoundError as error:
        if not f"{statement.module}.".startswith(f"{error.name}."):
            raise  # The module exists but one of its imports fails: show the traceback.
        if statement.module in MOVED:
            _import(statement._replace(module=MOVED[statement.module]), where)
            return
        raise InputError(
            f"{where}: There is no module '{error.name}' in {os.getcwd()} or among the installed "
            "packages."
        ) from None
    gin.parse_config(statement.format())  # So that the operative configuration has the import.


def _check_macros():
    macros = {scope for scope, selector, _ in _bindings if selector == "gin.macro"}
    for value, where in _bindings.values():
        for reference in gin.config.iterate_references([value]):
            name = "/".join(reference.scopes)
            if reference.configurable.selector == "gin.macro" and name not in macros:
                raise InputError(
                    f"{where}: The macro %{name} has no value." + _suggestion(name, macros)
                )


def _check_rings():
    """Raises InputError if a value is needed to compute itself, as with `A = %B` and `B = %A`."""
    sound = set()

    def follow(call, outer):
        if call in sound:
            return
        for value, where in _bound_in(*call):
            for reference in gin.config.iterate_references([value]):
                inner = "/".join(reference.scopes) or call[0], reference.configurable.selector
                if not reference.evaluate:
                    continue
                if inner in (*outer, call):
                    raise InputError(
                        f"{where}: {_call_text(*inner)} needs its own value. Give it another one."
                    )
                follow(inner, (*outer, call))
        sound.add(call)

    for scope, selector, _ in _bindings:
        follow((scope, selector), ())


def _applies(bound_scope, scope):
    """Whether a binding with a scope applies to a call in another scope."""
    return f"{scope}/".startswith(f"{bound_scope}/" if bound_scope else "")


def _bound_in(scope, selector):
    """The bindings that apply to a call in a scope: for each parameter, the innermost one."""
    found = {}
    for (bound_scope, bound_selector, parameter), binding in _bindings.items():
        if bound_selector == selector and _applies(bound_scope, scope):
            length, _ = found.get(parameter, (-1, None))
            if len(bound_scope) > length:
                found[parameter] = len(bound_scope), binding
    return [binding for _, binding in found.values()]


def _call_text(scope, selector):
    if selector == "gin.macro":
        return f"%{scope}"
    return f"@{scope}/{REGISTRY.minimal_selector(selector)}()".replace("@/", "@")


def _used(calls, also=(), names=()):
    """The keys of all bindings that are used or may be.

    Args:
        calls: {(scope, selector): {parameter: value}}, calls that were made.
        also: values that may refer to more.
        names: names of configurables that count as called with all of their parameters.
    """
    selectors = {configurable.wrapper: name for name, configurable in REGISTRY.items()}
    calls = [(scope, name, set(values)) for (scope, name), values in calls.items()]
    calls += [
        ("/".join(reference.scopes), reference.configurable.selector, None)
        for reference in gin.config.iterate_references(list(also))
    ]
    calls += [("", _match(name).selector, None) for name in names]
    seen, used = set(), set()
    while calls:
        scope, selector, parameters = calls.pop()
        if (scope, selector, parameters is None) in seen:
            continue
        seen.add((scope, selector, parameters is None))
        for parameter in _parameters(REGISTRY[selector]).values():
            default = parameter.default
            if (inspect.isroutine(default) or inspect.isclass(default)) and default in selectors:
                calls.append((scope, selectors[default], None))
        for key, (value, _) in _bindings.items():
            bound_scope, bound_selector, bound_parameter = key
            if (
                bound_selector == selector
                and _applies(bound_scope, scope)
                and (parameters is None or bound_parameter in parameters)
            ):
                used.add(key)
                for reference in gin.config.iterate_references([value]):
                    inner_scope = "/".join(reference.scopes) or scope
                    calls.append((inner_scope, reference.configurable.selector, None))
    return used


def _key_text(scope, selector, parameter):
    if selector == "gin.macro":
        return scope
    return f"{scope}/{REGISTRY.minimal_selector(selector)}.{parameter}".lstrip("/")


def _suggestion(given, known):
    """A suggestion for a misspelt name. `known` are names, or name -> text."""
    texts = known if isinstance(known, dict) else {name: name for name in known}
    close = difflib.get_close_matches(given, texts)
    if close:
        return f" Did you mean {' or '.join(repr(texts[name]) for name in close)}?"
    if texts and len(texts) <= 20:
        return f" There are: {', '.join(sorted(texts.values()))}."
    return ""
