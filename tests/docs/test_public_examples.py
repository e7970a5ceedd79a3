# SPDX-License-Identifier: Apache-2.0
"""Every public class and function shows a ``>>>`` example; ``test_docstring_examples.py`` runs them."""

from __future__ import annotations

import pytest

from tests.docs.public_names import Definition, definition, public_names

#: public names without an example, each with the reason
ALLOWED: dict[str, str] = {}
#: rooms that are not complete yet
UNFINISHED: tuple[str, ...] = ()


def without_example(names: dict[str, Definition]) -> list[str]:
    """The classes and functions, each once, whose text has no example, as ``module.name``."""
    bare = {
        f"{made.module}.{made.name}" for made in names.values() if made.text is not None and ">>> " not in made.text
    }
    return sorted(bare)


def test_every_public_name_has_an_example() -> None:
    finished = {name: made for name, made in public_names().items() if name.split(".")[0] not in UNFINISHED}
    bare = set(without_example(finished))
    assert not bare - set(ALLOWED), "\n".join(sorted(bare - set(ALLOWED)))
    assert not set(ALLOWED) - bare, "these have an example, or are no longer public"


def test_the_names_are_those_that_a_user_imports() -> None:
    names = public_names()
    for name, made in {
        "attacks.PGD": ("monai_adversarial.attacks.recipes.gradient_sign", "PGD"),
        "transforms.MedianDenoiseDict": ("monai_adversarial.purifiers.median", "MedianDenoised"),
        "purifiers.MedianDenoise": ("monai_adversarial.purifiers.median", "MedianDenoise"),
        "data.dicom.read_series": ("monai_adversarial.data.dicom.series", "read_series"),
    }.items():
        assert (names[name].module, names[name].name) == made
    assert names["purifiers.PURIFIERS"].text is None


def test_a_text_without_an_example_is_found() -> None:
    shown, bare = Definition("room.file", "Shown", "What.\n\n>>> 1\n1"), Definition("room.file", "Bare", "What.")
    constant = Definition("room.file", "LIMIT", None)
    assert without_example({"a": shown, "b": bare, "B": bare, "c": constant}) == ["room.file.Bare"]


def test_a_name_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(LookupError, match="has no Nothing"):
        definition("monai_adversarial.purifiers", "Nothing")
