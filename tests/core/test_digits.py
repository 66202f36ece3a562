"""Decimals that tell means apart, with values by hand."""

from __future__ import annotations

import pytest

from histoxai.core.digits import decimals_for, fixed, signed


@pytest.mark.parametrize(
    ("means", "decimals"),
    [
        ([0.0991, 0.0992, 0.0993], 4),  # the study's, which all read 0.099
        ([0.0991, 0.1028], 3),
        ([0.12341, 0.12343, 0.5], 5),
        ([0.123411, 0.123413], 3),  # five decimals do not tell them apart either
        ([0.123411, 0.123413, 0.12331], 4),  # as many readings as with five
        ([0.5, 0.5, 0.5 + 5e-10], 3),  # one value
        ([0.0995 - 2e-10, 0.0995 + 2e-10], 3),  # one value, whose copies read 0.099 and 0.100
        ([-0.0001, 0.0, 0.0001], 4),
        ([0.2, None, float("nan"), float("inf"), 0.2004], 4),  # 0.200 twice
        ([], 3),
        ([0.1], 3),
    ],
)
def test_the_fewest_decimals_that_tell_values_apart(means: list[float | None], decimals: int) -> None:
    assert decimals_for(means) == decimals
    assert decimals_for(iter(means)) == decimals


def test_numbers_as_they_are_written() -> None:
    assert [fixed(v, decimals_for((0.0991, 0.0992, 0.0993))) for v in (0.0991, 0.0992, 0.0993)] == [
        *("0.0991", "0.0992", "0.0993")
    ]
    assert [fixed(v) for v in (-0.0004, 0.0, -0.0006, None, float("nan"))] == ["0.000", "0.000", "-0.001", "–", "–"]
    assert fixed(-0.00004, 4, "-") == "0.0000"
    assert fixed(None, 4, "-") == "-"
    assert [signed(v) for v in (0.0004, -0.0004, 0.25, -0.25, None)] == ["0.000", "0.000", "+0.250", "-0.250", "–"]
    assert signed(12.34, 1) == "+12.3"
