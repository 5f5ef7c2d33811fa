# SPDX-License-Identifier: Apache-2.0
"""Copy plain values onto the typed tree of settings, leaf by leaf, and report what does not fit.

OmegaConf checks types and resolves `${...}`, but stops at the first mistake: here each leaf is
assigned separately.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from owl.config.settings import closest, closest_setting, enum_members, find_setting

Problems = list[str]


def delete(schema: DictConfig, name: str) -> Problems:
    """Drop an entry of a free dictionary, such as one data source."""
    parent_name, _, key = name.rpartition(".")
    parent = OmegaConf.select(schema, parent_name) if parent_name else None
    if not isinstance(parent, DictConfig) or OmegaConf.get_type(parent) is not dict:
        return [
            f"~{name} cannot be removed: only entries of data.sources, evaluate.sources and "
            "recipe can."
        ]
    if key not in parent:
        known = ", ".join(map(str, parent)) or "none"
        return [f"~{name} names no entry. {parent_name} has: {known}."]
    del parent[key]
    return []


def overlay(node: DictConfig, tree: Mapping[Any, Any], prefix: str, where: str) -> Problems:
    """Copy a tree of plain values onto a typed node, leaf by leaf; return what does not fit.

    Args:
        node: changed in place.
        tree: nested plain values.
        prefix: dotted name of the node with a dot at the end, "" for the root.
        where: source of the values, for messages.
    """
    problems: Problems = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if OmegaConf.get_type(node) is dict and key not in node:
            node[key] = node._metadata.element_type()  # the defaults of a new entry
        if key not in node:
            problems += _unknown(name, value, where)
            continue
        child = node._get_node(key)
        if isinstance(child, DictConfig) and isinstance(value, Mapping):
            problems += overlay(child, value, f"{name}.", where)
        else:
            problems += _set(node, str(key), value, name)
    return problems


def _set(node: DictConfig, key: str, value: Any, name: str) -> Problems:
    """Assign one leaf; return the type it takes when the value has another one."""
    setting = find_setting(name)
    members = enum_members(setting.annotation) if setting else []
    if isinstance(value, bool) and members:
        # YAML 1.1 reads a bare `off` as false; the enum has a member of that name.
        value = "on" if value else "off"
    try:
        if setting and setting.annotation is bool and not isinstance(value, bool | str):
            raise TypeError(value)
        node[key] = value
    except (OmegaConfBaseException, TypeError):
        return [_wrong_type(name, value, members)]
    return []


def _unknown(name: str, value: Any, where: str) -> Iterator[str]:
    """Yield a problem for each leaf under a name that the schema does not have."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _unknown(f"{name}.{key}", inner, where)
        return
    guess = closest_setting(name)
    advice = f"Did you mean {guess}?" if guess else "--help lists every setting."
    yield f"{name}={_shown(value)} (from {where}) sets nothing: there is no such setting. {advice}"


def _wrong_type(name: str, value: Any, members: Sequence[str]) -> str:
    setting = find_setting(name)
    if setting is None:
        return (
            f"{name}={_shown(value)} does not fit: {name} is a group of settings. "
            f"Write one of them, as in {name}.SETTING=VALUE; --help lists them."
        )
    guess = closest(str(value), members)
    advice = f"Did you mean {guess}?" if guess else f"The default is {_shown(setting.default)}."
    return f"{name}={_shown(value)} does not fit: it takes {setting.expects}. {advice}"


def _shown(value: Any) -> str:
    """Write a value as on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def resolve(schema: DictConfig) -> Problems:
    """Replace each ${...} by its value, or by the default where it cannot be resolved."""
    problems: Problems = []
    for node, key, name in list(_interpolated(schema, "")):
        text = str(node._get_node(key)._value())
        try:
            node[key] = node[key]
        except OmegaConfBaseException:
            problems.append(_unresolved(schema, name, text))
            setting = find_setting(name)
            node[key] = setting.default if setting else None
    return list(dict.fromkeys(problems))  # several settings refer to the same missing recipe


def _interpolated(node: DictConfig | ListConfig, prefix: str) -> Iterator[tuple[Any, Any, str]]:
    keys = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        child = node._get_node(key)
        if OmegaConf.is_interpolation(node, key):
            yield node, key, f"{prefix}{key}"
        elif isinstance(child, DictConfig | ListConfig) and not child._is_none():
            yield from _interpolated(child, f"{prefix}{key}.")


def _unresolved(schema: DictConfig, name: str, text: str) -> str:
    target = text.removeprefix("${").removesuffix("}")
    group, _, rest = target.partition(".")
    scale = rest.split(".")[0]
    if group == "recipe" and scale not in schema.recipe:
        return (
            f"scale={scale} has no settings: no YAML file of this run sets recipe.{scale}. "
            f"Choose an experiment, such as +experiment=stage1, or set recipe.{scale} in your own."
        )
    return (
        f"{name}={text} refers to no setting, or to a value that does not fit. "
        f"Set {target}, or {name} itself."
    )
