"""Settings: Hydra composes ``configs/*.yaml`` and the command line, dataclasses define what may be set.

    config = load(TrainConfig, "train", ["policy=cogact", "preset=cpu", "train.steps=100"])

A YAML file only overrides: every key, type and default stands in a dataclass next to the class that it configures.
Whatever does not fit the dataclass is an error that names the key and what is allowed.
"""

import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeAliasType, Union, cast, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vla.errors import UnderstudyError, unknown

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NOT_GIVEN = "???"
"""OmegaConf's mark for a value that somebody has to give."""

SCALARS: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int, float),
    float: (int, float),
    str: (str, int, float, Path),
    Path: (str, Path),
}
"""Type of a setting → the types of the values it takes."""


def load[T](schema: type[T], name: str, overrides: Sequence[str], *, config_dir: Path = CONFIGS) -> T:
    """Compose ``config_dir/name.yaml`` with ``overrides`` and build ``schema`` from the result.

    An override is ``key=value`` for a setting (dotted when nested), or ``group=option`` for a folder of YAML files.

    Raises:
        UnderstudyError: an unknown key, an unknown option of a group, or whatever `build` refuses.
    """
    return build(schema, _compose(schema, name, overrides, config_dir))


def build[T](schema: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass ``schema``, and those nested in it, from plain values.

    ``mapping`` holds what YAML can hold, ``"???"`` for a value not given; ``where`` is its dotted key, for messages.

    Raises:
        UnderstudyError: an unknown key, a wrong type, a missing value, or what ``__post_init__`` refuses.
    """
    if not isinstance(mapping, Mapping):
        raise _wrong(where, mapping, schema)
    hints = get_type_hints(schema)
    settings = {field.name: field for field in _fields(schema)}
    values = {}
    for key, value in mapping.items():
        if key not in settings:
            raise unknown("key", _dotted(where, str(key)), _keys(schema, where))
        if not (isinstance(value, str) and value == NOT_GIVEN):
            values[key] = _convert(value, hints[key], _dotted(where, key))
    for key, field in settings.items():
        if key not in values and field.default is MISSING and field.default_factory is MISSING:
            dotted, hint = _dotted(where, key), _unalias(hints[key])
            if not is_dataclass(hint):
                raise UnderstudyError(f"{dotted} ({_name(hint)}) must be given: add {dotted}=…")
            values[key] = build(cast(type, hint), {}, dotted)
    try:
        return schema(**values)
    except UnderstudyError:
        raise
    except ValueError as error:
        raise UnderstudyError(f"{where}: {error}" if where else str(error)) from error


def wants_help(argv: Sequence[str]) -> bool:
    """Whether ``-h`` or ``--help`` is among the arguments."""
    return "-h" in argv or "--help" in argv


def to_yaml(config: object) -> str:
    """A dataclass as YAML that `from_yaml` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(_plain(config)))


