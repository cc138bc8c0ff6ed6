"""Names of a header in running text: found however they are written after their first capital."""

from __future__ import annotations

from lingshu.deidentify.names import HeaderNames


def test_a_name_is_found_in_every_spelling_of_its_letters() -> None:
    # Headers often hold capitals alone.
    named = HeaderNames(["MCDONALD^ANNA", "DELACRUZ^JOSE", "SMITH-JONES^MARY", "White^Tom"], [])
    assert (
        named.redact("Mr McDonald's scan, seen by DeLaCruz") == "Mr [NAME]'s scan, seen by [NAME]"
    )
    assert named.redact("Mary Smith-Jones; Mrs Jones") == "[NAME] [NAME]; Mrs [NAME]"
    assert named.redact("White, white matter") == "[NAME], white matter"
