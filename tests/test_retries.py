"""How long to wait between two tries of a request, and when to give up."""

import pytest

from antimatter import retries
from antimatter.retries import LONGEST_WAIT, Backoff, GaveUp

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
    """RFC 9110, 10.2.3 and 5.6.7. Any other value asks for nothing."""
    assert retries.retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59, "59 seconds"), (600, "10 minutes"), (7200, "120 minutes"), (90_000, "25 hours")],
)
def test_a_duration_has_a_unit_that_suits_it(seconds: float, words: str) -> None:
    assert retries.duration(seconds) == words


def test_more_digits_than_a_float_can_have_are_a_long_time() -> None:
    assert retries.retry_after("9" * 5000, NOW) > LONGEST_WAIT
    assert "hours" in retries.duration(retries.retry_after("9" * 5000, NOW))


def test_each_pause_doubles_up_to_the_longest() -> None:
    backoff = Backoff(tries=10, first=1.0, longest=6.0)
    assert [backoff.pause() for _ in range(5)] == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_the_last_failure_in_a_row_gives_up() -> None:
    backoff = Backoff(tries=3)
    assert [backoff.pause(), backoff.pause()] == [1.0, 2.0]
    with pytest.raises(GaveUp, match="3 times"):
        backoff.pause()


def test_progress_starts_the_count_again() -> None:
    backoff = Backoff(tries=3)
    pauses = [backoff.pause(), backoff.pause(), backoff.pause(progressed=True)]
    assert pauses == [1.0, 2.0, 1.0]
    assert [backoff.pause(), backoff.pause()] == [1.0, 2.0]
    with pytest.raises(GaveUp, match="3 times"):
        backoff.pause()


def test_the_server_may_ask_for_a_longer_pause_within_bounds() -> None:
    backoff = Backoff(tries=5, longest=60.0)
    assert backoff.pause(0.5) == 1.0
    assert backoff.pause(LONGEST_WAIT) == LONGEST_WAIT
    with pytest.raises(GaveUp, match="asks to wait 25 hours"):
        backoff.pause(90_000)
