# SPDX-License-Identifier: Apache-2.0
"""What a stream of packs depends on, so that a cursor is never used with another stream."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from owl.config.run import DataConfig, OversizePolicy, PackConfig
from owl.data.encode.encoder import ENCODING_VERSION
from owl.data.encode.oversize import CUTS_VERSION
from owl.data.plan.plan import PLAN_VERSION, PlannedSource
from owl.data.shards.quarantine import Quarantine

LIBRARY = "library."
"""Begins the names of fingerprint entries whose change is worth a warning, not a refusal."""
LIBRARIES = ("pillow", "simplejpeg", "torch")
"""What turns a picture's bytes into tiles."""


def make_fingerprint(
    sources: Sequence[PlannedSource], pack: PackConfig, data: DataConfig, quarantine: Quarantine
) -> dict[str, str]:
    """Name everything that the stream of packs depends on, in words that a difference explains."""
    encoder = sources[0].lengths.encoder  # they differ in max_frames alone
    settings = {
        "plan": str(PLAN_VERSION),
        "encoding": str(ENCODING_VERSION),
        "data.seed": str(data.seed),
        "data.tokenizer": encoder.tokenizer.content_hash,
        "data.images": str(data.images),
        "data.special_literals": str(data.special_literals),
        "data.quarantine": quarantine.fingerprint,
        **encoder.reading.settings,
    }
    blend = {
        f"data.sources.{source.name}": f"{source.dataset.fingerprint} {source.share} "
        f"cut={source.cut} max_frames={source.lengths.encoder.max_frames} "
        f"oversize={_oversize(source)}"
        + (f" held_out={source.held_out}" if source.held_out else "")
        for source in sources
    }
    budgets = {
        f"pack.{name}": str(getattr(pack, name))
        for name in ("enabled", "text_tokens", "tiles", "window")
    }
    libraries = {LIBRARY + name: version(name) for name in LIBRARIES}
    return settings | blend | budgets | libraries


def _oversize(source: PlannedSource) -> str:
    """The policy, and the version of where it cuts; without one where nothing is cut."""
    is_cutting = source.oversize != OversizePolicy.drop
    return f"{source.oversize}/{CUTS_VERSION}" if is_cutting else str(source.oversize)


def fingerprint_differences(
    then: Mapping[str, str], now: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield the name of each entry that differs, and a readable line about it."""
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            yield (
                name,
                f"{name}: the checkpoint has {then.get(name, 'nothing')!r}, this run "
                f"{now.get(name, 'nothing')!r}",
            )
