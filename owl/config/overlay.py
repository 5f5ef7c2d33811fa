# SPDX-License-Identifier: Apache-2.0
"""Lay plain values onto the typed tree of settings, leaf by leaf, and say what does not fit.

OmegaConf checks types and resolves `${...}`, but stops at the first mistake: here each leaf is
tried by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from owl.config.run import ScaleSettings, SourceConfig
from owl.config.settings import closest, closest_setting, enum_members, find_setting

Problems = list[str]


def delete(schema: DictConfig, name: str) -> Problems:
    """Drop an entry of a free dictionary, such as one data source."""
    parent_name, _, key = name.rpartition(".")
    parent = OmegaConf.select(schema, parent_name) if parent_name else None
    if not isinstance(parent, DictConfig) or OmegaConf.get_type(parent) is not dict:
        return [f"~{name} cannot be removed: only entries of data.sources and recipe can."]
    if key not in parent:
        known = ", ".join(map(str, parent)) or "none"
        return [f"~{name} removes what is not there. {parent_name} has: {known}."]
    del parent[key]
    return []


def overlay_on(node: DictConfig, tree: Mapping[Any, Any], prefix: str, where: str) -> Problems:
    """Copy a tree of plain values onto a typed node, leaf by leaf; return what did not fit."""
    problems: Problems = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if OmegaConf.get_type(node) is dict and key not in node:
            node[key] = SourceConfig() if prefix.startswith("data.sources.") else ScaleSettings()
        if key not in node:
            problems += _unknown(name, value, where)
            continue
        child = node._get_node(key)
        if isinstance(child, DictConfig) and isinstance(value, Mapping):
            problems += overlay_on(child, value, f"{name}.", where)
        else:
            problems += _set(node, str(key), value, name)
    return problems


def _set(node: DictConfig, key: str, value: Any, name: str) -> Problems:
    """Assign one leaf, and say what it expects when the value is of another kind."""
    setting = find_setting(name)
    members = enum_members(setting.annotation) if setting else []
    if isinstance(value, bool) and members:
        # YAML 1.1 reads a bare `off` as false; the enum means the word.
        value = "on" if value else "off"
    try:
        if setting and setting.annotation is bool and not isinstance(value, bool | str):
            raise TypeError(value)
        node[key] = value
    except (OmegaConfBaseException, TypeError):
        return [_wrong_type(name, value, members)]
    return []


def _unknown(name: str, value: Any, where: str) -> Iterator[str]:
    """Yield a sentence for each leaf under a name that the schema does not have."""
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
    """Write a value the way it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def resolve(schema: DictConfig) -> Problems:
    """Replace each ${...} by its value; report what leads nowhere (the default stands in)."""
    problems: Problems = []
    for node, key, name in list(_interpolated(schema, "")):
        text = str(node._get_node(key)._value())
        try:
            node[key] = node[key]
        except OmegaConfBaseException:
            problems.append(_dead_end(schema, name, text))
            setting = find_setting(name)
            node[key] = setting.default if setting else None
    return list(dict.fromkeys(problems))  # a missing recipe is asked for by several settings


def _interpolated(node: DictConfig | ListConfig, prefix: str) -> Iterator[tuple[Any, Any, str]]:
    keys = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        child = node._get_node(key)
        if OmegaConf.is_interpolation(node, key):
            yield node, key, f"{prefix}{key}"
        elif isinstance(child, DictConfig | ListConfig) and not child._is_none():
            yield from _interpolated(child, f"{prefix}{key}.")


def _dead_end(schema: DictConfig, name: str, text: str) -> str:
    target = text.removeprefix("${").removesuffix("}")
    group, _, rest = target.partition(".")
    scale = rest.split(".")[0]
    if group == "recipe" and scale not in schema.recipe:
        return (
            f"scale={scale} has no amounts: no YAML file of this run sets recipe.{scale}. "
            f"Choose an experiment, such as +experiment=stage1, or write recipe.{scale} in yours."
        )
    return (
        f"{name}={text} leads nowhere, or to a value that does not fit. "
        f"Set {target}, or {name} itself."
    )