def from_yaml[T](schema: type[T], path: Path) -> T:
    """The inverse of `to_yaml`, from a file."""
    try:
        mapping = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        raise UnderstudyError(f"there is no file {path}") from error
    except (OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        raise UnderstudyError(f"{path} is not readable YAML: {_one_line(error)}") from error
    try:
        return build(schema, cast(Mapping[str, Any], mapping))
    except UnderstudyError as error:
        raise UnderstudyError(f"{path}: {error}") from error


def help_text(schema: type, *, verb: str, about: str, example: str, name: str, config_dir: Path = CONFIGS) -> str:
    """The ``--help`` of a verb: usage, example, groups with their options, and every key with type, value and meaning.

    The values are those that ``name.yaml`` gives without overrides.
    """
    width = max(40, min(shutil.get_terminal_size().columns, 120))
    values = _flat(_compose(schema, name, [], config_dir))
    groups = {g: o for g, o in _groups(schema, config_dir / f"{name}.yaml").items() if _fits(config_dir / g, schema)}
    rows = []
    for key, hint, default, doc in _settings(schema):
        about_key = f"{_name(hint)}. {doc}" if doc else _name(hint)
        if (get_origin(hint) or hint) in (dict, Mapping):
            rows.append((key, about_key))
            rows += [(f"{k}={_shown(v)}", "") for k, v in values.items() if k.startswith(f"{key}.")]
        elif not is_dataclass(hint):
            rows.append((f"{key}={_shown(values.get(key, default))}", about_key))
    paragraphs = [
        f"usage: vla {verb} [group=option …] [key=value …]",
        textwrap.fill(about, width),
        f"example:\n  {example}",
        "groups:\n" + "\n".join(_row(f"{g}=", " | ".join(o), width) for g, o in groups.items()) if groups else "",
        "settings:\n" + "\n".join(_row(left, right, width) for left, right in rows),
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def _compose(schema: type, name: str, overrides: Sequence[str], config_dir: Path) -> dict[str, Any]:
    file = config_dir / f"{name}.yaml"
    if not config_dir.is_dir():
        raise UnderstudyError(
            f"there is no folder {config_dir}: settings live in the checkout, which is installed by `make setup`"
        )
    if not file.is_file():
        raise unknown("configuration", name, [path.stem for path in config_dir.glob("*.yaml")])
    try:
        options, settings = _split(schema, overrides, file)
        with initialize_config_dir(str(config_dir.resolve()), version_base=None):
            composed = compose(name, overrides=options)
        OmegaConf.set_struct(composed, False)
        for key, value in settings:
            OmegaConf.update(composed, key, value)
        _refuse_resolvers(OmegaConf.to_container(composed), str(file))
        mapping = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UnderstudyError(f"{file}: {_one_line(error)}") from error
    return cast(dict[str, Any], mapping)


def _split(schema: type, overrides: Sequence[str], file: Path) -> tuple[list[str], list[tuple[str, Any]]]:
    """The overrides that choose from a group, as Hydra wants them, and those that give a setting its value.

    Settings do not go through Hydra: it would refuse a key that no YAML file holds, and one that is called like a
    folder in ``configs/`` (``policy`` is a group for `vla train` and a path for `vla eval`).
    """
    chosen, groups = _chosen_groups(file), _groups(schema, file)
    names = {field.name for field in _fields(schema)}
    options, settings = [], []
    for given in overrides:
        key, value, text = _parse(given)
        if key in groups:
            if value not in groups[key]:
                raise unknown(key, str(value), groups[key])
            options.append(text if key in chosen else f"+{text}")
        elif key.partition(".")[0] in names:
            settings.append((key, value))
        else:
            raise unknown("key", key, [*_keys(schema), *groups])
    return options, settings


def _chosen_groups(file: Path) -> set[str]:
    """The groups that the file's own defaults list already chooses from."""
    content = OmegaConf.to_container(OmegaConf.load(file))
    entries = content.get("defaults", []) if isinstance(content, dict) else []
    return {str(key).split()[-1] for entry in entries if isinstance(entry, dict) for key in entry}


def _parse(text: str) -> tuple[str, Any, str]:
    """Key, value and the override's text; what Hydra's grammar cannot hold (``=``, ``(``, ``~``, ``é``) is quoted."""
    key, equals, value = text.partition("=")
    if not re.fullmatch(r"\w[\w./-]*", key) or not equals:
        raise UnderstudyError(f"cannot read {text!r}: settings are written key=value, and --help lists them")
    quoted = "{}='{}'".format(key, value.replace("\\", "\\\\").replace("'", "\\'"))
    for candidate in (text, quoted):
        try:
            override = OverridesParser.create().parse_override(candidate)
        except HydraException:
            if value.startswith(("[", "{", '"', "'")) or "${" in value:
                break
            continue
        if override.is_sweep_override():
            raise UnderstudyError(f"{text!r} is several values: write {key}=[…] for a list, '{key}=\"…\"' for text")
        return key, override.value(), candidate
    raise UnderstudyError(f"cannot read {text!r}: put quotes around what has special characters, '{key}=\"…\"'")


def _refuse_resolvers(value: object, file: str) -> None:
    """Values may refer to each other (``${train.steps}``) but not call functions (``${oc.env:HOME}``)."""
    if isinstance(value, str) and re.search(r"\$\{[^}]*:", value):
        raise UnderstudyError(f"{file}: {value!r} calls a resolver; only ${{key}} is allowed")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        _refuse_resolvers(item, file)


def _groups(schema: type, file: Path) -> dict[str, list[str]]:
    """Group → options: the folders beside ``file`` that it chooses from, and those not called like a setting."""
    taken = {field.name for field in _fields(schema)} - _chosen_groups(file)
    found: dict[str, list[str]] = {}
    for path in sorted(file.parent.glob("*/**/*.yaml")):
        found.setdefault(path.parent.relative_to(file.parent).as_posix(), []).append(path.stem)
    return {group: options for group, options in found.items() if group not in taken}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type ``hint`` says, or an error that names the key ``where``."""
    hint = _unalias(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (Any, object) or (hint is NoneType and value is None):
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)
    if origin in (Union, UnionType):
        return _convert_union(value, hint, where)
    if origin is Literal:
        if value in arguments and type(value) in {type(allowed) for allowed in arguments}:
            return value
        raise unknown(f"value for {where}:", str(value), map(str, arguments))
    if (origin or hint) in (tuple, list, Sequence):
        return _convert_sequence(value, hint, where)
    if (origin or hint) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, hint)
        of_key, of_value = arguments or (Any, Any)
        return {_convert(k, of_key, where): _convert(v, of_value, _dotted(where, k)) for k, v in value.items()}
    if hint in SCALARS:
        return _scalar(value, hint, where)
    raise TypeError(f"{where} has the type {hint}, which no setting can have")


def _convert_union(value: Any, hint: Any, where: str) -> Any:
    members = [member for member in get_args(hint) if member is not NoneType]
    if value is None and NoneType in get_args(hint):
        return None
    if len(members) == 1:
        return _convert(value, members[0], where)
    # An exact type first, so that `int | str` keeps the text "7" and `str | int` the number 7.
    for member in sorted(members, key=lambda member: type(value) is not member):
        try:
            return _convert(value, member, where)
        except UnderstudyError:
            continue
    raise _wrong(where, value, hint)


def _convert_sequence(value: Any, hint: Any, where: str) -> Any:
    """A list or tuple; a lone word or number stands for a sequence of one."""
    make = list if (get_origin(hint) or hint) is list else tuple
    arguments = get_args(hint) or (Any, ...)
    fixed = make is tuple and Ellipsis not in arguments
    if isinstance(value, str | int | float) and not isinstance(value, bool) and not fixed:
        value = [value]
    if not isinstance(value, list | tuple) or (fixed and len(value) != len(arguments)):
        raise _wrong(where, value, hint)
    hints = arguments if fixed else (arguments[0],) * len(value)
    return make(_convert(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, hints, strict=True)))


def _scalar(value: Any, kind: Any, where: str) -> Any:
    """A number for text and a whole float for an integer are taken; truth values are nothing but themselves."""
    fits = isinstance(value, SCALARS[kind]) and isinstance(value, bool) == (kind is bool)
    if not fits or (kind is int and not float(value).is_integer()):
        raise _wrong(where, value, kind)
    return Path(value).expanduser() if kind is Path else kind(value)


def _wrong(where: str, value: object, hint: object) -> UnderstudyError:
    return UnderstudyError(f"{where or 'the configuration'} must be {_name(hint)}, got {value!r}")


def _name(hint: Any) -> str:
    """A type as a person reads it."""
    hint = _unalias(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return f"a mapping of {', '.join(field.name for field in _fields(hint))}"
    if get_origin(hint) is Literal:
        return " | ".join(str(value) for value in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(_name(member) for member in get_args(hint))
    plain = {NoneType: "null", Path: "path", bool: "true | false"}
    return plain.get(hint) or (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    )


def _unalias(hint: Any) -> Any:
    return hint.__value__ if isinstance(hint, TypeAliasType) else hint


def _fields(schema: Any) -> list[Field[Any]]:
    return [field for field in fields(schema) if field.init]


def _dotted(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _keys(schema: type, where: str = "") -> list[str]:
    """Every dotted key, of nested dataclasses too."""
    return [key for key, *_ in _settings(schema, where)]


def _settings(schema: type, where: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """``(dotted key, type, default, docstring)`` of every setting, parents before children."""
    hints, docs = get_type_hints(schema), _docs(schema)
    for field in _fields(schema):
        key, hint = _dotted(where, field.name), _unalias(hints[field.name])
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        yield key, hint, NOT_GIVEN if default is MISSING else default, docs.get(field.name, "")
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _settings(hint, key)


def _docs(schema: type) -> dict[str, str]:
    """Field name → the string literal that follows it in the source."""
    docs: dict[str, str] = {}
    for cls in reversed(schema.__mro__[:-1]):
        try:
            body = cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
        except (OSError, TypeError):
            continue
        for pair in pairwise(body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what YAML can hold."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in _fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _fits(group: Path, schema: type) -> bool:
    """Whether every option of a group gives settings of ``schema`` only, under its own name or (a preset) directly."""
    names = {field.name for field in _fields(schema)}
    keys = {str(key) for option in group.glob("*.yaml") for key in cast(dict[str, Any], OmegaConf.load(option))}
    return group.name in names or keys <= names | {"defaults"}


def _flat(mapping: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        dotted = _dotted(where, key)
        flat |= _flat(value, dotted) if isinstance(value, Mapping) and value else {dotted: value}
    return flat


def _shown(value: Any) -> str:
    """A value as it is written on the command line; one that must be given as dots."""
    if value == NOT_GIVEN:
        return "…"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    plain = {None: "null", True: "true", False: "false"}
    return plain[value] if value is None or isinstance(value, bool) else str(value)


def _row(left: str, right: str, width: int) -> str:
    """Two columns; a long left one has the right one on the lines below."""
    column = min(36, width // 2)
    indent = "\n" + " " * column
    head = f"  {left} ".ljust(column)
    return (head + (indent if len(head) > column else "") + indent.join(textwrap.wrap(right, width - column))).rstrip()


def _one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's second lines are links and internal names; YAML's say where the mistake is."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(" ".join(lines).split()) if isinstance(error, YAMLError) else lines[0]
