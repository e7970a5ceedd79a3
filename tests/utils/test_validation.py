# SPDX-License-Identifier: Apache-2.0
"""Numbers and flags: what counts as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_adversarial.utils.validation import check_flag, check_positive


@pytest.mark.parametrize(
    "number", [2, 2.0, np.int64(2), np.float32(2), np.array(2.0), torch.tensor(2), torch.tensor(2.0)]
)
def test_scalars_of_numpy_and_torch_are_numbers(number: Any) -> None:
    found = check_positive("epsilon", number)
    assert type(found) is float and found == 2.0


@pytest.mark.parametrize("value", ["4", b"4", True, False, np.True_, torch.tensor(True), None, [4], {}])
def test_booleans_and_strings_are_no_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="epsilon must be a finite number >= 0, got ") as caught:
        check_positive("epsilon", value, allow_zero=True)
    assert str(caught.value).endswith(f"got {value!r}.")


def test_a_flag_is_true_or_false() -> None:
    assert check_flag("flag", True) is True and check_flag("flag", np.False_) is False
    for value in ("False", 0, 1, None):
        with pytest.raises(ValueError, match=f"flag must be True or False, got {value!r}."):
            check_flag("flag", value)  # type: ignore[arg-type]
