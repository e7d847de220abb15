import pytest

from antimatter import retries

NOW = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0.0),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("soon", 0.0),
        ("Sun, 09 Sep 2001 01:47:40 GMT", 60.0),
        ("Sun, 09 Sep 2001 01:47:40 -0000", 60.0),
        ("Sunday, 09-Sep-01 01:47:40 GMT", 60.0),
        ("Sun Sep  9 01:47:40 2001", 60.0),
        ("Sun, 09 Sep 2001 01:40:00 GMT", 0.0),
        ("Sun, 99 Sep 2001 01:40:00 GMT", 0.0),
        ("Sun, 09 Sep 99999999 01:40:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_in_each_form_of_the_standard(value: str, seconds: float) -> None:
    """RFC 9110, 10.2.3 and 5.6.7. What is none of them asks for nothing."""
    assert retries.asked(value, NOW) == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59, "59 seconds"), (600, "10 minutes"), (7200, "120 minutes"), (90_000, "25 hours")],
)
def test_a_span_is_named_in_a_unit_that_says_something(seconds: float, words: str) -> None:
    assert retries.span(seconds) == words


def test_more_digits_than_a_number_can_have_are_a_long_time() -> None:
    assert retries.asked("9" * 5000, NOW) > retries.LONGEST
    assert "hours" in retries.span(retries.asked("9" * 5000, NOW))
