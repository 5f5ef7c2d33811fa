# SPDX-License-Identifier: Apache-2.0
"""A folder or a variant finds its family; an unknown one gets the list of those that exist."""

from pathlib import Path

import pytest

from owl.config.choices import FamilyKind
from owl.convert.export_part import Part
from owl.convert.families import PUBLISHED, family_of_folder, family_of_variant
from owl.errors import CheckpointError


def test_every_family_has_a_published_form_that_can_be_exported_completely():
    assert set(PUBLISHED) == set(FamilyKind)
    assert all(Part.complete in family.PARTS for family in PUBLISHED.values())


def test_no_variant_belongs_to_two_families():
    variants = [name for family in PUBLISHED.values() for name in family.VARIANTS]

    assert len(set(variants)) == len(variants)
    for kind, family in PUBLISHED.items():
        assert all(family_of_variant(name) is family for name in family.VARIANTS), kind


def test_a_folder_is_claimed_by_its_model_type():
    config = {"model_type": "mplugowl3"}

    assert family_of_folder(config, [], Path("folder")) is PUBLISHED[FamilyKind.owl3]


def test_an_unknown_folder_gets_the_list_of_families():
    with pytest.raises(
        CheckpointError, match=r"model_type='llava', .*: owl3, owl2, owl1\. .*convert init"
    ):
        family_of_folder({"model_type": "llava"}, [], Path("folder"))


def test_an_unknown_variant_gets_the_list_of_variants():
    with pytest.raises(CheckpointError, match=r"--variant 1 is none of 240728, 241014, 241101"):
        family_of_variant("1")
