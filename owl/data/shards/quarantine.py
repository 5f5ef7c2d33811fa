# SPDX-License-Identifier: Apache-2.0
"""The quarantine file: names of samples and of entire shards that a run leaves out.

Each line is `SHARD/KEY` or `SHARD`, as in the messages about bad data; `#` starts a comment. A line
applies to every source that has a shard of that name; one that applies to none is an error.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from owl.data.shards.dataset import Dataset
from owl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What to leave out."""

    shards: frozenset[str]
    keys: Mapping[str, frozenset[str]]  # shard -> keys of its samples

    @property
    def fingerprint(self) -> str:
        """Hash of what is left out; order and comments do not change it."""
        samples = [f"{shard}/{key}" for shard, keys in self.keys.items() for key in keys]
        lines = "\n".join(sorted([*self.shards, *samples]))
        return hashlib.blake2b(lines.encode(), digest_size=8).hexdigest() if lines else ""

    def samples(self, dataset: Dataset) -> frozenset[int]:
        """Return the indices of the quarantined samples of a dataset.

        Raises:
            ConfigError: a shard has no sample of a listed key.
        """
        found: set[int] = set()
        for shard, record in enumerate(dataset.records):
            wanted = self.keys.get(record.file)
            if wanted:
                here = range(dataset.starts[shard], dataset.starts[shard + 1])
                by_key = {dataset.key(sample): sample for sample in here}
                _check_known(record.file, wanted - by_key.keys())
                found.update(by_key[key] for key in wanted)
        return frozenset(found)

    def check_shards(self, listed: Collection[str]) -> None:
        """Raise ConfigError for lines about shards that no source lists, such as typing errors.

        Args:
            listed: file names in the dataset.json of every source.
        """
        unknown = sorted((self.shards | self.keys.keys()) - set(listed))
        if unknown:
            raise ConfigError(
                [
                    f"data.quarantine names the shard {shard}, which no data.sources.NAME.path "
                    "lists in its dataset.json. Correct the line (SHARD or SHARD/KEY, as in the "
                    "messages about bad data), or remove it."
                    for shard in unknown
                ]
            )


NOTHING = Quarantine(frozenset(), {})


def read_quarantine(file: str) -> Quarantine:
    """Read a quarantine file; "" means none. Raises ConfigError if it cannot be read."""
    if not file:
        return NOTHING
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"data.quarantine={file} cannot be read: {error}. Correct the path, or write "
            'data.quarantine="" to leave nothing out.'
        ) from error
    shards: set[str] = set()
    keys: dict[str, set[str]] = defaultdict(set)
    for line in text.splitlines():
        shard, _, key = line.partition("#")[0].strip().partition("/")
        if key:
            keys[shard].add(key)
        elif shard:
            shards.add(shard)
    return Quarantine(frozenset(shards), {shard: frozenset(keys[shard]) for shard in keys})


def _check_known(shard: str, unknown: frozenset[str]) -> None:
    if unknown:
        raise ConfigError(
            f"data.quarantine names {shard}/{min(unknown)}, but the shard has no such sample. "
            "Correct the key: a line is SHARD/KEY, as in the messages about bad samples."
        )
