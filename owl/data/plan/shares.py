# SPDX-License-Identifier: Apache-2.0
"""What becomes of a run's samples: dropped, cut, without media; and packs that teach nothing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from owl.config.run import OversizePolicy, RunConfig
from owl.data.plan.plan import QUARANTINED, Plan, Window
from owl.data.shards.dataset import Dataset
from owl.data.shards.storage import LocalFolder

NAMED_SHARDS = 3
"""Shards that a sentence names; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Samples and packs of the windows that were looked at, counted."""

    samples: int
    kept: int  # samples of which at least a part is in a pack
    dropped: Mapping[str, int]  # code -> samples; of cut ones also parts that no pack can hold
    shortened: int  # kept with fewer frames, or without their end
    split: int  # kept in several parts
    without_media: int  # kept, and show no picture or video
    packs: int
    packs_without_media: int
    largest: tuple[int, int]  # text tokens of the longest sample, tiles of that with the most


def count_shares(windows: Sequence[Window]) -> Shares:
    """Count what becomes of the samples of some windows."""
    dropped: Counter[str] = Counter()
    for window in windows:
        dropped.update(window.dropped)
    packs = [pack for window in windows for pack in window.packs]
    planned = [sample for pack in packs for sample in pack]
    parts = Counter((sample.source, sample.epoch, sample.index) for sample in planned)
    cut = {(s.source, s.epoch, s.index) for s in planned if s.excerpt.code}
    with_media = {(s.source, s.epoch, s.index) for s in planned if s.tiles}
    split = sum(count > 1 for count in parts.values())
    return Shares(
        samples=sum(window.samples for window in windows),
        kept=len(parts),
        dropped=dict(sorted(dropped.items())),
        shortened=len(cut) - split,
        split=split,
        without_media=len(parts) - len(with_media),
        packs=len(packs),
        packs_without_media=sum(not any(sample.tiles for sample in pack) for pack in packs),
        largest=(
            max((window.largest[0] for window in windows), default=0),
            max((window.largest[1] for window in windows), default=0),
        ),
    )


def describe_shares(shares: Shares, run: RunConfig) -> Iterator[str]:
    """Yield lines about what is lost, and the settings that would keep it."""
    if shares.dropped:
        lost = _share(shares.samples - shares.kept, shares.samples)
        yield f"dropped: {lost} of the samples, {', '.join(_reasons(shares.dropped, run))}"
        yield from _advice(shares, run)
    else:
        yield "nothing is dropped"
    yield (
        f"split into several parts: {_share(shares.split, shares.samples)}, shortened: "
        f"{_share(shares.shortened, shares.samples)}, without pictures or videos: "
        f"{_share(shares.without_media, shares.samples)}"
    )
    idle = shares.packs_without_media
    if idle and not run.learns_from_text:
        yield (
            f"{_share(idle, shares.packs)} of the packs have no picture or video and teach "
            "nothing: leave samples of text alone out, or set stage.trainable.language_model=true"
        )


def _share(part: int, total: int) -> str:
    return f"{part / max(total, 1):.1%}"


def _reasons(dropped: Mapping[str, int], run: RunConfig) -> Iterator[str]:
    reasons = {
        "E401": f"text over pack.text_tokens={run.pack.text_tokens}",
        "E402": f"tiles over pack.tiles={run.pack.tiles}",
        "E403": "a part that fits no pack",
        "E204": "a part that teaches nothing",
        QUARANTINED: "named in data.quarantine",
    }
    for code, count in dropped.items():
        yield f"{code} {count:,} ({reasons.get(code, 'invalid: owl data lint names them')})"


def _advice(shares: Shares, run: RunConfig) -> Iterator[str]:
    """Which settings would keep what is over a budget."""
    budgets = {
        "E401": ("pack.text_tokens", run.pack.text_tokens, shares.largest[0]),
        "E402": ("pack.tiles", run.pack.tiles, shares.largest[1]),
    }
    raised = [
        f"{name}={most}"
        for name, budget, most in budgets.values()
        if most > budget and shares.dropped.keys() & {*budgets, "E403"}
    ]
    if not raised:
        return
    policies = {source.oversize or run.data.oversize for source in run.data.sources.values()}
    can_cut = OversizePolicy.drop in policies and shares.dropped.keys() & {*budgets}
    cutting = (
        "data.oversize=split cuts documents into parts that fit and chats after an answer, "
        "truncate keeps the start of each sample; or "
    )
    yield f"  to keep them: {cutting if can_cut else ''}{' '.join(raised)} holds every sample whole"


def unlisted_shards(plan: Plan) -> Iterator[str]:
    """Yield a sentence for each source with shards that its dataset.json does not list."""
    for source in plan.sources:
        files = unlisted_files(source.dataset)
        if files:
            location = source.dataset.storage.location
            yield f"data.sources.{source.name}: {unlisted_sentence(files, location)}"


def unlisted_files(dataset: Dataset) -> list[str]:
    """Shards of a local folder that its dataset.json does not list: added later, or broken."""
    if not isinstance(dataset.storage, LocalFolder):
        return []  # listing a bucket may take long
    names = (path.name for path in dataset.folder.glob("*.tar"))
    return sorted(name for name in names if name not in dataset.listed)


def unlisted_sentence(files: Sequence[str], location: str) -> str:
    """Say which shards of a folder are not used, and what to do."""
    named = ", ".join(files[:NAMED_SHARDS])
    more = f" and {len(files) - NAMED_SHARDS:,} more" if len(files) > NAMED_SHARDS else ""
    return (
        f"{len(files):,} shard(s) of {location} are not in its dataset.json and not used: "
        f"{named}{more}. They were added later, or are broken: owl data prepare {location} adds "
        "what it can and says what is wrong with the rest."
    )
