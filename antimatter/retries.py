"""When a failed request is tried again: exponential backoff and Retry-After (RFC 9110, 10.2.3).

One policy for the hub's HTTP client (data/sources/hub_http.py) and for downloads
(serve/download.py).
"""

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

# Seconds. A server that asks for a longer wait ends the run, because a program that is silent for
# hours cannot be told from one that hangs. The hub's limits reset within 300
LONGEST_WAIT = 600.0


class GaveUp(Exception):
    """No further try: the message says why, for the caller's own error."""


@dataclass
class Backoff:
    """Counts the failed tries of one request and says how long to wait before the next one::

    backoff = Backoff(tries=5)
    while True:
        try:
            return fetch()
        except Broken as error:
            time.sleep(backoff.pause(error.retry_after))
    """

    tries: int  # in a row, before it gives up
    first: float = 1.0  # seconds of the first pause; each pause is twice the one before ...
    longest: float = 60.0  # ... up to this, unless the server asks for more
    failures: int = 0  # in a row

    def pause(self, asked: float = 0.0, *, progressed: bool = False) -> float:
        """Counts a failure and returns the seconds to wait before the next try.

        Args:
            asked: seconds that the server asks to wait, see retry_after().
            progressed: this try brought data before it failed, so the count starts again.

        Raises:
            GaveUp: this was the last try, or the server asks for more than LONGEST_WAIT.
        """
        self.failures = 0 if progressed else self.failures + 1
        if asked > LONGEST_WAIT:
            raise GaveUp(f"the server asks to wait {duration(asked)}")
        if self.failures >= self.tries:
            raise GaveUp(f"failed {self.failures} times in a row")
        return max(asked, min(self.first * 2 ** max(self.failures - 1, 0), self.longest))


def retry_after(header: str, now: float) -> float:
    """Seconds that the header Retry-After asks to wait (RFC 9110, 10.2.3); 0 if it is empty, in the
    past or malformed.

    Args:
        now: seconds since 1970.
    """
    if re.fullmatch(r"\s*[0-9]+\s*", header):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
        # "-0000" is UTC, of an unknown place (RFC 5322, 3.3)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


def duration(seconds: float) -> str:
    """For people, in the largest unit of which there are more than two."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds > 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} seconds"
